//! The way to the other gateways: one connection to the server of the leases, made again whenever it breaks; what one does is in
//! `session`. It lives on the control thread; pushes, on theirs, use it at the same time.
//!
//! **After a gap** something may have been missed: what other gateways wrote, which Redis tells too where it is listened to
//! (`redis::tracking`), and what operators said, which nobody else tells. How often they did is counted in the table, in the same step:
//! who has heard it counted has heard it, for both come over one connection.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ::redis::{AsyncConnectionConfig, PushInfo, RedisError, aio::MultiplexedConnection};
use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};

use super::{
    Keeps, LONGEST, Leases, Meeting, Missed,
    message::Change,
    outbox::{Outbox, nanos},
    rounds::Waiting,
    session::Session,
    table::{Server, Table, Words},
};
use crate::{
    features::{chain, l2, redis::Owner},
    infer::EntityKey,
    telemetry::handles::lease::Fence,
};

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Rounds of a gateway's whose writes were not answered, of the last half minute.
const ABANDONED: usize = 1024;

/// The way to the other gateways.
pub(super) struct Bus {
    pub(super) table: Table,
    owner: Owner,
    /// Of a lease.
    pub(super) length: Duration,
    pub(super) keeps: Keeps,
    /// The server, while it is connected to.
    pub(super) server: ArcSwapOption<Server>,
    /// Rounds of this gateway's that wait.
    pub(super) rounds: Mutex<HashMap<u64, Arc<Waiting>>>,
    pub(super) outbox: Mutex<Outbox>,
    /// Rounds whose write was not answered, and when they began: noted until what was sent is carried out, or never will be.
    abandoned: Mutex<VecDeque<(Instant, u64)>>,
    /// Rung when there is something in the outbox.
    pub(super) bell: Notify,
    /// Rung when somebody found that the connection does not answer.
    pub(super) broken: Notify,
}

/// Why a connection is no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("nobody knows which server has the leases")]
    NoServer(#[from] l2::Error),
    #[error("the server did not do what it was asked to")]
    Refused(#[from] RedisError),
    #[error("the connection broke")]
    Broken,
    #[error("no answer within {ANSWER:?}")]
    Late,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("gateway", &self.gateway()).finish_non_exhaustive()
    }
}

impl Bus {
    pub(super) fn new(meeting: Meeting<'_>) -> Self {
        let Meeting { owner, project, length, keeps } = meeting;
        Self {
            table: Table::new(project, rand::random(), owner.is_cluster()),
            owner,
            length,
            keeps,
            server: ArcSwapOption::empty(),
            rounds: Mutex::default(),
            outbox: Mutex::default(),
            abandoned: Mutex::default(),
            bell: Notify::new(),
            broken: Notify::new(),
        }
    }

    pub(super) const fn gateway(&self) -> u64 {
        self.table.gateway
    }

    pub(super) fn is_connected(&self) -> bool {
        self.server.load_full().is_some()
    }

    pub(super) fn server(&self) -> Option<Server> {
        self.server.load_full().map(|server| Server::clone(&server))
    }

    /// What was asked of the server was not answered: the connection is to be made anew.
    pub(super) fn broke(&self) {
        self.broken.notify_one();
    }

    pub(super) fn await_round(&self, round: u64) -> Arc<Waiting> {
        let waiting = Arc::<Waiting>::default();
        lock(&self.rounds).insert(round, Arc::clone(&waiting));
        waiting
    }

    pub(super) fn forget_round(&self, round: u64) {
        lock(&self.rounds).remove(&round);
    }

