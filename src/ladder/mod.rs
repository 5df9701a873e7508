//! Stage 0: what is to be done for a request, and what becomes of how it went.
//!
//! [`Ladder::plan`] decides before anything is done, [`Ladder::settle`] judges afterwards; neither calls a stage. An answer
//! carries the lowest level that any part of it needed. Every model stands at level 0: a level comes from the answer's own
//! facts alone.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    config::{Config, Model},
    infer::{Answer, Deadline, Error, InferRequest, Kind, Level, Method, Plan, PoolId, Stale},
    telemetry::handles::ladder::LadderHandles,
};

/// Of the time left, the share that the feature lookup may use at most: half stays for the model.
const FEATURES_SHARE: u32 = 2;

/// What `retry-after` cannot be shorter than: it has whole seconds.
const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Plans for every model of a snapshot.
pub struct Ladder {
    models: Box<[Route]>,
    pools: Box<[PoolPolicy]>,
    /// Every model stands at level 0: shown, so that alerts on it can be written.
    _handles: Box<[LadderHandles]>,
}

struct Route {
    predict: PoolId,
    /// The model's own where it has no explainer: ingress refuses such a request before it comes here.
    explain: PoolId,
    /// Where it runs beyond what its tier has reserved, if elsewhere.
    burst: Option<PoolId>,
}

impl Route {
    fn new(model: &Model, config: &Config) -> Self {
        Self { predict: model.pool, explain: model.explainer.unwrap_or(model.pool), burst: config.burst(model) }
    }
}

/// What of a pool's policy a plan needs.
struct PoolPolicy {
    attempts: u32,
    attempt_timeout: Option<Duration>,
    /// How soon an endpoint that is down can be known to be up again.
    recovery: Duration,
}

impl Ladder {
    /// Compiles the snapshot's routes.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let pools = config.pools.iter().map(|pool| PoolPolicy {
            attempts: pool.retry.max_retries.saturating_add(1),
            attempt_timeout: pool.attempt_timeout,
            recovery: pool.health.interval.max(LEAST_RETRY_AFTER),
        });
        Self {
            models: config.models.iter().map(|model| Route::new(model, config)).collect(),
            pools: pools.collect(),
            _handles: config.models.iter().map(|model| LadderHandles::new(&model.name)).collect(),
        }
    }

    /// The first plan for a request: its own model, at level 0, until its deadline.
    #[must_use]
    pub fn plan(&self, request: &InferRequest, now: Instant) -> Plan {
        let route = &self.models[request.model.index()];
        let pool = match request.method {
            Method::Predict | Method::Other | Method::Stream => route.predict,
            Method::Explain => route.explain,
        };
        let policy = &self.pools[pool.index()];
        Plan {
            level: Level::Full,
            model: request.model,
            pool,
            tier: request.tier,
            deadline: request.deadline,
            features_by: Deadline::after(now, request.deadline.remaining(now) / FEATURES_SHARE),
            // Nothing is kept for a fallback: there is none yet.
            model_by: request.deadline,
            stale: Stale::Refused,
            attempts: policy.attempts,
            attempt_timeout: policy.attempt_timeout,
        }
    }

    /// The pool that serves what the plan asks for beyond what its tier has reserved, where there is one.
    pub fn burst(&self, plan: &Plan) -> Option<PoolId> {
        let route = &self.models[plan.model.index()];
        route.burst.filter(|_| plan.pool == route.predict)
    }

    /// The same plan at another pool, under that one's policy.
    #[must_use]
    pub fn moved(&self, plan: &Plan, pool: PoolId) -> Plan {
        let policy = &self.pools[pool.index()];
        Plan { pool, attempts: policy.attempts, attempt_timeout: policy.attempt_timeout, ..plan.clone() }
    }

    /// Judges how a walk went: an answer gets the lowest level it needed, an outage says when to try again.
    ///
    /// # Errors
    ///
    /// The outcome's own error, where nothing can be given instead.
    pub fn settle(&self, plan: &Plan, outcome: Result<Answer, Error>) -> Result<Answer, Error> {
        match outcome {
            Ok(mut answer) => {
                answer.level = answer.level.max(plan.level);
                Ok(answer)
            }
            Err(error) if error.kind() == Kind::Unavailable && error.retry_after().is_none() => {
                Err(error.with_retry_after(self.pools[plan.pool.index()].recovery))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
