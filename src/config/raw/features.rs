//! The feature store as the file says it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Breaker, FeatureRetry, Hidden, Loose, Named, OneOrMany, Ratio, Size, Span};

/// The feature store: views, and the three layers their rows are read from.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Features {
    /// The Feast project, the suffix of every Redis key. Required where rows are in Redis and the registry does not name it.
    #[schemars(extend("x-unset" = "the registry's only one, else default"))]
    pub(crate) project: Option<String>,
    /// Feast's registry file (a serialized `feast.core.Registry`), instead of `views`: `s3://bucket/key`, `gs://bucket/key`,
    /// `az://container/key`, `file:///path` or a path. Views, feature services and push sources are those of `project`.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) registry: Option<String>,
    /// How often the registry is looked at again, at least `1s`. A change is taken up without a failed request; one that cannot
    /// be read, or does not fit the models, leaves what was served before.
    pub(crate) registry_refresh: Span,
    /// Whether the rows of a view's version N are stored under `<view>_v<N>`: Feast's
    /// `registry.enable_online_feature_view_versioning`, which the registry itself does not tell.
    pub(crate) versioned_views: bool,
    /// Feature views by name; a view's name is also its push source.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) views: Named<View>,
    /// The cache in this process.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) l1: L1,
    /// The online store: Redis in Feast's layout, feature servers in front of it, or a store of this process's own.
    pub(crate) l2: L2,
    /// Lookup files on an object store.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) l3: Option<L3>,
    /// How a lookup that L2 failed to answer is made again: only while the time that the request has for its features leaves
    /// room for the wait, another `l2.timeout`, and L3 after that; never at a server whose breaker is open.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) retry: FeatureRetry,
    /// When a Redis server, a feature server or the object store is left alone, and how it comes back. Having no connection and no
    /// answer in time are failures, and so are Redis's LOADING, CLUSTERDOWN and MASTERDOWN, and a feature server's 5xx.
    pub(crate) breaker: Breaker,
    // Shorter, a busy machine would lose it; longer, a push would wait for a gateway that is gone until nobody waits for the push.
    /// How long a gateway may keep rows of `write_through` views without hearing from the Redis that has its lease, 500ms to 10s; the
    /// same for all gateways of the project. A push of such rows waits so long for a gateway that does not answer.
    #[schemars(extend("x-minimum" = "500ms", "x-maximum" = "10s"))]
    pub(crate) lease: Span,
    /// How changes reach the caches.
    #[schemars(extend("x-unset" = "rows expire"))]
    pub(crate) invalidate: Option<Invalidate>,
    /// How hot keys are found and split. Where several gateways share a Redis, set it in all of them that take pushes: who does
    /// not have it does not know of other gateways' copies.
    #[schemars(extend("x-unset" = "off"))]
    pub(crate) hot_keys: Option<HotKeys>,
    /// Whether the feature server tells rows truthfully, or as Feast's Python server does.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) compat: Compat,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            project: None,
            registry: None,
            registry_refresh: Span::secs(60),
            versioned_views: false,
            views: Named::default(),
            l1: L1::default(),
            l2: L2::default(),
            l3: None,
            retry: FeatureRetry::default(),
            breaker: Breaker::default(),
            lease: Span::secs(2),
            invalidate: None,
            hot_keys: None,
            compat: Compat::default(),
        }
    }
}

/// What the feature server says of missing and old rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compat {
    #[default]
    Truthful,
    FeastPython,
}

/// The cache in this process.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct L1 {
    /// Whether it answers, or is only compared with what the layers behind it say (`weir_l1_observed_total`).
    pub(crate) mode: L1Mode,
    /// How much it holds; `0B` turns it off.
    pub(crate) capacity: Size,
    /// How long a row is good; a view's `ttl` shortens it.
    pub(crate) ttl: Span,
    /// How long past that it may be used at level 1.
    pub(crate) stale_for: Span,
    /// How long the word of the layers behind that there is no such row is taken, at most.
    pub(crate) negative_ttl: Span,
    /// The keys that are asked for most are saved, and their rows read before the gateway says that it is ready.
    #[schemars(extend("x-unset" = "L1 starts empty", "x-reload" = "restart"))]
    pub(crate) warm_start: Option<WarmStart>,
}

/// How the rows that were asked for most come back after a restart. Keys are saved, not rows: those are read anew.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WarmStart {
    /// Where the list of keys is kept: `l2`, in the Redis of `l2.redis` for all gateways of the project (the last one to save is
    /// the one that counts; kept for `l2.ttl`), or the path of a file of this gateway's own.
    #[schemars(extend("x-required" = true))]
    pub(crate) save_to: String,
    /// Most keys that are saved, and read at a start.
    #[schemars(range(min = 1, max = 100_000))]
    pub(crate) max_keys: u32,
    /// How often they are saved, at least `1s`; and once more when a drain begins.
    #[schemars(extend("x-minimum" = "1s"))]
    pub(crate) save_every: Span,
    /// How long a start waits for their rows, from when L2 answers. Then the gateway is ready with what was read.
    pub(crate) timeout: Span,
}

