//! The median of late: how long half of the last answers took, for whoever has to know whether there is time for one more.
//!
//! Keeps the last 63 lengths and when each was seen; those older than ten seconds do not count. The median is worked out by
//! whoever feeds it, at most every 50 ms, and read with one atomic load. Invariant: what is read was the median of at least
//! eight lengths no older than ten seconds when it was worked out, and nothing is read ten seconds after the last was fed: an
//! estimate that keeps everybody out would never be mended otherwise. Concurrent feeds may lose a length, never mix two.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::slot::{pack, unpack};

/// Odd, so that there is a middle one.
const KEPT: usize = 63;

/// Fewer say nothing.
const LEAST: usize = 8;

/// What time is counted in, and how often the median is worked out at most: 32 bits of it are six years.
const TICK: Duration = Duration::from_millis(50);

/// How long a length counts, in ticks: ten seconds.
const WINDOW: u32 = 200;

/// Lengths of late, and their median.
#[derive(Debug)]
pub struct Median {
    origin: Instant,
    next: AtomicU32,
    /// Ticks since the origin, from 1, in the high half; microseconds long in the low half.
    kept: [AtomicU64; KEPT],
    /// The same: when it was worked out, and the median.
    median: AtomicU64,
}

impl Median {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        let kept = std::array::from_fn(|_| AtomicU64::new(0));
        Self { origin, next: AtomicU32::new(0), kept, median: AtomicU64::new(0) }
    }

    /// Feeds the length of something that ended at `now`.
    pub fn observe(&self, length: Duration, now: Instant) {
        let now = self.tick(now);
        let micros = u32::try_from(length.as_micros()).unwrap_or(u32::MAX);
        let place = self.next.fetch_add(1, Relaxed) as usize % KEPT;
        self.kept[place].store(pack(now, micros), Relaxed);
        if unpack(self.median.load(Relaxed)).0 < now
            && let Some(median) = self.work_out(now)
        {
            self.median.store(pack(now, median), Relaxed);
        }
    }

    /// The median, where enough is known.
    #[must_use]
    pub fn estimate(&self, now: Instant) -> Option<Duration> {
        let (at, micros) = unpack(self.median.load(Relaxed));
        let fresh = at != 0 && self.tick(now).saturating_sub(at) < WINDOW;
        fresh.then(|| Duration::from_micros(u64::from(micros)))
    }

    /// The same, however old; `None`: there never was one.
    #[must_use]
    pub fn last(&self) -> Option<Duration> {
        let (at, micros) = unpack(self.median.load(Relaxed));
        (at != 0).then(|| Duration::from_micros(u64::from(micros)))
    }

    /// How long ago the last was fed that the median has taken in, to within a tick.
    #[must_use]
    pub fn quiet_for(&self, now: Instant) -> Duration {
        let (at, _) = unpack(self.median.load(Relaxed));
        TICK * self.tick(now).saturating_sub(at)
    }

    fn work_out(&self, now: u32) -> Option<u32> {
        let mut lengths = [0; KEPT];
        let mut count = 0;
        for (at, micros) in self.kept.iter().map(|kept| unpack(kept.load(Relaxed))) {
            if at != 0 && now.saturating_sub(at) < WINDOW {
                lengths[count] = micros;
                count += 1;
            }
        }
        (count >= LEAST).then(|| *lengths[..count].select_nth_unstable(count / 2).1)
    }

    fn tick(&self, now: Instant) -> u32 {
        // One-based: 0 marks what was never written.
        let since = now.saturating_duration_since(self.origin).as_nanos() / TICK.as_nanos();
        u32::try_from(since).unwrap_or(u32::MAX - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fed(origin: Instant, lengths: impl IntoIterator<Item = u32>, every: Duration) -> (Median, Instant) {
        let (median, mut now) = (Median::new(origin), origin);
        for length in lengths {
            now += every;
            median.observe(MS * length, now);
        }
        (median, now)
    }

    #[test]
    fn few_lengths_say_nothing() {
        let origin = Instant::now();
        let (median, now) = fed(origin, [5; 7], MS);
        assert_eq!(median.estimate(now), None);
        median.observe(5 * MS, now);
        assert_eq!(median.estimate(now), Some(5 * MS));
    }

    #[test]
    fn it_tells_how_long_nothing_was_fed() {
        let (median, now) = fed(Instant::now(), [5; 8], 50 * MS);
        assert!(median.quiet_for(now) <= TICK);
        assert!((500 * MS..=550 * MS).contains(&median.quiet_for(now + 500 * MS)));
        median.observe(5 * MS, now + 500 * MS);
        assert!(median.quiet_for(now + 500 * MS) <= TICK);
    }

    #[test]
    fn half_of_the_last_took_as_long() {
        let origin = Instant::now();
        let (median, now) = fed(origin, [1, 9, 2, 8, 3, 7, 4, 6, 5], 50 * MS);
        assert_eq!(median.estimate(now), Some(5 * MS));
        (0..40).for_each(|_| median.observe(100 * MS, now + 60 * MS));
        median.observe(100 * MS, now + 120 * MS);
        assert_eq!(median.estimate(now + 120 * MS), Some(100 * MS));
    }

    #[test]
    fn what_is_old_does_not_count() {
        let origin = Instant::now();
        let (median, now) = fed(origin, [900; 63], MS);
        assert!(median.estimate(now + 9_900 * MS).is_some());
        assert_eq!(median.estimate(now + 10_100 * MS), None, "nobody answers: whoever comes is let in again");
        // Few are not enough to replace it, and the old ones are not among them.
        let later = now + 10_100 * MS;
        (0..7).for_each(|_| median.observe(MS, later));
        assert_eq!(median.estimate(later), None);
        median.observe(MS, later);
        assert_eq!(median.estimate(later), Some(MS));
    }

    #[test]
    fn it_is_worked_out_now_and_then() {
        let origin = Instant::now();
        let (median, now) = fed(origin, [5; 8], 50 * MS);
        (0..20).for_each(|_| median.observe(90 * MS, now));
        assert_eq!(median.estimate(now), Some(5 * MS));
        median.observe(90 * MS, now + 50 * MS);
        assert_eq!(median.estimate(now + 50 * MS), Some(90 * MS));
    }

    proptest! {
        /// Against a sorted list of the last 63, read whenever a tick has passed.
        #[test]
        fn agrees_with_a_sorted_list(lengths in prop::collection::vec(0..1_000u32, 1..200)) {
            let origin = Instant::now();
            let (median, now) = fed(origin, lengths.iter().copied(), 50 * MS);
            // 199 ticks before the last one is the oldest that counts; 63 of them fit.
            let mut last: Vec<u32> = lengths.iter().rev().take(KEPT).copied().collect();
            last.sort_unstable();
            let expected = (last.len() >= LEAST).then(|| MS * last[last.len() / 2]);
            prop_assert_eq!(median.estimate(now), expected);
        }
    }
}
