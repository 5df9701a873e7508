//! Who is listened to: every master there is, each over a connection of its own, whatever becomes of them.
//!
//! ```text
//! map of masters ─► one ear a master ─► what it tells ─► rows dropped
//!       ▲                 └─ lost ─► learned anew, and listened to again ─► what was missed is dropped: all rows of its slots
//!       └── learned every few seconds, and at once while anybody is not heard
//! ```
//!
//! A row is vouched for by the master of its slot, from when that one is listened to and known to be the slot's master. So
//! whenever that begins (a first connection, another one after a loss, a slot that has come to a master) the rows of those slots
//! that were fetched before go, and those of other masters stay: a failover costs the rows of one shard, not all.
//!
//! While a master is not heard, its rows go on until their `ttl`, as they do without tracking.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use ::redis::Client;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Redis, Servers,
    cluster::Cluster,
    ear::{Deaf, Ear},
    echo::Echoes,
    line, of_worker,
    slots::SlotSet,
    topology::Topology,
};
use crate::{infer::WorkerId, telemetry::handles::invalidation::Channel as Handles};

/// How often the masters are looked for while all are heard: a slot may have moved to one that nobody listens to.
const RELEARN: Duration = Duration::from_secs(5);
/// How often while one is not, or the views are looked at.
const AGAIN: Duration = Duration::from_secs(1);

/// Who is told what is heard.
pub(crate) trait Hearer: Sync {
    /// What the keys begin with that it is to be told of; none begins as another.
    fn prefixes(&self) -> Vec<Box<[u8]>>;

    /// These keys were changed.
    fn changed(&self, keys: &[Box<[u8]>]) -> impl Future<Output = ()> + Send;

    /// Any key of these slots (`None`: of all) may have been changed. From now on it is told.
    fn missed(&self, slots: Option<Arc<SlotSet>>) -> impl Future<Output = ()> + Send;

    /// All keys were changed.
    fn flushed(&self) -> impl Future<Output = ()> + Send;
}

/// How the servers stand that are listened to.
#[derive(Debug)]
pub(crate) struct Tracking {
    standings: watch::Sender<Standings>,
    echoes: Echoes,
    handles: Handles,
}

/// By address.
type Standings = BTreeMap<Arc<str>, Standing>;

/// Whether a server is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is being connected to for the first time.
    Awaited,
    Heard,
    /// Why not.
    Deaf(Arc<str>),
}

/// A master that is listened to.
struct Member {
    slots: watch::Sender<Arc<SlotSet>>,
    end: CancellationToken,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Tracking {
    pub(super) fn new() -> Self {
        Self {
            standings: watch::Sender::new(Standings::new()),
            echoes: Echoes::new(Instant::now()),
            handles: Handles::new("tracking"),
        }
    }

    /// This gateway writes the key now.
    pub(super) fn sent(&self, key: &[u8]) {
        self.echoes.sent(key, Instant::now());
    }

    /// That left it as it was.
    pub(super) fn wrote_nothing(&self, key: &[u8]) {
        self.echoes.forget(key);
    }

    /// Whether all there are are heard.
    pub(crate) fn is_up(&self) -> bool {
        is_up(&self.standings.borrow())
    }

    /// Every server, and how it stands.
    pub(crate) fn standings(&self) -> Vec<(Arc<str>, Standing)> {
        self.standings.borrow().iter().map(|(address, standing)| (Arc::clone(address), standing.clone())).collect()
    }

    /// Returns once all there are are heard.
    pub(crate) async fn up(&self) {
        // This holds the sender.
        let _ = self.standings.subscribe().wait_for(is_up).await;
    }

    /// Returns once all were heard, and one is not any more.
    async fn lost(&self) {
        let mut standings = self.standings.subscribe();
        // This holds the sender.
        let _ = standings.wait_for(is_up).await;
        let _ = standings.wait_for(|standings| !is_up(standings)).await;
    }

    fn stands(&self, address: &Arc<str>, standing: Standing) {
        let mut before = None;
        self.standings.send_modify(|standings| before = standings.insert(Arc::clone(address), standing.clone()));
        match (&before, &standing) {
            (Some(Standing::Heard), Standing::Heard) | (Some(Standing::Deaf(_)), Standing::Deaf(_)) => {}
            (_, Standing::Heard) => tracing::info!(redis = %address, "changes of rows are heard of"),
            (was, Standing::Deaf(why)) => {
                tracing::warn!(redis = %address, %why, "changes of rows are not heard of: cached rows go on until their ttl");
                if *was == Some(Standing::Heard) {
                    self.handles.lost();
                }
            }
            (_, Standing::Awaited) => {}
        }
        self.handles.show(self.is_up());
    }

    fn forget(&self, address: &str) {
        self.standings.send_modify(|standings| _ = standings.remove(address));
        self.handles.show(self.is_up());
    }

    fn clear(&self) {
        self.standings.send_modify(Standings::clear);
        self.handles.show(false);
    }

    /// Tells on what is heard, until nothing is any more.
    async fn hear(&self, mut ear: Ear, hearer: &impl Hearer) -> Deaf {
        loop {
            let heard = match ear.next().await {
                Ok(heard) => heard,
                Err(deaf) => return deaf,
            };
            if heard.flushed {
                hearer.flushed().await;
            }
            if !heard.keys.is_empty() {
                hearer.changed(&heard.keys).await;
                let now = Instant::now();
                let delays = heard.keys.iter().filter_map(|key| self.echoes.heard(key, now));
                delays.for_each(|delay| self.handles.dropped_after(delay));
            }
        }
    }

    /// Listens to one server, and again whenever it was lost.
    async fn attend(
        &self,
        (address, client, tls): (Arc<str>, Client, Option<Arc<ClientConfig>>),
        (prefixes, hearer): (&[Box<[u8]>], &impl Hearer),
        slots: impl Fn() -> Option<Arc<SlotSet>> + Sync,
    ) {
        self.stands(&address, Standing::Awaited);
        let mut failures = 0;
        loop {
            let deaf = match Ear::open(&client, tls.as_ref(), prefixes).await {
                Ok(ear) => {
                    failures = 0;
                    self.echoes.clear();
                    hearer.missed(slots()).await;
                    self.stands(&address, Standing::Heard);
                    self.hear(ear, hearer).await
                }
                Err(deaf) => deaf,
            };
            self.stands(&address, Standing::Deaf(chain(&deaf).into()));
            sleep(line::backoff(failures, rand::random())).await;
            failures += 1;
        }
    }
}

fn is_up(standings: &Standings) -> bool {
    !standings.is_empty() && standings.values().all(|standing| *standing == Standing::Heard)
}

/// What it says, and why.
fn chain(deaf: &Deaf) -> String {
    let mut words = deaf.to_string();
    let mut source = std::error::Error::source(deaf);
    while let Some(error) = source {
        let told = error.to_string();
        // The driver's errors say their cause themselves.
        if !words.ends_with(&told) {
            words = format!("{words}: {told}");
        }
        source = error.source();
    }
    words
}

/// Listens, on behalf of all snapshots.
pub(crate) struct Listener {
    servers: Arc<Servers>,
    tracking: Arc<Tracking>,
    control: WorkerId,
}

impl Redis {
    /// How listening stands; `None`: nobody is to be listened to.
    pub(crate) const fn tracking(&self) -> Option<&Arc<Tracking>> {
        self.tracking.as_ref()
    }

