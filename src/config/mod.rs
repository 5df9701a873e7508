//! The validated configuration: a [`Config`] cannot be wrong.
//!
//! `raw` is what the YAML says, `validate` turns it into a [`Config`] or into the list of everything that is wrong with it. Where the
//! file names Feast's registry, a `Draft` waits between the two until somebody has fetched the registry's bytes.
//! Stages compile what they need from the snapshot when they are built; no request parses anything. Fields are `pub(crate)`
//! so that a knob nobody reads is a compiler warning.

mod de;
mod endpoints;
mod explain;
mod kafka;
mod ladder;
mod load;
mod mlflow;
mod models;
mod pools;
mod precomputed;
mod problems;
mod raw;
mod registry;
mod schema;
mod shape;
mod spool;
mod store;
mod substitute;
#[cfg(test)]
mod tests;
mod tree;
mod validate;
mod warnings;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rapidhash::RapidHashMap;

use crate::infer::{EntityType, FeatureType, ModelId, PoolId, TierId, Value, ViewId};

pub(crate) use endpoints::read as read_endpoints;
pub(crate) use kafka::{KAFKA_OURS, Kafka};
pub(crate) use ladder::{Ensemble, Fallback, Gpu, Ladder, LadderMode, PredictionCache, Predictions, SharedPredictions};
pub(crate) use load::{Draft, Loaded, Supplied};
pub(crate) use mlflow::{Mlflow, MlflowAccess, MlflowServer};
pub(crate) use models::{Column, Inputs, Join, Model, NamedColumn};
pub(crate) use pools::{Balance, Discovery, Dns, EndpointsFile, Failover, Outlier};
pub use problems::Problems;
pub(crate) use raw::{Size, Span, duration};
pub(crate) use schema::document as json_schema;
pub(crate) use spool::{Spool, SpoolStore};
pub(crate) use store::{
    Copies, Dr, FeatureServers, HotKeys, L1, L1Mode, L2, L3, MOST_COPIES, ReadFrom, Redis, RedisMode, Replicas, SaveTo,
    WarmStart,
};
pub(crate) use tree::without_password;

/// The join key of views without one, as Feast stores their only row: text, and empty.
pub(crate) const ENTITYLESS_KEY: &str = "__dummy_id";

/// One consistent snapshot of the configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) listen: Listen,
    pub(crate) workers: usize,
    pub(crate) capacity: Capacity,
    /// Highest first: `high`, `standard`, `best-effort`, then others in the file's order.
    pub(crate) tiers: Vec<Tier>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) models: Vec<Model>,
    /// Looked through with names that callers choose, which are never put in: it takes no hash that withstands them.
    pub(crate) model_ids: RapidHashMap<Arc<str>, ModelId>,
    pub(crate) features: Features,
    pub(crate) ladder: Ladder,
    pub(crate) predictions: Predictions,
    /// `None`: nobody tells of promotions but operators.
    pub(crate) mlflow: Option<Mlflow>,
    pub(crate) drain: Drain,
    pub(crate) spool: Spool,
    pub(crate) metrics_aliases: bool,
    /// Whether model repository load and unload are passed on; refused otherwise.
    pub(crate) allow_repository: bool,
    /// What the file sets and this version accepts without acting on it yet, as `path.to.key: words`.
    pub(crate) notices: Vec<String>,
    /// What will not do what it seems to, as `path.to.key: what; why it matters; what to do`.
    pub(crate) warnings: Vec<String>,
}

/// Where Weir listens. All of it takes a restart to change.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) http: SocketAddr,
    /// `None`: gRPC is served on the HTTP port only.
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) admin_token: Option<Secret>,
    /// Largest request body, default 64 MiB; over it is 413.
    pub(crate) max_body: u64,
    /// Longest body that is held to be sent again, default 64 KiB; longer ones are passed on as they come.
    pub(crate) hold_body: usize,
    /// Most bytes of bodies held over all requests, default four times `max_body`.
    pub(crate) hold_bodies: u64,
    /// Most rows of a request whose model joins features, default 10000; over it is 400.
    pub(crate) max_rows: usize,
    /// A connection without a request for this long is closed, be it idle or slow to send a head; default 60 s.
    pub(crate) idle_timeout: Duration,
    /// A streamed answer of which its caller takes nothing for this long is broken off; default 60 s.
    pub(crate) send_timeout: Duration,
    /// A connection older than this is asked to close, default 10 min; evens out long-lived HTTP/2 connections.
    pub(crate) max_connection_age: Duration,
}

