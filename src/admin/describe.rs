//! The config in force as JSON, as the file could have said it: `"50ms"`, `"64MiB"`, shares from 0 to 1. Secrets are `***`, also inside URLs.
//!
//! It describes; it is no format that anything reads back.

mod features;

use std::time::Duration;

use serde_json::{Value as Json, json};

pub(super) use self::features::{features, hot_keys};

use crate::{
    config::{
        Breaker, Column, Config, Discovery, Endpoint, Ensemble, Failover, Fallback, Gpu, Hedge, HedgeAfter, Inputs,
        Join, Ladder, LadderMode, Mlflow, MlflowAccess, Model, Outlier, Pool, PredictionCache, Predictions, Retry,
        Size, Span, Spool, SpoolStore, Tier, Upstream, without_password,
    },
    infer::{Output, decoded::Scalar, outputs::Combine},
};

/// Everything.
pub(super) fn config(config: &Config) -> Json {
    let listen = &config.listen;
    json!({
        "listen": {
            "http": listen.http.to_string(),
            "grpc": listen.grpc.map(|address| address.to_string()),
            "admin": listen.admin.to_string(),
            "admin_token": listen.admin_token.as_ref().map(|_| "***"),
            "max_body": size(listen.max_body),
            "hold_body": size(listen.hold_body as u64),
            "hold_bodies": size(listen.hold_bodies),
            "max_rows": listen.max_rows,
            "idle_timeout": length(listen.idle_timeout),
            "send_timeout": length(listen.send_timeout),
            "max_connection_age": length(listen.max_connection_age),
        },
        "workers": config.workers,
        "capacity": {
            "slots": config.capacity.slots,
            "shared": config.capacity.shared,
            "burst_pool": config.capacity.burst_pool.map(|pool| &*config.pool(pool).name),
        },
        "tiers": tiers(config),
        "pools": pools(config),
        "models": models(config),
        "features": features(config),
        "ladder": ladder(&config.ladder),
        "allow_repository": config.allow_repository,
        "predictions": predictions(&config.predictions),
        "mlflow": config.mlflow.as_ref().map(mlflow),
        "drain": {"delay": length(config.drain.delay), "deadline": length(config.drain.deadline)},
        "spool": spool(config),
        "metrics": {"aliases": config.metrics_aliases},
        "notices": config.notices,
        "warnings": config.warnings,
    })
}

fn ladder(ladder: &Ladder) -> Json {
    let Ladder { mode, feature_p99, gpu_memory, enter_after, exit_after } = ladder;
    json!({
        "mode": match mode {
            LadderMode::Act => "act",
            LadderMode::Observe => "observe",
        },
        "feature_p99": length(*feature_p99),
        "gpu_memory": gpu_memory,
        "enter_after": length(*enter_after),
        "exit_after": length(*exit_after),
    })
}

fn predictions(predictions: &Predictions) -> Json {
    let Predictions { capacity, l2 } = predictions;
    json!({"capacity": size(*capacity), "l2": l2.is_some()})
}

fn mlflow(mlflow: &Mlflow) -> Json {
    let Mlflow { secret, tolerance, server, aliases } = mlflow;
    let (token, username) = match server.as_ref().map(|server| &server.access) {
        Some(MlflowAccess::Bearer(_)) => (Some("***"), None),
        Some(MlflowAccess::Basic(user, _)) => (None, Some(&**user)),
        Some(MlflowAccess::Anonymous) | None => (None, None),
    };
    json!({
        "secret": secret.as_ref().map(|_| "***"),
        "tolerance": length(*tolerance),
        "url": server.as_ref().map(|server| without_credentials(&server.url)),
        "token": token,
        "username": username,
        "password": username.map(|_| "***"),
        "reconcile_every": server.as_ref().map(|server| length(server.every)),
        "timeout": server.as_ref().map(|server| length(server.timeout)),
        "aliases": aliases.as_ref().map(|aliases| aliases.iter().map(|alias| json!(&**alias)).collect::<Json>()),
    })
}

fn spool(config: &Config) -> Json {
    let Spool { store, keep_for, max_entries, max_bytes, retry, log } = &config.spool;
    let place = match store {
        SpoolStore::Redis { .. } => "redis".into(),
        SpoolStore::Embedded { path: Some(path) } => path.display().to_string(),
        SpoolStore::Embedded { path: None } => "memory".into(),
    };
    json!({"store": place, "keep_for": length(*keep_for), "max_entries": max_entries, "max_bytes": size(*max_bytes), "retry": self::retry(retry, None), "log": log})
}

