//! `feast.types.Value` ↔ [`Value`].
//!
//! A message's last member of the oneof counts, zeros are written (they are members of a oneof), lists are read packed and
//! unpacked and written packed. Types that are text on the wire (json, uuid, time_uuid, decimal) become text; types that no
//! tensor holds, and those a later Feast adds, stay as they came.

use std::sync::Arc;

use bytes::Bytes;

use super::wire::{Fields, Malformed, Payload, put_bytes, put_key, put_varint, take_array, varint};
use crate::infer::Value;

/// Reads a stored value. No bytes at all are a null.
///
/// # Errors
///
/// The bytes are not a `feast.types.Value`.
pub fn decode_value(bytes: &[u8]) -> Result<Value, Malformed> {
    scalar(bytes).map_or_else(|| message(bytes), Ok)
}

/// The value of a message, whatever is in it.
fn message(bytes: &[u8]) -> Result<Value, Malformed> {
    let mut fields = Fields(bytes);
    let mut value = Value::Null;
    while let Some((field, payload)) = fields.next()? {
        value = member(field, payload)?.unwrap_or_else(|| Value::Opaque(Bytes::copy_from_slice(bytes)));
    }
    Ok(value)
}

/// What nearly all values are: one scalar, as Feast writes it. `None` says nothing about the bytes.
#[inline]
fn scalar(bytes: &[u8]) -> Option<Value> {
    /// Of a field below 16, by the type of what follows.
    const fn key(field: u8, wire_type: u8) -> u8 {
        field << 3 | wire_type
    }
    const STRING: u8 = key(2, 2);
    const INT32: u8 = key(3, 0);
    const INT64: u8 = key(4, 0);
    const DOUBLE: u8 = key(5, 1);
    const FLOAT: u8 = key(6, 5);
    const BOOL: u8 = key(7, 0);
    let (key, rest) = bytes.split_first()?;
    Some(match *key {
        STRING => {
            let (length, rest) = rest.split_first()?;
            // Longer lengths have more bytes.
            (*length < 0x80 && rest.len() == usize::from(*length)).then_some(())?;
            Value::String(text(rest).ok()?)
        }
        INT32 => Value::Int32(alone(rest)? as i32),
        INT64 => Value::Int64(alone(rest)? as i64),
        DOUBLE => Value::Double(f64::from_le_bytes(rest.try_into().ok()?)),
        FLOAT => Value::Float(f32::from_le_bytes(rest.try_into().ok()?)),
        BOOL => Value::Bool(alone(rest)? != 0),
        _ => return None,
    })
}

/// A number that nothing follows.
#[inline]
fn alone(mut bytes: &[u8]) -> Option<u64> {
    let number = varint(&mut bytes).ok()?;
    bytes.is_empty().then_some(number)
}

/// The value of one member of the oneof; `None` for a type that no tensor holds.
fn member(field: u32, payload: Payload<'_>) -> Result<Option<Value>, Malformed> {
    use Payload::{Bytes as Raw, Fixed32, Fixed64, Varint};
    Ok(Some(match (field, payload) {
        (1, Raw(v)) => Value::Bytes(Bytes::copy_from_slice(v)),
        (2 | 32 | 36 | 37 | 44, Raw(v)) => Value::String(text(v)?),
        (3, Varint(v)) => Value::Int32(v as i32),
        (4, Varint(v)) => Value::Int64(v as i64),
        (5, Fixed64(v)) => Value::Double(f64::from_le_bytes(v)),
        (6, Fixed32(v)) => Value::Float(f32::from_le_bytes(v)),
        (7, Varint(v)) => Value::Bool(v != 0),
        (8, Varint(v)) => Value::UnixTimestamp(v as i64),
        (19, Varint(_)) => Value::Null,
        (11, Raw(v)) => Value::BytesList(chunks(v, |item| Ok(Bytes::copy_from_slice(item)))?),
        (12 | 33 | 38 | 39 | 45, Raw(v)) => Value::StringList(chunks(v, text)?),
        (13, Raw(v)) => Value::Int32List(numbers(v, Number::Varint, |v| v as i32)?),
        (14, Raw(v)) => Value::Int64List(numbers(v, Number::Varint, |v| v as i64)?),
        (15, Raw(v)) => Value::DoubleList(numbers(v, Number::Fixed64, f64::from_bits)?),
        (16, Raw(v)) => Value::FloatList(numbers(v, Number::Fixed32, |v| f32::from_bits(v as u32))?),
        (17, Raw(v)) => Value::BoolList(numbers(v, Number::Varint, |v| v != 0)?),
        (18, Raw(v)) => Value::UnixTimestampList(numbers(v, Number::Varint, |v| v as i64)?),
        (1..=8 | 11..=19 | 32 | 33 | 36..=39 | 44 | 45, _) => return Err(Malformed::WireType(field)),
        _ => return Ok(None),
    }))
}

fn text(bytes: &[u8]) -> Result<Arc<str>, Malformed> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| Malformed::Utf8)
}

/// A list of byte strings: `repeated x val = 1`.
fn chunks<T>(list: &[u8], read: impl Fn(&[u8]) -> Result<T, Malformed>) -> Result<Arc<[T]>, Malformed> {
    let mut fields = Fields(list);
    let mut items = Vec::new();
    while let Some((field, payload)) = fields.next()? {
        match (field, payload) {
            (1, Payload::Bytes(item)) => items.push(read(item)?),
            (1, _) => return Err(Malformed::WireType(1)),
            _ => {}
        }
    }
    Ok(items.into())
}

/// How a list's numbers are laid out.
#[derive(Clone, Copy)]
enum Number {
    Varint,
    Fixed64,
    Fixed32,
}

