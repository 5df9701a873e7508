//! A Redis server's handles.

use metrics::{Counter, counter};

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
