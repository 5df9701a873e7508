//! Stage 6: asks the model. The attempt loop is the only place that asks twice.
//!
//! An attempt picks an endpoint, sends the request with the time that remains, and holds a short answer until it is whole, so
//! that a broken one can still be asked for again; a slow one may get a second beside it (`race`). Outcomes are classified once (`classify`); breaker, balance, budget and
//! metrics read that class.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

mod attempt;
mod balance;
mod body;
pub(crate) mod classify;
mod discovery;
mod endpoint;
mod failover;
pub mod gpu;
mod health;
pub mod http1;
mod http2;
mod members;
mod message;
mod outgoing;
mod pool;
mod race;
mod state;
mod survey;
#[cfg(test)]
mod tests;

pub(crate) use failover::Region;
pub(crate) use state::{EndpointState, PoolState};

use attempt::{Attempt, Call, Holding, Reply, Settled};
use classify::{Advice, Class, Failure};
use outgoing::{Outgoing, Single};
use pool::{Choice, Pool, Want};

use crate::{
    admission::Permit,
    app::Tasks,
    config::{self, Config},
    enrich::Enriched,
    infer::{AnswerBody, Error, Kind, Method, ModelId, Plan, PoolId, Protocol, Verdict, WorkerId},
    resilience::{
        floor::Floor,
        hedge::{After, Moment},
        ratio::{BadRatio, Bound, Limit},
    },
    telemetry::handles::predict::RetryDenied,
};

/// Answers up to this long are held until whole.
const HOLD_UP_TO: usize = 64 * 1024;
/// How often a worker looks through its idle connections.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often a request that was never sent goes out again for free: idle connections that the server closed.
const FREE_RESENDS: u32 = 8;
/// A shorter time without an answer says nothing of an endpoint whose answers' times are not known.
const FAIR: Duration = Duration::from_millis(5);
/// A model that does not answer in time: as many of its attempts time out.
const TIMEOUTS: Limit = Limit { bound: Bound::AtLeast(0.05), least: 20 };

/// The pools.
pub struct Predict {
    pools: Vec<Pool>,
    failovers: failover::Failovers,
    /// By pool, whether it only stands by for another.
    standby: Vec<bool>,
    /// By model id.
    models: Vec<Model>,
    tasks: Tasks,
}

/// A model's answer.
#[derive(Debug)]
pub struct Prediction {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: AnswerBody,
    /// gRPC trailers of a body held whole.
    pub(crate) trailers: Option<HeaderMap>,
    /// What it is worth.
    pub(crate) verdict: Verdict,
    /// From the first attempt's start to the answer.
    pub(crate) took: Duration,
}

impl Predict {
    /// Builds the pools. Connects to nothing yet.
    #[must_use]
    pub fn new(config: &Config, tasks: Tasks, now: Instant) -> Self {
        Self {
            pools: config.pools.iter().map(|pool| Pool::new(pool, config.workers, now)).collect(),
            failovers: failover::failovers(&config.pools),
            standby: failover::standby(config),
            models: config.models.iter().map(|model| Model::new(model, config.pool(model.pool), now)).collect(),
            tasks,
        }
    }

    /// Asks the model, within the plan's deadline and number of attempts. `permit` is held until the answer's last byte.
    ///
    /// # Errors
    ///
    /// `BackendFailed`, `DeadlineExceeded`, `Unavailable` (no endpoint may be asked), `Shed` (all at `max_in_flight`),
    /// `Unimplemented` (no endpoint speaks the protocol). An answer with an error status is an answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it cancels the attempt upstream.
    pub async fn run(
        &self,
        enriched: Enriched,
        permit: Option<Permit>,
        plan: &Plan,
        now: Instant,
    ) -> Result<Prediction, Error> {
        let model = &self.models[plan.model.index()];
        let worker = enriched.worker();
        let outgoing = Outgoing::new(enriched, &model.name, &model.upstream);
        let pool = self.able(plan.pool, outgoing.protocol, now);
        let run = Run { pool, model, worker, plan, tasks: &self.tasks, started: now };
        run.attempts(outgoing, permit).await
    }

