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
use crate::{
    config::View,
    infer::{EntityKey, Value},
};

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
        Self::named(&view.stored, view.features.iter().map(|feature| &*feature.name))
    }

    /// That of a view of which only the names are known.
    pub(crate) fn named<'a>(view: &str, features: impl Iterator<Item = &'a str>) -> Self {
        Self {
            features: features.map(|feature| field(view, feature)).collect(),
            event_time: format!("_ts:{view}").into_bytes().into(),
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
        let mut row = self.begin();
        cells.into_iter().for_each(|cell| row.put(cell));
        row.end()
    }

    /// A row whose cells are still to come.
    pub(crate) fn begin(&self) -> Cells {
        let features = self.features.len();
        Cells { features, values: Vec::with_capacity(features), found: false, event_time: None, wrong: None }
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

/// A row in the making, cell by cell, in the order of [`Layout::fields`].
#[derive(Debug)]
pub(crate) struct Cells {
    features: usize,
    values: Vec<Option<Value>>,
    /// Whether the hash holds anything of the view.
    found: bool,
    /// Once its cell was there.
    event_time: Option<Option<i64>>,
    /// The first cell that is none.
    wrong: Option<Malformed>,
}

impl Cells {
    /// Takes the next cell, as it is stored; `None`: there is none. Cells after the last are not looked at.
    #[inline]
    pub(crate) fn put(&mut self, cell: Option<&[u8]>) {
        if self.wrong.is_some() {
            return;
        }
        if self.values.len() < self.features {
            self.found |= cell.is_some();
            match cell.map(decode_value).transpose() {
                Ok(value) => self.values.push(value),
                Err(wrong) => self.wrong = Some(wrong),
            }
        } else if self.event_time.is_none() {
            match cell.map(decode_time).transpose() {
                Ok(time) => self.event_time = Some(time),
                Err(wrong) => self.wrong = Some(wrong),
            }
        }
    }

    /// The next cell is none. Cells after the last are not looked at.
    pub(crate) fn refuse(&mut self, wrong: Malformed) {
        if self.event_time.is_none() {
            self.wrong.get_or_insert(wrong);
        }
    }

    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.values.capacity()
    }

    /// The row; `None` where no cell was there.
    ///
    /// # Errors
    ///
    /// A cell that is not what is stored, or too few of them.
    pub(crate) fn end(self) -> Result<Option<Row>, Malformed> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let event_time = self.event_time.ok_or(Malformed::Truncated)?;
        let row = Row::new(event_time, self.values.into());
        Ok((self.found || event_time.is_some()).then_some(row))
    }
}

/// The hash field of a feature.
fn field(view: &str, feature: &str) -> [u8; 4] {
    murmur::x86_32(format!("{view}:{feature}").as_bytes()).to_le_bytes()
}

#[cfg(test)]
pub(super) mod tests;