/// The tiers, highest first.
pub(super) fn tiers(config: &Config) -> Json {
    let tier = |tier: &Tier| {
        json!({
            "name": &*tier.name,
            "pool": tier.pool.map(|pool| &*config.pool(pool).name),
            "reserved": tier.reserved,
            "max": tier.max,
            "queue": tier.queue,
            "queue_timeout": length(tier.queue_timeout),
            "low_priority": tier.low_priority,
        })
    };
    config.tiers.iter().map(tier).collect()
}

/// The pools.
pub(super) fn pools(config: &Config) -> Json {
    config.pools.iter().map(|each| pool(config, each)).collect()
}

fn pool(config: &Config, pool: &Pool) -> Json {
    let url = |upstream: &Option<Upstream>| upstream.as_ref().map(|upstream| format!("http://{}", upstream.authority));
    let endpoint = |endpoint: &Endpoint| json!({"http": url(&endpoint.http), "grpc": url(&endpoint.grpc), "zone": endpoint.zone.as_deref()});
    let endpoints = pool.endpoints.iter().map(endpoint).chain(pool.discovery.iter().map(discovery));
    json!({
        "name": &*pool.name,
        "endpoints": endpoints.collect::<Json>(),
        "region": pool.region.as_deref(),
        "failover": pool.failover.as_ref().map(|to| failover(config, to)),
        "panic_threshold": pool.balance.panic_threshold,
        "slow_start": length(pool.balance.slow_start),
        "outlier": outlier(&pool.balance.outlier),
        "health": {
            "path": &*pool.health.path,
            "interval": length(pool.health.interval),
            "timeout": length(pool.health.timeout),
        },
        "breaker": breaker(&pool.breaker),
        "retry": retry(&pool.retry, Some(pool.retry_budget)),
        "hedge": pool.hedge.as_ref().map(hedge),
        "attempt_timeout": pool.attempt_timeout.map(length),
        "connect_timeout": length(pool.connect_timeout),
        "max_in_flight": pool.max_in_flight,
        "limit": pool.limit.is_adaptive().then_some("adaptive"),
        "gpu": pool.gpu.as_ref().map(gpu),
    })
}

fn gpu(Gpu { server, path, interval }: &Gpu) -> Json {
    json!({"metrics": without_credentials(&format!("http://{}{path}", server.authority)), "interval": length(*interval)})
}

fn discovery(discovery: &Discovery) -> Json {
    match discovery {
        Discovery::Dns(dns) => json!({
            "dns": &*dns.http.authority,
            "grpc_port": dns.grpc_port,
            "refresh": length(dns.refresh),
            "zone": dns.zone.as_deref(),
        }),
        Discovery::File(file) => json!({"file": file.path, "zone": file.zone.as_deref()}),
    }
}

fn failover(config: &Config, to: &Failover) -> Json {
    json!({"pool": &*config.pool(to.pool).name, "threshold": to.threshold, "back_after": length(to.back_after)})
}

fn outlier(outlier: &Outlier) -> Json {
    json!({
        "interval": length(outlier.interval),
        "base_ejection": length(outlier.base_ejection),
        "max_ejection": length(outlier.max_ejection),
        "max_ejected": outlier.max_ejected,
        "latency": outlier.latency,
        "latency_floor": length(outlier.latency_floor),
        "failures": outlier.failures,
    })
}

/// The models.
pub(super) fn models(config: &Config) -> Json {
    config.models.iter().map(|each| model(config, each)).collect()
}

fn model(config: &Config, model: &Model) -> Json {
    let alone = model.ensemble.is_none();
    json!({
        "name": &*model.name,
        "tier": &*config.tiers[model.tier.index()].name,
        "pool": alone.then(|| &*config.pool(model.pool).name),
        "upstream_model": alone.then_some(&*model.upstream),
        "registered_model": alone.then_some(&*model.registered),
        "ensemble": model.ensemble.as_ref().map(|each| ensemble(config, each)),
        "timeout": length(model.timeout),
        "idempotent": model.idempotent,
        "queue_on_reject": model.queue_on_reject,
        "low_priority": model.low_priority,
        "features": model.joins.iter().map(|each| join(config, each)).collect::<Json>(),
        "inputs": model.inputs.as_ref().map(|each| inputs(config, model, each)),
        "cache": model.cache.as_ref().map(cache),
        "explainer": model.explainer.map(|pool| json!({"pool": &*config.pool(pool).name})),
        "fallback": model.fallback.as_ref().map(|each| fallback(config, each)),
    })
}