    /// The pool that does this one's work now; the one behind it, while it has nobody to ask and its failover is not decided.
    fn able(&self, pool: PoolId, protocol: Protocol, now: Instant) -> &Pool {
        let pool = self.acting(pool);
        let Some(failover) = &pool.config.failover else { return pool };
        let behind = self.acting(failover.pool);
        if !pool.may_be_asked(protocol, now) && behind.may_be_asked(protocol, now) { behind } else { pool }
    }

    /// Whether the pool has an endpoint that can be asked now; it may have changed by the time one is.
    pub(crate) fn may_ask(&self, pool: PoolId, protocol: Protocol, now: Instant) -> bool {
        self.acting(pool).may_be_asked(protocol, now)
    }

    /// Whether too many of the model's predictions timed out in the last ten seconds, at whatever pool.
    #[must_use]
    pub fn is_timing_out(&self, model: ModelId, now: Instant) -> bool {
        self.models[model.index()].timeouts.is_over(&TIMEOUTS, now)
    }

    /// How full the fullest GPU is of the pool that does this one's work now, of 1; `None`: that is not known.
    #[must_use]
    pub fn gpu_memory(&self, pool: PoolId, now: Instant) -> Option<f64> {
        self.acting(pool).gpu.as_ref()?.memory(now)
    }

    /// Closes what is idle too long on this worker; to be called every [`SWEEP_EVERY`].
    pub(crate) fn sweep(&self, worker: WorkerId) {
        for pool in &self.pools {
            pool.members().iter().for_each(|endpoint| endpoint.sweep(worker));
        }
    }

    /// Writes the gauges that mirror a state kept here; to be called before each scrape.
    pub(crate) fn show(&self, now: Instant) {
        self.pools.iter().for_each(|pool| pool.members().iter().for_each(|endpoint| endpoint.show(now)));
    }

    /// Whether an endpoint of the pool passes its health check now, and its breaker would let a request by. Returns within the
    /// check's own timeout.
    pub(crate) async fn is_ready(&self, pool: PoolId, worker: WorkerId) -> bool {
        let pool = self.acting(pool);
        health::check_all(pool, worker, &self.tasks).await;
        pool.is_ready(Instant::now())
    }
}

/// What the loop knows of a model.
struct Model {
    name: Arc<str>,
    /// Its name upstream.
    upstream: Arc<str>,
    /// Whether asking twice changes nothing.
    idempotent: bool,
    /// The least that its predictions take.
    floor: Floor,
    /// When a slow prediction is asked for a second time, at its own pool; `None`: never.
    hedge: Option<Moment>,
    /// How many of its predictions time out.
    timeouts: BadRatio,
    /// Its own pool's name.
    pool: Arc<str>,
}

impl Model {
    fn new(model: &config::Model, pool: &config::Pool, now: Instant) -> Self {
        let hedge = pool.hedge.as_ref().filter(|_| model.idempotent);
        Self {
            name: model.name.clone(),
            upstream: model.upstream.clone(),
            idempotent: model.idempotent,
            floor: Floor::new(now),
            hedge: hedge.map(|hedge| Moment::new(After::from(&hedge.after), now)),
            timeouts: BadRatio::new(now),
            pool: pool.name.clone(),
        }
    }

    /// Learns from a prediction's end.
    fn ended(&self, class: Class, took: Duration, now: Instant) {
        if let Some(event) = class.timeliness() {
            self.timeouts.note(event, now);
        }
        if class == Class::Answered {
            self.answered(took, now);
        }
    }

    /// Learns from an answer.
    fn answered(&self, took: Duration, now: Instant) {
        self.floor.record(took, now);
        if let Some(hedge) = &self.hedge {
            hedge.record(took, now);
        }
    }
}

/// One request's way through its pool.
struct Run<'a> {
    pool: &'a Pool,
    model: &'a Model,
    worker: WorkerId,
    plan: &'a Plan,
    tasks: &'a Tasks,
    started: Instant,
}

