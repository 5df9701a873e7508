//! Pools, endpoints, breakers and retry profiles as the file says them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ratio, Span};

/// A set of endpoints with one policy.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pool {
    /// Its servers.
    #[schemars(extend("x-required" = true))]
    pub(crate) endpoints: Vec<Endpoint>,
    /// Active health checks.
    pub(crate) health: Health,
    /// When an endpoint is taken out, and how it comes back.
    pub(crate) breaker: Breaker,
    /// How a failed attempt is made again.
    pub(crate) retry: PoolRetry,
    /// A second attempt at slow requests, to another endpoint; the first good answer counts.
    #[schemars(extend("x-unset" = "off"))]
    pub(crate) hedge: Option<Hedge>,
    /// Longest time of one attempt. Unset, an attempt goes on until the deadline; after its part of that, the next one is made beside
    /// it, at another endpoint.
    #[schemars(extend("x-unset" = "until the deadline"))]
    pub(crate) attempt_timeout: Option<Span>,
    /// Longest time to open a connection.
    #[schemars(extend("x-reload" = "new connections"))]
    pub(crate) connect_timeout: Span,
    /// Requests that one endpoint may have in flight.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unset" = "no limit"))]
    pub(crate) max_in_flight: Option<u32>,
    /// Requests that the pool may have at once; over it they are refused. `adaptive`: learnt from how long answers take
    /// (Gradient2), between 1 and `capacity.slots`. For pools whose capacity is not known or changes.
    #[schemars(extend("x-unset" = "as many as the tiers' slots"))]
    pub(crate) limit: Option<Limit>,
    /// The healthy share of its endpoints under which all of them are asked, for few would only fall over too. 0: only once
    /// none is healthy.
    pub(crate) panic_threshold: Ratio,
    /// How long an endpoint that is new, or back after an outage or an ejection, works up to its share of the requests; 0s:
    /// none is spared.
    pub(crate) slow_start: Span,
    /// When an endpoint that is worse than the others is left out for a while.
    pub(crate) outlier: Outlier,
    /// Zone of its endpoints; the gateway's own zone is preferred.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) zone: Option<String>,
    /// Region of its endpoints, as `/readyz?region=` names it.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) region: Option<String>,
    /// Pool that takes over when this one's healthy share is too small.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) failover: Option<Failover>,
    /// Where GPU memory and queue depth are read.
    #[schemars(extend("x-unset" = "not read"))]
    pub(crate) gpu: Option<Gpu>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            health: Health::default(),
            breaker: Breaker::default(),
            retry: PoolRetry::default(),
            hedge: None,
            attempt_timeout: None,
            connect_timeout: Span::secs(1),
            max_in_flight: None,
            limit: None,
            panic_threshold: Ratio(0.5),
            slow_start: Span::secs(10),
            outlier: Outlier::default(),
            zone: None,
            region: None,
            failover: None,
            gpu: None,
        }
    }
}

/// How a pool's limit comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    Adaptive,
}

/// A server: the URL of its HTTP port, or both of its ports.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Endpoint {
    Url(String),
    Ports(Ports),
}

/// A server's ports, or where servers are found.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ports {
    /// Its HTTP port: `http://host:port`.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) http: Option<String>,
    /// Its gRPC port: `http://host:port`.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) grpc: Option<String>,
    /// A name and an HTTP port, as `host:port`. Each address that the name has is an endpoint of its own, as the pods behind a
    /// headless Service are.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) dns: Option<String>,
    /// The gRPC port at the addresses of `dns`.
    #[schemars(range(min = 1, max = 65_535), extend("x-unset" = "none"))]
    pub(crate) grpc_port: Option<u16>,
    /// How often `dns` is resolved again. What was found last is kept while it cannot be.
    #[schemars(extend("x-unset" = "5s"))]
    pub(crate) refresh: Option<Span>,
    /// A YAML or JSON file with a list of endpoints, followed as it changes.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) file: Option<String>,
    /// Its zone.
    #[schemars(extend("x-unset" = "the pool's"))]
    pub(crate) zone: Option<String>,
}

/// When an endpoint that is worse than the others is left out for a while.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Outlier {
    /// How often the endpoints are compared.
    pub(crate) interval: Span,
    /// How long one is left out, times how often it was of late.
    pub(crate) base_ejection: Span,
    /// How long one is left out at most.
    pub(crate) max_ejection: Span,
    /// Share of a pool that may be left out at once; 0: ejection is off.
    pub(crate) max_ejected: Ratio,
    /// One whose answers take this many times as long as they usually do in the pool is left out.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) latency: f64,
    /// By how much they must take longer besides.
    pub(crate) latency_floor: Span,
    /// One of whose answers at least this share are failures is left out.
    pub(crate) failures: Ratio,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            interval: Span::secs(10),
            base_ejection: Span::secs(30),
            max_ejection: Span::secs(300),
            max_ejected: Ratio(0.5),
            latency: 3.0,
            latency_floor: Span::ms(5),
            failures: Ratio(0.85),
        }
    }
}

/// Active health checks.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Health {
    /// Path that answers 200 while the server is ready.
    pub(crate) path: String,
    /// Time between checks. An endpoint that failed its last one, or whose breaker is open, is checked ten times as often.
    pub(crate) interval: Span,
    /// Longest time of one check.
    pub(crate) timeout: Span,
}

