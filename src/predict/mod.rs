//! Stage 6: asks the model. The attempt loop is the only place that asks twice.
//!
//! An attempt picks an endpoint, sends the request with the time that remains, and holds a short answer until it is whole, so
//! that a broken one can still be asked for again. Outcomes are classified once (`classify`); breaker, balance, budget and
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
mod health;
pub mod http1;
mod http2;
mod members;
mod outgoing;
mod pool;
mod state;
mod survey;
#[cfg(test)]
mod tests;

pub(crate) use failover::Region;
pub(crate) use state::{EndpointState, PoolState};

use attempt::Holding;
use classify::{Class, Failure};
use outgoing::Outgoing;
use pool::{Pool, Want};

use crate::{
    admission::Permit,
    app::Tasks,
    config::Config,
    enrich::Enriched,
    infer::{AnswerBody, Error, Kind, Method, Plan, PoolId, Protocol, WorkerId},
    telemetry::handles::predict::RetryDenied,
};

/// Answers up to this long are held until whole.
const HOLD_UP_TO: usize = 64 * 1024;
/// How often a worker looks through its idle connections.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often a request that was never sent goes out again for free: idle connections that the server closed.
const FREE_RESENDS: u32 = 8;

/// The pools.
pub struct Predict {
    pools: Vec<Pool>,
    failovers: failover::Failovers,
    /// By pool, whether it only stands by for another.
    standby: Vec<bool>,
    /// The model's name and its name upstream, by model id.
    names: Vec<(Arc<str>, Arc<str>)>,
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
            names: config.models.iter().map(|model| (model.name.clone(), model.upstream.clone())).collect(),
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
        let pool = self.acting(plan.pool);
        let (model, upstream) = &self.names[plan.model.index()];
        let worker = enriched.worker();
        let outgoing = Outgoing::new(enriched, model, upstream);
        let run = Run { pool, model, worker, plan, tasks: &self.tasks, started: now };
        run.attempts(outgoing, permit).await
    }

    /// Closes what is idle too long on this worker; to be called every [`SWEEP_EVERY`].
    pub(crate) fn sweep(&self, worker: WorkerId) {
        for pool in &self.pools {
            pool.members().iter().for_each(|endpoint| endpoint.sweep(worker));
        }
    }

    /// Whether an endpoint of the pool passes its health check now, and its breaker would let a request by. Returns within the
    /// check's own timeout.
    pub(crate) async fn is_ready(&self, pool: PoolId, worker: WorkerId) -> bool {
        let pool = self.acting(pool);
        health::check_all(pool, worker, &self.tasks).await;
        pool.is_ready(Instant::now())
    }
}

/// One request's way through its pool.
struct Run<'a> {
    pool: &'a Pool,
    model: &'a str,
    worker: WorkerId,
    plan: &'a Plan,
    tasks: &'a Tasks,
    started: Instant,
}

/// What an attempt came to.
type Outcome = Result<attempt::Reply, Failure>;

