//! Peak EWMA: how long an endpoint takes, quick to believe bad news and slow to forget it.
//!
//! A round trip above the estimate replaces it at once, one below it is averaged in with a weight that grows with the time
//! since the last one (decay 10 s, unless its owner says otherwise), and an estimate that nobody feeds decays towards zero, so that an endpoint that was slow
//! once is tried again. A failure is fed as a penalty, so that fast failures do not draw traffic. One that is busy is held: until
//! the time that it named, a request is expected to take that long, whatever its health checks say. One that is back is not judged by
//! its first answers, which may be slow (a cold model): for a while none counts as slower than what it is given credit for. The
//! endpoint's in-flight count belongs to the endpoint; picking of two belongs to `predict`.
//!
//! **Source:** Finagle's `PeakEwma`.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::since::{length, nanos};

/// How fast old round trips are forgotten.
const DECAY: Duration = Duration::from_secs(10);

/// The least round trip a failure counts as.
const PENALTY: Duration = Duration::from_secs(5);

/// How long one that is busy is held: at least, where it names no time, and at most.
const LEAST_HOLD: Duration = Duration::from_secs(1);
const HOLD: Duration = PENALTY;
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// One endpoint's estimate. Concurrent feeds may lose one another's weight, never the scale: it is a hint, not a count.
pub struct PeakEwma {
    origin: Instant,
    decay: Duration,
    /// Seconds, as the bits of an `f64`, as of `stamp`.
    cost: AtomicU64,
    /// Nanoseconds since `origin` of the last feed.
    stamp: AtomicU64,
    penalized: AtomicBool,
    /// The cost before the penalty.
    before: AtomicU64,
    /// Nanoseconds since `origin` until which it is held.
    held_until: AtomicU64,
    /// Nanoseconds since `origin` until which it asked, failing, to be left alone.
    asked_until: AtomicU64,
    /// What a round trip counts as at the most, in seconds, as the bits of an `f64`, until `credited_until`.
    credit: AtomicU64,
    /// Nanoseconds since `origin`.
    credited_until: AtomicU64,
}

