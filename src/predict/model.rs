//! What is known of a model: what its answers take, and how many of them do not come in time.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::classify::Class;
use crate::{
    config::{self, Config, LadderMode},
    infer::ModelId,
    resilience::{
        floor::Floor,
        hedge::{After, Moment},
        median::Median,
        ratio::BadRatio,
    },
};

/// The share of a model's answers that come before another attempt is made at their request.
const NEARLY_ALL: f64 = 0.95;
/// What was given up takes so many times as long as it was waited for, as far as anybody knows.
const UNSEEN: u32 = 2;

pub(super) fn models(config: &Config, now: Instant) -> Vec<Model> {
    let fallbacks: Vec<ModelId> = config.models.iter().filter_map(|model| model.fallback.as_ref()?.model).collect();
    let judged = |index: usize, model: &config::Model| {
        let stands_in = fallbacks.iter().any(|fallback| fallback.index() == index);
        config.ladder.mode == LadderMode::Act && (stands_in || model.fallback.is_some() || model.cache.is_some())
    };
    let made = |(index, model): (usize, &config::Model)| Model {
        judged: judged(index, model),
        ..Model::new(model, config.pool(model.pool), now)
    };
    config.models.iter().enumerate().map(made).collect()
}

/// What the loop knows of a model.
pub(super) struct Model {
    pub(super) name: Arc<str>,
    /// Its name upstream.
    pub(super) upstream: Arc<str>,
    /// Whether asking twice changes nothing.
    pub(super) idempotent: bool,
    /// The least that its predictions take.
    pub(super) floor: Floor,
    /// What half of them take.
    pub(super) median: Median,
    /// What nearly all of them take at the most.
    pub(super) tail: Moment,
    /// What it has at the most.
    pub(super) timeout: Duration,
    /// When a slow prediction is asked for a second time, at its own pool; `None`: never.
    pub(super) hedge: Option<Moment>,
    /// How many of its predictions time out.
    pub(super) timeouts: BadRatio,
    /// Its own pool's name.
    pub(super) pool: Arc<str>,
    /// Whether another way may answer as well, so that what cannot be an answer is not told as one.
    pub(super) judged: bool,
}

impl Model {
    pub(super) fn new(model: &config::Model, pool: &config::Pool, now: Instant) -> Self {
        let hedge = pool.hedge.as_ref().filter(|_| model.idempotent);
        Self {
            name: model.name.clone(),
            upstream: model.upstream.clone(),
            idempotent: model.idempotent,
            floor: Floor::new(now),
            median: Median::new(now),
            tail: Moment::new(After::Quantile(NEARLY_ALL), now),
            timeout: model.timeout,
            hedge: hedge.map(|hedge| Moment::new(After::from(&hedge.after), now)),
            timeouts: BadRatio::new(now),
            pool: pool.name.clone(),
            judged: false,
        }
    }

    /// Learns from a prediction's end.
    pub(super) fn ended(&self, class: Class, took: Duration, now: Instant) {
        if let Some(event) = class.timeliness() {
            self.timeouts.note(event, now);
        }
        if class == Class::Answered {
            self.answered(took, now);
        }
    }

    /// Learns from an answer.
    pub(super) fn answered(&self, took: Duration, now: Instant) {
        self.floor.record(took, now);
        self.median.observe(took, now);
        self.tail.record(took, now);
        if let Some(hedge) = &self.hedge {
            hedge.record(took, now);
        }
    }

    /// Learns from an attempt that was given up after `waited`. Left out, only the fast answers would be known of a model that is slow
    /// now and then; so what it was waited for grows until they are seen.
    pub(super) fn outlasted(&self, waited: Duration, now: Instant) {
        self.tail.record(UNSEEN * waited, now);
    }
}