/// A value that prints as `***`.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The gateway's own concurrency.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    pub(crate) slots: u32,
    /// Share of the slots that any tier may borrow.
    pub(crate) shared: f64,
    pub(crate) burst_pool: Option<PoolId>,
}

/// A class of service.
#[derive(Clone, Debug)]
pub(crate) struct Tier {
    pub(crate) name: Arc<str>,
    pub(crate) pool: Option<PoolId>,
    /// Share of `capacity.slots` only this tier uses.
    pub(crate) reserved: f64,
    /// Share it may reach by borrowing.
    pub(crate) max: f64,
    pub(crate) queue: u32,
    pub(crate) queue_timeout: Duration,
    pub(crate) low_priority: bool,
}

/// A set of endpoints with one policy.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) name: Arc<str>,
    /// Those that the file names; others are found.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) discovery: Vec<Discovery>,
    pub(crate) balance: Balance,
    pub(crate) region: Option<Arc<str>>,
    pub(crate) failover: Option<Failover>,
    pub(crate) health: Health,
    pub(crate) breaker: Breaker,
    pub(crate) retry: Retry,
    /// Share of extra load that retries and hedges may cause together.
    pub(crate) retry_budget: f64,
    /// `None`: no hedges.
    pub(crate) hedge: Option<Hedge>,
    pub(crate) attempt_timeout: Option<Duration>,
    /// TCP connect timeout of one connection, default 1 s.
    pub(crate) connect_timeout: Duration,
    /// Requests an endpoint may have in flight; `None`: no limit.
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) limit: Limit,
    /// Where its GPU memory is read; `None`: nowhere.
    pub(crate) gpu: Option<Gpu>,
}

/// How many requests a pool may have at once, whatever the tiers' slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// As many as the slots allow.
    None,
    /// As many as do not make it slower than it usually is.
    Adaptive,
}

impl Limit {
    /// Whether it is learnt.
    pub(crate) const fn is_adaptive(self) -> bool {
        matches!(self, Self::Adaptive)
    }
}

/// One server: an address a port.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// What metrics, logs and errors call it.
    pub(crate) name: Arc<str>,
    pub(crate) http: Option<Upstream>,
    pub(crate) grpc: Option<Upstream>,
    pub(crate) zone: Option<Arc<str>>,
}

/// A plain-text upstream `host:port`; a host that is a name is resolved when a connection is made.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// As sent in `host` / `:authority`, e.g. `fraud.ml.svc:8080`.
    pub(crate) authority: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// Active health checks of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) path: Arc<str>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

/// When a breaker trips and how it closes.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    pub(crate) failure_threshold: u32,
    pub(crate) window: Duration,
    /// 0: success rates trip nothing.
    pub(crate) success_rate: f64,
    pub(crate) open_for: Duration,
    /// At least `open_for`: how far the time grows while probes fail.
    pub(crate) max_open_for: Duration,
    pub(crate) half_open_requests: u32,
    pub(crate) success_threshold: u32,
}

/// A retry profile: `delay = min(max_delay, initial · multiplier^attempt) · (1 ± jitter)`.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    pub(crate) max_retries: u32,
    pub(crate) initial_delay: Duration,
    pub(crate) max_delay: Duration,
    pub(crate) multiplier: f64,
    pub(crate) jitter: f64,
}

/// A second attempt at slow requests.
#[derive(Clone, Debug)]
pub(crate) struct Hedge {
    pub(crate) after: HedgeAfter,
    /// Share of extra load, part of the pool's `retry_budget`.
    pub(crate) share: f64,
}

