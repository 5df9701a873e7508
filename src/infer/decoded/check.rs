//! The checks that every decoder shares: data counted against its shape, names that are there once.
//!
//! What passed them holds no surprise for whoever reads the data later. Faults are told as the caller's; a decoder of answers
//! turns them into the model server's.

use std::{borrow::Cow, collections::HashSet};

use super::{Text, shown};
use crate::infer::{Datatype, Error};

/// How much of a caller's name an error message shows.
pub(crate) const NAME: usize = 64;

/// More dimensions than any model server takes; bounds what an error message shows.
const DIMENSIONS: usize = 64;

/// How many elements a shape has.
pub(crate) fn elements(name: &str, shape: &[i64]) -> Result<usize, Error> {
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
pub(crate) fn check_count(name: &str, datatype: Datatype, shape: &[i64], found: usize) -> Result<(), Error> {
    let expected = elements(name, shape)?;
    if expected == found {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "tensor {name:?}: shape {shape:?} × {datatype} takes {expected} elements, its data has {found}"
    )))
}

/// Checks raw data against a shape and datatype.
pub(crate) fn check_raw(name: &str, datatype: Datatype, shape: &[i64], raw: &[u8]) -> Result<(), Error> {
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
pub(crate) fn unique<'a>(
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
