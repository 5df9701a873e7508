//! Masters that are found: a map from slots to masters, shared by all workers, and each worker's connections to them. Redis
//! Cluster tells its map; behind Sentinel it is one master for all slots.
//!
//! Commands go to the masters of their slots, one pipeline each, all at once. The map is learned from any server that
//! answers: at first use, when a server redirects or cannot be reached, and when it is old. A `MOVED` or `ASK` is followed
//! once, within the same timeout. An old map stays in use until a new one is learned: the masters that did not change answer.
//!
//! Reads that may be a little behind go to replicas, where the config says so (`replicas`); what those cannot say is asked of their
//! masters, within the same timeout.

mod map;
mod replicas;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use ::redis::{Client, Cmd, ServerErrorKind, Value};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    client,
    command::Commands,
    node::{Node, Role, Terms},
    of_worker,
    replicas::Replicas,
    reply::Reply,
    slots::Slot,
    topology::{self, Topology},
};
use crate::{features::l2::Error, infer::WorkerId};

/// A map older than this is learned anew by the next request, beside its work.
const OLD: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Client>,
    finder: Finder,
    terms: Terms,
    /// How replicas are asked: what they cannot say is left time for.
    replica_terms: Terms,
    /// How replicas are read; `None`: masters alone are.
    replicas: Option<Replicas>,
    /// How old a map may get.
    pub(super) relearn_after: Duration,
    map: watch::Sender<Map>,
    learning: AtomicBool,
    /// Each worker's own.
    nodes: Box<[Mutex<Nodes>]>,
}

/// By address, and what a server is asked as: a replica that was promoted is to redirect what is no longer its own.
type Nodes = HashMap<(Arc<str>, Role), Arc<Node>>;

/// Who is asked for the map.
#[derive(Debug)]
pub(super) enum Finder {
    /// Any server of the cluster.
    Members,
    /// Sentinels, for the master of this name.
    Sentinels(Arc<str>),
}

#[derive(Clone, Debug)]
pub(super) enum Map {
    /// Never asked for, or the first answer is on its way.
    Awaited,
    Known(Arc<Topology>),
    /// Nobody could be asked so far.
    Unknown(Error),
}

/// How a command is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Redirect {
    /// To the slot's master, as far as known.
    None,
    /// To a replica of that one.
    Replica,
    /// To its new master.
    Moved,
    /// To the master that a slot is moving to, for this command only.
    Ask,
}

/// Where a command goes: its position among all, the server, and why there.
type Route = (usize, Arc<str>, Redirect);

/// A server, and why it is asked.
type Target = (Arc<str>, Redirect);

/// The positions of the commands for each server.
fn by_server(routes: Vec<Route>) -> HashMap<Target, Vec<usize>> {
    let mut groups = HashMap::<_, Vec<usize>>::new();
    for (at, address, why) in routes {
        groups.entry((address, why)).or_default().push(at);
    }
    groups
}

