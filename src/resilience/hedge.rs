//! When a second attempt is made beside a slow first one: at a percentile of the last window's answer times, or at a fixed time.
//!
//! ```text
//! answers ──record──► counters of the open window ──10 s and enough of them──► its percentile, in force until the next
//!                                                 └─60 s and too few─────────► nothing is known: no hedges
//! ```
//!
//! Invariants: never before 1 ms; never on a percentile of too few answers to have one. The first window after a silence closes
//! as soon as it has enough. An attempt that was given up because its rival was faster counts as what it took until then: it
//! was past the percentile already, so the percentile stays true. What hedges may cost is a budget's to say.
//!
//! **Source:** Finagle's `BackupRequestFilter`; J. Dean and L. A. Barroso, "The Tail at Scale", CACM 2013.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::config;

/// No hedge is made earlier.
pub const EARLIEST: Duration = Duration::from_millis(1);

/// How long a window lasts at least.
const WINDOW: Duration = Duration::from_secs(10);

/// How long a window may wait for enough answers, and what is known stays in force without new ones.
const LONGEST: Duration = Duration::from_secs(60);

/// Answers below which no percentile is taken.
const LEAST_ANSWERS: f64 = 20.0;

/// Counters to each doubling of time: a percentile is told at most 1/16 too late.
const STEPS: u32 = 16;
const STEPS_LOG2: u32 = STEPS.ilog2();

/// Doublings above [`STEPS`] µs: up to 134 s, and what is longer counts as that.
const DOUBLINGS: u32 = 23;
const BUCKETS: usize = (STEPS * (DOUBLINGS + 1)) as usize;

/// When a second attempt is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum After {
    /// At the time in which this share of answers came.
    Quantile(f64),
    /// At this time.
    Fixed(Duration),
}

impl From<&config::HedgeAfter> for After {
    fn from(after: &config::HedgeAfter) -> Self {
        match after {
            config::HedgeAfter::Percentile(percentile) => Self::Quantile(percentile / 100.0),
            config::HedgeAfter::Fixed(after) => Self::Fixed(*after),
        }
    }
}

/// The moment of the second attempt, for one model at one pool.
///
/// Callers on several threads may have an answer counted in the window next to its own: it is a hint, not a count.
pub struct Moment {
    after: After,
    origin: Instant,
    /// Nanoseconds since `origin` when the open window began.
    began: AtomicU64,
    count: AtomicU64,
    buckets: Box<[AtomicU32]>,
    /// The percentile of the last closed window in microseconds; 0: not known.
    known: AtomicU64,
    /// Nanoseconds since `origin` when that window closed.
    closed: AtomicU64,
}

impl Moment {
    /// One that knows no answers yet.
    #[must_use]
    pub fn new(after: After, origin: Instant) -> Self {
        let buckets = if matches!(after, After::Quantile(_)) { BUCKETS } else { 0 };
        Self {
            after,
            origin,
            began: AtomicU64::new(0),
            count: AtomicU64::new(0),
            buckets: (0..buckets).map(|_| AtomicU32::new(0)).collect(),
            known: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        }
    }

    /// How long after the first attempt the second is made; `None`: not known, make none.
    #[must_use]
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        let delay = match self.after {
            After::Fixed(after) => after,
            After::Quantile(_) => self.percentile(now)?,
        };
        Some(delay.max(EARLIEST))
    }

    /// Takes in how long an attempt took to be answered, or until it was given up.
    ///
    /// Allocates nothing; whoever closes a window, once in ten seconds, looks through all counters.
    pub fn record(&self, took: Duration, now: Instant) {
        let After::Quantile(quantile) = self.after else { return };
        // Counted first: who closes the window takes off what the buckets hold, which is never more.
        let count = self.count.fetch_add(1, Relaxed) + 1;
        self.buckets[bucket(took)].fetch_add(1, Relaxed);
        let (began, now) = (self.began.load(Relaxed), self.nanos(now));
        let age = Duration::from_nanos(now.saturating_sub(began));
        let enough = count >= enough(quantile);
        if enough && (age >= WINDOW || !self.knows(now)) || age >= LONGEST {
            self.close(quantile, (began, now));
        }
    }

    fn percentile(&self, now: Instant) -> Option<Duration> {
        self.knows(self.nanos(now)).then(|| Duration::from_micros(self.known.load(Relaxed)))
    }

    fn knows(&self, now: u64) -> bool {
        let age = now.saturating_sub(self.closed.load(Relaxed));
        self.known.load(Relaxed) != 0 && Duration::from_nanos(age) < LONGEST
    }

    /// One caller closes a window; others go on counting, in the next.
    fn close(&self, quantile: f64, (began, now): (u64, u64)) {
        if self.began.compare_exchange(began, now, Relaxed, Relaxed).is_err() {
            return;
        }
        let mut counts = [0; BUCKETS];
        counts.iter_mut().zip(&self.buckets).for_each(|(count, bucket)| *count = bucket.swap(0, Relaxed));
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        self.count.fetch_sub(total, Relaxed);
        let known = if total >= enough(quantile) { quantile_of(&counts, total, quantile) } else { 0 };
        self.known.store(known, Relaxed);
        self.closed.store(now, Relaxed);
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

/// Answers of which one lies beyond the percentile.
fn enough(quantile: f64) -> u64 {
    (1.0 / (1.0 - quantile)).round().max(LEAST_ANSWERS) as u64
}

fn bucket(took: Duration) -> usize {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    let doubling = micros.checked_ilog2().unwrap_or(0).saturating_sub(STEPS_LOG2);
    // Below STEPS µs each counter is a microsecond, above it a sixteenth of a doubling.
    let index = (doubling << STEPS_LOG2) + (micros >> doubling);
    (index as usize).min(BUCKETS - 1)
}

/// The first microsecond above a counter's.
fn upper(bucket: usize) -> u64 {
    let doubling = (bucket as u64 >> STEPS_LOG2).saturating_sub(1);
    (bucket as u64 + 1 - (doubling << STEPS_LOG2)) << doubling
}

fn quantile_of(counts: &[u32], total: u64, quantile: f64) -> u64 {
    let rank = (quantile * total as f64).ceil() as u64;
    let mut seen = 0;
    let reached = |count: &u32| {
        seen += u64::from(*count);
        seen >= rank
    };
    counts.iter().position(reached).map_or(0, upper)
}

#[cfg(test)]
mod tests;
