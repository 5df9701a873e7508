//! Slow start: one that is new, or back, works up to its full weight in a straight line.
//!
//! Its weight is what share of its turns it takes. It is never under a tenth, so that it gets to do something and to be known.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::since::nanos;

const LEAST: f64 = 0.1;

/// One's way up. At full weight it is one atomic load.
#[derive(Debug)]
pub struct Ramp {
    origin: Instant,
    length: Duration,
    /// Nanoseconds since `origin` when the weight is full; 0: it is.
    full_at: AtomicU64,
}

impl Ramp {
    /// At full weight.
    #[must_use]
    pub const fn new(length: Duration, origin: Instant) -> Self {
        Self { origin, length, full_at: AtomicU64::new(0) }
    }

    /// Begins from the bottom.
    pub fn begin(&self, now: Instant) {
        self.full_at.store(self.nanos(now + self.length), Relaxed);
    }

    /// Is at the top in `at_most` from now, or earlier if it was to be.
    pub fn hurry(&self, at_most: Duration, now: Instant) {
        self.full_at.fetch_min(self.nanos(now + at_most), Relaxed);
    }

    /// From a tenth to 1.
    #[must_use]
    pub fn weight(&self, now: Instant) -> f64 {
        let full_at = self.full_at.load(Relaxed);
        if full_at == 0 {
            return 1.0;
        }
        let left = Duration::from_nanos(full_at.saturating_sub(self.nanos(now)));
        if left.is_zero() {
            // Whoever begins anew meanwhile is not undone.
            let _ = self.full_at.compare_exchange(full_at, 0, Relaxed, Relaxed);
            return 1.0;
        }
        (1.0 - left.as_secs_f64() / self.length.as_secs_f64()).max(LEAST)
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos(self.origin, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_weight_grows_in_a_straight_line() {
        let origin = Instant::now();
        let ramp = Ramp::new(10 * SECOND, origin);
        assert!(ramp.weight(origin) >= 1.0);
        ramp.begin(origin);
        for (seconds, weight) in [(0, 0.1), (2, 0.2), (5, 0.5), (9, 0.9), (10, 1.0), (20, 1.0)] {
            assert!((ramp.weight(origin + seconds * SECOND) - weight).abs() < 1e-9, "{seconds}");
        }
    }

    #[test]
    fn one_in_a_hurry_is_there_earlier_and_never_later() {
        let origin = Instant::now();
        let ramp = Ramp::new(10 * SECOND, origin);
        ramp.hurry(4 * SECOND, origin);
        assert!(ramp.weight(origin) >= 1.0);
        ramp.begin(origin);
        ramp.hurry(4 * SECOND, origin);
        assert!((ramp.weight(origin) - 0.6).abs() < 1e-9);
        ramp.hurry(9 * SECOND, origin);
        assert!(ramp.weight(origin + 4 * SECOND) >= 1.0);
    }

    #[test]
    fn without_a_length_there_is_no_way_up() {
        let origin = Instant::now();
        let ramp = Ramp::new(Duration::ZERO, origin);
        ramp.begin(origin);
        assert!(ramp.weight(origin) >= 1.0);
    }
}
