//! One server of a pool: its connections, its load, and whether it may be asked.

mod transitions;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use tokio::{net::TcpStream, time::Instant};

use self::transitions::{Transitions, guard};
use super::{classify::Class, http1, http2, pool::Pool};
use crate::{
    config,
    infer::{Asker, Protocol, WorkerId},
    resilience::{
        breaker::{self, Breaker},
        ewma::PeakEwma,
        latency::Latencies,
        outlier,
        ramp::Ramp,
    },
    telemetry::handles::predict::EndpointHandles,
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

/// What is known of an endpoint's health checks, which may overtake one another.
#[derive(Default)]
struct Checks {
    /// When the newest of those that were noted began.
    newest: Option<Instant>,
    /// When they began to fail.
    failing_since: Option<Instant>,
}

/// A server.
pub(super) struct Endpoint {
    /// No other endpoint of the pool ever has it.
    pub(super) number: usize,
    name: Arc<str>,
    pub(super) http: Option<config::Upstream>,
    pub(super) grpc: Option<config::Upstream>,
    pub(super) zone: Option<Arc<str>>,
    /// Whether it is in the gateway's own zone.
    pub(super) is_own: bool,
    hosts: Hosts,
    pub(super) breaker: Arc<Breaker>,
    transitions: Arc<Transitions>,
    pub(super) metrics: EndpointHandles,
    load: PeakEwma,
    /// What a request takes at those of its pool that are well, in seconds, as the bits of an `f64`; 0: that is not known.
    usual: AtomicU64,
    ramp: Ramp,
    in_flight: AtomicU32,
    max_in_flight: u32,
    health: AtomicU8,
    checks: Mutex<Checks>,
    slow_start: Duration,
    ejected: AtomicBool,
    record: Mutex<outlier::Record>,
    latencies: Latencies,
    failures: AtomicU32,
    /// Per worker, and one more for health checks.
    idle: Box<[Arc<http1::Idle>]>,
    shared: Box<[http2::Shared]>,
}

/// In how long an endpoint whose breaker closed has its whole share again. Its probes have shown that it works, so it need not
/// start as slowly as one that nobody has asked.
const BACK_WITHIN: Duration = Duration::from_secs(4);

/// For how long an endpoint that is back is not judged by answers that are slower than others': its first may wait for a model to be
/// loaded, or for caches. How many it has under way keeps one that stays slow from having more than it can take.
const COLD: Duration = Duration::from_secs(10);

impl Endpoint {
    pub(super) fn new(endpoint: &config::Endpoint, pool: &Pool, number: usize, now: Instant) -> Self {
        let workers = pool.workers;
        let balance = &pool.config.balance;
        let transitions = Arc::new(Transitions::new(&endpoint.name, &pool.name));
        Self {
            number,
            name: endpoint.name.clone(),
            http: endpoint.http.clone(),
            grpc: endpoint.grpc.clone(),
            zone: endpoint.zone.clone(),
            is_own: endpoint.zone.is_some() && endpoint.zone == balance.own_zone,
            hosts: Hosts::new(endpoint),
            breaker: guard(&transitions, &pool.config.breaker),
            transitions,
            metrics: EndpointHandles::new(&pool.name, &endpoint.name),
            load: PeakEwma::new(now),
            usual: AtomicU64::new(0),
            ramp: Ramp::new(balance.slow_start, now),
            in_flight: AtomicU32::new(0),
            max_in_flight: pool.config.max_in_flight.unwrap_or(u32::MAX),
            health: AtomicU8::new(Health::Unknown as u8),
            checks: Mutex::default(),
            slow_start: balance.slow_start,
            ejected: AtomicBool::new(false),
            record: Mutex::default(),
            latencies: Latencies::default(),
            failures: AtomicU32::new(0),
            idle: (0..=workers).map(|_| Arc::default()).collect(),
            shared: (0..=workers).map(|_| http2::Shared::default()).collect(),
        }
    }

    /// Why no request would go to it now, or whether none should; `None`: nothing is known against it.
    pub(super) fn trouble(&self, now: Instant) -> Option<&'static str> {
        match self.health() {
            Health::Failing => Some("fails its health check"),
            _ if self.ejected.load(Ordering::Relaxed) => Some("ejected"),
            _ if !self.breaker.would_admit(now) => Some("circuit breaker open"),
            Health::Unknown => Some("not checked yet"),
            Health::Passing => None,
        }
    }

    /// Whether it is what the config, or a source, says there.
    pub(super) fn is(&self, endpoint: &config::Endpoint) -> bool {
        let same = |ours: &Option<config::Upstream>, theirs: &Option<config::Upstream>| match (ours, theirs) {
            (Some(a), Some(b)) => a.authority == b.authority && a.host == b.host && a.port == b.port,
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        self.name == endpoint.name
            && self.zone == endpoint.zone
            && same(&self.http, &endpoint.http)
            && same(&self.grpc, &endpoint.grpc)
    }

    /// It is no member of its pool any more. `renewed`: another of its name is, whose series are not touched.
    pub(super) fn retire(&self, renewed: bool) {
        // Held so that a check that is under way does not undo it.
        let _checks = self.checks();
        self.transitions.retire();
        if !renewed {
            self.metrics.gone();
            self.transitions.metrics.gone();
        }
        self.idle.iter().for_each(|idle| idle.clear());
        self.shared.iter().for_each(http2::Shared::close);
    }

    /// Lets it start slowly.
    pub(super) fn begin(&self, now: Instant) {
        self.ramp.begin(now);
    }

    /// What share of its turns it takes.
    pub(super) fn weight(&self, now: Instant) -> f64 {
        self.ramp.weight(now)
    }

    /// Failing its health checks, or not asked for what its requests came to.
    pub(super) fn is_out(&self) -> bool {
        self.health() == Health::Failing || !self.breaker.is_closed()
    }

    /// Neither failing its health checks nor ejected.
    pub(super) fn is_healthy(&self) -> bool {
        self.health.load(Ordering::Relaxed) != Health::Failing as u8 && !self.ejected.load(Ordering::Relaxed)
    }

    /// Healthy, and its breaker would let a request by. One that waits for a probe counts: where nobody asks it, because another
    /// pool has taken over, nothing else could bring it back.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        self.is_healthy() && self.breaker.would_admit(now)
    }

    /// Whether its breaker would let such a request by.
    pub(super) fn would_admit(&self, asker: Asker, now: Instant) -> bool {
        match asker {
            Asker::Caller => self.breaker.would_admit(now),
            Asker::Spool => self.breaker.would_admit_spare(now),
        }
    }

    /// Its breaker's leave for such a request.
    pub(super) fn admit(&self, asker: Asker, now: Instant) -> Result<breaker::Permit, breaker::Refused> {
        match asker {
            Asker::Caller => self.breaker.admit(now),
            Asker::Spool => self.breaker.admit_spare(now),
        }
    }

    /// Lets it back in if its ejection is over; whether that was so.
    pub(super) fn release(&self, now: Instant) -> bool {
        if !self.ejected.load(Ordering::Relaxed) || !self.record().release(now) {
            return false;
        }
        self.ramp.begin(now);
        self.ejected.store(false, Ordering::Relaxed);
        self.tell(|metrics| metrics.ejected(false));
        true
    }

    /// What it did since this was last asked.
    pub(super) fn interval(&self) -> outlier::Host {
        let failures = self.failures.swap(0, Ordering::Relaxed);
        outlier::Host { record: *self.record(), answers: self.latencies.take(), failures }
    }

    pub(super) fn set_record(&self, record: outlier::Record) {
        *self.record() = record;
        self.ejected.store(record.until().is_some(), Ordering::Relaxed);
        self.tell(|metrics| metrics.ejected(record.until().is_some()));
    }

    /// Sets gauges, while it is one of its pool: those of one that is gone stay out of sight.
    fn tell(&self, set: impl FnOnce(&EndpointHandles)) {
        let _checks = self.checks();
        if !self.transitions.is_retired() {
            set(&self.metrics);
        }
    }

    /// Until when it is ejected.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.record().until()
    }

    /// Held while gauges are set that a retirement hides.
    fn checks(&self) -> MutexGuard<'_, Checks> {
        // Instants are replaced whole.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> MutexGuard<'_, outlier::Record> {
        // A record is replaced whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests that are there.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The round trip that is expected, in seconds.
    pub(super) fn estimate(&self, now: Instant) -> f64 {
        self.load.estimate(now)
    }

    /// The same for people; `None`: nothing was learned of late.
    pub(super) fn round_trip(&self, now: Instant) -> Option<f64> {
        self.load.recent(now)
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
    pub(super) const fn name(&self) -> &Arc<str> {
        &self.name
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

    /// Notes a health check that took `took`, unless one that began later was noted already. Returns what was known before.
    ///
    /// An endpoint that passes after it failed has changed, so an open breaker need not wait out its time: the next request is
    /// its probe. One that passed all the while has not, whatever its requests come to: a model that hangs behind a server that
    /// is well would be probed at every check.
    pub(super) fn checked(&self, health: Health, took: Duration, now: Instant) -> Option<Health> {
        let mut checks = self.checks();
        let began = now.checked_sub(took);
        if began < checks.newest {
            return None;
        }
        checks.newest = began;
        let before = self.health();
        self.health.store(health as u8, Ordering::Relaxed);
        if !self.transitions.is_retired() {
            self.metrics.healthy(health == Health::Passing);
        }
        if health != Health::Passing {
            checks.failing_since.get_or_insert(now);
            return Some(before);
        }
        self.load.lift(took, now);
        if let Some(since) = checks.failing_since.take() {
            if now.saturating_duration_since(since) >= self.slow_start {
                self.ramp.begin(now);
            }
            self.give_credit(now);
            self.breaker.probe_from(now);
        }
        Some(before)
    }

    /// Writes what is only known at the moment it is asked for: how long the breaker stays open.
    pub(super) fn show(&self, now: Instant) {
        self.tell(|_| self.transitions.metrics.time_left(self.breaker.time_left(now)));
    }

    /// Expected wait here: peak EWMA of the round trip times the requests ahead and this one.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        self.load.load(self.in_flight.load(Ordering::Relaxed), now)
    }

    /// How long it asked yet to be left alone.
    pub(super) fn spared_for(&self, now: Instant) -> Duration {
        self.load.spared_for(now)
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) < self.max_in_flight
    }

    /// Whether its `max_in_flight` keeps requests away that its breaker would let by. One that fails its checks counts: it is asked
    /// where no other is well.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        !self.has_room() && self.breaker.would_admit(now)
    }

    /// From when on it may be probed ahead of its breaker's time; `None`: its breaker is not open, or its checks do not find it well.
    pub(super) fn early_from(&self) -> Option<Instant> {
        if self.health() == Health::Passing { self.breaker.early_from() } else { None }
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

    /// Tells the balance that an attempt was given up after `waited`, another having been answered.
    pub(super) fn gave_up(&self, waited: Duration, now: Instant) {
        self.load.outlasted(waited, now);
    }

    /// Tells balance and breaker what an attempt came to and what it took. A failure counts as slow, so that fast failures do not
    /// draw traffic; a probe that succeeds ends that. One that is busy is spared for as long as it asked.
    pub(super) fn observe(&self, ended: Ended, permit: breaker::Permit, took: Duration, now: Instant) {
        let asked = ended.asked;
        match ended.class {
            Class::Caller | Class::Hurried => {}
            // What is refused at once is no sign of speed: a server that lacks the model must not draw its requests.
            Class::Refused | Class::Unjudged => {
                if permit.is_probe() {
                    self.load.lift(took, now);
                }
                self.load.outlasted(took, now);
            }
            Class::Answered => {
                if permit.is_probe() {
                    self.load.lift(took, now);
                }
                self.load.observe(took, now);
                self.latencies.note(took);
            }
            Class::Impatient => self.load.outlasted(took, now),
            Class::Overloaded => self.load.hold(asked, now),
            // What was kept for later may have been kept because it fails.
            _ if permit.is_spare() => {}
            _ => self.load.penalize(asked, now),
        }
        let verdict = ended.verdict();
        let failed =
            matches!(verdict, breaker::Outcome::Failure | breaker::Outcome::Silence | breaker::Outcome::TimeoutOfLast);
        if failed && !permit.is_spare() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let probe = permit.is_probe();
        permit.record(verdict, now);
        if probe && self.breaker.is_closed() {
            self.ramp.hurry(BACK_WITHIN, now);
            self.give_credit(now);
        }
    }

    /// Tells it what a request takes at those of its pool that are well.
    pub(super) fn compare_with(&self, seconds: f64) {
        self.usual.store(seconds.to_bits(), Ordering::Relaxed);
    }

    /// Takes it for as fast as others until its first answers are over.
    fn give_credit(&self, now: Instant) {
        let usual = f64::from_bits(self.usual.load(Ordering::Relaxed));
        if usual > 0.0 {
            self.load.credit_with(usual, COLD, now);
        }
    }
}

/// What an attempt at an endpoint came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) class: Class,
    /// How long it asked to be left alone.
    pub(super) asked: Option<Duration>,
    /// Whether it is the last of several endpoints that can be asked.
    pub(super) is_last: bool,
}

impl Ended {
    pub(super) const fn of(class: Class) -> Self {
        Self { class, asked: None, is_last: false }
    }

    /// What it tells the breaker. All that were under way at once time out together where an endpoint stands still for a moment: taking
    /// it out for that spares nobody where there is no other.
    const fn verdict(self) -> breaker::Outcome {
        match self.class {
            Class::TimedOut if self.is_last => breaker::Outcome::TimeoutOfLast,
            class => class.verdict(),
        }
    }
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