impl Default for WarmStart {
    fn default() -> Self {
        Self { save_to: String::new(), max_keys: 10_000, save_every: Span::secs(60), timeout: Span::secs(5) }
    }
}

/// What the cache is for.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum L1Mode {
    Serve,
    Observe,
}

impl Default for L1 {
    fn default() -> Self {
        Self {
            mode: L1Mode::Serve,
            capacity: Size(100 << 20),
            ttl: Span::secs(60),
            stale_for: Span::secs(600),
            negative_ttl: Span::secs(5),
            warm_start: None,
        }
    }
}

/// The online store. With neither `redis` nor `feature_server` it is embedded.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct L2 {
    /// `redis://` or `rediss://` URL of the server, or a list of them: the seeds of a cluster, or the sentinels. A user, a
    /// password, a database and TLS in a sentinel's URL are the master's; a sentinel that wants a password gets the same.
    #[schemars(extend("x-unset" = "embedded"))]
    pub(crate) redis: Option<OneOrMany>,
    /// One server, Redis Cluster, or the master that sentinels name.
    pub(crate) mode: RedisMode,
    /// The master's name at the sentinels, in mode `sentinel`.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) master: Option<String>,
    /// PEM file of the certificate authorities that `rediss://` trusts, instead of the system's.
    #[schemars(extend("x-unset" = "the system's"))]
    pub(crate) ca: Option<String>,
    /// Which servers rows are read from, in modes `cluster` and `sentinel`: the masters; any replica; or whichever copy is nearest,
    /// the master among them, by `zones` and else by round-trip time. Views of `consistency: write_through` are read from masters.
    pub(crate) read_from: ReadFrom,
    // It is asked four times in that.
    /// How far a replica may be behind its master and still be read, at least `100ms`. One that is further behind, or of which that is
    /// not known (its link is broken, its master does not answer), is not read: the master is.
    #[schemars(extend("x-minimum" = "100ms"))]
    pub(crate) max_lag: Span,
    /// With `read_from: nearest`, the zones of Redis servers: by what their addresses begin with (`10.0.1.`, `redis-a-`) as the servers
    /// give them; of several that fit, the longest counts. Copies in the gateway's own `zone` are read while there are any.
    #[schemars(extend("x-unset" = "by round-trip time alone", "x-map" = "what servers' addresses begin with to their zones, such as {10.0.1.: a}"))]
    pub(crate) zones: Named<String>,
    /// How long a row that Weir wrote back lives. In Redis this is the life of the hash that all views of an entity share; it
    /// is set only where Weir creates the hash. Rows that Feast writes into that hash later expire with it, unless Feast's
    /// `key_ttl_seconds` renews its life at every write.
    pub(crate) ttl: Span,
    /// Longest wait for one round trip. A feature server reads further stores in that time, its L3 among them.
    #[schemars(extend("x-unset" = "20ms; 200ms with feature_server"))]
    pub(crate) timeout: Option<Span>,
    /// Connections of each worker to each Redis server. Small requests share the first; one that finds much under way takes the
    /// next, so that a large answer holds up few others.
    #[schemars(range(min = 1, max = 64))]
    pub(crate) connections: u32,
    /// Requests under way at one Redis or feature server, of all workers; more fail at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) max_in_flight: u32,
    /// File of the embedded store.
    #[schemars(extend("x-unset" = "in memory"))]
    pub(crate) path: Option<String>,
    /// `http://host:port` of a Feast feature server (a Weir, or Feast's own), or a list of servers of the same project, instead of
    /// Redis. Rows are read through them and never written.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) feature_server: Option<OneOrMany>,
    /// The Redis that takes over when this one is lost: of the same mode, with the same master's name and authorities.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) dr: Option<Dr>,
}

impl Default for L2 {
    fn default() -> Self {
        Self {
            redis: None,
            mode: RedisMode::Single,
            master: None,
            ca: None,
            read_from: ReadFrom::Primary,
            max_lag: Span::secs(1),
            zones: Named::default(),
            ttl: Span::secs(86_400),
            timeout: None,
            connections: 2,
            max_in_flight: 1024,
            path: None,
            feature_server: None,
            dr: None,
        }
    }
}

/// What kind of Redis it is.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RedisMode {
    Single,
    Cluster,
    Sentinel,
}

/// Which nodes are read.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadFrom {
    Primary,
    Replica,
    Nearest,
}

/// The Redis that takes over, usually a replica of the first in another region. Rows are read from it at once, and pushes taken once
/// an operator has promoted it; Weir promotes nobody.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dr {
    /// Its URL, or a list of them.
    #[schemars(extend("x-required" = true))]
    pub(crate) redis: Option<OneOrMany>,
    // A connection's handshake may take as long.
    /// How long the first must be gone without a break, at least `1s`.
    #[schemars(extend("x-minimum" = "1s"))]
    pub(crate) failover_after: Span,
    /// How long the first must be well again without a break. Where pushes were taken meanwhile it must have them all, too.
    pub(crate) back_after: Span,
}

