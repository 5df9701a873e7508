//! `consistency: write_through`: whatever happens to gateways and to Redis, no read returns what was there before a push that was
//! acknowledged, and none that follows another goes back.
//!
//! Three gateways on a cluster of three masters and three replicas, while one of them is stopped for longer than its lease and for less,
//! or killed and started again, the connections on which they hear each other are cut, replicas fall behind, and masters hang for less than
//! a failover takes; all the while another view of the same entities is read from copies of hot keys and from replicas. And three gateways on one Redis, of
//! whose answers some come so late that a push began and ended meanwhile. What the clients saw is checked (`history`); the same with
//! `consistency: ttl` must be found to be wrong.

mod history;
mod load;

use std::{collections::BTreeSet, thread, time::Duration};

use serde_json::{Value as Json, json};

use self::{
    history::{Violations, check},
    load::{Bystanders, Load},
};
use crate::support::{
    Redis, RedisCluster, SlowLine, Weir, http1, measured,
    process::{START, Spawned, free_port, wait_until},
};

/// What of the gateways' config is the test's to choose.
struct Settings {
    consistency: &'static str,
    /// More of `features.l2`, such as `read_from: nearest`: such views are read from primaries all the same.
    l2: &'static str,
    /// More of `features`, such as `hot_keys: {copies: 4}`: such views have no copies.
    features: &'static str,
    /// Whether there is a view that is read from all that there is.
    bystanders: Bystanders,
}

/// With all that other views' rows are read from: nothing of it is to be seen.
const STRONG: Settings = Settings {
    consistency: "write_through",
    l2: ", read_from: replica, max_lag: 2s",
    features: "hot_keys: {share: 0.001, min_rate: 1, copies: 3}",
    bystanders: Bystanders::Some,
};

/// A view whose rows are soon read anew.
const LATELY: &str = "lately: {entities: {sku: INT64}, features: {version: {type: INT64}}, ttl: 500ms}";

/// A gateway's lease.
const LEASE: Duration = Duration::from_secs(1);
/// Shorter than the cluster takes to give a master up.
const HANG: Duration = Duration::from_millis(700);

/// Operations, acknowledged pushes, and requests to read.
type Counts = [u64; 3];

struct Gateways {
    config: Vec<String>,
    running: Vec<Weir>,
}

