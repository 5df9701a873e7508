//! Stage 6: asks the model. The attempt loop is the only place that asks twice.
//!
//! An attempt picks an endpoint, sends the request with the time that remains, and holds a short answer until it is whole, so
//! that a broken one can still be asked for again; a slow one gets others beside it (`race`). Outcomes are classified once (`classify`); breaker, balance, budget and
//! metrics read that class.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

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
mod model;
mod outgoing;
mod pool;
mod race;
mod state;
mod survey;
#[cfg(test)]
mod tests;
mod times;

pub(crate) use failover::Region;
pub(crate) use state::{DiscoveryState, EndpointState, PoolState};

use attempt::{Attempt, Call, Holding, Reply, Settled};
use body::BodyFault;
use classify::{Advice, Class, Failure};
use endpoint::{Ended, Endpoint, InFlight};
use model::{Model, models};
use outgoing::{Outgoing, Single};
use pool::{Choice, Nobody, Pool, Want};
use race::Runner;

use crate::{
    admission::Permit,
    app::Tasks,
    config::Config,
    enrich::Enriched,
    infer::{AnswerBody, Asker, Error, Kind, Method, ModelId, Plan, PoolId, Protocol, Verdict, WorkerId},
    resilience::ratio::{Bound, Excess, Limit},
    telemetry::handles::predict::RetryDenied,
};

/// Answers up to this long are held until whole.
const HOLD_UP_TO: usize = 64 * 1024;
/// How often a worker looks through its idle connections.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often a request that was never sent goes out again for free: idle connections that the server closed.
const FREE_RESENDS: u32 = 8;
/// A model that does not answer in time: as many of its attempts time out.
const TIMEOUTS: Limit = Limit { bound: Bound::AtLeast(0.05), least: 20 };

/// The pools.
pub struct Predict {
    pools: Vec<Pool>,
    failovers: failover::Failovers,
    /// By pool, whether a start waits for it.
    awaited: Vec<bool>,
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
    /// What the attempt that answered took, where that says how fast the pool is: the answer is a success and was held whole.
    pub(crate) answered_in: Option<Duration>,
}

impl Predict {
    /// Builds the pools. Connects to nothing yet.
    #[must_use]
    pub fn new(config: &Config, tasks: Tasks, now: Instant) -> Self {
        Self {
            pools: config.pools.iter().map(|pool| Pool::new(pool, config.workers, now)).collect(),
            failovers: failover::failovers(&config.pools),
            awaited: failover::awaited(config),
            models: models(config, now),
            tasks,
        }
    }

    /// Asks the model at the plan's pool, which does `home`'s work, within the plan's deadline and number of attempts. `permit` is
    /// held until the answer's last byte.
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
        home: PoolId,
        now: Instant,
    ) -> Result<Prediction, Error> {
        let model = &self.models[plan.model.index()];
        let worker = enriched.worker();
        // The path says the name that the caller used.
        let named = &self.models[enriched.request.model.index()].name;
        let outgoing = Outgoing::new(enriched, named, &model.upstream);
        let run = Run { predict: self, pool: &self.pools[plan.pool.index()], home, model, worker, plan, started: now };
        run.attempts(outgoing, permit).await
    }

    /// Whether too many of the model's predictions timed out in the last ten seconds, at whatever pool.
    #[must_use]
    pub fn timeouts(&self, model: ModelId, now: Instant) -> Excess {
        self.models[model.index()].timeouts.excess(&TIMEOUTS, now)
    }

    /// How full the fullest GPU is of the pool that does this one's work now, of 1; `None`: that is not known.
    #[must_use]
    pub fn gpu_memory(&self, pool: PoolId, now: Instant) -> Option<f64> {
        self.pools[self.acting(pool).index()].gpu.as_ref()?.memory(now)
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
        let pool = &self.pools[self.acting(pool).index()];
        health::check_all(pool, worker, &self.tasks).await;
        pool.is_ready(Instant::now())
    }
}

/// One request's way through its pool.
struct Run<'a> {
    predict: &'a Predict,
    /// The one that is asked.
    pool: &'a Pool,
    /// The one whose work it does.
    home: PoolId,
    model: &'a Model,
    worker: WorkerId,
    plan: &'a Plan,
    started: Instant,
}

/// Which of a request's attempts one is.
#[derive(Clone, Copy)]
struct Turn {
    /// Those before it.
    made: u32,
    /// Those that may be made yet, itself included.
    left: u32,
    /// What each of them needs; `None`: that is not known.
    needs: Option<Duration>,
    /// What it is to have before another is made; zero where that is not known.
    patience: Duration,
}

