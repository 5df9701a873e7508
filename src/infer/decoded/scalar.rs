//! One element of a request's data, and the walk over a tensor's elements, whatever form they came in.
//!
//! Data was checked and counted when the body was decoded, so the walk cannot fail; a JSON number stays text until somebody
//! knows what it must become, so that no digit is lost on the way.

use std::{borrow::Cow, fmt};

use super::{
    half,
    json::{self, Scanner},
    wire::{self, Fields, Wire},
};
use crate::infer::Datatype;

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f32),
    Double(f64),
    /// A JSON number as it was written.
    Number(&'a str),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    /// `null`.
    Null,
    /// A JSON array or object, or a parameter without a value.
    Other,
}

impl<'a> Scalar<'a> {
    /// A checked JSON value.
    pub(crate) fn json(raw: &'a [u8]) -> Self {
        match raw {
            [b'"', inside @ .., b'"'] => {
                if memchr::memchr(b'\\', inside).is_some() {
                    json::unescape(inside).map_or(Self::Other, |text| Self::Text(Cow::Owned(text)))
                } else {
                    std::str::from_utf8(inside).map_or(Self::Other, |text| Self::Text(Cow::Borrowed(text)))
                }
            }
            b"true" => Self::Bool(true),
            b"false" => Self::Bool(false),
            b"null" => Self::Null,
            [b'-' | b'0'..=b'9', ..] => std::str::from_utf8(raw).map_or(Self::Other, Self::Number),
            _ => Self::Other,
        }
    }

    /// An `InferParameter` message.
    pub(crate) fn parameter(message: &'a [u8]) -> Self {
        let mut found = Self::Other;
        let mut fields = Fields::all(message);
        // Of a oneof the last member counts.
        while let Ok(Some(field)) = fields.next() {
            found = match (field.number, field.value) {
                (1, Wire::Varint(v)) => Self::Bool(v != 0),
                (2, Wire::Varint(v)) => Self::Int(v as i64),
                (3, Wire::Bytes(span)) => {
                    std::str::from_utf8(span.of(message)).map_or(Self::Other, |text| Self::Text(Cow::Borrowed(text)))
                }
                (4, Wire::Fixed64(v)) => Self::Double(f64::from_bits(v)),
                (5, Wire::Varint(v)) => Self::Uint(v),
                _ => found,
            };
        }
        found
    }

    /// A raw element of a fixed-size datatype.
    fn raw(datatype: Datatype, bytes: &[u8]) -> Self {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(word);
        match datatype {
            Datatype::Bool => Self::Bool(bits != 0),
            Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => Self::Uint(bits),
            Datatype::Int8 => Self::Int(i64::from(bits as i8)),
            Datatype::Int16 => Self::Int(i64::from(bits as i16)),
            Datatype::Int32 => Self::Int(i64::from(bits as i32)),
            Datatype::Int64 => Self::Int(bits as i64),
            Datatype::Fp16 => Self::Float(half::from_fp16(bits as u16)),
            Datatype::Bf16 => Self::Float(half::from_bf16(bits as u16)),
            Datatype::Fp32 => Self::Float(f32::from_bits(bits as u32)),
            Datatype::Fp64 => Self::Double(f64::from_bits(bits)),
            Datatype::Bytes => Self::Other,
        }
    }
}

/// As an error message shows it: long text is cut.
impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => write!(f, "{v}"),
            Self::Int(v) => write!(f, "{v}"),
            Self::Uint(v) => write!(f, "{v}"),
            Self::Float(v) => write!(f, "{v:?}"),
            Self::Double(v) => write!(f, "{v:?}"),
            Self::Number(text) => write!(f, "{}", shown(text, 32)),
            Self::Text(text) => write!(f, "{:?}", shown(text, 32)),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Null => f.write_str("null"),
            Self::Other => f.write_str("an array or object"),
        }
    }
}

