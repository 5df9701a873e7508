//! The servers of one Redis, however they are found: a single one, or masters that are learned of.

use std::sync::Arc;

use ::redis::{Client, Cmd, Value};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{
    PATIENCE,
    cluster::{Cluster, Finder},
    command::Commands,
    lag,
    node::{Node, Terms},
    of_worker,
    replicas::{Replicas, ShardShown},
    reply::Reply,
    slots::Slot,
};
use crate::{
    config::{self, RedisMode},
    features::l2::Error,
    infer::WorkerId,
};

#[derive(Debug)]
pub(super) enum Servers {
    /// The one server as each worker sees it.
    Single(Box<[Arc<Node>]>),
    /// Found by asking: a cluster, or a master behind sentinels.
    Cluster(Arc<Cluster>),
}

impl Servers {
    /// As `workers` see them, the last of them the one whose connections the background uses. Connects to nothing yet.
    pub(super) fn open(
        (mode, mut clients): (&RedisMode, Vec<Client>),
        workers: usize,
        (terms, replicas): (&Terms, Option<&config::Replicas>),
    ) -> Self {
        let finder = match mode {
            RedisMode::Single => {
                let client = clients.swap_remove(0);
                return Self::Single((0..workers).map(|_| Arc::new(Node::new(&client, terms))).collect());
            }
            RedisMode::Cluster => Finder::Members,
            RedisMode::Sentinel { master } => Finder::Sentinels(Arc::clone(master)),
        };
        let read = replicas.map(|policy| Replicas::new(policy.clone(), Arc::clone(&terms.guards)));
        let cluster = Arc::new(Cluster::new((clients, finder), workers, (terms.clone(), read)));
        if let Some(replicas) = replicas {
            let control = WorkerId(u32::try_from(workers - 1).unwrap_or(u32::MAX));
            terms.tasks.background(lag::watch(Arc::downgrade(&cluster), control, replicas.max_lag));
        }
        Self::Cluster(cluster)
    }

    /// The answers to the commands, in their order.
    pub(super) async fn run(
        &self,
        worker: WorkerId,
        commands: Commands,
        deadline: Instant,
    ) -> Vec<Result<Reply, Error>> {
        match self {
            Self::Single(nodes) => of_worker(nodes, worker).request_all(&commands.all(), deadline).await,
            Self::Cluster(cluster) => cluster.run(worker, &commands, deadline).await,
        }
    }

    /// Whether the breaker of the key's server would let a read through now.
    pub(super) fn would_admit(&self, worker: WorkerId, key: &[u8]) -> bool {
        match self {
            Self::Single(nodes) => of_worker(nodes, worker).would_admit(),
            Self::Cluster(cluster) => cluster.would_admit(worker, Slot::of(key)),
        }
    }

    /// Whether every server's breaker refuses now.
    pub(super) fn is_unavailable(&self, worker: WorkerId, now: Instant) -> bool {
        match self {
            Self::Single(nodes) => of_worker(nodes, worker).refuses(now),
            Self::Cluster(cluster) => cluster.is_unavailable(now),
        }
    }

    /// Writes how far behind replicas are.
    pub(super) fn show(&self, now: Instant) {
        if let Self::Cluster(cluster) = self {
            cluster.show(now);
        }
    }

    /// How the servers stand that rows are read from, where replicas are.
    pub(super) fn shown(&self, now: Instant) -> Vec<ShardShown> {
        match self {
            Self::Single(_) => Vec::new(),
            Self::Cluster(cluster) => cluster.shown(now),
        }
    }

    pub(super) async fn connect(&self, worker: WorkerId) {
        let connecting = async {
            match self {
                Self::Single(nodes) => of_worker(nodes, worker).connect().await,
                Self::Cluster(cluster) => cluster.connect(worker).await,
            }
        };
        // Failures are logged where they happen; requests meet them again.
        let _ = timeout(PATIENCE, connecting).await;
    }

    /// Whether all of them answer now; the text says which does not.
    pub(super) async fn ready(&self, worker: WorkerId) -> Result<(), String> {
        let check = async {
            match self {
                Self::Single(nodes) => of_worker(nodes, worker).ping().await.map_err(|error| error.to_string()),
                Self::Cluster(cluster) => cluster.ready(worker).await,
            }
        };
        let checked = timeout(PATIENCE, check).await;
        checked.unwrap_or_else(|_| Err(format!("{}: no answer within {PATIENCE:?}", self.addresses(worker))))
    }

    pub(super) fn addresses(&self, worker: WorkerId) -> String {
        match self {
            Self::Single(nodes) => of_worker(nodes, worker).address().to_string(),
            Self::Cluster(cluster) => cluster.addresses(),
        }
    }

    /// The answer of the key's master to a question that is no request: around its guard, within [`PATIENCE`].
    pub(super) async fn ask(&self, worker: WorkerId, key: &[u8], command: Cmd) -> Result<Value, Error> {
        let asked = async {
            match self {
                Self::Single(nodes) => of_worker(nodes, worker).ask(command).await,
                Self::Cluster(cluster) => cluster.ask(worker, Slot::of(key), command).await,
            }
        };
        timeout(PATIENCE, asked).await.unwrap_or(Err(Error::TimedOut(PATIENCE)))
    }

    /// Has breakers that are open close again, where their servers are well: nobody else asks them.
    pub(super) async fn mend(&self, worker: WorkerId) {
        match self {
            Self::Single(nodes) => of_worker(nodes, worker).mend().await,
            Self::Cluster(cluster) => {
                join_all(cluster.masters(worker).iter().map(|master| master.mend())).await;
            }
        }
    }
}
