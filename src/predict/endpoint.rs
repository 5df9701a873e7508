//! One server of a pool: its connections, its load, and whether it may be asked.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use tokio::{net::TcpStream, time::Instant};

use super::{classify::Class, http1, http2};
use crate::{
    config,
    infer::{Protocol, WorkerId},
    resilience::{
        breaker::{self, Breaker},
        ewma::PeakEwma,
    },
    telemetry::handles::{
        breaker::{BreakerHandles, BreakerState},
        predict::EndpointHandles,
    },
};

/// What `host` says on requests to the HTTP port, and `:authority` on those to the gRPC port.
struct Hosts {
    http: HeaderValue,
    grpc: HeaderValue,
}

impl Hosts {
    fn new(endpoint: &config::Endpoint) -> Self {
        let value = |upstream: &Option<config::Upstream>| {
            let authority = upstream.as_ref().map_or("", |upstream| &*upstream.authority);
            HeaderValue::from_str(authority).expect("validated: an authority is visible ASCII")
        };
        Self { http: value(&endpoint.http), grpc: value(&endpoint.grpc) }
    }
}

/// What the last health check said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Health {
    /// Not checked yet: may be asked.
    Unknown = 0,
    Passing = 1,
    Failing = 2,
}

/// A server.
pub(super) struct Endpoint {
    pub(super) http: Option<config::Upstream>,
    pub(super) grpc: Option<config::Upstream>,
    hosts: Hosts,
    pub(super) breaker: Arc<Breaker>,
    pub(super) metrics: EndpointHandles,
    load: PeakEwma,
    in_flight: AtomicU32,
    max_in_flight: u32,
    health: AtomicU8,
    /// Per worker, and one more for health checks.
    idle: Box<[Arc<http1::Idle>]>,
    shared: Box<[http2::Shared]>,
}

impl Endpoint {
    pub(super) fn new(endpoint: &config::Endpoint, pool: &config::Pool, workers: usize, now: Instant) -> Self {
        Self {
            http: endpoint.http.clone(),
            grpc: endpoint.grpc.clone(),
            hosts: Hosts::new(endpoint),
            breaker: guard(endpoint, pool),
            metrics: EndpointHandles::new(&pool.name, name(endpoint)),
            load: PeakEwma::new(now),
            in_flight: AtomicU32::new(0),
            max_in_flight: pool.max_in_flight.unwrap_or(u32::MAX),
            health: AtomicU8::new(Health::Unknown as u8),
            idle: (0..=workers).map(|_| Arc::default()).collect(),
            shared: (0..=workers).map(|_| http2::Shared::default()).collect(),
        }
    }

    /// The address asked in `protocol`; `None` where the endpoint lacks that port.
    pub(super) fn upstream(&self, protocol: Protocol) -> Option<&config::Upstream> {
        match protocol {
            Protocol::Grpc => self.grpc.as_ref(),
            Protocol::V1 | Protocol::V2Json | Protocol::V2Binary => self.http.as_ref(),
        }
    }

    /// What `host` or `:authority` says.
    pub(super) fn host(&self, protocol: Protocol) -> &HeaderValue {
        match protocol {
            Protocol::Grpc => &self.hosts.grpc,
            Protocol::V1 | Protocol::V2Json | Protocol::V2Binary => &self.hosts.http,
        }
    }

    /// How the endpoint is named in errors and metrics.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.http.as_ref().or(self.grpc.as_ref()).expect(HAS_A_PORT).authority
    }

    pub(super) fn idle(&self, worker: WorkerId) -> &Arc<http1::Idle> {
        &self.idle[worker.index()]
    }

    pub(super) fn shared(&self, worker: WorkerId) -> &http2::Shared {
        &self.shared[worker.index()]
    }

    pub(super) fn sweep(&self, worker: WorkerId) {
        self.idle(worker).sweep();
    }

    pub(super) fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            1 => Health::Passing,
            2 => Health::Failing,
            _ => Health::Unknown,
        }
    }

    /// Notes a health check that took `took`.
    pub(super) fn checked(&self, health: Health, took: Duration, now: Instant) {
        self.health.store(health as u8, Ordering::Relaxed);
        self.metrics.healthy(health == Health::Passing);
        if health == Health::Passing {
            self.load.lift(took, now);
        }
    }

    /// Writes what is only known at the moment it is asked for: how long the breaker stays open.
    pub(super) fn show(&self, now: Instant) {
        self.metrics.open_for(self.breaker.time_left(now));
    }

    /// Expected wait here: peak EWMA of the round trip times the requests ahead and this one.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        self.load.load(self.in_flight.load(Ordering::Relaxed), now)
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) < self.max_in_flight
    }

    /// Counts one more request in flight; `None` at `max_in_flight`.
    pub(super) fn enter(self: &Arc<Self>) -> Option<InFlight> {
        // Counted first and taken back, so that two callers cannot both take the last place.
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.max_in_flight {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(InFlight(self.clone()))
    }

    /// Notes a probe that succeeded: the endpoint no longer counts as slow.
    pub(super) fn probed(&self, took: Duration, now: Instant) {
        self.load.lift(took, now);
    }

    /// Tells the balance that an attempt was given up after `waited`, another having been answered.
    pub(super) fn gave_up(&self, waited: Duration, now: Instant) {
        self.load.outlasted(waited, now);
    }

    /// Tells the balance what an attempt took, and what the endpoint asked for. A failure counts as slow, so that fast
    /// failures do not draw traffic.
    pub(super) fn observe(&self, class: Class, took: Duration, asked: Option<Duration>, now: Instant) {
        match class {
            Class::Caller => {}
            Class::Answered | Class::Refused => self.load.observe(took, now),
            _ => self.load.penalize(asked, now),
        }
    }
}

const HAS_A_PORT: &str = "validated: an endpoint has a port";

fn name(endpoint: &config::Endpoint) -> &Arc<str> {
    &endpoint.http.as_ref().or(endpoint.grpc.as_ref()).expect(HAS_A_PORT).authority
}

/// The endpoint's breaker; its transitions are logged and counted.
fn guard(endpoint: &config::Endpoint, pool: &config::Pool) -> Arc<Breaker> {
    let (pool_name, endpoint) = (pool.name.clone(), name(endpoint).clone());
    let metrics = BreakerHandles::new(&format!("{pool_name}/{endpoint}"));
    Breaker::new(breaker::Policy::from(&pool.breaker), move |state| {
        let state = match state {
            breaker::State::Closed => BreakerState::Closed,
            breaker::State::Open => BreakerState::Open,
            breaker::State::HalfOpen => BreakerState::HalfOpen,
        };
        metrics.moved(state);
        tracing::warn!(pool = %pool_name, %endpoint, ?state, "circuit breaker moved");
    })
}

/// One request in flight at an endpoint, until dropped.
pub(super) struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Resolves and connects, trying every address in turn, within `timeout`.
pub(super) async fn connect(upstream: &config::Upstream, timeout: Duration) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect((&*upstream.host, upstream.port));
    let stream = tokio::time::timeout(timeout, connecting).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("not connected within {} ms", timeout.as_millis()))
    })??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
