//! A small whole configuration for unit tests, made of the types themselves so that no test depends on the parser.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    config::{
        Balance, Breaker, Capacity, Column, Compat, Config, Consistency, Drain, Endpoint, Feature, Features, Health,
        Inputs, Join, L1, L1Mode, L2, L3, Ladder, LadderMode, Limit, Listen, Model, Outlier, Pool, Predictions,
        PushSource, Redis, RedisMode, Retry, Secret, Spool, SpoolStore, Tier, Times, Upstream, View,
    },
    infer::{
        Datatype, Deadline, EntityType, FeatureType, InferRequest, Method, ModelId, Payload, PoolId, Protocol,
        RequestId, TierId, Value, ViewId, WorkerId, request::Caching,
    },
};

/// Two tiers of ten slots (`high`: 4 reserved, at most 6; `standard`: 3 reserved, at most 10; 3 shared), pools `gpu` and
/// `explainers`, models `fraud` (joins `user_stats`, has an explainer) and `lite` (joins nothing).
pub(crate) fn config() -> Config {
    Config {
        allow_repository: false,
        listen: listen(),
        workers: 2,
        capacity: Capacity { slots: 10, shared: 0.3, burst_pool: None },
        tiers: vec![tier("high", 0.4, 0.6), tier("standard", 0.3, 1.0)],
        pools: vec![pool("gpu", 2), pool("explainers", 0)],
        models: vec![fraud(), lite()],
        model_ids: [("fraud".into(), ModelId(0)), ("lite".into(), ModelId(1))].into_iter().collect(),
        features: features(),
        ladder: ladder(),
        predictions: Predictions { capacity: 64 << 20, l2: None },
        mlflow: None,
        drain: Drain { delay: Duration::from_secs(5), deadline: Duration::from_secs(30) },
        spool: Spool {
            store: SpoolStore::Embedded { path: None },
            keep_for: Duration::from_secs(86_400),
            max_entries: 100_000,
            max_bytes: 1 << 30,
            retry: Retry {
                max_retries: 5,
                initial_delay: Duration::from_secs(60),
                max_delay: Duration::from_secs(3600),
                multiplier: 2.0,
                jitter: 0.3,
            },
            log: true,
        },
        metrics_aliases: true,
        notices: vec!["pools.gpu.hedge: not acted on yet".into()],
        warnings: Vec::new(),
    }
}

/// A held request for `model` under `tier`, due `timeout` from `now`.
pub(crate) fn request(model: u32, tier: u32, timeout: Duration) -> InferRequest {
    InferRequest {
        id: RequestId(http::HeaderValue::from_static("request-1")),
        worker: WorkerId(0),
        protocol: Protocol::V2Json,
        method: Method::Predict,
        verb: http::Method::POST,
        path: http::uri::PathAndQuery::from_static("/"),
        model: ModelId(model),
        version: None,
        tier: TierId(tier),
        deadline: Deadline::after(Instant::now(), timeout),
        caching: Caching::Allowed,
        headers: Arc::default(),
        json_length: None,
        payload: Payload::Retained(Bytes::from_static(b"{}")),
        as_came: None,
    }
}

/// As documented.
pub(crate) fn ladder() -> Ladder {
    Ladder {
        mode: LadderMode::Act,
        feature_p99: Duration::from_millis(100),
        gpu_memory: 0.9,
        enter_after: Duration::from_secs(1),
        exit_after: Duration::from_secs(10),
    }
}

fn listen() -> Listen {
    Listen {
        http: ([0, 0, 0, 0], 8080).into(),
        grpc: Some(([0, 0, 0, 0], 8081).into()),
        admin: ([0, 0, 0, 0], 9090).into(),
        admin_token: Some(Secret("open-sesame".into())),
        max_body: 64 << 20,
        hold_body: 64 << 10,
        hold_bodies: 256 << 20,
        max_rows: 10_000,
        idle_timeout: Duration::from_secs(10),
        send_timeout: Duration::from_secs(10),
        max_connection_age: Duration::from_secs(600),
    }
}

fn tier(name: &str, reserved: f64, max: f64) -> Tier {
    Tier {
        name: name.into(),
        pool: None,
        reserved,
        max,
        queue: 2,
        queue_timeout: Duration::from_millis(50),
        low_priority: false,
    }
}

