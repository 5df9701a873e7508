//! What the door knows of a model: how long its answers take, and how much is asked of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
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

/// How long a refused request is part of the demand.
const REMEMBERED: Duration = Duration::from_secs(10);

pub(super) struct Model {
    /// How long answers take, and explanations.
    answers: Median,
    explanations: Median,
    /// Refused requests.
    pub(super) shed: Tally,
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

    /// Sets the gauge of demand: requests inside, and as many as those that were refused would have been, had they been let in
    /// (Little's law: their rate times the time of an answer).
    pub(super) fn show(&self, now: Instant) {
        let refused = self.shed.sum(now) as f64 / REMEMBERED.as_secs_f64();
        let answer = self.answers.estimate(now).unwrap_or_default().as_secs_f64();
        self.demand.set(f64::from(self.inside.load(Relaxed)) + refused * answer);
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
