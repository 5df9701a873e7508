//! gRPC: the five-byte frame, and `ModelInferRequest` from its wire format to ranges, without generated code.
//!
//! Fields are taken in whatever order they come; unknown ones are kept. As in every protobuf parser the last of a singular
//! field counts. Tensors carry their data in `contents` or all of them in `raw_input_contents`; both is an error.

use bytes::{BufMut, Bytes, BytesMut};

use super::decode::{NAME, check_count, check_raw, elements, gunzip, unique};
use crate::infer::{
    Datatype, Decoded, Error, Kind, Protocol, Shape,
    decoded::{
        Data, Form, Layout, Parameter, Span, Tensor, Text,
        scalar::Contents,
        shown,
        wire::{self, Fault, Field, Fields, Wire},
    },
};

/// Bytes before a message: a flag and the length.
pub const FRAME: usize = 5;

/// The one message of a unary request, without its frame and decompressed. `encoding` is the `grpc-encoding` header.
///
/// # Errors
/// Not exactly one message, an encoding other than `identity` and `gzip`, or a message over `limit` bytes.
pub fn unframe(body: Bytes, encoding: Option<&str>, limit: u64) -> Result<Bytes, Error> {
    let Some(&[flag, a, b, c, d]) = body.first_chunk::<FRAME>() else {
        let size = body.len();
        return Err(Error::invalid(format!("invalid gRPC message: {size} bytes, a frame begins with {FRAME}")));
    };
    let (length, found) = (u32::from_be_bytes([a, b, c, d]) as usize, body.len() - FRAME);
    if length as u64 > limit {
        return Err(Error::new(Kind::TooLarge, format!("the message has {length} bytes, over the limit of {limit}")));
    }
    if length != found {
        return Err(Error::invalid(format!(
            "invalid gRPC message: the frame says {length} bytes, {found} follow; allowed: exactly one message"
        )));
    }
    let message = body.slice(FRAME..);
    match (flag, encoding) {
        (0, _) => Ok(message),
        (1, Some("gzip")) => gunzip(message, limit),
        (1, None | Some("identity")) => {
            Err(Error::invalid("invalid gRPC message: marked as compressed, without a grpc-encoding"))
        }
        (1, Some(other)) => Err(Error::new(
            Kind::Unimplemented,
            format!("grpc-encoding {other:?} cannot be read; allowed: identity, gzip"),
        )),
        (flag, _) => Err(Error::invalid(format!("invalid gRPC message: the frame's flag is {flag}; allowed: 0, 1"))),
    }
}

/// The message behind an uncompressed frame.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(FRAME + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("a message over 4 GiB is refused when it is read"));
    out.put_slice(message);
    out.freeze()
}

/// Which model a message asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Field 1, `model_name`.
    pub name: &'a str,
    /// Field 2, `model_version`; `None` where absent or empty.
    pub version: Option<&'a str>,
}

/// Reads which model is asked from `head`, the front of a message of `length` bytes, so that a long message need not be held.
/// `None`: the head does not tell yet, more bytes are needed.
///
/// Of a whole message the last `model_name` and `model_version` count. Of a front, the answer is given once the name was read
/// and something behind it: its version, or a field that encoders write later, after which none is expected.
///
/// # Errors
/// The front is no protobuf message, a name is not UTF-8, or the whole message has no model name.
pub fn model_of(head: &[u8], length: usize) -> Result<Option<Asked<'_>>, Error> {
    let head = &head[..head.len().min(length)];
    let mut fields = Fields::all(head);
    let (mut name, mut version, mut later) = (None, None, false);
    loop {
        match fields.next() {
            Ok(Some(field)) => match field.number {
                1 => name = Some(utf8("model_name", head, text(&field)?)?),
                2 => version = Some(utf8("model_version", head, text(&field)?)?),
                _ => later |= name.is_some(),
            },
            Ok(None) if head.len() == length => break,
            Err(Fault::Short(_)) if head.len() < length => {
                // The field that is cut short counts as one behind the name, unless it is the version itself.
                later |= name.is_some() && cut_is_later(head, &fields);
                if version.is_some() && name.is_some() || later {
                    break;
                }
                return Ok(None);
            }
            Ok(None) if name.is_some() && (version.is_some() || later) => break,
            Ok(None) => return Ok(None),
            Err(fault) => return Err(fault.into()),
        }
    }
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Ok(Some(Asked { name, version: version.filter(|version| !version.is_empty()) })),
        None => Err(Error::invalid("model_name is missing")),
    }
}

