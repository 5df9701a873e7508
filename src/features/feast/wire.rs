//! Protobuf's wire format, by hand: one pass over the bytes, no message types, no copies.
//!
//! Reads any valid encoding (groups apart, which proto3 does not have); writes the canonical one.

use crate::infer::decoded::wire::{self, Cut};
pub(super) use crate::infer::decoded::wire::{put_bytes, put_varint};

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("bytes end too early")]
    Truncated,
    /// A number does not fit 64 bits, or a field's number is 0.
    #[error("not a protobuf number")]
    Number,
    /// A field is not of the type its number stands for.
    #[error("field {0} has the wrong wire type")]
    WireType(u32),
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// It is no string of bytes at all.
    #[error("neither bytes nor a null")]
    Cell,
    /// A feature server's cell is not what its column is.
    #[error("{0} of a feature server cannot be read")]
    Served(&'static str),
}

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of one message, in the order they were written.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(varint(&mut self.0)?).map_err(|_| Malformed::Number)?;
        let field = key >> 3;
        if field == 0 {
            return Err(Malformed::Number);
        }
        let payload = match key & 7 {
            0 => Payload::Varint(varint(&mut self.0)?),
            1 => Payload::Fixed64(*take_array(&mut self.0)?),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| Malformed::Truncated)?;
                Payload::Bytes(take(&mut self.0, length)?)
            }
            5 => Payload::Fixed32(*take_array(&mut self.0)?),
            _ => return Err(Malformed::WireType(field)),
        };
        Ok(Some((field, payload)))
    }
}

/// Takes a number off the front.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let (number, length) = wire::varint(bytes).map_err(|cut| match cut {
        Cut::Short => Malformed::Truncated,
        Cut::Long => Malformed::Number,
    })?;
    *bytes = &bytes[length..];
    Ok(number)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

pub(super) fn take_array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], Malformed> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

/// A field's key: its number and the wire type of what follows.
pub(super) fn put_key(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    put_varint(out, u64::from(field << 3 | wire_type));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_over_64_bits_is_refused_and_not_cut() {
        let nine = [0xff; 9];
        let number = |last: u8| varint(&mut &[&nine[..], &[last]].concat()[..]);
        assert_eq!(number(1), Ok(u64::MAX));
        assert_eq!(number(2), Err(Malformed::Number));
        assert_eq!(number(0x80), Err(Malformed::Number));
        assert_eq!(varint(&mut &nine[..]), Err(Malformed::Truncated));
    }
}