impl Default for Dr {
    fn default() -> Self {
        Self { redis: None, failover_after: Span::secs(15), back_after: Span::secs(10) }
    }
}

/// Lookup files on an object store.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct L3 {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///folder`.
    #[schemars(extend("x-required" = true))]
    pub(crate) url: String,
    /// Longest wait for one lookup.
    pub(crate) timeout: Span,
}

impl Default for L3 {
    fn default() -> Self {
        Self { url: String::new(), timeout: Span::ms(150) }
    }
}

/// How changes reach the caches.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Invalidate {
    /// Whether the Redis of `l2.redis` tells of changed keys, whoever changed them (client tracking over RESP3: Redis 6 or later, one
    /// connection to each master). A cached row is dropped as soon as that is heard; while it is not, rows live as long as `ttl`
    /// says. With it, `l1.ttl` and a view's `ttl` may be long.
    pub(crate) tracking: bool,
    /// A Kafka topic of feature updates: what a message says has changed is dropped from L1. In builds with the cargo feature
    /// `kafka` only.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) kafka: Option<Kafka>,
}

/// A Kafka topic, every partition of which every gateway reads, from where it ends when the gateway starts.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Kafka {
    /// Brokers as `host:port`, such as `kafka:9092`.
    #[schemars(extend("x-required" = true))]
    pub(crate) brokers: Vec<String>,
    /// The topic: 1 to 249 ASCII letters, digits, `.`, `_` and `-`.
    #[schemars(extend("x-required" = true))]
    pub(crate) topic: String,
    /// Further properties of librdkafka, such as `client.id`. It is built without OpenSSL: no TLS, no SASL.
    #[serde(rename = "librdkafka")]
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) properties: Named<Hidden>,
    /// How often new partitions are looked for.
    pub(crate) discover_every: Span,
}

impl Default for Kafka {
    fn default() -> Self {
        let (brokers, topic, properties) = Default::default();
        Self { brokers, topic, properties, discover_every: Span::secs(30) }
    }
}

/// How hot keys are found and split.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HotKeys {
    // As many keys are counted as have a part of it.
    /// Share of all row lookups, of all gateways that share a Redis, that makes a key hot; at least 0.001.
    #[schemars(range(min = 0.001))]
    pub(crate) share: Ratio,
    /// Row lookups a second, of all those gateways, under which no key is hot.
    #[schemars(range(min = 1))]
    pub(crate) min_rate: u32,
    /// Copies of a hot key on other masters of a Redis Cluster: `auto` (the larger its share, the more), a number from 1 to 31,
    /// or `off`. At most one a master.
    pub(crate) copies: Copies,
}

impl Default for HotKeys {
    fn default() -> Self {
        Self { share: Ratio(0.01), min_rate: 100, copies: Copies::Word(CopiesWord::Auto) }
    }
}

/// A number of copies, or a word.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Copies {
    Number(#[schemars(range(min = 1, max = 31))] u32),
    Word(CopiesWord),
}

/// Instead of a number of copies.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum CopiesWord {
    Auto,
    Off,
}

/// A feature view.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct View {
    /// Join keys and their types: BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP.
    #[schemars(extend("x-required" = true))]
    pub(crate) entities: Named<String>,
    /// Features by name.
    #[schemars(extend("x-required" = true))]
    pub(crate) features: Named<Feature>,
    /// How long a cached copy is good; it shortens L1's `ttl` and that of an embedded L2.
    #[schemars(extend("x-unset" = "as long as the layers keep it"))]
    pub(crate) ttl: Option<Span>,
    /// How old a row's event may be (Feast's `FeatureView.ttl`); `0s`: any age.
    #[schemars(extend("x-unset" = "any age"))]
    pub(crate) max_age: Option<Span>,
    /// How changes reach cached rows: they expire, a push waits until no gateway serves the old row (`write_through`, with `l2.redis` or
    /// an embedded L2), or there are none.
    pub(crate) consistency: Consistency,
}

/// How changes reach cached rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Consistency {
    #[default]
    Ttl,
    WriteThrough,
    Immutable,
}

/// A feature of a view.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Feature {
    /// Feast's type: BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL, UNIX_TIMESTAMP, each also with `_LIST`; JSON, UUID,
    /// TIME_UUID and DECIMAL are text.
    #[serde(rename = "type")]
    #[schemars(extend("x-required" = true))]
    pub(crate) kind: String,
    /// What stands in for a missing value.
    #[schemars(extend("x-unset" = "the type's zero"))]
    pub(crate) default: Option<Loose>,
    /// Elements of a list, always the same; this or a default is needed where the list goes into a model's matrix. Without
    /// either, a missing list has as many zeros as the lists of the request's other rows have elements.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unset" = "the default's length"))]
    pub(crate) length: Option<u32>,
}
