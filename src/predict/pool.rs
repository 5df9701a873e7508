//! A set of endpoints with one policy: what a request asks for an endpoint, and why there is none.
//!
//! The set changes while requests go on (`members`), and what is known of it is looked through in the background (`survey`); the
//! path loads both.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};

use super::{
    balance::{Crowd, Group, Place, State},
    endpoint::{Endpoint, Health},
    gpu::Gpu,
    members::Sources,
    survey::Survey,
};
use crate::{
    config,
    infer::{Asker, Kind, Protocol},
    resilience::{backoff, breaker, budget::Budget, trickle::Trickle},
    telemetry::handles::{
        balance::BalanceHandles,
        predict::{HedgeDenied, PoolHandles},
    },
};

/// A pool at work.
pub(super) struct Pool {
    pub(super) name: Arc<str>,
    pub(super) members: ArcSwap<Members>,
    pub(super) config: config::Pool,
    pub(super) backoff: backoff::Retry,
    pub(super) budget: Budget,
    /// What hedges may take of it; `None`: nothing is hedged.
    pub(super) hedges: Option<Budget>,
    pub(super) metrics: PoolHandles,
    pub(super) balance: BalanceHandles,
    pub(super) workers: usize,
    /// How full its GPUs are; `None`: it does not say.
    pub(super) gpu: Option<Gpu>,
    pub(super) sources: Mutex<Sources>,
    pub(super) survey: Mutex<Survey>,
    /// Told when the set has changed.
    pub(super) changed: Notify,
    /// Told when nobody could be asked.
    pub(super) wanted: Notify,
    /// How often an endpoint is probed ahead of its breaker's time, where every breaker is open.
    early: Trickle,
    /// Whether so few are healthy that all are asked.
    pub(super) panicking: AtomicBool,
    /// What part of the requests stays in the gateway's own zone, of [`WHOLE`]; [`NO_ZONE`] where it makes no difference.
    pub(super) own_part: AtomicU32,
    /// Whether the pool that takes over for this one does.
    pub(super) failed_over: AtomicBool,
}

/// All of the requests.
pub(super) const WHOLE: u32 = 1 << 16;
pub(super) const NO_ZONE: u32 = u32::MAX;

/// The endpoints at one time.
pub(super) type Members = Box<[Arc<Endpoint>]>;

/// What an attempt needs.
pub(super) struct Want {
    pub(super) protocol: Protocol,
    /// [`Choice::index`] of the attempt before, which another endpoint is better than.
    pub(super) last: Option<usize>,
    /// Whether it may find out how an endpoint is whose breaker was open.
    pub(super) probing: bool,
    /// Who waits for it.
    pub(super) asker: Asker,
}

/// Why no endpoint of a pool can be asked.
pub(super) struct Nobody {
    pub(super) kind: Kind,
    pub(super) why: String,
    /// In what time one may be.
    pub(super) wait: Option<Duration>,
}

/// In what time an endpoint may be found, or have room again, and how often one is probed early.
const SOON: Duration = Duration::from_secs(1);
/// So many endpoints are probed early one after the other before it is one each [`SOON`]: of several that are out, one may be back.
const EARLY_AT_ONCE: u32 = 3;

/// The endpoint chosen for an attempt, and the breaker's leave to ask it.
pub(super) struct Choice {
    /// The endpoint's number in its pool; no other ever has it.
    pub(super) index: usize,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) permit: breaker::Permit,
}

impl Choice {
    pub(super) fn new(endpoint: &Arc<Endpoint>, permit: breaker::Permit) -> Self {
        Self { index: endpoint.number, endpoint: endpoint.clone(), permit }
    }
}

