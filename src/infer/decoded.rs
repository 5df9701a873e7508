//! A body decoded as far as joins need: byte ranges over the held original, never a DOM.
//!
//! Filled in by the decoders of `ingress`; read by `features` (entities) and `enrich` (kept tensors). Every range lies inside
//! `body`, and every tensor's data was counted against its shape when it was decoded, so that readers find no surprise.
//! Values are parsed only when a join or a matrix column reads them.

pub(crate) mod cell;
pub(crate) mod check;
pub mod column;
pub mod frame;
pub(crate) mod half;
pub(crate) mod inflate;
pub(crate) mod instances;
pub(crate) mod json;
#[cfg(test)]
pub(crate) mod proto;
pub(crate) mod scalar;
pub(crate) mod sink;
pub(crate) mod tensor_json;
pub(crate) mod tensor_proto;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
pub(crate) mod writer;

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use smallvec::SmallVec;

pub use column::EntityColumn;
pub(crate) use instances::{Instances, Member, member_span};
pub(crate) use scalar::{Elements, Scalar, shown};

use super::{Datatype, Error, Protocol, Shape};

/// A request body and where its parts lie.
pub struct Decoded {
    pub(crate) protocol: Protocol,
    pub(crate) body: Bytes,
    /// The request's input tensors, in its order; none in V1.
    pub(crate) tensors: Vec<Tensor>,
    /// The request's own parameters (V1: the members of a `parameters` object).
    pub(crate) parameters: Vec<Parameter>,
    /// The request's own id, which its answer carries.
    pub(crate) id: Id,
    /// V2 over HTTP: the value of `outputs`, whatever it is. gRPC's are read from the message.
    pub(crate) outputs: Option<Span>,
    pub(crate) layout: Layout,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoded({}, {} bytes, {} tensors)", self.protocol.name(), self.body.len(), self.tensors.len())
    }
}

/// A range of the body. Bodies of 4 GiB and more are refused before one is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    pub(crate) const fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) const fn end(self) -> usize {
        self.end as usize
    }

    pub(crate) const fn len(self) -> usize {
        self.end() - self.start()
    }

    pub(crate) const fn range(self) -> Range<usize> {
        self.start()..self.end()
    }

    pub(crate) fn of(self, body: &[u8]) -> &[u8] {
        &body[self.range()]
    }
}

/// A name or key in the body, without its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub(crate) span: Span,
    /// Whether it holds JSON escapes.
    pub(crate) escaped: bool,
}

impl Text {
    /// Whether it says `name`.
    pub(crate) fn is(self, body: &[u8], name: &str) -> bool {
        if self.escaped { self.get(body) == name } else { self.span.of(body) == name.as_bytes() }
    }

    /// What it says. Decoders check names, so the replacement of unreadable text never shows.
    pub(crate) fn get(self, body: &[u8]) -> Cow<'_, str> {
        let raw = self.span.of(body);
        if !self.escaped {
            return String::from_utf8_lossy(raw);
        }
        json::unescape(raw).map_or_else(|| String::from_utf8_lossy(raw), Cow::Owned)
    }
}

/// An input tensor of the request.
#[derive(Debug)]
pub(crate) struct Tensor {
    /// The whole of it: the JSON object, or the protobuf record with its tag.
    pub(crate) span: Span,
    pub(crate) name: Text,
    pub(crate) datatype: Datatype,
    pub(crate) shape: Shape,
    pub(crate) data: Data,
}

/// Where a tensor's data lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data {
    /// A JSON array, flat or nested.
    Json(Span),
    /// Little-endian elements; `record` is what goes when the tensor goes (binary: the same, gRPC: with its tag).
    Raw {
        /// The elements.
        payload: Span,
        /// The elements and what frames them.
        record: Span,
    },
    /// In `contents` of this `InferInputTensor` message.
    Contents(Span),
    /// In shared memory of the model server: Weir cannot read it.
    Elsewhere,
}

/// A request parameter.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) key: Text,
    /// The JSON member, or the protobuf record with its tag.
    pub(crate) span: Span,
    /// The JSON value, or the `InferParameter` message.
    pub(crate) value: Span,
}

/// Which way tensors go, for the messages about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A request's.
    Inputs,
    /// An answer's.
    Outputs,
}

impl Side {
    /// The member, or repeated field, that holds them.
    pub(crate) const fn field(self) -> &'static str {
        match self {
            Self::Inputs => "inputs",
            Self::Outputs => "outputs",
        }
    }

    /// The field of raw contents.
    pub(crate) const fn raw(self) -> &'static str {
        match self {
            Self::Inputs => "raw_input_contents",
            Self::Outputs => "raw_output_contents",
        }
    }

    /// That field's number; the tensors' own is 5 on either side.
    pub(crate) const fn raw_field(self) -> u32 {
        match self {
            Self::Inputs => 7,
            Self::Outputs => 6,
        }
    }
}

/// A tensor's place, as errors name it: `inputs[2]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(pub(crate) Side, pub(crate) usize);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0.field(), self.1)
    }
}

