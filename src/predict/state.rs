//! How the pools are at the moment, for people.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Predict,
    endpoint::{Endpoint, Health},
    pool::Pool,
};

/// A pool.
pub(crate) struct PoolState {
    pub(crate) name: Arc<str>,
    pub(crate) region: Option<Arc<str>>,
    pub(crate) panicking: bool,
    /// The pool that stands in for it now.
    pub(crate) failed_over_to: Option<Arc<str>>,
    pub(crate) endpoints: Vec<EndpointState>,
    pub(crate) discovery: Vec<DiscoveryState>,
}

/// Where endpoints are found.
pub(crate) struct DiscoveryState {
    /// The name or the file.
    pub(crate) source: String,
    /// Why the last look found nothing.
    pub(crate) failure: Option<String>,
}

/// An endpoint.
pub(crate) struct EndpointState {
    pub(crate) name: Arc<str>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) health: &'static str,
    pub(crate) breaker: &'static str,
    /// How long an open breaker is from its first probe.
    pub(crate) open_for: Option<Duration>,
    /// How long it is left out yet.
    pub(crate) ejected_for: Option<Duration>,
    pub(crate) in_flight: u32,
    /// The round trip that is expected, in seconds; `None`: nothing was learned of late.
    pub(crate) expected: Option<f64>,
    /// What share of its turns it takes.
    pub(crate) weight: f64,
}

impl Predict {
    /// How the pools are.
    pub(crate) fn states(&self, now: Instant) -> Vec<PoolState> {
        self.pools.iter().map(|pool| self.state(pool, now)).collect()
    }

    fn state(&self, pool: &Pool, now: Instant) -> PoolState {
        let over = pool.failed_over.load(Ordering::Relaxed);
        let backup = pool.config.failover.as_ref().filter(|_| over).map(|to| self.pools[to.pool.index()].name.clone());
        PoolState {
            name: pool.name.clone(),
            region: pool.config.region.clone(),
            panicking: pool.panicking.load(Ordering::Relaxed),
            failed_over_to: backup,
            endpoints: pool.members().iter().map(|endpoint| state(endpoint, now)).collect(),
            discovery: discoveries(pool),
        }
    }
}

fn discoveries(pool: &Pool) -> Vec<DiscoveryState> {
    let with_failures = pool.config.discovery.iter().zip(pool.failures());
    with_failures.map(|(source, failure)| DiscoveryState { source: source.to_string(), failure }).collect()
}

fn state(endpoint: &Endpoint, now: Instant) -> EndpointState {
    let left = |until: Instant| until.saturating_duration_since(now);
    EndpointState {
        name: endpoint.name().clone(),
        zone: endpoint.zone.clone(),
        health: match endpoint.health() {
            Health::Unknown => "unknown",
            Health::Passing => "passing",
            Health::Failing => "failing",
        },
        breaker: endpoint.breaker.state().name(),
        open_for: endpoint.breaker.until().map(left),
        ejected_for: endpoint.ejected_until().map(left),
        in_flight: endpoint.in_flight(),
        expected: endpoint.round_trip(now),
        weight: endpoint.weight(now),
    }
}
