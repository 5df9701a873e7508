//! One feature server, for all workers together: its breaker, its load, its places, and what is known of its health.
//!
//! Who failed once is avoided, so that requests alone find out late that it is gone, or back: its health is looked at until it is
//! well again. A check that fails is a failure like any other; one that passes lifts the balance's penalty, and after one that
//! failed has an open breaker probe at once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::Client;
use crate::{
    config,
    features::l2::Error,
    infer::decoded::shown,
    resilience::{
        breaker::{Breaker, Outcome, Permit, Policy, State},
        ewma::PeakEwma,
        seldom::Seldom,
    },
    telemetry::handles::{
        breaker::BreakerState,
        feature_server::{self as counted, FeatureServer as Handles},
    },
};

/// How long a look at its health may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A feature server.
pub(super) struct Server {
    address: Arc<str>,
    online: Uri,
    health: Uri,
    breaker: Arc<Breaker>,
    load: PeakEwma,
    in_flight: AtomicU32,
    /// Most requests under way.
    most: u32,
    /// Longest wait for an answer.
    timeout: Duration,
    metrics: Arc<Handles>,
    /// Whether it failed since it was last found well.
    suspect: AtomicBool,
    /// Whether the last check failed.
    sick: AtomicBool,
    /// When what it refuses was last told.
    refusals: Seldom,
}

impl Server {
    pub(super) fn new(
        server: &config::Upstream,
        (policy, most): (Policy, u32),
        timeout: Duration,
        now: Instant,
    ) -> Self {
        let address = Arc::clone(&server.authority);
        let metrics = Arc::new(Handles::new(&address));
        let uri = |path: &str| {
            let text = format!("http://{}{path}", server.authority);
            Uri::try_from(text).expect("validated: an authority")
        };
        Self {
            online: uri("/get-online-features"),
            health: uri("/health"),
            breaker: breaker(&address, policy, &metrics),
            address,
            load: PeakEwma::new(now),
            in_flight: AtomicU32::new(0),
            most,
            timeout,
            metrics,
            suspect: AtomicBool::new(false),
            sick: AtomicBool::new(false),
            refusals: Seldom::new(now),
        }
    }

    pub(super) const fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Expected wait here: peak EWMA of the round trip times the requests ahead and this one.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        self.load.load(self.in_flight.load(Ordering::Relaxed), now)
    }

    /// Whether its breaker would let a request through now.
    pub(super) fn would_admit(&self, now: Instant) -> bool {
        self.breaker.would_admit(now)
    }

    /// Whether its breaker is open, and not yet to be probed.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        !self.breaker.time_left(now).is_zero()
    }

    /// Whether it is to be tried again: probes do not wait until it is the cheaper one. One that fails its checks is not worth a
    /// question.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        !self.breaker.is_closed() && !self.sick.load(Ordering::Relaxed) && self.breaker.would_admit(now)
    }

    /// Asks to send a request.
    ///
    /// # Errors
    ///
    /// The breaker is open, or there is no place.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Result<Call, Error> {
        let Ok(permit) = self.breaker.admit(now) else {
            return Err(Error::Open { address: Arc::clone(&self.address) });
        };
        // Counted first and given back where it is dropped, so that two callers cannot both take the last place.
        let ahead = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        if ahead >= self.most {
            self.metrics.ended(counted::Outcome::Full);
            return Err(Error::Full { address: Arc::clone(&self.address) });
        }
        Ok(Call { permit, place })
    }

    /// Whether its health is to be looked at.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Looks at its health, around the breaker.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub(super) async fn check(&self, client: &Client) -> Result<(), String> {
        let began = Instant::now();
        let told = timeout(PATIENCE, client.get(&self.health)).await;
        let why = match told {
            Ok(Ok(status)) if status.is_success() => {
                self.found_well(began.elapsed(), Instant::now());
                return Ok(());
            }
            Ok(Ok(status)) => format!("/health answered {status}"),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        self.found_sick(Instant::now());
        Err(format!("{}: {why}", self.address))
    }

    fn found_well(&self, took: Duration, now: Instant) {
        self.suspect.store(false, Ordering::Relaxed);
        self.load.lift(took, now);
        if self.sick.swap(false, Ordering::Relaxed) {
            self.breaker.probe_from(now);
        }
    }

    fn found_sick(&self, now: Instant) {
        self.sick.store(true, Ordering::Relaxed);
        self.failed(now);
        // A check is no probe: it says too little of whether rows would be answered.
        if self.breaker.is_closed()
            && let Ok(permit) = self.breaker.admit(now)
        {
            permit.record(Outcome::Failure, now);
        }
    }

    fn failed(&self, now: Instant) {
        self.suspect.store(true, Ordering::Relaxed);
        self.load.penalize(None, now);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.metrics.breaker.gone();
    }
}

