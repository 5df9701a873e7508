//! The part of a cluster's requests that replicas have: which commands they are sent, and what becomes of what they say.

use std::sync::Arc;

use ::redis::ServerErrorKind;
use tokio::time::Instant;

use super::{
    super::{
        command::{Commands, From},
        guard,
        node::{self, Role},
        replicas::{Replicas, Shard, ShardShown},
        reply::Reply,
        topology::Topology,
    },
    Cluster, Map, Redirect, Route, redirect,
};
use crate::{features::l2::Error, infer::WorkerId, telemetry::handles::redis::Read};

impl Cluster {
    /// Takes a replica's replies. Returns what it could not say: to its master, or to whom it names.
    pub(super) fn of_replica(
        &self,
        (address, members, replies): (&Arc<str>, Vec<usize>, Vec<Result<Reply, Error>>),
        (commands, answers): (&Commands, &mut [Result<Reply, Error>]),
    ) -> Vec<Route> {
        let Map::Known(topology) = self.map.borrow().clone() else { return Vec::new() };
        let (mut left, mut counts) = (Vec::new(), [0; Read::COUNT]);
        for (at, reply) in members.into_iter().zip(replies) {
            let read = read_of(&reply);
            counts[read as usize] += 1;
            let master = || topology.master(commands.slot(at)).cloned();
            match redirect(&reply, address) {
                Some((to, why)) => left.push((at, to, why)),
                None if read != Read::Answered => left.extend(master().map(|to| (at, to, Redirect::None))),
                None => {}
            }
            // Also what is to be asked again: whoever does not cover its slot any more has said so.
            answers[at] = reply.and_then(|reply| node::told(address, reply));
        }
        if let Some(replicas) = &self.replicas {
            Read::ALL.into_iter().for_each(|read| replicas.count(read, counts[read as usize]));
        }
        left
    }

    /// What replicas are asked as.
    pub(in crate::features::redis) const fn replicas_role(&self) -> Role {
        self.replica_terms.role
    }

    /// The servers that are read. Has them learned anew where nobody did of late: whoever is asked nothing learns of nobody new.
    pub(in crate::features::redis) fn shards(self: &Arc<Self>, worker: WorkerId) -> Vec<Arc<Shard>> {
        let Map::Known(topology) = self.map.borrow().clone() else {
            self.learn(worker);
            return Vec::new();
        };
        if topology.learned.elapsed() > self.relearn_after {
            self.learn(worker);
        }
        topology.shards.clone()
    }

    pub(super) fn reads_replica(&self, shard: &Shard, now: Instant) -> bool {
        self.replicas.as_ref().is_some_and(|replicas| shard.has_replica(replicas.max_lag(), now))
    }

    /// How the servers stand that rows are read from; none, where replicas are not read or the map is not known.
    pub(in crate::features::redis) fn shown(&self, now: Instant) -> Vec<ShardShown> {
        match (&*self.map.borrow(), &self.replicas) {
            (Map::Known(topology), Some(replicas)) => {
                topology.shards.iter().map(|of| replicas.shown(of, now)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Writes how far behind replicas are.
    pub(in crate::features::redis) fn show(&self, now: Instant) {
        if let Map::Known(topology) = &*self.map.borrow() {
            topology.shards.iter().for_each(|shard| shard.show(now));
        }
    }
}

/// Sends reads that may be behind to replicas, all of a shard's to the same.
pub(super) fn choose(replicas: &Replicas, (commands, topology): (&Commands, &Topology), routes: &mut [Route]) {
    let now = Instant::now();
    let mut chosen: Vec<(&Arc<str>, Option<&Arc<str>>)> = Vec::new();
    for at in 0..routes.len() {
        let slot = commands.slot(routes[at].0);
        let Some(shard) = topology.shard(slot).filter(|_| commands.from(routes[at].0) == From::Replicas) else {
            continue;
        };
        let master = &shard.primary.address;
        let known = chosen.iter().find(|(of, _)| *of == master).map(|(_, replica)| *replica);
        let replica = known.unwrap_or_else(|| {
            let may_lag = |(at, to, _): &&Route| to == master && commands.from(*at) == From::Replicas;
            let rows = routes[at..].iter().filter(may_lag).count() as u64;
            let replica = replicas.choose(shard, (rows, rand::random()), now);
            chosen.push((master, replica));
            replica
        });
        if let Some(replica) = replica {
            (routes[at].1, routes[at].2) = (Arc::clone(replica), Redirect::Replica);
        }
    }
}

/// What a replica's reply is worth. It cannot be known of an absence whether there is a row: only its master can say that.
fn read_of(reply: &Result<Reply, Error>) -> Read {
    match reply {
        Ok(Reply::Row(Ok(None))) => Read::Absent,
        Ok(Reply::Refusal(error)) if error.kind() == Some(ServerErrorKind::Moved) => Read::Moved,
        Ok(reply) if guard::is_out_of_service(reply) => Read::Failed,
        Ok(_) => Read::Answered,
        Err(_) => Read::Failed,
    }
}
