//! A few at once, then one every so often: a bucket of tokens in one atomic.
//!
//! What was not used is there again one by one, and never more than the few. Invariant: within any length of time no more are let by
//! than the few, and one for each pause that fits into it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::since::{length, nanos};

/// Lets by so many at once, and then one each pause.
///
/// **Source:** the generic cell rate algorithm (ITU-T I.371), as virtual scheduling.
#[derive(Debug)]
pub struct Trickle {
    origin: Instant,
    /// How far ahead of time the last of the few is.
    slack: Duration,
    /// Nanoseconds since `origin` when all of the few are there.
    full_at: AtomicU64,
}

impl Trickle {
    /// `few` at once, one each `pause`.
    #[must_use]
    pub const fn new(few: u32, pause: Duration, origin: Instant) -> Self {
        Self { origin, slack: pause.saturating_mul(few.saturating_sub(1)), full_at: AtomicU64::new(0) }
    }

    /// Lets one by, if it is time; then the next is due another `pause` later than it was.
    pub fn take(&self, pause: Duration, now: Instant) -> bool {
        let at = nanos(self.origin, now);
        let next = |full_at: u64| {
            let is_due = full_at <= at.saturating_add(length(self.slack));
            is_due.then(|| full_at.max(at).saturating_add(length(pause)))
        };
        self.full_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// In what time one would be let by.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let due = self.full_at.load(Relaxed).saturating_sub(length(self.slack));
        Duration::from_nanos(due.saturating_sub(nanos(self.origin, now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_few_at_once_and_then_one_each_pause() {
        let origin = Instant::now();
        let trickle = Trickle::new(3, SECOND, origin);
        let let_by = |from: u32, to: u32| {
            (from..to).filter(|tenth| trickle.take(SECOND, origin + SECOND * *tenth / 10)).collect::<Vec<_>>()
        };
        assert_eq!([(); 4].map(|()| trickle.take(SECOND, origin)), [true, true, true, false]);
        assert_eq!(trickle.wait(origin + SECOND / 4), SECOND * 3 / 4);
        assert_eq!(let_by(1, 35), [10, 20, 30]);
        assert_eq!(let_by(100, 125), [100, 101, 102, 110, 120], "the few are there again after a while, and no more");
    }

    #[test]
    fn a_longer_pause_puts_off_the_next() {
        let origin = Instant::now();
        let trickle = Trickle::new(1, SECOND, origin);
        assert!(trickle.take(SECOND * 5 / 4, origin));
        assert_eq!(trickle.wait(origin), SECOND * 5 / 4);
        assert!(!trickle.take(SECOND, origin + SECOND) && trickle.take(SECOND, origin + SECOND * 5 / 4));
        assert_eq!(trickle.wait(origin + 9 * SECOND), Duration::ZERO);
    }
}