/// Its breaker; transitions are logged and counted.
fn breaker(address: &Arc<str>, policy: Policy, metrics: &Arc<Handles>) -> Arc<Breaker> {
    let (address, metrics) = (Arc::clone(address), Arc::clone(metrics));
    Breaker::new(policy, move |state| {
        metrics.breaker.moved(match state {
            State::Closed => BreakerState::Closed,
            State::Open => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        });
        tracing::warn!(%address, ?state, "feature_server: circuit breaker moved");
    })
}

/// A request under way, until dropped.
struct Place(Arc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is admitted. Dropped without an answer it says nothing about the server.
pub(super) struct Call {
    permit: Permit,
    place: Place,
}

impl Call {
    pub(super) fn address(&self) -> Arc<str> {
        Arc::clone(&self.place.0.address)
    }

    /// Sends a body; the answer as `read` has it.
    pub(super) async fn make<T>(
        self,
        client: &Client,
        (body, by): (Bytes, Instant),
        read: impl Fn(&Response<Bytes>) -> Result<T, &'static str>,
    ) -> Result<T, Error> {
        let server = &*self.place.0;
        let began = Instant::now();
        let had = by.saturating_duration_since(began);
        // The server is to give up first, so that its word arrives: rows past their time, or that it has none.
        let told = timeout_at(by, client.post(&server.online, body, had * 4 / 5)).await;
        let answer = match told {
            Err(_) => Err(Error::TimedOut(server.timeout)),
            Ok(Err(why)) => Err(Error::Unreachable { address: Arc::clone(&server.address), why: why.into() }),
            Ok(Ok(told)) => server.judge(&told, read),
        };
        let outcome = outcome(answer.as_ref().err());
        server.metrics.ended(outcome);
        self.end(outcome, (began, had));
        answer
    }

    /// Tells breaker and balance.
    fn end(self, outcome: counted::Outcome, (began, had): (Instant, Duration)) {
        let Self { permit, place } = self;
        let (server, now) = (&place.0, Instant::now());
        let (is_probe, took) = (permit.is_probe(), now - began);
        match outcome {
            counted::Outcome::Answered | counted::Outcome::Refused => {
                permit.record(Outcome::Success, now);
                if is_probe {
                    server.load.lift(took, now);
                }
                server.load.observe(took, now);
            }
            // One that was left hardly any time is not to blame that it ran out: others used it.
            counted::Outcome::Timeout if had < server.timeout / 2 => {}
            counted::Outcome::Timeout | counted::Outcome::Failed | counted::Outcome::Full => {
                permit.record(Outcome::Failure, now);
                server.failed(now);
            }
        }
    }
}

fn outcome(error: Option<&Error>) -> counted::Outcome {
    match error {
        None => counted::Outcome::Answered,
        Some(Error::Refused { .. }) => counted::Outcome::Refused,
        Some(Error::TimedOut(_)) => counted::Outcome::Timeout,
        Some(_) => counted::Outcome::Failed,
    }
}

impl Server {
    /// What an answer is: rows, a failure (5xx, bytes that are no answer), or a word about the request.
    fn judge<T>(
        &self,
        told: &Response<Bytes>,
        read: impl Fn(&Response<Bytes>) -> Result<T, &'static str>,
    ) -> Result<T, Error> {
        let (address, status) = (Arc::clone(&self.address), told.status());
        if status.is_success() {
            return read(told).map_err(|why| Error::Failed { address, why: why.into() });
        }
        let why = words(status, told.body());
        if status.is_server_error() {
            return Err(Error::Failed { address, why: why.into() });
        }
        if self.refusals.is_due(Instant::now()) {
            // An unknown view, most of the time: as long as nobody changes a config, every lookup of it fails.
            tracing::warn!(%address, %why, "feature_server: refused what it was asked; further refusals are counted only");
        }
        Err(Error::Refused { address, why: why.into() })
    }
}

/// A status and what the body says, cut short.
fn words(status: StatusCode, body: &[u8]) -> String {
    const MOST: usize = 256;
    let text = String::from_utf8_lossy(&body[..body.len().min(2 * MOST)]);
    let text: String = shown(&text, MOST).chars().filter(|character| !character.is_control()).collect();
    format!("{}: {text}", status.as_u16())
}
