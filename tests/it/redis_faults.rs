//! A Redis server that hangs, dies or hands its slots over costs its own keys what it must, and no other key anything.
//!
//! Callers keep asking for all rows while things happen; each looks at every value of every answer.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value},
};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{
    Redis, RedisCluster, Weir,
    hand::Echo,
    http1::Http1,
    lookup, measured,
    metrics::await_metric,
    process::{START, wait_until},
    vectors::{self, StoredHash},
};

const PROJECT: &str = "faults";
const DRIVERS: i64 = 60;
/// What stands in for a row that could not be had.
const NONE: i64 = -1;
const PATH: &str = "/v1/models/drivers:predict";

/// The driver's row says who it is of.
fn stored(driver: i64) -> StoredHash {
    let key = EntityKey::new([("driver_id", &EntityValue::Int64(driver))].into_iter());
    let mut value = Vec::new();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    encode_value(&Value::Double(driver as f64), &mut value);
    StoredHash {
        key: [key.as_bytes(), PROJECT.as_bytes()].concat(),
        fields: vec![(vectors::field("driver_stats:acc_rate"), value)],
        entity: Vec::new(),
        features: std::collections::BTreeMap::new(),
        views: Vec::new(),
    }
}

/// Nothing is cached, so that every answer is L2's; nothing is given up that a busy machine only delays.
fn weir(cluster: &RedisCluster, echo: &Echo) -> Weir {
    Weir::start(&format!(
        r#"{}features:
  project: {PROJECT}
  l1: {{capacity: 0B}}
  l2: {{mode: cluster, redis: {}, timeout: 2s}}
  breaker: {{open_for: 2s}}
  views:
    driver_stats: {{entities: {{driver_id: INT64}}, features: {{acc_rate: {{type: DOUBLE, default: {NONE}}}}}}}
"#,
        lookup::model(echo, "acc_rate"),
        cluster.urls()
    ))
}

/// All drivers' rows in one request: 200, and each its own row or the default.
#[track_caller]
fn ask_all(connection: &mut Http1) -> Vec<i64> {
    let instances: Vec<_> = (0..DRIVERS).map(|driver| json!({"driver_id": driver})).collect();
    let answer = connection.post(PATH, json!({"instances": instances}).to_string()).expect(200).json();
    let rows = answer["predictions"].as_array().expect("predictions");
    assert_eq!(rows.len(), instances.len());
    let value = |(driver, row): (usize, &serde_json::Value)| {
        let value = row["acc_rate"].as_f64().unwrap_or_else(|| panic!("no value in {row}"));
        #[expect(clippy::cast_possible_truncation, reason = "small")]
        let value = value as i64;
        assert!(value == NONE || usize::try_from(value) == Ok(driver), "driver {driver} got the row of {value}");
        value
    };
    rows.iter().enumerate().map(value).collect()
}

fn missing(values: &[i64]) -> BTreeSet<usize> {
    (0..values.len()).filter(|driver| values[*driver] == NONE).collect()
}

/// Callers that go on until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Four callers; in no answer may a row be missing but those of `may_miss`.
    fn on(weir: &Weir, may_miss: &BTreeSet<usize>) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let caller = || {
            let (stop, answers, may_miss) = (stop.clone(), answers.clone(), may_miss.clone());
            let mut connection = weir.connect();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let missed = missing(&ask_all(&mut connection));
                    assert!(missed.is_subset(&may_miss), "not asked for in vain: {:?}", missed.difference(&may_miss));
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let callers = (0..4).map(|_| caller()).collect();
        Self { stop, answers, callers }
    }

    /// Waits until as many answers more have come.
    #[track_caller]
    fn go_on(&self, answers: u64) {
        let until = self.answers.load(Ordering::Relaxed) + answers;
        wait_until("more answers", START, || {
            self.callers.iter().any(JoinHandle::is_finished) || self.answers.load(Ordering::Relaxed) >= until
        });
    }

    /// Fails if a caller found anything wrong.
    #[track_caller]
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().expect("every answer was right");
        }
        self.answers.load(Ordering::Relaxed)
    }
}

/// The drivers whose rows that node holds.
fn held_by(node: &Redis) -> BTreeSet<usize> {
    let mut connection = node.connection();
    let held = |driver: &i64| redis::cmd("EXISTS").arg(stored(*driver).key).query(&mut connection).unwrap_or(false);
    (0..DRIVERS).filter(held).map(|driver| usize::try_from(driver).expect("not negative")).collect()
}

fn load(cluster: &RedisCluster) {
    cluster.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
}

