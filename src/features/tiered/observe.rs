//! Observe mode: L1 is filled and asked as ever, but nothing is served from it. What it would have said is compared with what
//! the layers behind it say, so that a team sees, before it switches caching on, how often L1 would have answered and how often
//! with another row.

use std::sync::Arc;

use tokio::time::Instant;

use super::lookup::{How, Lookup, State};
use crate::{
    features::{
        Row,
        memory::{Cached, Memory},
    },
    infer::Optional,
    telemetry::handles::features::{Features as Handles, Observed},
};

/// What L1 would have said of one key.
#[derive(Debug)]
pub(super) struct Observation {
    join: usize,
    want: usize,
    /// `None`: that there is no such row.
    row: Option<Arc<Row>>,
}

impl Lookup {
    /// Leaves every key open, and notes what L1 would have said of it.
    pub(super) fn observe_l1(
        &mut self,
        l1: &Memory,
        how: &How,
        (metrics, now): (&Handles, Instant),
    ) -> Vec<Observation> {
        let mut observations = Vec::new();
        let mut misses = 0;
        for (j, join) in self.joins.iter_mut().enumerate() {
            let left_out = join.optional && how.optional == Optional::Skipped;
            for (w, want) in join.wants.iter_mut().enumerate() {
                if left_out {
                    want.state = State::Unavailable(None);
                    continue;
                }
                match l1.get(join.view.id, &want.key, now) {
                    // Who bypasses the caches would not have asked L1.
                    _ if how.caching.bypasses() => {}
                    Cached::Fresh(row) => observations.push(Observation { join: j, want: w, row }),
                    Cached::Early(row) => observations.push(Observation { join: j, want: w, row: Some(row) }),
                    Cached::Stale { .. } | Cached::Miss => misses += 1,
                }
            }
        }
        metrics.observed(Observed::Miss, misses);
        observations
    }

    /// Compares that with what was fetched; of what could not be fetched nothing is known.
    pub(super) fn compare(&self, observations: &[Observation], metrics: &Handles) {
        let (mut same, mut other) = (0, 0);
        for Observation { join, want, row } in observations {
            let is_same = match &self.joins[*join].wants[*want].state {
                State::Row(fetched) | State::Early(fetched) => row.as_ref().is_some_and(|row| is_same(row, fetched)),
                State::Absent => row.is_none(),
                State::Open(_) | State::Stale(..) | State::Unavailable(_) | State::Unreadable => continue,
            };
            if is_same { same += 1 } else { other += 1 }
        }
        metrics.observed(Observed::Match, same);
        metrics.observed(Observed::Mismatch, other);
    }
}

/// A row with a NaN is not equal to itself, and yet the same.
fn is_same(row: &Row, other: &Row) -> bool {
    row == other || format!("{row:?}") == format!("{other:?}")
}