/// When the second attempt starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum HedgeAfter {
    /// Of the last answer times, 50 to 99.9.
    Percentile(f64),
    /// At least 1 ms.
    Fixed(Duration),
}

/// The feature store.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    /// The Feast project: the suffix of every Redis key.
    pub(crate) project: Arc<str>,
    /// Where views and services come from; `None`: views are the file's own, and there are no services.
    pub(crate) registry: Option<Registry>,
    pub(crate) views: Vec<Arc<View>>,
    /// Feast's feature services, from its registry.
    pub(crate) services: Vec<Service>,
    /// Where `/push` may write; with `views:` in the file each view is a source of its own name.
    pub(crate) push_sources: Vec<PushSource>,
    /// By view, the columns of time that its rows are pushed with.
    pub(crate) times: Vec<Times>,
    /// Feast's entities by name, and the join key each stands for: callers may send either.
    pub(crate) entity_names: Vec<(Arc<str>, Arc<str>)>,
    /// What the registry has and Weir does not serve: its name, and why.
    pub(crate) unserved: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) compat: Compat,
    pub(crate) l1: L1,
    pub(crate) l2: L2,
    pub(crate) l3: Option<L3>,
    pub(crate) retry: Retry,
    /// Share of extra load of L2 that retries may cause.
    pub(crate) retry_budget: f64,
    pub(crate) breaker: Breaker,
    /// `None`: nobody counts which keys are hot.
    pub(crate) hot_keys: Option<HotKeys>,
    /// The topic of feature updates; `None`, and always so in a build without the feature `kafka`: nothing is read.
    pub(crate) kafka: Option<Kafka>,
    pub(crate) invalidate: Invalidate,
    /// How long a gateway's lease of `write_through` rows is.
    pub(crate) lease: Duration,
}

/// How changes reach the caches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invalidate {
    /// Whether Redis tells of changed keys.
    pub(crate) tracking: bool,
}

/// Feast's registry.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// `s3://bucket/key`, `gs://`, `az://`, `file:///path`, or a path.
    pub(crate) url: Arc<str>,
    /// How often it is looked at again.
    pub(crate) refresh: Duration,
}

/// What the feature server says of missing and old rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compat {
    /// What is so: NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE.
    Truthful,
    /// What Feast's Python server says: PRESENT.
    FeastPython,
}

/// A named set of features, as Feast's registry has it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    /// In the service's order; empty where it cannot be served (it is in `unserved` then).
    pub(crate) projections: Vec<Projection>,
    /// Whether Feast keeps all of it as one vector an entity.
    pub(crate) precomputed: bool,
}

/// A view as a service sees it.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    pub(crate) view: ViewId,
    /// What the view is called in answers with full feature names; else by its own name.
    pub(crate) alias: Option<Arc<str>>,
    /// What the view's join keys are called in requests: for each of the view's entities, in their order.
    pub(crate) columns: Vec<Arc<str>>,
    /// Positions in the view's features.
    pub(crate) select: Vec<usize>,
}

/// Where rows are pushed to.
#[derive(Clone, Debug)]
pub(crate) struct PushSource {
    pub(crate) name: Arc<str>,
    /// Several views may share a source.
    pub(crate) views: Vec<ViewId>,
}

/// The columns of time in rows that are pushed.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// The column of the event's time.
    pub(crate) event: Arc<str>,
    /// The column of the row's creation, which a push must bring where there is one.
    pub(crate) created: Option<Arc<str>>,
}

impl Default for Times {
    /// Feast's usual column, where nothing names another.
    fn default() -> Self {
        Self { event: "event_timestamp".into(), created: None }
    }
}

