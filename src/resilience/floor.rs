//! The least that answers took of late: what an attempt needs at the very least.
//!
//! The minimum over this ten-second window and the one before; with no answers for as long, nothing is known and nothing is
//! needed. Of concurrent answers the fastest counts, and one that comes late to its window changes no newer one (loom walks both
//! below). It is a bound for extra attempts only: whoever refuses the first attempts by it starves what it learns from.

use std::{sync::atomic::AtomicU64, time::Duration};

use tokio::time::Instant;

use super::{
    bulkhead::Word,
    slot::{unpack, update},
};

/// How long a window is, in seconds.
const WINDOW: u64 = 10;

/// The least of two windows, each packed: the window's number (from 1) in the high half, microseconds in the low half.
pub struct Floor<W = AtomicU64> {
    origin: Instant,
    windows: [W; 2],
}

impl Floor {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self::of_words(origin)
    }
}

impl<W: Word> Floor<W> {
    fn of_words(origin: Instant) -> Self {
        Self { origin, windows: std::array::from_fn(|_| W::zero()) }
    }

    /// Takes in how long an answer took. One load, unless it is the fastest of its window.
    pub fn record(&self, took: Duration, now: Instant) {
        let (window, micros) = (self.window(now), u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        update(&self.windows[window as usize % 2], |of, least| {
            let known = of > window || of == window && least <= micros;
            (!known).then_some((window, micros))
        });
    }

    /// The least; zero where nothing is known.
    #[must_use]
    pub fn least(&self, now: Instant) -> Duration {
        let window = self.window(now);
        let recent = self.windows.iter().map(|slot| unpack(slot.load()));
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
    use loom::sync::{Arc, atomic::AtomicU64 as Modelled};
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

    /// Two answers in one window; then one of a window whose place a newer one takes at the same time.
    #[test]
    fn loom_the_fastest_counts_and_a_late_one_changes_no_newer_window() {
        for (behind, least) in [(0, 3), (20, 5)] {
            loom::model(move || {
                let origin = Instant::now();
                let at = move |seconds| origin + Duration::from_secs(seconds);
                let floor = Arc::new(Floor::<Modelled>::of_words(origin));
                let other = {
                    let floor = floor.clone();
                    loom::thread::spawn(move || floor.record(Duration::from_micros(3), at(20 - behind)))
                };
                floor.record(Duration::from_micros(5), at(20));
                other.join().unwrap();
                assert_eq!(floor.least(at(20)), Duration::from_micros(least));
            });
        }
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
