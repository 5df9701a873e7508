//! V2 over HTTP: the JSON object of an inference request, with its data in JSON or, in the binary extension, behind it.
//!
//! Data is checked and counted, not parsed. A tensor in the model server's shared memory keeps its place without data.

use std::str::FromStr;

use bytes::Bytes;

use super::{
    binary::Chunks,
    decode::{NAME, check_count, unique},
    v1::{not_an_object, parameters},
};
use crate::infer::{
    Datatype, Decoded, Error, Protocol, Shape,
    decoded::{
        Data, Layout, Parameter, Present, Span, Tensor, Text,
        json::{self, Scanner},
        shown,
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
        Decoded { protocol, body, tensors: self.tensors, parameters, layout }
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
                let tensor = tensor(json, scanner, self.tensors.len(), chunks)?;
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
        } else {
            scanner.value()?;
        }
        Ok(())
    }
}

/// A tensor's members as they come.
#[derive(Default)]
struct Members {
    name: Option<Text>,
    datatype: Option<Text>,
    shape: Option<Shape>,
    data: Option<(Span, usize)>,
    binary: Option<usize>,
    shared: bool,
}

fn tensor(json: &[u8], scanner: &mut Scanner<'_>, index: usize, chunks: &mut Chunks<'_>) -> Result<Tensor, Error> {
    if scanner.peek() != Some(b'{') {
        scanner.value()?;
        return Err(Error::invalid(format!("inputs[{index}] must be an object")));
    }
    let mut members = Members::default();
    let span = scanner.object(|scanner, key| members.member(json, scanner, index, key))?;
    members.tensor(json, span, index, chunks)
}

impl Members {
    fn member(&mut self, json: &[u8], scanner: &mut Scanner<'_>, index: usize, key: Text) -> Result<(), Error> {
        let known = if key.escaped { key.get(json) } else { String::from_utf8_lossy(key.span.of(json)) };
        let twice = match known.as_ref() {
            "name" => self.name.replace(scanner.text("a tensor's name")?).is_some(),
            "datatype" => self.datatype.replace(scanner.text("a tensor's datatype")?).is_some(),
            "shape" => self.shape.replace(shape(json, scanner, index)?).is_some(),
            "data" => self.data.replace(data(scanner, index)?).is_some(),
            "parameters" if scanner.peek() == Some(b'{') => {
                self.parameters(json, scanner, index)?;
                false
            }
            _ => {
                scanner.value()?;
                false
            }
        };
        if twice { Err(Error::invalid(format!("inputs[{index}]: duplicate key {known:?}"))) } else { Ok(()) }
    }

    fn parameters(&mut self, json: &[u8], scanner: &mut Scanner<'_>, index: usize) -> Result<(), Error> {
        scanner.object(|scanner, key| {
            let value = scanner.span()?;
            if key.is(json, "binary_data_size") {
                let size = std::str::from_utf8(value.of(json)).ok().and_then(|text| usize::from_str(text).ok());
                let Some(size) = size else {
                    return Err(Error::invalid(format!(
                        "inputs[{index}].parameters.binary_data_size must be a whole number of bytes"
                    )));
                };
                if self.binary.replace(size).is_some() {
                    return Err(Error::invalid(format!("inputs[{index}]: duplicate parameter \"binary_data_size\"")));
                }
            }
            self.shared |= key.is(json, "shared_memory_region");
            Ok(())
        })?;
        Ok(())
    }

    fn tensor(self, json: &[u8], span: Span, index: usize, chunks: &mut Chunks<'_>) -> Result<Tensor, Error> {
        let missing = |what: &str| Error::invalid(format!("inputs[{index}]: {what} is missing"));
        let name = self.name.ok_or_else(|| missing("name"))?;
        let text = name.get(json);
        let text = shown(&text, NAME);
        let datatype = self.datatype.ok_or_else(|| missing("datatype"))?;
        let datatype = parse_datatype(text, &datatype.get(json))?;
        let shape = self.shape.ok_or_else(|| missing("shape"))?;
        let data = match (self.data, self.binary) {
            (Some((span, count)), None) => {
                check_count(text, datatype, &shape, count)?;
                Data::Json(span)
            }
            (None, Some(size)) => chunks.take(text, datatype, &shape, size)?,
            (None, None) if self.shared => Data::Elsewhere,
            (None, None) => return Err(Error::invalid(format!("tensor {text:?}: data is missing"))),
            (Some(_), Some(_)) => {
                return Err(Error::invalid(format!("tensor {text:?}: data and binary_data_size exclude each other")));
            }
        };
        Ok(Tensor { span, name, datatype, shape, data })
    }
}

fn parse_datatype(name: &str, text: &str) -> Result<Datatype, Error> {
    shown(text, NAME).parse().map_err(|error| Error::invalid(format!("tensor {name:?}: {error}")))
}

fn shape(json: &[u8], scanner: &mut Scanner<'_>, index: usize) -> Result<Shape, Error> {
    let wrong = || Error::invalid(format!("inputs[{index}].shape must be an array of whole numbers"));
    if scanner.peek() != Some(b'[') {
        scanner.value()?;
        return Err(wrong());
    }
    let mut shape = Shape::new();
    scanner.array(|scanner| {
        let raw = scanner.span()?.of(json);
        shape.push(std::str::from_utf8(raw).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?);
        Ok(())
    })?;
    Ok(shape)
}

fn data(scanner: &mut Scanner<'_>, index: usize) -> Result<(Span, usize), Error> {
    if scanner.peek() != Some(b'[') {
        scanner.value()?;
        return Err(Error::invalid(format!("inputs[{index}].data must be an array")));
    }
    let start = scanner.at();
    let count = scanner.value()?;
    Ok((Span::new(start, scanner.at()), count))
}
