//! What the door knows of a model: how long its answers take, and how much is asked of it, whoever answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Asked, House};
use crate::{
    infer::{Deadline, Method},
    resilience::{median::Median, tally::Tally},
    telemetry::handles::admission::Demand,
};

/// How long a request that the model did not answer is part of the demand.
const REMEMBERED: Duration = Duration::from_secs(10);

pub(super) struct Model {
    /// How long answers take, and explanations.
    answers: Median,
    explanations: Median,
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
            answers: Median::new(now),
            explanations: Median::new(now),
            shed: Tally::new(REMEMBERED, now),
            unmet: Tally::new(REMEMBERED, now),
            took: AtomicU64::new(0),
            inside: AtomicU32::new(0),
            demand: Demand::new(name),
        }
    }

    /// How long half of what is asked takes: what a caller's deadline is compared with.
    pub(super) const fn median(&self, method: Method) -> &Median {
        match method {
            Method::Explain => &self.explanations,
            Method::Predict | Method::Other | Method::Stream => &self.answers,
        }
    }

    /// When it is too late to begin.
    pub(super) fn latest_start(&self, method: Method, deadline: Deadline, now: Instant) -> Instant {
        let median = self.median(method).estimate(now).unwrap_or_default();
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
        if let Some(median) = self.answers.estimate(now) {
            self.took.store(u64::try_from(median.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
        Duration::from_nanos(self.took.load(Relaxed))
    }
}

/// A request past the door, until dropped.
pub(super) struct Inside {
    pub(super) house: Arc<House>,
    pub(super) asked: Asked,
}

impl Inside {
    pub(super) fn new(house: Arc<House>, asked: Asked) -> Self {
        house.models[asked.model.index()].inside.fetch_add(1, Relaxed);
        Self { house, asked }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.house.models[self.asked.model.index()].inside.fetch_sub(1, Relaxed);
    }
}
