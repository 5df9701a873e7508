//! Where a model's requests go, and what stands in for it: compiled from the config once.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::{
    config::{self, Config, Fallback, Model},
    infer::{ModelId, PoolId, Source, TierId},
};

/// What `retry-after` cannot be shorter than: it has whole seconds.
pub(super) const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A model's.
pub(super) struct Route {
    pub(super) name: Arc<str>,
    pub(super) tier: TierId,
    pub(super) predict: PoolId,
    /// The model's own where it has no explainer: ingress refuses such a request before it comes here.
    pub(super) explain: PoolId,
    /// Where it runs beyond what its tier has reserved, if elsewhere.
    pub(super) burst: Option<PoolId>,
    /// The simpler models, in the order in which they are asked.
    simpler: Box<[ModelId]>,
    /// What answers without a model, best first.
    pub(super) ways: SmallVec<[Source; 3]>,
    /// The models that answer together for it, where it is several.
    pub(super) members: Box<[ModelId]>,
    /// Share of the time left that is kept for a simpler model.
    pub(super) reserve: f64,
}

impl Route {
    pub(super) fn new(model: &Model, config: &Config) -> Self {
        let fallback = model.fallback.as_ref();
        Self {
            name: model.name.clone(),
            tier: model.tier,
            predict: model.pool,
            explain: model.explainer.unwrap_or(model.pool),
            burst: config.burst(model),
            simpler: simpler(model, config),
            ways: ways(model),
            members: model.members().into(),
            reserve: fallback.map_or(0.0, |fallback| fallback.reserve),
        }
    }

    pub(super) const fn is_ensemble(&self) -> bool {
        !self.members.is_empty()
    }

    /// Whether something else can answer for the model.
    pub(super) fn has_ways_down(&self) -> bool {
        self.is_ensemble() || !self.simpler.is_empty() || !self.ways.is_empty()
    }

    /// The model that is asked after `model`, which is the one `named` or stood in for it.
    pub(super) fn after(&self, named: ModelId, model: ModelId) -> Option<ModelId> {
        let next = if model == named { 0 } else { self.simpler.iter().position(|simpler| *simpler == model)? + 1 };
        self.simpler.get(next).copied()
    }
}

/// The chain of fallback models. Validated: it ends.
fn simpler(model: &Model, config: &Config) -> Box<[ModelId]> {
    let next = |model: &Model| model.fallback.as_ref().and_then(|fallback| fallback.model);
    std::iter::successors(next(model), |id| next(config.model(*id))).collect()
}

fn ways(model: &Model) -> SmallVec<[Source; 3]> {
    let fallback = model.fallback.as_ref();
    let has_rule = fallback.is_some_and(|fallback| fallback.rule.is_some());
    let has_default = fallback.is_some_and(|Fallback { default, .. }| !default.is_empty());
    let ways = [(Source::Rule, has_rule), (Source::Cached, model.cache.is_some()), (Source::Default, has_default)];
    ways.into_iter().filter_map(|(way, there)| there.then_some(way)).collect()
}

/// What of a pool's policy a plan needs.
pub(super) struct PoolPolicy {
    pub(super) attempts: u32,
    pub(super) attempt_timeout: Option<Duration>,
    /// How soon an endpoint that is down can be known to be up again.
    pub(super) recovery: Duration,
}

impl PoolPolicy {
    pub(super) fn new(pool: &config::Pool) -> Self {
        Self {
            attempts: pool.retry.max_retries.saturating_add(1),
            attempt_timeout: pool.attempt_timeout,
            recovery: pool.health.interval.max(LEAST_RETRY_AFTER),
        }
    }
}
