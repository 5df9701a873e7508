//! Adaptive throttling: a client that is refused more than it is served stops asking as often.
//!
//! `p = max(0, (requests - 2 · accepts) / (requests + 1))` of the requests are refused without being sent, over the last two
//! minutes; requests are counted before that is decided. Compared here, and no part of the gateway: see `docs/benchmarks.md`.
//!
//! **Source:** Site Reliability Engineering, "Handling Overload", client-side throttling.

use std::time::Duration;

use tokio::time::Instant;

use weir::resilience::tally::Tally;

/// How far back requests count.
const WINDOW: Duration = Duration::from_secs(120);

/// Requests sent for each that is accepted, at least.
const K: f64 = 2.0;

/// One target's throttle.
#[derive(Debug)]
pub(crate) struct Throttle {
    requests: Tally,
    accepts: Tally,
}

impl Throttle {
    /// A throttle that refuses nobody yet.
    pub(crate) fn new(origin: Instant) -> Self {
        Self { requests: Tally::new(WINDOW, origin), accepts: Tally::new(WINDOW, origin) }
    }

    /// Counts a request; whether it may be sent. `unit` is uniform in [0, 1).
    pub(crate) fn admit(&self, unit: f64, now: Instant) -> bool {
        let refused = self.refused(now);
        self.requests.add(1, now);
        unit >= refused
    }

    /// Counts a request that the target took and answered.
    pub(crate) fn accepted(&self, now: Instant) {
        self.accepts.add(1, now);
    }

    /// The share that is refused now.
    fn refused(&self, now: Instant) -> f64 {
        let (requests, accepts) = (self.requests.sum(now) as f64, self.accepts.sum(now) as f64);
        ((requests - K * accepts) / (requests + 1.0)).max(0.0)
    }
}