    /// Takes rows to be told of, which were written at `written`; how many it did not.
    pub(super) fn tell<'a>(
        &self,
        view: &Arc<str>,
        keys: impl Iterator<Item = &'a EntityKey>,
        written: SystemTime,
    ) -> u64 {
        let written = nanos(written);
        let left_out = lock(&self.outbox).take_rows(keys.map(|key| (Arc::clone(view), key.clone(), written)));
        self.bell.notify_one();
        left_out
    }

    /// Takes a change to be told of. One that comes while there is no connection is told once there is one: an operator's word counts.
    pub(super) fn tell_change(&self, change: Change) -> bool {
        let has_room = lock(&self.outbox).take_change(change);
        self.bell.notify_one();
        has_room && self.is_connected()
    }

    /// Has a round released that was given up.
    pub(super) fn release_later(&self, round: u64, rows: Vec<u128>) {
        lock(&self.outbox).take_release((round, rows));
        self.bell.notify_one();
    }

    /// A round's write was not answered.
    pub(super) fn abandon(&self, round: u64, began: Instant) {
        lock(&self.abandoned).push_back((began, round));
    }

    /// Whether so many are noted that no more should be.
    pub(super) fn is_crowded(&self) -> bool {
        lock(&self.abandoned).len() >= ABANDONED
    }

    /// Has those released that began so long ago that nothing of them can happen any more.
    pub(super) fn forget_abandoned(&self, now: Instant) {
        let mut abandoned = lock(&self.abandoned);
        let over = abandoned.iter().take_while(|(began, _)| now.saturating_duration_since(*began) > LONGEST).count();
        let over: Vec<_> = abandoned.drain(..over).collect();
        drop(abandoned);
        // Their rows are free everywhere: only the note is left.
        over.into_iter().for_each(|(_, round)| self.release_later(round, Vec::new()));
    }

    /// Gives back the lease that the server has granted.
    pub(super) async fn leave(&self) {
        if let Some(mut server) = self.server() {
            // Where it fails, the lease runs out.
            let _ = timeout(ANSWER, self.table.leave(&mut server)).await;
        }
    }

    pub(super) async fn connect(&self) -> Result<(Server, Messages), Ended> {
        let client = self.owner.client(self.table.key().as_bytes()).await?;
        let (heard, messages) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER))
            .set_push_sender(heard);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = timeout(2 * ANSWER, connecting).await.map_err(|_| Ended::Late)??;
        let mut subscribe = ::redis::cmd(self.table.subscribe());
        subscribe.arg(&self.table.all).arg(self.table.channel_of(self.gateway()));
        subscribe.exec_async(&mut connection).await?;
        let run_id = run_id(&mut connection).await;
        Ok((Server { connection, run_id }, messages))
    }
}

/// Of the server; empty where it does not say.
async fn run_id(connection: &mut MultiplexedConnection) -> String {
    let info: Result<String, _> = ::redis::cmd("INFO").arg("server").query_async(connection).await;
    let info = info.unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    line.unwrap_or_default().trim().to_owned()
}

pub(super) type Messages = mpsc::UnboundedReceiver<PushInfo>;

impl Leases {
    /// Connects, hears, tells; for as long as it is polled.
    pub(super) async fn tend_bus(&self) {
        let Some(bus) = &self.bus else { return };
        // The last that was heard, once something may have been missed.
        let (mut said, mut gap) = (false, None::<Words>);
        loop {
            let ended = match Session::begin(self, bus).await {
                Ok(session) => {
                    tracing::info!(gateway = super::table::name(bus.gateway()), "hears other gateways' pushes");
                    said = false;
                    self.metrics.connected.set(1.0);
                    if let Some(heard) = gap {
                        self.missed(if heard == session.words { Missed::Rows } else { Missed::Words });
                    }
                    let (ended, heard) = session.run().await;
                    gap = Some(heard);
                    ended
                }
                Err(ended) => {
                    gap.get_or_insert(None);
                    ended
                }
            };
            let was_connected = bus.server.swap(None).is_some();
            self.metrics.connected.set(0.0);
            if was_connected {
                self.fence(Fence::Disconnected);
            }
            bus.owner.learn();
            if !said {
                let error = chain(&ended);
                tracing::warn!(
                    error,
                    "does not hear other gateways' pushes: write_through rows are read from Redis, and pushing them fails"
                );
                said = true;
            }
            sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that it guards is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
