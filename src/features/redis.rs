//! L2 on Redis: Feast's hashes, read with one pipeline a shard, written by one atomic script a row.
//!
//! ```text
//! command ─► node (guard ─► line ─► channel) ─► server      dial: how a line gets its channel
//!    batch      one server, as one worker sees it  └─ reply: rows out of the socket's buffer
//! cluster ─► as many nodes as the commands' slots have masters (slots, topology, sentinel)
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
mod ear;
mod guard;
mod line;
mod node;
mod own;
mod owner;
mod pushes;
mod reply;
mod script;
mod sentinel;
mod slots;
mod topology;
mod tracking;

use std::{sync::Arc, time::Duration};

use ::redis::{RedisError, Value};
use tokio::time::{Instant, timeout};

pub(crate) use self::owner::Owner;
pub use self::reply::read_any;
use self::{
    cluster::{Cluster, Finder},
    command::{Commands, Reading},
    guard::Guards,
    node::{Node, Terms},
    reply::Reply,
    script::Life,
    slots::Slot,
};
pub(crate) use self::{
    slots::SlotSet,
    tracking::{Hearer, Standing, Tracking},
};
use super::{
    Row,
    feast::{Malformed, redis_key},
    l2::{Ask, Error, Purpose, Put, Written},
};
use crate::{
    app::Tasks,
    config::{self, RedisMode, View},
    infer::WorkerId,
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
    guards: Arc<Guards>,
    /// How listening to the servers stands, where they are to be.
    tracking: Option<Arc<Tracking>>,
    timeout: Duration,
    ttl: Duration,
    script: ::redis::Script,
    /// Whose connections readiness checks use.
    control: WorkerId,
}

#[derive(Debug)]
enum Servers {
    /// The one server as each worker sees it.
    Single(Box<[Arc<Node>]>),
    /// Found by asking: a cluster, or a master behind sentinels.
    Cluster(Arc<Cluster>),
}

impl Redis {
    /// Connects to nothing yet: a Redis that is down is found out when it is asked.
    pub(crate) fn open(
        config: &config::Redis,
        features: &config::Features,
        workers: usize,
        tasks: &Tasks,
    ) -> Result<Self, RedisError> {
        let slots = workers + 1;
        let authorities = client::authorities(config)?;
        let mut clients = client::of_all(config, authorities.as_deref())?;
        let guards = Arc::new(Guards::new(&features.breaker, config.max_in_flight));
        let terms = Terms {
            timeout: config.timeout,
            connections: config.connections,
            guards: Arc::clone(&guards),
            tls: dial::encryption(&clients, authorities.as_deref())?,
            tasks: tasks.clone(),
        };
        let found = |clients, finder| Servers::Cluster(Arc::new(Cluster::new((clients, finder), slots, terms.clone())));
        let servers = match &config.mode {
            RedisMode::Single => {
                let client = clients.swap_remove(0);
                Servers::Single((0..slots).map(|_| Arc::new(Node::new(&client, &terms))).collect())
            }
            RedisMode::Cluster => found(clients, Finder::Members),
            RedisMode::Sentinel { master } => found(clients, Finder::Sentinels(Arc::clone(master))),
        };
        Ok(Self {
            project: Arc::clone(&features.project),
            readings: features.views.iter().map(|view| Reading::of(view)).collect(),
            servers: Arc::new(servers),
            guards,
            tracking: features.invalidate.tracking.then(|| Arc::new(Tracking::new())),
            timeout: config.timeout,
            ttl: config.ttl,
            script: ::redis::Script::new(script::WRITE),
            control: WorkerId(u32::try_from(workers).unwrap_or(u32::MAX)),
        })
    }

    /// The same servers, over the same connections, for what the views have become.
    pub(crate) fn next(&self, features: &config::Features) -> Self {
        Self {
            project: Arc::clone(&features.project),
            readings: features.views.iter().map(|view| Reading::of(view)).collect(),
            servers: Arc::clone(&self.servers),
            guards: Arc::clone(&self.guards),
            tracking: self.tracking.clone(),
            timeout: self.timeout,
            ttl: self.ttl,
            script: ::redis::Script::new(script::WRITE),
            control: self.control,
        }
    }

