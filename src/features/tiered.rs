//! The layers as one: L1, then L2, then L3, within the time that the plan gives.
//!
//! ```text
//! fetch ─► keys ─► L1 ──all fresh──────────────────────────────► FeatureSet
//!                   └─► flights ─► L2 ─► L3     each (view, key) is fetched once, whoever asks
//!                          ▲        one task for all keys a request leads; it goes on when the request is gone
//!                          └─ the request waits until `plan.features_by`, then takes stale rows or defaults
//! ```
//!
//! A lookup never fails because a store does: rows that could not be had become defaults, and the set says so. What a request
//! gives wrongly (a missing entity, another type) is the caller's error.

mod again;
mod beyond;
mod fly;
mod hot;
mod invalidate;
mod joins;
mod lookup;
mod notices;
mod observe;
pub(crate) mod online;
mod pace;
#[cfg(any(test, feature = "bench"))]
pub mod sample;
mod settle;
mod signals;
mod strong;
mod warm;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::Semaphore, time::Instant};

pub use self::signals::Signals;
use self::{
    fly::Flight,
    hot::Heeded,
    joins::Join,
    lookup::{How, Lookup},
    notices::Notices,
    pace::Pace,
    signals::Lookups,
    strong::{Snapshots, TermFlights},
};
use super::{
    FeatureSet,
    embedded::Embedded,
    hot_keys::HotKeys,
    invalidate::keys::Keys,
    l2::{Ask, L2, Order},
    lease::{Keeps, Leases, Meeting},
    memory::Memory,
    object,
    redis::Redis,
    served::Served,
};
use crate::{
    app::Tasks,
    config::{self, Compat, Config, L1Mode, View},
    infer::{Error, InferRequest, Kind, Payload, Plan, WorkerId},
    resilience::{backoff::Retry, breaker::Policy, budget::Budget, flight::Flights},
    telemetry::handles::features::{Features as Handles, Layer},
};

/// Reads from L3 under way, of all workers together; more wait their turn, no longer than a read may take. Half of what the
/// object store's own bulkhead refuses beyond, because a read that was given up goes on there.
const L3_READS: usize = 128;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// The feature store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    project: Arc<str>,
    /// By model.
    joins: Box<[Box<[Join]>]>,
    views: Vec<Arc<View>>,
    /// What a stored row holds up when a newer one is pushed.
    order: Order,
    /// Most rows of a request.
    max_rows: usize,
    /// Which rows lie under a key of Redis.
    keys: Keys,
    l1: Memory,
    l1_mode: L1Mode,
    /// Where hot keys are looked for.
    hot: Option<Heeded>,
    l2: L2,
    l3: Option<L3>,
    flights: Arc<Flights<fly::Id, fly::Progress>>,
    /// Those of `write_through` rows.
    strong: TermFlights,
    /// How such rows are changed and kept. Shared by all snapshots.
    leases: Arc<Leases>,
    snapshots: Snapshots,
    /// How L2 is asked again.
    retry: Retry,
    /// How often, over all lookups. Shared by all snapshots.
    budget: Arc<Budget>,
    metrics: Handles,
    /// Shared by all snapshots.
    lookups: Arc<Lookups>,
    notices: Notices,
    tasks: Tasks,
}

/// The object store and how it is asked.
#[derive(Debug)]
struct L3 {
    source: Source,
    timeout: Duration,
    reads: Semaphore,
    pace: Pace,
}

/// What L3 is.
#[derive(Debug)]
enum Source {
    Objects(object::Store),
    /// Answers as a test says.
    #[cfg(test)]
    Scripted(tests::Scripted),
}