impl Default for Health {
    fn default() -> Self {
        Self { path: "/v2/health/ready".into(), interval: Span::secs(5), timeout: Span::secs(1) }
    }
}

/// When a breaker trips and how it closes.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Breaker {
    /// Failures without a success between them, inside `window`, that open it.
    #[schemars(range(min = 1))]
    pub(crate) failure_threshold: u32,
    /// How far back answers count.
    pub(crate) window: Span,
    /// Share of successes under which it opens as well, of 20 answers or more inside `window`; 0: only failures in a row open it.
    pub(crate) success_rate: Ratio,
    /// How long it stays open.
    pub(crate) open_for: Span,
    /// How long it may stay open at most when probes keep failing: each time twice as long as before.
    #[schemars(extend("x-unset" = "as open_for"))]
    pub(crate) max_open_for: Option<Span>,
    /// Probes let through while half-open, one at a time.
    #[schemars(range(min = 1))]
    pub(crate) half_open_requests: u32,
    /// Successful probes that close it.
    #[schemars(range(min = 1))]
    pub(crate) success_threshold: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            window: Span::secs(10),
            success_rate: Ratio(0.8),
            open_for: Span::secs(30),
            max_open_for: None,
            half_open_requests: 3,
            success_threshold: 3,
        }
    }
}

/// A retry profile's numbers, whichever section they come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) max_retries: u32,
    pub(crate) initial_delay: Span,
    pub(crate) max_delay: Span,
    pub(crate) multiplier: f64,
    pub(crate) jitter: Ratio,
}

macro_rules! retry {
    ($name:ident, $about:literal, $retries:literal, $initial:literal, $max:literal, $jitter:literal $(, $budget:ident: $share:literal, $whose:literal)?) => {
        #[doc = $about]
        ///
        /// The delay before retry n is `min(max_delay, initial_delay · multiplierⁿ) · (1 ± jitter)`.
        #[derive(Debug, Deserialize, Serialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct $name {
            /// Attempts after the first.
            #[schemars(range(max = 100))]
            pub(crate) max_retries: u32,
            /// Delay before the first retry.
            pub(crate) initial_delay: Span,
            /// Longest delay.
            pub(crate) max_delay: Span,
            /// How much longer each delay is than the one before; at least 1.
            #[schemars(range(min = 1, max = 100))]
            pub(crate) multiplier: f64,
            /// How far a delay is spread either way.
            pub(crate) jitter: Ratio,
            $(
                #[doc = $whose]
                pub(crate) $budget: Ratio,
            )?
        }

        impl $name {
            /// Its numbers.
            pub(crate) fn profile(&self) -> Profile {
                Profile {
                    max_retries: self.max_retries,
                    initial_delay: self.initial_delay,
                    max_delay: self.max_delay,
                    multiplier: self.multiplier,
                    jitter: self.jitter,
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    max_retries: $retries,
                    initial_delay: Span::ms($initial),
                    max_delay: Span::ms($max),
                    multiplier: 2.0,
                    jitter: Ratio($jitter),
                    $($budget: Ratio($share),)?
                }
            }
        }
    };
}

retry!(
    PoolRetry, "How a failed attempt is made again.", 2, 100, 1000, 0.2,
    budget: 0.2, "Share of extra load that retries and hedges may cause together."
);
retry!(
    FeatureRetry, "How a failed lookup is made again.", 3, 50, 500, 0.1,
    budget: 0.2, "Share of extra load of L2 that retries may cause."
);
retry!(SpoolRetry, "How a kept request is tried again.", 5, 60_000, 3_600_000, 0.3);

/// A second attempt at slow requests.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hedge {
    /// When the second attempt starts: a percentile of the model's last answers, `p50` to `p99.9`, or a duration.
    pub(crate) after: String,
    /// Share of extra load that hedges may cause; part of `retry.budget`.
    pub(crate) share: Ratio,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { after: "p95".into(), share: Ratio(0.02) }
    }
}

/// The pool that takes over: its name, or its name and when.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Failover {
    Pool(String),
    Rule(FailoverRule),
}

impl Failover {
    /// The pool's name.
    pub(crate) fn pool(&self) -> Option<&str> {
        match self {
            Self::Pool(pool) => Some(pool),
            Self::Rule(rule) => rule.pool.as_deref(),
        }
    }
}

/// When another pool takes over.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FailoverRule {
    /// The pool that takes over.
    #[schemars(extend("x-required" = true))]
    pub(crate) pool: Option<String>,
    /// The healthy share under which it does.
    pub(crate) threshold: Ratio,
    /// How long the share must be back at the threshold before requests go back.
    pub(crate) back_after: Span,
}

impl Default for FailoverRule {
    fn default() -> Self {
        Self { pool: None, threshold: Ratio(0.5), back_after: Span::secs(10) }
    }
}

/// Where a pool's GPU figures come from.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gpu {
    /// URL of a metrics page: the DCGM exporter's, vLLM's or Triton's.
    #[schemars(extend("x-required" = true))]
    pub(crate) metrics: Option<String>,
    /// How often it is read. What is older than three of these counts as unknown.
    pub(crate) interval: Span,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { metrics: None, interval: Span::secs(5) }
    }
}
