//! One absolute deadline per request. A deadline is a point in time, a timeout is a length; the two never mix.

use std::time::Duration;

use tokio::time::Instant;

/// The instant by which the caller must have its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
    whose: Whose,
}

/// Who gives no more time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// The model's own timeout, or what is derived from it.
    Ours,
    /// A caller that asked for an answer sooner.
    Callers,
}

impl Deadline {
    /// The deadline `timeout` from `now`.
    #[must_use]
    pub fn after(now: Instant, timeout: Duration) -> Self {
        Self { at: now + timeout, whose: Whose::Ours }
    }

    /// The same, of a caller that gives less than it would have.
    #[must_use]
    pub fn asked(now: Instant, timeout: Duration) -> Self {
        Self { whose: Whose::Callers, ..Self::after(now, timeout) }
    }

    /// Whether the caller gave less than it would have had.
    #[must_use]
    pub fn is_callers(self) -> bool {
        self.whose == Whose::Callers
    }

    /// The deadline `timeout` from `now`, for a part of what this one is for.
    #[must_use]
    pub fn part(self, now: Instant, timeout: Duration) -> Self {
        Self { at: now + timeout, ..self }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earliest(self, other: Self) -> Self {
        self.min(other)
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// The same point in time, for tokio's timers.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.at
    }
}