fn cache(PredictionCache { ttl, keep_for, entity, headers }: &PredictionCache) -> Json {
    json!({
        "ttl": length(*ttl),
        "keep_for": length(*keep_for),
        "entity": entity.as_deref(),
        "headers": headers.iter().map(|header| json!(header.as_str())).collect::<Json>(),
    })
}

fn fallback(config: &Config, Fallback { model, rule, reserve, default }: &Fallback) -> Json {
    let output = |output: &Output| {
        let data = output.elements().map(|element| scalar(&element));
        json!({"name": output.name(), "datatype": output.datatype().name(), "shape": output.shape(), "data": data.collect::<Json>()})
    };
    json!({
        "model": model.map(|model| &*config.model(model).name),
        "rule": rule.as_ref().map(|rule| rule.text()),
        "reserve": reserve,
        "default": {"outputs": default.iter().map(output).collect::<Json>()},
    })
}

/// An element of a default output. What JSON has no number for is text, as `NaN`.
fn scalar(element: &Scalar<'_>) -> Json {
    let number = |value: f64| if value.is_finite() { json!(value) } else { json!(value.to_string()) };
    match element {
        Scalar::Bool(value) => json!(value),
        Scalar::Int(value) => json!(value),
        Scalar::Uint(value) => json!(value),
        // By its shortest text: 0.1 stays 0.1.
        Scalar::Float(value) => number(value.to_string().parse().unwrap_or_else(|_| f64::from(*value))),
        Scalar::Double(value) => number(*value),
        Scalar::Number(text) => json!(text),
        Scalar::Text(text) => json!(text),
        Scalar::Bytes(bytes) => json!(String::from_utf8_lossy(bytes)),
        Scalar::Null | Scalar::Other => Json::Null,
    }
}

fn ensemble(config: &Config, ensemble: &Ensemble) -> Json {
    json!({
        "members": ensemble.members.iter().map(|member| json!(&*config.model(*member).name)).collect::<Json>(),
        "combine": match ensemble.combine {
            Combine::Mean => "mean",
            Combine::Vote => "vote",
        },
        "weights": ensemble.weights,
    })
}

fn join(config: &Config, join: &Join) -> Json {
    let view = config.view(join.view);
    let sources = view.entities.iter().zip(&join.sources).map(|((key, _), source)| (key.to_string(), json!(&**source)));
    json!({
        "view": &*view.name,
        "join": sources.collect::<serde_json::Map<_, _>>(),
        "select": join.select.iter().map(|feature| json!(&*view.features[*feature].name)).collect::<Json>(),
        "optional": join.optional,
    })
}

fn inputs(config: &Config, model: &Model, inputs: &Inputs) -> Json {
    let column = |column: &Column| match column {
        Column::Request(name) => json!(&**name),
        Column::Feature { join, select } => {
            let join = &model.joins[*join];
            let view = config.view(join.view);
            json!(format!("{}:{}", join.label, view.features[join.select[*select]].name))
        }
    };
    match inputs {
        Inputs::Matrix { name, datatype, columns } => json!({
            "as": "matrix",
            "name": &**name,
            "datatype": datatype.name(),
            "columns": columns.iter().map(column).collect::<Json>(),
        }),
        Inputs::Columns { columns } => json!({
            "as": "columns",
            "columns": columns.iter().map(|each| json!({"name": &*each.name, "from": column(&each.column)})).collect::<Json>(),
        }),
    }
}

fn retry(retry: &Retry, budget: Option<f64>) -> Json {
    let mut json = json!({
        "max_retries": retry.max_retries,
        "initial_delay": length(retry.initial_delay),
        "max_delay": length(retry.max_delay),
        "multiplier": retry.multiplier,
        "jitter": retry.jitter,
    });
    if let Some(budget) = budget {
        json["budget"] = json!(budget);
    }
    json
}