/// What a splice needs to know about the body around tensors and parameters.
#[derive(Debug)]
pub(crate) enum Layout {
    /// KServe V1.
    V1 {
        /// The instances.
        instances: Instances,
        /// The `parameters` object.
        parameters: Option<Span>,
    },
    /// V2 JSON, or the JSON at the front of a binary body.
    V2 {
        /// Where the JSON ends.
        json: usize,
        /// The `inputs` array; an empty span after the opening brace where there is none.
        inputs: Span,
        /// Whether the `inputs` array is there.
        present: Present,
        /// The `parameters` object.
        parameters: Option<Span>,
    },
    /// A bare `ModelInferRequest`.
    Grpc {
        /// Every record of `model_name`.
        model: Vec<Span>,
        /// How its tensors carry their data.
        form: Form,
    },
}

/// V2's `id`. Nothing in V1.
#[derive(Debug, Default)]
pub(crate) struct Id {
    /// What it says; `None` where it says nothing, or is no string.
    pub(crate) value: Option<Text>,
    /// The JSON member, or every record of the field with its tag: what a body goes without to be equal to another.
    pub(crate) records: SmallVec<[Span; 1]>,
}

/// Whether a V2 body has an `inputs` member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Present {
    /// It has.
    Yes,
    /// It has not, but other members.
    No,
    /// The object is empty.
    Empty,
}

/// How a gRPC request carries tensor data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// In each tensor's `contents`.
    Contents,
    /// In `raw_input_contents`; also taken where the request carries no data at all, since every server reads it.
    Raw,
}

impl Tensor {
    /// The first dimension; 1 for a scalar.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().map_or(1, |&n| usize::try_from(n).unwrap_or(0))
    }

    /// Its elements, row-major.
    pub(crate) fn elements<'a>(&self, body: &'a [u8]) -> Elements<'a> {
        match self.data {
            Data::Json(span) => Elements::json(span.of(body)),
            Data::Raw { payload, .. } => Elements::raw(self.datatype, payload.of(body)),
            Data::Contents(message) => Elements::contents(self.datatype, message.of(body)),
            Data::Elsewhere => Elements::raw(self.datatype, &[]),
        }
    }
}

impl Decoded {
    /// How many bytes the body has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// How many instances the request has: V1's instances; else the first dimension of the tensors that `sources` name
    /// (join sources and request columns); where those are all parameters, of the request's first tensor; 1 without any.
    ///
    /// # Errors
    /// The tensors disagree, or the one that counts says how many it has and holds nothing: `[1000000, 0]`.
    pub fn rows(&self, sources: &[&str]) -> Result<usize, Error> {
        if let Layout::V1 { instances, .. } = &self.layout {
            return Ok(instances.rows.len());
        }
        let mut first: Option<&Tensor> = None;
        for tensor in sources.iter().filter_map(|name| self.tensor(name)) {
            match first {
                None => first = Some(tensor),
                Some(first) if first.rows() != tensor.rows() => return Err(self.unequal(first, tensor)),
                Some(_) => {}
            }
        }
        match first.or(self.tensors.first()) {
            None => Ok(1),
            Some(tensor) if tensor.rows() > 0 && tensor.shape.contains(&0) => Err(self.uncountable(tensor)),
            Some(tensor) => Ok(tensor.rows()),
        }
    }

    /// Its first dimension costs the caller nothing, so that it counts nothing.
    fn uncountable(&self, tensor: &Tensor) -> Error {
        let (name, shape) = (tensor.name.get(&self.body), &tensor.shape);
        Error::invalid(format!(
            "tensor {name:?}: shape {shape:?} has no elements, so its first dimension cannot say how many rows the request has"
        ))
    }

    fn unequal(&self, a: &Tensor, b: &Tensor) -> Error {
        Error::invalid(format!(
            "unequal rows: tensor {:?} has {}, tensor {:?} has {}; tensors that are joined or become columns have the same first dimension",
            a.name.get(&self.body),
            a.rows(),
            b.name.get(&self.body),
            b.rows(),
        ))
    }

    /// The input tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name.is(&self.body, name))
    }

    /// Whether the request carries `name` a row: as a tensor, or as a key of its first V1 instance. Such a one goes before a
    /// parameter of the same name.
    pub(crate) fn in_rows(&self, name: &str) -> bool {
        if let Layout::V1 { instances, .. } = &self.layout {
            let first = instances.rows.first().and_then(|_| instances.members(0)).unwrap_or_default();
            return first.iter().any(|member| member.key.is(&self.body, name));
        }
        self.tensor(name).is_some()
    }

    /// The request parameter of that name.
    pub(crate) fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.key.is(&self.body, name))
    }

    /// A parameter's value.
    pub(crate) fn parameter_value(&self, parameter: &Parameter) -> Scalar<'_> {
        let raw = parameter.value.of(&self.body);
        if self.protocol == Protocol::Grpc { Scalar::parameter(raw) } else { Scalar::json(raw) }
    }
}
