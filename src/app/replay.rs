//! Replays what the spool keeps: one task a process, which asks a model only while it is well and slots are to spare.
//!
//! ```text
//!   every second, and as replays end ─► claim, as many as there is room for ─► ask ─► result | later | parked
//! ```
//!
//! Requests are asked under the lowest tier, the longest due first, and never more than [`MOST`] at once: live traffic comes first.
//! On a drain nothing more is claimed, what is being asked may end within `drain.deadline`, and the rest is given back, or parked where
//! the model must not be asked twice.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    pin,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    infer::{Level, ModelId, Protocol, WorkerId},
    ingress::{replay, service::Gateway},
    resilience::seldom::Seldom,
    spool::{self, Claimed, Error, Failed, Finished, Held, ReplayOutcome, Reply, Spool},
    telemetry::handles::spool::Replay as Outcome,
};

/// Replays that one gateway makes at once.
const MOST: usize = 16;
/// How often the spool is asked while nothing ends.
const EVERY: Duration = Duration::from_secs(1);
/// What a claim lasts beyond its models' longest timeout: as long as its result may take to be stored.
const MARGIN: Duration = Duration::from_secs(15);
/// How soon storing a result is tried again, while the claim lasts.
const STORE_AGAIN: Duration = Duration::from_millis(500);
/// How often what is kept is counted, in ticks; and how often gateways that went away are forgotten.
const SHOW: u64 = 5;
const TIDY: u64 = 3600;

/// The task.
pub(super) struct Replayer {
    gateway: Arc<ArcSwap<Gateway>>,
    spool: Arc<Spool>,
    /// Whose connections are used.
    worker: WorkerId,
    /// What this gateway is called in the spool.
    by: Arc<str>,
    /// Ends what is under way, at the end of a drain.
    give_up: CancellationToken,
    failing: Seldom,
    parking: Seldom,
}

/// Entries that were claimed together.
struct Batch {
    gateway: Arc<Gateway>,
    claimed: Vec<Claimed>,
    /// When they are given to somebody else.
    until: Instant,
    /// Whether as many were there as were wanted, so that more may be.
    full: bool,
}

impl Replayer {
    pub(super) fn new(gateway: Arc<ArcSwap<Gateway>>, worker: WorkerId) -> Self {
        let spool = Arc::clone(&gateway.load_full().spool);
        let (give_up, [failing, parking]) = (CancellationToken::new(), [(); 2].map(|()| Seldom::new(Instant::now())));
        Self { gateway, spool, worker, by: name(), give_up, failing, parking }
    }

