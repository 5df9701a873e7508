//! V2 over HTTP: the JSON object of an inference request, with its data in JSON or, in the binary extension, behind it.
//!
//! Data is checked and counted, not parsed. A tensor in the model server's shared memory keeps its place without data.

use bytes::Bytes;
use smallvec::smallvec;

use super::v1::{not_an_object, parameters};
use crate::infer::{
    Decoded, Error, Protocol,
    decoded::{
        Id, Layout, Parameter, Place, Present, Side, Span, Tensor, Text,
        check::unique,
        json::{self, Scanner},
        member_span,
        tensor_json::{Chunks, tensor},
    },
};

pub(super) fn decode(body: Bytes) -> Result<Decoded, Error> {
    let read = object(&body, &mut Chunks::none())?;
    Ok(read.decoded(Protocol::V2Json, body))
}

/// The JSON part of a request.
pub(super) struct Request {
    json: usize,
    keys: Vec<Text>,
    inputs: Option<Span>,
    tensors: Vec<Tensor>,
    parameters: Option<(Span, Vec<Parameter>)>,
    id: Id,
    outputs: Option<Span>,
    open: usize,
}

impl Request {
    pub(super) fn decoded(self, protocol: Protocol, body: Bytes) -> Decoded {
        let (span, parameters) = self.parameters.map_or((None, Vec::new()), |(span, list)| (Some(span), list));
        let (inputs, present) = match self.inputs {
            Some(inputs) => (inputs, Present::Yes),
            None => {
                let present = if self.keys.is_empty() { Present::Empty } else { Present::No };
                (Span::new(self.open, self.open), present)
            }
        };
        let layout = Layout::V2 { json: self.json, inputs, present, parameters: span };
        Decoded { protocol, body, tensors: self.tensors, parameters, id: self.id, outputs: self.outputs, layout }
    }
}

/// Reads the JSON object that `json` is; binary data is taken from `chunks`.
pub(super) fn object(json: &[u8], chunks: &mut Chunks<'_>) -> Result<Request, Error> {
    json::utf8(json)?;
    let mut scanner = Scanner::new(json);
    scanner.space();
    if scanner.peek() != Some(b'{') {
        return Err(not_an_object(&mut scanner));
    }
    let mut read = Request {
        json: json.len(),
        keys: Vec::new(),
        inputs: None,
        tensors: Vec::new(),
        parameters: None,
        id: Id::default(),
        outputs: None,
        open: scanner.at() + 1,
    };
    scanner.object(|scanner, key| read.member(json, scanner, chunks, key))?;
    scanner.end()?;
    unique("key at the top level", json, read.keys.iter())?;
    unique("tensor name", json, read.tensors.iter().map(|tensor| &tensor.name))?;
    if let Some((_, list)) = &read.parameters {
        unique("parameter", json, list.iter().map(|parameter| &parameter.key))?;
    }
    Ok(read)
}

impl Request {
    fn member(
        &mut self,
        json: &[u8],
        scanner: &mut Scanner<'_>,
        chunks: &mut Chunks<'_>,
        key: Text,
    ) -> Result<(), Error> {
        self.keys.push(key);
        if key.is(json, "inputs") {
            if scanner.peek() != Some(b'[') {
                scanner.value()?;
                return Err(Error::invalid("\"inputs\" must be an array of tensors"));
            }
            self.inputs = Some(scanner.array(|scanner| {
                let tensor = tensor(json, scanner, Place(Side::Inputs, self.tensors.len()), chunks)?;
                self.tensors.push(tensor);
                Ok(())
            })?);
        } else if key.is(json, "parameters") {
            // Some clients write null for what they do not set.
            match scanner.peek() {
                Some(b'{') => self.parameters = Some(parameters(scanner)?),
                Some(b'n') => drop(scanner.value()?),
                _ => {
                    scanner.value()?;
                    return Err(Error::invalid("\"parameters\" must be an object"));
                }
            }
        } else if key.is(json, "id") {
            let value = scanner.span()?;
            self.id = Id { value: string(json, value), records: smallvec![member_span(key, value)] };
        } else if key.is(json, "outputs") {
            self.outputs = Some(scanner.span()?);
        } else {
            scanner.value()?;
        }
        Ok(())
    }
}

/// The inside of a JSON string; `None`: the value is something else, which the model may make of what it likes.
fn string(json: &[u8], value: Span) -> Option<Text> {
    let raw = value.of(json);
    raw.starts_with(b"\"").then(|| Text {
        span: Span::new(value.start() + 1, value.end() - 1),
        escaped: memchr::memchr(b'\\', raw).is_some(),
    })
}