impl Number {
    /// Takes one off the front of packed ones, as bits.
    fn take(self, packed: &mut &[u8]) -> Result<u64, Malformed> {
        match self {
            Self::Varint => varint(packed),
            Self::Fixed64 => take_array(packed).map(|v| u64::from_le_bytes(*v)),
            Self::Fixed32 => take_array(packed).map(|v| u64::from(u32::from_le_bytes(*v))),
        }
    }

    /// The bits of one that has a field of its own.
    fn single(self, payload: Payload<'_>) -> Result<u64, Malformed> {
        match (self, payload) {
            (Self::Varint, Payload::Varint(v)) => Ok(v),
            (Self::Fixed64, Payload::Fixed64(v)) => Ok(u64::from_le_bytes(v)),
            (Self::Fixed32, Payload::Fixed32(v)) => Ok(u64::from(u32::from_le_bytes(v))),
            _ => Err(Malformed::WireType(1)),
        }
    }
}

/// A list of numbers, packed or one field each.
fn numbers<T>(list: &[u8], kind: Number, from_bits: impl Fn(u64) -> T) -> Result<Arc<[T]>, Malformed> {
    let mut fields = Fields(list);
    let mut items = Vec::new();
    while let Some((field, payload)) = fields.next()? {
        match (field, payload) {
            (1, Payload::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    items.push(from_bits(kind.take(&mut packed)?));
                }
            }
            (1, payload) => items.push(from_bits(kind.single(payload)?)),
            _ => {}
        }
    }
    Ok(items.into())
}

/// Appends a value as Feast writes it. A null is no bytes at all.
pub fn encode_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Bytes(v) => put_bytes(out, 1, v),
        Value::String(v) => put_bytes(out, 2, v.as_bytes()),
        Value::Int32(v) => put_number(out, 3, i64::from(*v) as u64),
        Value::Int64(v) => put_number(out, 4, *v as u64),
        Value::Double(v) => {
            put_key(out, 5, 1);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Value::Float(v) => {
            put_key(out, 6, 5);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Value::Bool(v) => put_number(out, 7, u64::from(*v)),
        Value::UnixTimestamp(v) => put_number(out, 8, *v as u64),
        Value::BytesList(v) => put_chunks(out, 11, v.iter().map(|item| &**item)),
        Value::StringList(v) => put_chunks(out, 12, v.iter().map(|item| item.as_bytes())),
        Value::Int32List(v) => put_packed(out, 13, v, |out, v| put_varint(out, i64::from(*v) as u64)),
        Value::Int64List(v) => put_packed(out, 14, v, |out, v| put_varint(out, *v as u64)),
        Value::DoubleList(v) => put_packed(out, 15, v, |out, v| out.extend_from_slice(&v.to_le_bytes())),
        Value::FloatList(v) => put_packed(out, 16, v, |out, v| out.extend_from_slice(&v.to_le_bytes())),
        Value::BoolList(v) => put_packed(out, 17, v, |out, v| put_varint(out, u64::from(*v))),
        Value::UnixTimestampList(v) => put_packed(out, 18, v, |out, v| put_varint(out, *v as u64)),
        Value::Opaque(v) => out.extend_from_slice(v),
    }
}

fn put_number(out: &mut Vec<u8>, field: u32, number: u64) {
    put_key(out, field, 0);
    put_varint(out, number);
}

fn put_chunks<'a>(out: &mut Vec<u8>, field: u32, items: impl Iterator<Item = &'a [u8]>) {
    let mut list = Vec::new();
    for item in items {
        put_bytes(&mut list, 1, item);
    }
    put_bytes(out, field, &list);
}

fn put_packed<T>(out: &mut Vec<u8>, field: u32, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    let mut packed = Vec::with_capacity(items.len() * 4);
    for item in items {
        put(&mut packed, item);
    }
    let mut list = Vec::with_capacity(packed.len() + 6);
    if !items.is_empty() {
        put_bytes(&mut list, 1, &packed);
    }
    put_bytes(out, field, &list);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A NaN is not equal to itself, and yet the same.
    fn shown(value: &Result<Value, Malformed>) -> String {
        format!("{value:?}")
    }

    #[test]
    fn a_scalar_is_read_the_short_way_and_only_where_it_is_one() {
        let five: &[u8] = &[0x20, 5];
        let string = |length: usize| {
            let mut out = Vec::new();
            encode_value(&Value::String("x".repeat(length).into()), &mut out);
            out
        };
        for (bytes, short) in [
            (five, true),
            (&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], true),
            (&[0x29, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f], true),
            (&[0x35, 0, 0, 0x80, 0x3f], true),
            (&[0x38, 1], true),
            (&string(127), true),
            (&string(0), true),
            (&[], false),
            (&string(128), false),
            (&[0x20, 5, 0x20, 7], false),
            (&[0x20], false),
            (&[0x35, 0, 0, 0x80], false),
            (&[0x12, 1, 0xff], false),
            (&[0x40, 5], false),
        ] {
            assert_eq!(scalar(bytes).is_some(), short, "{bytes:x?}");
            assert_eq!(shown(&decode_value(bytes)), shown(&message(bytes)), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn the_short_way_says_what_the_long_one_does(
            key in prop::sample::select(vec![0x12_u8, 0x18, 0x20, 0x29, 0x35, 0x38]),
            rest in prop::collection::vec(prop_oneof![0..12_u8, any::<u8>()], 0..12),
        ) {
            let bytes = [&[key], &*rest].concat();
            prop_assert_eq!(shown(&decode_value(&bytes)), shown(&message(&bytes)));
        }
    }
}
