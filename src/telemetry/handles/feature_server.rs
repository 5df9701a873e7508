//! A feature server's handles, where rows are read through it.

use metrics::{Counter, counter};

use crate::telemetry::names;

/// Rows that no other server was asked for, the budget of retries being spent; they count with those of lookups.
#[derive(Debug)]
pub(crate) struct RetriesDenied(Counter);

impl RetriesDenied {
    pub(crate) fn new() -> Self {
        Self(counter!(names::FEATURE_RETRIES_DENIED))
    }

    /// Counts so many rows.
    pub(crate) fn count(&self, rows: usize) {
        self.0.increment(rows as u64);
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With rows.
    Answered,
    /// It says that the request is wrong.
    Refused,
    /// It cannot be reached, or cannot serve.
    Failed,
    /// It did not say anything in time.
    Timeout,
    /// It was not asked: as many requests are under way as may be.
    Full,
}

const OUTCOMES: [&str; 5] = ["answered", "refused", "failed", "timeout", "full"];

/// Everything counted at one server.
pub(crate) struct FeatureServer {
    outcomes: [Counter; 5],
}

impl FeatureServer {
    /// Handles for a server, called what its breaker is.
    pub(crate) fn new(target: &str) -> Self {
        let outcome = |outcome: &'static str| counter!(names::FEATURE_SERVER_REQUESTS, "target" => target.to_owned(), "outcome" => outcome);
        Self { outcomes: OUTCOMES.map(outcome) }
    }

    /// Counts a request.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].increment(1);
    }
}
