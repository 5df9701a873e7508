//! A feature's value as the elements of a tensor.

use std::borrow::Cow;

use crate::infer::{Value, decoded::Scalar};

/// Hands out the elements of a value, one for a scalar.
pub(super) fn each<'v, E>(value: &'v Value, mut take: impl FnMut(Scalar<'v>) -> Result<(), E>) -> Result<(), E> {
    match value {
        Value::Bytes(bytes) => take(Scalar::Bytes(bytes)),
        Value::String(text) => take(Scalar::Text(Cow::Borrowed(text))),
        Value::Int32(value) => take(Scalar::Int(i64::from(*value))),
        Value::Int64(value) | Value::UnixTimestamp(value) => take(Scalar::Int(*value)),
        Value::Double(value) => take(Scalar::Double(*value)),
        Value::Float(value) => take(Scalar::Float(*value)),
        Value::Bool(value) => take(Scalar::Bool(*value)),
        Value::BytesList(list) => list.iter().try_for_each(|bytes| take(Scalar::Bytes(bytes))),
        Value::StringList(list) => list.iter().try_for_each(|text| take(Scalar::Text(Cow::Borrowed(text)))),
        Value::Int32List(list) => list.iter().try_for_each(|&value| take(Scalar::Int(i64::from(value)))),
        Value::Int64List(list) | Value::UnixTimestampList(list) => list.iter().try_for_each(|&v| take(Scalar::Int(v))),
        Value::DoubleList(list) => list.iter().try_for_each(|&value| take(Scalar::Double(value))),
        Value::FloatList(list) => list.iter().try_for_each(|&value| take(Scalar::Float(value))),
        Value::BoolList(list) => list.iter().try_for_each(|&value| take(Scalar::Bool(value))),
        Value::Null => take(Scalar::Null),
        Value::Opaque(_) => take(Scalar::Other),
    }
}
