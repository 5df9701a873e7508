//! One entity's row of one view, decoded once and shared by every request that reads it.

use std::mem::size_of;

use crate::infer::Value;

/// An immutable row. `values` are in the order of the view's features in the config.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// The event's time in nanoseconds since the epoch; `None` where no `_ts:` was stored.
    pub(crate) event_time: Option<i64>,
    /// `None`: never written. `Some(Value::Null)`: a stored null.
    pub(crate) values: Box<[Option<Value>]>,
}

/// What an allocation costs beside its contents: the counters of an `Arc`, the allocator's rounding.
const ALLOCATION: usize = 24;

impl Row {
    /// The memory it takes, in bytes, with all it points to.
    pub(super) fn size(&self) -> usize {
        let values: usize = self.values.iter().flatten().map(heap).sum();
        size_of::<Self>() + ALLOCATION + self.values.len() * size_of::<Option<Value>>() + values
    }
}

/// What a value points to, in bytes.
fn heap(value: &Value) -> usize {
    match value {
        Value::Bytes(v) | Value::Opaque(v) => ALLOCATION + v.len(),
        Value::String(v) => ALLOCATION + v.len(),
        Value::BytesList(v) => ALLOCATION + v.iter().map(|v| size_of_val(v) + ALLOCATION + v.len()).sum::<usize>(),
        Value::StringList(v) => ALLOCATION + v.iter().map(|v| size_of_val(v) + ALLOCATION + v.len()).sum::<usize>(),
        Value::Int32List(v) => ALLOCATION + size_of_val(&**v),
        Value::Int64List(v) | Value::UnixTimestampList(v) => ALLOCATION + size_of_val(&**v),
        Value::DoubleList(v) => ALLOCATION + size_of_val(&**v),
        Value::FloatList(v) => ALLOCATION + size_of_val(&**v),
        Value::BoolList(v) => ALLOCATION + size_of_val(&**v),
        Value::Null
        | Value::Int32(_)
        | Value::Int64(_)
        | Value::Double(_)
        | Value::Float(_)
        | Value::Bool(_)
        | Value::UnixTimestamp(_) => 0,
    }
}