/// Why the store cannot be opened. A server that is down is no reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Redis cannot be reached the way the config says.
    #[error("features.l2: not a Redis that can be connected to")]
    Redis(#[source] ::redis::RedisError),
    /// The embedded store's file.
    #[error("features.l2: cannot open {}", path.as_deref().map_or("a store in memory".into(), |path| path.display().to_string()))]
    Embedded {
        /// The file.
        path: Option<PathBuf>,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// The lookup files.
    #[error("features.l3: cannot be opened")]
    Lookup(#[source] object::Error),
}

impl Store {
    /// Opens all layers. Waits for no Redis: one that is down leaves a store that answers with defaults until it is up.
    ///
    /// # Errors
    ///
    /// A URL or a file that can never work.
    pub async fn open(config: &Config, tasks: Tasks) -> Result<Self, OpenError> {
        let views = config.features.stored_views();
        let features = &config::Features { views, ..config.features.clone() };
        let hot = features.hot_keys.map(|hot| Arc::new(HotKeys::new(hot, Instant::now())));
        let l2 = match &features.l2 {
            config::L2::Redis(redis) => {
                let redis = Redis::open(redis, features, config.workers, &tasks).map_err(OpenError::Redis)?;
                L2::Redis(match &hot {
                    Some(hot) => redis.with_copies(&hot.config, &hot.metrics),
                    None => redis,
                })
            }
            config::L2::FeatureServers(fleet) => L2::Served(Served::open(fleet, features, config.workers, &tasks)),
            config::L2::Embedded { path, ttl } => {
                let failed = |source| OpenError::Embedded { path: path.clone(), source: Box::new(source) };
                L2::Embedded(Embedded::open(path.as_deref(), *ttl, features).map_err(failed)?)
            }
        };
        let budget = match &l2 {
            L2::Served(served) => Arc::clone(served.budget()),
            _ => Arc::new(Budget::new(features.retry_budget, Instant::now())),
        };
        let snapshots = Snapshots::default();
        let leases = Arc::new(leases(&l2, config, &snapshots));
        leases.tend(&tasks);
        let l3 = match &features.l3 {
            Some(l3) => Some(L3::open(l3, features).await?),
            None => None,
        };
        let shared = Shared {
            project: Arc::clone(&features.project),
            joins: config.models.iter().map(|model| joins::compile(config, model)).collect(),
            views: features.views.clone(),
            order: match features.compat {
                Compat::Truthful => Order::ByTime,
                Compat::FeastPython => Order::SinceEpoch,
            },
            max_rows: config.listen.max_rows,
            keys: Keys::of(&features.project, &features.views),
            l1: memory(config, features).under(leases.lease()),
            l1_mode: features.l1.mode,
            hot: hot.map(|keys| Heeded::new(keys, config.workers)),
            l2,
            l3,
            flights: Arc::default(),
            strong: TermFlights::default(),
            leases,
            snapshots,
            retry: Retry::from(&features.retry),
            budget,
            metrics: Handles::new(&features.views),
            lookups: Arc::new(Lookups::new(config.ladder.feature_p99, Instant::now())),
            notices: Notices::of(&features.views),
            tasks,
        };
        Ok(Self::of(shared))
    }

    /// The store for what the registry has made of the config: the same connections, files, database and cached rows, for other
    /// views of the same project. Both answer; this one is dropped with the last request that began on it.
    pub(crate) async fn next(&self, config: &Config) -> Self {
        let shared = &self.shared;
        let features = &config::Features { views: config.features.stored_views(), ..config.features.clone() };
        debug_assert_eq!(features.project, shared.project, "rows are cached, leased and copied without their project");
        let l3 = match &shared.l3 {
            Some(l3) => Some(l3.next(features).await),
            None => None,
        };
        let shared = Shared {
            project: Arc::clone(&shared.project),
            joins: config.models.iter().map(|model| joins::compile(config, model)).collect(),
            views: features.views.clone(),
            order: shared.order,
            max_rows: config.listen.max_rows,
            keys: Keys::of(&features.project, &features.views),
            l1: shared.l1.next(&features.l1, &features.views),
            l1_mode: features.l1.mode,
            // Counts are by view; what is hot stays so.
            hot: shared.hot.as_ref().map(|hot| Heeded::new(Arc::clone(&hot.keys), config.workers)),
            l2: shared.l2.next(features),
            l3,
            // A view's id means another view here.
            flights: Arc::default(),
            strong: TermFlights::default(),
            leases: Arc::clone(&shared.leases),
            snapshots: shared.snapshots.clone(),
            retry: Retry::from(&features.retry),
            budget: Arc::clone(&shared.budget),
            metrics: shared.metrics.next(&features.views),
            lookups: Arc::clone(&shared.lookups),
            notices: Notices::of(&features.views),
            tasks: shared.tasks.clone(),
        };
        Self::of(shared)
    }

    /// The store of a snapshot, which hears of changes from now on.
    fn of(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        shared.snapshots.add(&shared);
        Self { shared }
    }

    /// The rows that the plan's model joins, for every instance of the request, by `plan.features_by`.
    ///
    /// # Errors
    ///
    /// The request lacks an entity, or gives one of another type, or has more rows than `listen.max_rows`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves fetches running that fill the caches.
    pub async fn fetch(&self, request: &InferRequest, plan: &Plan) -> Result<FeatureSet, Error> {
        let joins = &self.shared.joins[plan.model.index()];
        if joins.is_empty() {
            return Ok(FeatureSet::default());
        }
        let Payload::Decoded(decoded) = &request.payload else {
            return Err(Error::new(Kind::Internal, "the body of a model with joins was not decoded"));
        };
        let rows = |sources: &[&str]| self.within_limit(decoded.rows(sources)?);
        let lookup = Lookup::new(joins, rows, |source, kind| decoded.entities(source, kind))?;
        Ok(self.look_up(lookup, How::of(request, plan)).await)
    }

    /// A row costs its caller a byte and Weir some hundred: the length of the body is not limit enough.
    fn within_limit(&self, rows: usize) -> Result<usize, Error> {
        let most = self.shared.max_rows;
        if rows <= most {
            return Ok(rows);
        }
        Err(Error::invalid(format!(
            "too many rows: the request has {rows}; allowed: at most {most} (listen.max_rows) for a model that joins features"
        )))
    }

    async fn look_up(&self, mut lookup: Lookup, how: How) -> FeatureSet {
        let began = Instant::now();
        let until = self.shared.walk(&mut lookup, &how, began).await;
        self.shared.lookups.note((began, until), how.by.instant());
        let set = lookup.settle(&self.shared.metrics, SystemTime::now());
        self.shared.tell_stale(&set);
        set
    }

    /// Opens a worker's connections, so that its first requests find them; to be called on the worker's runtime. Returns
    /// within a second, whether they could be opened or not.
    pub async fn connect(&self, worker: WorkerId) {
        self.shared.l2.connect(worker).await;
    }

    /// Whether L2 answers now.
    ///
    /// # Errors
    ///
    /// Which address does not, and why.
    pub async fn ready(&self) -> Result<(), String> {
        self.shared.l2.ready().await
    }

    /// Writes how long the breakers of servers and object store stay open; to be called before each scrape.
    pub(crate) fn show(&self, now: Instant) {
        self.shared.l2.show(now);
        if let Some(L3 { source: Source::Objects(store), .. }) = &self.shared.l3 {
            store.show(now);
        }
    }

    /// Which of two Redises has the rows, where one may take over for the other.
    pub(crate) fn whereabouts(&self) -> Option<super::redis::Whereabouts> {
        self.shared.l2.whereabouts()
    }

    /// How the servers stand that rows are read from; `None`: replicas are not among them.
    pub(crate) fn shards(&self) -> Option<Vec<super::redis::ShardShown>> {
        self.shared.l2.shards(Instant::now())
    }

    /// L1's rows and bytes.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes { rows: self.shared.l1.rows(), bytes: self.shared.l1.bytes() }
    }

    /// Keeps L1 tidy and the gauges current; to be called every second.
    pub fn maintain(&self) {
        self.shared.l1.tidy(Instant::now());
        let sizes = self.sizes();
        self.shared.metrics.gauge(sizes.bytes, sizes.rows);
        self.shared.leases.show();
    }
}

/// How rows are shared with other gateways: through Redis, or with none.
fn leases(l2: &L2, config: &Config, snapshots: &Snapshots) -> Leases {
    let (features, caches) = (&config.features, Box::new(snapshots.clone()));
    match l2 {
        L2::Redis(redis) => {
            // What Feast's registry will have is not known yet.
            let is_strong = features.registry.is_some() || features.views.iter().any(|view| view.reads_primary_only());
            // Leases are the first Redis's: who holds one says nothing of what another has.
            let is_on = features.l1.capacity > 0 && features.l1.mode == L1Mode::Serve && !redis.has_dr();
            let keeps = match (is_strong, is_on) {
                (true, true) => Keeps::UnderLease,
                (true, false) => Keeps::Nothing,
                (false, _) => Keeps::Unconcerned,
            };
            let (owner, project) = (redis.owner(), &*features.project);
            Leases::shared(Meeting { owner, project, length: features.lease, keeps }, caches)
        }
        L2::Served(_) => Leases::none(caches),
        L2::Embedded(_) => Leases::of_one(caches),
    }
}

/// An empty L1.
fn memory(config: &Config, features: &config::Features) -> Memory {
    let memory = Memory::new(&features.l1, &features.views);
    let memory = if features.l1.warm_start.is_some() { memory.heeding(config.workers) } else { memory };
    match &features.l2 {
        config::L2::Redis(redis) if redis.replicas.is_some() => memory.before_replicas(),
        _ => memory,
    }
}

impl Shared {
    /// Layer by layer, until every key is settled or the time is up. Returns when L2 was through.
    async fn walk(self: &Arc<Self>, lookup: &mut Lookup, how: &How, began: Instant) -> Instant {
        lookup.notice(&self.l1, how);
        if let Some(hot) = &self.hot {
            lookup.count_keys(&hot.counts, how);
        }
        if self.l1_mode == L1Mode::Observe {
            let observations = lookup.observe_l1(&self.l1, how, (&self.metrics, began));
            let until = Flight::board(self, lookup, how).await;
            lookup.compare(&observations, &self.metrics);
            return until;
        }
        lookup.ask_l1(&self.l1, how, began);
        lookup.count(&self.metrics);
        let until = Instant::now();
        self.metrics.took(Layer::L1, until - began);
        if lookup.is_open() { Flight::board(self, lookup, how).await } else { until }
    }
}

/// How much L1 holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rows, and keys known to have none.
    pub rows: u64,
    /// Weighed bytes.
    pub bytes: u64,
}

