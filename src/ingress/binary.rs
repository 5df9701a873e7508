//! V2's binary tensor extension: a JSON object, then the data of the tensors that say so, in their order.
//!
//! The sizes must add up to the body exactly.

use bytes::Bytes;

use super::{decode::check_raw, v2};
use crate::infer::{
    Datatype, Decoded, Error, Protocol,
    decoded::{Data, Span},
};

pub(super) fn decode(body: Bytes, json_length: Option<usize>) -> Result<Decoded, Error> {
    let Some(length) = json_length else {
        return Err(Error::invalid("a binary body needs the header inference-header-content-length"));
    };
    let Some(json) = body.get(..length) else {
        let size = body.len();
        return Err(Error::invalid(format!("inference-header-content-length is {length}, the body has {size} bytes")));
    };
    let mut chunks = Chunks { body: &body, at: length, allowed: true };
    let request = v2::object(json, &mut chunks)?;
    if chunks.at < body.len() {
        let (size, claimed) = (body.len(), chunks.at);
        return Err(Error::invalid(format!(
            "the JSON and its inputs' binary_data_size add up to {claimed} bytes, the body has {size}"
        )));
    }
    Ok(request.decoded(Protocol::V2Binary, body))
}

/// The data behind the JSON, handed out in order.
pub(super) struct Chunks<'a> {
    body: &'a [u8],
    at: usize,
    allowed: bool,
}

impl Chunks<'_> {
    /// For a body without any.
    pub(super) const fn none() -> Self {
        Self { body: &[], at: 0, allowed: false }
    }

    /// The next `size` bytes, checked against the tensor they belong to.
    pub(super) fn take(&mut self, name: &str, datatype: Datatype, shape: &[i64], size: usize) -> Result<Data, Error> {
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
