//! A Redis server's handles.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::{install::hide, names};

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Open,
    Full,
}

const REFUSALS: [&str; 2] = ["open", "full"];

/// Everything counted at one server.
pub(crate) struct Redis {
    refused: [Counter; 2],
}

impl Redis {
    /// Handles for a server, called what its breaker is.
    pub(crate) fn new(target: &str) -> Self {
        let refused =
            |reason: &'static str| counter!(names::REDIS_REFUSED, "target" => target.to_owned(), "reason" => reason);
        Self { refused: REFUSALS.map(refused) }
    }

    pub(crate) fn refused(&self, why: Refusal) {
        self.refused[why as usize].increment(1);
    }
}

/// What became of rows that were to be read from a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Answered,
    /// It says that there is none.
    Absent,
    /// It does not have the slot any more.
    Moved,
    Failed,
    /// None is near enough to its master.
    Behind,
}

impl Read {
    pub(crate) const COUNT: usize = 5;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Answered, Self::Absent, Self::Moved, Self::Failed, Self::Behind];
    const NAMES: [&str; Self::COUNT] = ["answered", "absent", "moved", "failed", "behind"];
}

/// Reads of replicas.
#[derive(Debug)]
pub(crate) struct ReplicaReads([Counter; Read::COUNT]);

impl ReplicaReads {
    pub(crate) fn new() -> Self {
        Self(Read::NAMES.map(|outcome| counter!(names::REDIS_REPLICA_READS, "outcome" => outcome)))
    }

    pub(crate) fn count(&self, what: Read, rows: u64) {
        self.0[what as usize].increment(rows);
    }
}

/// How far a replica is behind.
#[derive(Debug)]
pub(crate) struct Lag(Gauge);

impl Lag {
    /// Of a server, called what its breaker is; nothing is shown yet.
    pub(crate) fn new(target: &str) -> Self {
        let lag = Self(gauge!(names::REDIS_REPLICA_LAG, "target" => target.to_owned()));
        lag.show(None);
        lag
    }

    pub(crate) fn show(&self, lag: Option<Duration>) {
        match lag {
            Some(lag) => self.0.set(lag.as_secs_f64()),
            None => hide(&self.0),
        }
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        hide(&self.0);
    }
}
