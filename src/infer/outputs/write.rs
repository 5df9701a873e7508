//! Outputs as an answer, in the one form of each protocol.
//!
//! ```text
//! V1          {"predictions":[0.5,0.5]}                      one output: an element a row, a list where a row has dimensions
//!             {"predictions":[{"score":0.5,"label":1}]}      several: an object a row
//! V2          {"model_name":"m","model_version":"1","id":"7","outputs":[{"name":"score","datatype":"FP32","shape":[1],"data":[0.5]}]}
//!             binary: …,"shape":[1],"parameters":{"binary_data_size":4}}]}, then the data
//! gRPC        one uncompressed frame of a ModelInferResponse with raw_output_contents
//! ```
//!
//! What a protocol cannot say (a NaN in JSON) is an error in words, never a guess.

use bytes::Bytes;

use super::{Output, RequestedOutputs};
use crate::infer::{
    Error, Kind, Protocol,
    decoded::{
        Elements, Scalar, Side,
        frame::frame,
        sink::{self, Sink, Wire},
        wire,
        writer::{Encoding, Writer, put_json_text},
    },
};

/// What an answer says beside its outputs. V1 says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The model, under the name that it was asked by.
    pub model: &'a str,
    /// Its version, where the caller named one.
    pub version: Option<&'a str>,
    /// What the request wants: its id, and in V2 over HTTP which outputs travel as binary data.
    pub asked: &'a RequestedOutputs,
}

/// An answer's body, and what its headers have to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The body; in gRPC one frame.
    pub body: Bytes,
    /// Where binary data follows the JSON: how long the JSON is (`inference-header-content-length`).
    pub json_length: Option<usize>,
    /// The body's `content-type`.
    pub content_type: &'static str,
}

/// Writes an answer. Outputs are taken as they are: see [`Output::batched`] and [`RequestedOutputs::select`].
///
/// # Errors
/// The protocol cannot say it: a NaN or an infinity in JSON, bytes that are no text in JSON, in V1 outputs of unequal rows.
pub fn write(protocol: Protocol, outputs: &[Output], head: &Head<'_>) -> Result<Written, Error> {
    match protocol {
        Protocol::V1 => v1(outputs).map(|body| Written::json(body.into())),
        Protocol::V2Json | Protocol::V2Binary => v2(outputs, head),
        Protocol::Grpc => grpc(outputs, head),
    }
}

impl Written {
    const fn json(body: Bytes) -> Self {
        Self { body, json_length: None, content_type: "application/json" }
    }
}

/// About how much room the outputs take.
fn room(outputs: &[Output]) -> usize {
    outputs.iter().map(|output| output.data.len() * 2 + output.name.len() + 128).sum::<usize>() + 128
}

fn v2(outputs: &[Output], head: &Head<'_>) -> Result<Written, Error> {
    let mut sink = Sink::new(Side::Outputs, Wire::Json, room(outputs));
    sink.out.extend_from_slice(b"{\"model_name\":");
    put_json_text(&mut sink.out, head.model);
    for (key, value) in [(&b",\"model_version\":"[..], head.version), (b",\"id\":", head.asked.id())] {
        if let Some(value) = value {
            sink.out.extend_from_slice(key);
            put_json_text(&mut sink.out, value);
        }
    }
    sink.out.extend_from_slice(b",\"outputs\":[");
    let mut binary = false;
    for output in outputs {
        sink.wire = if head.asked.is_binary(output.name()) { Wire::Binary } else { Wire::Json };
        binary |= sink.wire == Wire::Binary;
        put(&mut sink, output)?;
    }
    sink.out.extend_from_slice(b"]}");
    let json_length = binary.then_some(sink.out.len());
    sink.out.extend_from_slice(&sink.data);
    let content_type = if binary { "application/octet-stream" } else { "application/json" };
    Ok(Written { body: sink.out.into(), json_length, content_type })
}

