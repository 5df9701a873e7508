//! L2 on Redis: Feast's hashes, read with one pipeline a shard, written back by one atomic script.
//!
//! Connections belong to a worker: the task that drives one runs where its requests run, so that an answer wakes no other
//! core. They are made in the background; a request waits for one only while the first attempt since the last success is
//! under way, and never longer than the store's timeout. A server that keeps failing is not asked (`guard`). Nothing here
//! retries beyond one fresh connection (a server may close an idle one) and one redirect.

mod client;
mod cluster;
mod guard;
mod line;
mod node;
mod script;
mod sentinel;
mod slots;
mod topology;

use std::{sync::Arc, time::Duration};

use ::redis::{Cmd, RedisError, Value};
use tokio::time::{Instant, timeout};

use self::{
    cluster::{Cluster, Finder},
    guard::Guards,
    node::{Node, Terms},
    slots::Slot,
};
use super::{
    Row,
    feast::{Layout, redis_key},
    l2::{Ask, Error, Written},
};
use crate::{
    app::Tasks,
    config::{self, RedisMode, View},
    infer::WorkerId,
};

/// How long anything but a request may take: a connection's handshake, learning the slots, a readiness check.
const PATIENCE: Duration = Duration::from_secs(1);

/// Feast's Redis.
#[derive(Debug)]
pub(crate) struct Redis {
    project: Arc<str>,
    /// By view.
    layouts: Box<[Layout]>,
    /// Shared by all snapshots: connections outlive a change of the registry.
    servers: Arc<Servers>,
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

/// A command and the slot of its key.
#[derive(Debug)]
struct Command {
    slot: Slot,
    cmd: Cmd,
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
        let terms = Terms {
            timeout: config.timeout,
            connections: config.connections,
            guards: Arc::new(Guards::new(&features.breaker, config.max_in_flight)),
            tasks: tasks.clone(),
        };
        let mut clients = client::of_all(config)?;
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
            layouts: features.views.iter().map(|view| Layout::of(view)).collect(),
            servers: Arc::new(servers),
            timeout: config.timeout,
            ttl: config.ttl,
            script: ::redis::Script::new(script::WRITE_BACK),
            control: WorkerId(u32::try_from(workers).unwrap_or(u32::MAX)),
        })
    }

    /// The same servers, over the same connections, for what the views have become.
    pub(crate) fn next(&self, features: &config::Features) -> Self {
        Self {
            project: Arc::clone(&features.project),
            layouts: features.views.iter().map(|view| Layout::of(view)).collect(),
            servers: Arc::clone(&self.servers),
            timeout: self.timeout,
            ttl: self.ttl,
            script: ::redis::Script::new(script::WRITE_BACK),
            control: self.control,
        }
    }

    /// One HMGET a key, all of a shard's in one round trip.
    pub(crate) async fn read(&self, worker: WorkerId, asks: &[Ask]) -> Vec<Result<Option<Row>, Error>> {
        let commands = asks.iter().map(|ask| self.hmget(ask)).collect();
        let answers = self.run(worker, commands).await;
        asks.iter().zip(answers).map(|(ask, answer)| self.row(&ask.view, &answer?)).collect()
    }

    /// Stores the row unless one as new is stored; its life is set only where no hash was there before.
    pub(crate) async fn write_back(&self, worker: WorkerId, ask: &Ask, row: &Row) -> Result<Written, Error> {
        let call = |name: &str, code: &str| {
            let key = redis_key(&ask.key, &self.project);
            let layout = &self.layouts[ask.view.id.index()];
            Command { slot: Slot::of(&key), cmd: script::call(name, code, (&key, layout, row, self.ttl)) }
        };
        let known = self.run_one(worker, call("EVALSHA", self.script.get_hash())).await;
        let answer = match known {
            Err(Error::Refused { why, .. }) if why.starts_with("NOSCRIPT") => {
                self.run_one(worker, call("EVAL", script::WRITE_BACK)).await?
            }
            answer => answer?,
        };
        Ok(if answer == Value::Int(1) { Written::Written } else { Written::Older })
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

    fn hmget(&self, ask: &Ask) -> Command {
        let key = redis_key(&ask.key, &self.project);
        let mut cmd = ::redis::cmd("HMGET");
        cmd.arg(&key);
        for field in self.layouts[ask.view.id.index()].fields() {
            cmd.arg(field);
        }
        Command { slot: Slot::of(&key), cmd }
    }

    fn row(&self, view: &View, answer: &Value) -> Result<Option<Row>, Error> {
        let cells: &[Value] = if let Value::Array(cells) = answer { cells } else { &[] };
        let cells = cells.iter().map(|cell| if let Value::BulkString(cell) = cell { Some(&**cell) } else { None });
        let malformed = |source| Error::Malformed { view: Arc::clone(&view.name), source };
        self.layouts[view.id.index()].row(cells).map_err(malformed)
    }

    async fn run_one(&self, worker: WorkerId, command: Command) -> Result<Value, Error> {
        let answer = self.run(worker, vec![command]).await.pop();
        answer.expect("as many answers as commands")
    }

    /// The answers to the commands, in their order.
    async fn run(&self, worker: WorkerId, commands: Vec<Command>) -> Vec<Result<Value, Error>> {
        let deadline = Instant::now() + self.timeout;
        match &*self.servers {
            Servers::Single(nodes) => {
                let commands = commands.into_iter().map(|command| command.cmd);
                of_worker(nodes, worker).request_all(commands, deadline).await
            }
            Servers::Cluster(cluster) => cluster.run(worker, &commands, deadline).await,
        }
    }
}

/// What a worker has of its own; a worker beyond the list shares the last.
fn of_worker<T>(workers: &[T], worker: WorkerId) -> &T {
    &workers[worker.index().min(workers.len() - 1)]
}

#[cfg(test)]
mod tests;
