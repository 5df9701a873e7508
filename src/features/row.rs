//! One entity's row of one view, decoded once and shared by every request that reads it.

use crate::infer::Value;

/// An immutable row. `values` are in the order of the view's features in the config.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// The event's time in nanoseconds since the epoch; `None` where no `_ts:` was stored.
    pub(crate) event_time: Option<i64>,
    /// `None`: never written. `Some(Value::Null)`: a stored null.
    pub(crate) values: Box<[Option<Value>]>,
}
