//! `consistency: write_through`: whatever happens to gateways and to Redis, no read returns what was there before a push that was
//! acknowledged, and none that follows another goes back.
//!
//! Three gateways on a cluster of three masters and three replicas, while one of them is stopped for longer than its lease, or killed and
//! started again, the connections on which they hear each other are cut, and masters hang for less than a failover takes. What
//! the clients saw is checked (`history`); the same with `consistency: ttl` must be found to be wrong.

mod history;
mod load;

use std::{collections::BTreeSet, sync::atomic::Ordering, thread, time::Duration};

use serde_json::{Value as Json, json};

use self::{
    history::{Violations, check},
    load::Load,
};
use crate::support::{
    Redis, RedisCluster, Weir, http1,
    process::{START, Spawned, free_port, wait_until},
};

/// What of the gateways' config is the test's to choose.
struct Settings {
    consistency: &'static str,
    /// More of `features.l2`, such as `read_from: nearest`: such views are read from primaries all the same.
    l2: &'static str,
    /// More of `features`, such as `hot_keys: {copies: 4}`: such views have no copies.
    features: &'static str,
}

/// With all that other views' rows are read from: nothing of it is to be seen.
const STRONG: Settings = Settings {
    consistency: "write_through",
    l2: ", read_from: replica, max_lag: 500ms",
    features: "hot_keys: {share: 0.001, min_rate: 1, copies: 3}",
};

/// A gateway's lease.
const LEASE: Duration = Duration::from_secs(1);
/// Shorter than the cluster takes to give a master up.
const HANG: Duration = Duration::from_millis(700);

struct Gateways {
    config: Vec<String>,
    running: Vec<Weir>,
}

impl Gateways {
    fn start(cluster: &RedisCluster, settings: &Settings) -> Self {
        let config: Vec<_> = (0..3).map(|_| config(cluster, settings, free_port())).collect();
        let running = config.iter().map(|config| Weir::start(config)).collect();
        Self { config, running }
    }

    /// As a crash would, and as the kubelet does then.
    fn crash(&mut self, at: usize) {
        self.running[at].process().signal("KILL");
        self.running[at].process().wait(START);
        self.running[at] = Weir::start(&self.config[at]);
    }

    fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.running.iter().map(|weir| weir.metrics().count(metric, labels)).sum()
    }
}

fn config(cluster: &RedisCluster, settings: &Settings, port: u16) -> String {
    let Settings { consistency, l2, features } = settings;
    let urls = cluster.urls();
    format!(
        r#"
listen: {{http: "127.0.0.1:{port}", grpc: "127.0.0.1:0", admin: "127.0.0.1:0"}}
workers: 1
features:
  project: history
  lease: {LEASE:?}
  l1: {{ttl: 1h}}
  l2: {{redis: {urls}, mode: cluster, timeout: 200ms{l2}}}
  {features}
  views:
    stock:
      entities: {{sku: INT64}}
      features: {{version: {{type: INT64}}}}
      ttl: 1h
      consistency: {consistency}
"#
    )
}

/// Waits for so many acknowledged pushes and answered operations.
fn go_on(load: &Load, pushes: u64, operations: u64) {
    let count = || (load.progress.pushes.load(Ordering::Relaxed), load.progress.operations.load(Ordering::Relaxed));
    let before = count();
    wait_until("the clients to get on", START, || {
        let now = count();
        now.0 >= before.0 + pushes && now.1 >= before.1 + operations
    });
}

/// One of everything that may happen, with work before and after each.
fn disturb(gateways: &mut Gateways, cluster: &RedisCluster, load: &Load, round: usize) {
    let victim = round % 3;
    // Longer than its lease: the others go on without it.
    gateways.running[victim].process().signal("STOP");
    thread::sleep(2 * LEASE);
    go_on(load, 30, 1000);
    gateways.running[victim].process().signal("CONT");
    go_on(load, 30, 2000);

    for node in cluster.nodes() {
        let _: u64 = kill_subscribers(node);
    }
    go_on(load, 30, 2000);

    gateways.crash((victim + 1) % 3);
    go_on(load, 30, 2000);

    let masters: Vec<&Redis> = cluster.nodes().iter().filter(|node| is_master(node)).collect();
    let hung = masters[round % masters.len()];
    hung.freeze();
    thread::sleep(HANG);
    hung.thaw();
    go_on(load, 30, 2000);

    for master in &masters {
        // Writes wait, reads go on: a push is under way for long.
        redis::cmd("CLIENT").arg(&["PAUSE", "300", "WRITE"]).exec(&mut master.connection()).expect("it runs");
    }
    go_on(load, 30, 2000);
}

fn kill_subscribers(node: &Redis) -> u64 {
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query(&mut node.connection()).expect("the node runs")
}

fn is_master(node: &Redis) -> bool {
    let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut node.connection()).expect("the node runs");
    matches!(role.first(), Some(redis::Value::BulkString(role)) if role == b"master")
}

