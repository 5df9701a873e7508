//! Masters that are found: a map from slots to masters, shared by all workers, and each worker's connections to them. Redis
//! Cluster tells its map; behind Sentinel it is one master for all slots.
//!
//! Commands go to the masters of their slots, one pipeline each, all at once. The map is learned from any server that
//! answers: at first use, when a server redirects or cannot be reached, and when it is old. A `MOVED` or `ASK` is followed
//! once, within the same timeout. An old map stays in use until a new one is learned: the masters that did not change answer.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::{Client, ServerErrorKind};
use futures_util::{
    StreamExt,
    future::{join_all, select_ok},
    stream::FuturesUnordered,
};
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    PATIENCE, client,
    command::Commands,
    line,
    node::{Node, Terms},
    of_worker,
    reply::Reply,
    sentinel,
    slots::Slot,
    topology::{self, Topology},
};
use crate::{features::l2::Error, infer::WorkerId};

/// A map older than this is learned anew by the next request, beside its work.
const OLD: Duration = Duration::from_secs(10);
/// A map is not learned more often than this, however many redirects come.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Client>,
    finder: Finder,
    terms: Terms,
    /// How old a map may get.
    pub(super) relearn_after: Duration,
    map: watch::Sender<Map>,
    learning: AtomicBool,
    /// Each worker's own, by address.
    nodes: Box<[Mutex<Nodes>]>,
}

type Nodes = HashMap<Arc<str>, Arc<Node>>;

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
    pub(super) fn new((seeds, finder): (Vec<Client>, Finder), workers: usize, terms: Terms) -> Self {
        Self {
            seeds,
            finder,
            terms,
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
            let node = self.node(worker, &address);
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
        let replies = match self.node(worker, &address).request(&batch, deadline).await {
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
        topology.master(slot).map(|master| self.node(worker, master).client()).ok_or_else(|| self.uncovered())
    }

    /// Whether it may have several masters.
    pub(super) const fn has_shards(&self) -> bool {
        matches!(self.finder, Finder::Members)
    }

    /// Learns the map in the background, unless somebody does.
    pub(super) fn learn(self: &Arc<Self>, worker: WorkerId) {
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
    fn take(&self, topology: Topology) {
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
                sentinel::confirm(&self.node(worker, &master)).await?;
                Ok(Topology::of(master, Instant::now()))
            })
        });
        select_ok(asked).await.map(|(topology, _)| topology)
    }

    /// Asks all known servers at once; the first that answers is believed.
    async fn ask_members(self: &Arc<Self>, worker: WorkerId) -> Result<Topology, Error> {
        let asked = self.known().into_iter().map(|address| {
            Box::pin(async move {
                let node = self.node(worker, &address);
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
        for worker in 0..self.nodes.len() {
            lock(&self.nodes[worker]).retain(|address, _| kept.contains(address));
        }
    }

    /// A worker's own connection to a server.
    fn node(&self, worker: WorkerId, address: &Arc<str>) -> Arc<Node> {
        let mut nodes = lock(of_worker(&self.nodes, worker));
        let new = || Arc::new(Node::new(&self.client_at(address), &self.terms));
        Arc::clone(nodes.entry(Arc::clone(address)).or_insert_with(new))
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

    /// Whether the breaker of the slot's master would let a request through now; that of an unknown one might.
    pub(super) fn would_admit(&self, worker: WorkerId, slot: Slot) -> bool {
        let Map::Known(topology) = &*self.map.borrow() else { return true };
        topology.master(slot).is_none_or(|master| self.node(worker, master).would_admit())
    }

    /// Whether the breaker of every master refuses now. While it is not known who they are, and nobody could tell so far, there
    /// is nobody to ask; that is looked for until it is known.
    pub(super) fn is_unavailable(&self, now: Instant) -> bool {
        match &*self.map.borrow() {
            Map::Known(topology) => topology.masters.iter().all(|master| self.terms.guards.refuses(master, now)),
            Map::Unknown(_) => true,
            Map::Awaited => false,
        }
    }

    pub(super) async fn connect(self: &Arc<Self>, worker: WorkerId) {
        if let Ok(topology) = self.topology(worker).await {
            join_all(topology.masters.iter().map(|master| async { self.node(worker, master).connect().await })).await;
        }
    }

    pub(super) async fn ready(self: &Arc<Self>, worker: WorkerId) -> Result<(), String> {
        let topology = self.topology(worker).await.map_err(|error| error.to_string())?;
        if let Some((first, last)) = topology.gap() {
            self.learn(worker);
            return Err(format!("cluster {}: no master covers slots {first}-{last}", self.addresses()));
        }
        let pings = topology.masters.iter().map(|master| async { self.node(worker, master).ping().await });
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

/// Who learns now; the next may when it is dropped, also by a runtime that ends.
struct Turn(Arc<Cluster>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.learning.store(false, Ordering::Release);
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
    use super::*;
    use crate::{
        app::Tasks,
        features::{redis::guard::Guards, tests::breaker},
    };

    #[tokio::test]
    async fn it_is_unavailable_where_every_master_refuses_or_none_can_be_found() {
        let seed = Client::open("redis://seed.example:1").unwrap();
        let guards = Arc::new(Guards::new(&breaker(), 8));
        let (timeout, tasks) = (Duration::ZERO, Tasks::default());
        let terms = Terms { timeout, connections: 1, guards: Arc::clone(&guards), tls: None, tasks };
        let cluster = Cluster::new((vec![seed], Finder::Members), 1, terms);
        let now = Instant::now();
        assert!(!cluster.is_unavailable(now), "nobody has asked yet");
        cluster.map.send_replace(Map::Unknown(Error::TimedOut(PATIENCE)));
        assert!(cluster.is_unavailable(now));
        let masters: Vec<Arc<str>> = vec!["h:1".into(), "h:2".into()];
        let mut topology = Topology::of("h:1".into(), now);
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