impl PeakEwma {
    /// An estimate that knows nothing yet: the endpoint looks free.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self::decaying(DECAY, origin)
    }

    /// The same, which forgets at a pace of its own.
    #[must_use]
    pub fn decaying(decay: Duration, origin: Instant) -> Self {
        Self {
            origin,
            decay,
            cost: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            penalized: AtomicBool::new(false),
            before: AtomicU64::new(0),
            held_until: AtomicU64::new(0),
            asked_until: AtomicU64::new(0),
            credit: AtomicU64::new(0),
            credited_until: AtomicU64::new(0),
        }
    }

    /// Feeds a round trip that ended at `now`.
    pub fn observe(&self, round_trip: Duration, now: Instant) {
        self.feed(round_trip.as_secs_f64().min(self.credit(now)), now);
    }

    /// For `length` from now on a round trip counts as `seconds` at the most, and no more is expected. A failure counts as ever.
    pub fn credit_with(&self, seconds: f64, length: Duration, now: Instant) {
        self.credit.store(seconds.to_bits(), Relaxed);
        self.credited_until.store(self.nanos(now + length), Relaxed);
        let expected = self.expected(now).min(seconds);
        self.advance(now);
        self.update(|_| expected);
    }

    fn credit(&self, now: Instant) -> f64 {
        let until = self.credited_until.load(Relaxed);
        if until != 0 && self.nanos(now) < until { f64::from_bits(self.credit.load(Relaxed)) } else { f64::INFINITY }
    }

    fn feed(&self, sample: f64, now: Instant) {
        let weight = self.decayed(self.advance(now));
        self.update(|cost| if sample > cost { sample } else { cost * weight + sample * (1.0 - weight) });
    }

    /// Feeds an attempt that was given up after `waited`: its round trip is at least that long, and says nothing if more was
    /// expected.
    pub fn outlasted(&self, waited: Duration, now: Instant) {
        if waited.as_secs_f64() > self.expected(now) {
            self.observe(waited, now);
        }
    }

    /// Feeds a failure: it counts as `retry_after`, at least 5 s and at most a minute.
    pub fn penalize(&self, retry_after: Option<Duration>, now: Instant) {
        let before = self.expected(now).to_bits();
        if !self.penalized.swap(true, Relaxed) {
            self.before.store(before, Relaxed);
        }
        if let Some(wait) = retry_after {
            self.asked_until.fetch_max(self.nanos(now + wait.min(LONGEST_HOLD)), Relaxed);
        }
        self.feed(retry_after.unwrap_or_default().clamp(PENALTY, LONGEST_HOLD).as_secs_f64(), now);
    }

    /// Holds it, since it is busy and asked to be left alone for `retry_after`. Nothing but time ends that: neither a check nor an
    /// answer says that it would take more.
    pub fn hold(&self, retry_after: Option<Duration>, now: Instant) {
        let wait = retry_after.unwrap_or(HOLD).clamp(LEAST_HOLD, LONGEST_HOLD);
        self.held_until.fetch_max(self.nanos(now + wait), Relaxed);
    }

    /// Ends a penalty: a probe or a health check took `round_trip` and succeeded. What was expected before the penalty is again:
    /// a check that was late, or is faster than any request, says nothing of them. Where nothing was known, `round_trip` is what
    /// is. Without a penalty it changes nothing.
    pub fn lift(&self, round_trip: Duration, now: Instant) {
        self.asked_until.store(0, Relaxed);
        if self.penalized.swap(false, Relaxed) {
            self.advance(now);
            let before = f64::from_bits(self.before.load(Relaxed));
            self.update(|_| if before > 0.0 { before } else { round_trip.as_secs_f64() });
        }
    }

    /// What one more request would cost here: the estimate times the requests there would be. Lower is better.
    ///
    /// One of which nothing is known is free for one request; until that is answered, it is not the place for more.
    #[must_use]
    pub fn load(&self, in_flight: u32, now: Instant) -> f64 {
        let unknown = self.stamp.load(Relaxed) == 0 && self.cost.load(Relaxed) == 0;
        let estimate = self.estimate(now);
        let estimate = if unknown && in_flight > 0 { estimate.max(PENALTY.as_secs_f64()) } else { estimate };
        estimate * (f64::from(in_flight) + 1.0)
    }

    /// The estimated round trip in seconds; as long as it is held, at least what is left of that.
    #[must_use]
    pub fn estimate(&self, now: Instant) -> f64 {
        let expected = self.expected(now);
        let held_until = self.held_until.load(Relaxed);
        if held_until == 0 {
            return expected;
        }
        expected.max(Duration::from_nanos(held_until.saturating_sub(self.nanos(now))).as_secs_f64())
    }

    /// The same, while anything was learned of it within a decay or it is held: what nobody feeds is no expectation.
    #[must_use]
    pub fn recent(&self, now: Instant) -> Option<f64> {
        let stamp = self.stamp.load(Relaxed);
        let fed = stamp != 0 && self.nanos(now).saturating_sub(stamp) < length(self.decay);
        let held = self.held_until.load(Relaxed) > self.nanos(now);
        (fed || held).then(|| self.estimate(now))
    }

    /// How long it asked yet to be left alone, be it busy or failing; zero where it did not, or nothing is left of that.
    #[must_use]
    pub fn spared_for(&self, now: Instant) -> Duration {
        let until = self.held_until.load(Relaxed).max(self.asked_until.load(Relaxed));
        if until == 0 { Duration::ZERO } else { Duration::from_nanos(until.saturating_sub(self.nanos(now))) }
    }

    fn expected(&self, now: Instant) -> f64 {
        let since = self.nanos(now).saturating_sub(self.stamp.load(Relaxed));
        f64::from_bits(self.cost.load(Relaxed)) * self.decayed(since)
    }

    /// Moves the stamp to `now`; returns the nanoseconds it moved by, each of which one caller gets to see.
    fn advance(&self, now: Instant) -> u64 {
        let now = self.nanos(now);
        now.saturating_sub(self.stamp.fetch_max(now, Relaxed))
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(self.origin, now)
    }

    fn update(&self, next: impl Fn(f64) -> f64) {
        let mut seen = self.cost.load(Relaxed);
        while let Err(now) =
            self.cost.compare_exchange_weak(seen, next(f64::from_bits(seen)).to_bits(), Relaxed, Relaxed)
        {
            seen = now;
        }
    }

    /// What is left of a weight of 1 after `nanos`.
    fn decayed(&self, nanos: u64) -> f64 {
        (-(nanos as f64) / self.decay.as_nanos() as f64).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_is_believed_at_once_and_forgotten_slowly() {
        let origin = Instant::now();
        let ewma = PeakEwma::new(origin);
        ewma.observe(10 * MS, origin);
        ewma.observe(100 * MS, origin + MS);
        assert!((ewma.estimate(origin + MS) - 0.1).abs() < 1e-9);
        ewma.observe(10 * MS, origin + MS + DECAY);
        let expected = 0.1 * (-1f64).exp() + 0.01 * (1.0 - (-1f64).exp());
        assert!((ewma.estimate(origin + MS + DECAY) - expected).abs() < 1e-9);
    }

    #[test]
    fn an_attempt_given_up_is_at_least_that_slow() {
        let origin = Instant::now();
        let ewma = PeakEwma::new(origin);
        ewma.outlasted(10 * MS, origin);
        assert!((ewma.estimate(origin) - 0.01).abs() < 1e-9);
        ewma.outlasted(5 * MS, origin);
        assert!((ewma.estimate(origin) - 0.01).abs() < 1e-9, "it may have taken longer");
    }

    #[test]
    fn an_idle_endpoint_is_tried_again() {
        let origin = Instant::now();
        let ewma = PeakEwma::new(origin);
        ewma.penalize(None, origin);
        assert!((ewma.estimate(origin) - 5.0).abs() < 1e-9);
        let later = ewma.estimate(origin + Duration::from_secs(86));
        assert!(later < 0.001, "5 s decay to 1 ms in about 85 s, not {later}");
    }

    #[test]
    fn what_was_not_fed_for_long_is_no_expectation() {
        let origin = Instant::now();
        let ewma = PeakEwma::new(origin);
        assert_eq!(ewma.recent(origin), None);
        ewma.observe(10 * MS, origin + MS);
        assert_eq!(ewma.recent(origin + MS), Some(0.01));
        assert!(ewma.recent(origin + DECAY).is_some());
        assert_eq!(ewma.recent(origin + DECAY + MS), None);
        ewma.hold(Some(5 * MS), origin + 2 * DECAY);
        assert!(ewma.recent(origin + 2 * DECAY + MS).is_some(), "it said when it can be asked");
    }

    #[test]
    fn load_grows_with_what_is_in_flight() {
        let origin = Instant::now();
        let ewma = PeakEwma::new(origin);
        ewma.observe(10 * MS, origin);
        assert!((ewma.load(3, origin) - 0.04).abs() < 1e-9);
    }

    #[test]
    fn an_unknown_endpoint_is_free_for_one_request() {
        let origin = Instant::now();
        let ewma = PeakEwma::new(origin);
        assert!(ewma.load(0, origin) <= 0.0);
        assert!(ewma.load(1, origin) >= 5.0);
        ewma.observe(MS, origin + MS);
        assert!(ewma.load(1, origin + MS) < 0.01);
    }

    #[test]
    fn a_failure_counts_as_its_retry_after_within_bounds() {
        let origin = Instant::now();
        let minute = Duration::from_secs(60);
        for (retry_after, seconds) in [(None, 5.0), (Some(MS), 5.0), (Some(minute), 60.0), (Some(Duration::MAX), 60.0)]
        {
            let ewma = PeakEwma::new(origin);
            ewma.penalize(retry_after, origin);
            assert!((ewma.estimate(origin) - seconds).abs() < 1e-9);
        }
    }

    #[test]
    fn one_that_is_back_is_not_judged_by_its_first_answers() {
        let (origin, second) = (Instant::now(), Duration::from_secs(1));
        let ewma = PeakEwma::new(origin);
        ewma.observe(300 * MS, origin);
        ewma.credit_with(0.02, 10 * second, origin);
        assert!((ewma.estimate(origin) - 0.02).abs() < 1e-9, "what is known already counts no more either");
        ewma.observe(300 * MS, origin);
        ewma.outlasted(300 * MS, origin);
        assert!((ewma.estimate(origin) - 0.02).abs() < 1e-9);
        ewma.observe(5 * MS, origin + second);
        assert!(ewma.estimate(origin + second) < 0.02, "a faster one counts");
        ewma.penalize(None, origin + second);
        assert!((ewma.estimate(origin + second) - 5.0).abs() < 1e-9, "a failure is no slow answer");
        ewma.lift(MS, origin + second);
        ewma.observe(300 * MS, origin + 10 * second);
        assert!((ewma.estimate(origin + 10 * second) - 0.3).abs() < 1e-9, "one that stays slow is believed");
        let fast = PeakEwma::new(origin);
        fast.observe(MS, origin);
        fast.credit_with(0.02, second, origin);
        assert!((fast.estimate(origin) - 0.001).abs() < 1e-9);
    }

    #[test]
    fn a_penalty_is_lifted_once_and_only_a_penalty() {
        let origin = Instant::now();
        let ewma = PeakEwma::new(origin);
        ewma.observe(100 * MS, origin);
        ewma.lift(MS, origin);
        assert!((ewma.estimate(origin) - 0.1).abs() < 1e-9, "no penalty, nothing to lift");
        (0..3).for_each(|_| ewma.penalize(None, origin));
        ewma.lift(MS, origin);
        assert!((ewma.estimate(origin) - 0.1).abs() < 1e-9, "as before");
        let unknown = PeakEwma::new(origin);
        unknown.penalize(None, origin);
        unknown.lift(MS, origin);
        assert!((unknown.estimate(origin) - 0.001).abs() < 1e-9);
    }

    #[test]
    fn a_busy_one_is_held_as_long_as_it_said_whatever_its_checks_say() {
        let (origin, second) = (Instant::now(), Duration::from_secs(1));
        for (asked, seconds) in [(None, 5), (Some(0), 1), (Some(20), 20), (Some(u64::MAX), 60)] {
            let ewma = PeakEwma::new(origin);
            ewma.observe(10 * MS, origin);
            ewma.hold(asked.map(Duration::from_secs), origin);
            ewma.lift(MS, origin + second / 2);
            ewma.observe(10 * MS, origin + second / 2);
            let end = origin + seconds * second;
            assert!((ewma.estimate(end - second / 4) - 0.25).abs() < 1e-9, "{asked:?}");
            assert!(ewma.estimate(end) <= 0.01, "{asked:?}");
        }
    }

    #[test]
    fn it_is_spared_until_the_time_it_said_and_a_failure_until_a_check_passes() {
        let (origin, second) = (Instant::now(), Duration::from_secs(1));
        let ewma = PeakEwma::new(origin);
        assert_eq!(ewma.spared_for(origin), Duration::ZERO);
        ewma.penalize(None, origin);
        assert_eq!(ewma.spared_for(origin), Duration::ZERO, "it asked for nothing");
        ewma.penalize(Some(20 * second), origin);
        assert_eq!(ewma.spared_for(origin + second), 19 * second);
        ewma.lift(MS, origin + second);
        assert_eq!(ewma.spared_for(origin + second), Duration::ZERO);
        ewma.hold(Some(20 * second), origin);
        ewma.lift(MS, origin + second);
        assert_eq!(ewma.spared_for(origin + 2 * second), 18 * second);
        assert_eq!(ewma.spared_for(origin + 21 * second), Duration::ZERO);
        ewma.penalize(Some(Duration::MAX), origin);
        assert_eq!(ewma.spared_for(origin), LONGEST_HOLD);
    }

    proptest! {
        #[test]
        fn an_estimate_stays_between_zero_and_the_slowest(steps in prop::collection::vec((0..20_000u64, 0..5_000u64), 1..100)) {
            let origin = Instant::now();
            let ewma = PeakEwma::new(origin);
            let (mut now, mut slowest) = (origin, Duration::ZERO);
            for (wait, took) in steps {
                now += MS * u32::try_from(wait).unwrap();
                let took = MS * u32::try_from(took).unwrap();
                slowest = slowest.max(took);
                ewma.observe(took, now);
                let estimate = ewma.estimate(now);
                prop_assert!(estimate >= 0.0 && estimate <= slowest.as_secs_f64() + 1e-9);
            }
        }
    }
}