impl Cluster {
    pub(super) fn new(
        (seeds, finder): (Vec<Client>, Finder),
        workers: usize,
        (terms, replicas): (Terms, Option<Replicas>),
    ) -> Self {
        let role = if matches!(finder, Finder::Members) { Role::ClusterReplica } else { Role::Replica };
        let replica_terms = Terms { timeout: terms.timeout * 3 / 5, role, ..terms.clone() };
        Self {
            seeds,
            finder,
            terms,
            replica_terms,
            replicas,
            relearn_after: OLD,
            map: watch::Sender::new(Map::Awaited),
            learning: AtomicBool::new(false),
            nodes: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    /// The answers to the commands, in their order.
    pub(super) async fn run(
        self: &Arc<Self>,
        worker: WorkerId,
        commands: &Commands,
        deadline: Instant,
    ) -> Vec<Result<Reply, Error>> {
        let late = || Error::TimedOut(self.terms.timeout);
        let known = timeout_at(deadline, self.topology(worker)).await.unwrap_or_else(|_| Err(late()));
        let topology = match known {
            Ok(topology) => topology,
            Err(error) => return vec![error; commands.len()].into_iter().map(Err).collect(),
        };
        let mut answers: Vec<_> = (0..commands.len()).map(|_| Err(late())).collect();
        let mut routes = Vec::with_capacity(commands.len());
        for (at, slot) in commands.slots().enumerate() {
            match topology.master(slot) {
                Some(master) => routes.push((at, Arc::clone(master), Redirect::None)),
                None => answers[at] = Err(self.uncovered()),
            }
        }
        if let Some(replicas) = &self.replicas {
            replicas::choose(replicas, (commands, &topology), &mut routes);
        }
        self.follow(worker, (commands, routes), (&mut answers, deadline)).await;
        if topology.learned.elapsed() > self.relearn_after || answers.iter().any(is_trouble) {
            self.learn(worker);
        }
        answers
    }

    /// Sends each command along its route, and once more where it is redirected to. Every server has answered, or failed, by
    /// the deadline; nobody waits for another's.
    async fn follow(
        self: &Arc<Self>,
        worker: WorkerId,
        (commands, routes): (&Commands, Vec<Route>),
        (answers, deadline): (&mut [Result<Reply, Error>], Instant),
    ) {
        let send = |(route, members): (_, Vec<usize>)| self.send(worker, (route, members), (commands, deadline));
        let mut sent: FuturesUnordered<_> = by_server(routes).into_iter().map(send).collect();
        while let Some(((address, why), members, replies)) = sent.next().await {
            if why == Redirect::Replica {
                let left = self.of_replica((&address, members, replies), (commands, answers));
                if left.iter().any(|(_, _, why)| *why == Redirect::Moved) {
                    self.learn(worker);
                }
                sent.extend(by_server(left).into_iter().map(send));
                continue;
            }
            let node = self.node(worker, &address, Role::Master);
            let mut redirected = Vec::new();
            for (at, reply) in members.into_iter().zip(replies) {
                if let Some((to, why)) = redirect(&reply, &address) {
                    redirected.push((at, to, why));
                }
                answers[at] = reply.and_then(|reply| node.answer(reply));
            }
            if redirected.iter().any(|(_, _, why)| *why == Redirect::Moved) {
                self.learn(worker);
            }
            if why == Redirect::None {
                sent.extend(by_server(redirected).into_iter().map(send));
            }
        }
    }

    /// The replies of one server to its members among the commands.
    async fn send(
        self: &Arc<Self>,
        worker: WorkerId,
        ((address, why), members): (Target, Vec<usize>),
        (commands, deadline): (&Commands, Instant),
    ) -> (Target, Vec<usize>, Vec<Result<Reply, Error>>) {
        let batch = if why == Redirect::Ask { commands.asking(&members) } else { commands.at(&members) };
        let (role, deadline) = match why {
            Redirect::Replica => (self.replicas_role(), deadline.min(Instant::now() + self.replica_terms.timeout)),
            _ => (Role::Master, deadline),
        };
        let replies = match self.node(worker, &address, role).request(&batch, deadline).await {
            Ok(replies) if why == Redirect::Ask => replies.into_iter().skip(1).step_by(2).map(Ok).collect(),
            Ok(replies) => replies.into_iter().map(Ok).collect(),
            Err(error) => vec![error; members.len()].into_iter().map(Err).collect(),
        };
        ((address, why), members, replies)
    }

    /// The map, once there is one; an error as soon as nobody could be asked.
    pub(super) async fn topology(self: &Arc<Self>, worker: WorkerId) -> Result<Arc<Topology>, Error> {
        if let Map::Known(topology) = &*self.map.borrow() {
            return Ok(Arc::clone(topology));
        }
        self.learn(worker);
        let mut map = self.map.subscribe();
        let settled = map.wait_for(|map| !matches!(map, Map::Awaited)).await;
        match &*settled.expect("the cluster holds the sender") {
            Map::Known(topology) => Ok(Arc::clone(topology)),
            Map::Unknown(error) => Err(error.clone()),
            Map::Awaited => unreachable!("waited for another state"),
        }
    }

    /// A client of the slot's master.
    pub(super) async fn client(self: &Arc<Self>, worker: WorkerId, slot: Slot) -> Result<Client, Error> {
        let topology = self.topology(worker).await?;
        topology
            .master(slot)
            .map(|master| self.node(worker, master, Role::Master).client())
            .ok_or_else(|| self.uncovered())
    }

    /// Whether it may have several masters.
    pub(super) const fn has_shards(&self) -> bool {
        matches!(self.finder, Finder::Members)
    }

    /// Whether its keys lie on several masters.
    pub(super) const fn has_many_masters(&self) -> bool {
        matches!(self.finder, Finder::Members)
    }

    /// The map, if one is known.
    pub(super) fn known_map(&self) -> Option<Arc<Topology>> {
        if let Map::Known(topology) = &*self.map.borrow() { Some(Arc::clone(topology)) } else { None }
    }

    /// A worker's own connection to a server.
    pub(super) fn node(&self, worker: WorkerId, address: &Arc<str>, role: Role) -> Arc<Node> {
        let mut nodes = lock(of_worker(&self.nodes, worker));
        let terms = if role == Role::Master { &self.terms } else { &self.replica_terms };
        let new = || Arc::new(Node::new(&self.client_at(address), terms));
        Arc::clone(nodes.entry((Arc::clone(address), role)).or_insert_with(new))
    }

    /// How a server is connected to.
    pub(super) fn client_at(&self, address: &str) -> Client {
        let seed = self.seeds.iter().find(|seed| *seed.get_connection_info().addr().to_string() == *address);
        seed.cloned().unwrap_or_else(|| client::at(&self.seeds[0], address))
    }

    pub(super) const fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.terms.tls.as_ref()
    }

    /// The map, whenever it is learned.
    pub(super) fn map(&self) -> watch::Receiver<Map> {
        self.map.subscribe()
    }

    /// Whether the breaker of the slot's master would let a request through now, or a replica is read; that of an unknown one might.
    pub(super) fn would_admit(&self, worker: WorkerId, slot: Slot) -> bool {
        let Map::Known(topology) = &*self.map.borrow() else { return true };
        let has_replica = || topology.shard(slot).is_some_and(|shard| self.reads_replica(shard, Instant::now()));
        topology
            .master(slot)
            .is_none_or(|master| self.node(worker, master, Role::Master).would_admit() || has_replica())
    }

    /// Whether the breaker of every master refuses now, and no replica is read. While it is not known who they are, and nobody could tell so far, there
    /// is nobody to ask; that is looked for until it is known.
    pub(super) fn is_unavailable(&self, now: Instant) -> bool {
        match &*self.map.borrow() {
            Map::Known(topology) => {
                topology.masters.iter().all(|master| self.terms.guards.refuses(master, now))
                    && !topology.shards.iter().any(|shard| self.reads_replica(shard, now))
            }
            Map::Unknown(_) => true,
            Map::Awaited => false,
        }
    }

    /// The answer of the slot's master to a question that is no request: around its guard, and without bound.
    pub(super) async fn ask(self: &Arc<Self>, worker: WorkerId, slot: Slot, command: Cmd) -> Result<Value, Error> {
        let topology = self.topology(worker).await?;
        let master = topology.master(slot).ok_or_else(|| self.uncovered())?;
        self.node(worker, master, Role::Master).ask(command).await
    }

    /// The masters, as far as they are known.
    pub(super) fn masters(&self, worker: WorkerId) -> Vec<Arc<Node>> {
        let Map::Known(topology) = self.map.borrow().clone() else { return Vec::new() };
        topology.masters.iter().map(|master| self.node(worker, master, Role::Master)).collect()
    }

    pub(super) async fn connect(self: &Arc<Self>, worker: WorkerId) {
        if let Ok(topology) = self.topology(worker).await {
            let masters = topology.masters.iter().map(|master| (master, Role::Master));
            let read = topology.shards.iter().flat_map(|shard| &shard.replicas);
            let replicas = read.map(|replica| (&replica.address, self.replicas_role()));
            let connect = |(address, role)| async move { self.node(worker, address, role).connect().await };
            join_all(masters.chain(replicas).map(connect)).await;
        }
    }

    pub(super) async fn ready(self: &Arc<Self>, worker: WorkerId) -> Result<(), String> {
        let topology = self.topology(worker).await.map_err(|error| error.to_string())?;
        if let Some((first, last)) = topology.gap() {
            self.learn(worker);
            return Err(format!("cluster {}: no master covers slots {first}-{last}", self.addresses()));
        }
        let pings =
            topology.masters.iter().map(|master| async { self.node(worker, master, Role::Master).ping().await });
        let failed = join_all(pings).await.into_iter().find_map(Result::err);
        failed.map_or(Ok(()), |error| {
            self.learn(worker);
            Err(error.to_string())
        })
    }

    /// The seeds, for messages.
    pub(super) fn addresses(&self) -> String {
        let addresses: Vec<String> =
            self.seeds.iter().map(|seed| seed.get_connection_info().addr().to_string()).collect();
        addresses.join(", ")
    }

    fn uncovered(&self) -> Error {
        Error::Refused { address: self.addresses().into(), why: "no master covers the key's slot".into() }
    }
}

/// Whether an answer may mean that its server is replaced: it is gone, hangs, or says that it is not the one.
fn is_trouble(answer: &Result<Reply, Error>) -> bool {
    match answer {
        Err(Error::Unreachable { .. } | Error::TimedOut(_) | Error::Open { .. }) => true,
        Err(Error::Refused { why, .. }) => {
            ["READONLY", "MASTERDOWN", "CLUSTERDOWN"].iter().any(|code| why.starts_with(code))
        }
        _ => false,
    }
}

/// Where the server that answered says to go.
fn redirect(reply: &Result<Reply, Error>, from: &str) -> Option<(Arc<str>, Redirect)> {
    let Ok(Reply::Refusal(error)) = reply else { return None };
    let why = match error.kind()? {
        ServerErrorKind::Moved => Redirect::Moved,
        ServerErrorKind::Ask => Redirect::Ask,
        _ => return None,
    };
    let to = error.details()?.split_ascii_whitespace().nth(1)?;
    let (host, port) = to.rsplit_once(':')?;
    Some((topology::address(host, port, from)?.into(), why))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held; were it so, the map would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{super::PATIENCE, *};
    use crate::{
        app::Tasks,
        features::{redis::guard::Guards, tests::breaker},
    };

    #[tokio::test]
    async fn it_is_unavailable_where_every_master_refuses_or_none_can_be_found() {
        let seed = Client::open("redis://seed.example:1").unwrap();
        let guards = Arc::new(Guards::new(&breaker(), 8));
        let (timeout, tasks) = (Duration::ZERO, Tasks::default());
        let terms =
            Terms { timeout, connections: 1, guards: Arc::clone(&guards), tls: None, role: Role::Master, tasks };
        let cluster = Cluster::new((vec![seed], Finder::Members), 1, (terms, None));
        let now = Instant::now();
        assert!(!cluster.is_unavailable(now), "nobody has asked yet");
        cluster.map.send_replace(Map::Unknown(Error::TimedOut(PATIENCE)));
        assert!(cluster.is_unavailable(now));
        let masters: Vec<Arc<str>> = vec!["h:1".into(), "h:2".into()];
        let mut topology = Topology::of("h:1".into(), Vec::new(), now);
        topology.masters.clone_from(&masters);
        cluster.map.send_replace(Map::Known(Arc::new(topology)));
        let mut kept = Vec::new();
        for (master, expected) in masters.iter().zip([false, true]) {
            let guard = guards.of(master);
            for _ in 0..breaker().failure_threshold {
                guard.admit().unwrap().record(&Err(Error::TimedOut(PATIENCE)));
            }
            kept.push(guard);
            assert_eq!(cluster.is_unavailable(Instant::now()), expected, "{master}");
        }
        assert!(!cluster.is_unavailable(Instant::now() + breaker().open_for));
    }

    #[test]
    fn a_redirect_without_a_host_stays_at_the_server_that_gave_it() {
        let said = |line: &str| Ok(Reply::said(&format!("-{line}")));
        for (line, to) in [
            ("MOVED 3999 127.0.0.1:6381", "127.0.0.1:6381"),
            ("MOVED 3999 :6381", "seed.example:6381"),
            ("ASK 3999 ?:6381", "seed.example:6381"),
        ] {
            let (address, why) = redirect(&said(line), "seed.example:1").unwrap();
            assert_eq!(&*address, to);
            assert_eq!(why == Redirect::Ask, line.starts_with("ASK"));
        }
        for line in
            ["ERR no", "MOVED 3999 h:port", "MOVED 3999 h:0", "ASK 3999 h:65536", "MOVED 3999 h:", "MOVED 3999 h"]
        {
            assert!(redirect(&said(line), "seed.example:1").is_none(), "{line}: an error, and not another server");
        }
    }
}
