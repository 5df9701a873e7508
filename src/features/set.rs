//! What the feature stage hands to `enrich`: a usable value for every joined feature of every row, and the truth about them.

use std::sync::Arc;

use super::Row;
use crate::{
    config::View,
    infer::{CacheEvent, Degradation, Level, Value},
};

/// The joined rows of one request. Only `features` builds it.
#[derive(Debug, Default)]
pub struct FeatureSet {
    pub(super) joins: Vec<Joined>,
    pub(super) degraded: Vec<Degradation>,
    pub(super) caches: Vec<CacheEvent>,
    pub(super) level: Option<Level>,
}

/// One join's rows, in the request's order of instances.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) view: Arc<View>,
    /// Positions in the view's features.
    pub(super) select: Arc<[usize]>,
    /// `None`: no usable row (absent, too old, store unavailable): defaults.
    pub(super) rows: Vec<Option<Arc<Row>>>,
}

impl FeatureSet {
    /// The value of feature `select` of join `join` for instance `row`: the stored one, else the configured default.
    pub(crate) fn value(&self, join: usize, select: usize, row: usize) -> &Value {
        let joined = &self.joins[join];
        let default = || &joined.view.features[joined.select[select]].default;
        self.stored(join, select, row).unwrap_or_else(default)
    }

    /// The stored value; `None` where the default stands in.
    pub(crate) fn stored(&self, join: usize, select: usize, row: usize) -> Option<&Value> {
        let joined = &self.joins[join];
        let stored = joined.rows[row].as_ref().and_then(|row| row.values[joined.select[select]].as_ref());
        stored.filter(|value| **value != Value::Null)
    }

    /// How many instances the request has; `None` where nothing is joined.
    pub(crate) fn rows(&self) -> Option<usize> {
        self.joins.first().map(|joined| joined.rows.len())
    }

    /// What was not the best about the lookup; taken once, for the answer.
    pub(crate) fn take_degraded(&mut self) -> Vec<Degradation> {
        std::mem::take(&mut self.degraded)
    }

    /// The same, for an answer that may not be the last.
    pub(crate) fn degraded(&self) -> &[Degradation] {
        &self.degraded
    }

    /// What each layer did, nearest first; layers that were not asked are left out.
    pub(crate) fn caches(&self) -> &[CacheEvent] {
        &self.caches
    }

    /// The level the lookup needed: stale rows or an optional view's failure 1, a view's failure 2. Values that are
    /// missing, null or too old are no failure.
    pub(crate) fn level(&self) -> Level {
        self.level.unwrap_or(Level::Full)
    }
}

/// For tests and benches only: the feature stage is the one place that builds a set.
#[cfg(any(test, feature = "bench"))]
impl FeatureSet {
    /// One join: a view, its selected features, and the stored values of a row an instance; `None`: no usable row.
    pub(crate) fn sample(view: Arc<View>, select: &[usize], rows: Vec<Option<Vec<Value>>>) -> Self {
        let row = |values: Vec<Value>| Row::new(None, values.into_iter().map(Some).collect());
        let rows = rows.into_iter().map(|values| values.map(row).map(Arc::new)).collect();
        Self { joins: vec![Joined { view, select: select.into(), rows }], ..Self::default() }
    }
}
