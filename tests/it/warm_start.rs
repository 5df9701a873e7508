//! Warm start: a gateway that starts again serves the rows it was asked for most from memory at once, and nothing about that
//! can keep it from starting.

use std::{path::Path, time::Duration};

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value},
};
use serde_json::json;

use crate::support::{
    Redis, RedisCluster, Weir, http1,
    metrics::await_metric,
    process::Folder,
    vectors::{self, StoredHash},
};

const PROJECT: &str = "warm";
const DRAIN: Duration = Duration::from_secs(60);
/// The keys' name in Redis.
const OWN: &str = "weir:warm:hot-keys-v1";

/// A driver's row of both views.
fn stored(driver: i64, rate: f64) -> StoredHash {
    let key = EntityKey::new([("driver_id", &EntityValue::Int64(driver))].into_iter());
    let mut value = Vec::new();
    encode_value(&Value::Double(rate), &mut value);
    StoredHash {
        key: [key.as_bytes(), PROJECT.as_bytes()].concat(),
        fields: ["driver_stats:acc_rate", "live:speed"].map(|name| (vectors::field(name), value.clone())).into(),
        entity: Vec::new(),
        features: std::collections::BTreeMap::new(),
        views: Vec::new(),
    }
}

const RATES: &str = "    driver_stats: {entities: {driver_id: INT64}, features: {acc_rate: {type: DOUBLE}}}\n";
const LIVE: &str = "    live: {entities: {driver_id: INT64}, features: {speed: {type: DOUBLE}}}\n";

fn config(l2: &str, warm_start: &str, views: &str) -> String {
    format!(
        "drain: {{delay: 0s, deadline: 20s}}\nfeatures:\n  project: {PROJECT}\n  l2: {{{l2}, timeout: 5s}}\n  \
         l1: {{ttl: 1h, warm_start: {{{warm_start}, timeout: 60s}}}}\n  views:\n{views}"
    )
}

/// The values of a driver, and what the caches did.
fn ask(weir: &Weir, feature: &str, drivers: &[i64]) -> (Vec<f64>, String) {
    let body = json!({"features": [feature], "entities": {"driver_id": drivers}}).to_string();
    let answer = weir.connect().post("/get-online-features", body).expect(200);
    let column = answer.json()["results"][1]["values"].clone();
    let values = column.as_array().expect("values").iter().map(|value| value.as_f64().expect("a number")).collect();
    (values, answer.header("cache-status").expect("what the caches did"))
}

fn stop(mut weir: Weir) {
    weir.process().signal("TERM");
    assert_eq!(weir.process().wait(DRAIN).code(), Some(0), "{}", weir.process().log());
}

/// How many of the saved keys became that.
fn keys(weir: &Weir, outcome: &str) -> f64 {
    weir.metrics().count("weir_l1_warm_up_keys_total", &[("outcome", outcome)])
}

/// Two processes, one after the other; the second finds what the first was asked for.
fn comes_back(l2: &str, warm_start: &str, load: impl Fn(&[StoredHash]), reads: impl Fn() -> u64) {
    load(&[stored(1, 0.5), stored(2, 0.25), stored(3, 0.125)]);
    let config = config(l2, warm_start, &[RATES, LIVE].concat());
    let weir = Weir::start(&config);
    assert_eq!(weir.metrics().count("weir_l1_warm_ups_total", &[("outcome", "nothing")]), 1.0);
    assert_eq!(ask(&weir, "driver_stats:acc_rate", &[1, 2]).0, [0.5, 0.25]);
    assert_eq!(ask(&weir, "live:speed", &[3]).0, [0.125]);
    stop(weir);
    // Keys are saved, not rows.
    load(&[stored(1, 0.75)]);
    let before = reads();
    let weir = Weir::start(&config);
    assert_eq!(reads(), before + 3, "each saved key is read once");
    assert_eq!(ask(&weir, "driver_stats:acc_rate", &[1, 2]), (vec![0.75, 0.25], "weir-l1; hit".to_owned()));
    assert_eq!(ask(&weir, "live:speed", &[3]), (vec![0.125], "weir-l1; hit".to_owned()));
    assert_eq!(reads(), before + 3, "Redis is not asked for them again");
    assert_eq!(keys(&weir, "read"), 3.0);
    assert_eq!(weir.metrics().count("weir_l1_warm_ups_total", &[("outcome", "done")]), 1.0);
    stop(weir);
}

