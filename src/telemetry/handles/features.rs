//! The feature stage's handles.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    config::View,
    infer::{Reason, ViewId},
    telemetry::{ages::Ages, handles::invalidation::Invalidations, names},
};

/// A layer of the feature store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    L1,
    L2,
    L3,
}

/// What a layer said to one lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Hit,
    StaleHit,
    NegativeHit,
    Miss,
    Error,
    Timeout,
    /// What is stored is no row.
    Unreadable,
}

/// How many outcomes there are.
pub(crate) const OUTCOMES: usize = 7;

/// Where a row was seen whose event is ahead of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    Read,
    Pushed,
}

/// By how many seconds an event may be ahead before it is counted: clocks differ by less.
pub(crate) const SKEW: f64 = 60.0;

/// What L1 would have said, were it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// What the layers behind it said.
    Match,
    /// Another row, or none, or one where there is none.
    Mismatch,
    /// Nothing of use.
    Miss,
}

/// What became of a write-back, or of a pushed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteBack {
    Written,
    Older,
    Error,
    /// Written over a row whose event time could not be read.
    Mended,
}

const OUTCOME_NAMES: [&str; OUTCOMES] = ["hit", "stale_hit", "negative_hit", "miss", "error", "timeout", "unreadable"];
const AHEAD: [&str; 2] = ["read", "pushed"];
const OBSERVED: [&str; 3] = ["match", "mismatch", "miss"];
const WRITE_BACKS: [&str; 4] = ["written", "older", "error", "mended"];
const REASONS: [Reason; 4] = [Reason::NotFound, Reason::Null, Reason::OutsideMaxAge, Reason::Unavailable];
/// Each layer's name and the share of lookups it is expected to answer: 30–40 %, 95–99 %, all.
const LAYERS: [(&str, f64); 3] = [("l1", 0.30), ("l2", 0.95), ("l3", 1.0)];

/// Everything the stage counts.
#[derive(Debug)]
pub(crate) struct Features {
    /// Shared by all snapshots: hit ratios are since start.
    layers: Arc<[LayerHandles; 3]>,
    views: Box<[ViewHandles]>,
    write_backs: [Counter; WRITE_BACKS.len()],
    pushes: [Counter; WRITE_BACKS.len()],
    pub(crate) coalesced: Counter,
    /// Shared by all snapshots.
    observed: Arc<ObservedHandles>,
    pub(crate) early_refreshes: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_denied: Counter,
    pub(crate) invalidations: Arc<Invalidations>,
    l1_bytes: Gauge,
    l1_rows: Gauge,
}

#[derive(Debug)]
struct LayerHandles {
    outcomes: [Counter; OUTCOMES],
    duration: Histogram,
    hit_ratio: Gauge,
    asked: AtomicU64,
    answered: AtomicU64,
}

/// What L1 would have said so far.
#[derive(Debug)]
struct ObservedHandles {
    outcomes: [Counter; 3],
    counts: [AtomicU64; 3],
    hit_ratio: Gauge,
}

impl ObservedHandles {
    fn new() -> Self {
        Self {
            outcomes: OBSERVED.map(|outcome| counter!(names::L1_OBSERVED, "outcome" => outcome)),
            counts: Default::default(),
            hit_ratio: gauge!(names::L1_OBSERVED_HIT_RATIO),
        }
    }

    fn gauge(&self) {
        let [same, other, misses] = [0, 1, 2].map(|outcome: usize| self.counts[outcome].load(Ordering::Relaxed));
        let all = same + other + misses;
        if all > 0 {
            self.hit_ratio.set((same + other) as f64 / all as f64);
        }
    }
}

#[derive(Debug)]
struct ViewHandles {
    age: Histogram,
    /// In the order of `REASONS`.
    defaults: [Counter; 4],
    ahead: [Counter; 2],
    stand_ins: Counter,
}

impl Features {
    pub(crate) fn new(views: &[Arc<View>]) -> Self {
        Self {
            layers: Arc::new(LAYERS.map(|(layer, target)| LayerHandles::new(layer, target))),
            views: ViewHandles::of_all(views),
            write_backs: WRITE_BACKS.map(|outcome| counter!(names::FEATURE_WRITE_BACKS, "outcome" => outcome)),
            pushes: WRITE_BACKS.map(|outcome| counter!(names::FEATURE_PUSHES, "outcome" => outcome)),
            coalesced: counter!(names::FEATURE_COALESCED),
            observed: Arc::new(ObservedHandles::new()),
            early_refreshes: counter!(names::FEATURE_EARLY_REFRESHES),
            retries: counter!(names::FEATURE_RETRIES),
            retries_denied: counter!(names::FEATURE_RETRIES_DENIED),
            invalidations: Arc::new(Invalidations::new()),
            l1_bytes: gauge!(names::L1_BYTES),
            l1_rows: gauge!(names::L1_ROWS),
        }
    }

