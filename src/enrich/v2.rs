//! V2 over HTTP: joined tensors go behind the last of `inputs`, in the binary extension their data behind the last chunk.

use bytes::Bytes;

use super::{Join, table::append};
use crate::infer::{
    Error, Protocol,
    decoded::{
        Data, Present, Side, Span,
        sink::{Sink, Wire},
    },
};

/// Where a body's JSON object has its parts.
pub(super) struct Object {
    /// Where the JSON ends.
    pub(super) json: usize,
    pub(super) inputs: Span,
    pub(super) present: Present,
    pub(super) parameters: Option<Span>,
}

/// The spliced body and, in the binary extension, the length of its JSON.
pub(super) fn write(join: &Join<'_>, object: &Object) -> Result<(Bytes, Option<usize>), Error> {
    let body = &join.decoded.body;
    let binary = join.decoded.protocol == Protocol::V2Binary;
    let wire = if binary { Wire::Binary } else { Wire::Json };
    let mut sink = Sink::new(Side::Inputs, wire, body.len() + join.estimate());
    join.copy(&mut sink.out, 0..object.inputs.start(), object.parameters);
    put_inputs(join, &mut sink, object.present)?;
    join.copy(&mut sink.out, object.inputs.end()..object.json, object.parameters);
    if !binary {
        return Ok((sink.out.into(), None));
    }
    let length = sink.out.len();
    put_chunks(join, &mut sink);
    Ok((sink.out.into(), Some(length)))
}

fn put_inputs(join: &Join<'_>, sink: &mut Sink, present: Present) -> Result<(), Error> {
    let body = &join.decoded.body;
    if present != Present::Yes {
        sink.out.extend_from_slice(b"\"inputs\":");
    }
    sink.out.push(b'[');
    for tensor in &join.decoded.tensors {
        if join.drops(tensor.name) {
            continue;
        }
        if sink.comma {
            sink.out.push(b',');
        }
        sink.comma = true;
        sink.out.extend_from_slice(tensor.span.of(body));
    }
    append(join, sink)?;
    sink.out.push(b']');
    if present == Present::No {
        sink.out.push(b',');
    }
    Ok(())
}

/// The kept tensors' binary data, then the joined ones'.
fn put_chunks(join: &Join<'_>, sink: &mut Sink) {
    let body = &join.decoded.body;
    for tensor in &join.decoded.tensors {
        if let Data::Raw { record, .. } = tensor.data
            && !join.drops(tensor.name)
        {
            sink.out.extend_from_slice(record.of(body));
        }
    }
    sink.out.extend_from_slice(&sink.data);
}
