//! Which share of what happened in the last ten seconds was bad (too slow, timed out), and whether that is too much now.
//!
//! Too much needs a bad one within the last second besides: quiet begins with the last bad event, not when the window has
//! forgotten it, and without traffic nothing is too much. What is counted counts for nine to ten seconds.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{since::nanos, tally::Tally};

/// How long an event counts.
const WINDOW: Duration = Duration::from_secs(10);

/// How long ago the last bad one may be.
const RECENT: Duration = Duration::from_secs(1);

/// How an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// As it should be.
    Good,
    /// Not so.
    Bad,
}

/// A share that is too much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// All above it.
    Above(f64),
    /// It and all above.
    AtLeast(f64),
}

impl Bound {
    /// Dividing is exact where it matters: a share as it is written and the quotient that equals it are the same float.
    fn is_met(self, Counts { bad, all }: Counts) -> bool {
        let share = bad as f64 / all as f64;
        match self {
            Self::Above(bound) => share > bound,
            Self::AtLeast(bound) => share >= bound,
        }
    }
}

/// When a share is too much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The share.
    pub bound: Bound,
    /// Fewer events prove nothing.
    pub least: u32,
}

/// What a share says of whoever it is the share of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excess {
    /// It is not too much.
    #[default]
    None,
    /// It is, of fewer events than prove it.
    OfFew,
    /// It is.
    Proven,
}

/// Events of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The bad ones.
    pub bad: u64,
    /// The bad and the good ones.
    pub all: u64,
}

/// The share of bad events. Concurrent callers lose nothing; a good event costs one atomic operation, a bad one three.
#[derive(Debug)]
pub struct BadRatio {
    origin: Instant,
    bad: Tally,
    all: Tally,
    /// Nanoseconds since `origin` of the last bad event, and one; 0: there was none.
    last_bad: AtomicU64,
}

