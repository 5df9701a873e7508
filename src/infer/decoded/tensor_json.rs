//! A tensor as V2 over HTTP writes it: a JSON object, with its data inside or, in the binary extension, behind all the JSON.
//!
//! Requests' inputs and answers' outputs have the same form; [`Side`] says which one a message names. Data is checked and
//! counted, not parsed. A tensor in the model server's shared memory keeps its place without data.

use std::str::FromStr;

use super::{
    Data, Place, Side, Span, Tensor, Text,
    check::{NAME, check_count, check_raw},
    json::Scanner,
    shown,
};
use crate::infer::{Datatype, Error, Shape};

/// The data behind the JSON, handed out in order.
pub(crate) struct Chunks<'a> {
    body: &'a [u8],
    at: usize,
    allowed: bool,
}

impl<'a> Chunks<'a> {
    /// The JSON at the front of a body, and the data behind it.
    ///
    /// # Errors
    /// The body is shorter than the JSON is said to be.
    pub(crate) fn behind(body: &'a [u8], length: usize) -> Result<(&'a [u8], Self), Error> {
        let Some(json) = body.get(..length) else {
            let size = body.len();
            return Err(Error::invalid(format!(
                "inference-header-content-length is {length}, the body has {size} bytes"
            )));
        };
        Ok((json, Self { body, at: length, allowed: true }))
    }

    /// Checks that everything was taken.
    ///
    /// # Errors
    /// Something is left that no tensor claims.
    pub(crate) fn end(&self, side: Side) -> Result<(), Error> {
        if self.at == self.body.len() {
            return Ok(());
        }
        let (size, claimed, field) = (self.body.len(), self.at, side.field());
        Err(Error::invalid(format!(
            "the JSON and its {field}' binary_data_size add up to {claimed} bytes, the body has {size}"
        )))
    }

    /// For a body without any.
    pub(crate) const fn none() -> Self {
        Self { body: &[], at: 0, allowed: false }
    }

    /// The next `size` bytes, checked against the tensor they belong to.
    pub(crate) fn take(&mut self, name: &str, datatype: Datatype, shape: &[i64], size: usize) -> Result<Data, Error> {
        if !self.allowed {
            return Err(Error::invalid(format!(
                "tensor {name:?}: binary_data_size needs the header inference-header-content-length"
            )));
        }
        let Some(end) = self.at.checked_add(size).filter(|&end| end <= self.body.len()) else {
            let left = self.body.len() - self.at;
            return Err(Error::invalid(format!(
                "tensor {name:?}: binary_data_size is {size}, the body has {left} bytes left"
            )));
        };
        let span = Span::new(self.at, end);
        check_raw(name, datatype, shape, span.of(self.body))?;
        self.at = end;
        Ok(Data::Raw { payload: span, record: span })
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

/// Reads one tensor's object; its place is what an error names it by.
pub(crate) fn tensor(
    json: &[u8],
    scanner: &mut Scanner<'_>,
    place: Place,
    chunks: &mut Chunks<'_>,
) -> Result<Tensor, Error> {
    if scanner.peek() != Some(b'{') {
        scanner.value()?;
        return Err(Error::invalid(format!("{place} must be an object")));
    }
    let mut members = Members::default();
    let span = scanner.object(|scanner, key| members.member(json, scanner, place, key))?;
    members.tensor(json, span, place, chunks)
}

impl Members {
    fn member(&mut self, json: &[u8], scanner: &mut Scanner<'_>, place: Place, key: Text) -> Result<(), Error> {
        let known = if key.escaped { key.get(json) } else { String::from_utf8_lossy(key.span.of(json)) };
        let twice = match known.as_ref() {
            "name" => self.name.replace(scanner.text("a tensor's name")?).is_some(),
            "datatype" => self.datatype.replace(scanner.text("a tensor's datatype")?).is_some(),
            "shape" => self.shape.replace(shape(json, scanner, place)?).is_some(),
            "data" => self.data.replace(data(scanner, place)?).is_some(),
            "parameters" if scanner.peek() == Some(b'{') => {
                self.parameters(json, scanner, place)?;
                false
            }
            _ => {
                scanner.value()?;
                false
            }
        };
        if twice { Err(Error::invalid(format!("{place}: duplicate key {known:?}"))) } else { Ok(()) }
    }

    fn parameters(&mut self, json: &[u8], scanner: &mut Scanner<'_>, place: Place) -> Result<(), Error> {
        scanner.object(|scanner, key| {
            let value = scanner.span()?;
            if key.is(json, "binary_data_size") {
                let size = std::str::from_utf8(value.of(json)).ok().and_then(|text| usize::from_str(text).ok());
                let Some(size) = size else {
                    return Err(Error::invalid(format!(
                        "{place}.parameters.binary_data_size must be a whole number of bytes"
                    )));
                };
                if self.binary.replace(size).is_some() {
                    return Err(Error::invalid(format!("{place}: duplicate parameter \"binary_data_size\"")));
                }
            }
            self.shared |= key.is(json, "shared_memory_region");
            Ok(())
        })?;
        Ok(())
    }

    fn tensor(self, json: &[u8], span: Span, place: Place, chunks: &mut Chunks<'_>) -> Result<Tensor, Error> {
        let missing = |what: &str| Error::invalid(format!("{place}: {what} is missing"));
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

fn shape(json: &[u8], scanner: &mut Scanner<'_>, place: Place) -> Result<Shape, Error> {
    let wrong = || Error::invalid(format!("{place}.shape must be an array of whole numbers"));
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

fn data(scanner: &mut Scanner<'_>, place: Place) -> Result<(Span, usize), Error> {
    if scanner.peek() != Some(b'[') {
        scanner.value()?;
        return Err(Error::invalid(format!("{place}.data must be an array")));
    }
    let start = scanner.at();
    let count = scanner.value()?;
    Ok((Span::new(start, scanner.at()), count))
}