    /// The same, for what the views have become.
    pub(crate) fn next(&self, views: &[Arc<View>]) -> Self {
        Self {
            layers: Arc::clone(&self.layers),
            views: ViewHandles::of_all(views),
            write_backs: self.write_backs.clone(),
            pushes: self.pushes.clone(),
            coalesced: self.coalesced.clone(),
            observed: Arc::clone(&self.observed),
            early_refreshes: self.early_refreshes.clone(),
            retries: self.retries.clone(),
            retries_denied: self.retries_denied.clone(),
            invalidations: Arc::clone(&self.invalidations),
            l1_bytes: self.l1_bytes.clone(),
            l1_rows: self.l1_rows.clone(),
        }
    }

    /// Counts lookups at a layer, all with one outcome.
    pub(crate) fn looked_up(&self, layer: Layer, outcome: Outcome, count: u64) {
        let layer = &self.layers[layer as usize];
        layer.outcomes[outcome as usize].increment(count);
        layer.asked.fetch_add(count, Ordering::Relaxed);
        if matches!(outcome, Outcome::Hit | Outcome::StaleHit | Outcome::NegativeHit) {
            layer.answered.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Counts what L1 would have said.
    pub(crate) fn observed(&self, observed: Observed, count: u64) {
        self.observed.outcomes[observed as usize].increment(count);
        self.observed.counts[observed as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// How long one request's lookups at a layer took.
    pub(crate) fn took(&self, layer: Layer, duration: std::time::Duration) {
        self.layers[layer as usize].duration.record(duration);
    }

    /// How old the event behind a row is that was served; negative where it is ahead of the clock.
    pub(crate) fn served(&self, view: ViewId, age_seconds: f64) {
        // A histogram's sum must not fall.
        self.views[view.index()].age.record(age_seconds.max(0.0));
        if age_seconds < -SKEW {
            self.ahead(view, Ahead::Read, 1);
        }
    }

    /// The same of many rows.
    pub(crate) fn served_all(&self, view: ViewId, ages: &Ages) {
        ages.record(&self.views[view.index()].age);
        self.ahead(view, Ahead::Read, ages.ahead);
    }

    /// Counts rows whose event is ahead of the clock.
    pub(crate) fn ahead(&self, view: ViewId, seen: Ahead, rows: u64) {
        self.views[view.index()].ahead[seen as usize].increment(rows);
    }

    /// A row of L3 was used in place of what L2 could not say.
    pub(crate) fn stood_in(&self, view: ViewId) {
        self.views[view.index()].stand_ins.increment(1);
    }

    /// Defaults stood in for that many rows.
    pub(crate) fn defaulted(&self, view: ViewId, reason: Reason, rows: u64) {
        self.views[view.index()].defaults[reason as usize].increment(rows);
    }

    pub(crate) fn wrote_back(&self, outcome: WriteBack) {
        self.write_backs[outcome as usize].increment(1);
    }

    /// Counts pushed rows, all with one outcome.
    pub(crate) fn pushed(&self, outcome: WriteBack, rows: u64) {
        self.pushes[outcome as usize].increment(rows);
    }

    /// Sets what is a level rather than a count.
    pub(crate) fn gauge(&self, l1_bytes: u64, l1_rows: u64) {
        self.l1_bytes.set(l1_bytes as f64);
        self.l1_rows.set(l1_rows as f64);
        self.observed.gauge();
        for layer in &*self.layers {
            let asked = layer.asked.load(Ordering::Relaxed);
            if asked > 0 {
                layer.hit_ratio.set(layer.answered.load(Ordering::Relaxed) as f64 / asked as f64);
            }
        }
    }
}

impl LayerHandles {
    fn new(layer: &'static str, target: f64) -> Self {
        gauge!(names::FEATURE_HIT_RATIO_TARGET, "layer" => layer).set(target);
        Self {
            outcomes: OUTCOME_NAMES
                .map(|outcome| counter!(names::FEATURE_LOOKUPS, "layer" => layer, "outcome" => outcome)),
            duration: histogram!(names::FEATURE_LOOKUP_DURATION, "layer" => layer),
            hit_ratio: gauge!(names::FEATURE_HIT_RATIO, "layer" => layer),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }
}

impl ViewHandles {
    fn of_all(views: &[Arc<View>]) -> Box<[Self]> {
        views.iter().map(|view| Self::new(&view.name)).collect()
    }

    fn new(view: &str) -> Self {
        let view = view.to_owned();
        Self {
            age: histogram!(names::FEATURE_AGE, "view" => view.clone()),
            defaults: REASONS
                .map(|reason| counter!(names::FEATURE_DEFAULTS, "view" => view.clone(), "reason" => reason.token())),
            ahead: AHEAD.map(|seen| counter!(names::FEATURE_ROWS_AHEAD, "view" => view.clone(), "seen" => seen)),
            stand_ins: counter!(names::FEATURE_STAND_INS, "view" => view),
        }
    }
}
