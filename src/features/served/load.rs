//! How long a question to one feature server takes, and which of two servers is asked.
//!
//! As in a pool the expected wait decides: peak EWMA of the round trips times the questions there would be. Three things differ, since a
//! fleet's servers are alike and answer within a fraction of a millisecond, so that mostly none of them has a question under way. Taken to
//! the letter, the one whose last slow answer is longest ago would then get all of them, for tens of seconds:
//!
//! * round trips are forgotten within a second, not ten: a second is thousands of them;
//! * one slow answer is an accident, a pause of the machine mostly; two in a row are believed at once, as everywhere;
//! * round trips within a factor of three are alike: of those servers the one with fewer questions under way is asked, else either.
//!
//! A server that is really slower is avoided all the same, and tried about once a second for each e-fold of the difference. Neither a slow
//! answer nor a failure leaves a trace beyond that.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::resilience::{ewma::PeakEwma, since::length};

/// How fast round trips are forgotten.
const DECAY: Duration = Duration::from_secs(1);

/// Round trips that differ by less are alike.
const ALIKE: f64 = 3.0;

/// One server's, for all workers together.
pub(super) struct Load {
    round_trip: PeakEwma,
    /// Nanoseconds that the last answer took.
    last: AtomicU64,
    under_way: AtomicU32,
}

impl Load {
    /// Of a server that was asked nothing yet.
    pub(super) fn new(now: Instant) -> Self {
        let round_trip = PeakEwma::decaying(DECAY, now);
        Self { round_trip, last: AtomicU64::new(u64::MAX), under_way: AtomicU32::new(0) }
    }

    /// Counts a question that begins; how many there were.
    pub(super) fn begin(&self) -> u32 {
        self.under_way.fetch_add(1, Relaxed)
    }

    /// Counts one that ended.
    pub(super) fn end(&self) {
        self.under_way.fetch_sub(1, Relaxed);
    }

    /// Feeds an answer's round trip.
    pub(super) fn observe(&self, took: Duration, now: Instant) {
        let before = self.last.swap(length(took), Relaxed);
        self.round_trip.observe(took.min(Duration::from_nanos(before)), now);
    }

    /// Feeds a failure.
    pub(super) fn penalize(&self, now: Instant) {
        self.round_trip.penalize(None, now);
    }

    /// Ends a penalty: it answered.
    pub(super) fn lift(&self, took: Duration, now: Instant) {
        self.round_trip.lift(took, now);
    }

    /// Whether a question is better asked here than there.
    pub(super) fn is_no_worse_than(&self, other: &Self, now: Instant) -> bool {
        let [own, theirs] = [self, other].map(|load| load.round_trip.estimate(now));
        let under_way = [self, other].map(|load| load.under_way.load(Relaxed));
        // Of which nothing is known, is like none.
        if own.min(theirs) > 0.0 && own.max(theirs) <= ALIKE * own.min(theirs) {
            return under_way[0] <= under_way[1];
        }
        self.round_trip.load(under_way[0], now) <= other.round_trip.load(under_way[1], now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);
    /// Between two questions.
    const GAP: Duration = Duration::from_millis(2);
    /// Questions in a window of two seconds.
    const WINDOW: u32 = 1000;

    /// Two servers that are asked one question after the other, none of them long enough to meet the next.
    struct Pair {
        loads: [Load; 2],
        now: Instant,
        asked: u32,
        dice: u64,
    }

    impl Pair {
        fn new() -> Self {
            let now = Instant::now();
            Self { loads: [Load::new(now), Load::new(now)], now, asked: 0, dice: 0x9e37_79b9_7f4a_7c15 }
        }

        /// From 200 to 600 µs, the same in every run.
        fn usual(&mut self) -> Duration {
            self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            MICRO * (200 + u32::try_from((self.dice >> 33) % 400).unwrap())
        }

        /// How many questions of a window the first got, where `slow` says what an answer takes instead of the usual.
        fn window(&mut self, slow: impl Fn(usize, u32) -> Option<Duration>) -> u32 {
            let mut firsts = 0;
            for _ in 0..WINDOW {
                // As the fleet draws them.
                let drawn: usize = rand::random_range(0..2);
                let other = 1 - drawn;
                let is_drawn = self.loads[drawn].is_no_worse_than(&self.loads[other], self.now);
                let at = if is_drawn { drawn } else { other };
                let took = slow(at, self.asked).unwrap_or_else(|| self.usual());
                self.loads[at].observe(took, self.now + took);
                self.now += GAP;
                self.asked += 1;
                firsts += u32::from(at == 0);
            }
            firsts
        }
    }

    /// Between three and five quarters of an even share.
    fn is_even(firsts: u32) -> bool {
        (WINDOW * 3 / 8..=WINDOW * 5 / 8).contains(&firsts)
    }

    #[test]
    fn servers_that_are_alike_have_even_shares_whatever_single_answers_take() {
        let mut pair = Pair::new();
        // One answer in five hundred is stuck for 20 ms.
        let shares: Vec<u32> =
            (0..30).map(|_| pair.window(|_, asked| (asked % 500 == 499).then_some(MICRO * 20_000))).collect();
        assert!(shares.iter().all(|firsts| is_even(*firsts)), "{shares:?}");
    }

    #[test]
    fn one_that_was_gone_has_its_share_as_soon_as_it_is_well() {
        for stuck in [0, 5] {
            let mut pair = Pair::new();
            pair.window(|_, _| None);
            (0..5).for_each(|_| pair.loads[0].penalize(pair.now));
            assert_eq!(pair.window(|_, _| None), 0, "it is avoided");
            pair.loads[0].penalize(pair.now);
            pair.loads[0].lift(MICRO * 900, pair.now);
            // What it answers first it has to fetch from afar.
            let end = pair.asked + stuck;
            pair.window(|at, asked| (at == 0 && asked < end).then_some(MICRO * 5000));
            let firsts = pair.window(|_, _| None);
            assert!(is_even(firsts), "{firsts} of {WINDOW}");
        }
    }

    #[test]
    fn one_that_became_slow_is_avoided_and_tried() {
        let mut pair = Pair::new();
        pair.window(|_, _| None);
        let slow = |at, _| (at == 0).then_some(MICRO * 20_000);
        pair.window(slow);
        let firsts: u32 = (0..10).map(|_| pair.window(slow)).sum();
        assert!((1..=10 * WINDOW / 200).contains(&firsts), "{firsts} of {}", 10 * WINDOW);
        pair.window(|_, _| None);
        let firsts = pair.window(|_, _| None);
        assert!(is_even(firsts), "{firsts} of {WINDOW}");
    }

    #[test]
    fn of_two_that_are_alike_the_one_with_less_under_way_is_asked() {
        let mut pair = Pair::new();
        pair.window(|_, _| None);
        let [first, second] = &pair.loads;
        assert_eq!(first.begin(), 0);
        assert!(!first.is_no_worse_than(second, pair.now) && second.is_no_worse_than(first, pair.now));
        first.end();
        assert!(first.is_no_worse_than(second, pair.now) && second.is_no_worse_than(first, pair.now));
    }

    #[test]
    fn a_new_one_is_asked_one_question_before_it_is_asked_more() {
        let mut pair = Pair::new();
        pair.window(|_, _| None);
        let new = Load::new(pair.now);
        assert!(new.is_no_worse_than(&pair.loads[0], pair.now) && !pair.loads[0].is_no_worse_than(&new, pair.now));
        new.begin();
        assert!(!new.is_no_worse_than(&pair.loads[0], pair.now));
    }
}
