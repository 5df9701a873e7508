//! One feature server, for all workers together: its breaker, its load, its places, and what is known of its health.
//!
//! Who failed once is avoided, so that requests alone find out late that it is gone, or back: its health is looked at until it is
//! well again. A check that fails is a failure like any other; one that passes lifts the balance's penalty, and after one that
//! failed, or a connection that could not be had, has an open breaker probe at once. That it failed, and that it is well again, is logged, a pair of lines a minute at most.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use tokio::time::{Instant, timeout, timeout_at};

use super::{client::Client, load::Load};
use crate::{
    config,
    features::{
        circuit::Circuit,
        l2::{Error, Sent},
    },
    infer::decoded::shown,
    resilience::{
        breaker::{Outcome, Permit, Policy},
        seldom::Seldom,
    },
    telemetry::handles::feature_server::{self as counted, FeatureServer as Handles},
};

/// How long a look at its health may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A feature server.
pub(super) struct Server {
    address: Arc<str>,
    online: Uri,
    health: Uri,
    circuit: Circuit,
    load: Load,
    /// Most requests under way.
    most: u32,
    /// Longest wait for an answer.
    timeout: Duration,
    metrics: Handles,
    /// Whether it failed since it was last found well.
    suspect: AtomicBool,
    /// Whether the last check failed.
    sick: AtomicBool,
    /// When what it refuses was last told.
    refusals: Seldom,
    /// When it was last told that it failed.
    faults: Seldom,
    /// Whether that is the last that was told of it.
    told_failing: AtomicBool,
}

impl Server {
    pub(super) fn new(
        server: &config::Upstream,
        (policy, most): (Policy, u32),
        timeout: Duration,
        now: Instant,
    ) -> Self {
        let address = Arc::clone(&server.authority);
        let target = format!("feature_server/{address}");
        let uri = |path: &str| {
            let text = format!("http://{}{path}", server.authority);
            Uri::try_from(text).expect("validated: an authority")
        };
        Self {
            online: uri("/get-online-features"),
            health: uri("/health"),
            circuit: Circuit::new(&target, policy),
            address,
            load: Load::new(now),
            most,
            timeout,
            metrics: Handles::new(&target),
            suspect: AtomicBool::new(false),
            sick: AtomicBool::new(false),
            refusals: Seldom::new(now),
            faults: Seldom::new(now),
            told_failing: AtomicBool::new(false),
        }
    }

    pub(super) const fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// What the choice among servers goes by.
    pub(super) const fn load(&self) -> &Load {
        &self.load
    }

    /// Whether its breaker would let a request through now.
    pub(super) fn would_admit(&self, now: Instant) -> bool {
        self.circuit.would_admit(now)
    }

    /// Writes how long its breaker stays open.
    pub(super) fn show(&self, now: Instant) {
        self.circuit.show(now);
    }

    /// Whether its breaker is open, and not yet to be probed.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        self.circuit.refuses(now)
    }

    /// Whether it is to be tried again: probes do not wait until it is the cheaper one. One that fails its checks is not worth a
    /// question.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        !self.circuit.is_closed() && !self.sick.load(Ordering::Relaxed) && self.circuit.would_admit(now)
    }

    /// Asks to send a request.
    ///
    /// # Errors
    ///
    /// The breaker is open, or there is no place.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Result<Call, Error> {
        let open = |until| Error::Open { address: Arc::clone(&self.address), until };
        let permit = self.circuit.admit(now).map_err(open)?;
        // Counted first and given back where it is dropped, so that two callers cannot both take the last place.
        let ahead = self.load.begin();
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
        self.found_sick(&why, Instant::now());
        Err(format!("{}: {why}", self.address))
    }

    fn found_well(&self, took: Duration, now: Instant) {
        if self.is_recovery() {
            tracing::info!(address = %self.address, "feature_server: well again");
        }
        self.load.lift(took, now);
        if self.sick.swap(false, Ordering::Relaxed) {
            self.circuit.probe_from(now);
        }
    }

    fn found_sick(&self, why: &str, now: Instant) {
        self.sick.store(true, Ordering::Relaxed);
        self.failed(|| why.to_owned(), now);
        // A check is no probe: it says too little of whether rows would be answered.
        if self.circuit.is_closed()
            && let Ok(permit) = self.circuit.admit(now)
        {
            permit.record(Outcome::Failure, now);
        }
    }

    fn failed(&self, why: impl FnOnce() -> String, now: Instant) {
        if self.is_news(now) {
            let why = why();
            tracing::warn!(address = %self.address, %why, "feature_server: failed; further failures are counted only");
        }
        self.load.penalize(now);
    }

    /// Notes a failure; whether it is worth a line: the first since it was well, unless the minute had one.
    fn is_news(&self, now: Instant) -> bool {
        let is_first = !self.suspect.swap(true, Ordering::Relaxed);
        let is_news = is_first && self.faults.is_due(now);
        if is_news {
            self.told_failing.store(true, Ordering::Relaxed);
        }
        is_news
    }

    /// Notes that it is well; whether somebody who reads the log believes otherwise.
    fn is_recovery(&self) -> bool {
        self.suspect.swap(false, Ordering::Relaxed) && self.told_failing.swap(false, Ordering::Relaxed)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A request under way, until dropped.
struct Place(Arc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.load.end();
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
            Ok(Err(why)) => {
                Err(Error::Unreachable { address: Arc::clone(&server.address), why: why.into(), sent: Sent::Perhaps })
            }
            Ok(Ok(told)) => server.judge(&told, read),
        };
        self.end(answer.as_ref().err(), (began, had));
        answer
    }

    /// Counts it, and tells breaker and balance.
    fn end(self, error: Option<&Error>, (began, had): (Instant, Duration)) {
        let Self { permit, place } = self;
        let (server, now, outcome) = (&place.0, Instant::now(), outcome(error));
        server.metrics.ended(outcome);
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
                // It is not there, as a check would have found: once one passes, it has changed.
                if matches!(error, Some(Error::Unreachable { .. })) {
                    server.sick.store(true, Ordering::Relaxed);
                }
                server.failed(|| reason(error), now);
            }
        }
    }
}

/// What went wrong, without the address.
fn reason(error: Option<&Error>) -> String {
    match error {
        Some(Error::Unreachable { why, .. } | Error::Failed { why, .. }) => why.to_string(),
        Some(error) => error.to_string(),
        None => String::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_comes_and_goes_has_a_pair_of_lines_a_minute() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let upstream = config::Upstream { authority: "h:1".into(), host: "h".into(), port: 1 };
        let server = Server::new(&upstream, (Policy::default(), 1), second, now);
        assert!(!server.is_recovery(), "it was never told to fail");
        // Every two seconds it fails twice, and is well again.
        let mut told = Vec::new();
        for at in (0..70).step_by(2) {
            let failures = [server.is_news(now + second * at), server.is_news(now + second * at)];
            told.push((at, failures, server.is_recovery()));
        }
        told.retain(|(_, failures, recovery)| failures.contains(&true) || *recovery);
        assert_eq!(told, [(0, [true, false], true), (60, [true, false], true)]);
    }
}
