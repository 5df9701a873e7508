//! KServe V1: `{"instances": […]}`, one instance an object, an array or a scalar.
//!
//! Keeps where every instance and every member of an instance lies. TensorFlow's columnar `inputs` is refused in words.

use bytes::Bytes;

use crate::infer::{
    Decoded, Error, Protocol,
    decoded::{
        Id, Instances, Layout, Parameter, Span, Text,
        check::unique,
        json::{self, Scanner},
        member_span,
    },
};

/// What a body's members add up to.
#[derive(Default)]
struct Body {
    keys: Vec<Text>,
    instances: Option<Instances>,
    parameters: Option<(Span, Vec<Parameter>)>,
}

pub(super) fn decode(body: Bytes) -> Result<Decoded, Error> {
    json::utf8(&body)?;
    let mut scanner = Scanner::new(&body);
    let mut read = Body::default();
    scanner.space();
    if scanner.peek() != Some(b'{') {
        return Err(not_an_object(&mut scanner));
    }
    scanner.object(|scanner, key| read.member(&body, scanner, key))?;
    scanner.end()?;
    unique("key at the top level", &body, read.keys.iter())?;
    let Some(instances) = read.instances else {
        return Err(Error::invalid("\"instances\" is missing; allowed: {\"instances\": […]}"));
    };
    let (span, parameters) = read.parameters.map_or((None, Vec::new()), |(span, list)| (Some(span), list));
    unique("parameter", &body, parameters.iter().map(|parameter| &parameter.key))?;
    let layout = Layout::V1 { instances, parameters: span };
    Ok(Decoded {
        protocol: Protocol::V1,
        body,
        tensors: Vec::new(),
        parameters,
        id: Id::default(),
        outputs: None,
        layout,
    })
}

/// What is wrong with a body that does not begin with a brace.
pub(super) fn not_an_object(scanner: &mut Scanner<'_>) -> Error {
    match scanner.value().and_then(|_| scanner.end()) {
        Err(malformed) => malformed,
        Ok(()) => Error::invalid("the body must be a JSON object"),
    }
}

impl Body {
    fn member(&mut self, body: &[u8], scanner: &mut Scanner<'_>, key: Text) -> Result<(), Error> {
        self.keys.push(key);
        if key.is(body, "instances") {
            if scanner.peek() != Some(b'[') {
                scanner.value()?;
                return Err(Error::invalid("\"instances\" must be an array"));
            }
            self.instances = Some(Instances::read(scanner)?);
        } else if key.is(body, "inputs") {
            scanner.value()?;
            return Err(Error::invalid(
                "\"inputs\" (TensorFlow's columnar format) cannot be joined; allowed: {\"instances\": […]}",
            ));
        } else if key.is(body, "parameters") && scanner.peek() == Some(b'{') {
            self.parameters = Some(parameters(scanner)?);
        } else {
            scanner.value()?;
        }
        Ok(())
    }
}

/// Reads a `parameters` object.
pub(super) fn parameters(scanner: &mut Scanner<'_>) -> Result<(Span, Vec<Parameter>), Error> {
    let mut list = Vec::new();
    let span = scanner.object(|scanner, key| {
        let value = scanner.span()?;
        list.push(Parameter { key, span: member_span(key, value), value });
        Ok(())
    })?;
    Ok((span, list))
}
