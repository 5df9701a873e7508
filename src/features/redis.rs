//! L2 on Redis: Feast's hashes, read with one pipeline a shard, written by one atomic script a row.
//!
//! ```text
//! command ─► node (guard ─► line ─► channel) ─► server      dial: how a line gets its channel
//!    batch      one server, as one worker sees it  └─ reply: rows out of the socket's buffer
//! cluster ─► as many nodes as the commands' slots have masters (slots, topology, sentinel), or replicas of theirs (replicas, lag, fence)
//! key_copies ─► which copy of a hot key is read, and that none outlives a write (shared: which keys those may be)
//! dr ─► which of two such Redises has the rows
//! ```
//!
//! Connections belong to a worker: the task that drives one runs where its requests run, so that an answer wakes no other
//! core. They are made in the background; a request waits for one only while the first attempt since the last success is
//! under way, and never longer than the store's timeout. A server that keeps failing is not asked (`guard`). Nothing here
//! retries beyond one fresh connection (a server may close an idle one) and one redirect.

mod channel;
mod client;
mod cluster;
mod command;
mod dial;
mod dr;
mod ear;
mod echo;
mod fence;
mod guard;
pub(crate) mod key_copies;
mod lag;
mod line;
mod node;
mod own;
mod owner;
mod pushes;
mod replicas;
mod reply;
mod script;
mod sentinel;
mod servers;
mod shared;
mod slots;
mod topology;
mod tracking;

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::redis::{RedisError, Value};
use tokio::{sync::watch, time::Instant};

pub(crate) use self::dr::{Whereabouts, reason, words};
use self::{
    command::{Commands, Reading},
    dr::Dr,
    fence::Fence,
    guard::Guards,
    key_copies::{Copies, Hot},
    node::{Role, Terms},
    reply::Reply,
    script::Life,
    servers::Servers,
};
pub(crate) use self::{
    owner::Owner,
    replicas::{MemberShown, ShardShown},
};
pub use self::{pushes::read_any as read_any_pushes, reply::read_any};
pub(crate) use self::{
    slots::SlotSet,
    tracking::{Hearer, Standing, Tracking},
};
use super::{
    Row,
    feast::{Malformed, redis_key},
    l2::{Answers, Ask, Error, Purpose, Put, Via, Written},
};
use crate::{
    app::Tasks,
    config::{self, RedisMode, View},
    infer::{EntityKey, ViewId, WorkerId},
    resilience::standby::Order,
    telemetry::handles::hot_keys::HotKeys as HotHandles,
};

/// How long anything but a request may take: a connection's handshake, learning the slots, a readiness check.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keys of one round trip: what the timeout of one is meant for.
const ROUND_TRIP: usize = 512;

/// Feast's Redis.
#[derive(Debug)]
pub(crate) struct Redis {
    project: Arc<str>,
    /// By view.
    readings: Box<[Reading]>,
    /// Shared by all snapshots: connections outlive a change of the registry.
    servers: Arc<Servers>,
    /// Who takes over for them.
    dr: Option<Arc<Dr>>,
    guards: Arc<Guards>,
    /// What replicas may lack, where they are read.
    fence: Option<Arc<Fence>>,
    /// How listening to the servers stands, where they are to be.
    tracking: Option<Arc<Tracking>>,
    timeout: Duration,
    ttl: Duration,
    script: ::redis::Script,
    /// Whose connections readiness checks use.
    control: WorkerId,
    /// Where keys are counted, and there are masters to copy them to. Shared by all snapshots.
    copies: Option<Arc<Copies>>,
    /// By view, how long a copy of a row of its is good; `None`: it is not read from copies.
    lives: Box<[Option<Duration>]>,
    /// Fields that are not copied.
    uncopied: HashSet<Box<[u8]>>,
}

