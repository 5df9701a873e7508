//! What is counted of invalidations.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::telemetry::names;

/// Where an invalidation came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Redis, which tells that somebody wrote a key.
    Tracking,
    /// Another gateway.
    PubSub,
    /// A topic.
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "it is a label in every build"))]
    Kafka,
    /// A push to this gateway.
    Push,
    /// An operator.
    Admin,
    /// Another Redis has the rows.
    Dr,
}

/// How much an invalidation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Rows,
    View,
    Prefix,
    Slots,
    All,
}

const ORIGINS: [&str; 6] = ["tracking", "pubsub", "kafka", "push", "admin", "dr"];
const EXTENTS: [&str; 5] = ["rows", "view", "prefix", "slots", "all"];

/// Everything counted of them; the same for all snapshots.
#[derive(Debug)]
pub(crate) struct Invalidations {
    origins: [OfOrigin; ORIGINS.len()],
}

#[derive(Debug)]
struct OfOrigin {
    extents: [Counter; EXTENTS.len()],
    rows: Counter,
    delay: Histogram,
}

impl Invalidations {
    pub(crate) fn new() -> Self {
        Self { origins: ORIGINS.map(OfOrigin::new) }
    }

    /// Counts one; `delay`: since what it is about was written, where that is known.
    pub(crate) fn came(&self, origin: Origin, extent: Extent, delay: Option<Duration>) {
        let origin = &self.origins[origin as usize];
        origin.extents[extent as usize].increment(1);
        if let Some(delay) = delay {
            origin.delay.record(delay);
        }
    }

    /// Counts rows that it dropped.
    pub(crate) fn dropped(&self, origin: Origin, rows: u64) {
        self.origins[origin as usize].rows.increment(rows);
    }
}

/// A way on which invalidations come.
#[derive(Debug)]
pub(crate) struct Channel {
    up: Gauge,
    losses: Counter,
    delay: Histogram,
}

impl Channel {
    /// That of an origin's name, which is not there yet.
    pub(crate) fn new(name: &'static str) -> Self {
        let channel = Self {
            up: gauge!(names::INVALIDATION_CHANNEL_UP, "channel" => name),
            losses: counter!(names::INVALIDATION_CHANNEL_LOSSES, "channel" => name),
            delay: histogram!(names::INVALIDATION_DELAY, "origin" => name),
        };
        channel.show(false);
        channel
    }

    /// Whether all of it is there.
    pub(crate) fn show(&self, up: bool) {
        self.up.set(u32::from(up));
    }

    /// Rows were dropped so long after they were written.
    pub(crate) fn dropped_after(&self, delay: Duration) {
        self.delay.record(delay);
    }

    /// Counts that some of it was lost.
    pub(crate) fn lost(&self) {
        self.losses.increment(1);
    }
}

impl OfOrigin {
    fn new(origin: &'static str) -> Self {
        Self {
            extents: EXTENTS.map(|scope| counter!(names::INVALIDATIONS, "origin" => origin, "scope" => scope)),
            rows: counter!(names::INVALIDATED_ROWS, "origin" => origin),
            delay: histogram!(names::INVALIDATION_DELAY, "origin" => origin),
        }
    }
}
