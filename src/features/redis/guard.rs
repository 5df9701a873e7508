//! What stands before each server, for all workers together: a breaker and a bulkhead.
//!
//! ```text
//! request ─► breaker ─closed, or a probe─► bulkhead ─room─► server ─► answer, no answer in time, no connection
//!               └─open: fails at once          └─full: fails at once       └─► the breaker learns of it
//! ```
//!
//! Invariant: a request costs the keys of a server that does not answer the store's timeout at most, and from when its
//! breaker is open nothing; other servers' keys wait for neither. What is no request goes around the guard: a handshake, a
//! question for the slots, a readiness check. They are few, and a handshake that works after one that did not is how a breaker
//! learns that it need not wait on.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

use ::redis::ServerErrorKind;
use tokio::time::Instant;

use super::reply::Reply;
use crate::{
    config,
    features::{circuit::Circuit, l2::Error},
    resilience::{
        breaker::{Outcome, Permit, Policy},
        bulkhead::{Bulkhead, Share},
    },
    telemetry::handles::redis::{Redis as Handles, Refusal},
};

/// The guards of all servers, by address. A guard lives as long as a worker has a connection to its server.
#[derive(Debug)]
pub(super) struct Guards {
    policy: Policy,
    /// Requests under way at a server.
    most: u32,
    known: Mutex<HashMap<Arc<str>, Weak<Guard>>>,
}

impl Guards {
    pub(super) fn new(breaker: &config::Breaker, most: u32) -> Self {
        Self { policy: Policy::from(breaker), most, known: Mutex::default() }
    }

    /// The guard of the server at an address.
    pub(super) fn of(&self, address: &Arc<str>) -> Arc<Guard> {
        // Nothing panics while it is held.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = known.get(address).and_then(Weak::upgrade) {
            return guard;
        }
        known.retain(|_, guard| guard.strong_count() > 0);
        let guard = Arc::new(Guard::new(Arc::clone(address), self.policy, self.most));
        known.insert(Arc::clone(address), Arc::downgrade(&guard));
        guard
    }

    /// Writes how long open breakers stay so.
    pub(super) fn show(&self, now: Instant) {
        let guards: Vec<_> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().filter_map(Weak::upgrade).collect()
        };
        guards.iter().for_each(|guard| guard.circuit.show(now));
    }

    /// Whether the breaker of the server at an address refuses every request now; that of an unknown one does not.
    pub(super) fn refuses(&self, address: &str, now: Instant) -> bool {
        let guard = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(address).and_then(Weak::upgrade);
        guard.is_some_and(|guard| guard.refuses(now))
    }
}

/// A server's.
pub(super) struct Guard {
    address: Arc<str>,
    circuit: Circuit,
    /// Of one tier.
    places: Bulkhead,
    metrics: Handles,
    /// What was last told of its connections, as a number.
    told: AtomicU8,
}

/// What there is to tell of a server's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum News {
    Connected = 1,
    Lost = 2,
    Unreachable = 3,
}

/// Of the bulkhead.
const TIER: usize = 0;

impl Guard {
    fn new(address: Arc<str>, policy: Policy, most: u32) -> Self {
        let target = format!("redis/{address}");
        let (metrics, circuit) = (Handles::new(&target), Circuit::new(&target, policy));
        let places = Bulkhead::new(&[Share { reserved: most, max: most }], 0);
        let places = places.expect("one tier's count fits a word");
        Self { address, circuit, places, metrics, told: AtomicU8::new(0) }
    }

    /// Whether that is news: every worker has several connections to a server, and what happens to one happens to all.
    pub(super) fn is_news(&self, news: News) -> bool {
        self.told.swap(news as u8, Ordering::Relaxed) != news as u8
    }

    /// Asks to send a request.
    ///
    /// # Errors
    ///
    /// The breaker is open, or there is no place.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Pass, Error> {
        let permit = self.circuit.admit(Instant::now()).map_err(|until| {
            self.metrics.refused(Refusal::Open);
            Error::Open { address: Arc::clone(&self.address), until }
        })?;
        if !self.places.acquire(TIER) {
            self.metrics.refused(Refusal::Full);
            return Err(Error::Full { address: Arc::clone(&self.address) });
        }
        Ok(Pass { permit, _place: Place(Arc::clone(self)) })
    }

    /// Whether the breaker would let a request through now.
    pub(super) fn would_admit(&self) -> bool {
        self.circuit.would_admit(Instant::now())
    }

    /// Whether the breaker is open, and not yet to be probed.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        self.circuit.refuses(now)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.circuit.is_closed()
    }

    /// Something else found the server well.
    pub(super) fn found_well(&self) {
        self.circuit.probe_from(Instant::now());
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("address", &self.address).finish_non_exhaustive()
    }
}

/// An admitted request. Dropped without an answer it says nothing about the server.
pub(super) struct Pass {
    permit: Permit,
    _place: Place,
}

impl Pass {
    /// Says what came of it.
    pub(super) fn record(self, answers: &Result<Vec<Reply>, Error>) {
        self.permit.record(outcome(answers), Instant::now());
    }
}

struct Place(Arc<Guard>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.release(TIER);
    }
}

/// A server that cannot serve is as good as one that does not answer. Any other error is about the key or the command.
fn outcome(answers: &Result<Vec<Reply>, Error>) -> Outcome {
    match answers {
        Ok(replies) if replies.iter().any(is_out_of_service) => Outcome::Failure,
        Ok(_) => Outcome::Success,
        Err(Error::Unreachable { .. } | Error::TimedOut(_)) => Outcome::Failure,
        Err(_) => Outcome::Neutral,
    }
}