impl Redis {
    /// Connects to nothing yet: a Redis that is down is found out when it is asked.
    pub(crate) fn open(
        config: &config::Redis,
        features: &config::Features,
        workers: usize,
        tasks: &Tasks,
    ) -> Result<Self, RedisError> {
        let guards = Arc::new(Guards::new(&features.breaker, config.max_in_flight));
        let control = WorkerId(u32::try_from(workers).unwrap_or(u32::MAX));
        let authorities = client::authorities(config)?;
        let servers = |urls: &[config::Secret]| {
            let clients = client::of_all(urls, authorities.as_deref())?;
            let terms = Terms {
                timeout: config.timeout,
                connections: config.connections,
                guards: Arc::clone(&guards),
                tls: dial::encryption(&clients, authorities.as_deref())?,
                role: Role::Master,
                tasks: tasks.clone(),
            };
            let replicas = config.replicas.as_deref();
            Ok::<_, RedisError>(Servers::open((&config.mode, clients), workers + 1, (&terms, replicas)))
        };
        let primary = Arc::new(servers(&config.urls)?);
        let fence = config.replicas.as_ref().map(|replicas| Arc::new(Fence::new(replicas.max_lag, Instant::now())));
        let dr = match config.dr.as_deref() {
            Some(dr) => {
                let order = if config.mode == RedisMode::Cluster { Order::Unknown } else { Order::Kept };
                let both = (Arc::clone(&primary), servers(&dr.urls)?);
                let both = Dr::new(both, &features.project, (order, control));
                tasks.background(dr::watch(Arc::downgrade(&both), dr.clone(), fence.clone()));
                Some(both)
            }
            None => None,
        };
        Ok(Self {
            project: Arc::clone(&features.project),
            readings: features.views.iter().map(|view| Reading::of(view)).collect(),
            servers: primary,
            dr,
            guards,
            fence,
            tracking: features.invalidate.tracking.then(|| Arc::new(Tracking::new())),
            timeout: config.timeout,
            ttl: config.ttl,
            script: ::redis::Script::new(script::WRITE),
            control,
            copies: None,
            lives: key_copies::lives(features),
            uncopied: Self::uncopied(&features.views),
        })
    }

    /// The same, with copies of what is hot.
    pub(crate) fn with_copies(self, hot: &config::HotKeys, metrics: &Arc<HotHandles>) -> Self {
        // Where another Redis may take over, copies that one of the two has could outlive what the other was told.
        let has_masters =
            self.dr.is_none() && matches!(*self.servers, Servers::Cluster(ref cluster) if cluster.has_many_masters());
        let copies = has_masters.then(|| Arc::new(Copies::new(hot.copies, Arc::clone(metrics))));
        Self { copies, ..self }
    }

    /// How long a copy of a row of the view is good; `None`: there are none.
    pub(crate) fn life(&self, view: ViewId) -> Option<Duration> {
        self.lives[view.index()]
    }

    /// Takes which keys are hot: they get copies, as far as there are masters.
    pub(crate) fn spread(&self, hot: &[Hot]) {
        let (Some(copies), Servers::Cluster(cluster)) = (&self.copies, &*self.servers) else { return };
        match cluster.known_map() {
            Some(topology) => copies.spread(hot, |key| redis_key(key, &self.project), &topology),
            None => copies.spread_none(),
        }
    }

    /// What is known of copies, where there may be any.
    pub(crate) fn copies(&self) -> Option<&Arc<Copies>> {
        self.copies.as_ref()
    }

    /// The same servers, over the same connections, for what the views have become.
    pub(crate) fn next(&self, features: &config::Features) -> Self {
        Self {
            project: Arc::clone(&features.project),
            readings: features.views.iter().map(|view| Reading::of(view)).collect(),
            servers: Arc::clone(&self.servers),
            dr: self.dr.clone(),
            guards: Arc::clone(&self.guards),
            fence: self.fence.clone(),
            tracking: self.tracking.clone(),
            timeout: self.timeout,
            ttl: self.ttl,
            script: ::redis::Script::new(script::WRITE),
            control: self.control,
            copies: self.copies.clone(),
            lives: key_copies::lives(features),
            uncopied: Self::uncopied(&features.views),
        }
    }

    /// One HMGET a key, all of a shard's in one round trip; more keys than the timeout is meant for in several. A round trip
    /// that is not answered in time is the last.
    pub(crate) async fn read(&self, worker: WorkerId, asks: &[Ask]) -> Vec<Result<Option<Row>, Error>> {
        self.read_from(worker, asks, &[]).await
    }

    /// The same, of hot keys from whichever copy there is.
    pub(crate) async fn fetch(&self, worker: WorkerId, asks: &[Ask], via: Via) -> Answers {
        let copies = self.copies.as_ref().filter(|_| via == Via::Copies);
        let picks = copies.map_or_else(Vec::new, |copies| copies.pick(asks, &self.lives, Instant::now()));
        match copies {
            Some(copies) if !picks.is_empty() => self.read_picked((worker, copies), asks, picks).await,
            _ => Answers::from(self.read(worker, asks).await),
        }
    }

