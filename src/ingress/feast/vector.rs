//! Feast's precomputed vectors: all of a service for one entity, as one value; with the time it was made, and its views' times.
//!
//! **Source:** Feast 0.67, `OnlineStore._decode_precomputed_vectors`, `PrecomputedFeatureVector.proto`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::plan::Part;
use crate::{
    features::online::{self, Age, Found, ViewRows},
    infer::{
        Value,
        decoded::wire::{Fields, Wire},
    },
};

/// A vector, its values not copied.
#[derive(Debug, Default)]
struct Vector<'a> {
    names: Vec<&'a str>,
    values: Vec<&'a [u8]>,
    /// Views by name and the seconds of their events.
    times: Vec<(&'a str, f64)>,
    made: i64,
}

/// The rows of each part; `None`: an entity has no vector, or one of other features.
pub(super) fn rows(parts: &[Part], vectors: &ViewRows) -> Option<Vec<ViewRows>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let stored: Vec<Vector<'_>> = vectors.found.iter().map(read).collect::<Option<_>>()?;
    let wanted = parts.iter().map(|part| part.select.len()).sum::<usize>();
    if stored.iter().any(|vector| vector.names.len() != wanted) {
        return None;
    }
    let of_part = |part: &Part| {
        let rows = stored.iter().map(|vector| vector.part(part, now)).collect::<Option<Vec<_>>>()?;
        Some(vectors.others(&part.view, rows))
    };
    parts.iter().map(of_part).collect()
}

fn read(found: &Found) -> Option<Vector<'_>> {
    let Found::Row(row, _) = found else { return None };
    let Some(Value::Bytes(message)) = row.values.first()?.as_ref() else { return None };
    let mut vector = Vector::default();
    let mut fields = Fields::all(message);
    while let Some(field) = fields.next().ok()? {
        let Wire::Bytes(span) = field.value else { continue };
        let bytes = span.of(message);
        match field.number {
            1 => vector.names.push(std::str::from_utf8(bytes).ok()?),
            2 => vector.values.push(bytes),
            3 => vector.times.push(view_time(bytes)?),
            4 => {
                let (seconds, nanos) = timestamp(bytes)?;
                vector.made = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
            }
            _ => {}
        }
    }
    (vector.names.len() == vector.values.len()).then_some(vector)
}

/// `FeatureViewTimestamp {string feature_view_name = 1; Timestamp event_timestamp = 2}`.
fn view_time(message: &[u8]) -> Option<(&str, f64)> {
    let (mut name, mut time) = ("", 0.0);
    let mut fields = Fields::all(message);
    while let Some(field) = fields.next().ok()? {
        match (field.number, field.value) {
            (1, Wire::Bytes(span)) => name = std::str::from_utf8(span.of(message)).ok()?,
            (2, Wire::Bytes(span)) => {
                let (seconds, nanos) = timestamp(span.of(message))?;
                time = seconds as f64 + nanos as f64 / 1e9;
            }
            _ => {}
        }
    }
    Some((name, time))
}

fn timestamp(message: &[u8]) -> Option<(i64, i64)> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields::all(message);
    while let Some(field) = fields.next().ok()? {
        match (field.number, field.value) {
            (1, Wire::Varint(v)) => seconds = v as i64,
            (2, Wire::Varint(v)) => nanos = i64::from(v as i32),
            _ => {}
        }
    }
    Some((seconds, nanos))
}

impl Vector<'_> {
    /// A view's row of it.
    fn part(&self, part: &Part, now: f64) -> Option<Found> {
        let mut values: Vec<Option<Value>> = vec![None; part.view.features.len()];
        let mut next = 0;
        for &at in &part.select {
            let stored = self.place(&part.name, &part.view.features[at].name, next)?;
            values[at] = Some(online::value(self.values[stored])?);
            next = stored + 1;
        }
        let time = self.times.iter().find(|(view, _)| **view == *part.name).map(|(_, time)| *time);
        let outside = part.view.max_age.zip(time).is_some_and(|(age, time)| now - time > age.as_secs_f64());
        let row = online::row(self.made, values);
        Some(Found::Row(Arc::new(row), if outside { Age::Outside } else { Age::Within }))
    }

    /// Where a view's feature is. They are stored in the order in which the service names them, so it is mostly `next`.
    fn place(&self, view: &str, feature: &str, next: usize) -> Option<usize> {
        let is = |name: &str| name.strip_prefix(view).and_then(|rest| rest.strip_prefix("__")) == Some(feature);
        if self.names.get(next).is_some_and(|name| is(name)) {
            return Some(next);
        }
        self.names.iter().position(|name| is(name))
    }
}