    /// Replays until `drain`, then lets what is under way end within `patience`.
    pub(super) async fn run(self, drain: CancellationToken, patience: Duration) {
        let mut running = FuturesUnordered::new();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut hungry, mut turn) = (false, 0);
        loop {
            let is_tick = tokio::select! {
                () = drain.cancelled() => break,
                _ = ticks.tick() => true,
                Some(()) = running.next(), if !running.is_empty() => false,
            };
            if !is_tick && (!hungry || running.len() > MOST / 2) {
                continue;
            }
            turn += u64::from(is_tick);
            let room = MOST.saturating_sub(running.len());
            let Batch { gateway, claimed, until, full } = beside(&mut running, self.claim(room, turn)).await;
            hungry = full;
            for claimed in claimed {
                running.push(self.replay(Arc::clone(&gateway), claimed, until));
            }
            if is_tick {
                beside(&mut running, self.tend(turn)).await;
            }
        }
        let ended = async { while running.next().await.is_some() {} };
        if timeout(patience, ended).await.is_err() {
            self.give_up.cancel();
            while running.next().await.is_some() {}
        }
    }

    /// Claims as many entries as there is room for, of models that are well. Each turn begins with another model.
    async fn claim(&self, room: usize, turn: u64) -> Batch {
        let gateway = self.gateway.load_full();
        let most = room.min(spare(&gateway));
        let (models, longest) = well(&gateway, turn);
        let (now, lasts) = (spool::now(), longest + MARGIN);
        let until = Instant::now() + lasts;
        if most == 0 || models.is_empty() {
            return Batch { gateway, claimed: Vec::new(), until, full: false };
        }
        let times = (now, now.saturating_add(spool::millis(lasts)));
        let claimed =
            self.said("its entries cannot be claimed", self.spool.claim((&models, most), &self.by, times).await);
        let claimed = claimed.unwrap_or_default();
        Batch { gateway, full: claimed.len() == most, claimed, until }
    }

    /// Counts, and forgets who is gone.
    async fn tend(&self, turn: u64) {
        if turn % SHOW == 1 {
            self.said("it cannot be counted", self.spool.show(spool::now()).await);
        }
        if turn % TIDY == 1 {
            let gateway = self.gateway.load_full();
            let models: Vec<_> = gateway.pipeline.config.models.iter().map(|model| model.name.clone()).collect();
            self.said("it cannot be tidied", self.spool.tidy(&models).await);
        }
    }

    async fn replay(&self, gateway: Arc<Gateway>, claimed: Claimed, until: Instant) {
        let came = match &claimed.request {
            Ok(request) => {
                let once = claimed.once || is_at_most_once(&gateway, &request.model);
                let came = self.give_up.run_until_cancelled(replay::infer(&gateway, request, self.worker)).await;
                match came {
                    Some(came) if once => came.at_most_once(),
                    Some(came) => came,
                    None if once => ReplayOutcome::broken_off().at_most_once(),
                    None => ReplayOutcome::Defer(Duration::ZERO),
                }
            }
            Err(unreadable) => ReplayOutcome::Park(unreadable.to_string()),
        };
        let outcome = self.store(&claimed, came, until).await;
        self.spool.replayed(outcome);
    }

    /// Stores what a replay came to.
    async fn store(&self, claimed: &Claimed, came: ReplayOutcome, until: Instant) -> Outcome {
        match came {
            ReplayOutcome::Result(reply) => self.finish(claimed, &reply, until).await,
            ReplayOutcome::Retry { why, .. } => {
                tracing::debug!(id = %claimed.id, attempts = claimed.attempts, why, "a kept request has no result yet");
                let retry = &self.spool.terms().retry;
                let failed = Failed::after(claimed.attempts, retry, (spool::now(), rand::random()), &why);
                self.fail(claimed, failed, until).await
            }
            ReplayOutcome::Park(why) => self.fail(claimed, Failed::Park(why.into()), until).await,
            ReplayOutcome::Defer(after) => {
                let due = spool::now().saturating_add(spool::millis(after));
                let held = self.insist(until, || self.spool.give_back(claimed, due, spool::now())).await;
                held_or(held, Outcome::GivenBack)
            }
        }
    }

    async fn finish(&self, claimed: &Claimed, reply: &Reply, until: Instant) -> Outcome {
        match self.insist(until, || self.spool.finish(&claimed.id, reply, spool::now())).await {
            Some(Finished::Stored) => Outcome::Done,
            Some(Finished::Already) => Outcome::Already,
            Some(Finished::Gone) => Outcome::Lost,
            None => Outcome::Unstored,
        }
    }

    async fn fail(&self, claimed: &Claimed, failed: Failed, until: Instant) -> Outcome {
        let outcome = match &failed {
            Failed::Again(_) => Outcome::Retried,
            Failed::Park(reason) => {
                if self.parking.is_due(Instant::now()) {
                    tracing::warn!(id = %claimed.id, attempts = claimed.attempts, %reason, "kept requests are parked, such as this");
                }
                Outcome::Parked
            }
        };
        held_or(self.insist(until, || self.spool.fail(claimed, failed.clone(), spool::now())).await, outcome)
    }

    /// Tells the store until it says something, the claim ends, or nobody can wait any longer.
    async fn insist<T, F: Future<Output = Result<T, Error>>>(&self, until: Instant, tell: impl Fn() -> F) -> Option<T> {
        loop {
            let told = self.said("what a replay came to cannot be stored", tell().await);
            let is_last = self.give_up.is_cancelled() || Instant::now() + STORE_AGAIN >= until;
            if told.is_some() || is_last {
                return told;
            }
            self.give_up.run_until_cancelled(sleep(STORE_AGAIN)).await;
        }
    }

    /// What the store said; an error goes to the log, once a minute.
    fn said<T>(&self, what: &str, said: Result<T, Error>) -> Option<T> {
        match said {
            Ok(said) => Some(said),
            Err(error) => {
                if self.failing.is_due(Instant::now()) {
                    tracing::warn!(%error, "spool: {what}");
                }
                None
            }
        }
    }
}

const fn held_or(held: Option<Held>, outcome: Outcome) -> Outcome {
    match held {
        Some(Held::Yes) => outcome,
        Some(Held::No) => Outcome::Lost,
        None => Outcome::Unstored,
    }
}

/// Does something while replays go on.
async fn beside<F: Future<Output = ()>, T>(running: &mut FuturesUnordered<F>, work: impl Future<Output = T>) -> T {
    pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(()) = running.next(), if !running.is_empty() => {}
        }
    }
}

/// Whether a model says so now, whatever it said when the request was kept.
fn is_at_most_once(gateway: &Gateway, model: &str) -> bool {
    let config = &gateway.pipeline.config;
    config.model_id(model).is_some_and(|id| !config.model(id).idempotent)
}

/// Slots that the lowest tier could have now, where nobody waits for one.
fn spare(gateway: &Gateway) -> usize {
    let lowest = gateway.pipeline.admission.tiers().last();
    lowest.map_or(0, |tier| if tier.waiting > 0 { 0 } else { tier.room as usize })
}

/// The models that would answer in full, from the one whose turn it is on, and their longest timeout.
fn well(gateway: &Gateway, turn: u64) -> (Vec<Arc<str>>, Duration) {
    let (pipeline, now) = (&gateway.pipeline, Instant::now());
    let config = &pipeline.config;
    let is_well = |id: &u32| {
        let pool = config.model(ModelId(*id)).pool;
        let stands = pipeline.ladder.state(ModelId(*id), now);
        let is_full = (stands.level == Level::Full && stands.readmitted.is_none()) || !stands.acts;
        is_full
            && [Protocol::V2Json, Protocol::Grpc]
                .into_iter()
                .any(|protocol| pipeline.predict.may_replay(pool, protocol, now))
    };
    let mut ids: Vec<u32> = (0..config.models.len() as u32).filter(is_well).collect();
    if !ids.is_empty() {
        let first = turn % ids.len() as u64;
        ids.rotate_left(first as usize);
    }
    let models = || ids.iter().map(|id| config.model(ModelId(*id)));
    let longest = models().map(|model| model.timeout).max().unwrap_or_default();
    (models().map(|model| Arc::clone(&model.name)).collect(), longest)
}

/// The pod's name where it has one, and a few digits, for gateways that share a host.
fn name() -> Arc<str> {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "weir".into());
    format!("{host}-{:08x}", rand::random::<u32>()).into()
}
