//! Bodies to [`Decoded`]: which decoder reads which protocol, and the checks that all of them share.
//!
//! A decoder accepts a body only when every tensor's data was counted against its shape, every name is readable and no name is
//! there twice. It never panics and never allocates more than a small multiple of the body.

use std::{borrow::Cow, collections::HashSet};

use bytes::Bytes;

use super::{binary, grpc, v1, v2};
use crate::infer::{
    Datatype, Decoded, Error, InferRequest, Kind, Payload, Protocol,
    decoded::{Text, inflate, shown},
};

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
    let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let body = match (request.protocol, text("content-encoding")) {
        (Protocol::Grpc, _) => grpc::unframe(body.clone(), text("grpc-encoding"), limit)?,
        (_, None | Some("identity")) => body.clone(),
        (_, Some("gzip" | "x-gzip")) => gunzip(body.clone(), limit)?,
        (_, Some(encoding)) => {
            let message = format!("content-encoding {encoding:?} cannot be read; allowed: gzip, identity");
            return Err(Error::new(Kind::UnsupportedMediaType, message));
        }
    };
    decode(request.protocol, body, request.json_length)
}

/// Decompresses a gzip body, stopping at `limit` bytes.
///
/// # Errors
/// Not gzip, cut short, or longer than `limit` ([`Kind::TooLarge`]).
pub fn gunzip(body: Bytes, limit: u64) -> Result<Bytes, Error> {
    inflate::gunzip(&body, limit)
}

/// How much of a caller's name an error message shows.
pub(super) const NAME: usize = 64;

/// More dimensions than any model server takes; bounds what an error message shows.
const DIMENSIONS: usize = 64;

/// How many elements a shape has.
pub(super) fn elements(name: &str, shape: &[i64]) -> Result<usize, Error> {
    let mut product = 1usize;
    if shape.len() > DIMENSIONS {
        let dimensions = shape.len();
        return Err(Error::invalid(format!(
            "tensor {name:?}: its shape has {dimensions} dimensions; allowed: at most {DIMENSIONS}"
        )));
    }
    for &dimension in shape {
        let Ok(dimension) = usize::try_from(dimension) else {
            return Err(Error::invalid(format!("tensor {name:?}: shape {shape:?} has a negative dimension")));
        };
        product = product
            .checked_mul(dimension)
            .ok_or_else(|| Error::invalid(format!("tensor {name:?}: shape {shape:?} has more elements than can be")))?;
    }
    Ok(product)
}

/// Checks a count of elements against a shape.
pub(super) fn check_count(name: &str, datatype: Datatype, shape: &[i64], found: usize) -> Result<(), Error> {
    let expected = elements(name, shape)?;
    if expected == found {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "tensor {name:?}: shape {shape:?} × {datatype} takes {expected} elements, its data has {found}"
    )))
}

/// Checks raw data against a shape and datatype.
pub(super) fn check_raw(name: &str, datatype: Datatype, shape: &[i64], raw: &[u8]) -> Result<(), Error> {
    let Some(size) = datatype.size() else {
        return check_count(name, datatype, shape, count_bytes(name, raw)?);
    };
    let expected = elements(name, shape)?.checked_mul(size);
    if expected == Some(raw.len()) {
        return Ok(());
    }
    let expected = expected.map_or_else(|| "more".to_owned(), |bytes| bytes.to_string());
    let found = raw.len();
    Err(Error::invalid(format!(
        "tensor {name:?}: shape {shape:?} × {datatype} takes {expected} bytes, its data has {found}"
    )))
}

/// Counts raw `BYTES` elements, each behind its length in four little-endian bytes.
fn count_bytes(name: &str, mut raw: &[u8]) -> Result<usize, Error> {
    let mut count = 0;
    while !raw.is_empty() {
        let element = raw.split_first_chunk::<4>();
        let rest = element.and_then(|(length, rest)| rest.get(u32::from_le_bytes(*length) as usize..));
        raw = rest.ok_or_else(|| {
            Error::invalid(format!(
                "tensor {name:?}: its BYTES data ends inside element {count} (4 bytes of length, then the element)"
            ))
        })?;
        count += 1;
    }
    Ok(count)
}

/// Checks that no name is there twice. Few names are compared, many are hashed: a body full of them costs no square.
pub(super) fn unique<'a>(
    what: &str,
    body: &'a [u8],
    names: impl ExactSizeIterator<Item = &'a Text> + Clone,
) -> Result<(), Error> {
    let duplicate = if names.len() <= 16 { among_few(body, names) } else { among_many(body, names) };
    duplicate.map_or(Ok(()), |name| Err(Error::invalid(format!("duplicate {what} {:?}", shown(&name, NAME)))))
}

fn among_few<'a>(body: &'a [u8], mut names: impl Iterator<Item = &'a Text> + Clone) -> Option<Cow<'a, str>> {
    while let Some(name) = names.next() {
        let mut others = names.clone();
        let twice = if name.escaped {
            let name = name.get(body);
            others.any(|other| other.is(body, &name))
        } else {
            others.any(|other| same(body, name, other))
        };
        if twice {
            return Some(name.get(body));
        }
    }
    None
}

fn same(body: &[u8], a: &Text, b: &Text) -> bool {
    if b.escaped { a.get(body) == b.get(body) } else { a.span.of(body) == b.span.of(body) }
}

fn among_many<'a>(body: &'a [u8], names: impl Iterator<Item = &'a Text>) -> Option<Cow<'a, str>> {
    let mut seen = HashSet::new();
    names.map(|name| name.get(body)).find(|name| !seen.insert(name.clone()))
}

#[cfg(test)]
pub(super) mod tests;