    /// What listens, where somebody is to be listened to.
    pub(crate) fn listener(&self) -> Option<Listener> {
        let tracking = Arc::clone(self.tracking.as_ref()?);
        Some(Listener { servers: Arc::clone(&self.servers), tracking, control: self.control })
    }
}

impl Listener {
    /// Listens to whoever is master; never returns.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is heard any more.
    pub(crate) async fn run(self, hearer: &impl Hearer) {
        loop {
            let prefixes = hearer.prefixes();
            let other = async {
                while hearer.prefixes() == prefixes {
                    sleep(AGAIN).await;
                }
            };
            tokio::select! {
                () = self.listen_for(&prefixes, hearer), if !prefixes.is_empty() => {}
                // Other keys are to be told of: all begins anew.
                () = other => self.tracking.clear(),
            }
        }
    }

    async fn listen_for(&self, prefixes: &[Box<[u8]>], hearer: &impl Hearer) {
        let tracking = &*self.tracking;
        match &*self.servers {
            Servers::Single(nodes) => {
                let node = of_worker(nodes, self.control);
                let server = (Arc::clone(node.address()), node.client(), node.tls().cloned());
                tracking.attend(server, (prefixes, hearer), || None).await;
            }
            Servers::Cluster(cluster) => {
                let (members, ears) = (HashMap::new(), FuturesUnordered::new());
                let masters = Masters { tracking, cluster, prefixes, hearer, members, ears };
                masters.follow(self.control).await;
            }
        }
    }
}

/// All masters of a cluster, or the one that sentinels name.
struct Masters<'a, H> {
    tracking: &'a Tracking,
    cluster: &'a Arc<Cluster>,
    prefixes: &'a [Box<[u8]>],
    hearer: &'a H,
    members: HashMap<Arc<str>, Member>,
    ears: FuturesUnordered<BoxFuture<'a, ()>>,
}

impl<'a, H: Hearer> Masters<'a, H> {
    async fn follow(mut self, worker: WorkerId) {
        let mut map = self.cluster.map();
        loop {
            if let Ok(topology) = self.cluster.topology(worker).await {
                self.take(&topology).await;
            }
            let again = if self.tracking.is_up() { RELEARN } else { AGAIN };
            tokio::select! {
                _ = self.ears.next(), if !self.ears.is_empty() => {}
                _ = map.changed() => {}
                () = self.tracking.lost() => self.cluster.learn(worker),
                () = sleep(again) => self.cluster.learn(worker),
            }
        }
    }

    /// Listens to who is master now, and no longer to who is not.
    async fn take(&mut self, topology: &Topology) {
        let (tracking, is_master) = (self.tracking, |address: &Arc<str>| topology.masters.contains(address));
        self.members.retain(|address, _| {
            is_master(address) || {
                tracking.forget(address);
                false
            }
        });
        for (at, address) in topology.masters.iter().enumerate() {
            let slots = topology.slots_of(at);
            let Some(member) = self.members.get(address) else {
                self.add(address, slots);
                continue;
            };
            let gained = slots.without(&member.slots.borrow());
            member.slots.send_replace(Arc::new(slots));
            if let Some(gained) = gained {
                self.hearer.missed(Some(Arc::new(gained))).await;
            }
        }
    }

    fn add(&mut self, address: &Arc<str>, slots: SlotSet) {
        let (slots, its) = watch::channel(Arc::new(slots));
        let end = CancellationToken::new();
        let server = (Arc::clone(address), self.cluster.client_at(address), self.cluster.tls().cloned());
        let (tracking, heard, ended) = (self.tracking, (self.prefixes, self.hearer), end.clone());
        self.ears.push(Box::pin(async move {
            let attending = tracking.attend(server, heard, move || Some(Arc::clone(&its.borrow())));
            ended.run_until_cancelled_owned(attending).await;
        }));
        self.members.insert(Arc::clone(address), Member { slots, end });
    }
}

#[cfg(test)]
mod tests;
