//! Looks at Feast's registry.

use metrics::{Counter, counter};

use crate::telemetry::names;

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is what it was.
    Unchanged,
    /// It changed, and what it has become is served.
    Changed,
    /// It changed, and what it was before is served on.
    Refused,
    /// It could not be fetched.
    Unreachable,
}

const OUTCOMES: [&str; 4] = ["unchanged", "changed", "refused", "unreachable"];

impl Outcome {
    /// Its name as a label.
    pub(crate) const fn name(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

/// The counters, by outcome.
#[derive(Debug)]
pub(crate) struct Registry([Counter; 4]);

impl Registry {
    pub(crate) fn new() -> Self {
        Self(OUTCOMES.map(|outcome| counter!(names::REGISTRY_REFRESHES, "outcome" => outcome)))
    }

    pub(crate) fn looked(&self, outcome: Outcome) {
        self.0[outcome as usize].increment(1);
    }
}
