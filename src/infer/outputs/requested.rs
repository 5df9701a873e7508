//! What a request says about its answer: the id that it carries, the outputs that it has, and how they travel.
//!
//! Read only when Weir answers by itself; where a model answers, the model reads it.

use std::borrow::Cow;

use super::Output;
use crate::infer::{
    Decoded, Error, Kind, Protocol,
    decoded::{
        Scalar, Span,
        json::Scanner,
        tensor_proto::{parameter, text, utf8},
        wire::Fields,
    },
};

/// A request's wishes. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedOutputs {
    /// The request's own id.
    id: Option<String>,
    outputs: Vec<Wanted>,
    /// V2 over HTTP: whether outputs that say nothing travel as binary data (`binary_data_output`).
    binary: bool,
}

/// One entry of a request's `outputs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    binary: Option<bool>,
    /// It is to be written into the caller's shared memory.
    shared: bool,
}

impl RequestedOutputs {
    /// Reads them out of a request. A list of outputs that cannot be understood is as good as none: no model would have answered
    /// it.
    #[must_use]
    pub fn of(decoded: &Decoded) -> Self {
        let outputs = match (decoded.protocol, decoded.outputs) {
            (Protocol::Grpc, _) => from_message(&decoded.body),
            (_, Some(span)) => from_json(span.of(&decoded.body)),
            (_, None) => Ok(Vec::new()),
        };
        let binary = decoded.parameter("binary_data_output");
        Self {
            id: decoded.id.value.map(|id| id.get(&decoded.body).into_owned()),
            outputs: outputs.unwrap_or_default(),
            binary: binary.is_some_and(|parameter| decoded.parameter_value(parameter) == Scalar::Bool(true)),
        }
    }

    /// The request's own id.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The outputs that the answer has: those that were asked for, in the order they were, where all of them are known; else
    /// all.
    ///
    /// # Errors
    /// The caller reads an output from shared memory, which only the model server can write: it would take what lies there for
    /// an answer.
    pub fn select<'o>(&self, outputs: &'o [Output]) -> Result<Cow<'o, [Output]>, Error> {
        if let Some(wanted) = self.outputs.iter().find(|wanted| wanted.shared) {
            return Err(Error::new(
                Kind::Unavailable,
                format!("output {:?} is asked for in shared memory, which only the model can write", wanted.name),
            ));
        }
        let named = |wanted: &Wanted| outputs.iter().find(|output| output.name() == wanted.name).cloned();
        match self.outputs.iter().map(named).collect::<Option<Vec<_>>>() {
            Some(chosen) if !chosen.is_empty() => Ok(chosen.into()),
            _ => Ok(outputs.into()),
        }
    }

    /// Whether an output travels as binary data behind the JSON: as its entry says, else as the request says, else not.
    pub(super) fn is_binary(&self, name: &str) -> bool {
        let told = self.outputs.iter().find(|wanted| wanted.name == name).and_then(|wanted| wanted.binary);
        told.unwrap_or(self.binary)
    }
}

fn from_json(json: &[u8]) -> Result<Vec<Wanted>, Error> {
    let (mut scanner, mut found) = (Scanner::new(json), Vec::new());
    if scanner.peek() != Some(b'[') {
        return Ok(found);
    }
    scanner.array(|scanner| {
        let mut wanted = Wanted::default();
        if scanner.peek() != Some(b'{') {
            return Err(scanner.fault("expected an object"));
        }
        scanner.object(|scanner, key| match &*key.get(json) {
            "name" => {
                wanted.name = scanner.text("an output's name")?.get(json).into_owned();
                Ok(())
            }
            "parameters" if scanner.peek() == Some(b'{') => wanted.parameters(json, scanner),
            _ => scanner.value().map(drop),
        })?;
        found.push(wanted);
        Ok(())
    })?;
    Ok(found)
}

impl Wanted {
    fn parameters(&mut self, json: &[u8], scanner: &mut Scanner<'_>) -> Result<(), Error> {
        scanner.object(|scanner, key| {
            let value = scanner.span()?;
            if key.is(json, "binary_data") {
                self.binary = Some(value.of(json) == b"true");
            }
            self.shared |= key.is(json, "shared_memory_region");
            Ok(())
        })?;
        Ok(())
    }
}

fn from_message(body: &[u8]) -> Result<Vec<Wanted>, Error> {
    let (mut fields, mut found) = (Fields::all(body), Vec::new());
    while let Some(field) = fields.next()? {
        if field.number == 6 {
            found.push(from_record(body, text(&field)?)?);
        }
    }
    Ok(found)
}

fn from_record(body: &[u8], message: Span) -> Result<Wanted, Error> {
    let (mut fields, mut wanted) = (Fields::new(body, message), Wanted::default());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => wanted.name = utf8("an output's name", body, text(&field)?)?.to_owned(),
            2 => wanted.shared |= parameter(body, &field)?.key.is(body, "shared_memory_region"),
            _ => {}
        }
    }
    Ok(wanted)
}