impl Run<'_> {
    async fn attempts(&self, outgoing: Outgoing, permit: Option<Permit>) -> Result<Prediction, Error> {
        self.pool.deposit(self.started);
        let mut made = 0;
        let mut attempt = self.begin(&outgoing, (made, None), self.started)?;
        loop {
            let left = self.left(&outgoing, made);
            let settled = match self.hedge_delay(&outgoing, &attempt) {
                None => self.make(attempt, &outgoing).await,
                // Boxed: who is not hedged does not carry the room for two attempts.
                Some(delay) => Box::pin(self.race(attempt, &outgoing, delay, left)).await,
            };
            made += 1;
            if !self.again(made, &settled, &outgoing).await {
                return self.conclude(settled, made, permit);
            }
            let now = Instant::now();
            match self.begin(&outgoing, (made, Some(settled.index)), now) {
                Ok(next) => attempt = next,
                // Meanwhile nobody can be asked any more: the answer at hand says more than that.
                Err(_) => {
                    self.pool.budget.give_back(now);
                    self.pool.metrics.denied(RetryDenied::NoEndpoint);
                    return self.conclude(settled, made, permit);
                }
            }
            self.pool.metrics.retry();
        }
    }

    /// How many attempts may be made after `made`.
    fn left(&self, outgoing: &Outgoing, made: u32) -> u32 {
        let repeatable = outgoing.repeatable(self.model.idempotent).is_ok();
        if repeatable { self.plan.attempts.saturating_sub(made).max(1) } else { 1 }
    }

    /// The attempt after `made`, at another endpoint than `last`. Nobody waits for a probe on purpose but first attempts: what
    /// it loses, the attempts after it must be able to make good. One that may take as long as its caller likes holds up no other.
    fn begin(&self, outgoing: &Outgoing, (made, last): (u32, Option<usize>), now: Instant) -> Result<Attempt, Error> {
        let repeatable = outgoing.repeatable(self.model.idempotent).is_ok();
        let want = Want { protocol: outgoing.protocol, last, probing: made == 0 && repeatable };
        let attempt = self.choose(want, self.left(outgoing, made), now)?;
        if !outgoing.is_held() {
            attempt.choice.permit.yield_place();
        }
        Ok(attempt)
    }

    /// Chooses an endpoint, and how long it has where `left` attempts may follow, this one included.
    fn choose(&self, mut want: Want, left: u32, now: Instant) -> Result<Attempt, Error> {
        loop {
            let choice = self.pool.pick(&want, now)?;
            let limit = self.attempt_timeout(now, left)?;
            if let Some(in_flight) = choice.endpoint.enter() {
                return Ok(Attempt { choice, in_flight, began: now, limit });
            }
            // Somebody took the last place meanwhile.
            want.last = Some(choice.index);
        }
    }

    /// Makes one attempt, to its end.
    ///
    /// # Cancel safety
    ///
    /// As [`Call::send`]; a dropped attempt says nothing to its breaker.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
    fn make<'a>(&'a self, attempt: Attempt, outgoing: &'a Outgoing) -> impl Future<Output = Settled> + Send + 'a {
        async move {
            let (protocol, holding) = (outgoing.protocol, Holding::of(outgoing.method));
            let call = Call { run: self, endpoint: &attempt.choice.endpoint, protocol, holding, began: attempt.began };
            let until = attempt.began + attempt.limit;
            let outcome = match tokio::time::timeout_at(until, call.send(outgoing, attempt.in_flight)).await {
                Ok(Err(Failure::Broken(error))) => {
                    Err(outgoing.fault().map_or(Failure::Broken(error), Failure::Caller))
                }
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::TimedOut(attempt.limit)),
            };
            self.settle(outcome, attempt.choice, outgoing.method, attempt.began)
        }
    }

    /// An attempt's share of what is left; an error once nothing is.
    ///
    /// Recomputed for every attempt. The first one is made however little is left, since what answers take is learned from it;
    /// extra ones ask [`Self::least`] before.
    fn attempt_timeout(&self, now: Instant, attempts_left: u32) -> Result<Duration, Error> {
        let left = self.plan.model_by.remaining(now);
        if left.is_zero() {
            let message = format!("model {:?}: the deadline passed before it could be asked", self.model.name);
            return Err(Error::new(Kind::DeadlineExceeded, message));
        }
        Ok(self.plan.attempt_timeout.unwrap_or(left / attempts_left).min(left))
    }

    /// What an attempt needs at the least: nothing answered faster of late. Zero where that is not known.
    fn least(&self, method: Method, now: Instant) -> Duration {
        if method == Method::Predict { self.model.floor.least(now) } else { Duration::ZERO }
    }

    /// Whether the attempt timed out and had less time than an answer can be expected in. What the config gives is enough.
    fn was_hurried(&self, outcome: &Result<Reply, Failure>, method: Method, now: Instant) -> bool {
        let Err(Failure::TimedOut(had)) = outcome else { return false };
        let least = self.least(method, now);
        let fair = if least.is_zero() { FAIR } else { 2 * least };
        *had < fair && self.plan.attempt_timeout.is_none_or(|timeout| *had < timeout)
    }

    /// Tells everybody how the attempt ended.
    fn settle(&self, outcome: Result<Reply, Failure>, choice: Choice, method: Method, began: Instant) -> Settled {
        let (class, advice) = match &outcome {
            Ok(reply) => (reply.class, reply.advice),
            Err(failure) => (Class::of_failure(failure), Advice::None),
        };
        let ended = Instant::now();
        let class = if self.was_hurried(&outcome, method, ended) { Class::Hurried } else { class };
        let Choice { index, endpoint, permit } = choice;
        endpoint.observe((class, advice.asked()), permit, ended - began, ended);
        if method == Method::Predict {
            self.model.ended(class, ended - began, ended);
        }
        self.pool.metrics.attempt(class.counted_as());
        Settled { outcome, class, index, endpoint, ended }
    }

    /// Waits for the next attempt, if there is to be one. What is not made leaves the outcome at hand to be told.
    async fn again(&self, made: u32, settled: &Settled, outgoing: &Outgoing) -> bool {
        if !settled.class.retryable() || made >= self.plan.attempts {
            return false;
        }
        match self.delay(made, settled, outgoing, Instant::now()) {
            Ok(delay) => {
                tokio::time::sleep(delay).await;
                true
            }
            Err(reason) => {
                self.pool.metrics.denied(reason);
                false
            }
        }
    }

    fn delay(&self, made: u32, settled: &Settled, outgoing: &Outgoing, now: Instant) -> Result<Duration, RetryDenied> {
        // Without a connection nothing was sent.
        if settled.class != Class::Connect {
            outgoing.repeatable(self.model.idempotent)?;
        }
        let delay = self.pool.backoff.delay(made - 1, rand::random());
        let delay = settled.advice().wait(delay).ok_or(RetryDenied::Pushback)?;
        let needed = delay.saturating_add(self.least(outgoing.method, now));
        if needed >= self.plan.model_by.remaining(now) {
            return Err(RetryDenied::Deadline);
        }
        if !self.pool.would_pick(outgoing.protocol, now + delay) {
            return Err(RetryDenied::NoEndpoint);
        }
        if self.pool.budget.withdraw(now) { Ok(delay) } else { Err(RetryDenied::Budget) }
    }

    fn conclude(&self, settled: Settled, made: u32, permit: Option<Permit>) -> Result<Prediction, Error> {
        match settled.outcome {
            Ok(reply) => Ok(reply.into_prediction(permit, settled.ended - self.started, self.plan.deadline)),
            Err(failure) => Err(failure.into_error(&self.model.name, settled.endpoint.name(), made)),
        }
    }
}

impl From<Single> for RetryDenied {
    fn from(why: Single) -> Self {
        match why {
            Single::NotReplayable => Self::NotReplayable,
            Single::NotIdempotent => Self::NotIdempotent,
        }
    }
}
