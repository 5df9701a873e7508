//! A tally: how much happened of late, in a ring of equal spans of time.
//!
//! What is added counts until its span leaves the ring: between `SPANS - 1` spans and `SPANS` spans after it happened. Counts
//! are exact while a span's sum fits 32 bits, and stay at the most beyond. Concurrent adders lose nothing
//! (`loom_adders_lose_nothing`).

use std::{sync::atomic::AtomicU64, time::Duration};

use tokio::time::Instant;

use super::{
    bulkhead::Word,
    slot::{unpack, update},
};

/// Spans in the ring, the one under way among them.
const SPANS: u32 = 10;

/// Sums of the last `SPANS` spans.
#[derive(Debug)]
pub struct Tally<W = AtomicU64> {
    origin: Instant,
    span: Duration,
    /// The span's number, from 1, in the high half, its sum in the low half.
    ring: [W; SPANS as usize],
}

impl Tally {
    /// A tally over `window`, empty.
    #[must_use]
    pub fn new(window: Duration, origin: Instant) -> Self {
        Self::of_words(window, origin)
    }
}

impl<W: Word> Tally<W> {
    fn of_words(window: Duration, origin: Instant) -> Self {
        Self { origin, span: window / SPANS, ring: std::array::from_fn(|_| W::zero()) }
    }

    /// Adds what happened at `now`.
    pub fn add(&self, amount: u32, now: Instant) {
        let number = self.number(now);
        update(&self.ring[(number % SPANS) as usize], |of, sum| {
            // A caller whose clock reading is older than the slot adds to the newer span: nothing is lost.
            let (of, sum) = if of < number { (number, 0) } else { (of, sum) };
            Some((of, sum.saturating_add(amount)))
        });
    }

    /// The sum over the window that ends at `now`.
    #[must_use]
    pub fn sum(&self, now: Instant) -> u64 {
        let number = self.number(now);
        let slots = self.ring.iter().map(|slot| unpack(slot.load()));
        slots.filter(|(of, _)| *of != 0 && of + SPANS > number).map(|(_, sum)| u64::from(sum)).sum()
    }

    fn number(&self, now: Instant) -> u32 {
        let spans = now.saturating_duration_since(self.origin).as_nanos() / self.span.as_nanos().max(1);
        u32::try_from(spans).unwrap_or(u32::MAX - SPANS - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::{Arc, atomic::AtomicU64 as Modelled};
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_happened_counts_until_its_span_leaves() {
        let origin = Instant::now();
        let tally = Tally::new(10 * SECOND, origin);
        tally.add(3, origin);
        tally.add(4, origin + SECOND);
        assert_eq!(tally.sum(origin + 9 * SECOND), 7);
        assert_eq!(tally.sum(origin + 10 * SECOND), 4);
        assert_eq!(tally.sum(origin + 11 * SECOND), 0);
        tally.add(1, origin + 1000 * SECOND);
        assert_eq!(tally.sum(origin + 1000 * SECOND), 1);
    }

    #[test]
    fn a_span_that_is_full_stays_full() {
        let origin = Instant::now();
        let tally = Tally::new(10 * SECOND, origin);
        (0..3).for_each(|_| tally.add(u32::MAX, origin));
        assert_eq!(tally.sum(origin), u64::from(u32::MAX));
    }

    #[test]
    fn racing_callers_lose_nothing() {
        let origin = Instant::now();
        let tally = Tally::new(10 * SECOND, origin);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| tally.add(1, origin)));
            }
        });
        assert_eq!(tally.sum(origin), 4_000);
    }

    /// Two add to one span; or one opens the next span in the slot, and the other, whose clock is behind, comes before or after.
    #[test]
    fn loom_adders_lose_nothing() {
        for (behind, least) in [(Duration::ZERO, 3), (10 * SECOND, 2)] {
            loom::model(move || {
                let origin = Instant::now();
                let now = origin + 10 * SECOND;
                let tally = Arc::new(Tally::<Modelled>::of_words(10 * SECOND, origin));
                let other = {
                    let tally = tally.clone();
                    loom::thread::spawn(move || tally.add(1, now - behind))
                };
                tally.add(2, now);
                other.join().unwrap();
                assert!((least..=3).contains(&tally.sum(now)), "{}", tally.sum(now));
            });
        }
    }

    proptest! {
        /// Against a list of everything that happened.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((0..4_000u64, 0..9u32), 0..200)) {
            let origin = Instant::now();
            let tally = Tally::new(10 * SECOND, origin);
            let (mut at, mut events) = (0, Vec::<(u64, u32)>::new());
            for (wait, amount) in steps {
                at += wait;
                tally.add(amount, origin + Duration::from_millis(at));
                events.push((at, amount));
                let counts = |then: u64| then / 1_000 + 10 > at / 1_000;
                let expected: u32 = events.iter().filter(|(then, _)| counts(*then)).map(|(_, amount)| amount).sum();
                prop_assert_eq!(tally.sum(origin + Duration::from_millis(at)), u64::from(expected));
            }
        }
    }
}
