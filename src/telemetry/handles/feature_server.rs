//! A feature server's handles, where rows are read through it.

use metrics::{Counter, counter};

use super::breaker::BreakerHandles;
use crate::telemetry::names;

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
    pub(crate) breaker: BreakerHandles,
    outcomes: [Counter; 5],
}

impl FeatureServer {
    /// Handles for the server at an address; its breaker is closed.
    pub(crate) fn new(address: &str) -> Self {
        let target = format!("feature_server/{address}");
        let outcome = |outcome: &'static str| counter!(names::FEATURE_SERVER_REQUESTS, "target" => target.clone(), "outcome" => outcome);
        Self { breaker: BreakerHandles::new(&target), outcomes: OUTCOMES.map(outcome) }
    }

    /// Counts a request.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].increment(1);
    }
}
