//! Bodies to [`Decoded`]: which decoder reads which protocol.
//!
//! A decoder accepts a body only when every tensor's data was counted against its shape, every name is readable and no name is
//! there twice. It never panics and never allocates more than a small multiple of the body.

use bytes::Bytes;
use http::{HeaderValue, header};

use super::{binary, grpc, v1, v2};
pub(super) use crate::infer::decoded::check::NAME;
use crate::infer::{Decoded, Error, InferRequest, Kind, Payload, Protocol, decoded::inflate};

/// Decodes a request body as far as joins need. A gRPC body is the bare message (see [`grpc::unframe`]).
///
/// # Errors
/// The body is malformed, or its tensors contradict themselves; the message says where and what is allowed.
pub fn decode(protocol: Protocol, body: Bytes, json_length: Option<usize>) -> Result<Decoded, Error> {
    // Ranges are 32 bits wide.
    if u32::try_from(body.len()).is_err() {
        return Err(Error::new(Kind::TooLarge, "the body is over 4 GiB, more than can be joined"));
    }
    match protocol {
        Protocol::V1 => v1::decode(body),
        Protocol::V2Json => v2::decode(body),
        Protocol::V2Binary => binary::decode(body, json_length),
        Protocol::Grpc => grpc::decode(body),
    }
}

/// Decodes the body of a request that is held, but was not decoded because its model joins nothing.
///
/// # Errors
/// As [`decode`]; a body that passes but once, or whose encoding is not known.
pub fn held(request: &InferRequest, limit: u64) -> Result<Decoded, Error> {
    let Payload::Retained(body) = &request.payload else {
        return Err(Error::new(Kind::Internal, "the body is not held, or was decoded before"));
    };
    let body = if request.protocol == Protocol::Grpc {
        let encoding = request.headers.get("grpc-encoding").and_then(|value| value.to_str().ok());
        grpc::unframe(body.clone(), encoding, limit)?
    } else {
        inflated(body.clone(), request.headers.get(header::CONTENT_ENCODING), limit)?
    };
    decode(request.protocol, body, request.json_length)
}

/// Undoes a body's `content-encoding`.
///
/// # Errors
/// As [`gunzip`]; [`Kind::UnsupportedMediaType`] for an encoding that is not known.
pub(super) fn inflated(body: Bytes, encoding: Option<&HeaderValue>, limit: u64) -> Result<Bytes, Error> {
    let Some(encoding) = encoding else { return Ok(body) };
    match encoding.as_bytes() {
        b"identity" => Ok(body),
        b"gzip" | b"x-gzip" => gunzip(body, limit),
        _ => Err(Error::new(
            Kind::UnsupportedMediaType,
            format!("content-encoding {encoding:?} cannot be read; allowed: gzip, identity"),
        )),
    }
}

/// Decompresses a gzip body, stopping at `limit` bytes.
///
/// # Errors
/// Not gzip, cut short, or longer than `limit` ([`Kind::TooLarge`]).
pub fn gunzip(body: Bytes, limit: u64) -> Result<Bytes, Error> {
    inflate::gunzip(&body, limit)
}

#[cfg(test)]
pub(super) mod tests;
