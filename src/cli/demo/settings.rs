//! The demo's configuration file: the smallest one that joins features on the way to a model, with everything embedded.
//!
//! It is written into the demo's folder and read back as any user's file would be; nothing is configured behind its back.

use std::net::SocketAddr;

use serde_json::Value;

/// Where the gateway is to listen; port 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Listen {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// The YAML, for sample models at `models` (HTTP, gRPC) and lookup files under the folder `lookup`.
pub(super) fn yaml(listen: &Listen, models: (SocketAddr, SocketAddr), lookup: &str) -> String {
    let Listen { http, grpc, admin } = listen;
    let (models_http, models_grpc) = models;
    // JSON's strings are YAML's, so any path fits.
    let lookup = Value::from(format!("file://{lookup}"));
    format!(
        r#"# Made by `weir demo`. `weir serve -c` on a copy of it works as long as the demo's sample models run.
listen: {{http: "{http}", grpc: "{grpc}", admin: "{admin}"}}
tiers:
  high: {{pool: sample-models}}
  standard: {{pool: sample-models}}
pools:
  sample-models:
    endpoints:
      - {{http: "http://{models_http}", grpc: "http://{models_grpc}"}}
    health: {{path: /v2/health/ready, interval: 5s}}
models:
  fraud-detector:
    tier: high
    timeout: 2s
    features:
      - {{view: user_stats, join: {{user_id: user_id}}, select: [txn_count_1h, avg_amount_7d]}}
      - {{view: merchant_stats, join: {{merchant_id: merchant_id}}, select: [chargeback_rate]}}
    inputs:
      as: matrix
      name: input-0
      datatype: FP32
      columns: [amount, user_stats:txn_count_1h, user_stats:avg_amount_7d, merchant_stats:chargeback_rate]
  fraud-lite: {{tier: standard, timeout: 2s}}
features:
  project: {PROJECT}
  l1: {{capacity: 100MiB, ttl: 60s, stale_for: 10m}}
  l3: {{url: {lookup}, timeout: 1s}}   # no l2: embedded
  views:
    {USER_STATS}:
      entities: {{user_id: INT64}}
      features: {{txn_count_1h: {{type: INT64, default: 0}}, avg_amount_7d: {{type: DOUBLE, default: 0.0}}}}
      ttl: 5m
      max_age: 720h
    {MERCHANT_STATS}:
      entities: {{merchant_id: STRING}}
      features: {{chargeback_rate: {{type: FLOAT, default: 0.0}}}}
      ttl: 1h
      max_age: 720h
drain: {{delay: 0s, deadline: 5s}}
"#
    )
}

/// The Feast project.
pub(super) const PROJECT: &str = "demo";
/// The view of users.
pub(super) const USER_STATS: &str = "user_stats";
/// The view of merchants.
pub(super) const MERCHANT_STATS: &str = "merchant_stats";
