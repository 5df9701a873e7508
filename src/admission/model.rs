//! What the door knows of a model: how long its answers take, and how much is asked of it, whoever answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{House, RequestClass};
use crate::{
    infer::{Deadline, Method},
    resilience::{median::Median, seldom::Seldom, since::length, tally::Tally},
    telemetry::handles::admission::Demand,
};

/// How long a request that the model did not answer is part of the demand.
const REMEMBERED: Duration = Duration::from_secs(10);

/// After so long without an answer of a model for which there was too little time, it may have become quicker.
const QUIET: Duration = Duration::from_millis(500);
/// The least time between two that find out.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Model {
    answers: Answers,
    explanations: Answers,
    /// Requests refused at the door.
    pub(super) shed: Tally,
    /// Requests past the door or not even sent there, that something else than the model answered, or nobody.
    pub(super) unmet: Tally,
    /// Nanoseconds of the last median known: a model that is not asked any more gives no newer one.
    took: AtomicU64,
    /// Requests past the door, waiting ones among them.
    inside: AtomicU32,
    demand: Demand,
}

impl Model {
    pub(super) fn new(name: &str, now: Instant) -> Self {
        Self {
            answers: Answers::new(now),
            explanations: Answers::new(now),
            shed: Tally::new(REMEMBERED, now),
            unmet: Tally::new(REMEMBERED, now),
            took: AtomicU64::new(0),
            inside: AtomicU32::new(0),
            demand: Demand::new(name),
        }
    }

    /// What is known of how long what is asked takes.
    pub(super) const fn answers(&self, method: Method) -> &Answers {
        match method {
            Method::Explain => &self.explanations,
            Method::Predict | Method::Other | Method::Stream => &self.answers,
        }
    }

    /// When it is too late to begin.
    pub(super) fn latest_start(&self, method: Method, deadline: Deadline, now: Instant) -> Instant {
        let median = self.answers(method).median.estimate(now).unwrap_or_default();
        deadline.instant().checked_sub(median).unwrap_or(now)
    }

    /// Sets the gauge of demand: requests inside, and as many as those that were refused or not answered by the model would have
    /// been, had it answered them (Little's law: their rate times the time of an answer).
    pub(super) fn show(&self, now: Instant) {
        let missed = (self.shed.sum(now) + self.unmet.sum(now)) as f64 / REMEMBERED.as_secs_f64();
        let answer = self.answer(now).as_secs_f64();
        self.demand.set(f64::from(self.inside.load(Relaxed)) + missed * answer);
    }

    /// What an answer takes, or took when the model last gave some; zero where it never did.
    fn answer(&self, now: Instant) -> Duration {
        if let Some(median) = self.answers.median.estimate(now) {
            self.took.store(length(median), Relaxed);
        }
        Duration::from_nanos(self.took.load(Relaxed))
    }
}

/// How long a model's answers take: what a caller's deadline is compared with.
pub(super) struct Answers {
    pub(super) median: Median,
    /// Whether requests are let in to find out if the median is still true. Those that are kept out for its sake cannot tell: a
    /// moment in which answers were slow would keep everybody out long after it.
    trying: AtomicBool,
    tries: Seldom,
}

/// Whether there is time for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    Enough,
    /// Too little, as far as is known; the request finds out whether that is still so.
    Tried,
    /// Less than the median, which is told.
    TooLittle(Duration),
}

impl Answers {
    fn new(now: Instant) -> Self {
        Self { median: Median::new(now), trying: AtomicBool::new(false), tries: Seldom::each(LEAST_PAUSE, now) }
    }

    /// Judges the time that is left. While nobody is answered, one request in half a median's time is let in all the same: about
    /// two at once.
    pub(super) fn judge(&self, left: Duration, now: Instant) -> Time {
        let median = self.median.estimate(now).filter(|median| left < *median);
        let Some(median) = median else {
            if self.trying.load(Relaxed) {
                self.trying.store(false, Relaxed);
            }
            return Time::Enough;
        };
        if self.median.quiet_for(now) >= QUIET {
            self.trying.store(true, Relaxed);
        }
        let tries = self.trying.load(Relaxed) && self.tries.is_due_after((median / 2).max(LEAST_PAUSE), now);
        if tries { Time::Tried } else { Time::TooLittle(median) }
    }
}

/// A request past the door, until dropped.
pub(super) struct Inside {
    pub(super) house: Arc<House>,
    pub(super) asked: RequestClass,
}

impl Inside {
    pub(super) fn new(house: Arc<House>, asked: RequestClass) -> Self {
        house.models[asked.model.index()].inside.fetch_add(1, Relaxed);
        Self { house, asked }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.house.models[self.asked.model.index()].inside.fetch_sub(1, Relaxed);
    }
}
