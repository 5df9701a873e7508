//! Gradient2: how many requests a server should have at once, learnt from how long they take.
//!
//! `gradient = clamp(1.5 · long / short, 0.5, 1)`, where `long` is the mean round trip of the last hundreds of windows and
//! `short` that of the last one; the limit moves by a fifth towards `limit · gradient + 4`. It does not grow while less than half
//! of it is used. A window is 100 ms and ten round trips at least. Streams do not belong in it: their length says nothing of
//! load. It counts nobody: whoever admits does.
//!
//! **Source:** Netflix concurrency-limits, `Gradient2Limit`.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest window, and the fewest round trips in one.
const WINDOW: Duration = Duration::from_millis(100);
const LEAST: u32 = 10;

/// How many times slower than usual is still no queue.
const TOLERANCE: f64 = 1.5;

/// Room for a queue: what the limit grows by while nothing is slow.
const QUEUE: f64 = 4.0;

/// How far the limit moves at once.
const SMOOTHING: f64 = 0.2;

/// Windows that the long mean looks back.
const LONG: f64 = 600.0;

/// Windows whose plain mean the long one begins with.
const WARM_UP: f64 = 10.0;

/// A limit that follows round trips.
#[derive(Clone, Debug)]
pub struct Gradient {
    limit: f64,
    least: f64,
    most: f64,
    /// Seconds.
    long: f64,
    windows: f64,
}

impl Gradient {
    /// A limit that begins at `start` and stays between `least` and `most`.
    #[must_use]
    pub fn new(start: u32, least: u32, most: u32) -> Self {
        let (limit, least, most) = (f64::from(start), f64::from(least), f64::from(most));
        Self { limit: limit.clamp(least, most), least, most, long: 0.0, windows: 0.0 }
    }

    /// Requests that there may be at once.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Takes in a window: the mean round trip of those that ended in it, and the most that were under way.
    pub fn observe(&mut self, round_trip: Duration, in_flight: u32) {
        let short = round_trip.as_secs_f64();
        self.remember(short);
        if f64::from(in_flight) < self.limit / 2.0 || short <= 0.0 {
            return;
        }
        let gradient = (TOLERANCE * self.long / short).clamp(0.5, 1.0);
        let target = self.limit * gradient + QUEUE;
        let moved = self.limit + SMOOTHING * (target - self.limit);
        self.limit = moved.clamp(self.least, self.most);
    }

    fn remember(&mut self, short: f64) {
        self.windows += 1.0;
        let weight = if self.windows <= WARM_UP { 1.0 / self.windows } else { 2.0 / (LONG + 1.0) };
        self.long += weight * (short - self.long);
        // After a long time of overload: the mean itself is no longer what is usual.
        if self.long > 2.0 * short {
            self.long *= 0.95;
        }
    }
}

/// Round trips, gathered into windows for a [`Gradient`].
#[derive(Clone, Debug)]
pub struct Windows {
    gradient: Gradient,
    began: Instant,
    sum: Duration,
    count: u32,
    /// The most that were under way.
    in_flight: u32,
}

impl Windows {
    /// Windows for `gradient`, the first of which begins at `now`.
    #[must_use]
    pub const fn new(gradient: Gradient, now: Instant) -> Self {
        Self { gradient, began: now, sum: Duration::ZERO, count: 0, in_flight: 0 }
    }

    /// Takes in a round trip that ended at `now`, and how many were under way then.
    pub fn observe(&mut self, round_trip: Duration, in_flight: u32, now: Instant) {
        self.sum += round_trip;
        self.count += 1;
        self.in_flight = self.in_flight.max(in_flight);
        if self.count >= LEAST && now.saturating_duration_since(self.began) >= WINDOW {
            self.gradient.observe(self.sum / self.count, self.in_flight);
            *self = Self::new(self.gradient.clone(), now);
        }
    }

    /// Requests that there may be at once.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.gradient.limit()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(windows: impl IntoIterator<Item = (u32, u32)>) -> Gradient {
        let mut gradient = Gradient::new(20, 1, 200);
        windows.into_iter().for_each(|(millis, in_flight)| gradient.observe(MS * millis, in_flight));
        gradient
    }

    #[test]
    fn it_grows_while_nothing_is_slow_and_all_of_it_is_used() {
        assert_eq!(after([(10, 20); 10]).limit(), 28, "0.8 a window");
        assert_eq!(after([(10, 9); 10]).limit(), 20, "less than half of it is used");
    }

    #[test]
    fn it_shrinks_when_answers_take_longer_than_usual() {
        let usual = [(10, 20); 10];
        assert!(after(usual.into_iter().chain([(14, 28); 5])).limit() > 28, "within the tolerance");
        assert!(after(usual.into_iter().chain([(100, 28); 5])).limit() < 20);
    }

    #[test]
    fn a_window_has_its_length_and_its_round_trips() {
        let origin = Instant::now();
        let mut windows = Windows::new(Gradient::new(20, 1, 200), origin);
        (0..9).for_each(|_| windows.observe(10 * MS, 20, origin + 200 * MS));
        assert_eq!(windows.limit(), 20, "nine are too few");
        windows.observe(10 * MS, 0, origin + 200 * MS);
        assert_eq!((windows.limit(), windows.gradient.limit), (20, 20.8), "the most that were under way count");
        (0..20).for_each(|_| windows.observe(10 * MS, 20, origin + 299 * MS));
        assert_eq!(windows.gradient.limit, 20.8, "too soon");
    }

    proptest! {
        /// The formula, without memory of its own but the long mean; and never outside its bounds.
        #[test]
        fn moves_as_the_formula_says(windows in prop::collection::vec((1..500u32, 0..300u32), 1..100)) {
            let mut gradient = Gradient::new(20, 2, 100);
            for (millis, in_flight) in windows {
                let before = gradient.limit;
                gradient.observe(MS * millis, in_flight);
                let slope = (1.5 * gradient.long / (f64::from(millis) / 1e3)).clamp(0.5, 1.0);
                let expected = (0.8 * before + 0.2 * (before * slope + 4.0)).clamp(2.0, 100.0);
                let expected = if f64::from(in_flight) < before / 2.0 { before } else { expected };
                prop_assert!((gradient.limit - expected).abs() < 1e-6);
            }
        }
    }
}
