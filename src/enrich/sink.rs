//! Elements and tensors onto the wire, in each protocol's syntax.
//!
//! JSON numbers are the shortest that read back as the same value. A [`Writer`] takes elements of one datatype; a [`Sink`]
//! wraps them into the tensor that the protocol wants.

use super::{
    cell::{Cell, Misfit, cell},
    recipe::Head,
};
use crate::infer::{
    Datatype, Error,
    decoded::{
        Scalar, half,
        scalar::contents_field,
        wire::{put_bytes, put_head, put_varint, record_length, varint_length},
    },
};

/// How an element is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Text, a comma between two.
    Json,
    /// Little-endian; `BYTES` behind their length.
    Raw,
    /// As in the repeated field of `InferTensorContents`: packed, or a record each for `BYTES`.
    Contents,
}

/// Takes elements of one datatype.
pub(super) struct Writer<'o> {
    pub(super) out: &'o mut Vec<u8>,
    pub(super) encoding: Encoding,
    pub(super) datatype: Datatype,
    /// Whether a comma goes before the next element.
    pub(super) comma: bool,
}

impl Writer<'_> {
    /// Converts and writes one element.
    pub(super) fn put(&mut self, scalar: &Scalar<'_>) -> Result<(), Misfit> {
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
pub(super) fn put_json_text(out: &mut Vec<u8>, text: &str) {
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

/// How a tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// A V2 JSON object with its data.
    Json,
    /// A V2 JSON object; its data goes behind the JSON.
    Binary,
    /// An `inputs` record with `contents`.
    Contents,
    /// An `inputs` record and a `raw_input_contents` record.
    Raw,
}

/// Takes tensors.
pub(super) struct Sink {
    pub(super) out: Vec<u8>,
    /// Binary data that goes behind the JSON, or the data of the tensor being written.
    pub(super) data: Vec<u8>,
    pub(super) wire: Wire,
    /// Whether a comma goes before the next JSON tensor.
    pub(super) comma: bool,
}

impl Sink {
    pub(super) fn new(wire: Wire, capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity), data: Vec::new(), wire, comma: false }
    }

    /// Writes one tensor, whose elements `fill` puts.
    pub(super) fn tensor(
        &mut self,
        head: &Head,
        datatype: Datatype,
        shape: &[usize],
        fill: impl FnOnce(&mut Writer<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self.wire {
            Wire::Json => {
                self.json_head(head, shape);
                self.out.extend_from_slice(b"],\"data\":[");
                fill(&mut Writer { out: &mut self.out, encoding: Encoding::Json, datatype, comma: false })?;
                self.out.extend_from_slice(b"]}");
            }
            Wire::Binary => {
                let start = self.data.len();
                fill(&mut Writer { out: &mut self.data, encoding: Encoding::Raw, datatype, comma: false })?;
                self.json_head(head, shape);
                self.out.extend_from_slice(b"],\"parameters\":{\"binary_data_size\":");
                put_number(&mut self.out, self.data.len() - start);
                self.out.extend_from_slice(b"}}");
            }
            Wire::Contents | Wire::Raw => {
                self.data.clear();
                let encoding = if self.wire == Wire::Raw { Encoding::Raw } else { Encoding::Contents };
                fill(&mut Writer { out: &mut self.data, encoding, datatype, comma: false })?;
                self.proto(head, datatype, shape);
            }
        }
        Ok(())
    }

    fn json_head(&mut self, head: &Head, shape: &[usize]) {
        if self.comma {
            self.out.push(b',');
        }
        self.comma = true;
        self.out.extend_from_slice(&head.json);
        for (index, &dimension) in shape.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            put_number(&mut self.out, dimension);
        }
    }

    /// Lengths come before what they measure, so they are reckoned from the inside out.
    fn proto(&mut self, head: &Head, datatype: Datatype, shape: &[usize]) {
        let shape_length = shape.iter().map(|&dimension| varint_length(dimension as u64)).sum();
        // BYTES elements are records of their own already; everything else is one packed record.
        let packed = datatype != Datatype::Bytes;
        let contents = if packed { record_length(self.data.len()) } else { self.data.len() };
        let mut length = head.proto.len() + record_length(shape_length);
        if self.wire == Wire::Contents {
            length += record_length(contents);
        }
        put_head(&mut self.out, 5, length);
        self.out.extend_from_slice(&head.proto);
        put_head(&mut self.out, 3, shape_length);
        for &dimension in shape {
            put_varint(&mut self.out, dimension as u64);
        }
        if self.wire == Wire::Raw {
            put_bytes(&mut self.out, 7, &self.data);
            return;
        }
        put_head(&mut self.out, 5, contents);
        match contents_field(datatype) {
            Some(field) if packed => put_bytes(&mut self.out, field, &self.data),
            _ => self.out.extend_from_slice(&self.data),
        }
    }
}

fn put_number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