/// Runs clients through so many rounds of everything, and until there are so many operations; what was wrong.
fn run(cluster: &RedisCluster, settings: &Settings, (rounds, operations): (usize, usize)) -> (Violations, Gateways) {
    let mut gateways = Gateways::start(cluster, settings);
    let addresses: Vec<_> = gateways.running.iter().map(Weir::http).collect();
    let load = Load::start(&addresses);
    for round in 0..rounds {
        go_on(&load, 100, 3000);
        disturb(&mut gateways, cluster, &load, round);
    }
    wait_until("enough operations", START, || load.progress.operations.load(Ordering::Relaxed) >= operations as u64);
    if settings.features.contains("hot_keys") {
        wait_until("keys to be hot", START, || gateways.sum("weir_hot_keys", &[]) > 0.0);
    }
    let history = load.end();
    assert!(history.iter().filter(|operation| operation.answered.is_some()).count() >= operations);
    let violations = check(&history);
    eprintln!("{}: {} operations: {violations:?}", settings.consistency, history.len());
    (violations, gateways)
}

#[test]
fn nobody_reads_what_was_there_before_an_acknowledged_push() {
    let cluster = RedisCluster::start();
    let (violations, mut gateways) = run(&cluster, &STRONG, (3, 100_000));
    assert_eq!(violations, Violations::default());
    // And that although rows were kept, leases ran out, and connections broke.
    assert!(gateways.sum("weir_feature_lookups_total", &[("layer", "l1"), ("outcome", "hit")]) > 1000.0);
    assert!(gateways.sum("weir_push_rounds_total", &[("outcome", "acknowledged")]) > 0.0);
    assert!(gateways.sum("weir_hot_key_copy_fills_total", &[]).abs() < 0.5, "what is hot was copied nowhere");
    assert!(gateways.sum("weir_push_rounds_total", &[("outcome", "lease_ran_out")]) > 0.0);
    assert!(gateways.sum("weir_lease_fences_total", &[("reason", "disconnected")]) > 0.0);
    assert!(gateways.sum("weir_bus_gaps_total", &[("dropped", "all")]) > 0.0, "Redis is not listened to");
    for weir in &mut gateways.running {
        let admin = weir.admin();
        let lease = || http1::get(admin, "/admin/v1/features").expect(200).json()["state"]["lease"].clone();
        let is_held = |_: &Spawned| (lease()["held"] == true).then_some(());
        weir.process().ready("its lease", is_held);
    }
}

/// A gateway on one Redis, or on a store of its own.
fn of_one(l1: &str, l2: &str) -> Weir {
    Weir::start(&format!(
        "workers: 1\nfeatures: {{project: seen, l1: {{{l1}}}, l2: {{{l2}}}, views: {{stock: {{entities: {{sku: INT64}}, features: \
         {{version: {{type: INT64}}}}, consistency: write_through}}}}}}\n"
    ))
}

#[test]
fn operators_see_who_holds_a_lease_and_no_lease_where_there_is_none_to_hold() {
    let redis = Redis::start();
    let url = format!("redis: [{}]", redis.url());
    let lease =
        |weir: &Weir| http1::get(weir.admin(), "/admin/v1/features").expect(200).json()["state"]["lease"].clone();
    let gauges = |weir: &Weir| ["weir_lease_held", "weir_bus_connected"].map(|name| weir.metrics().sum(name, &[]));
    let keeping = [(); 2].map(|()| of_one("ttl: 1m", &url));
    keeping.iter().for_each(|weir| {
        wait_until("its lease", START, || gauges(weir) == [Some(1.0); 2]);
    });
    let [first, second] = keeping.each_ref().map(lease);
    assert_eq!((&first["keeps"], &first["held"]), (&json!("under_lease"), &json!(true)));
    let table = &first["table"];
    assert_eq!((&table["key"], &table["why"]), (&json!("{weir:seen}:leases"), &Json::Null));
    let holders = table["holders"].as_array().expect("a list");
    let names: BTreeSet<_> = holders.iter().map(|holder| holder["gateway"].to_string()).collect();
    assert_eq!(names, [&first, &second].map(|lease| lease["gateway"].to_string()).into(), "{table}");
    for holder in holders {
        let left = holder["left_seconds"].as_f64().expect("a number");
        assert!(left > 0.0 && left <= 2.0 && holder["revoked"] == false, "{holder}");
    }
    wait_until("the table to have every lease", START, || lease(&keeping[0])["table"]["whole"] == true);

    let uncached = of_one("capacity: 0B", &url);
    wait_until("it to hear the others", START, || gauges(&uncached)[1] == Some(1.0));
    assert_eq!(gauges(&uncached)[0], None, "it keeps nothing: no lease is missing");
    let shown = lease(&uncached);
    assert_eq!((&shown["keeps"], &shown["held"]), (&json!("nothing"), &Json::Null));
    assert_eq!(shown["table"]["holders"].as_array().map(Vec::len), Some(2), "{shown}");

    let alone = of_one("ttl: 1m", "");
    assert_eq!(gauges(&alone), [None; 2]);
    let shown = lease(&alone);
    assert_eq!((&shown["keeps"], &shown["table"]), (&json!("alone"), &Json::Null));

    redis.kill();
    wait_until("the table to be out of reach", START, || lease(&keeping[0])["table"]["why"].is_string());
    assert_eq!(gauges(&keeping[0])[1], Some(0.0));
}

#[test]
fn the_same_with_rows_that_expire_is_found_to_be_wrong() {
    let cluster = RedisCluster::start();
    let settings = Settings { consistency: "ttl", l2: "", features: "" };
    let (violations, _gateways) = run(&cluster, &settings, (1, 10_000));
    assert!(violations.stale > 0, "{violations:?}");
    assert_eq!(violations.from_nowhere, 0);
}
