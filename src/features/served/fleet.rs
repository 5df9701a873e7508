//! The servers, and which of them is asked: the better of two (`load`), each behind a breaker that all workers share.
//!
//! ```text
//! pick ─► one whose breaker wants a probe, else the better of two ─► call ─► rows
//!   ▲                                                                   └─ no connection, 5xx, bytes that are no answer
//!   └──────────────────────────── the others, once ◄───────────────────────┘
//! ```
//!
//! Invariants: a question goes out twice at most, the second time out of the budget of all lookups' retries, and to one server only where its connection broke and there is no other; a
//! server whose breaker is open is not asked. An answer that does not come in time leaves no time for another server: that is for
//! the lookup's retries, which a penalty keeps off the server that failed. What a server says of the request (4xx) is no failure
//! of its.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Response;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep};

use super::{
    client::Client,
    server::{Call, Server},
};
use crate::{
    config,
    features::l2::Error,
    infer::WorkerId,
    resilience::{breaker::Policy, budget::Budget},
    telemetry::handles::feature_server::RetriesDenied,
};

/// How often a server that failed is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The servers, and each worker's connections to them.
#[derive(Debug)]
pub(super) struct Fleet {
    servers: Box<[Arc<Server>]>,
    /// By worker; the last is the control thread's.
    clients: Box<[Client]>,
    /// Longest wait for one round trip.
    timeout: Duration,
    /// What lookups may ask again for. They pay it in.
    budget: Arc<Budget>,
    denied: RetriesDenied,
}

impl Fleet {
    pub(super) fn new(config: &config::FeatureServers, features: &config::Features, workers: usize) -> Self {
        let (policy, now) = (Policy::from(&features.breaker), Instant::now());
        let server = |server| Arc::new(Server::new(server, (policy, config.max_in_flight), config.timeout, now));
        Self {
            servers: config.servers.iter().map(server).collect(),
            clients: (0..=workers).map(|_| Client::new(config.timeout)).collect(),
            timeout: config.timeout,
            budget: Arc::new(Budget::new(features.retry_budget, now)),
            denied: RetriesDenied::new(),
        }
    }

    pub(super) const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What a server answers to a body about so many rows, by a point in time, as `read` has it; another's answer if the first fails
    /// at once.
    pub(super) async fn ask<T>(
        &self,
        worker: WorkerId,
        (body, rows, by): (Bytes, usize, Instant),
        read: impl Fn(&Response<Bytes>) -> Result<T, &'static str>,
    ) -> Result<T, Error> {
        let client = self.client(worker);
        let call = self.pick(None, Instant::now())?;
        let first = call.address();
        match call.make(client, (body.clone(), by), &read).await {
            Err(error) => match self.pick_after(&error, &first) {
                Some(call) if self.budget.withdraw(Instant::now()) => call.make(client, (body, by), &read).await,
                Some(_) => {
                    self.denied.count(rows);
                    Err(error)
                }
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// Who is asked once more after a failure that came at once.
    fn pick_after(&self, error: &Error, first: &Arc<str>) -> Option<Call> {
        let now = Instant::now();
        let other = || self.pick(Some(first), now).ok();
        match error {
            // Where there is no other, the same: it may have closed an idle connection just when that was used.
            Error::Unreachable { .. } => other().or_else(|| self.pick(None, now).ok()),
            Error::Failed { .. } => other(),
            _ => None,
        }
    }

    /// The server to ask; `but`: one that was asked already.
    fn pick(&self, but: Option<&Arc<str>>, now: Instant) -> Result<Call, Error> {
        let is_other = |server: &&Arc<Server>| but.is_none_or(|but| server.address() != but);
        let mut left: SmallVec<[&Arc<Server>; 16]> = self.servers.iter().filter(is_other).collect();
        let (mut refusal, mut soonest) = (None, None::<Instant>);
        while !left.is_empty() {
            // A second attempt is for who will answer, not for who may.
            let probe = if but.is_none() { left.iter().position(|server| server.wants_probe(now)) } else { None };
            let at = probe.unwrap_or_else(|| better_of_two(&left, now));
            match left.swap_remove(at).admit(now) {
                Ok(call) => return Ok(call),
                Err(Error::Open { until, .. }) => soonest = Some(soonest.map_or(until, |soonest| soonest.min(until))),
                Err(full) => refusal = Some(full),
            }
        }
        Err(refusal.unwrap_or_else(|| Error::Open { address: self.addresses(), until: soonest.unwrap_or(now) }))
    }

    /// Whether a server would be asked now, as far as breakers go.
    pub(super) fn would_ask(&self, now: Instant) -> bool {
        self.servers.iter().any(|server| server.would_admit(now))
    }

    /// Writes how long open breakers stay so.
    pub(super) fn show(&self, now: Instant) {
        self.servers.iter().for_each(|server| server.show(now));
    }

    /// Whether every server's breaker refuses now.
    pub(super) fn is_unavailable(&self, now: Instant) -> bool {
        self.servers.iter().all(|server| server.refuses(now))
    }

    /// What each server says of its health, over the worker's connections.
    pub(super) async fn health(&self, worker: WorkerId) -> Vec<Result<(), String>> {
        let client = self.client(worker);
        join_all(self.servers.iter().map(|server| server.check(client))).await
    }

    /// Looks at the health of servers that failed, until they are well; never ends.
    pub(super) async fn watch(&self) {
        let client = self.client(self.control());
        loop {
            sleep(EVERY).await;
            let suspects = self.servers.iter().filter(|server| server.is_suspect());
            join_all(suspects.map(|server| server.check(client))).await;
        }
    }

    /// Whose connections readiness checks use.
    pub(super) fn control(&self) -> WorkerId {
        WorkerId(u32::try_from(self.clients.len() - 1).unwrap_or(u32::MAX))
    }

    fn client(&self, worker: WorkerId) -> &Client {
        &self.clients[worker.index().min(self.clients.len() - 1)]
    }

    fn addresses(&self) -> Arc<str> {
        let addresses: Vec<&str> = self.servers.iter().map(|server| &**server.address()).collect();
        addresses.join(", ").into()
    }
}

/// The place of the one where a request would wait less.
fn better_of_two(servers: &[&Arc<Server>], now: Instant) -> usize {
    if servers.len() == 1 {
        return 0;
    }
    let first = rand::random_range(0..servers.len());
    let second = (first + rand::random_range(1..servers.len())) % servers.len();
    if servers[first].load().is_no_worse_than(servers[second].load(), now) { first } else { second }
}
