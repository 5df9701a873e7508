//! L1's warm start.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// How a warm-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All saved keys were asked for.
    Done,
    /// Its time was up before.
    Timeout,
    /// No keys were saved.
    Nothing,
    /// What was saved is damaged, too large or another version's.
    Refused,
    /// What was saved could not be read.
    Unreachable,
}

const OUTCOMES: [&str; 5] = ["done", "timeout", "nothing", "refused", "unreachable"];

/// What became of a saved key at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Its row is in L1.
    Read,
    /// There is no such row any more.
    Absent,
    /// No layer could say.
    Error,
    /// Its view is gone, or has other join keys.
    Unknown,
    /// The time was up.
    Left,
}

const KEYS: [&str; 5] = ["read", "absent", "error", "unknown_view", "left"];

/// What became of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Save {
    Saved,
    /// L1 holds nothing.
    Empty,
    Error,
}

const SAVES: [&str; 3] = ["saved", "empty", "error"];

/// The counters, each by outcome.
#[derive(Debug)]
pub(crate) struct Warm {
    outcomes: [Counter; 5],
    keys: [Counter; 5],
    took: Gauge,
    saves: [Counter; 3],
    saved: Gauge,
}

impl Warm {
    pub(crate) fn new() -> Self {
        Self {
            outcomes: OUTCOMES.map(|outcome| counter!(names::L1_WARM_UPS, "outcome" => outcome)),
            keys: KEYS.map(|outcome| counter!(names::L1_WARM_UP_KEYS, "outcome" => outcome)),
            took: gauge!(names::L1_WARM_UP_TOOK),
            saves: SAVES.map(|outcome| counter!(names::L1_KEY_SAVES, "outcome" => outcome)),
            saved: gauge!(names::L1_SAVED_KEYS),
        }
    }

    /// A warm-up ended.
    pub(crate) fn ended(&self, outcome: Outcome, took: Duration) {
        self.outcomes[outcome as usize].increment(1);
        self.took.set(took);
    }

    pub(crate) fn keys(&self, key: Key, count: u64) {
        self.keys[key as usize].increment(count);
    }

    pub(crate) fn save(&self, save: Save) {
        self.saves[save as usize].increment(1);
    }

    /// How many the last save saved.
    pub(crate) fn saved(&self, keys: usize) {
        self.saved.set(keys as f64);
    }
}
