//! Hot keys and their copies.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// What became of a read that went to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyRead {
    /// It had the row.
    Hit,
    /// It was not there, or did not have the row: the key was asked.
    Miss,
    /// Its server did not answer: the key was asked.
    Error,
}

const COPY_READS: [&str; 3] = ["hit", "miss", "error"];

/// What became of a copy that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Made,
    /// Another gateway made it lately.
    Adopted,
    /// Another gateway is at it.
    Waits,
    /// It was invalidated meanwhile: what was read may be old.
    Outdated,
    /// There is no such row.
    Absent,
    Error,
}

const FILLS: [&str; 6] = ["made", "adopted", "waits", "outdated", "absent", "error"];

/// Whether all copies that there may be of a key were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Removed,
    Error,
}

const REMOVALS: [&str; 2] = ["removed", "error"];

/// Whether gateways could tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    Told,
    Error,
}

const SHARED: [&str; 2] = ["told", "error"];

/// Everything that is counted of hot keys.
#[derive(Debug)]
pub(crate) struct HotKeys {
    keys: Gauge,
    copies: Gauge,
    reads: [Counter; COPY_READS.len()],
    fills: [Counter; FILLS.len()],
    removals: [Counter; REMOVALS.len()],
    shared: [Counter; SHARED.len()],
    gateways: Gauge,
    pub(crate) refreshes: Counter,
}

impl HotKeys {
    pub(crate) fn new() -> Self {
        Self {
            keys: gauge!(names::HOT_KEYS),
            copies: gauge!(names::HOT_KEY_COPIES),
            reads: COPY_READS.map(|outcome| counter!(names::HOT_KEY_COPY_READS, "outcome" => outcome)),
            fills: FILLS.map(|outcome| counter!(names::HOT_KEY_COPY_FILLS, "outcome" => outcome)),
            removals: REMOVALS.map(|outcome| counter!(names::HOT_KEY_COPY_REMOVALS, "outcome" => outcome)),
            shared: SHARED.map(|outcome| counter!(names::HOT_KEY_EXCHANGES, "outcome" => outcome)),
            gateways: gauge!(names::HOT_KEY_GATEWAYS),
            refreshes: counter!(names::HOT_KEY_REFRESHES),
        }
    }

    /// How many keys are hot, how many of their copies are read, and how many gateways say so.
    pub(crate) fn stand(&self, keys: usize, copies: usize, gateways: usize) {
        self.keys.set(keys as f64);
        self.copies.set(copies as f64);
        self.gateways.set(gateways as f64);
    }

    pub(crate) fn read(&self, outcome: CopyRead) {
        self.reads[outcome as usize].increment(1);
    }

    pub(crate) fn filled(&self, outcome: Fill) {
        self.fills[outcome as usize].increment(1);
    }

    pub(crate) fn removed(&self, outcome: Removal) {
        self.removals[outcome as usize].increment(1);
    }

    pub(crate) fn exchanged(&self, outcome: Shared) {
        self.shared[outcome as usize].increment(1);
    }
}
