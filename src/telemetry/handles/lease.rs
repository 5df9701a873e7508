//! What gateways tell each other, and the lease that lets one of them keep `write_through` rows.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::telemetry::names;

/// Why all `write_through` rows in L1 are of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The connection on which changes are heard broke.
    Disconnected,
    /// Another gateway revoked the lease, or it was not renewed in time.
    Revoked,
}

/// How the wait of a push for the other gateways ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// All acknowledged.
    Acknowledged,
    /// Somebody did not, and its lease ran out.
    RanOut,
    /// The table of leases was lost: what was left of a lease was waited for.
    Unknown,
    /// Nobody could be told, or not in time: nothing was written.
    Failed,
    /// Written, but the round was not found when it ended: not acknowledged.
    Unconfirmed,
}

/// How much of L1 is let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LetGo {
    All,
    Nothing,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Hold,
    Release,
    Heard,
    Dropped,
    /// It is no message.
    Unreadable,
}

const FENCES: [&str; 2] = ["disconnected", "revoked"];
const WAITS: [&str; 5] = ["acknowledged", "lease_ran_out", "table_lost", "failed", "unconfirmed"];
const LET_GO: [&str; 2] = ["all", "nothing"];
const TOLD: [&str; 5] = ["hold", "release", "heard", "dropped", "unreadable"];

/// The handles. A gauge of what a gateway does not have is not shown: its 0 would be an outage.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Shown where L1 keeps rows under a lease.
    pub(crate) held: Gauge,
    /// Shown where there are other gateways to be heard.
    pub(crate) connected: Gauge,
    fences: [Counter; 2],
    waits: [Counter; 5],
    acknowledgement: Histogram,
    heard: [Counter; 5],
    rows_untold: Counter,
    gaps: [Counter; 2],
    pub(crate) rows_held: Gauge,
}

impl Lease {
    /// Of a gateway that keeps nothing under a lease, and hears of no other.
    pub(crate) fn new() -> Self {
        Self {
            held: Gauge::noop(),
            connected: Gauge::noop(),
            fences: FENCES.map(|reason| counter!(names::LEASE_FENCES, "reason" => reason)),
            waits: WAITS.map(|outcome| counter!(names::PUSH_ROUNDS, "outcome" => outcome)),
            acknowledgement: histogram!(names::PUSH_ACKNOWLEDGEMENT),
            heard: TOLD.map(|kind| counter!(names::BUS_MESSAGES, "kind" => kind)),
            rows_untold: counter!(names::BUS_ROWS_UNTOLD),
            gaps: LET_GO.map(|dropped| counter!(names::BUS_GAPS, "dropped" => dropped)),
            rows_held: gauge!(names::PUSH_ROWS_HELD),
        }
    }

    /// Of one that there are others beside.
    pub(crate) fn hearing(self) -> Self {
        Self { connected: gauge!(names::BUS_CONNECTED), ..self }
    }

    /// Of one that keeps rows under a lease.
    pub(crate) fn keeping(self) -> Self {
        Self { held: gauge!(names::LEASE_HELD), ..self }
    }

    /// All rows are of no use any more.
    pub(crate) fn fenced(&self, why: Fence) {
        self.fences[why as usize].increment(1);
        self.held.set(0.0);
    }

    /// A push's wait for the other gateways ended.
    pub(crate) fn waited(&self, wait: Wait, took: Duration) {
        self.waits[wait as usize].increment(1);
        if matches!(wait, Wait::Acknowledged | Wait::RanOut | Wait::Unknown) {
            self.acknowledgement.record(took);
        }
    }

    /// A push's round was not confirmed.
    pub(crate) fn unconfirmed(&self) {
        self.waits[Wait::Unconfirmed as usize].increment(1);
    }

    /// A message came.
    pub(crate) fn heard(&self, told: Told) {
        self.heard[told as usize].increment(1);
    }

    /// The other gateways are heard again, and so much of L1 was let go of for what may have been missed.
    pub(crate) fn missed(&self, dropped: LetGo) {
        self.gaps[dropped as usize].increment(1);
    }

    /// Changed rows that the other gateways were not told of.
    pub(crate) fn untold(&self, rows: u64) {
        self.rows_untold.increment(rows);
    }
}