#[test]
fn keys_in_a_file_come_back() {
    let (redis, folder) = (Redis::start(), Folder::new("keys"));
    let file = folder.path().join("keys");
    let save_to = format!("save_to: {}", file.display());
    comes_back(&format!("redis: [{}]", redis.url()), &save_to, |rows| redis.load(rows), || redis.calls("hmget"));
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("a file")).collect();
    assert_eq!(left.len(), 1, "no temporary file is left: {left:?}");
}

#[test]
fn keys_in_redis_come_back_and_have_a_life() {
    let redis = Redis::start();
    let l2 = format!("redis: [{}], ttl: 1h", redis.url());
    comes_back(&l2, "save_to: l2", |rows| redis.load(rows), || redis.calls("hmget"));
    let mut connection = redis.connection();
    let life: i64 = redis::cmd("PTTL").arg(OWN).query(&mut connection).expect("Redis runs");
    assert!((3_000_000..=3_600_000).contains(&life), "{life} ms");
    let size: u64 = redis::cmd("DBSIZE").query(&mut connection).expect("Redis runs");
    assert_eq!(size, 3 + 1, "three drivers, and the list");
}

#[test]
fn keys_in_a_cluster_come_back() {
    let cluster = RedisCluster::of_masters();
    let reads = || cluster.nodes().iter().map(|node| node.calls("hmget")).sum();
    let l2 = format!("redis: {}, mode: cluster", cluster.urls());
    comes_back(&l2, "save_to: l2", |rows| cluster.load(rows), reads);
}

#[test]
fn the_hottest_come_back() {
    let (redis, folder) = (Redis::start(), Folder::new("keys"));
    redis.load(&(0..40).map(|driver| stored(driver, 0.5)).collect::<Vec<_>>());
    let warm_start = format!("save_to: {}, save_every: 1h, max_keys: 2", folder.path().join("keys").display());
    let config = config(&format!("redis: [{}]", redis.url()), &warm_start, &[RATES, LIVE].concat());
    let weir = Weir::start(&config);
    ask(&weir, "driver_stats:acc_rate", &(0..40).collect::<Vec<_>>());
    // Of lookups one in sixteen is counted, with luck: so many that luck does not matter.
    for _ in 0..1000 {
        ask(&weir, "driver_stats:acc_rate", &[7, 23]);
    }
    stop(weir);
    let before = redis.calls("hmget");
    let weir = Weir::start(&config);
    assert_eq!(redis.calls("hmget"), before + 2);
    assert_eq!(ask(&weir, "driver_stats:acc_rate", &[7, 23]).1, "weir-l1; hit");
    assert_eq!(redis.calls("hmget"), before + 2);
}

#[test]
fn they_are_saved_while_it_serves() {
    let (redis, folder) = (Redis::start(), Folder::new("keys"));
    redis.load(&[stored(1, 0.5)]);
    let warm_start = format!("save_to: {}, save_every: 1s", folder.path().join("keys").display());
    let config = config(&format!("redis: [{}]", redis.url()), &warm_start, RATES);
    let mut weir = Weir::start(&config);
    ask(&weir, "driver_stats:acc_rate", &[1]);
    await_metric(weir.admin(), "weir_l1_key_saves_total", &[("outcome", "saved")], |saved| saved > 0.0);
    await_metric(weir.admin(), "weir_l1_saved_keys", &[], |keys| keys == 1.0);
    // Not even drained.
    weir.process().signal("KILL");
    weir.process().wait(DRAIN);
    let weir = Weir::start(&config);
    assert_eq!(ask(&weir, "driver_stats:acc_rate", &[1]).1, "weir-l1; hit");
}

