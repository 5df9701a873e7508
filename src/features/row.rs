//! One entity's row of one view, decoded once and shared by every request that reads it.

use std::{mem::size_of, sync::OnceLock};

use crate::infer::Value;

/// An immutable row. `values` are in the order of the view's features in the config.
#[derive(Debug)]
pub struct Row {
    /// The event's time in nanoseconds since the epoch; `None` where no `_ts:` was stored.
    pub(crate) event_time: Option<i64>,
    /// `None`: never written. `Some(Value::Null)`: a stored null.
    pub(crate) values: Box<[Option<Value>]>,
    /// The values as the feature server writes them, once it did: it alone knows the form.
    written: OnceLock<Box<[u8]>>,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.event_time == other.event_time && self.values == other.values
    }
}

/// What an allocation costs beside its contents: the counters of an `Arc`, the allocator's rounding.
const ALLOCATION: usize = 24;

impl Row {
    pub(crate) const fn new(event_time: Option<i64>, values: Box<[Option<Value>]>) -> Self {
        Self { event_time, values, written: OnceLock::new() }
    }

    /// The values as they were written first, or now by `write`; empty where that would be too long to keep.
    pub(crate) fn written(&self, write: impl FnOnce(&[Option<Value>]) -> Box<[u8]>) -> &[u8] {
        self.written.get_or_init(|| if self.text() > 0 { write(&self.values) } else { Box::default() })
    }

    /// About as many bytes as its values take as text; none where that is not kept.
    pub(crate) fn text(&self) -> usize {
        let text = self.values.len() * 2 + self.values.iter().flatten().map(text).sum::<usize>();
        if text <= LONGEST_TEXT { text } else { 0 }
    }

    /// The memory it takes, in bytes, with all it points to; also what it is written as, though it may never be.
    pub(crate) fn size(&self) -> usize {
        let values: usize = self.values.iter().flatten().map(heap).sum();
        size_of::<Self>() + 2 * ALLOCATION + self.values.len() * size_of::<Option<Value>>() + values + self.text()
    }
}

/// Longer text of a row is not kept: its cells' ends are told in 15 bits.
const LONGEST_TEXT: usize = i16::MAX as usize;

/// About as many bytes as a value takes as text, rather more than less.
fn text(value: &Value) -> usize {
    /// A whole number, and what separates it from the next.
    const WHOLE: usize = 10;
    /// Numbers with fractions. Those of 32 bits are written as those of 64 that they equal, seldom with an exponent.
    const SINGLE: usize = 20;
    const DOUBLE: usize = 24;
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Int32(_) | Value::Int64(_) | Value::UnixTimestamp(_) => WHOLE,
        Value::Float(_) => SINGLE,
        Value::Double(_) => DOUBLE,
        Value::String(text) => quoted(text),
        Value::Bytes(bytes) => bytes.len().div_ceil(3) * 4 + 2,
        // Booleans take a byte as they are stored.
        Value::Opaque(bytes) => bytes.len() * 6,
        Value::BytesList(list) => list.iter().map(|bytes| bytes.len().div_ceil(3) * 4 + 3).sum(),
        Value::StringList(list) => list.iter().map(|text| quoted(text) + 1).sum(),
        Value::DoubleList(list) => list.len() * DOUBLE,
        Value::FloatList(list) => list.len() * SINGLE,
        _ => value.length().unwrap_or_default() * WHOLE,
    }
}

/// What a string takes with its quotes, and what has to be escaped in it.
fn quoted(text: &str) -> usize {
    text.len() + 2 + 5 * text.bytes().filter(|byte| matches!(*byte, 0..0x20 | b'"' | b'\\')).count()
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
