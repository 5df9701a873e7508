//! What the YAML may say: one struct a section, every key with its meaning, unit and default.
//!
//! The doc comment of a key is its description in the JSON Schema; `x-reload` says when a change will take effect once there is live reload (a key without
//! it takes its section's; nobody is told until then), `x-minimum` and `x-maximum` how short and long a duration may be, `x-map` from what to what a mapping is,
//! `x-required` what must be given. Nothing is checked here; `shape` and `validate` do that.

mod features;
mod mlflow;
mod models;
mod pools;
mod scalar;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use features::*;
pub(crate) use mlflow::*;
pub(crate) use models::*;
pub(crate) use pools::*;
pub(crate) use scalar::*;

/// Weir's configuration.
///
/// Durations are written `50ms`, `10s`, `5m`, `1h`; sizes `64KiB`, `100MiB`, `1GB`; ratios are numbers from 0 to 1.
/// `${VAR}` and `${file:/path}` are replaced by an environment variable and by a file's contents.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "weir.yaml")]
pub(crate) struct Root {
    /// Where Weir listens.
    #[schemars(extend("x-reload" = "restart"))]
    pub(crate) listen: Listen,
    /// Worker threads, each with its own connections. Default: the cores the process may use.
    #[schemars(range(min = 1, max = 1024), extend("x-reload" = "restart", "x-unset" = "the cores the process may use"))]
    pub(crate) workers: Option<u32>,
    /// The zone that the gateway runs in: endpoints of the same zone are preferred.
    #[schemars(extend("x-reload" = "restart", "x-unset" = "none"))]
    pub(crate) zone: Option<String>,
    /// The gateway's own concurrency.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) capacity: Capacity,
    /// Classes of service by name, `high`, `standard`, `best-effort` or others, highest first. Without any, one tier `standard`
    /// holds all slots.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) tiers: Named<Tier>,
    /// Sets of endpoints with one policy, by name.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) pools: Named<Pool>,
    /// Models by the name that callers use.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) models: Named<Model>,
    /// The feature store. Without it Weir joins nothing.
    #[schemars(extend("x-reload" = "restart"))]
    pub(crate) features: Option<Features>,
    /// When and how service is lowered.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) ladder: Ladder,
    /// Where predictions are kept, of the models that have a `cache`.
    #[schemars(extend("x-reload" = "restart"))]
    pub(crate) predictions: Predictions,
    /// MLflow's model registry, whose promotions drop predictions.
    #[schemars(extend("x-reload" = "restart", "x-unset" = "none"))]
    pub(crate) mlflow: Option<Mlflow>,
    /// What happens on SIGTERM.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) drain: Drain,
    /// Requests kept for later.
    #[schemars(extend("x-reload" = "restart"))]
    pub(crate) spool: Spool,
    /// What is exported.
    #[schemars(extend("x-reload" = "restart"))]
    pub(crate) metrics: Metrics,
    /// Whether `RepositoryModelLoad` and `RepositoryModelUnload` are passed to the pool; refused otherwise.
    #[schemars(extend("x-reload" = "live"))]
    pub(crate) allow_repository: bool,
}

/// Where Weir listens.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Listen {
    /// HTTP/1.1, h2c and gRPC on one port, as `ip:port`.
    pub(crate) http: String,
    /// A port for gRPC alone, as `ip:port`; `none`: gRPC is served on the HTTP port only.
    pub(crate) grpc: String,
    /// Metrics, probes and the admin API, as `ip:port`.
    pub(crate) admin: String,
    /// Bearer token of the admin API for callers that are not on loopback. Without it only loopback is served.
    pub(crate) admin_token: Option<Hidden>,
    /// Largest request body; a longer one is refused with 413.
    pub(crate) max_body: Size,
    /// Longest request body that is held for every request under way, so that it can be sent again; a longer one that nobody has
    /// to read is passed on as it comes, once.
    pub(crate) hold_body: Size,
    /// Most bytes of bodies held over all requests under way, be it to be sent again or to be decoded, and at least `max_body`. Once
    /// they are taken, a body that nobody has to read is passed on as it comes, without retries and fallbacks, and one that must be
    /// decoded is refused with 429.
    #[schemars(extend("x-unset" = "4 × max_body"))]
    pub(crate) hold_bodies: Option<Size>,
    /// Most rows (instances) of a request whose model joins features; one with more is refused with 400.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(crate) max_rows: u32,
    /// A connection without a request for this long (at most twice that) is closed, be it idle or slow to send a head.
    pub(crate) idle_timeout: Span,
    /// A streamed answer of which its caller takes nothing for this long (at most twice that) is broken off, and its slot given back.
    pub(crate) send_timeout: Span,
    /// A connection older than this is asked to close, so that long-lived HTTP/2 connections spread over the workers.
    pub(crate) max_connection_age: Span,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            http: "0.0.0.0:8080".into(),
            grpc: "0.0.0.0:8081".into(),
            admin: "0.0.0.0:9090".into(),
            admin_token: None,
            max_body: Size(64 << 20),
            hold_body: Size(64 << 10),
            hold_bodies: None,
            max_rows: 10_000,
            idle_timeout: Span::secs(60),
            send_timeout: Span::secs(60),
            max_connection_age: Span::secs(600),
        }
    }
}

