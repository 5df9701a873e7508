//! One absolute deadline per request. A deadline is a point in time, a timeout is a length; the two never mix.

use std::time::Duration;

use tokio::time::Instant;

/// The instant by which the caller must have its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `timeout` from `now`.
    #[must_use]
    pub fn after(now: Instant, timeout: Duration) -> Self {
        Self(now + timeout)
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earliest(self, other: Self) -> Self {
        self.min(other)
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// The same point in time, for tokio's timers.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }
}
