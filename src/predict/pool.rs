//! A set of endpoints with one policy, and the choice among them: power of two choices on expected wait.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::endpoint::{Endpoint, Health};
use crate::{
    config,
    infer::{Error, Kind, Protocol},
    resilience::{backoff, breaker, budget::Budget},
    telemetry::handles::predict::{HedgeDenied, PoolHandles},
};

/// A pool at work.
pub(super) struct Pool {
    pub(super) name: Arc<str>,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) config: config::Pool,
    pub(super) backoff: backoff::Retry,
    pub(super) budget: Budget,
    /// What hedges may take of it; `None`: nothing is hedged.
    pub(super) hedges: Option<Budget>,
    pub(super) metrics: PoolHandles,
}

/// The endpoint chosen for an attempt, and the breaker's leave to ask it.
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) permit: breaker::Permit,
}

impl Pool {
    pub(super) fn new(config: &config::Pool, workers: usize, now: Instant) -> Self {
        let endpoints =
            config.endpoints.iter().map(|endpoint| Arc::new(Endpoint::new(endpoint, config, workers, now))).collect();
        Self {
            name: config.name.clone(),
            endpoints,
            backoff: backoff::Retry::from(&config.retry),
            budget: Budget::new(config.retry_budget, now),
            hedges: config.hedge.as_ref().map(|hedge| Budget::strict(hedge.share, now)),
            metrics: PoolHandles::new(&config.name),
            config: config.clone(),
        }
    }

    /// Notes a request, which pays its part of the extra load.
    pub(super) fn deposit(&self, now: Instant) {
        self.budget.deposit(now);
        if let Some(hedges) = &self.hedges {
            hedges.deposit(now);
        }
    }

    /// Takes a hedge out of its share and of the pool's budget.
    ///
    /// # Errors
    ///
    /// Which of the two is spent.
    pub(super) fn withdraw_hedge(&self, now: Instant) -> Result<(), HedgeDenied> {
        if !self.hedges.as_ref().is_some_and(|hedges| hedges.withdraw(now)) {
            return Err(HedgeDenied::Share);
        }
        if !self.budget.withdraw(now) {
            self.hedges.iter().for_each(|hedges| hedges.give_back(now));
            return Err(HedgeDenied::Budget);
        }
        Ok(())
    }

    /// Puts back a hedge taken at `then` that was not made.
    pub(super) fn give_back_hedge(&self, then: Instant) {
        self.budget.give_back(then);
        self.hedges.iter().for_each(|hedges| hedges.give_back(then));
    }

    /// Chooses an endpoint for the next attempt, another than `last` where there is one.
    ///
    /// Endpoints whose health check fails are left out, unless all fail. A half-open breaker lets one probe by.
    pub(super) fn pick(&self, protocol: Protocol, last: Option<usize>, now: Instant) -> Result<Choice, Error> {
        if self.endpoints.len() == 1 {
            return self.only(protocol, now);
        }
        let fits = |index: &usize| {
            let endpoint = &self.endpoints[*index];
            endpoint.upstream(protocol).is_some() && endpoint.has_room()
        };
        let all: smallvec::SmallVec<[usize; 16]> = (0..self.endpoints.len()).filter(fits).collect();
        let healthy: smallvec::SmallVec<[usize; 16]> =
            all.iter().copied().filter(|index| self.endpoints[*index].health() != Health::Failing).collect();
        let mut candidates = if healthy.is_empty() { all } else { healthy };
        if candidates.len() > 1 {
            candidates.retain(|index| Some(*index) != last);
        }
        if let Some(probe) = self.probe(&candidates, now) {
            return Ok(probe);
        }
        let mut until = None;
        while !candidates.is_empty() {
            let position = self.cheaper_of_two(&candidates, now);
            let index = candidates.swap_remove(position);
            match self.endpoints[index].breaker.admit(now) {
                Ok(permit) => return Ok(Choice { index, endpoint: self.endpoints[index].clone(), permit }),
                Err(refused) => until = [until, refused.until].into_iter().flatten().min(),
            }
        }
        Err(self.nobody(protocol, until, now))
    }