#[test]
fn what_cannot_be_read_costs_a_line_in_the_log() {
    let (redis, folder) = (Redis::start(), Folder::new("keys"));
    redis.load(&[stored(1, 0.5)]);
    let path = folder.path().join("keys");
    let config = config(&format!("redis: [{}]", redis.url()), &format!("save_to: {}", path.display()), RATES);
    let fresh = || {
        let mut weir = Weir::start(&config);
        let log = weir.process().log();
        assert_eq!(ask(&weir, "driver_stats:acc_rate", &[1]).1, "weir-l1; fwd=miss, weir-l2; hit");
        let refused = weir.metrics().count("weir_l1_warm_ups_total", &[("outcome", "refused")]);
        stop(weir);
        (refused, log)
    };
    assert_eq!(fresh().0, 0.0);
    let good = std::fs::read(&path).expect("it was saved");
    let mut flipped = good.clone();
    flipped[25] ^= 1;
    let mut foreign = good.clone();
    foreign[8] = 200;
    for (content, said) in [
        (b"rows, or so".to_vec(), "damaged: not a list of keys"),
        (good[..good.len() - 3].to_vec(), "damaged: its checksum is another"),
        (flipped, "damaged: its checksum is another"),
        (foreign, "of version 200; this Weir reads 1"),
        (vec![0; (16 << 20) + 1], "16777217 bytes long; allowed: up to 16777216"),
        (Vec::new(), "damaged: not a list of keys"),
    ] {
        std::fs::write(&path, content).expect("the folder is writable");
        let (refused, log) = fresh();
        assert_eq!(refused, 1.0, "{said}");
        assert!(log.contains("L1 starts empty: the saved keys cannot be read") && log.contains(said), "{log}");
        assert_eq!(std::fs::read(&path).expect("it was saved"), good, "what is damaged is replaced");
    }
}

#[test]
fn keys_of_views_that_are_gone_are_skipped() {
    let (redis, folder) = (Redis::start(), Folder::new("keys"));
    redis.load(&[stored(1, 0.5), stored(2, 0.5)]);
    let config = |views: &str| {
        let save_to = format!("save_to: {}", folder.path().join("keys").display());
        config(&format!("redis: [{}]", redis.url()), &save_to, views)
    };
    let weir = Weir::start(&config(&[RATES, LIVE].concat()));
    ask(&weir, "driver_stats:acc_rate", &[1, 2]);
    ask(&weir, "live:speed", &[1]);
    stop(weir);
    let weir = Weir::start(&config(&LIVE.replace("live", "alive")));
    assert_eq!(["read", "unknown_view"].map(|outcome| keys(&weir, outcome)), [0.0, 3.0]);
    stop(weir);
    // It holds nothing, so what was saved stays.
    let weir = Weir::start(&config(RATES));
    assert_eq!(["read", "unknown_view"].map(|outcome| keys(&weir, outcome)), [2.0, 1.0]);
}

#[test]
fn readyz_names_what_it_waits_for() {
    let redis = Redis::start();
    redis.kill();
    let weir = Weir::unready(&config(&format!("redis: [{}]", redis.url()), "save_to: l2", RATES), &[]);
    let text = http1::get(weir.admin(), "/readyz").expect(503).text();
    assert!(text.contains("l1: its hottest keys are not read yet"), "{text}");
    redis.restart();
    crate::support::process::wait_until("the gateway to be ready", DRAIN, || {
        http1::try_get(weir.admin(), "/readyz") == Some(200)
    });
}

#[test]
fn a_place_that_cannot_be_written_costs_nothing_else() {
    let redis = Redis::start();
    redis.load(&[stored(1, 0.5)]);
    let nowhere = Path::new("/proc/no/such/folder/keys");
    let config = config(&format!("redis: [{}]", redis.url()), &format!("save_to: {}", nowhere.display()), RATES);
    let mut weir = Weir::start(&config);
    ask(&weir, "driver_stats:acc_rate", &[1]);
    weir.process().signal("TERM");
    assert_eq!(weir.process().wait(DRAIN).code(), Some(0));
    assert!(weir.process().log().contains("L1's hottest keys are not saved"), "{}", weir.process().log());
}