impl L3 {
    async fn open(config: &config::L3, features: &config::Features) -> Result<Self, OpenError> {
        let breaker = Policy::from(&features.breaker);
        let store = object::Store::open(config, breaker, &features.project, &features.views).await;
        let store = store.map_err(OpenError::Lookup)?;
        Ok(Self::new(Source::Objects(store), config.timeout))
    }

    async fn next(&self, features: &config::Features) -> Self {
        let source = match &self.source {
            Source::Objects(store) => Source::Objects(store.next(&features.project, &features.views).await),
            #[cfg(test)]
            Source::Scripted(_) => Source::Scripted(tests::Scripted::default()),
        };
        Self::new(source, self.timeout)
    }

    fn new(source: Source, timeout: Duration) -> Self {
        Self { source, timeout, reads: Semaphore::new(L3_READS), pace: Pace::new(Instant::now()) }
    }
}

impl Source {
    async fn get(&self, ask: &Ask) -> Result<Option<super::Row>, Boxed> {
        match self {
            Self::Objects(store) => Ok(store.get(&ask.view, &ask.key).await?),
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.get(ask).await,
        }
    }
}

#[cfg(test)]
impl Store {
    /// The embedded L2, for tests of other modules.
    pub(crate) fn embedded(&self) -> &Embedded {
        match &self.shared.l2 {
            L2::Embedded(embedded) => embedded,
            L2::Redis(_) | L2::Served(_) => panic!("the store is elsewhere"),
        }
    }
}

#[cfg(test)]
mod tests;