fn grpc(outputs: &[Output], head: &Head<'_>) -> Result<Written, Error> {
    let mut sink = Sink::new(Side::Outputs, Wire::Raw, room(outputs));
    for (number, value) in [(1, Some(head.model)), (2, head.version), (3, head.asked.id())] {
        if let Some(value) = value {
            wire::put_bytes(&mut sink.out, number, value.as_bytes());
        }
    }
    outputs.iter().try_for_each(|output| put(&mut sink, output))?;
    if u32::try_from(sink.out.len()).is_err() {
        return Err(unsayable("the answer is over 4 GiB".to_owned()));
    }
    Ok(Written { body: frame(&sink.out), json_length: None, content_type: "application/grpc" })
}

fn put(sink: &mut Sink, output: &Output) -> Result<(), Error> {
    let head = sink::Head::new(&output.name, output.datatype);
    let shape: Vec<usize> = output.shape.iter().map(|&dimension| length(dimension)).collect();
    sink.tensor(&head, output.datatype, &shape, |writer| match writer.encoding {
        Encoding::Json => output.elements().try_for_each(|scalar| element(writer, output, &scalar)),
        Encoding::Raw | Encoding::Contents => {
            writer.out.extend_from_slice(&output.data);
            Ok(())
        }
    })
}

/// A dimension of a checked shape.
fn length(dimension: i64) -> usize {
    usize::try_from(dimension).unwrap_or(0)
}

fn element(writer: &mut Writer<'_>, output: &Output, scalar: &Scalar<'_>) -> Result<(), Error> {
    writer
        .put(scalar)
        .map_err(|misfit| unsayable(format!("output {:?}: {}", output.name, misfit.told(scalar, output.datatype))))
}

fn unsayable(message: String) -> Error {
    Error::new(Kind::BackendFailed, message)
}

/// An output on the way into V1's rows.
struct Column<'a> {
    output: &'a Output,
    key: Box<[u8]>,
    rest: Elements<'a>,
}

fn v1(outputs: &[Output]) -> Result<Vec<u8>, Error> {
    let rows = rows(outputs)?;
    let mut columns: Vec<Column<'_>> = outputs.iter().map(Column::new).collect();
    let mut out = Vec::with_capacity(room(outputs));
    out.extend_from_slice(b"{\"predictions\":[");
    for row in 0..rows {
        if row > 0 {
            out.push(b',');
        }
        match columns.as_mut_slice() {
            [only] => only.row(&mut out)?,
            several => object(&mut out, several)?,
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// How many rows the outputs have: a scalar has one.
fn rows(outputs: &[Output]) -> Result<usize, Error> {
    let of = |output: &Output| output.shape.first().map_or(1, |&dimension| length(dimension));
    let Some((first, others)) = outputs.split_first() else { return Ok(0) };
    match others.iter().find(|other| of(other) != of(first)) {
        None => Ok(of(first)),
        Some(other) => Err(unsayable(format!(
            "output {:?} has {} rows, output {:?} has {}; a V1 answer has one prediction a row, with a value of every output",
            first.name,
            of(first),
            other.name,
            of(other),
        ))),
    }
}

fn object(out: &mut Vec<u8>, columns: &mut [Column<'_>]) -> Result<(), Error> {
    out.push(b'{');
    for (index, column) in columns.iter_mut().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&column.key);
        column.row(out)?;
    }
    out.push(b'}');
    Ok(())
}

impl<'a> Column<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, key: sink::Head::new(&output.name, output.datatype).key, rest: output.elements() }
    }

    fn row(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let dimensions = self.output.shape.get(1..).unwrap_or_default();
        self.nested(out, dimensions)
    }

    /// Writes a row's elements, nested as its dimensions are.
    fn nested(&mut self, out: &mut Vec<u8>, dimensions: &[i64]) -> Result<(), Error> {
        let output = self.output;
        let Some((&first, inner)) = dimensions.split_first() else {
            let mut writer = Writer { out, encoding: Encoding::Json, datatype: output.datatype, comma: false };
            return self.rest.next().map_or(Ok(()), |scalar| element(&mut writer, output, &scalar));
        };
        out.push(b'[');
        for index in 0..length(first) {
            if index > 0 {
                out.push(b',');
            }
            self.nested(out, inner)?;
        }
        out.push(b']');
        Ok(())
    }
}
