//! How long a read of L3 takes lately: who has less time left does not wait for one.
//!
//! Follows the reads, one part in eight from the newest, and is forgotten while nobody reads: half of it each second. Else a
//! burst that L3 was too slow for would keep later requests from ever finding out that it is quick again.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::resilience::since::{length, nanos};

/// A hint, not a count: of updates at once one may be lost.
#[derive(Debug)]
pub(super) struct Pace {
    origin: Instant,
    /// Nanoseconds, as of `last`.
    typical: AtomicU64,
    /// Nanoseconds since `origin` of the last read's end.
    last: AtomicU64,
}

impl Pace {
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin, typical: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    /// What a read took that ended at `now`.
    pub(super) fn took(&self, duration: Duration, now: Instant) {
        let typical = length(self.at(now));
        self.last.store(nanos(self.origin, now), Relaxed);
        self.typical.store(typical - typical / 8 + length(duration) / 8, Relaxed);
    }

    /// What one that begins at `now` may be expected to take.
    pub(super) fn at(&self, now: Instant) -> Duration {
        let idle = now.saturating_duration_since(self.origin + Duration::from_nanos(self.last.load(Relaxed)));
        let halvings = u32::try_from(idle.as_secs()).unwrap_or(u32::MAX);
        Duration::from_nanos(self.typical.load(Relaxed).checked_shr(halvings).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_follows_the_reads_and_is_forgotten_without_any() {
        let origin = Instant::now();
        let pace = Pace::new(origin);
        assert_eq!(pace.at(origin), Duration::ZERO, "nothing is known: any request may find out");
        (0..100).for_each(|_| pace.took(160 * MS, origin));
        assert!(pace.at(origin) > 150 * MS && pace.at(origin) <= 160 * MS);
        assert!(pace.at(origin + 4000 * MS) <= 10 * MS, "halved four times");
        assert_eq!(pace.at(origin + 100_000 * MS), Duration::ZERO);
        (0..40).for_each(|_| pace.took(MS, origin));
        assert!(pace.at(origin) < 3 * MS);
    }
}