fn hedge(hedge: &Hedge) -> Json {
    let after = match &hedge.after {
        HedgeAfter::Percentile(percentile) => format!("p{percentile}"),
        HedgeAfter::Fixed(after) => length(*after),
    };
    json!({"after": after, "share": hedge.share})
}

fn breaker(breaker: &Breaker) -> Json {
    json!({
        "failure_threshold": breaker.failure_threshold,
        "window": length(breaker.window),
        "success_rate": breaker.success_rate,
        "open_for": length(breaker.open_for),
        "max_open_for": length(breaker.max_open_for),
        "half_open_requests": breaker.half_open_requests,
        "success_threshold": breaker.success_threshold,
    })
}

/// `50ms`, `5s`: as the config writes it.
fn length(length: Duration) -> String {
    Span(length).to_string()
}

/// `64MiB`: as the config writes it.
fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// A URL without what may be secret in it: user, password, query.
fn without_credentials(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(before, _)| before);
    if url.contains("://") { without_password(url) } else { "***".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::EntityType;

    #[test]
    fn types_are_named_as_the_config_names_them() {
        let mut view = crate::config::View::clone(&crate::fixture::config().features.views[0]);
        view.entities[0].1 = EntityType::UnixTimestamp;
        assert_eq!(features::view(&view)["entities"], json!({"user_id": "UNIX_TIMESTAMP"}));
    }

    #[test]
    fn what_stands_below_a_model_is_shown() {
        let text = "
pools: {a: {endpoints: [\"http://h:1\"], gpu: {metrics: \"http://dcgm:9400/metrics\", interval: 5s}}}
allow_repository: true
ladder: {mode: observe, feature_p99: 50ms}
models:
  m:
    low_priority: true
    cache: {ttl: 30s, keep_for: 1h, entity: user_id}
    fallback: {model: n, rule: \"true ? 0.9 : 0.1\", default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.1]}]}}
  n:
";
        let shown = config(&Config::parse(text, "t").unwrap());
        for (pointer, expected) in [
            ("/allow_repository", json!(true)),
            ("/ladder/mode", json!("observe")),
            ("/ladder/feature_p99", json!("50ms")),
            ("/predictions/l2", json!(false)),
            ("/pools/0/gpu", json!({"metrics": "http://dcgm:9400/metrics", "interval": "5s"})),
            ("/models/0/low_priority", json!(true)),
            ("/models/0/cache", json!({"ttl": "30s", "keep_for": "1h", "entity": "user_id", "headers": []})),
            ("/models/0/fallback/model", json!("n")),
            ("/models/0/fallback/rule", json!("true ? 0.9 : 0.1")),
            (
                "/models/0/fallback/default",
                json!({"outputs": [{"name": "score", "datatype": "FP32", "shape": [1], "data": [0.1]}]}),
            ),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer} in {shown:#}");
        }
    }

    #[test]
    fn what_keeps_rows_right_is_shown_as_the_file_says_it() {
        let text = "
zone: a
features:
  project: p
  lease: 3s
  l2:
    redis: redis://s:26379
    mode: sentinel
    master: rows
    read_from: nearest
    max_lag: 500ms
    zones: {10.0.1.: a}
  invalidate: {tracking: true}
";
        let shown = config(&Config::parse(text, "t").unwrap());
        for (pointer, expected) in [
            ("/features/l2/mode", json!("sentinel")),
            ("/features/l2/master", json!("rows")),
            ("/features/l2/read_from", json!("nearest")),
            ("/features/l2/max_lag", json!("500ms")),
            ("/features/l2/zones", json!({"10.0.1.": "a"})),
            ("/features/l2/connections", json!(2)),
            ("/features/lease", json!("3s")),
            ("/features/l1/negative_ttl", json!("5s")),
            ("/features/invalidate", json!({"tracking": true, "kafka": null})),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer} in {shown:#}");
        }
    }

    #[test]
    fn urls_lose_what_may_be_secret() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:pa@ss@host:6379/0", "redis://***@host:6379/0"),
            ("rediss://user:password@host", "rediss://***@host"),
            ("redis+unix:///run/redis.sock?pass=secret", "redis+unix:///run/redis.sock"),
            ("s3://features/lookup", "s3://features/lookup"),
            ("password", "***"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
