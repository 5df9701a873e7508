//! gRPC: a message is spliced by leaving records out and appending others; repeated fields concatenate wherever they stand.
//!
//! Joined tensors follow the request's form, contents or raw; a request without any data gets them raw.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Join, rename, table::append};
use crate::infer::{
    Error,
    decoded::{
        Data, Form, Side, Span,
        sink::{Sink, Wire},
        wire,
    },
};

/// The spliced message, in its frame. `model` are the records that name the model, replaced where it is renamed.
pub(super) fn write(join: &Join<'_>, model: &[Span], form: Form, rename: Option<&str>) -> Result<Bytes, Error> {
    let body = &join.decoded.body;
    let wire = match form {
        Form::Contents => Wire::Contents,
        Form::Raw => Wire::Raw,
    };
    let mut sink = Sink::new(Side::Inputs, wire, rename::FRAME + body.len() + join.estimate());
    sink.out.extend_from_slice(&[0; rename::FRAME]);
    if let Some(upstream) = rename {
        wire::put_bytes(&mut sink.out, 1, upstream.as_bytes());
    }
    let mut dropped = dropped(join);
    if rename.is_some() {
        dropped.extend_from_slice(model);
    }
    dropped.sort_unstable_by_key(|span| span.start());
    let mut at = 0;
    for span in dropped {
        sink.out.extend_from_slice(&body[at..span.start()]);
        at = span.end();
    }
    sink.out.extend_from_slice(&body[at..]);
    append(join, &mut sink)?;
    rename::close_frame(&mut sink.out)?;
    Ok(sink.out.into())
}

/// The records that the model does not get.
fn dropped(join: &Join<'_>) -> SmallVec<[Span; 8]> {
    let mut spans = SmallVec::new();
    for tensor in &join.decoded.tensors {
        if join.drops(tensor.name) {
            spans.push(tensor.span);
            if let Data::Raw { record, .. } = tensor.data {
                spans.push(record);
            }
        }
    }
    for parameter in &join.decoded.parameters {
        if join.drops_parameter(parameter.key) {
            spans.push(parameter.span);
        }
    }
    spans
}