impl BadRatio {
    /// One that knows no events.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        let tally = || Tally::new(WINDOW, origin);
        Self { origin, bad: tally(), all: tally(), last_bad: AtomicU64::new(0) }
    }

    /// Counts an event.
    pub fn note(&self, event: Event, now: Instant) {
        self.all.add(1, now);
        if event == Event::Bad {
            self.bad.add(1, now);
            self.last_bad.fetch_max(self.nanos(now).saturating_add(1), Relaxed);
        }
    }

    /// What happened in the window that ends at `now`.
    #[must_use]
    pub fn counts(&self, now: Instant) -> Counts {
        // In this order a concurrent caller's event is no bad one of none.
        let bad = self.bad.sum(now);
        Counts { bad, all: self.all.sum(now).max(bad) }
    }

    /// Whether it is too much at `now`.
    #[must_use]
    pub fn is_over(&self, limit: &Limit, now: Instant) -> bool {
        self.excess(limit, now) == Excess::Proven
    }

    /// Whether it is too much at `now`, and whether enough happened to say so.
    #[must_use]
    pub fn excess(&self, limit: &Limit, now: Instant) -> Excess {
        if !self.was_bad_of_late(now) {
            return Excess::None;
        }
        let counts = self.counts(now);
        if counts.all == 0 || !limit.bound.is_met(counts) {
            Excess::None
        } else if counts.all < u64::from(limit.least) {
            Excess::OfFew
        } else {
            Excess::Proven
        }
    }

    fn was_bad_of_late(&self, now: Instant) -> bool {
        let last = self.last_bad.load(Relaxed);
        last != 0 && Duration::from_nanos(self.nanos(now).saturating_sub(last - 1)) < RECENT
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(self.origin, now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// P99 of twenty or more.
    const SLOW: Limit = Limit { bound: Bound::Above(0.01), least: 20 };
    const TIMEOUTS: Limit = Limit { bound: Bound::AtLeast(0.05), least: 20 };

    fn noted(bad: u32, good: u32) -> (BadRatio, Instant) {
        let origin = Instant::now();
        let ratio = BadRatio::new(origin);
        (0..good).for_each(|_| ratio.note(Event::Good, origin));
        (0..bad).for_each(|_| ratio.note(Event::Bad, origin));
        (ratio, origin)
    }

    #[test]
    fn a_bound_is_met_from_it_on_or_only_above() {
        for (bad, good, limit, expected) in [
            (1, 99, SLOW, false),
            (2, 98, SLOW, true),
            (1, 19, SLOW, true),
            (0, 100, SLOW, false),
            (1, 19, TIMEOUTS, true),
            (1, 20, TIMEOUTS, false),
            (7, 133, TIMEOUTS, true),
        ] {
            let (ratio, now) = noted(bad, good);
            assert_eq!(ratio.is_over(&limit, now), expected, "{bad} of {}", bad + good);
        }
    }

    #[test]
    fn a_share_as_it_is_written_meets_its_bound_exactly() {
        for percent in 1..=100u32 {
            let (ratio, now) = noted(percent, 100 - percent);
            let share: f64 = format!("{}.{:02}", percent / 100, percent % 100).parse().unwrap();
            let over = |bound| ratio.is_over(&Limit { bound, least: 1 }, now);
            assert!(over(Bound::AtLeast(share)) && !over(Bound::Above(share)), "{percent} %");
        }
    }

    #[test]
    fn few_events_prove_nothing() {
        let (ratio, now) = noted(19, 0);
        assert!(!ratio.is_over(&TIMEOUTS, now));
        let (ratio, now) = noted(20, 0);
        assert!(ratio.is_over(&TIMEOUTS, now));
        let (ratio, now) = noted(0, 0);
        assert!(!ratio.is_over(&Limit { bound: Bound::AtLeast(0.0), least: 0 }, now), "no traffic, no signal");
    }

    #[test]
    fn too_much_of_few_is_told_apart() {
        for (bad, good, expected) in [
            (0, 5, Excess::None),
            (1, 0, Excess::OfFew),
            (1, 18, Excess::OfFew),
            (1, 19, Excess::Proven),
            (1, 20, Excess::None),
        ] {
            let (ratio, now) = noted(bad, good);
            assert_eq!(ratio.excess(&TIMEOUTS, now), expected, "{bad} of {}", bad + good);
            assert_eq!(ratio.excess(&TIMEOUTS, now + SECOND), Excess::None, "quiet");
        }
    }

    #[test]
    fn quiet_begins_with_the_last_bad_event() {
        let (ratio, origin) = noted(10, 10);
        assert!(ratio.is_over(&TIMEOUTS, origin + SECOND - Duration::from_nanos(1)));
        assert!(!ratio.is_over(&TIMEOUTS, origin + SECOND), "the window still holds it");
        assert_eq!(ratio.counts(origin + SECOND), Counts { bad: 10, all: 20 });
        ratio.note(Event::Bad, origin + 2 * SECOND);
        assert!(ratio.is_over(&TIMEOUTS, origin + 2 * SECOND));
        assert_eq!(ratio.counts(origin + 12 * SECOND), Counts::default());
    }

    #[test]
    fn racing_callers_lose_nothing() {
        let origin = Instant::now();
        let ratio = BadRatio::new(origin);
        std::thread::scope(|scope| {
            for event in [Event::Bad, Event::Good, Event::Good, Event::Bad] {
                let ratio = &ratio;
                scope.spawn(move || (0..1_000).for_each(|_| ratio.note(event, origin)));
            }
        });
        assert_eq!(ratio.counts(origin), Counts { bad: 2_000, all: 4_000 });
    }

    proptest! {
        /// Against a list of everything that happened.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((0..1_500u64, any::<bool>()), 0..200), least in 0..30u32) {
            let origin = Instant::now();
            let (ratio, at_least) = (BadRatio::new(origin), Limit { bound: Bound::AtLeast(0.5), least });
            let (mut at, mut events) = (0, Vec::<(u64, bool)>::new());
            for (wait, bad) in steps {
                at += wait;
                let now = origin + Duration::from_millis(at);
                let counted: Vec<_> = events.iter().filter(|(then, _)| then / 1_000 + 10 > at / 1_000).collect();
                let bad_ones = counted.iter().filter(|(_, bad)| *bad).count();
                let recent = events.iter().any(|(then, bad)| *bad && at - then < 1_000);
                let expected = recent && counted.len() >= least as usize && 2 * bad_ones >= counted.len();
                prop_assert_eq!(ratio.is_over(&at_least, now), expected);
                ratio.note(if bad { Event::Bad } else { Event::Good }, now);
                events.push((at, bad));
            }
        }
    }
}