impl Pool {
    pub(super) fn new(config: &config::Pool, workers: usize, now: Instant) -> Self {
        let pool = Self {
            name: config.name.clone(),
            members: ArcSwap::from_pointee(Members::default()),
            backoff: backoff::Retry::from(&config.retry),
            budget: Budget::new(config.retry_budget, now),
            hedges: config.hedge.as_ref().map(|hedge| Budget::strict(hedge.share, now)),
            metrics: PoolHandles::new(&config.name),
            balance: BalanceHandles::new(&config.name),
            workers,
            gpu: config.gpu.as_ref().map(|gpu| Gpu::new(&config.name, gpu)),
            sources: Mutex::new(Sources::new(config.discovery.len(), now)),
            survey: Mutex::new(Survey::new(config, now)),
            changed: Notify::new(),
            wanted: Notify::new(),
            early: Trickle::new(EARLY_AT_ONCE, SOON, now),
            panicking: AtomicBool::new(false),
            own_part: AtomicU32::new(NO_ZONE),
            failed_over: AtomicBool::new(false),
            config: config.clone(),
        };
        pool.found(0, config.endpoints.clone(), now);
        pool
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

    /// The endpoints of now.
    pub(super) fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// Chooses an endpoint for the next attempt, another than the last one's where there is one.
    ///
    /// An endpoint whose breaker waits for a probe has it first, so that recovery does not wait for luck. Else it is the cheaper
    /// of two that are healthy, of the gateway's own zone as far as that can take it; where too few are healthy, of all.
    pub(super) fn pick(&self, want: &Want, now: Instant) -> Result<Choice, Nobody> {
        let members = self.members();
        if let [only] = &**members {
            return self.only(only, want, now);
        }
        let crowd = Crowd { members: &members, want, now };
        let panicking = self.panicking.load(Ordering::Relaxed);
        let state = if panicking { State::Any } else { State::Healthy };
        if want.probing
            && let Some(choice) = crowd.probe(state)
        {
            return Ok(choice);
        }
        let chosen = self.of_zone(&crowd, state);
        let desperate = || (!panicking && crowd.is_ill()).then(|| self.of_zone(&crowd, State::Any)).flatten();
        let early = || self.early(&members, want, now);
        chosen.or_else(desperate).or_else(early).ok_or_else(|| self.nobody(want.protocol, now))
    }

    /// A probe ahead of its time, where the breaker of every endpoint refuses: as long as others can be asked, one that fails is best
    /// left alone for as long as its breaker says, but then nobody is spared by that. Of those that pass their health checks it is the one
    /// that was left alone longest.
    fn early(&self, members: &Members, want: &Want, now: Instant) -> Option<Choice> {
        // What was kept for later waits for whoever is there to ask.
        if want.asker == Asker::Spool {
            return None;
        }
        let speaking = members.iter().filter(|endpoint| endpoint.upstream(want.protocol).is_some());
        if speaking.clone().any(|endpoint| endpoint.breaker.would_admit(now)) {
            return None;
        }
        let due = |endpoint: &Endpoint| endpoint.early_from().filter(|from| *from <= now && endpoint.has_room());
        let waiting = speaking.filter_map(|endpoint| Some((due(endpoint)?, endpoint)));
        let (_, endpoint) = waiting.min_by_key(|(from, _)| *from)?;
        let pause = SOON.mul_f64(rand::random_range(0.75..1.25));
        if !self.early.take(pause, now) {
            return None;
        }
        Some(Choice::new(endpoint, endpoint.breaker.admit_early(pause, now).ok()?))
    }

    fn of_zone(&self, crowd: &Crowd<'_>, state: State) -> Option<Choice> {
        let place = self.place();
        let near = || crowd.choose(Group { place, state, last: false });
        let any = || crowd.choose(Group { place: Place::Any, state, last: false });
        let again = || crowd.choose(Group { place: Place::Any, state, last: true });
        let chosen = if place == Place::Any { None } else { near() };
        chosen.or_else(any).or_else(again)
    }

    fn place(&self) -> Place {
        match self.own_part.load(Ordering::Relaxed) {
            NO_ZONE => Place::Any,
            WHOLE => Place::Own,
            part if rand::random_range(0..WHOLE) < part => Place::Own,
            _ => Place::Other,
        }
    }

    fn only(&self, endpoint: &Arc<Endpoint>, want: &Want, now: Instant) -> Result<Choice, Nobody> {
        let protocol = want.protocol;
        if endpoint.upstream(protocol).is_none() || !endpoint.has_room() {
            return Err(self.nobody(protocol, now));
        }
        let admitted = endpoint.admit(want.asker, now).ok().map(|permit| Choice::new(endpoint, permit));
        let early = || self.early(&self.members(), want, now);
        admitted.or_else(early).ok_or_else(|| self.nobody(protocol, now))
    }

    /// Whether some endpoint could be asked at `at`; it may have changed by then.
    pub(super) fn would_pick(&self, protocol: Protocol, at: Instant) -> bool {
        self.members().iter().any(|endpoint| {
            endpoint.upstream(protocol).is_some() && endpoint.has_room() && endpoint.breaker.would_admit(at)
        })
    }

    /// Whether no other endpoint is healthy and lets requests by, of several.
    pub(super) fn is_last(&self, endpoint: &Arc<Endpoint>) -> bool {
        let members = self.members();
        let others = || members.iter().filter(|other| !Arc::ptr_eq(other, endpoint));
        others().next().is_some() && !others().any(|other| other.is_healthy() && other.breaker.is_closed())
    }

    /// In what time after `at` the next attempt could be made at another endpoint than the last one's, as far as those asked to be
    /// left alone; `None`: it could not.
    pub(super) fn elsewhere(&self, want: &Want, at: Instant) -> Option<Duration> {
        let members = self.members();
        let crowd = Crowd { members: &members, want, now: at };
        let all = self.panicking.load(Ordering::Relaxed) || crowd.is_ill();
        crowd.elsewhere(if all { State::Any } else { State::Healthy })
    }

    /// Whether some healthy endpoint can be asked now, for whom.
    pub(super) fn may_be_asked(&self, protocol: Protocol, asker: Asker, now: Instant) -> bool {
        self.members().iter().any(|endpoint| {
            endpoint.upstream(protocol).is_some()
                && endpoint.has_room()
                && endpoint.is_healthy()
                && endpoint.would_admit(asker, now)
        })
    }

    /// Why no endpoint could be asked.
    fn nobody(&self, protocol: Protocol, now: Instant) -> Nobody {
        self.wanted.notify_one();
        let members = self.members();
        let speaks = |endpoint: &&Arc<Endpoint>| endpoint.upstream(protocol).is_some();
        let (kind, why) = if members.is_empty() {
            (Kind::Unavailable, "no endpoint was found yet".to_owned())
        } else if !members.iter().any(|endpoint| speaks(&endpoint)) {
            (Kind::Unimplemented, self.no_port(protocol))
        } else if members.iter().filter(speaks).any(|endpoint| endpoint.is_full(now)) {
            let most = self.config.max_in_flight;
            (Kind::Shed, format!("every endpoint that can be asked has max_in_flight ({most:?}) requests"))
        } else {
            (Kind::Unavailable, "the circuit breaker of every endpoint is open".to_owned())
        };
        Nobody { kind, why, wait: self.back_in(protocol, now) }
    }

    /// In what time it may have somebody to ask, of those that speak the protocol.
    pub(super) fn back_in(&self, protocol: Protocol, now: Instant) -> Option<Duration> {
        let members = self.members();
        if members.is_empty() {
            return Some(SOON);
        }
        let of = |endpoint: &Arc<Endpoint>| {
            endpoint.upstream(protocol)?;
            let early = endpoint.early_from().map(|from| from.max(now + self.early.wait(now)));
            let until = endpoint.breaker.until().map(|until| early.map_or(until, |early| early.min(until)));
            let wait = until.map(|until| until.saturating_duration_since(now));
            Some(if endpoint.is_full(now) { SOON } else { wait.unwrap_or(SOON) })
        };
        members.iter().filter_map(of).min()
    }

    fn no_port(&self, protocol: Protocol) -> String {
        let port = if protocol == Protocol::Grpc { "grpc" } else { "http" };
        format!("it cannot be asked over {port}: its endpoints ({}) have no {port} port configured", self.names())
    }

    /// The endpoints' names, for people.
    pub(super) fn names(&self) -> String {
        let members = self.members();
        if members.is_empty() {
            return "none was found yet".to_owned();
        }
        members.iter().map(|endpoint| &**endpoint.name()).collect::<Vec<_>>().join(", ")
    }

    /// Where its endpoints are to come from, for people; always the same.
    pub(super) fn described(&self) -> String {
        let named = self.config.endpoints.iter().map(|endpoint| endpoint.name.to_string());
        let found = self.config.discovery.iter().map(ToString::to_string);
        named.chain(found).collect::<Vec<_>>().join(", ")
    }

    /// Whether a request would find an endpoint that passed its last health check.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let is_ready = |endpoint: &&Arc<Endpoint>| endpoint.health() == Health::Passing;
        self.members().iter().filter(is_ready).any(|endpoint| endpoint.breaker.would_admit(now))
    }

    /// How many endpoints passed their last health check.
    pub(super) fn passing(&self) -> usize {
        self.members().iter().filter(|endpoint| endpoint.health() == Health::Passing).count()
    }
}