    /// Reads rows, those that have a name from the hash of that name.
    async fn read_from(
        &self,
        worker: WorkerId,
        asks: &[Ask],
        names: &[Option<&[u8]>],
    ) -> Vec<Result<Option<Row>, Error>> {
        let mut rows = Vec::with_capacity(asks.len());
        for (part, asks) in asks.chunks(ROUND_TRIP).enumerate() {
            let name = |at: usize| names.get(part * ROUND_TRIP + at).copied().flatten();
            if let Some(Err(Error::TimedOut(after))) = rows.last() {
                let after = *after;
                rows.extend(asks.iter().map(|_| Err(Error::TimedOut(after))));
                continue;
            }
            let reads = asks.iter().enumerate().map(|(at, ask)| self.reading(ask, name(at)));
            let mut commands = Commands::reads(reads);
            if let Some(fence) = &self.fence {
                let now = Instant::now();
                let behind = |ask: &Ask| !ask.view.reads_primary_only() && !fence.holds(&ask.key, now);
                // A replica of a key copy may have one that was removed since.
                let may = asks.iter().enumerate().filter(|(at, ask)| name(*at).is_none() && behind(ask));
                may.for_each(|(at, _)| commands.let_replicas_answer(at));
            }
            let answers = self.run(worker, commands).await;
            rows.extend(asks.iter().zip(answers).map(|(ask, answer)| row(&ask.view, answer?)));
        }
        rows
    }

    /// Stores each row unless one as new is stored, all of a shard's in one round trip; a hash's life is set only where none
    /// was there before, and only by a write-back.
    pub(crate) async fn write(&self, worker: WorkerId, puts: &[Put], purpose: Purpose) -> Vec<Result<Written, Error>> {
        let dr = self.dr.as_deref().filter(|dr| dr.is_over());
        let servers = dr.map_or(&*self.servers, |dr| &dr.standby);
        let deadline = || Instant::now() + self.timeout;
        let tracking = self.tracking.as_deref();
        self.each_key(tracking, puts.iter(), |tracking, key| tracking.sent(key));
        let by_hash = self.calls(puts.iter(), ("EVALSHA", self.script.get_hash()), purpose);
        let mut answers = servers.run(worker, by_hash, deadline()).await;
        // A server that does not know the script yet learns it by its text.
        let unknown: Vec<usize> = (0..puts.len()).filter(|&at| is_no_script(&answers[at])).collect();
        if !unknown.is_empty() {
            let by_text = self.calls(unknown.iter().map(|&at| &puts[at]), ("EVAL", script::WRITE), purpose);
            for (at, answer) in unknown.into_iter().zip(servers.run(worker, by_text, deadline()).await) {
                answers[at] = answer;
            }
        }
        if let (Some(dr), Purpose::Push(_)) = (dr, purpose) {
            answers = acknowledged(dr, worker, answers, deadline()).await;
        }
        // Stored or not: who was told nothing may ask.
        puts.iter().for_each(|put| self.changed(&put.ask.key));
        let written = |answer| match answer {
            Reply::Value(Value::Int(1)) => Written::Written,
            Reply::Value(Value::Int(2)) => Written::Mended,
            _ => Written::Older,
        };
        let mut written: Vec<_> = answers.into_iter().map(|answer| answer.map(written)).collect();
        let unchanged = puts.iter().zip(&written).filter(|(_, written)| matches!(written, Ok(Written::Older)));
        self.each_key(tracking, unchanged.map(|(put, _)| put), |tracking, key| tracking.wrote_nothing(key));
        if let (Some(copies), Purpose::Push(_)) = (&self.copies, purpose) {
            self.remove_written((worker, copies), puts, &mut written).await;
        }
        written
    }

    /// The key's rows were changed by now: reads that begin later are not to be behind that.
    pub(crate) fn changed(&self, key: &EntityKey) {
        if let Some(fence) = &self.fence {
            fence.changed(key, Instant::now());
        }
    }

    /// The same of all keys.
    pub(crate) fn all_changed(&self) {
        if let Some(fence) = &self.fence {
            fence.all_changed(Instant::now());
        }
    }

