//! V2's binary tensor extension: a JSON object, then the data of the tensors that say so, in their order.
//!
//! The sizes must add up to the body exactly.

use bytes::Bytes;

use super::v2;
use crate::infer::{
    Decoded, Error, Protocol,
    decoded::{Side, tensor_json::Chunks},
};

pub(super) fn decode(body: Bytes, json_length: Option<usize>) -> Result<Decoded, Error> {
    let Some(length) = json_length else {
        return Err(Error::invalid("a binary body needs the header inference-header-content-length"));
    };
    let (json, mut chunks) = Chunks::behind(&body, length)?;
    let request = v2::object(json, &mut chunks)?;
    chunks.end(Side::Inputs)?;
    Ok(request.decoded(Protocol::V2Binary, body))
}