/// At most so many bytes of a text that the caller sent, so that an error message is not as long as the body.
pub(crate) fn shown(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// The field of `InferTensorContents` that carries a datatype; `None` where only raw contents can.
pub(crate) const fn contents_field(datatype: Datatype) -> Option<u32> {
    match datatype {
        Datatype::Bool => Some(1),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some(2),
        Datatype::Int64 => Some(3),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some(4),
        Datatype::Uint64 => Some(5),
        Datatype::Fp32 => Some(6),
        Datatype::Fp64 => Some(7),
        Datatype::Bytes => Some(8),
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

/// A walk over a tensor's elements, row-major.
pub(crate) struct Elements<'a>(Source<'a>);

enum Source<'a> {
    Json(Scanner<'a>, &'a [u8]),
    Raw(Datatype, &'a [u8]),
    Contents(Contents<'a>),
}

impl<'a> Elements<'a> {
    /// Over a checked JSON value: the scalars of an array however nested, or the scalar itself.
    pub(crate) const fn json(raw: &'a [u8]) -> Self {
        Self(Source::Json(Scanner::new(raw), raw))
    }

    pub(crate) const fn raw(datatype: Datatype, bytes: &'a [u8]) -> Self {
        Self(Source::Raw(datatype, bytes))
    }

    pub(crate) const fn contents(datatype: Datatype, message: &'a [u8]) -> Self {
        Self(Source::Contents(Contents::new(datatype, message)))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Scalar<'a>;

    fn next(&mut self) -> Option<Scalar<'a>> {
        match &mut self.0 {
            Source::Json(scanner, raw) => next_json(scanner, raw),
            Source::Raw(Datatype::Bytes, rest) => {
                let (length, after) = rest.split_first_chunk::<4>()?;
                let (element, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                *rest = after;
                Some(Scalar::Bytes(element))
            }
            Source::Raw(datatype, rest) => {
                let (element, after) =
                    rest.split_at_checked(datatype.size()?).filter(|(element, _)| !element.is_empty())?;
                *rest = after;
                Some(Scalar::raw(*datatype, element))
            }
            Source::Contents(contents) => contents.next().ok().flatten(),
        }
    }
}

fn next_json<'a>(scanner: &mut Scanner<'a>, raw: &'a [u8]) -> Option<Scalar<'a>> {
    loop {
        match scanner.peek()? {
            b' ' | b'\n' | b'\r' | b'\t' | b',' | b'[' | b']' => scanner.bump(),
            _ => return Some(Scalar::json(scanner.span().ok()?.of(raw))),
        }
    }
}

/// A walk over the elements in `contents` of an `InferInputTensor`, packed or not, and however often the field occurs.
pub(crate) struct Contents<'a> {
    message: &'a [u8],
    tensor: Fields<'a>,
    contents: Option<Fields<'a>>,
    packed: &'a [u8],
    datatype: Datatype,
}

impl<'a> Contents<'a> {
    pub(crate) const fn new(datatype: Datatype, message: &'a [u8]) -> Self {
        Self { message, tensor: Fields::all(message), contents: None, packed: &[], datatype }
    }

    /// The next element.
    ///
    /// # Errors
    /// The message is malformed; only a decoder, which walks first, ever sees that.
    pub(crate) fn next(&mut self) -> Result<Option<Scalar<'a>>, wire::Fault> {
        loop {
            if !self.packed.is_empty() {
                return self.unpack().map(Some);
            }
            let Some(contents) = &mut self.contents else {
                match self.tensor.next()? {
                    None => return Ok(None),
                    Some(wire::Field { number: 5, value: Wire::Bytes(span), .. }) => {
                        self.contents = Some(Fields::new(self.message, span));
                    }
                    Some(_) => {}
                }
                continue;
            };
            let Some(field) = contents.next()? else {
                self.contents = None;
                continue;
            };
            if Some(field.number) != contents_field(self.datatype) {
                continue;
            }
            match field.value {
                Wire::Bytes(span) if self.datatype == Datatype::Bytes => {
                    return Ok(Some(Scalar::Bytes(span.of(self.message))));
                }
                Wire::Bytes(span) => self.packed = span.of(self.message),
                Wire::Varint(bits) | Wire::Fixed64(bits) => return Ok(Some(self.element(bits))),
                Wire::Fixed32(bits) => return Ok(Some(self.element(u64::from(bits)))),
            }
        }
    }

    fn unpack(&mut self) -> Result<Scalar<'a>, wire::Fault> {
        let wrong = wire::Fault::Wrong(0, "packed tensor contents end inside an element");
        let (bits, length) = match self.datatype {
            Datatype::Fp32 => (u64::from(u32::from_le_bytes(*self.packed.first_chunk().ok_or(wrong)?)), 4),
            Datatype::Fp64 => (u64::from_le_bytes(*self.packed.first_chunk().ok_or(wrong)?), 8),
            _ => wire::varint(self.packed).map_err(|_| wrong)?,
        };
        self.packed = &self.packed[length..];
        Ok(self.element(bits))
    }

    const fn element(&self, bits: u64) -> Scalar<'a> {
        match self.datatype {
            Datatype::Bool => Scalar::Bool(bits != 0),
            Datatype::Fp32 => Scalar::Float(f32::from_bits(bits as u32)),
            Datatype::Fp64 => Scalar::Double(f64::from_bits(bits)),
            Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Scalar::Uint(bits & 0xffff_ffff),
            Datatype::Uint64 => Scalar::Uint(bits),
            // An int32 on the wire is its low 32 bits.
            Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Scalar::Int(bits as i32 as i64),
            _ => Scalar::Int(bits as i64),
        }
    }
}
