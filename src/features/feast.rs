//! Feast's layout in Redis: one hash a (entity, project), one field a (view, feature).
//!
//! Keys, field names, values and event times are byte for byte Feast's own, so that rows Feast materialized are read and
//! rows Weir wrote back are read by Feast. What a hash does not hold, it does not invent: a field never written is `None`,
//! a stored null is `Value::Null`. Deleting is left to Feast.
//!
//! **Source:** Feast 0.67, `infra/online_stores/{helpers,redis}.py`.

mod murmur;
mod time;
mod value;
mod wire;

pub(crate) use time::{decode_time, encode_time};
pub use value::{decode_value, encode_value};
pub use wire::Malformed;

use super::Row;
use crate::{config::View, infer::EntityKey};

/// The Redis key of an entity's rows: the serialized entity key, then the project, with nothing between.
pub(crate) fn redis_key(key: &EntityKey, project: &str) -> Vec<u8> {
    [key.as_bytes(), project.as_bytes()].concat()
}

/// The hash fields of one view, in the order of its features, then its event time.
#[derive(Debug)]
pub(crate) struct Layout {
    features: Box<[[u8; 4]]>,
    event_time: Box<[u8]>,
}

impl Layout {
    pub(crate) fn of(view: &View) -> Self {
        Self {
            features: view.features.iter().map(|feature| field(&view.stored, &feature.name)).collect(),
            event_time: format!("_ts:{}", view.stored).into_bytes().into(),
        }
    }

    /// Every field a read asks for, in the order [`Layout::row`] expects the answers.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &[u8]> {
        self.features.iter().map(<[u8; 4]>::as_slice).chain([&*self.event_time])
    }

    /// The field of the event time.
    pub(crate) fn event_time(&self) -> &[u8] {
        &self.event_time
    }

    /// The row that the stored cells make; `None` where the hash holds nothing of this view.
    pub(crate) fn row<'a>(&self, cells: impl IntoIterator<Item = Option<&'a [u8]>>) -> Result<Option<Row>, Malformed> {
        let mut cells = cells.into_iter();
        let mut found = false;
        let mut values = Vec::with_capacity(self.features.len());
        for _ in &self.features {
            let cell = cells.next().ok_or(Malformed::Truncated)?;
            found |= cell.is_some();
            values.push(cell.map(decode_value).transpose()?);
        }
        let event_time = cells.next().ok_or(Malformed::Truncated)?.map(decode_time).transpose()?;
        let row = Row::new(event_time, values.into());
        Ok((found || event_time.is_some()).then_some(row))
    }

    /// The cells of a row as they are stored, without the event time; features never written are left out.
    pub(crate) fn cells<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = (&'a [u8], Vec<u8>)> {
        self.features.iter().zip(&row.values).filter_map(|(field, value)| {
            let mut cell = Vec::new();
            encode_value(value.as_ref()?, &mut cell);
            Some((field.as_slice(), cell))
        })
    }
}

/// The hash field of a feature.
fn field(view: &str, feature: &str) -> [u8; 4] {
    murmur::x86_32(format!("{view}:{feature}").as_bytes()).to_le_bytes()
}

#[cfg(test)]
pub(super) mod tests;