    /// One HMGET a key, all of a shard's in one round trip; more keys than the timeout is meant for in several. A round trip
    /// that is not answered in time is the last.
    pub(crate) async fn read(&self, worker: WorkerId, asks: &[Ask]) -> Vec<Result<Option<Row>, Error>> {
        let mut rows = Vec::with_capacity(asks.len());
        for asks in asks.chunks(ROUND_TRIP) {
            if let Some(Err(Error::TimedOut(after))) = rows.last() {
                let after = *after;
                rows.extend(asks.iter().map(|_| Err(Error::TimedOut(after))));
                continue;
            }
            let commands = Commands::reads(asks.iter().map(|ask| self.reading(ask)));
            let answers = self.run(worker, commands).await;
            rows.extend(asks.iter().zip(answers).map(|(ask, answer)| row(&ask.view, answer?)));
        }
        rows
    }

    /// Stores each row unless one as new is stored, all of a shard's in one round trip; a hash's life is set only where none
    /// was there before, and only by a write-back.
    pub(crate) async fn write(&self, worker: WorkerId, puts: &[Put], purpose: Purpose) -> Vec<Result<Written, Error>> {
        let by_hash = self.calls(puts.iter(), ("EVALSHA", self.script.get_hash()), purpose);
        let mut answers = self.run(worker, by_hash).await;
        // A server that does not know the script yet learns it by its text.
        let unknown: Vec<usize> = (0..puts.len()).filter(|&at| is_no_script(&answers[at])).collect();
        if !unknown.is_empty() {
            let by_text = self.calls(unknown.iter().map(|&at| &puts[at]), ("EVAL", script::WRITE), purpose);
            for (at, answer) in unknown.into_iter().zip(self.run(worker, by_text).await) {
                answers[at] = answer;
            }
        }
        let written = |answer| match answer {
            Reply::Value(Value::Int(1)) => Written::Written,
            Reply::Value(Value::Int(2)) => Written::Mended,
            _ => Written::Older,
        };
        answers.into_iter().map(|answer| answer.map(written)).collect()
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
        match &*self.servers {
            Servers::Single(nodes) => of_worker(nodes, worker).would_admit(),
            Servers::Cluster(cluster) => cluster.would_admit(worker, Slot::of(&redis_key(&ask.key, &self.project))),
        }
    }

    /// Writes how long open breakers stay so.
    pub(crate) fn show(&self, now: Instant) {
        self.guards.show(now);
    }

    /// Whether every server's breaker refuses now.
    pub(crate) fn is_unavailable(&self, now: Instant) -> bool {
        match &*self.servers {
            Servers::Single(nodes) => of_worker(nodes, self.control).refuses(now),
            Servers::Cluster(cluster) => cluster.is_unavailable(now),
        }
    }

    pub(crate) async fn connect(&self, worker: WorkerId) {
        let connecting = async {
            match &*self.servers {
                Servers::Single(nodes) => of_worker(nodes, worker).connect().await,
                Servers::Cluster(cluster) => cluster.connect(worker).await,
            }
        };
        // Failures are logged where they happen; requests meet them again.
        let _ = timeout(PATIENCE, connecting).await;
    }

    pub(crate) async fn ready(&self) -> Result<(), String> {
        let check = async {
            match &*self.servers {
                Servers::Single(nodes) => {
                    of_worker(nodes, self.control).ping().await.map_err(|error| error.to_string())
                }
                Servers::Cluster(cluster) => cluster.ready(self.control).await,
            }
        };
        let checked = timeout(PATIENCE, check).await;
        let checked = checked.unwrap_or_else(|_| Err(format!("{}: no answer within {PATIENCE:?}", self.addresses())));
        checked.map_err(|why| format!("redis {why}"))
    }

    fn addresses(&self) -> String {
        match &*self.servers {
            Servers::Single(nodes) => of_worker(nodes, self.control).address().to_string(),
            Servers::Cluster(cluster) => cluster.addresses(),
        }
    }

    /// How a row is read, and its key.
    fn reading<'a>(&'a self, ask: &'a Ask) -> (&'a Reading, [&'a [u8]; 2]) {
        (&self.readings[ask.view.id.index()], [ask.key.as_bytes(), self.project.as_bytes()])
    }

    /// The answers to the commands, in their order.
    async fn run(&self, worker: WorkerId, commands: Commands) -> Vec<Result<Reply, Error>> {
        let deadline = Instant::now() + self.timeout;
        match &*self.servers {
            Servers::Single(nodes) => of_worker(nodes, worker).request_all(&commands.all(), deadline).await,
            Servers::Cluster(cluster) => cluster.run(worker, &commands, deadline).await,
        }
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
