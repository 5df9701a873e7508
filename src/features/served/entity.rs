//! Feast's serialized entity key, back to the values it was made of, as the API's JSON.
//!
//! The reverse of [`EntityKey`](crate::infer::EntityKey): `u32 n`, n names, n values, each with its type and length, all integers
//! little-endian.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use smallvec::SmallVec;

use crate::features::feast::Malformed;

/// Type codes of key values.
const BYTES: u32 = 1;
const STRING: u32 = 2;
const INT32: u32 = 3;
const INT64: u32 = 4;
const UNIX_TIMESTAMP: u32 = 8;

/// A join key's name and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    pub(super) name: &'a str,
    pub(super) value: Value<'a>,
}

/// A join key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    Text(&'a str),
    /// INT32, INT64 and UNIX_TIMESTAMP alike.
    Number(i64),
}

/// The pairs of a key, in its order.
///
/// # Errors
///
/// The bytes are no such key.
pub(super) fn pairs(mut key: &[u8]) -> Result<SmallVec<[Pair<'_>; 2]>, Malformed> {
    let count = number(&mut key)?;
    let mut pairs = SmallVec::<[Pair<'_>; 2]>::new();
    for _ in 0..count {
        let (STRING, name) = part(&mut key)? else { return Err(Malformed::Served("the key")) };
        pairs.push(Pair { name: text(name)?, value: Value::Number(0) });
    }
    for pair in &mut pairs {
        let (kind, bytes) = part(&mut key)?;
        pair.value = value(kind, bytes)?;
    }
    if key.is_empty() { Ok(pairs) } else { Err(Malformed::Served("the key")) }
}

fn value(kind: u32, bytes: &[u8]) -> Result<Value<'_>, Malformed> {
    let wrong = || Malformed::Served("the key");
    Ok(match kind {
        BYTES => Value::Bytes(bytes),
        STRING => Value::Text(text(bytes)?),
        INT32 => Value::Number(i32::from_le_bytes(bytes.try_into().map_err(|_| wrong())?).into()),
        INT64 | UNIX_TIMESTAMP => Value::Number(i64::from_le_bytes(bytes.try_into().map_err(|_| wrong())?)),
        _ => return Err(wrong()),
    })
}

/// A type, a length, and as many bytes.
fn part<'a>(key: &mut &'a [u8]) -> Result<(u32, &'a [u8]), Malformed> {
    let (kind, length) = (number(key)?, number(key)?);
    let (bytes, rest) = key.split_at_checked(length as usize).ok_or(Malformed::Truncated)?;
    *key = rest;
    Ok((kind, bytes))
}

fn number(key: &mut &[u8]) -> Result<u32, Malformed> {
    let (bytes, rest) = key.split_first_chunk().ok_or(Malformed::Truncated)?;
    *key = rest;
    Ok(u32::from_le_bytes(*bytes))
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Utf8)
}

impl Value<'_> {
    /// Appends it as the API has it: whole numbers exactly, bytes as base64.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            Self::Text(text) => quote(out, text),
            Self::Bytes(bytes) => quote(out, &STANDARD.encode(bytes)),
        }
    }
}

/// Appends text in quotes.
pub(super) fn quote(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text is JSON, and memory takes it");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        features::feast::tests::{data, entity, unhex},
        infer::{EntityKey, EntityValue},
    };

    fn read_as(value: &EntityValue) -> Value<'_> {
        match value {
            EntityValue::Bytes(bytes) => Value::Bytes(bytes),
            EntityValue::String(text) => Value::Text(text),
            EntityValue::Int32(number) => Value::Number(i64::from(*number)),
            EntityValue::Int64(number) | EntityValue::UnixTimestamp(number) => Value::Number(*number),
        }
    }

    #[test]
    fn every_key_that_feast_wrote_is_read_back() {
        for vector in data("entity_keys").as_array().unwrap() {
            let key = unhex(vector["entity_key_hex"].as_str().unwrap());
            let mut given: Vec<(&str, EntityValue)> = vector["entity"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, given)| (&**name, entity(given["type"].as_str().unwrap(), &given["value"])))
                .collect();
            given.sort_by_key(|(name, _)| *name);
            let expected: Vec<_> = given.iter().map(|(name, value)| Pair { name, value: read_as(value) }).collect();
            assert_eq!(*pairs(&key).unwrap(), *expected, "{vector}");
        }
    }

    #[test]
    fn values_are_written_as_the_api_reads_them() {
        let written = |value: Value<'_>| {
            let mut out = Vec::new();
            value.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Value::Number(i64::MIN)), "-9223372036854775808");
        assert_eq!(written(Value::Text("a\"ü\n")), r#""a\"ü\n""#);
        assert_eq!(written(Value::Bytes(&[0, 1, 255])), "\"AAH/\"");
    }

    fn values() -> impl Strategy<Value = EntityValue> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40).prop_map(EntityValue::Bytes),
            ".{0,40}".prop_map(EntityValue::String),
            any::<i32>().prop_map(EntityValue::Int32),
            any::<i64>().prop_map(EntityValue::Int64),
            any::<i64>().prop_map(EntityValue::UnixTimestamp),
        ]
    }

    proptest! {
        #[test]
        fn a_key_survives_the_round_trip(given in prop::collection::vec((".{0,20}", values()), 0..4)) {
            let key = EntityKey::new(given.iter().map(|(name, value)| (&**name, value)));
            let expected: Vec<_> =
                given.iter().map(|(name, value)| Pair { name, value: read_as(value) }).collect();
            prop_assert_eq!(&*pairs(key.as_bytes()).unwrap(), &*expected);
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(prop_oneof![0..9_u8, any::<u8>()], 0..60)) {
            let _ = pairs(&bytes);
        }
    }
}
