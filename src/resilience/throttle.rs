//! Adaptive throttling: a client that is refused more than it is served stops asking as often.
//!
//! `p = max(0, (requests - 2 · accepts) / (requests + 1))` of the requests are refused without being sent, over the last two
//! minutes; requests are counted before that is decided. It does not know why a request was refused.
//!
//! **Source:** Site Reliability Engineering, "Handling Overload", client-side throttling.

use std::time::Duration;

use tokio::time::Instant;

use super::tally::Tally;

/// How far back requests count.
const WINDOW: Duration = Duration::from_secs(120);

/// Requests sent for each that is accepted, at least.
const K: f64 = 2.0;

/// One target's throttle.
#[derive(Debug)]
pub struct Throttle {
    requests: Tally,
    accepts: Tally,
}

impl Throttle {
    /// A throttle that refuses nobody yet.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self { requests: Tally::new(WINDOW, origin), accepts: Tally::new(WINDOW, origin) }
    }

    /// Counts a request; whether it may be sent. `unit` is uniform in [0, 1).
    #[must_use]
    pub fn admit(&self, unit: f64, now: Instant) -> bool {
        let refused = self.refused(now);
        self.requests.add(1, now);
        unit >= refused
    }

    /// Counts a request that the target took and answered.
    pub fn accepted(&self, now: Instant) {
        self.accepts.add(1, now);
    }

    /// The share that is refused now.
    #[must_use]
    pub fn refused(&self, now: Instant) -> f64 {
        let (requests, accepts) = (self.requests.sum(now) as f64, self.accepts.sum(now) as f64);
        ((requests - K * accepts) / (requests + 1.0)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_served_is_never_held_back() {
        let origin = Instant::now();
        let throttle = Throttle::new(origin);
        for _ in 0..100 {
            assert!(throttle.admit(0.0, origin));
            throttle.accepted(origin);
        }
    }

    #[test]
    fn who_is_refused_asks_less_and_less_and_again_after_two_minutes() {
        let origin = Instant::now();
        let throttle = Throttle::new(origin);
        for _ in 0..99 {
            let _admitted = throttle.admit(0.0, origin);
        }
        assert!((throttle.refused(origin) - 0.99).abs() < 1e-9);
        assert!(!throttle.admit(0.98, origin) && throttle.admit(0.995, origin));
        assert!(throttle.refused(origin + 120 * SECOND) == 0.0);
    }

    proptest! {
        #[test]
        fn refuses_the_share_of_the_book(steps in prop::collection::vec(any::<bool>(), 0..200)) {
            let origin = Instant::now();
            let throttle = Throttle::new(origin);
            let (mut requests, mut accepts) = (0.0, 0.0);
            for accepted in steps {
                let _admitted = throttle.admit(0.0, origin);
                requests += 1.0;
                if accepted {
                    throttle.accepted(origin);
                    accepts += 1.0;
                }
                let share = f64::max(0.0, (requests - 2.0 * accepts) / (requests + 1.0));
                prop_assert!((throttle.refused(origin) - share).abs() < 1e-12);
            }
        }
    }
}
