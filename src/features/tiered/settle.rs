//! From what each key came to, to what the request gets: rows, defaults, and the truth about both.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    joins::Rows,
    lookup::{JoinLookup, Lookup, State, Want},
};
use crate::{
    config::View,
    features::{FeatureSet, Row, set::Joined},
    infer::{Degradation, Level, Reason, Value},
    telemetry::handles::features::Features as Handles,
};

const REASONS: [Reason; 4] = [Reason::NotFound, Reason::Null, Reason::OutsideMaxAge, Reason::Unavailable];

/// What was not the best about one join.
#[derive(Debug, Default)]
struct Flaws {
    /// The oldest stale row's time in the cache.
    stale: Option<Duration>,
    /// Rows in which defaults stand in, by reason.
    defaults: [u64; 4],
}

impl Lookup {
    /// The set, judged at `now`.
    pub(super) fn settle(self, metrics: &Handles, now: SystemTime) -> FeatureSet {
        let now = nanos(now);
        let mut set = FeatureSet { caches: self.asked.events(), ..FeatureSet::default() };
        set.joins.reserve_exact(self.joins.len());
        for mut join in self.joins {
            let mut flaws = Flaws::default();
            let wants = std::mem::take(&mut join.wants);
            let judged = wants.into_iter().map(|want| flaws.judge(&join, want, (metrics, now)));
            let joined = spread(&join, judged);
            flaws.tell(&join, metrics, &mut set);
            set.joins.push(joined);
        }
        set
    }
}

/// One row an instance.
fn spread(join: &JoinLookup, mut judged: impl Iterator<Item = Option<Arc<Row>>>) -> Joined {
    let rows = match &join.rows {
        Rows::Each(each) => {
            let judged: Vec<_> = judged.collect();
            each.iter().map(|&at| judged[at].clone()).collect()
        }
        Rows::Same(count) => vec![judged.next().flatten(); *count],
    };
    Joined { view: Arc::clone(&join.view), select: Arc::clone(&join.select), rows }
}

impl Flaws {
    /// The row to use, if it may be used.
    fn judge(&mut self, join: &JoinLookup, want: Want, (metrics, now): (&Handles, i64)) -> Option<Arc<Row>> {
        let row = match want.state {
            State::Row(row) | State::Early(row) => row,
            State::Stale(row, age) => {
                self.stale = self.stale.max(Some(age));
                row
            }
            State::Absent => return self.without(Reason::NotFound),
            State::Open(_) | State::Unavailable(_) | State::Unreadable => return self.without(Reason::Unavailable),
        };
        if let Some(time) = row.event_time {
            metrics.served(join.view.id, now.saturating_sub(time) as f64 / 1e9);
        }
        if is_outside_max_age(&join.view, &row, now) {
            return self.without(Reason::OutsideMaxAge);
        }
        let values = || join.select.iter().map(|&feature| &row.values[feature]);
        self.defaults[Reason::NotFound as usize] += u64::from(values().any(Option::is_none));
        self.defaults[Reason::Null as usize] += u64::from(values().any(|value| *value == Some(Value::Null)));
        Some(row)
    }

    fn without(&mut self, reason: Reason) -> Option<Arc<Row>> {
        self.defaults[reason as usize] += 1;
        None
    }

    fn tell(self, join: &JoinLookup, metrics: &Handles, set: &mut FeatureSet) {
        if let Some(age) = self.stale {
            set.degraded.push(Degradation::Stale { view: Arc::clone(&join.view.name), age });
            set.level = set.level.max(Some(Level::ReducedFeatures));
        }
        for (reason, rows) in REASONS.into_iter().zip(self.defaults).filter(|(_, rows)| *rows > 0) {
            metrics.defaulted(join.view.id, reason, rows);
            let told = Degradation::Default { view: Arc::clone(&join.view.name), reason };
            // A view may be joined twice.
            if !set.degraded.contains(&told) {
                set.degraded.push(told);
            }
            if reason == Reason::Unavailable {
                let level = if join.optional { Level::ReducedFeatures } else { Level::SimplifiedModel };
                set.level = set.level.max(Some(level));
            }
        }
    }
}

/// Whether the row's event is further from now than the view's `max_age`, in whole seconds as Feast counts. A row that does not
/// say when its event was cannot be shown to be young enough. Nor can one whose event is as far ahead: a clock or a unit was
/// wrong, and such a row would pass for fresh until long after its time.
pub(super) fn is_outside_max_age(view: &View, row: &Row, now: i64) -> bool {
    const SECOND: i64 = 1_000_000_000;
    view.max_age.is_some_and(|max_age| {
        row.event_time.is_none_or(|time| {
            let age = now.div_euclid(SECOND) - time.div_euclid(SECOND);
            age.unsigned_abs() > max_age.as_secs()
        })
    })
}

pub(super) fn nanos(now: SystemTime) -> i64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