#[test]
fn a_shard_that_hangs_costs_the_other_shards_keys_nothing() {
    let (cluster, echo) = (RedisCluster::of_masters(), Echo::listen());
    load(&cluster);
    let weir = weir(&cluster, &echo);
    let hung = &cluster.nodes()[1];
    let on_hung = held_by(hung);
    assert!(!on_hung.is_empty() && on_hung.len() < 60);
    let target = format!("redis/{}", hung.address());
    let state = |state: &'static str| {
        await_metric(weir.admin(), "weir_breaker_state", &[("target", &target), ("state", state)], |is| is > 0.0)
    };
    state("closed");
    let load = Load::on(&weir, &on_hung);
    load.go_on(20);

    hung.freeze();
    state("open");
    let refused = [("target", &*target), ("reason", "open")];
    await_metric(weir.admin(), "weir_redis_refused_total", &refused, |count| count > 0.0);
    let mut connection = weir.connect();
    let asked = Instant::now();
    assert_eq!(missing(&ask_all(&mut connection)), on_hung);
    measured(format_args!(
        "all rows but {} of the shard that hangs in {:?}; L2's timeout is 2 s",
        on_hung.len(),
        asked.elapsed()
    ));
    load.go_on(20);

    hung.thaw();
    state("closed");
    wait_until("the rows of the shard that goes on", START, || missing(&ask_all(&mut connection)).is_empty());
    load.end();
}

#[test]
fn rows_come_back_when_a_replica_takes_over_from_a_killed_master() {
    let (cluster, echo) = (RedisCluster::start(), Echo::listen());
    load(&cluster);
    let everyone: BTreeSet<usize> = (0..60).collect();
    wait_until("every row at a replica too", START, || cluster.sizes().iter().sum::<u64>() == 120);
    let weir = weir(&cluster, &echo);
    let load = Load::on(&weir, &everyone);
    load.go_on(20);
    let mut connection = weir.connect();
    wait_until("every row", START, || missing(&ask_all(&mut connection)).is_empty());
    let master = cluster.nodes().iter().find(|node| !held_by(node).is_empty()).expect("a master");
    let lost = held_by(master);

    master.kill();
    let killed = Instant::now();
    // No other holds its slots yet, so that the first answer with all rows is from after the failover.
    wait_until("every row again", START, || missing(&ask_all(&mut connection)).is_empty());
    measured(format_args!(
        "all rows, {} of them of the killed master, {:?} after it was killed",
        lost.len(),
        killed.elapsed()
    ));
    load.go_on(20);
    measured(format_args!("{} answers under load, none with a wrong row", load.end()));
}

#[test]
fn slots_that_move_under_load_cost_no_answer() {
    let (cluster, echo) = (RedisCluster::of_masters(), Echo::listen());
    load(&cluster);
    let weir = weir(&cluster, &echo);
    let (from, to) = (&cluster.nodes()[0], &cluster.nodes()[2]);
    let (before, at_target) = (held_by(from), held_by(to));
    let load = Load::on(&weir, &BTreeSet::new());
    load.go_on(20);
    // All of its slots, one after the other.
    cluster.reshard(from, to, 5461);
    load.go_on(20);
    assert_eq!(held_by(to), before.union(&at_target).copied().collect());
    measured(format_args!("{} answers while {} rows moved, none of them without a row", load.end(), before.len()));
}

/// One Redis, no L1 and no L3: what it does not say, nobody does.
fn alone(redis: &Redis) -> Weir {
    Weir::start(&format!(
        r#"
features:
  project: {PROJECT}
  l1: {{capacity: 0B}}
  l2: {{redis: [{}], timeout: 2s}}
  retry: {{max_retries: 0}}
  breaker: {{failure_threshold: 1, open_for: 10m}}
  views:
    driver_stats: {{entities: {{driver_id: INT64}}, features: {{acc_rate: {{type: DOUBLE, default: {NONE}}}}}}}
"#,
        redis.url()
    ))
}

#[test]
fn an_open_breaker_says_when_to_come_back_and_how_long_it_is_open() {
    let redis = Redis::start();
    let weir = alone(&redis);
    let target = format!("redis/{}", redis.address());
    let left = || weir.metrics().count("weir_breaker_open_seconds", &[("target", &target)]);
    let body = json!({"features": ["driver_stats:acc_rate"], "entities": {"driver_id": [1]}}).to_string();
    weir.connect().post("/get-online-features", body.clone()).expect(200);
    assert_eq!(left(), 0.0);

    redis.kill();
    let target = [("target", &*target), ("state", "open")];
    let refused = || weir.connect().post("/get-online-features", body.clone()).expect(503);
    wait_until("the breaker to open", START, || {
        refused();
        weir.metrics().count("weir_breaker_state", &target) > 0.0
    });
    let after: f64 = refused().header("retry-after").expect("it says when").parse().expect("seconds");
    let left = left();
    // The metric is asked for later, and not rounded up.
    assert!(left > 1.0 && left <= after && after <= 600.0, "{left} {after}");
}