/// The gateway's own concurrency.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Capacity {
    /// Requests that may be at the models at once, over all tiers. Little's law sizes it: requests a second × seconds a request.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) slots: u32,
    /// Share of the slots that any tier may borrow, up to its `max`.
    pub(crate) shared: Ratio,
    /// Pool that requests run on beyond what their tier has reserved at its own pool. It serves the models that run on their
    /// tier's pool; those with a `pool` of their own stay there, and so does everybody while it has no endpoint that can be asked.
    #[schemars(extend("x-unset" = "the tier's own pool"))]
    pub(crate) burst_pool: Option<String>,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { slots: 1000, shared: Ratio(0.2), burst_pool: None }
    }
}

/// A class of service: a bulkhead on the gateway's concurrency.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tier {
    /// Pool of its models, unless they name another.
    #[schemars(extend("x-unset" = "the only pool, where there is one"))]
    pub(crate) pool: Option<String>,
    /// Share of `capacity.slots` that only this tier uses. Default: high 0.4, standard 0.3, best-effort 0.1, others 0; all that is
    /// not shared for a tier that is the only one.
    #[schemars(extend("x-unset" = "by the tier's name"))]
    pub(crate) reserved: Option<Ratio>,
    /// Share that it may reach by borrowing, at least `reserved` and at most `reserved` + `capacity.shared`. Default: high 0.5,
    /// standard 0.4, best-effort 0.3; `reserved` + `capacity.shared` for others and where `reserved` is given.
    #[schemars(extend("x-unset" = "by the tier's name"))]
    pub(crate) max: Option<Ratio>,
    /// Requests that may wait for a slot. Default: high 64, standard 128, best-effort 256, others 128.
    #[schemars(range(max = 1_000_000), extend("x-unset" = "by the tier's name"))]
    pub(crate) queue: Option<u32>,
    /// How long one may wait. Default: high 50ms, standard 100ms, best-effort 250ms, others 100ms.
    #[schemars(extend("x-unset" = "by the tier's name"))]
    pub(crate) queue_timeout: Option<Span>,
    /// Whether its models are the first to be turned off when GPU memory is short. A start does not wait for a pool that only
    /// such models run on.
    pub(crate) low_priority: bool,
}

/// When and how service is lowered.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ladder {
    /// Whether levels are changed, or only what would be changed is reported.
    pub(crate) mode: LadderMode,
    /// P99 of feature lookups over which stale rows are allowed and optional views skipped.
    pub(crate) feature_p99: Span,
    /// Share of GPU memory over which low-priority models fall back.
    pub(crate) gpu_memory: Ratio,
    /// How long a trigger must last before it acts.
    pub(crate) enter_after: Span,
    /// How long it must be quiet before it stops acting.
    pub(crate) exit_after: Span,
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            mode: LadderMode::Act,
            feature_p99: Span::ms(100),
            gpu_memory: Ratio(0.9),
            enter_after: Span::secs(1),
            exit_after: Span::secs(10),
        }
    }
}

/// Whether the ladder acts.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LadderMode {
    Act,
    Observe,
}

/// Where predictions are kept, of the models that have a `cache`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Predictions {
    /// Memory for predictions, over all models; what is asked for least goes first. `0B`: none are kept in this process.
    pub(crate) capacity: Size,
    /// Whether gateways share predictions through `features.l2.redis`, where there is one.
    pub(crate) l2: bool,
}

impl Default for Predictions {
    fn default() -> Self {
        Self { capacity: Size(64 << 20), l2: true }
    }
}

/// What happens on SIGTERM.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Drain {
    /// How long Weir reports not ready and still accepts requests, so that load balancers notice.
    pub(crate) delay: Span,
    /// How long requests in flight have after that.
    pub(crate) deadline: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Span::secs(5), deadline: Span::secs(30) }
    }
}

/// Requests kept for later: in the Redis of the features where there is one, for all gateways of the project; else by this process.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Spool {
    /// File of the embedded spool, for a gateway without `features.l2.redis`. Without it requests are kept in memory, and lost when
    /// the process ends.
    #[schemars(extend("x-unset" = "in Redis, else in memory"))]
    pub(crate) path: Option<String>,
    /// How long a request is kept, and from when it is answered its result.
    pub(crate) keep_for: Span,
    /// How many are kept at most, results among them; more are refused.
    #[schemars(range(min = 1))]
    pub(crate) max_entries: u64,
    /// How long they may be together, results among them; more are refused.
    pub(crate) max_bytes: Size,
    /// How a kept request is tried again.
    pub(crate) retry: SpoolRetry,
    /// Whether requests that something else answered in the model's place, at level 3, are kept too, and asked again for nobody. `false`: only
    /// what is queued is.
    pub(crate) log: bool,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            path: None,
            keep_for: Span::secs(86_400),
            max_entries: 100_000,
            max_bytes: Size(1 << 30),
            retry: SpoolRetry::default(),
            log: true,
        }
    }
}

/// What is exported.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Whether the requests waiting for each model are exported as `kserve_inference_queue_depth` too, for autoscalers that
    /// query that name.
    pub(crate) aliases: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { aliases: true }
    }
}
