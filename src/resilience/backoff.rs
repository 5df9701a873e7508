//! How long to wait before a retry: capped exponential growth with proportional jitter.
//!
//! `delay = min(max_delay, initial_delay · multiplier^retry) · (1 + U(-jitter, +jitter))`: jitter comes after the cap, so
//! that clients at the cap do not fall into step. Whether to retry at all is the budget's and the deadline's to say; how the
//! deadline is spent on attempts and the waits between them is said here.

use std::time::Duration;

use crate::config;

/// A retry profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Attempts after the first.
    pub max_retries: u32,
    /// Before the first retry.
    pub initial_delay: Duration,
    /// The cap, before jitter.
    pub max_delay: Duration,
    /// Growth from one retry to the next, at least 1.
    pub multiplier: f64,
    /// Share by which a delay may be shorter or longer, 0 to 1.
    pub jitter: f64,
}

impl Retry {
    /// The wait before retry number `retry` (0 is the first). `unit` is uniform in [0, 1).
    #[must_use]
    pub fn delay(&self, retry: u32, unit: f64) -> Duration {
        let exponent = i32::try_from(retry).unwrap_or(i32::MAX);
        let grown = self.initial_delay.as_secs_f64() * self.multiplier.powi(exponent);
        let capped = grown.min(self.max_delay.as_secs_f64());
        let jittered = capped * (1.0 + self.jitter * (2.0 * unit - 1.0));
        Duration::try_from_secs_f64(jittered).unwrap_or(self.max_delay)
    }

    /// What the attempt after `made` may take of `left`, where `attempts` may be made yet, itself included: an equal part of what
    /// the waits between them leave. As many are planned as have `least` each then; one always is.
    #[must_use]
    pub fn share(&self, left: Duration, (made, attempts): (u32, u32), least: Duration) -> Duration {
        let (mut share, mut waits) = (left, Duration::ZERO);
        for after in 1..attempts {
            waits = waits.saturating_add(self.delay(made + after - 1, 0.5));
            let each = left.saturating_sub(waits) / (after + 1);
            if each.is_zero() || each < least {
                break;
            }
            share = each;
        }
        share
    }
}

impl From<&config::Retry> for Retry {
    fn from(retry: &config::Retry) -> Self {
        Self {
            max_retries: retry.max_retries,
            initial_delay: retry.initial_delay,
            max_delay: retry.max_delay,
            multiplier: retry.multiplier,
            jitter: retry.jitter,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const FEATURES: Retry = Retry {
        max_retries: 3,
        initial_delay: Duration::from_millis(50),
        max_delay: Duration::from_millis(500),
        multiplier: 2.0,
        jitter: 0.1,
    };

    /// The documented delays: retry, shortest and longest delay in milliseconds.
    #[test]
    fn the_feature_profile_is_as_documented() {
        for (retry, shortest, longest) in [(0, 45, 55), (1, 90, 110), (2, 180, 220), (3, 360, 440), (4, 450, 550)] {
            let close = |unit: f64, expected: u64| {
                let delay = FEATURES.delay(retry, unit);
                assert!(
                    delay.abs_diff(Duration::from_millis(expected)) < Duration::from_micros(1),
                    "{retry}: {delay:?}"
                );
            };
            close(0.0, shortest);
            close(0.5, (shortest + longest) / 2);
            close(1.0, longest);
        }
    }

    #[test]
    fn the_inference_profile_is_as_documented() {
        let inference = Retry {
            max_retries: 2,
            initial_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(1),
            multiplier: 2.0,
            jitter: 0.2,
        };
        assert_eq!(inference.delay(0, 0.5), Duration::from_millis(100));
        assert_eq!(inference.delay(1, 0.5), Duration::from_millis(200));
        assert_eq!(inference.delay(9, 0.5), Duration::from_secs(1));
    }

    #[test]
    fn a_deadline_is_spent_on_the_attempts_that_fit_and_the_waits_between_them() {
        let inference =
            Retry { max_retries: 2, initial_delay: 100 * MS, max_delay: 1000 * MS, multiplier: 2.0, jitter: 0.2 };
        for (left, made, attempts, least, share) in [
            // 100 and 200 ms of waits.
            (900, 0, 3, 5, 200),
            // Two thirds of a second are not enough for three that take 150 ms.
            (600, 0, 3, 150, 250),
            // The second wait is as long as all that is left.
            (200, 0, 3, 5, 50),
            (100, 0, 3, 5, 100),
            (104, 0, 3, 5, 104),
            // The waits that are over do not count, the next is the longer one.
            (500, 1, 2, 5, 150),
            (100, 1, 2, 5, 100),
            (500, 2, 1, 5, 500),
            (0, 0, 3, 0, 0),
        ] {
            let found = inference.share(MS * left, (made, attempts), MS * least);
            assert_eq!(found, MS * share, "{left} ms, {attempts} attempts after {made} of {least} ms");
        }
    }

    proptest! {
        /// However it is split, all that is planned fits, and what is left out would not.
        #[test]
        fn what_is_planned_fits(left in 0..2_000u32, made in 0..3u32, attempts in 1..6u32, least in 1..300u32) {
            let share = FEATURES.share(MS * left, (made, attempts), MS * least);
            let waits = |count: u32| (0..count - 1).map(|wait| FEATURES.delay(made + wait, 0.5)).sum::<Duration>();
            let fits = |count: u32| waits(count) + MS * least * count <= MS * left + Duration::from_nanos(count.into());
            let planned = (1..=attempts).rev().find(|count| *count == 1 || fits(*count)).unwrap_or(1);
            let expected = (MS * left).saturating_sub(waits(planned)) / planned;
            prop_assert!(share.abs_diff(expected) < Duration::from_micros(1), "{:?}, not {:?}", share, expected);
        }

        #[test]
        fn a_delay_stays_within_the_jittered_cap(
            retry in any::<u32>(), unit in 0.0..1.0f64, multiplier in 1.0..10.0f64, jitter in 0.0..=1.0f64,
        ) {
            let profile = Retry { multiplier, jitter, ..FEATURES };
            let delay = profile.delay(retry, unit).as_secs_f64();
            prop_assert!(delay >= profile.initial_delay.as_secs_f64() * (1.0 - jitter) - 1e-9);
            prop_assert!(delay <= profile.max_delay.as_secs_f64() * (1.0 + jitter) + 1e-9);
        }
    }
}
