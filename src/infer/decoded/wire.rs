//! Protobuf's wire format, as far as inference messages need it: records to ranges, and back.
//!
//! Reading checks lengths and varints, never allocates, and tells a message that is cut short from one that is wrong.
//! Groups, which no inference message has, are refused.
//!
//! **Source:** protobuf.dev/programming-guides/encoding.

use super::Span;
use crate::infer::Error;

/// The records of a message that lies inside a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) value: Wire,
    /// Tag, length and value.
    pub(crate) span: Span,
}

/// A record's value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little-endian bits.
    Fixed64(u64),
    /// Wire type 2: where the bytes lie.
    Bytes(Span),
    /// Wire type 5, little-endian bits.
    Fixed32(u32),
}

/// Why a record could not be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The bytes end inside it.
    Short(usize),
    /// It is not protobuf.
    Wrong(usize, &'static str),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (at, what) = match fault {
            Fault::Short(at) => (at, "the message ends inside a field"),
            Fault::Wrong(at, what) => (at, what),
        };
        Self::invalid(format!("invalid gRPC message at byte {at}: {what}"))
    }
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(body: &'a [u8], span: Span) -> Self {
        Self { body, at: span.start(), end: span.end() }
    }

    /// All of `message`.
    pub(crate) const fn all(message: &'a [u8]) -> Self {
        Self { body: message, at: 0, end: message.len() }
    }

    /// Where the next record begins, or the one that could not be read.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Field>, Fault> {
        if self.at == self.end {
            return Ok(None);
        }
        let mut ahead = *self;
        let field = ahead.read()?;
        self.at = ahead.at;
        Ok(Some(field))
    }

    fn read(&mut self) -> Result<Field, Fault> {
        let start = self.at;
        let tag = self.varint()?;
        let Some(number) = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number)) else {
            return Err(Fault::Wrong(start, "a field number out of range"));
        };
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => Wire::Bytes(self.bytes()?),
            5 => Wire::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(Fault::Wrong(start, "an unknown wire type")),
        };
        Ok(Field { number, value, span: Span::new(start, self.at) })
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let (value, length) = varint(&self.body[self.at..self.end]).map_err(|short| match short {
            Cut::Short => Fault::Short(self.at),
            Cut::Long => Fault::Wrong(self.at, "a varint longer than 64 bits"),
        })?;
        self.at += length;
        Ok(value)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes = self.body[self.at..self.end].first_chunk::<N>().ok_or(Fault::Short(self.at))?;
        self.at += N;
        Ok(*bytes)
    }

    fn bytes(&mut self) -> Result<Span, Fault> {
        let at = self.at;
        let length = self.varint()?;
        match usize::try_from(length).ok().and_then(|length| self.at.checked_add(length)) {
            Some(end) if end <= self.end => {
                let span = Span::new(self.at, end);
                self.at = end;
                Ok(span)
            }
            _ => Err(Fault::Short(at)),
        }
    }
}

/// Why a varint could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The bytes end inside it.
    Short,
    /// It does not fit 64 bits.
    Long,
}

/// The varint at the front, and how many bytes it takes.
pub(crate) fn varint(bytes: &[u8]) -> Result<(u64, usize), Cut> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        if index == 9 && byte > 1 {
            return Err(Cut::Long);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok((value, index + 1));
        }
    }
    Err(if bytes.len() < 10 { Cut::Short } else { Cut::Long })
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes a varint takes.
pub(crate) const fn varint_length(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Appends the tag and length of a length-delimited record.
pub(crate) fn put_head(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, length as u64);
}

/// Appends a length-delimited record.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_head(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

/// How many bytes a length-delimited record takes; the number is under 16.
pub(crate) const fn record_length(length: usize) -> usize {
    1 + varint_length(length as u64) + length
}
