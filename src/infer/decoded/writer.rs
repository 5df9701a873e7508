//! Elements onto the wire, in each protocol's syntax: what was read, or joined, or configured.
//!
//! JSON numbers are the shortest that read back as the same value.

use super::{
    Scalar,
    cell::{Cell, Misfit, cell},
    half,
    wire::{put_bytes, put_varint},
};
use crate::infer::Datatype;

/// How an element is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Text, a comma between two.
    Json,
    /// Little-endian; `BYTES` behind their length.
    Raw,
    /// As in the repeated field of `InferTensorContents`: packed, or a record each for `BYTES`.
    Contents,
}

/// Takes elements of one datatype.
pub(crate) struct Writer<'o> {
    pub(crate) out: &'o mut Vec<u8>,
    pub(crate) encoding: Encoding,
    pub(crate) datatype: Datatype,
    /// Whether a comma goes before the next element.
    pub(crate) comma: bool,
}

impl Writer<'_> {
    /// Converts and writes one element.
    pub(crate) fn put(&mut self, scalar: &Scalar<'_>) -> Result<(), Misfit> {
        let cell = cell(scalar, self.datatype)?;
        match self.encoding {
            Encoding::Json => {
                if self.comma {
                    self.out.push(b',');
                }
                self.comma = true;
                put_json(self.out, cell)
            }
            Encoding::Raw => {
                put_raw(self.out, self.datatype, cell);
                Ok(())
            }
            Encoding::Contents => put_contents(self.out, self.datatype, cell),
        }
    }
}

fn put_json(out: &mut Vec<u8>, cell: Cell<'_>) -> Result<(), Misfit> {
    match cell {
        Cell::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Cell::Int(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Cell::Uint(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Cell::Single(value) if value.is_finite() => {
            out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        }
        Cell::Double(value) if value.is_finite() => {
            out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        }
        Cell::Single(_) | Cell::Double(_) => return Err(Misfit::NotFinite),
        Cell::Bytes(bytes) => put_json_text(out, std::str::from_utf8(bytes).map_err(|_| Misfit::NotText)?),
    }
    Ok(())
}

/// Appends a JSON string.
pub(crate) fn put_json_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..index]);
        plain = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// The element's bits, in the low bytes.
fn bits(datatype: Datatype, cell: Cell<'_>) -> u64 {
    match cell {
        Cell::Bool(value) => u64::from(value),
        Cell::Int(value) => value as u64,
        Cell::Uint(value) => value,
        Cell::Double(value) => value.to_bits(),
        Cell::Single(value) => match datatype {
            Datatype::Fp16 => u64::from(half::to_fp16(value)),
            Datatype::Bf16 => u64::from(half::to_bf16(value)),
            _ => u64::from(value.to_bits()),
        },
        Cell::Bytes(_) => 0,
    }
}

fn put_raw(out: &mut Vec<u8>, datatype: Datatype, cell: Cell<'_>) {
    if let Cell::Bytes(bytes) = cell {
        // A body over 4 GiB is refused; no element of one is longer.
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
        return;
    }
    let word = bits(datatype, cell).to_le_bytes();
    out.extend_from_slice(&word[..datatype.size().unwrap_or(8)]);
}

fn put_contents(out: &mut Vec<u8>, datatype: Datatype, cell: Cell<'_>) -> Result<(), Misfit> {
    match (cell, datatype) {
        (Cell::Bytes(bytes), _) => put_bytes(out, 8, bytes),
        (_, Datatype::Fp16 | Datatype::Bf16) => return Err(Misfit::NoContents),
        (Cell::Single(value), _) => out.extend_from_slice(&value.to_le_bytes()),
        (Cell::Double(value), _) => out.extend_from_slice(&value.to_le_bytes()),
        _ => put_varint(out, bits(datatype, cell)),
    }
    Ok(())
}

/// Appends a whole number as text.
pub(crate) fn put_number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