pub(super) fn is_out_of_service(reply: &Reply) -> bool {
    let Reply::Refusal(error) = reply else { return false };
    let kinds = [ServerErrorKind::BusyLoading, ServerErrorKind::ClusterDown, ServerErrorKind::MasterDown];
    error.kind().is_some_and(|kind| kinds.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        features::{l2::Sent, tests::breaker},
        telemetry::scratch,
    };

    const MOST: u32 = 2;

    fn said(line: &str) -> Result<Vec<Reply>, Error> {
        Ok(vec![Reply::Row(Ok(None)), Reply::said(line)])
    }

    fn guard() -> Arc<Guard> {
        Guards::new(&breaker(), MOST).of(&"h:1".into())
    }

    #[tokio::test]
    async fn what_happens_to_every_connection_is_news_once() {
        let guard = guard();
        let told = [News::Unreachable, News::Unreachable, News::Connected, News::Connected, News::Lost];
        assert_eq!(told.map(|news| guard.is_news(news)), [true, false, true, false, true]);
    }

    #[test]
    fn what_is_about_a_key_is_no_failure_of_its_server() {
        let unreachable =
            || Err(Error::Unreachable { address: "h:1".into(), why: "refused".into(), sent: Sent::Nothing });
        for (answers, expected) in [
            (said("+OK"), Outcome::Success),
            (said("-WRONGTYPE Operation against a key holding the wrong kind of value"), Outcome::Success),
            (said("-NOSCRIPT No matching script"), Outcome::Success),
            (said("-MOVED 1 h:2"), Outcome::Success),
            (said("-NOPERM this user has no permissions"), Outcome::Success),
            (said("-LOADING Redis is loading the dataset in memory"), Outcome::Failure),
            (said("-CLUSTERDOWN The cluster is down"), Outcome::Failure),
            (said("-MASTERDOWN Link with MASTER is down"), Outcome::Failure),
            (unreachable(), Outcome::Failure),
            (Err(Error::TimedOut(std::time::Duration::ZERO)), Outcome::Failure),
        ] {
            assert_eq!(outcome(&answers), expected, "{answers:?}");
        }
    }

    #[tokio::test]
    async fn a_full_bulkhead_refuses_and_counts_what_it_refuses() {
        let (guard, scrape) = scratch(guard);
        let mut held: Vec<_> = (0..MOST).map(|_| guard.admit().unwrap()).collect();
        assert!(matches!(guard.admit(), Err(Error::Full { .. })));
        held.pop();
        assert!(guard.admit().is_ok());
        let counted = "weir_redis_refused_total{target=\"redis/h:1\",reason=\"full\"} 1\n";
        assert!(scrape.render().contains(counted), "{}", scrape.render());
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_lets_one_request_through_and_late_answers_change_nothing() {
        let (guard, scrape) = scratch(guard);
        let (late, policy) = (guard.admit().unwrap(), breaker());
        for _ in 0..policy.failure_threshold {
            guard.admit().unwrap().record(&Err(Error::TimedOut(policy.window)));
        }
        assert!(matches!(guard.admit(), Err(Error::Open { .. })));
        late.record(&said("+OK"));
        assert!(matches!(guard.admit(), Err(Error::Open { .. })), "the answer is from before it opened");
        tokio::time::advance(policy.open_for).await;
        let probe = guard.admit().unwrap();
        assert!(matches!(guard.admit(), Err(Error::Open { .. })), "one probe at a time");
        probe.record(&said("+OK"));
        for _ in 1..policy.success_threshold {
            guard.admit().unwrap().record(&said("+OK"));
        }
        let closed = "weir_breaker_state{target=\"redis/h:1\",state=\"closed\"} 1\n";
        assert!(scrape.render().contains(closed), "{}", scrape.render());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_found_well_is_probed_at_once() {
        let guard = guard();
        for _ in 0..breaker().failure_threshold {
            guard.admit().unwrap().record(&Err(Error::TimedOut(breaker().window)));
        }
        assert!(guard.admit().is_err());
        guard.found_well();
        assert!(guard.admit().unwrap().permit.is_probe());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_refuses_from_when_its_breaker_opens_until_it_may_be_probed() {
        let (guards, address, policy): (_, Arc<str>, _) = (Guards::new(&breaker(), MOST), "h:1".into(), breaker());
        assert!(!guards.refuses(&address, Instant::now()), "nothing is known of it");
        let guard = guards.of(&address);
        assert!(!guards.refuses(&address, Instant::now()));
        for _ in 0..policy.failure_threshold {
            guard.admit().unwrap().record(&Err(Error::TimedOut(policy.window)));
        }
        assert!(guards.refuses(&address, Instant::now()));
        tokio::time::advance(policy.open_for).await;
        assert!(!guards.refuses(&address, Instant::now()), "without traffic it does not go on");
        let _probe = guard.admit().unwrap();
        assert!(!guards.refuses(&address, Instant::now()), "a probe is under way");
    }

    #[tokio::test]
    async fn workers_share_a_server_s_guard_and_one_that_nobody_has_is_forgotten() {
        let address: Arc<str> = "h:1".into();
        let ((guards, guard), scrape) = scratch(|| {
            let guards = Guards::new(&breaker(), MOST);
            let guard = guards.of(&address);
            (guards, guard)
        });
        assert!(Arc::ptr_eq(&guard, &guards.of(&address)));
        drop(guard);
        let text = scrape.render();
        assert!(!text.contains("state=\"closed\"} 1"), "{text}");
        assert_eq!(Arc::strong_count(&guards.of(&address)), 1);
    }
}