fn cut_is_later(head: &[u8], fields: &Fields<'_>) -> bool {
    wire::varint(&head[fields.at()..]).is_ok_and(|(tag, _)| tag >> 3 > 2)
}

/// A message's parts as they come.
#[derive(Default)]
struct Message {
    model: Vec<Span>,
    parameters: Vec<Parameter>,
    inputs: Vec<Input>,
    raw: Vec<(Span, Span)>,
}

/// An `InferInputTensor`.
struct Input {
    span: Span,
    message: Span,
    name: Text,
    datatype: Datatype,
    shape: Shape,
    contents: bool,
    shared: bool,
}

pub(super) fn decode(body: Bytes) -> Result<Decoded, Error> {
    let mut read = Message::default();
    let mut fields = Fields::all(&body);
    while let Some(field) = fields.next()? {
        read.field(&body, &field)?;
    }
    let form = read.form();
    let tensors = match form {
        Form::Raw => pair_raw(&body, read.inputs, &read.raw)?,
        Form::Contents => read.inputs.into_iter().map(|input| with_contents(&body, input)).collect::<Result<_, _>>()?,
    };
    unique("tensor name", &body, tensors.iter().map(|tensor| &tensor.name))?;
    unique("parameter", &body, read.parameters.iter().map(|parameter| &parameter.key))?;
    let layout = Layout::Grpc { model: read.model, form };
    Ok(Decoded { protocol: Protocol::Grpc, tensors, parameters: read.parameters, layout, body })
}

impl Message {
    fn field(&mut self, body: &[u8], field: &Field) -> Result<(), Error> {
        match field.number {
            1 => {
                utf8("model_name", body, text(field)?)?;
                self.model.push(field.span);
            }
            2 => drop(utf8("model_version", body, text(field)?)?),
            3 => drop(utf8("id", body, text(field)?)?),
            4 => self.parameters.push(parameter(body, field)?),
            5 => self.inputs.push(input(body, field, self.inputs.len())?),
            7 => self.raw.push((text(field)?, field.span)),
            _ => {}
        }
        Ok(())
    }

    fn form(&self) -> Form {
        let carried = self.inputs.iter().any(|input| !input.shared);
        if carried && self.raw.is_empty() { Form::Contents } else { Form::Raw }
    }
}

fn text(field: &Field) -> Result<Span, Fault> {
    match field.value {
        Wire::Bytes(span) => Ok(span),
        _ => Err(Fault::Wrong(field.span.start(), "a field has the wrong wire type")),
    }
}

fn utf8<'a>(what: &str, body: &'a [u8], span: Span) -> Result<&'a str, Error> {
    std::str::from_utf8(span.of(body)).map_err(|error| {
        let at = span.start() + error.valid_up_to();
        Error::invalid(format!("invalid gRPC message at byte {at}: {what} is not valid UTF-8"))
    })
}

/// An entry of `map<string, InferParameter>`.
fn parameter(body: &[u8], field: &Field) -> Result<Parameter, Error> {
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

fn input(body: &[u8], field: &Field, index: usize) -> Result<Input, Error> {
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
    let missing = |what: &str| Error::invalid(format!("inputs[{index}]: {what} is missing"));
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

fn pair_raw(body: &[u8], inputs: Vec<Input>, raw: &[(Span, Span)]) -> Result<Vec<Tensor>, Error> {
    let carried = inputs.iter().filter(|input| !input.shared).count();
    if carried != raw.len() {
        let found = raw.len();
        return Err(Error::invalid(format!("raw_input_contents has {found} entries for {carried} inputs")));
    }
    let mut raw = raw.iter();
    let mut tensors = Vec::with_capacity(inputs.len());
    for input in inputs {
        let name = shown(utf8("a tensor's name", body, input.name.span)?, NAME);
        if input.contents {
            return Err(Error::invalid(format!("tensor {name:?}: contents and raw_input_contents exclude each other")));
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

fn with_contents(body: &[u8], input: Input) -> Result<Tensor, Error> {
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

#[cfg(test)]
mod tests;
