//! A pool's adaptive limit (`pools.X.limit: adaptive`): over it, requests are refused, since a queue before a pool that is already
//! slow only makes it slower to notice. `docs/benchmarks.md` has the numbers that it was chosen by.
//!
//! Counts are exact; a round trip that finds another being noted is left out, which costs nobody a wait.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    config::{Capacity, Pool},
    resilience::gradient::{Gradient, Windows},
    telemetry::handles::admission::PoolLimit,
};

/// What a pool that nothing is known of may have at once.
const START: u32 = 20;

pub(super) struct Limit {
    in_flight: AtomicU32,
    most: AtomicU32,
    windows: Mutex<Windows>,
    shown: PoolLimit,
}

impl Limit {
    pub(super) fn new(pool: &Pool, capacity: &Capacity, now: Instant) -> Self {
        let windows = Windows::new(Gradient::new(START, 1, capacity.slots), now);
        let shown = PoolLimit::new(&pool.name);
        Self {
            in_flight: AtomicU32::new(0),
            most: AtomicU32::new(windows.limit()),
            windows: Mutex::new(windows),
            shown,
        }
    }

    /// Counts one more; `false` where there are as many as may be.
    pub(super) fn enter(&self) -> bool {
        // Counted first and taken back, so that two callers cannot both take the last place.
        let entered = self.in_flight.fetch_add(1, Relaxed) < self.most.load(Relaxed);
        if !entered {
            self.leave();
        }
        entered
    }

    /// Whether one more would be let in; it may have changed by then.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.load(Relaxed) < self.most.load(Relaxed)
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Learns from a round trip that ended at `now`.
    pub(super) fn observe(&self, took: Duration, now: Instant) {
        let Ok(mut windows) = self.windows.try_lock() else { return };
        windows.observe(took, self.in_flight.load(Relaxed), now);
        self.most.store(windows.limit(), Relaxed);
    }

    /// Sets the gauge.
    pub(super) fn show(&self) {
        self.shown.set(self.most.load(Relaxed));
    }
}