/// A feature view.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) id: ViewId,
    pub(crate) name: Arc<str>,
    /// The name its rows are stored under: its own, or with a version that Feast keeps apart.
    pub(crate) stored: Arc<str>,
    /// Join keys sorted by name as UTF-8 bytes, the order of the serialized key.
    pub(crate) entities: Vec<(Arc<str>, EntityType)>,
    pub(crate) features: Vec<Feature>,
    /// How long a cached copy is good.
    pub(crate) ttl: Duration,
    /// How old a row's event may be; `None`: any age.
    pub(crate) max_age: Option<Duration>,
    pub(crate) consistency: Consistency,
}

/// A feature of a view.
#[derive(Clone, Debug)]
pub(crate) struct Feature {
    pub(crate) name: Arc<str>,
    pub(crate) kind: FeatureType,
    /// What stands in for a missing value: as configured, else the type's zero (for lists `length` zeros, else empty).
    pub(crate) default: Value,
    /// How many elements a list has: as configured, else as many as its default; `None`: as many as the row has. The default,
    /// where there is a length, has it.
    pub(crate) length: Option<usize>,
}

/// How changes of a view reach its cached rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// They expire.
    Ttl,
    /// A push is acknowledged when no gateway serves the old row.
    WriteThrough,
    /// They never change: no TTL.
    Immutable,
}

/// What happens on SIGTERM.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    /// Not ready, still accepting.
    pub(crate) delay: Duration,
    /// Then requests in flight have this long.
    pub(crate) deadline: Duration,
}

/// Decimal shares are not exact in binary: 0.29 · 100 is 28.999999999999996.
const ALMOST: f64 = 1e-9;

impl View {
    /// Whether its rows are read from where they are written, and from nowhere else that may have older ones: no replica, no copy of a
    /// key, no L3 in place of an L2 that does not answer.
    pub(crate) fn reads_primary_only(&self) -> bool {
        self.consistency == Consistency::WriteThrough
    }

    /// Whether the view has one row for everybody: no caller sends its join key.
    pub(crate) fn is_entityless(&self) -> bool {
        matches!(self.entities.as_slice(), [(key, EntityType::String)] if **key == *ENTITYLESS_KEY)
    }
}

impl Capacity {
    /// Whole slots in a share.
    pub(crate) fn slots_in(&self, share: f64) -> u32 {
        (share * f64::from(self.slots) + ALMOST).floor() as u32
    }
}

impl Tier {
    /// The slots it may hold at most; a part of one is one.
    pub(crate) fn most_slots(&self, capacity: &Capacity) -> u32 {
        let up = (self.max * f64::from(capacity.slots) - ALMOST).ceil() as u32;
        up.max(capacity.slots_in(self.reserved))
    }
}

impl Config {
    /// The model of that name.
    pub(crate) fn model_id(&self, name: &str) -> Option<ModelId> {
        self.model_ids.get(name).copied()
    }

    /// The model with that id.
    pub(crate) fn model(&self, id: ModelId) -> &Model {
        &self.models[id.index()]
    }

    /// The tier of what can wait longest: the last.
    pub(crate) fn lowest_tier(&self) -> TierId {
        TierId(u32::try_from(self.tiers.len().saturating_sub(1)).unwrap_or(0))
    }

    /// Whether a body for the model is decoded as it comes: for its own sake, or for that of a model that stands in for it.
    /// Validated: that leads to an end.
    pub(crate) fn is_decoded(&self, model: &Model) -> bool {
        let fallback = || model.fallback.as_ref().and_then(|fallback| fallback.model);
        model.is_decoded() || fallback().is_some_and(|model| self.is_decoded(self.model(model)))
    }

    /// The pool with that id.
    pub(crate) fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[id.index()]
    }

    /// The pool that the model's requests run on beyond what their tier has reserved: the burst pool serves the tiers' pools,
    /// so a model that has a pool of its own stays there.
    pub(crate) fn burst(&self, model: &Model) -> Option<PoolId> {
        let tier = &self.tiers[model.tier.index()];
        self.capacity.burst_pool.filter(|burst| tier.pool == Some(model.pool) && *burst != model.pool)
    }

    /// The view with that id.
    pub(crate) fn view(&self, id: ViewId) -> &Arc<View> {
        &self.features.views[id.index()]
    }
}
