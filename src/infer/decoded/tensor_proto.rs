//! A tensor as gRPC writes it, from its wire format to ranges, without generated code.
//!
//! `InferInputTensor` and `InferOutputTensor` have the same fields; [`Side`] says which one a message names. Data is in
//! `contents` of each tensor or, for all of them, in the message's raw contents; both is an error.

use super::{
    Data, Parameter, Place, Side, Span, Tensor, Text,
    check::{NAME, check_count, check_raw, elements},
    scalar::Contents,
    shown,
    wire::{self, Fault, Field, Fields, Wire},
};
use crate::infer::{Datatype, Error, Shape};

/// An `InferInputTensor` or `InferOutputTensor`.
pub(crate) struct Input {
    span: Span,
    message: Span,
    pub(crate) name: Text,
    datatype: Datatype,
    shape: Shape,
    contents: bool,
    pub(crate) shared: bool,
}

/// A length-delimited field's value.
pub(crate) fn text(field: &Field) -> Result<Span, Fault> {
    match field.value {
        Wire::Bytes(span) => Ok(span),
        _ => Err(Fault::Wrong(field.span.start(), "a field has the wrong wire type")),
    }
}

/// Checks that a field's value is text; `what` names it in the message.
pub(crate) fn utf8<'a>(what: &str, body: &'a [u8], span: Span) -> Result<&'a str, Error> {
    std::str::from_utf8(span.of(body)).map_err(|error| {
        let at = span.start() + error.valid_up_to();
        Error::invalid(format!("invalid gRPC message at byte {at}: {what} is not valid UTF-8"))
    })
}

/// An entry of `map<string, InferParameter>`.
pub(crate) fn parameter(body: &[u8], field: &Field) -> Result<Parameter, Error> {
    let entry = text(field)?;
    let empty = Span::new(entry.end(), entry.end());
    let (mut key, mut value) = (empty, empty);
    let mut fields = Fields::new(body, entry);
    while let Some(inner) = fields.next()? {
        match inner.number {
            1 => key = text(&inner)?,
            2 => value = text(&inner)?,
            _ => {}
        }
    }
    utf8("a parameter's name", body, key)?;
    let mut fields = Fields::new(body, value);
    while let Some(inner) = fields.next()? {
        if inner.number == 3 {
            utf8("a parameter", body, text(&inner)?)?;
        }
    }
    Ok(Parameter { key: Text { span: key, escaped: false }, span: field.span, value })
}

/// Reads one tensor's message; its place is what an error names it by.
pub(crate) fn input(body: &[u8], field: &Field, place: Place) -> Result<Input, Error> {
    let message = text(field)?;
    let (mut name, mut datatype, mut shape) = (None, None, Shape::new());
    let (mut contents, mut shared) = (false, false);
    let mut fields = Fields::new(body, message);
    while let Some(inner) = fields.next()? {
        match inner.number {
            1 => name = Some(text(&inner)?),
            2 => datatype = Some(text(&inner)?),
            3 => dimensions(body, &inner, &mut shape)?,
            4 => shared |= parameter(body, &inner)?.key.is(body, "shared_memory_region"),
            5 => contents |= text(&inner)?.len() > 0,
            _ => {}
        }
    }
    let missing = |what: &str| Error::invalid(format!("{place}: {what} is missing"));
    let name = name.filter(|name| name.len() > 0).ok_or_else(|| missing("name"))?;
    let told = shown(utf8("a tensor's name", body, name)?, NAME);
    let datatype = utf8("a tensor's datatype", body, datatype.ok_or_else(|| missing("datatype"))?)?;
    let datatype =
        shown(datatype, NAME).parse().map_err(|error| Error::invalid(format!("tensor {told:?}: {error}")))?;
    Ok(Input {
        span: field.span,
        message,
        name: Text { span: name, escaped: false },
        datatype,
        shape,
        contents,
        shared,
    })
}

fn dimensions(body: &[u8], field: &Field, shape: &mut Shape) -> Result<(), Error> {
    match field.value {
        Wire::Varint(dimension) => shape.push(dimension as i64),
        Wire::Bytes(packed) => {
            let mut rest = packed.of(body);
            while !rest.is_empty() {
                let (dimension, length) = wire::varint(rest)
                    .map_err(|_| Fault::Wrong(packed.end() - rest.len(), "a shape ends inside a dimension"))?;
                shape.push(dimension as i64);
                rest = &rest[length..];
            }
        }
        _ => return Err(Fault::Wrong(field.span.start(), "a shape has the wrong wire type").into()),
    }
    Ok(())
}

impl Input {
    fn tensor(self, data: Data) -> Tensor {
        Tensor { span: self.span, name: self.name, datatype: self.datatype, shape: self.shape, data }
    }
}

/// Gives every tensor its entry of the raw contents.
pub(crate) fn pair_raw(
    body: &[u8],
    side: Side,
    inputs: Vec<Input>,
    raw: &[(Span, Span)],
) -> Result<Vec<Tensor>, Error> {
    let carried = inputs.iter().filter(|input| !input.shared).count();
    if carried != raw.len() {
        let found = raw.len();
        return Err(Error::invalid(format!("{} has {found} entries for {carried} {}", side.raw(), side.field())));
    }
    let mut raw = raw.iter();
    let mut tensors = Vec::with_capacity(inputs.len());
    for input in inputs {
        let name = shown(utf8("a tensor's name", body, input.name.span)?, NAME);
        if input.contents {
            return Err(Error::invalid(format!("tensor {name:?}: contents and {} exclude each other", side.raw())));
        }
        let data = if input.shared {
            elements(name, &input.shape)?;
            Data::Elsewhere
        } else {
            let &(payload, record) = raw.next().expect("as many entries as inputs");
            check_raw(name, input.datatype, &input.shape, payload.of(body))?;
            Data::Raw { payload, record }
        };
        tensors.push(input.tensor(data));
    }
    Ok(tensors)
}

/// Checks a tensor whose data is in its `contents`.
pub(crate) fn with_contents(body: &[u8], input: Input) -> Result<Tensor, Error> {
    let name = shown(utf8("a tensor's name", body, input.name.span)?, NAME);
    if input.shared {
        elements(name, &input.shape)?;
        return Ok(input.tensor(Data::Elsewhere));
    }
    let mut contents = Contents::new(input.datatype, input.message.of(body));
    let mut count = 0;
    while let Some(_element) =
        contents.next().map_err(|_| Error::invalid(format!("tensor {name:?}: its contents are malformed")))?
    {
        count += 1;
    }
    check_count(name, input.datatype, &input.shape, count)?;
    let message = input.message;
    Ok(input.tensor(Data::Contents(message)))
}
