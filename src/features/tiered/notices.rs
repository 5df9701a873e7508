//! What an operator should hear of rows that are not as they should be: a line a minute and view, however many there are; all
//! are counted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{Shared, fly::Behind, online::Offer, settle::nanos};
use crate::{
    config::View,
    features::{FeatureSet, l2},
    infer::{Degradation, ViewId},
    resilience::seldom::Seldom,
    telemetry::handles::features::{Ahead, SKEW},
};

/// When what was last said, by view.
#[derive(Debug)]
pub(super) struct Notices(Box<[Notice]>);

#[derive(Debug)]
struct Notice {
    unreadable: Seldom,
    ahead: Seldom,
    stale: Seldom,
}

impl Notices {
    pub(super) fn of(views: &[Arc<View>]) -> Self {
        let now = Instant::now();
        let notice = |_| Notice { unreadable: Seldom::new(now), ahead: Seldom::new(now), stale: Seldom::new(now) };
        Self(views.iter().map(notice).collect())
    }
}

impl Shared {
    /// What an error of L2 is to its fetch. The key of a row that cannot be read is told at `debug`: it names somebody.
    pub(super) fn behind(&self, view: &View, error: &l2::Error) -> Behind {
        if !error.is_about_the_row() {
            return Behind::Failure;
        }
        if self.notices.0[view.id.index()].unreadable.is_due(Instant::now()) {
            let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
            tracing::warn!(view = %view.name, %reason, "skipped a row of L2 that cannot be read; further ones are counted only");
        }
        Behind::Unreadable
    }

    /// Rows past their time that answer a request.
    pub(super) fn tell_stale(&self, set: &FeatureSet) {
        for (name, age) in set.degraded.iter().filter_map(stale) {
            let Some(view) = self.views.iter().find(|view| view.name == *name) else { continue };
            if self.notices.0[view.id.index()].stale.is_due(Instant::now()) {
                tracing::warn!(view = %name, age_seconds = age.as_secs(), "rows past their ttl are used; further ones are counted only");
            }
        }
    }

    /// Counts the rows of a push whose event is ahead of the clock: they are stored, and until then no older event replaces them.
    pub(super) fn tell_ahead(&self, view: ViewId, rows: &[Offer]) {
        let now = nanos(SystemTime::now());
        let ahead = |row: &&Offer| row.event_time.saturating_sub(now) as f64 / 1e9 > SKEW;
        let count = rows.iter().filter(ahead).count();
        if count == 0 {
            return;
        }
        self.metrics.ahead(view, Ahead::Pushed, count as u64);
        if self.notices.0[view.index()].ahead.is_due(Instant::now()) {
            let name = &self.views[view.index()].name;
            tracing::warn!(view = %name, rows = count,
                "pushed rows whose event is ahead of this machine's clock: until then no older event replaces them");
        }
    }
}

/// The view whose rows are stale, and the oldest's time in the cache.
const fn stale(degradation: &Degradation) -> Option<(&Arc<str>, Duration)> {
    match degradation {
        Degradation::Stale { view, age } => Some((view, *age)),
        _ => None,
    }
}
