//! How long answers took in an interval: counts in buckets a quarter of an octave wide, which concurrent callers feed with one
//! atomic addition and one reader takes out. Good for comparing, not for reporting: a value is known to about a tenth.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Shorter ones (64 µs) fall into the first bucket.
const SHORTEST_OCTAVE: u32 = 6;
const OCTAVES: usize = 20;
const PER_OCTAVE: usize = 4;
const BUCKETS: usize = 1 + OCTAVES * PER_OCTAVE;

/// The counts since they were last taken.
pub struct Latencies([AtomicU32; BUCKETS]);

/// What an interval's latencies come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many there were.
    pub count: u32,
    /// Half took no longer.
    pub median: Duration,
    /// Their mean.
    pub mean: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Latencies {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        self.0[bucket(took)].fetch_add(1, Relaxed);
    }

    /// Takes what there is and begins anew.
    pub fn take(&self) -> Summary {
        let counts = self.0.each_ref().map(|count| count.swap(0, Relaxed));
        let count: u32 = counts.iter().sum();
        if count == 0 {
            return Summary::default();
        }
        let total: Duration = counts.iter().enumerate().map(|(index, count)| middle(index) * *count).sum();
        let (mut seen, half_of) = (0, count.div_ceil(2));
        let half = counts.iter().position(|count| {
            seen += count;
            seen >= half_of
        });
        Summary { count, median: middle(half.unwrap_or_default()), mean: total / count }
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let Some(octave) = micros.checked_ilog2().and_then(|log| log.checked_sub(SHORTEST_OCTAVE)) else { return 0 };
    let quarter = (micros >> (octave + SHORTEST_OCTAVE - 2)) & 3;
    (1 + octave as usize * PER_OCTAVE + quarter as usize).min(BUCKETS - 1)
}

/// What a bucket's latencies are taken for.
fn middle(bucket: usize) -> Duration {
    let Some(above) = bucket.checked_sub(1) else { return Duration::from_micros(1 << (SHORTEST_OCTAVE - 1)) };
    let octave = 1u64 << (above / PER_OCTAVE + SHORTEST_OCTAVE as usize);
    Duration::from_micros(octave + octave / 8 * (2 * (above % PER_OCTAVE) as u64 + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn taking_begins_anew() {
        let latencies = Latencies::default();
        assert_eq!(latencies.take(), Summary::default());
        latencies.note(Duration::from_millis(5));
        assert_eq!(latencies.take().count, 1);
        assert_eq!(latencies.take().count, 0);
    }

    proptest! {
        #[test]
        fn median_and_mean_are_near_the_true_ones(mut micros in prop::collection::vec(64u64..60_000_000, 1..200)) {
            let latencies = Latencies::default();
            micros.iter().for_each(|micros| latencies.note(Duration::from_micros(*micros)));
            let summary = latencies.take();
            micros.sort_unstable();
            let near = |found: Duration, truth: f64| (found.as_secs_f64() * 1e6 / truth - 1.0).abs() < 0.15;
            prop_assert_eq!(summary.count as usize, micros.len());
            let median = micros[(micros.len() - 1) / 2] as f64;
            prop_assert!(near(summary.median, median), "{:?} {}", summary.median, median);
            let mean = micros.iter().sum::<u64>() as f64 / micros.len() as f64;
            prop_assert!(near(summary.mean, mean), "{:?} {}", summary.mean, mean);
        }
    }
}