    fn only(&self, protocol: Protocol, now: Instant) -> Result<Choice, Error> {
        let endpoint = &self.endpoints[0];
        if endpoint.upstream(protocol).is_none() || !endpoint.has_room() {
            return Err(self.nobody(protocol, None, now));
        }
        match endpoint.breaker.admit(now) {
            Ok(permit) => Ok(Choice { index: 0, endpoint: endpoint.clone(), permit }),
            Err(refused) => Err(self.nobody(protocol, refused.until, now)),
        }
    }

    /// An endpoint whose breaker is due for a probe goes before the balance, which its failures made look for others.
    fn probe(&self, candidates: &[usize], now: Instant) -> Option<Choice> {
        let mut tripped = candidates.iter().filter(|index| !self.endpoints[**index].breaker.is_closed());
        tripped.find_map(|&index| {
            let endpoint = self.endpoints[index].clone();
            let permit = endpoint.breaker.admit(now).ok()?;
            Some(Choice { index, endpoint, permit })
        })
    }

    fn cheaper_of_two(&self, candidates: &[usize], now: Instant) -> usize {
        if candidates.len() == 1 {
            return 0;
        }
        let first = rand::random_range(0..candidates.len());
        let second = (first + rand::random_range(1..candidates.len())) % candidates.len();
        let cost = |position: usize| self.endpoints[candidates[position]].cost(now);
        if cost(first) <= cost(second) { first } else { second }
    }

    /// Whether some endpoint could be asked at `at`; it may have changed by then.
    pub(super) fn would_pick(&self, protocol: Protocol, at: Instant) -> bool {
        self.endpoints.iter().any(|endpoint| {
            endpoint.upstream(protocol).is_some() && endpoint.has_room() && endpoint.breaker.would_admit(at)
        })
    }

    /// Whether some endpoint can be asked now that does not fail its health check.
    pub(super) fn may_be_asked(&self, protocol: Protocol, now: Instant) -> bool {
        self.endpoints.iter().any(|endpoint| {
            endpoint.upstream(protocol).is_some()
                && endpoint.health() != Health::Failing
                && endpoint.has_room()
                && endpoint.breaker.would_admit(now)
        })
    }

    /// Why no endpoint could be asked; `until`: when the first of the open breakers lets a probe by.
    fn nobody(&self, protocol: Protocol, until: Option<Instant>, now: Instant) -> Error {
        let port = if protocol == Protocol::Grpc { "grpc" } else { "http" };
        let able: Vec<_> = self.endpoints.iter().filter(|endpoint| endpoint.upstream(protocol).is_some()).collect();
        if able.is_empty() {
            let names: Vec<&str> = self.endpoints.iter().map(|endpoint| &**endpoint.name()).collect();
            let message = format!(
                "pool {:?} cannot be asked over {port}: its endpoints ({}) have no {port} port configured",
                self.name,
                names.join(", ")
            );
            return Error::new(Kind::Unimplemented, message);
        }
        if able.iter().all(|endpoint| !endpoint.has_room()) {
            let message = format!(
                "pool {:?}: every endpoint has max_in_flight ({:?}) requests",
                self.name, self.config.max_in_flight
            );
            return Error::new(Kind::Shed, message).with_retry_after(Duration::from_secs(1));
        }
        let wait = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        Error::new(Kind::Unavailable, format!("pool {:?}: the circuit breaker of every endpoint is open", self.name))
            .with_retry_after(wait)
    }

    /// Whether a request would find an endpoint that passed its last health check.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let is_ready = |endpoint: &&Arc<Endpoint>| endpoint.health() == Health::Passing;
        self.endpoints.iter().filter(is_ready).any(|endpoint| endpoint.breaker.would_admit(now))
    }

    /// How many endpoints passed their last health check.
    pub(super) fn passing(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.health() == Health::Passing).count()
    }
}
