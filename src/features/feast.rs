//! Feast's value encoding: `feast.types.Value` to and from [`Value`].
//!
//! The zero-length message is a null. Types that no tensor holds are kept as they are, in [`Value::Opaque`].

use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, Oneof};

use crate::infer::Value;

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17, 18, 19")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(bytes = "bytes", tag = "1")]
    Bytes(Bytes),
    #[prost(string, tag = "2")]
    String(String),
    #[prost(int32, tag = "3")]
    Int32(i32),
    #[prost(int64, tag = "4")]
    Int64(i64),
    #[prost(double, tag = "5")]
    Double(f64),
    #[prost(float, tag = "6")]
    Float(f32),
    #[prost(bool, tag = "7")]
    Bool(bool),
    #[prost(int64, tag = "8")]
    UnixTimestamp(i64),
    #[prost(message, tag = "11")]
    BytesList(BytesList),
    #[prost(message, tag = "12")]
    StringList(StringList),
    #[prost(message, tag = "13")]
    Int32List(Int32List),
    #[prost(message, tag = "14")]
    Int64List(Int64List),
    #[prost(message, tag = "15")]
    DoubleList(DoubleList),
    #[prost(message, tag = "16")]
    FloatList(FloatList),
    #[prost(message, tag = "17")]
    BoolList(BoolList),
    #[prost(message, tag = "18")]
    UnixTimestampList(Int64List),
    #[prost(int32, tag = "19")]
    Null(i32),
}

#[derive(Clone, PartialEq, Message)]
struct BytesList {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    val: Vec<Bytes>,
}
#[derive(Clone, PartialEq, Message)]
struct StringList {
    #[prost(string, repeated, tag = "1")]
    val: Vec<String>,
}
#[derive(Clone, PartialEq, Message)]
struct Int32List {
    #[prost(int32, repeated, tag = "1")]
    val: Vec<i32>,
}
#[derive(Clone, PartialEq, Message)]
struct Int64List {
    #[prost(int64, repeated, tag = "1")]
    val: Vec<i64>,
}
#[derive(Clone, PartialEq, Message)]
struct DoubleList {
    #[prost(double, repeated, tag = "1")]
    val: Vec<f64>,
}
#[derive(Clone, PartialEq, Message)]
struct FloatList {
    #[prost(float, repeated, tag = "1")]
    val: Vec<f32>,
}
#[derive(Clone, PartialEq, Message)]
struct BoolList {
    #[prost(bool, repeated, tag = "1")]
    val: Vec<bool>,
}

/// Decodes a stored value; no bytes are a null.
///
/// # Errors
/// The bytes are not a `feast.types.Value`.
pub(crate) fn decode_value(bytes: &[u8]) -> Result<Value, prost::DecodeError> {
    let Some(kind) = Stored::decode(bytes)?.kind else {
        return Ok(if bytes.is_empty() { Value::Null } else { Value::Opaque(Bytes::copy_from_slice(bytes)) });
    };
    Ok(match kind {
        Kind::Bytes(v) => Value::Bytes(v),
        Kind::String(v) => Value::String(v.into()),
        Kind::Int32(v) => Value::Int32(v),
        Kind::Int64(v) => Value::Int64(v),
        Kind::Double(v) => Value::Double(v),
        Kind::Float(v) => Value::Float(v),
        Kind::Bool(v) => Value::Bool(v),
        Kind::UnixTimestamp(v) => Value::UnixTimestamp(v),
        Kind::BytesList(v) => Value::BytesList(v.val.into()),
        Kind::StringList(v) => Value::StringList(v.val.into_iter().map(Arc::from).collect()),
        Kind::Int32List(v) => Value::Int32List(v.val.into()),
        Kind::Int64List(v) => Value::Int64List(v.val.into()),
        Kind::DoubleList(v) => Value::DoubleList(v.val.into()),
        Kind::FloatList(v) => Value::FloatList(v.val.into()),
        Kind::BoolList(v) => Value::BoolList(v.val.into()),
        Kind::UnixTimestampList(v) => Value::UnixTimestampList(v.val.into()),
        Kind::Null(_) => Value::Null,
    })
}

/// Appends a value as Feast stores it; a null appends nothing.
pub(crate) fn encode_value(value: &Value, out: &mut Vec<u8>) {
    let kind = match value {
        Value::Null => return,
        Value::Opaque(bytes) => return out.extend_from_slice(bytes),
        Value::Bytes(v) => Kind::Bytes(v.clone()),
        Value::String(v) => Kind::String(v.as_ref().into()),
        Value::Int32(v) => Kind::Int32(*v),
        Value::Int64(v) => Kind::Int64(*v),
        Value::Double(v) => Kind::Double(*v),
        Value::Float(v) => Kind::Float(*v),
        Value::Bool(v) => Kind::Bool(*v),
        Value::UnixTimestamp(v) => Kind::UnixTimestamp(*v),
        Value::BytesList(v) => Kind::BytesList(BytesList { val: v.to_vec() }),
        Value::StringList(v) => Kind::StringList(StringList { val: v.iter().map(|s| s.as_ref().into()).collect() }),
        Value::Int32List(v) => Kind::Int32List(Int32List { val: v.to_vec() }),
        Value::Int64List(v) => Kind::Int64List(Int64List { val: v.to_vec() }),
        Value::DoubleList(v) => Kind::DoubleList(DoubleList { val: v.to_vec() }),
        Value::FloatList(v) => Kind::FloatList(FloatList { val: v.to_vec() }),
        Value::BoolList(v) => Kind::BoolList(BoolList { val: v.to_vec() }),
        Value::UnixTimestampList(v) => Kind::UnixTimestampList(Int64List { val: v.to_vec() }),
    };
    let encoded = Stored { kind: Some(kind) }.encode(out);
    encoded.expect("a vector grows");
}