impl Run<'_> {
    async fn attempts(&self, outgoing: Outgoing, permit: Option<Permit>) -> Result<Prediction, Error> {
        self.pool.deposit(self.started);
        let (mut made, mut asked, mut sent) = (0, Duration::ZERO, false);
        let mut attempt = self.begin(&outgoing, (made, None), self.started)?;
        loop {
            let beside = self.beside(&attempt);
            let (runner, limit, in_flight, endpoint) = Runner::of(attempt);
            let mut call = pin!(self.call(&endpoint, (runner.began, limit), in_flight, &outgoing));
            let outcome = match beside {
                None => Ok(call.as_mut().await),
                Some(beside) => tokio::time::timeout_at(beside.first_at(), call.as_mut()).await.map_err(|_| beside),
            };
            let (settled, attempts) = match outcome {
                Ok(outcome) => (self.ended(outcome, runner, &outgoing), 1),
                // Boxed: who is answered before that does not carry the room for two attempts.
                Err(beside) => Box::pin(self.race((call, runner), &outgoing, beside, made)).await,
            };
            made += attempts;
            asked += settled.took();
            sent |= !settled.is_unsent();
            let Some(withdrawn) = self.again(made, &settled, &outgoing).await else {
                return self.conclude(settled, (made, asked, sent), permit);
            };
            let now = Instant::now();
            match self.begin(&outgoing, (made, Some(settled.index)), now) {
                Ok(next) => attempt = next,
                // Meanwhile nobody can be asked any more: the answer at hand says more than that.
                Err(_) => {
                    self.pool.budget.give_back(withdrawn);
                    self.pool.metrics.denied(RetryDenied::NoEndpoint);
                    return self.conclude(settled, (made, asked, sent), permit);
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

    /// The attempt after `made`.
    fn turn(&self, outgoing: &Outgoing, made: u32, now: Instant) -> Turn {
        let method = outgoing.method;
        Turn {
            made,
            left: self.left(outgoing, made),
            needs: self.needs(method, now),
            patience: self.patience(method, now),
        }
    }

    /// The attempt after `made`, at another endpoint than `last`. Nobody waits for a probe on purpose but first attempts: what
    /// it loses, the attempts after it must be able to make good. One that may take as long as its caller likes, or that nobody waits for, holds
    /// up no other.
    ///
    /// None is cut off but those that the config cuts off, probes, and what is made beside another: it may be slow, and be answered in
    /// time.
    fn begin(&self, outgoing: &Outgoing, (made, last): (u32, Option<usize>), now: Instant) -> Result<Attempt, Error> {
        let repeatable = outgoing.repeatable(self.model.idempotent).is_ok();
        let asker = self.plan.asker;
        let want = Want { protocol: outgoing.protocol, last, probing: made == 0 && repeatable, asker };
        let mut attempt = self.choose(want, self.turn(outgoing, made, now), now)?;
        let has_others = self.pool.members().len() > 1;
        // A probe's answer decides whether its breaker closes: given up, it would say nothing.
        attempt.accompanied =
            has_others && repeatable && outgoing.method == Method::Predict && !attempt.choice.permit.is_probe();
        if self.plan.attempt_timeout.is_none() && (attempt.accompanied || !has_others) {
            attempt.limit = self.plan.model_by.remaining(now);
        }
        if !outgoing.is_held() || asker == Asker::Spool {
            attempt.choice.permit.yield_place();
        }
        Ok(attempt)
    }

    /// Chooses an endpoint, and how long it has.
    fn choose(&self, mut want: Want, turn: Turn, now: Instant) -> Result<Attempt, Error> {
        loop {
            let choice = self.pool.pick(&want, now).map_err(|nobody| self.nobody(nobody, want.protocol, now))?;
            let (limit, part) = self.times(turn, now)?;
            if let Some(in_flight) = choice.endpoint.enter() {
                return Ok(Attempt { choice, in_flight, began: now, limit, part, accompanied: false });
            }
            // Somebody took the last place meanwhile.
            want.last = Some(choice.index);
        }
    }

    /// Makes one attempt, which began then and has so long, to its end, and says what came of it to nobody else.
    ///
    /// # Cancel safety
    ///
    /// As [`Call::send`]; a dropped attempt says nothing to its breaker.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
    fn call<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        (began, limit): (Instant, Duration),
        in_flight: InFlight,
        outgoing: &'a Outgoing,
    ) -> impl Future<Output = Result<Reply, Failure>> + Send + 'a {
        async move {
            let (protocol, holding) = (outgoing.protocol, Holding::of(outgoing.method));
            let judged = self.model.judged && outgoing.method == Method::Predict;
            let connected = AtomicBool::new(false);
            let call = Call { run: self, endpoint, protocol, holding, judged, began, connected };
            match tokio::time::timeout_at(began + limit, call.send(outgoing, in_flight)).await {
                Ok(Err(Failure::Broken(error))) => {
                    Err(outgoing.fault().map_or(Failure::Broken(error), Failure::Caller))
                }
                Ok(outcome) => outcome,
                Err(_) if outgoing.awaits_caller() => Err(Failure::Caller(BodyFault::Late)),
                Err(_) if call.connected.load(Relaxed) => Err(Failure::TimedOut(limit)),
                Err(_) => Err(Failure::Unconnected(limit)),
            }
        }
    }

    /// Tells the caller why nobody can be asked. It may come again once one of the pools that could do the work can.
    fn nobody(&self, nobody: Nobody, protocol: Protocol, now: Instant) -> Error {
        let (asked, home) = (&self.pool.name, &self.predict.pools[self.home.index()].name);
        let instead = if asked == home { String::new() } else { format!(" (failover of {home:?})") };
        let message = format!("model {:?}: pool {asked:?}{instead}: {}", self.model.name, nobody.why);
        let soonest = || self.predict.back_in(self.home, protocol, now);
        let wait = if nobody.kind == Kind::Unavailable { soonest() } else { nobody.wait };
        let error = Error::new(nobody.kind, message);
        match wait {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        }
    }

    /// Tells everybody how the attempt ended.
    fn settle(&self, outcome: Result<Reply, Failure>, choice: Choice, method: Method, began: Instant) -> Settled {
        let advice = outcome.as_ref().map_or(Advice::None, |reply| reply.advice);
        let ended = Instant::now();
        let class = self.class(&outcome, method, (began, ended));
        let Choice { index, endpoint, permit } = choice;
        // A replay that ran out of time says nothing: it may have been kept because it does.
        let class = if permit.is_spare() && class.is_late() { Class::Hurried } else { class };
        // Looked up where it is asked for only.
        let is_last = class == Class::TimedOut && self.pool.is_last(&endpoint);
        endpoint.observe(Ended { class, asked: advice.asked(), is_last }, permit, ended - began, ended);
        if method == Method::Predict {
            self.model.ended(class, ended - began, ended);
        }
        if class == Class::Outlasted {
            self.model.outlasted(ended - began, ended);
        }
        self.pool.metrics.attempt(class.counted_as());
        Settled { outcome, class, index, endpoint, began, ended }
    }

    /// Waits for the next attempt, if there is to be one, and says when it was taken out of the budget. What is not made leaves the
    /// outcome at hand to be told.
    async fn again(&self, made: u32, settled: &Settled, outgoing: &Outgoing) -> Option<Instant> {
        let withdrawn = Instant::now();
        tokio::time::sleep(self.wait(made, settled, outgoing, withdrawn)?).await;
        Some(withdrawn)
    }

    /// How long after an outcome the next attempt is to be made, which is paid for then; `None`: there is to be none.
    fn wait(&self, made: u32, settled: &Settled, outgoing: &Outgoing, now: Instant) -> Option<Duration> {
        if !settled.class.retryable() || made >= self.plan.attempts {
            return None;
        }
        self.delay(made, settled, outgoing, now).map_err(|reason| self.pool.metrics.denied(reason)).ok()
    }

    fn delay(&self, made: u32, settled: &Settled, outgoing: &Outgoing, now: Instant) -> Result<Duration, RetryDenied> {
        if !settled.is_unsent() {
            outgoing.repeatable(self.model.idempotent)?;
        }
        let delay = self.pool.backoff.delay(made - 1, rand::random());
        let (last, asker) = (Some(settled.index), self.plan.asker);
        let want = Want { protocol: outgoing.protocol, last, probing: false, asker };
        let elsewhere = || self.pool.elsewhere(&want, now + delay);
        let delay = settled.advice().wait(delay, elsewhere).ok_or(RetryDenied::Pushback)?;
        let needed = delay.saturating_add(self.least(outgoing.method, now));
        if needed >= self.plan.model_by.remaining(now) {
            return Err(RetryDenied::Deadline);
        }
        if !self.pool.would_pick(outgoing.protocol, now + delay) {
            return Err(RetryDenied::NoEndpoint);
        }
        if self.pool.budget.withdraw(now) { Ok(delay) } else { Err(RetryDenied::Budget) }
    }

    /// The outcome as the caller is told it, after `made` attempts that took `asked` together, of which one was `sent` or none.
    fn conclude(
        &self,
        settled: Settled,
        (made, asked, sent): (u32, Duration, bool),
        permit: Option<Permit>,
    ) -> Result<Prediction, Error> {
        let (took, class) = (settled.took(), settled.class);
        match settled.outcome {
            Ok(reply) => {
                let answered_in = reply.is_lesson().then_some(took);
                let took = settled.ended - self.started;
                Ok(Prediction { took, answered_in, ..reply.into_prediction(permit, self.plan.deadline) })
            }
            Err(failure) => {
                let error = failure.into_error(&self.model.name, settled.endpoint.name(), made).with_acted(sent);
                Err(if class.is_late() { error.with_waited(asked) } else { error })
            }
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
