//! gRPC: `ModelInferRequest` from its wire format to ranges, without generated code.
//!
//! Fields are taken in whatever order they come; unknown ones are kept. As in every protobuf parser the last of a singular
//! field counts. Tensors carry their data in `contents` or all of them in `raw_input_contents`; both is an error.

use bytes::Bytes;

pub use crate::infer::decoded::frame::{FRAME, frame, unframe};
use crate::infer::{
    Decoded, Error, Protocol,
    decoded::{
        Form, Id, Layout, Parameter, Place, Side, Span, Text,
        check::unique,
        tensor_proto::{Input, input, pair_raw, parameter, text, utf8, with_contents},
        wire::{self, Fault, Field, Fields},
    },
};

/// Which model a message asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelRef<'a> {
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
pub fn model_of(head: &[u8], length: usize) -> Result<Option<ModelRef<'_>>, Error> {
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
        Some(name) => Ok(Some(ModelRef { name, version: version.filter(|version| !version.is_empty()) })),
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
    id: Id,
    inputs: Vec<Input>,
    raw: Vec<(Span, Span)>,
}

pub(super) fn decode(body: Bytes) -> Result<Decoded, Error> {
    let mut read = Message::default();
    let mut fields = Fields::all(&body);
    while let Some(field) = fields.next()? {
        read.field(&body, &field)?;
    }
    let form = read.form();
    let tensors = match form {
        Form::Raw => pair_raw(&body, Side::Inputs, read.inputs, &read.raw)?,
        Form::Contents => read.inputs.into_iter().map(|input| with_contents(&body, input)).collect::<Result<_, _>>()?,
    };
    unique("tensor name", &body, tensors.iter().map(|tensor| &tensor.name))?;
    unique("parameter", &body, read.parameters.iter().map(|parameter| &parameter.key))?;
    let layout = Layout::Grpc { model: read.model, form };
    let (parameters, id) = (read.parameters, read.id);
    Ok(Decoded { protocol: Protocol::Grpc, tensors, parameters, id, outputs: None, layout, body })
}

impl Message {
    fn field(&mut self, body: &[u8], field: &Field) -> Result<(), Error> {
        match field.number {
            1 => {
                utf8("model_name", body, text(field)?)?;
                self.model.push(field.span);
            }
            2 => drop(utf8("model_version", body, text(field)?)?),
            3 => {
                let span = text(field)?;
                utf8("id", body, span)?;
                self.id.value = (span.len() > 0).then_some(Text { span, escaped: false });
                self.id.records.push(field.span);
            }
            4 => self.parameters.push(parameter(body, field)?),
            5 => self.inputs.push(input(body, field, Place(Side::Inputs, self.inputs.len()))?),
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

#[cfg(test)]
mod tests;
