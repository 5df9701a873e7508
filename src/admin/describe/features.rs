//! The feature store's part of the config in force.

use serde_json::{Value as Json, json};

use super::{breaker, length, retry, size, without_credentials};
use crate::{
    config::{Config, Consistency, Copies, HotKeys, Kafka, L1Mode, L2, ReadFrom, RedisMode, SaveTo, View, WarmStart},
    infer::Value,
};

/// The feature store.
pub(in crate::admin) fn features(config: &Config) -> Json {
    let features = &config.features;
    let l2 = match &features.l2 {
        L2::Redis(redis) => json!({
            "redis": redis.urls.iter().map(|url| json!(without_credentials(&url.0))).collect::<Json>(),
            "mode": match &redis.mode {
                RedisMode::Single => "single",
                RedisMode::Cluster => "cluster",
                RedisMode::Sentinel { .. } => "sentinel",
            },
            "master": match &redis.mode {
                RedisMode::Sentinel { master } => Some(&**master),
                RedisMode::Single | RedisMode::Cluster => None,
            },
            "ttl": length(redis.ttl),
            "timeout": length(redis.timeout),
            "read_from": redis.replicas.as_ref().map_or("primary", |replicas| match replicas.from {
                ReadFrom::Replicas => "replica",
                ReadFrom::Nearest => "nearest",
            }),
            "connections": redis.connections,
            "max_in_flight": redis.max_in_flight,
            "zones": redis.replicas.as_ref().map(|replicas| zones(&replicas.zones)),
            "max_lag": redis.replicas.as_ref().map(|replicas| length(replicas.max_lag)),
            "dr": redis.dr.as_ref().map(|dr| json!({
                "redis": dr.urls.iter().map(|url| json!(without_credentials(&url.0))).collect::<Json>(),
                "failover_after": length(dr.failover_after),
                "back_after": length(dr.back_after),
            })),
        }),
        L2::FeatureServers(fleet) => json!({
            "feature_server": fleet.servers.iter().map(|server| json!(format!("http://{}", server.authority))).collect::<Json>(),
            "timeout": length(fleet.timeout),
        }),
        L2::Embedded { path, ttl } => json!({"embedded": path, "ttl": length(*ttl)}),
    };
    json!({
        "project": &*features.project,
        "l1": {
            "mode": match features.l1.mode {
                L1Mode::Serve => "serve",
                L1Mode::Observe => "observe",
            },
            "capacity": size(features.l1.capacity),
            "ttl": length(features.l1.ttl),
            "stale_for": length(features.l1.stale_for),
            "negative_ttl": length(features.l1.negative_ttl),
            "warm_start": features.l1.warm_start.as_ref().map(warm_start),
        },
        "l2": l2,
        "l3": features.l3.as_ref().map(|l3| json!({"url": without_credentials(&l3.url), "timeout": length(l3.timeout)})),
        "retry": retry(&features.retry, Some(features.retry_budget)),
        "breaker": breaker(&features.breaker),
        "invalidate": {"tracking": features.invalidate.tracking, "kafka": features.kafka.as_ref().map(kafka)},
        "lease": length(features.lease),
        "views": features.views.iter().map(|each| view(each)).collect::<Json>(),
        "hot_keys": hot_keys(config),
        "registry": features.registry.as_ref().map(
            |registry| json!({"url": without_credentials(&registry.url), "refresh": length(registry.refresh)}),
        ),
        "services": features.services.iter().map(|service| json!(&*service.name)).collect::<Json>(),
        "unserved": features.unserved.iter().map(unserved).collect::<Json>(),
    })
}

/// By what addresses begin with.
fn zones(zones: &[(String, std::sync::Arc<str>)]) -> Json {
    let zones = zones.iter().map(|(begins, zone)| (begins.clone(), json!(&**zone)));
    zones.collect::<serde_json::Map<_, _>>().into()
}

/// How hot keys are found; `null` where they are not looked for.
pub(in crate::admin) fn hot_keys(config: &Config) -> Json {
    let hot = config.features.hot_keys;
    hot.map_or(Json::Null, |HotKeys { share, min_rate, copies }| {
        let copies = match copies {
            Copies::Off => json!("off"),
            Copies::Auto => json!("auto"),
            Copies::Number(count) => json!(count),
        };
        json!({"share": share, "min_rate": min_rate, "copies": copies})
    })
}

fn warm_start(warm: &WarmStart) -> Json {
    json!({
        "save_to": match &warm.save_to {
            SaveTo::L2 => json!("l2"),
            SaveTo::File(path) => json!(path),
        },
        "max_keys": warm.max_keys,
        "save_every": length(warm.save_every),
        "timeout": length(warm.timeout),
    })
}

fn unserved((name, reason): &(std::sync::Arc<str>, std::sync::Arc<str>)) -> Json {
    json!({"name": &**name, "reason": &**reason})
}

pub(super) fn view(view: &View) -> Json {
    let entities = view.entities.iter().map(|(name, kind)| (name.to_string(), json!(kind.name())));
    let features = view.features.iter().map(
        |feature| json!({"name": &*feature.name, "type": feature.kind.name(), "default": value(&feature.default)}),
    );
    json!({
        "name": &*view.name,
        "entities": entities.collect::<serde_json::Map<_, _>>(),
        "features": features.collect::<Json>(),
        "ttl": length(view.ttl),
        "max_age": view.max_age.map(length),
        "consistency": match view.consistency {
            Consistency::Ttl => "ttl",
            Consistency::WriteThrough => "write_through",
            Consistency::Immutable => "immutable",
        },
    })
}

fn kafka(kafka: &Kafka) -> Json {
    let Kafka { brokers, topic, properties, discover_every } = kafka;
    let properties = properties.iter().map(|(key, _)| (key.to_string(), json!("***")));
    json!({
        "brokers": brokers,
        "topic": &**topic,
        "librdkafka": properties.collect::<serde_json::Map<_, _>>(),
        "discover_every": length(*discover_every),
    })
}

/// A default. Bytes that are no text show as their length.
fn value(value: &Value) -> Json {
    let bytes = |bytes: &bytes::Bytes| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(format!("({} bytes)", bytes.len())),
    };
    match value {
        Value::Null => Json::Null,
        Value::Bytes(each) | Value::Opaque(each) => bytes(each),
        Value::String(each) => json!(&**each),
        Value::Int32(each) => json!(each),
        Value::Int64(each) | Value::UnixTimestamp(each) => json!(each),
        Value::Double(each) => json!(each),
        Value::Float(each) => json!(each),
        Value::Bool(each) => json!(each),
        Value::BytesList(list) => list.iter().map(bytes).collect(),
        Value::StringList(list) => list.iter().map(|each| json!(&**each)).collect(),
        Value::Int32List(list) => json!(&**list),
        Value::Int64List(list) | Value::UnixTimestampList(list) => json!(&**list),
        Value::DoubleList(list) => json!(&**list),
        Value::FloatList(list) => json!(&**list),
        Value::BoolList(list) => json!(&**list),
    }
}