    /// Tells whoever listens to Redis of the keys of rows, where anybody does.
    fn each_key<'a>(
        &self,
        tracking: Option<&Tracking>,
        puts: impl Iterator<Item = &'a Put>,
        tell: impl Fn(&Tracking, &[u8]),
    ) {
        if let Some(tracking) = tracking {
            puts.for_each(|put| tell(tracking, &redis_key(&put.ask.key, &self.project)));
        }
    }

    /// A call of the script for each row.
    fn calls<'a>(&self, puts: impl Iterator<Item = &'a Put>, (name, code): (&str, &str), purpose: Purpose) -> Commands {
        let mut commands = Commands::default();
        for Put { ask, row } in puts {
            let key = redis_key(&ask.key, &self.project);
            let layout = &self.readings[ask.view.id.index()].layout;
            let life = match purpose {
                Purpose::WriteBack => Life::IfNew(self.ttl),
                // An acknowledged push must not be lost with a hash that somebody gave an end.
                Purpose::Push(_) if ask.view.reads_primary_only() => Life::Endless,
                Purpose::Push(_) => Life::AsItIs,
            };
            commands.add(&script::call(name, code, (&key, layout, row), (purpose, life)), script::KEY_AT);
        }
        commands
    }

    /// Longest wait for one round trip.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the breaker of the row's server would let a read through now.
    pub(crate) fn would_ask(&self, worker: WorkerId, ask: &Ask) -> bool {
        self.active().would_admit(worker, &redis_key(&ask.key, &self.project))
    }

    /// Writes how long open breakers stay so.
    pub(crate) fn show(&self, now: Instant) {
        self.guards.show(now);
        self.servers.show(now);
        if let Some(dr) = &self.dr {
            dr.standby.show(now);
        }
    }

    /// How the servers stand that rows are read from; `None`: masters alone are.
    pub(crate) fn shards(&self, now: Instant) -> Option<Vec<ShardShown>> {
        self.fence.as_ref().map(|_| self.active().shown(now))
    }

    /// Whether every server's breaker refuses now.
    pub(crate) fn is_unavailable(&self, now: Instant) -> bool {
        self.active().is_unavailable(self.control, now)
    }

    pub(crate) async fn connect(&self, worker: WorkerId) {
        let standby = async {
            if let Some(dr) = &self.dr {
                dr.standby.connect(worker).await;
            }
        };
        tokio::join!(self.servers.connect(worker), standby);
    }

    pub(crate) async fn ready(&self) -> Result<(), String> {
        if let Some(dr) = &self.dr {
            dr.known()?;
        }
        self.active().ready(self.control).await.map_err(|why| format!("redis {why}"))
    }

    /// Who has the rows, where another Redis may take over.
    pub(crate) fn whereabouts(&self) -> Option<Whereabouts> {
        self.dr.as_ref().map(|dr| dr.whereabouts())
    }

    /// Whether another Redis may take over.
    pub(crate) const fn has_dr(&self) -> bool {
        self.dr.is_some()
    }

    /// Told each time that another Redis has come to have the rows, where there is one.
    pub(crate) fn moves(&self) -> Option<watch::Receiver<u64>> {
        self.dr.as_ref().map(|dr| dr.moves())
    }

    /// Whether the rows are elsewhere than in the first Redis.
    pub(crate) fn is_over(&self) -> bool {
        self.dr.as_ref().is_some_and(|dr| dr.is_over())
    }

    /// The servers that have the rows.
    fn active(&self) -> &Servers {
        match &self.dr {
            Some(dr) if dr.is_over() => &dr.standby,
            _ => &self.servers,
        }
    }

    /// How a row is read, and its key, or the name of a copy.
    fn reading<'a>(&'a self, ask: &'a Ask, copy: Option<&'a [u8]>) -> (&'a Reading, [&'a [u8]; 2]) {
        let key = copy.map_or([ask.key.as_bytes(), self.project.as_bytes()], |name| [name, b""]);
        (&self.readings[ask.view.id.index()], key)
    }

    /// The answers to the commands, in their order.
    async fn run(&self, worker: WorkerId, commands: Commands) -> Vec<Result<Reply, Error>> {
        self.active().run(worker, commands, Instant::now() + self.timeout).await
    }
}

/// What becomes of a batch that the DR was pushed: none of it is acknowledged that it does not count.
async fn acknowledged(
    dr: &Dr,
    worker: WorkerId,
    answers: Vec<Result<Reply, Error>>,
    deadline: Instant,
) -> Vec<Result<Reply, Error>> {
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|error| dr.refusal(error))).collect();
    if !answers.iter().any(Result::is_ok) {
        return answers;
    }
    match dr.count(worker, deadline).await {
        Ok(()) => answers,
        Err(error) => answers.into_iter().map(|answer| answer.and(Err(error.clone()))).collect(),
    }
}

/// The row that a reply to a read is.
fn row(view: &View, reply: Reply) -> Result<Option<Row>, Error> {
    let row = if let Reply::Row(row) = reply { row } else { Err(Malformed::Truncated) };
    row.map_err(|source| Error::Malformed { view: Arc::clone(&view.name), source })
}

fn is_no_script(answer: &Result<Reply, Error>) -> bool {
    matches!(answer, Err(Error::Refused { why, .. }) if why.starts_with("NOSCRIPT"))
}

/// What a worker has of its own; a worker beyond the list shares the last.
fn of_worker<T>(workers: &[T], worker: WorkerId) -> &T {
    &workers[worker.index().min(workers.len() - 1)]
}

#[cfg(test)]
mod tests;
