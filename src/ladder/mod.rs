//! Stage 0: what is to be done for a request, and what becomes of how it went.
//!
//! ```text
//!   plan ──► the model named, at its standing level
//!              │ no answer, or the backend's failure
//!   settle ──► its fallback model, and that one's ─► the rule ─► a prediction that was kept ─► the default outputs ─► the error
//!              level 2 ──────────────────────────────────────┘   level 3 ──────────────────────────────────────┘   (4: 503)
//! ```
//!
//! [`Ladder::plan`] decides before anything is done, [`Ladder::settle`] judges afterwards; neither calls a stage. An answer
//! carries the lowest level that any part of it needed. What a model is asked and what stands in for it is compiled from the
//! config; where a model stands is written in the background and only loaded here.

mod controller;
mod ensemble;
mod route;
mod standing;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use self::controller::{Facts, ModelFacts, State};
use self::{
    controller::Standings,
    route::{PoolPolicy, Route},
    standing::{Standing, Trigger},
};
use crate::{
    config::{Config, LadderMode},
    infer::{
        Answer, Cause, Deadline, Degradation, Error, InferRequest, Kind, Level, Members, Method, ModelId, Optional,
        Plan, PoolId, Queue, Source, Stale, TierId, Verdict,
    },
};

/// Of the time left, the share that the feature lookup may use at most: half stays for the model.
const FEATURES_SHARE: u32 = 2;

/// What is kept of the deadline at most for ways down that ask no model.
const INSTANT: Duration = Duration::from_millis(10);

/// Plans for every model of a snapshot.
pub struct Ladder {
    mode: LadderMode,
    models: Box<[Route]>,
    pools: Box<[PoolPolicy]>,
    /// Where models stand; outlives a snapshot.
    standings: Arc<Standings>,
    /// How long a level lasts at the least.
    lasts: Duration,
}

/// What becomes of a walk.
#[derive(Debug)]
pub enum Settled {
    /// It is the answer.
    Answer(Answer),
    /// Another walk is to be made, one way down.
    Next(Plan),
    /// Nothing is left to answer with.
    Error(Error),
}

