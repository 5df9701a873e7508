//! A Redis server's handles.

use metrics::{Counter, counter};

use super::breaker::BreakerHandles;
use crate::telemetry::names;

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Open,
    Full,
}

const REFUSALS: [&str; 2] = ["open", "full"];

/// Everything counted at one server.
pub(crate) struct Redis {
    pub(crate) breaker: BreakerHandles,
    refused: [Counter; 2],
}

impl Redis {
    /// Handles for the server at an address; its breaker is closed.
    pub(crate) fn new(address: &str) -> Self {
        let target = format!("redis/{address}");
        let refused =
            |reason: &'static str| counter!(names::REDIS_REFUSED, "target" => target.clone(), "reason" => reason);
        Self { breaker: BreakerHandles::new(&target), refused: REFUSALS.map(refused) }
    }

    pub(crate) fn refused(&self, why: Refusal) {
        self.refused[why as usize].increment(1);
    }
}
