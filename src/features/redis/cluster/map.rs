//! How a cluster's map is learned: from whichever server, or sentinel, answers first, one time after another until it is known.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::select_ok;
use tokio::time::{Instant, sleep, timeout};

use super::{
    super::{PATIENCE, line, node::Role, sentinel, topology::Topology},
    Cluster, Finder, Map, lock,
};
use crate::{features::l2::Error, infer::WorkerId};

/// A map is not learned more often than this, however many redirects come.
const REST: Duration = Duration::from_millis(100);

impl Cluster {
    /// Learns the map in the background, unless somebody does.
    pub(in crate::features::redis) fn learn(self: &Arc<Self>, worker: WorkerId) {
        if !self.learning.swap(true, Ordering::AcqRel) {
            let turn = Turn(Arc::clone(self));
            self.terms.tasks.background(async move { turn.0.learn_until_known(worker).await });
        }
    }

    async fn learn_until_known(self: &Arc<Self>, worker: WorkerId) {
        for failures in 0.. {
            match self.ask_around(worker).await {
                Ok(topology) => {
                    self.forget_others(&topology);
                    self.take(topology);
                    return sleep(REST).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot learn which redis servers are masters");
                    self.map.send_if_modified(|map| {
                        let unknown = !matches!(map, Map::Known(_));
                        if unknown {
                            *map = Map::Unknown(error);
                        }
                        unknown
                    });
                }
            }
            sleep(line::backoff(failures, rand::random())).await;
        }
    }

    /// Replaces the map. Where it changed, a master that was given up in the old one is worth another look.
    fn take(&self, mut topology: Topology) {
        if let Some(replicas) = &self.replicas {
            let old = self.map.borrow().clone();
            let old = if let Map::Known(old) = &old { Some(&**old) } else { None };
            topology.shards = replicas.shards(&topology, old);
        }
        let topology = Arc::new(topology);
        let old = self.map.send_replace(Map::Known(Arc::clone(&topology)));
        if !matches!(old, Map::Known(old) if old.is_like(&topology)) {
            topology.masters.iter().for_each(|master| self.terms.guards.of(master).found_well());
        }
    }

    async fn ask_around(self: &Arc<Self>, worker: WorkerId) -> Result<Topology, Error> {
        match &self.finder {
            Finder::Members => self.ask_members(worker).await,
            Finder::Sentinels(name) => self.ask_sentinels(worker, name).await,
        }
    }

    /// Asks all sentinels at once; the first is believed that names a server which is a master.
    async fn ask_sentinels(self: &Arc<Self>, worker: WorkerId, name: &str) -> Result<Topology, Error> {
        let asked = self.seeds.iter().map(|seed| {
            Box::pin(async move {
                let master = sentinel::named(seed, name).await?;
                sentinel::confirm(&self.node(worker, &master, Role::Master)).await?;
                let replicas = if self.replicas.is_some() { sentinel::replicas(seed, name).await? } else { Vec::new() };
                Ok(Topology::of(master, replicas, Instant::now()))
            })
        });
        select_ok(asked).await.map(|(topology, _)| topology)
    }

    /// Asks all known servers at once; the first that answers is believed.
    async fn ask_members(self: &Arc<Self>, worker: WorkerId) -> Result<Topology, Error> {
        let asked = self.known().into_iter().map(|address| {
            Box::pin(async move {
                let node = self.node(worker, &address, Role::Master);
                let cmd = ::redis::cmd("CLUSTER").arg("SLOTS").take();
                let asked = timeout(PATIENCE, node.ask(cmd)).await;
                let answer = asked.unwrap_or(Err(Error::TimedOut(PATIENCE)))?;
                let refused = || Error::Refused { address: Arc::clone(&address), why: "covers no slots".into() };
                Topology::read(&answer, &address, Instant::now()).ok_or_else(refused)
            })
        });
        select_ok(asked).await.map(|(topology, _)| topology)
    }

    /// The masters known, and the seeds.
    fn known(&self) -> HashSet<Arc<str>> {
        let masters = match &*self.map.borrow() {
            Map::Known(topology) => topology.masters.to_vec(),
            Map::Awaited | Map::Unknown(_) => Vec::new(),
        };
        self.seeds.iter().map(|seed| seed.get_connection_info().addr().to_string().into()).chain(masters).collect()
    }

    /// Drops connections to servers that are neither masters nor seeds.
    fn forget_others(&self, topology: &Topology) {
        let mut kept = self.known();
        kept.extend(topology.masters.iter().cloned());
        let replicas: HashSet<_> = topology.replicas.iter().flatten().collect();
        let keeps = |address: &Arc<str>, role: Role| match role {
            Role::Master => kept.contains(address),
            Role::Replica | Role::ClusterReplica => replicas.contains(address),
        };
        for worker in 0..self.nodes.len() {
            lock(&self.nodes[worker]).retain(|(address, role), _| keeps(address, *role));
        }
    }
}

/// Who learns now; the next may when it is dropped, also by a runtime that ends.
struct Turn(Arc<Cluster>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.learning.store(false, Ordering::Release);
    }
}