impl Ladder {
    /// Compiles the snapshot's routes.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            mode: config.ladder.mode,
            models: config.models.iter().map(|model| Route::new(model, config)).collect(),
            pools: config.pools.iter().map(PoolPolicy::new).collect(),
            standings: Arc::new(Standings::new(config, Instant::now())),
            lasts: config.ladder.exit_after.max(route::LEAST_RETRY_AFTER),
        }
    }

    /// The routes of the next snapshot, whose models and pools are the same and stand where they stand.
    #[must_use]
    pub fn next(&self, config: &Config) -> Self {
        Self { standings: Arc::clone(&self.standings), ..Self::new(config) }
    }

    /// Moves models by what the stages report; to be called a few times a second.
    pub fn look(&self, facts: &Facts, now: Instant) {
        self.standings.look(facts, now);
    }

    /// Holds a model at a level for a while; level 0, or no time, ends it.
    pub fn drill(&self, model: ModelId, level: Level, time: Duration, now: Instant) {
        self.standings.drill(model, level, now + time, now);
    }

    /// How a model stands.
    #[must_use]
    pub fn state(&self, model: ModelId, now: Instant) -> State {
        self.standings.state(model, now)
    }

    /// The first plan for a request: its own model, until its deadline less what is kept for its fallback; less than that where
    /// the model stands lower.
    ///
    /// # Errors
    ///
    /// `Unavailable`, where the level that the model stands at leaves nothing to answer with.
    pub fn plan(&self, request: &InferRequest, now: Instant) -> Result<Plan, Error> {
        let plan = self.in_person(self.full(request, now), request.method)?;
        let standing = self.standings.shown(request.model).load();
        if standing.is_full() { Ok(plan) } else { self.lowered(plan, standing, (request.method, now)) }
    }

    /// As if nothing lowered the model.
    fn full(&self, request: &InferRequest, now: Instant) -> Plan {
        let route = self.route(request.model);
        let pool = match request.method {
            Method::Predict | Method::Other | Method::Stream => route.predict,
            Method::Explain => route.explain,
        };
        let plan = Plan::full(request.model, pool, request.tier, request.deadline);
        self.timed(self.moved(&plan, pool), now)
    }

    /// What the model's standing leaves of a plan.
    fn lowered(&self, plan: Plan, standing: Standing, (method, now): (Method, Instant)) -> Result<Plan, Error> {
        if method == Method::Explain && standing.level() >= Level::SimplifiedModel {
            return Err(self.refused(&plan, standing, "is not explained"));
        }
        if method != Method::Predict {
            return Ok(plan);
        }
        let (drill, slow) = (standing.drill(), standing.has(Trigger::FeaturesSlow));
        let spares_features = slow || standing.has(Trigger::FeaturesUnavailable) || drill > Level::Full;
        let plan = Plan {
            level: plan.level.max(drill.min(Level::SimplifiedModel)),
            stale: if spares_features { Stale::Allowed } else { plan.stale },
            optional: if slow || drill > Level::Full { Optional::Skipped } else { plan.optional },
            ..plan
        };
        match drill {
            Level::Reject => return Err(self.refused(&plan, standing, "is not answered")),
            Level::DefaultResponse => {
                let next = self.without_model(&plan, Source::Cached, Cause::Drill);
                return next.ok_or_else(|| self.refused(&plan, standing, "has neither a cache nor default outputs"));
            }
            Level::SimplifiedModel => return Ok(self.simpler(&plan, Cause::Drill, now).unwrap_or(plan)),
            Level::Full | Level::ReducedFeatures => {}
        }
        if standing.has(Trigger::GpuMemory) {
            let next = self.simpler(&plan, Cause::GpuMemory, now);
            return next.ok_or_else(|| self.refused(&plan, standing, "has neither a simpler model nor a rule"));
        }
        let times_out = standing.has(Trigger::Timeouts) && !self.standings.shown(plan.named).probes(now);
        let next = times_out.then(|| self.simpler(&plan, Cause::Timeouts, now)).flatten();
        Ok(next.unwrap_or(plan))
    }

    /// A plan at level 2 with less of a model, or with the rule.
    fn simpler(&self, plan: &Plan, cause: Cause, now: Instant) -> Option<Plan> {
        let route = self.route(plan.named);
        let plan = Plan { cause: Some(cause), ..plan.clone() };
        if route.is_ensemble() {
            return Some(Plan { members: Members::First, level: Level::SimplifiedModel, ..plan });
        }
        let model = route.after(plan.named, plan.named);
        let to_model = model.map(|model| Plan { queue: Queue::Waits, ..self.to_model(&plan, model, now) });
        let has_rule = route.ways.contains(&Source::Rule);
        to_model.or_else(|| has_rule.then(|| Plan { source: Source::Rule, level: Level::SimplifiedModel, ..plan }))
    }

    /// A plan that asks no model, from `least` down.
    fn without_model(&self, plan: &Plan, least: Source, cause: Cause) -> Option<Plan> {
        let source = self.route(plan.named).ways.iter().copied().find(|way| *way >= least)?;
        Some(Plan { source, level: Level::DefaultResponse, cause: Some(cause), ..plan.clone() })
    }

    fn refused(&self, plan: &Plan, standing: Standing, what: &str) -> Error {
        let name = &self.route(plan.named).name;
        let (level, cause) = standing.worst().unwrap_or((Level::Full, Cause::Drill));
        let message = format!("model {name:?} {what} at level {} ({level}: {})", level.digit(), cause.token());
        Error::new(Kind::Unavailable, message).with_retry_after(self.lasts)
    }

    /// Whether something else than the model can answer, or answers already.
    pub fn has_ways_down(&self, plan: &Plan, method: Method) -> bool {
        let acts = self.mode == LadderMode::Act && method == Method::Predict;
        let route = self.route(plan.named);
        plan.source != Source::Model
            || plan.model != plan.named
            || route.is_ensemble()
            || (acts && route.has_ways_down())
    }

    /// The pool that serves what the plan asks for beyond what its tier has reserved, where there is one.
    pub fn burst(&self, plan: &Plan) -> Option<PoolId> {
        let route = self.route(plan.model);
        route.burst.filter(|_| plan.pool == route.predict)
    }

    /// The same plan at another pool, under that one's policy.
    #[must_use]
    pub fn moved(&self, plan: &Plan, pool: PoolId) -> Plan {
        let policy = &self.pools[pool.index()];
        Plan { pool, attempts: policy.attempts, attempt_timeout: policy.attempt_timeout, ..plan.clone() }
    }

    /// Judges how a walk went, where nothing else can answer: an answer gets the lowest level it needed, an outage says when to
    /// try again.
    ///
    /// # Errors
    ///
    /// The outcome's own error.
    pub fn conclude(&self, plan: &Plan, outcome: Result<Answer, Error>) -> Result<Answer, Error> {
        match outcome {
            Ok(answer) => Ok(self.levelled(plan, answer)),
            Err(error) if error.kind() == Kind::Unavailable && error.retry_after().is_none() => {
                Err(error.with_retry_after(self.pools[plan.pool.index()].recovery))
            }
            Err(error) => Err(error),
        }
    }

    /// Judges how a walk went, at `now`. What the backend told of its own failure is passed on where nothing better is left.
    pub fn settle(&self, plan: &Plan, outcome: Result<Answer, Error>, now: Instant) -> Settled {
        let cause = match &outcome {
            Ok(answer) if answer.verdict == Verdict::Good => None,
            Ok(_) => Some(Cause::Failed),
            Err(error) => cause_of(error.kind()),
        };
        let next = cause.and_then(|cause| self.below(plan, cause, now));
        match (next, self.conclude(plan, outcome)) {
            (Some(next), _) => Settled::Next(next),
            (None, Ok(answer)) => Settled::Answer(answer),
            (None, Err(error)) => Settled::Error(error),
        }
    }

    /// The next way down from a plan; `None`: that was the last. Once the deadline has passed no model is asked any more. What asks
    /// nobody is there as soon as an error would be, and says more.
    fn below(&self, plan: &Plan, cause: Cause, now: Instant) -> Option<Plan> {
        let route = self.route(plan.named);
        // The first cause is what the caller is told.
        let plan = Plan { cause: plan.cause.or(Some(cause)), ..plan.clone() };
        if plan.source == Source::Model
            && !plan.deadline.remaining(now).is_zero()
            && let Some(model) = route.after(plan.named, plan.model)
        {
            return Some(self.to_model(&plan, model, now));
        }
        let source = route.ways.iter().copied().find(|way| *way > plan.source)?;
        let level = if source == Source::Rule { Level::SimplifiedModel } else { Level::DefaultResponse };
        Some(Plan { source, level: plan.level.max(level), model: plan.named, ..plan })
    }

    /// The same request to a simpler model, under that one's tier or a lower one that the caller asked for.
    fn to_model(&self, plan: &Plan, model: ModelId, now: Instant) -> Plan {
        let route = self.route(model);
        let tier = TierId(plan.tier.0.max(route.tier.0));
        let next =
            Plan { model, tier, level: plan.level.max(Level::SimplifiedModel), queue: Queue::Skips, ..plan.clone() };
        self.timed(self.moved(&next, route.predict), now)
    }

    /// The plan with the time from `now` divided between features, model, and what is kept for the ways below.
    fn timed(&self, plan: Plan, now: Instant) -> Plan {
        let left = plan.deadline.remaining(now);
        let model_for = left.saturating_sub(self.kept(&plan, left));
        Plan {
            model_by: Deadline::after(now, model_for),
            features_by: Deadline::after(now, model_for / FEATURES_SHARE),
            ..plan
        }
    }

    /// What is kept of the time left for the ways below.
    fn kept(&self, plan: &Plan, left: Duration) -> Duration {
        let route = self.route(plan.named);
        if self.mode == LadderMode::Observe || !route.has_ways_down() {
            return Duration::ZERO;
        }
        let share = left.mul_f64(route.reserve);
        if route.after(plan.named, plan.model).is_some() { share } else { share.min(INSTANT) }
    }

    fn levelled(&self, plan: &Plan, mut answer: Answer) -> Answer {
        answer.level = answer.level.max(plan.level);
        if let Some(cause) = plan.cause.filter(|_| plan.source == Source::Model && plan.model != plan.named) {
            answer.degraded.push(Degradation::Model { used: self.route(plan.model).name.clone(), cause });
        }
        answer
    }

    fn route(&self, model: ModelId) -> &Route {
        &self.models[model.index()]
    }
}

/// What a failure is told as where something else answers; `None`: nothing else may, it is the caller's.
pub(crate) const fn cause_of(kind: Kind) -> Option<Cause> {
    match kind {
        Kind::Shed => Some(Cause::Shed),
        Kind::DeadlineExceeded => Some(Cause::Timeout),
        Kind::BackendFailed => Some(Cause::Failed),
        Kind::Unavailable => Some(Cause::Unavailable),
        Kind::InvalidRequest
        | Kind::TooLarge
        | Kind::RequestTimeout
        | Kind::NotFound
        | Kind::MethodNotAllowed
        | Kind::UnsupportedMediaType
        | Kind::Unauthenticated
        | Kind::NotAllowed
        | Kind::Unimplemented
        | Kind::Cancelled
        | Kind::KeyReused
        | Kind::SpoolFull
        | Kind::Internal => None,
    }
}
