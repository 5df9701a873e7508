//! The least that answers took of late: what an attempt needs at the very least.
//!
//! The minimum over this ten-second window and the one before; with no answers for as long, nothing is known and nothing is
//! needed. It is a bound for extra attempts only: whoever refuses the first attempts by it starves what it learns from.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::slot::{pack, unpack};

/// How long a window is, in seconds.
const WINDOW: u64 = 10;

/// The least of two windows, each packed: the window's number (from 1) in the high half, microseconds in the low half.
pub struct Floor {
    origin: Instant,
    windows: [AtomicU64; 2],
}

impl Floor {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self { origin, windows: [const { AtomicU64::new(0) }; 2] }
    }

    /// Takes in how long an answer took. One load, unless it is the fastest of its window.
    pub fn record(&self, took: Duration, now: Instant) {
        let (window, micros) = (self.window(now), u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        let slot = &self.windows[window as usize % 2];
        let mut seen = slot.load(Relaxed);
        loop {
            let (of, least) = unpack(seen);
            if of > window || of == window && least <= micros {
                return;
            }
            match slot.compare_exchange_weak(seen, pack(window, micros), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// The least; zero where nothing is known.
    #[must_use]
    pub fn least(&self, now: Instant) -> Duration {
        let window = self.window(now);
        let recent = self.windows.iter().map(|slot| unpack(slot.load(Relaxed)));
        let recent = recent.filter(|(of, _)| *of != 0 && of + 1 >= window);
        recent.map(|(_, micros)| micros).min().map_or(Duration::ZERO, |micros| Duration::from_micros(micros.into()))
    }

    fn window(&self, now: Instant) -> u32 {
        let number = now.saturating_duration_since(self.origin).as_secs() / WINDOW;
        u32::try_from(number).unwrap_or(u32::MAX - 2) + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_needed_where_nothing_is_known() {
        let origin = Instant::now();
        let floor = Floor::new(origin);
        assert_eq!(floor.least(origin), Duration::ZERO);
        floor.record(Duration::from_millis(7), origin);
        assert_eq!(floor.least(origin + Duration::from_secs(19)), Duration::from_millis(7));
        assert_eq!(floor.least(origin + Duration::from_secs(20)), Duration::ZERO, "forgotten");
    }

    #[test]
    fn of_racing_callers_the_fastest_counts() {
        let origin = Instant::now();
        let floor = Floor::new(origin);
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let floor = &floor;
                scope.spawn(move || {
                    (0..1_000).for_each(|n| floor.record(Duration::from_micros(5_000 - n + thread), origin))
                });
            }
        });
        assert_eq!(floor.least(origin), Duration::from_micros(4_002));
    }

    proptest! {
        /// Against the list of all answers.
        #[test]
        fn agrees_with_a_list_of_answers(steps in prop::collection::vec((0..8u64, 0..9_000u64), 0..200)) {
            let origin = Instant::now();
            let floor = Floor::new(origin);
            let (mut at, mut answers) = (0, Vec::<(u64, u64)>::new());
            for (wait, micros) in steps {
                at += wait;
                let now = origin + Duration::from_secs(at);
                floor.record(Duration::from_micros(micros), now);
                answers.push((at / 10, micros));
                let least = answers.iter().filter(|(window, _)| window + 1 >= at / 10).map(|(_, micros)| *micros).min();
                prop_assert_eq!(floor.least(now), Duration::from_micros(least.unwrap()));
            }
        }
    }
}