impl Run<'_> {
    async fn attempts(&self, mut outgoing: Outgoing, permit: Option<Permit>) -> Result<Prediction, Error> {
        self.pool.budget.deposit(self.started);
        let (mut attempt, mut resends, mut now, mut last) = (0, 0, self.started, None);
        let holding = if outgoing.method == Method::Stream { Holding::Never } else { Holding::Short };
        loop {
            let left = if outgoing.repeatable() { self.plan.attempts.saturating_sub(attempt).max(1) } else { 1 };
            // Only a first attempt may be a probe: what a probe loses, the attempts after it must be able to make good.
            let probing = attempt == 0 && outgoing.repeatable();
            let chosen = self.pool.pick(&Want { protocol: outgoing.protocol, last, probing }, now);
            let chosen = chosen.and_then(|choice| Ok((choice, self.attempt_timeout(now, left)?)));
            let (choice, limit) = chosen?;
            let Some(in_flight) = choice.endpoint.enter() else {
                // Somebody took the last place meanwhile.
                last = Some(choice.index);
                continue;
            };
            let (endpoint, protocol) = (&*choice.endpoint, outgoing.protocol);
            let call = attempt::Call { run: self, endpoint, protocol, holding, began: now };
            let outcome = match tokio::time::timeout_at(now + limit, call.send(&mut outgoing, in_flight)).await {
                Ok(Err(Failure::Unsent(body))) if resends < FREE_RESENDS => {
                    resends += 1;
                    outgoing.restore(*body);
                    continue;
                }
                Ok(Err(Failure::Broken(error))) => {
                    Err(outgoing.fault().map_or(Failure::Broken(error), Failure::Caller))
                }
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::TimedOut(limit)),
            };
            let (class, ended) = self.record(&outcome, choice.permit, &choice.endpoint, now);
            attempt += 1;
            let again = class.retryable() && attempt < self.plan.attempts;
            let may = outgoing.repeatable() || class == Class::Connect;
            if again && !may {
                self.pool.metrics.denied(RetryDenied::NotReplayable);
            }
            if !(again && may && self.wait(attempt, &outcome, outgoing.protocol).await) {
                return self.conclude(outcome, (&choice.endpoint, attempt), permit, ended);
            }
            last = Some(choice.index);
            now = Instant::now();
        }
    }

    /// An attempt's share of what is left; an error once nothing is.
    fn attempt_timeout(&self, now: Instant, attempts_left: u32) -> Result<Duration, Error> {
        let left = self.plan.deadline.remaining(now);
        if left.is_zero() {
            let message = format!("model {:?}: the deadline passed before it could be asked", self.model);
            return Err(Error::new(Kind::DeadlineExceeded, message));
        }
        Ok(self.plan.attempt_timeout.unwrap_or(left / attempts_left).min(left))
    }

    fn record(
        &self,
        outcome: &Outcome,
        permit: crate::resilience::breaker::Permit,
        endpoint: &endpoint::Endpoint,
        began: Instant,
    ) -> (Class, Instant) {
        let class = match outcome {
            Ok(reply) => reply.class,
            Err(failure) => Class::of_failure(failure),
        };
        let now = Instant::now();
        endpoint.observe((class, retry_after(outcome)), permit, now - began, now);
        self.pool.metrics.attempt(class.counted_as());
        (class, now)
    }

    /// Waits before the next attempt; says whether there is to be one. What is not made leaves the outcome at hand to be told.
    async fn wait(&self, attempt: u32, outcome: &Outcome, protocol: Protocol) -> bool {
        let now = Instant::now();
        let asked = retry_after(outcome).unwrap_or_default();
        let delay = self.pool.backoff.delay(attempt - 1, rand::random()).max(asked);
        let denied = if delay >= self.plan.deadline.remaining(now) {
            Some(RetryDenied::Deadline)
        } else if !self.pool.would_pick(protocol, now + delay) {
            Some(RetryDenied::NoEndpoint)
        } else if !self.pool.budget.withdraw(now) {
            Some(RetryDenied::Budget)
        } else {
            None
        };
        if let Some(reason) = denied {
            self.pool.metrics.denied(reason);
            return false;
        }
        self.pool.metrics.retry();
        tokio::time::sleep(delay).await;
        true
    }

    fn conclude(
        &self,
        outcome: Outcome,
        (endpoint, attempt): (&endpoint::Endpoint, u32),
        permit: Option<Permit>,
        now: Instant,
    ) -> Result<Prediction, Error> {
        match outcome {
            Ok(reply) => Ok(reply.into_prediction(permit, now - self.started, self.plan.deadline)),
            Err(failure) => Err(failure.into_error(self.model, endpoint.name(), attempt)),
        }
    }
}

/// When the endpoint asked to be asked again.
fn retry_after(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Ok(reply) if reply.class.retryable() => classify::retry_after(&reply.headers),
        _ => None,
    }
}
