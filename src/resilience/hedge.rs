//! When a second attempt is made beside a slow first one: at a percentile of the last window's answer times, or at a fixed time.
//!
//! ```text
//! answers ──record──► counters of the open window ──10 s and enough of them──► its percentile, in force until the next
//!                                                 └─60 s and too few─────────► nothing is known: no hedges
//! ```
//!
//! Invariants: never before 1 ms; never on a percentile of too few answers to have one. The first window after a silence closes
//! as soon as it has enough. One caller closes a window, no answer is lost or counted twice, and nobody reads a percentile that
//! was not worked out, or the time of another one (loom walks these in the tests). An attempt that was given up because its rival was faster counts as what it took until then: it
//! was past the percentile already, so the percentile stays true. What hedges may cost is a budget's to say.
//!
//! **Source:** Finagle's `BackupRequestFilter`; J. Dean and L. A. Barroso, "The Tail at Scale", CACM 2013.

use std::{sync::atomic::AtomicU64, time::Duration};

use tokio::time::Instant;

use super::{
    bulkhead::Word,
    slot::{unpack, update},
};
use crate::config;

/// No hedge is made earlier.
pub const EARLIEST: Duration = Duration::from_millis(1);

/// How long a window lasts at least.
const WINDOW: Duration = Duration::from_secs(10);

/// How long a window may wait for enough answers, and what is known stays in force without new ones.
const LONGEST: Duration = Duration::from_secs(60);

/// What the time of a percentile is told in: 32 bits of it are six years.
const TICK: Duration = Duration::from_millis(50);

/// The low bits of the word of when a window began, which number windows: two that begin in one microsecond differ.
const WINDOW_BITS: u32 = 8;

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
pub struct Moment<W = AtomicU64> {
    after: After,
    origin: Instant,
    /// Microseconds since `origin` when the open window began, and in the low bits its number.
    began: W,
    count: W,
    buckets: Box<[W]>,
    /// When the last window closed, in ticks from 1, and its percentile in microseconds; 0: not known.
    known: W,
}

impl Moment {
    /// One that knows no answers yet.
    #[must_use]
    pub fn new(after: After, origin: Instant) -> Self {
        Self::with(after, origin, if matches!(after, After::Quantile(_)) { BUCKETS } else { 0 })
    }
}

impl<W: Word> Moment<W> {
    fn with(after: After, origin: Instant, buckets: usize) -> Self {
        let buckets = (0..buckets).map(|_| W::zero()).collect();
        Self { after, origin, began: W::zero(), count: W::zero(), buckets, known: W::zero() }
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
        let count = self.count.add(1) + 1;
        self.buckets[bucket(took)].add(1);
        let began = self.began.load();
        let age = Duration::from_micros(self.micros(now).saturating_sub(began >> WINDOW_BITS));
        let enough = count >= enough(quantile);
        if enough && (age >= WINDOW || self.percentile(now).is_none()) || age >= LONGEST {
            self.close(quantile, began, now);
        }
    }

    fn percentile(&self, now: Instant) -> Option<Duration> {
        let (closed, micros) = unpack(self.known.load());
        let known = micros != 0 && TICK * self.tick(now).saturating_sub(closed) < LONGEST;
        known.then(|| Duration::from_micros(u64::from(micros)))
    }

    /// One caller closes a window; others go on counting, in the next.
    fn close(&self, quantile: f64, began: u64, now: Instant) {
        let number = (began + 1) & ((1 << WINDOW_BITS) - 1);
        let next = self.micros(now) << WINDOW_BITS | number;
        while let Err(found) = self.began.replace(began, next) {
            // It may fail without a cause.
            if found != began {
                return;
            }
        }
        let mut counts = [0; BUCKETS];
        counts.iter_mut().zip(&self.buckets).for_each(|(count, bucket)| *count = bucket.swap(0));
        let total = counts.iter().sum::<u64>();
        self.count.add(total.wrapping_neg());
        let known = if total >= enough(quantile) { quantile_of(&counts, total, quantile) } else { 0 };
        let (tick, known) = (self.tick(now), u32::try_from(known).unwrap_or(u32::MAX));
        // Whoever closed the next window may have been faster.
        update(&self.known, |closed, _| (closed <= tick).then_some((tick, known)));
    }

    fn micros(&self, now: Instant) -> u64 {
        // Two thousand years fit beside the window's number.
        u64::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(0)
    }

    fn tick(&self, now: Instant) -> u32 {
        let ticks = now.saturating_duration_since(self.origin).as_nanos() / TICK.as_nanos();
        u32::try_from(ticks).unwrap_or(u32::MAX - 1) + 1
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

fn quantile_of(counts: &[u64], total: u64, quantile: f64) -> u64 {
    let rank = (quantile * total as f64).ceil() as u64;
    let mut seen = 0;
    let reached = |count: &u64| {
        seen += count;
        seen >= rank
    };
    counts.iter().position(reached).map_or(0, upper)
}

#[cfg(test)]
mod tests;
