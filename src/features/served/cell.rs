//! A JSON value of the API, back to the feature's value.
//!
//! What Feast writes and nothing else: numbers that fit exactly, `"NaN"` and `"Infinity"` as text, bytes as base64. Of a type that
//! no tensor holds (maps, sets) the JSON says less than what is stored; it becomes a value that is written as the same JSON, which is
//! all that anybody does with it.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{
    features::feast::encode_value,
    infer::{
        FeatureType, Value,
        decoded::{
            json::{Scanner, unescape},
            scalar::Scalar,
            wire::put_bytes,
        },
    },
};

/// Deeper maps than anybody stores.
const DEPTH: u32 = 64;

/// A cell of that type, in JSON that was checked; `None`: it is none.
pub(super) fn value(kind: FeatureType, raw: &str) -> Option<Value> {
    if raw == "null" {
        return Some(Value::Null);
    }
    let cell = &Scalar::json(raw.as_bytes());
    Some(match kind {
        FeatureType::Bytes => Value::Bytes(bytes(cell)?),
        FeatureType::String => Value::String(text(cell)?),
        FeatureType::Int32 => Value::Int32(int32(cell)?),
        FeatureType::Int64 => Value::Int64(integer(cell)?),
        FeatureType::Double => Value::Double(double(cell)?),
        FeatureType::Float => Value::Float(single(cell)?),
        FeatureType::Bool => Value::Bool(truth(cell)?),
        FeatureType::UnixTimestamp => Value::UnixTimestamp(integer(cell)?),
        FeatureType::BytesList => Value::BytesList(list(raw, bytes)?),
        FeatureType::StringList => Value::StringList(list(raw, text)?),
        FeatureType::Int32List => Value::Int32List(list(raw, int32)?),
        FeatureType::Int64List => Value::Int64List(list(raw, integer)?),
        FeatureType::DoubleList => Value::DoubleList(list(raw, double)?),
        FeatureType::FloatList => Value::FloatList(list(raw, single)?),
        FeatureType::BoolList => Value::BoolList(list(raw, truth)?),
        FeatureType::UnixTimestampList => Value::UnixTimestampList(list(raw, integer)?),
        FeatureType::Opaque => Value::Opaque(opaque(raw, 0)?.into()),
    })
}

fn list<T>(raw: &str, item: impl Fn(&Scalar<'_>) -> Option<T>) -> Option<Arc<[T]>> {
    let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    items.iter().map(|raw| item(&Scalar::json(raw.get().as_bytes()))).collect()
}

fn integer(cell: &Scalar<'_>) -> Option<i64> {
    let Scalar::Number(text) = cell else { return None };
    text.parse().ok()
}

fn int32(cell: &Scalar<'_>) -> Option<i32> {
    integer(cell)?.try_into().ok()
}

fn double(cell: &Scalar<'_>) -> Option<f64> {
    match cell {
        Scalar::Number(text) => text.parse().ok(),
        Scalar::Text(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it was widened to be written")]
fn single(cell: &Scalar<'_>) -> Option<f32> {
    double(cell).map(|number| number as f32)
}

fn truth(cell: &Scalar<'_>) -> Option<bool> {
    let Scalar::Bool(truth) = cell else { return None };
    Some(*truth)
}

fn text(cell: &Scalar<'_>) -> Option<Arc<str>> {
    let Scalar::Text(text) = cell else { return None };
    Some((&**text).into())
}

fn bytes(cell: &Scalar<'_>) -> Option<Bytes> {
    let Scalar::Text(text) = cell else { return None };
    STANDARD.decode(&**text).ok().map(Bytes::from)
}

/// A serialized `feast.types.Value` that is written as this JSON.
fn opaque(raw: &str, depth: u32) -> Option<Vec<u8>> {
    const MAP: u32 = 20;
    const LIST: u32 = 42;
    if depth > DEPTH {
        return None;
    }
    let (number, contents) = match raw.as_bytes().first()? {
        b'{' => (MAP, map(raw, depth)?),
        b'[' => (LIST, nested(raw, depth)?),
        _ => return scalar(raw),
    };
    let mut out = Vec::with_capacity(contents.len() + 8);
    put_bytes(&mut out, number, &contents);
    Some(out)
}

/// `repeated Value val = 1`.
fn nested(raw: &str, depth: u32) -> Option<Vec<u8>> {
    let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    let mut list = Vec::with_capacity(raw.len());
    for item in items {
        put_bytes(&mut list, 1, &opaque(item.get(), depth + 1)?);
    }
    Some(list)
}

/// `map<string, Value> val = 1`, in the order of the JSON.
fn map(raw: &str, depth: u32) -> Option<Vec<u8>> {
    let (mut map, mut whole) = (Vec::with_capacity(raw.len()), true);
    let walked = Scanner::new(raw.as_bytes()).object(|scanner, key| {
        let value = scanner.span()?.of(raw.as_bytes());
        let value = std::str::from_utf8(value).ok().and_then(|value| opaque(value, depth + 1));
        match (unescape(key.span.of(raw.as_bytes())), value) {
            (Some(key), Some(value)) => put_entry(&mut map, &key, &value),
            _ => whole = false,
        }
        Ok(())
    });
    (walked.is_ok() && whole).then_some(map)
}

fn put_entry(map: &mut Vec<u8>, key: &str, value: &[u8]) {
    let mut entry = Vec::with_capacity(key.len() + value.len() + 8);
    put_bytes(&mut entry, 1, key.as_bytes());
    put_bytes(&mut entry, 2, value);
    put_bytes(map, 1, &entry);
}

fn scalar(raw: &str) -> Option<Vec<u8>> {
    let value = match Scalar::json(raw.as_bytes()) {
        Scalar::Null => Value::Null,
        Scalar::Bool(truth) => Value::Bool(truth),
        Scalar::Text(text) => Value::String((&*text).into()),
        Scalar::Number(text) => match text.parse() {
            Ok(number) => Value::Int64(number),
            Err(_) => Value::Double(text.parse().ok()?),
        },
        _ => return None,
    };
    let mut out = Vec::new();
    encode_value(&value, &mut out);
    Some(out)
}