fn pool(name: &str, max_retries: u32) -> Pool {
    let port = |port| Some(Upstream { authority: format!("gpu:{port}").into(), host: "gpu".into(), port });
    Pool {
        name: name.into(),
        endpoints: vec![Endpoint { name: "gpu:9000".into(), http: port(9000), grpc: port(9001), zone: None }],
        discovery: Vec::new(),
        balance: balance(),
        region: None,
        failover: None,
        health: Health {
            path: "/v2/health/ready".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
        },
        breaker: breaker(),
        retry: retry(max_retries),
        retry_budget: 0.2,
        hedge: None,
        attempt_timeout: Some(Duration::from_millis(80)),
        connect_timeout: Duration::from_secs(1),
        max_in_flight: Some(64),
        limit: Limit::None,
        gpu: None,
    }
}

/// As documented.
pub(crate) fn balance() -> Balance {
    Balance {
        own_zone: None,
        panic_threshold: 0.5,
        slow_start: Duration::from_secs(10),
        outlier: Outlier {
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected: 0.5,
            latency: 3.0,
            latency_floor: Duration::from_millis(5),
            failures: 0.85,
        },
    }
}

/// As documented.
pub(crate) fn breaker() -> Breaker {
    Breaker {
        failure_threshold: 5,
        window: Duration::from_secs(10),
        success_rate: 0.8,
        open_for: Duration::from_secs(30),
        max_open_for: Duration::from_secs(30),
        half_open_requests: 3,
        success_threshold: 3,
    }
}

fn retry(max_retries: u32) -> Retry {
    Retry {
        max_retries,
        initial_delay: Duration::from_millis(100),
        max_delay: Duration::from_secs(1),
        multiplier: 2.0,
        jitter: 0.2,
    }
}

fn fraud() -> Model {
    Model {
        name: "fraud".into(),
        tier: TierId(0),
        pool: PoolId(0),
        upstream: "fraud-v2".into(),
        registered: "fraud-v2".into(),
        timeout: Duration::from_millis(200),
        idempotent: true,
        joins: vec![Join {
            view: ViewId(0),
            label: "user_stats".into(),
            sources: vec!["user_id".into()],
            select: vec![0],
            optional: false,
        }],
        inputs: Some(Inputs::Matrix {
            name: "input-0".into(),
            datatype: Datatype::Fp32,
            columns: vec![Column::Request("amount".into()), Column::Feature { join: 0, select: 0 }],
        }),
        explainer: Some(PoolId(1)),
        fallback: None,
        cache: None,
        ensemble: None,
        queue_on_reject: false,
        low_priority: false,
    }
}

fn lite() -> Model {
    Model {
        name: "lite".into(),
        tier: TierId(1),
        upstream: "lite".into(),
        registered: "lite".into(),
        joins: Vec::new(),
        inputs: None,
        explainer: None,
        ..fraud()
    }
}

/// One Redis server, all else as documented.
pub(crate) fn redis(urls: Vec<Secret>) -> Redis {
    Redis {
        urls,
        mode: RedisMode::Single,
        ca: None,
        ttl: Duration::from_secs(86_400),
        timeout: Duration::from_millis(20),
        connections: 2,
        max_in_flight: 1024,
        replicas: None,
        dr: None,
    }
}

fn features() -> Features {
    let view = View {
        id: ViewId(0),
        name: "user_stats".into(),
        stored: "user_stats".into(),
        entities: vec![("user_id".into(), EntityType::Int64)],
        features: vec![Feature {
            name: "txn_count_1h".into(),
            kind: FeatureType::Int64,
            default: Value::Int64(7),
            length: None,
        }],
        ttl: Duration::from_secs(300),
        max_age: None,
        consistency: Consistency::Ttl,
    };
    Features {
        project: "fraud".into(),
        push_sources: vec![PushSource { name: "user_stats".into(), views: vec![ViewId(0)] }],
        times: vec![Times::default()],
        views: vec![Arc::new(view)],
        registry: None,
        services: Vec::new(),
        entity_names: Vec::new(),
        unserved: Vec::new(),
        compat: Compat::Truthful,
        l1: L1 {
            mode: L1Mode::Serve,
            capacity: 100 << 20,
            ttl: Duration::from_secs(60),
            stale_for: Duration::from_secs(600),
            negative_ttl: Duration::from_secs(5),
            warm_start: None,
        },
        l2: L2::Redis(redis(vec![Secret("redis://:hunter2@redis:6379".into())])),
        l3: Some(L3 { url: "s3://features/lookup".into(), timeout: Duration::from_millis(150) }),
        retry: retry(3),
        retry_budget: 0.2,
        breaker: breaker(),
        hot_keys: None,
        kafka: None,
        invalidate: crate::config::Invalidate::default(),
        lease: Duration::from_secs(2),
    }
}