impl Gateways {
    /// One for each L2.
    fn start(l2s: &[String; 3], settings: &Settings) -> Self {
        let config: Vec<_> = l2s.iter().map(|l2| config(l2, settings, free_port())).collect();
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

fn on_cluster(cluster: &RedisCluster) -> [String; 3] {
    [(); 3].map(|()| format!("redis: {}, mode: cluster", cluster.urls()))
}

fn config(l2: &str, settings: &Settings, port: u16) -> String {
    let Settings { consistency, l2: more, features, bystanders } = settings;
    let lately = if *bystanders == Bystanders::Some { LATELY } else { "" };
    format!(
        r#"
listen: {{http: "127.0.0.1:{port}", grpc: "127.0.0.1:0", admin: "127.0.0.1:0"}}
workers: 1
features:
  project: history
  lease: {LEASE:?}
  l1: {{ttl: 1h}}
  l2: {{{l2}, timeout: 200ms{more}}}
  {features}
  views:
    stock:
      entities: {{sku: INT64}}
      features: {{version: {{type: INT64}}}}
      ttl: 1h
      consistency: {consistency}
    {lately}
"#
    )
}

/// Waits for so many acknowledged pushes and answered operations.
fn go_on(load: &Load, pushes: u64, operations: u64) {
    let before = load.progress.so_far();
    go_to(load, [before[0] + operations, before[1] + pushes, 0]);
}

fn go_to(load: &Load, least: Counts) {
    let is_there = || load.progress.so_far().iter().zip(least).all(|(now, least)| *now >= least);
    wait_until("the clients to get on", START, is_there);
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

    // Shorter: what was on its way to it lands late, in the same term.
    gateways.running[victim].process().signal("STOP");
    thread::sleep(LEASE / 4);
    gateways.running[victim].process().signal("CONT");
    go_on(load, 30, 2000);

    for node in cluster.nodes() {
        let _: u64 = kill_subscribers(node);
    }
    go_on(load, 30, 2000);

    // A replica that is cut off passes for one that is near until it is asked how far it is.
    cut_off_replicas(cluster, "nobody-asked");
    go_on(load, 60, 1000);
    cut_off_replicas(cluster, "");
    go_on(load, 30, 1000);

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

/// Has masters drop their replicas, which come back only with an empty password.
fn cut_off_replicas(cluster: &RedisCluster, password: &str) {
    for node in cluster.nodes() {
        node.ask::<()>(&["CONFIG", "SET", "masterauth", password]);
    }
    for node in cluster.nodes() {
        let _: u64 = node.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    }
}

fn is_master(node: &Redis) -> bool {
    let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut node.connection()).expect("the node runs");
    matches!(role.first(), Some(redis::Value::BulkString(role)) if role == b"master")
}

/// Runs clients through whatever `disturb` does, and until they have done so much; what was wrong.
fn run(
    l2s: &[String; 3],
    settings: &Settings,
    disturb: impl FnOnce(&mut Gateways, &Load),
    least: Counts,
) -> (Violations, Gateways) {
    let mut gateways = Gateways::start(l2s, settings);
    let addresses: Vec<_> = gateways.running.iter().map(Weir::http).collect();
    let load = Load::start(&addresses, settings.bystanders);
    disturb(&mut gateways, &load);
    go_to(&load, least);
    let progress = load.progress.clone();
    let history = load.end();
    let [operations, pushes, reads] = progress.so_far();
    let answered = history.iter().filter(|operation| operation.answered.is_some()).count();
    assert_eq!(answered as u64, operations, "each is in the history");
    let violations = check(&history);
    measured(format_args!(
        "{}: {operations} operations (of one row each), of {pushes} acknowledged pushes and {reads} requests to read: {} stale, \
         {} went back, {} from nowhere",
        settings.consistency, violations.stale, violations.back, violations.from_nowhere
    ));
    (violations, gateways)
}

/// Copies that were made of hot keys, rows read from them, and rows read from replicas: all of them of the other view.
fn elsewhere(gateways: &Gateways) -> [f64; 3] {
    let counts = [
        ("weir_hot_key_copy_fills_total", "made"),
        ("weir_hot_key_copy_reads_total", "hit"),
        ("weir_redis_replica_reads_total", "answered"),
    ];
    counts.map(|(metric, outcome)| gateways.sum(metric, &[("outcome", outcome)]))
}

#[test]
fn nobody_reads_what_was_there_before_an_acknowledged_push() {
    let cluster = RedisCluster::start();
    let disturb_thrice = |gateways: &mut Gateways, load: &Load| {
        for round in 0..3 {
            go_on(load, 100, 3000);
            disturb(gateways, &cluster, load, round);
        }
        // Who was started anew counts anew.
        wait_until("copies and replicas to be read", START, || elsewhere(gateways).iter().all(|rows| *rows > 0.0));
    };
    let (violations, mut gateways) = run(&on_cluster(&cluster), &STRONG, disturb_thrice, [100_000, 2_000, 8_000]);
    assert_eq!(violations, Violations::default());
    // And that although rows were kept, leases ran out, and connections broke.
    let outcome = |metric: &str, outcome: &str| gateways.sum(metric, &[("outcome", outcome)]);
    assert!(gateways.sum("weir_feature_lookups_total", &[("layer", "l1"), ("outcome", "hit")]) > 1000.0);
    assert!(outcome("weir_push_rounds_total", "acknowledged") > 0.0);
    assert!(outcome("weir_push_rounds_total", "lease_ran_out") > 0.0);
    assert!(gateways.sum("weir_lease_fences_total", &[("reason", "disconnected")]) > 0.0);
    assert!(gateways.sum("weir_bus_gaps_total", &[("dropped", "all")]) > 0.0, "Redis is not listened to");
    let [made, copies, replicas] = elsewhere(&gateways);
    measured(format_args!("beside it: {made} copies made, {copies} rows read from copies, {replicas} from replicas"));
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

/// Two of the gateways are told everything late now and then, on some connections and not on others: rows that were asked for before a
/// push arrive after its end, and pushes wait between a hold and their write.
#[test]
fn no_read_that_lands_late_brings_back_what_was_there() {
    let redis = Redis::start();
    let lines = [(); 2].map(|()| SlowLine::to(redis.address()));
    let l2s = [redis.url(), lines[0].url(), lines[1].url()].map(|url| format!("redis: [{url}]"));
    let settings = Settings { l2: "", features: "", bystanders: Bystanders::None, ..STRONG };
    let slow = |_: &mut Gateways, load: &Load| {
        go_on(load, 30, 1000);
        lines.iter().for_each(|line| line.slow_now_and_then(60, 3));
    };
    let (violations, gateways) = run(&l2s, &settings, slow, [8_000, 400, 800]);
    let late: u64 = lines.iter().map(SlowLine::late).sum();
    measured(format_args!("Redis was heard late {late} times"));
    assert_eq!(violations, Violations::default());
    assert!(late > 100, "{late}");
    assert!(gateways.sum("weir_feature_lookups_total", &[("layer", "l1"), ("outcome", "hit")]) > 1000.0);
}

#[test]
fn the_same_with_rows_that_expire_is_found_to_be_wrong() {
    let cluster = RedisCluster::start();
    let settings = Settings { consistency: "ttl", l2: "", features: "", bystanders: Bystanders::None };
    let once = |gateways: &mut Gateways, load: &Load| disturb(gateways, &cluster, load, 0);
    let (violations, _gateways) = run(&on_cluster(&cluster), &settings, once, [10_000, 0, 0]);
    assert!(violations.stale > 0, "{violations:?}");
    assert_eq!(violations.from_nowhere, 0);
}
