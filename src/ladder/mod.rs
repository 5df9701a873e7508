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
//! carries the lowest level that any part of it needed, and 0 where none was lowered, wherever its model stands. What a model is
//! asked and what stands in for it is compiled from the config; where a model stands is written in the background and only loaded
//! here.

mod controller;
mod ensemble;
mod readmission;
mod route;
#[cfg(any(test, feature = "bench"))]
pub mod sample;
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
        Answer, AnswerBody, Cause, Deadline, Degradation, Error, InferRequest, Kind, Level, Members, Method, ModelId,
        Optional, Plan, PoolId, Queue, Source, Stale, TierId, Verdict,
    },
};

/// Of the time left, the share that the feature lookup may use at most: half stays for the model.
const FEATURES_SHARE: u32 = 2;

/// What is kept of the deadline at most for ways down that ask no model. They take microseconds; a process that shares its processors may
/// get none for as long as this when its time has come.
const INSTANT: Duration = Duration::from_millis(20);

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

/// How the first of a request's walks failed: where nothing below answers either, that is what its caller is told, and not how
/// a model failed that it never named.
#[derive(Debug)]
pub struct First {
    plan: Plan,
    outcome: Result<Answer, Error>,
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
        Self::on(config, Arc::new(Standings::new(config, Instant::now())))
    }

    /// The routes of the next snapshot, whose models and pools are the same and stand where they stand.
    #[must_use]
    pub fn next(&self, config: &Config) -> Self {
        Self::on(config, Arc::clone(&self.standings))
    }

    fn on(config: &Config, standings: Arc<Standings>) -> Self {
        Self {
            mode: config.ladder.mode,
            models: config.models.iter().map(|model| Route::new(model, config)).collect(),
            pools: config.pools.iter().map(PoolPolicy::new).collect(),
            standings,
            lasts: config.ladder.exit_after.max(route::LEAST_RETRY_AFTER),
        }
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

    /// Whether nothing lowers the model.
    pub fn stands_in_full(&self, model: ModelId) -> bool {
        self.standings.shown(model).load().is_full()
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
        match method {
            Method::Predict => {}
            Method::Explain => return self.explained(plan, standing, now),
            Method::Other | Method::Stream => return Ok(plan),
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
            Level::Reject => {
                return Err(self.refused(&plan, (standing, Some(Cause::Drill)), "is not answered", now));
            }
            Level::DefaultResponse => {
                let next = self.without_model(&plan, Source::Cached, Cause::Drill);
                let refused = (standing, Some(Cause::Drill));
                return next
                    .ok_or_else(|| self.refused(&plan, refused, "has neither a cache nor default outputs", now));
            }
            Level::SimplifiedModel => return Ok(self.simpler(&plan, Cause::Drill, now).unwrap_or(plan)),
            Level::Full | Level::ReducedFeatures => {}
        }
        if standing.makes_room() && !self.standings.shown(plan.named).admits() {
            let next = self.simpler(&plan, Cause::GpuMemory, now);
            let refused = (standing, Some(Cause::GpuMemory));
            let what = if self.route(plan.named).is_ensemble() {
                "has no member on other GPUs, no simpler model and no rule"
            } else {
                "has neither a simpler model nor a rule"
            };
            return next.ok_or_else(|| self.refused(&plan, refused, what, now));
        }
        let times_out = standing.has(Trigger::Timeouts) && !self.standings.shown(plan.named).probes(now);
        let next = times_out.then(|| self.simpler(&plan, Cause::Timeouts, now)).flatten();
        Ok(next.unwrap_or(plan))
    }

    /// Explanations are the first to go, and come back as predictions do.
    fn explained(&self, plan: Plan, standing: Standing, now: Instant) -> Result<Plan, Error> {
        let cause = if standing.level() >= Level::SimplifiedModel {
            None
        } else if standing.makes_room() && !self.standings.shown(plan.named).admits() {
            Some(Cause::GpuMemory)
        } else {
            return Ok(plan);
        };
        Err(self.refused(&plan, (standing, cause), "is not explained", now))
    }

    /// A plan at level 2 with less of a model, or with the rule.
    fn simpler(&self, plan: &Plan, cause: Cause, now: Instant) -> Option<Plan> {
        let route = self.route(plan.named);
        let plan = Plan { cause: Some(cause), ..plan.clone() };
        if let Some(place) = self.alone_at(plan.named, cause) {
            return Some(Plan { members: Members::One(place), level: Level::SimplifiedModel, ..plan });
        }
        // One that stands lower for the same reason at the same place is asked as little: its load is the same load.
        let is_along = |model: &ModelId| {
            let same = self.standings.shown(*model).load().has_cause(cause);
            same && self.route(*model).predict == route.predict
        };
        let mut simpler =
            std::iter::successors(route.after(plan.named, plan.named), |last| route.after(plan.named, *last));
        let model = simpler.find(|model| !is_along(model));
        let to_model = model.map(|model| Plan { queue: Queue::Waits, ..self.to_model(&plan, model, now) });
        let has_rule = route.ways.contains(&Source::Rule);
        to_model.or_else(|| has_rule.then_some(Plan { source: Source::Rule, level: Level::SimplifiedModel, ..plan }))
    }

    /// A plan that asks no model, from `least` down.
    fn without_model(&self, plan: &Plan, least: Source, cause: Cause) -> Option<Plan> {
        let source = self.route(plan.named).ways.iter().copied().find(|way| *way >= least)?;
        Some(Plan { source, level: Level::DefaultResponse, cause: Some(cause), ..plan.clone() })
    }

    /// The refusal of a model as it stands, for a cause or, where that is not known, the worst. It lasts as long as a drill does,
    /// else as long as a level at the least.
    fn refused(&self, plan: &Plan, (standing, cause): (Standing, Option<Cause>), what: &str, now: Instant) -> Error {
        let name = &self.route(plan.named).name;
        let (level, worst) = standing.worst().unwrap_or((Level::Full, Cause::Drill));
        let cause = cause.unwrap_or(worst);
        let makes_room = cause == Cause::GpuMemory;
        let level = if makes_room { level.max(Level::SimplifiedModel) } else { level };
        let returns = makes_room && !standing.has(Trigger::GpuMemory);
        let returns = if returns { "; its requests come back bit by bit" } else { "" };
        let message = format!("model {name:?} {what} at level {} ({level}: {}){returns}", level.digit(), cause.token());
        let drill = (cause == Cause::Drill).then(|| self.standings.shown(plan.named).drill_left(now));
        let lasts = drill.map_or(self.lasts, |left| left.max(route::LEAST_RETRY_AFTER));
        Error::new(Kind::Unavailable, message).with_retry_after(lasts)
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

    /// Judges how a walk went, at `now`; `first` is kept here between a request's walks. What the model named told of its own
    /// failure is passed on where nothing better is left.
    pub fn settle(
        &self,
        plan: &Plan,
        outcome: Result<Answer, Error>,
        first: &mut Option<First>,
        now: Instant,
    ) -> Settled {
        if let Some(next) = cause(plan, &outcome, first.as_ref()).and_then(|cause| self.below(plan, cause, now)) {
            first.get_or_insert_with(|| First::new(plan, outcome));
            return Settled::Next(next);
        }
        let concluded = match first.take() {
            Some(First { plan, outcome: failure }) if !is_good(&outcome) => {
                if let Err(error) = &outcome {
                    tracing::debug!(model = %self.route(plan.named).name, %error, "nothing below the model answered");
                }
                self.conclude(&plan, failure)
            }
            _ => self.conclude(plan, outcome),
        };
        concluded.map_or_else(Settled::Error, Settled::Answer)
    }

    /// The next way down from a plan; `None`: that was the last. Once the deadline has passed no model is asked any more. What asks
    /// nobody is there as soon as an error would be, and says more.
    fn below(&self, plan: &Plan, cause: Cause, now: Instant) -> Option<Plan> {
        // Observing, only a drill goes down: it was asked for.
        if self.mode == LadderMode::Observe && plan.level == Level::Full {
            return None;
        }
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
        // What the lookup of the walk before had is over.
        let model_by = plan.deadline;
        let features_by = Deadline::after(now, model_by.remaining(now) / FEATURES_SHARE).earliest(model_by);
        Some(Plan { source, level: plan.level.max(level), model: plan.named, features_by, model_by, ..plan })
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

    /// What the model named says itself has the level of its features: a plan may aim lower than it has means to go.
    fn levelled(&self, plan: &Plan, mut answer: Answer) -> Answer {
        answer.level = answer.level.max(plan.answered_at());
        if let Some(cause) = plan.cause.filter(|_| plan.source == Source::Model && plan.model != plan.named) {
            answer.degraded.push(Degradation::Model { used: self.route(plan.model).name.clone(), cause });
        }
        answer
    }

    fn route(&self, model: ModelId) -> &Route {
        &self.models[model.index()]
    }
}

impl First {
    /// A failed answer that is still coming holds its slot, which what comes after it may need: only that it came is kept.
    fn new(plan: &Plan, outcome: Result<Answer, Error>) -> Self {
        let outcome = outcome.and_then(|answer| match answer.body {
            AnswerBody::Whole(_) => Ok(answer),
            AnswerBody::Stream(_) => Err(Error::new(
                Kind::BackendFailed,
                format!("the model answered {} with a body too long to be held while others were asked", answer.status),
            )),
        });
        Self { plan: plan.clone(), outcome }
    }
}

const fn is_good(outcome: &Result<Answer, Error>) -> bool {
    matches!(outcome, Ok(Answer { verdict: Verdict::Good, .. }))
}

/// Why something else is to answer; `None`: nothing is. What another model, or what stands in for one that failed, cannot do with a
/// request is no fault of its caller, who asked for neither.
fn cause(plan: &Plan, outcome: &Result<Answer, Error>, first: Option<&First>) -> Option<Cause> {
    let unasked_for = || (first.is_some() || plan.model != plan.named).then_some(Cause::Failed);
    match outcome {
        Ok(answer) if answer.verdict == Verdict::Good => None,
        Ok(_) => Some(Cause::Failed),
        Err(error) if error.kind() == Kind::Cancelled => None,
        Err(error) => cause_of(error.kind()).or_else(unasked_for),
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
