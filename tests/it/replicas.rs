//! Rows are read from replicas, never from one that is further behind than the file allows; and a replica that hangs, dies or takes
//! over costs no answer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value},
};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::support::{
    Redis, RedisCluster, SlowLine, Weir,
    http1::Http1,
    measured,
    process::{START, wait_until},
    vectors,
};

const PROJECT: &str = "replicas";
const DRIVERS: i64 = 60;
const MAX_LAG: Duration = Duration::from_secs(1);

fn key(driver: i64) -> Vec<u8> {
    [EntityKey::new([("driver_id", &EntityValue::Int64(driver))].into_iter()).as_bytes(), PROJECT.as_bytes()].concat()
}

/// Stores each driver's value with its master.
fn store(cluster: &RedisCluster, drivers: impl Iterator<Item = i64>, value: f64) {
    let mut connection = cluster.connection();
    for driver in drivers {
        let mut bytes = Vec::new();
        encode_value(&Value::Double(value), &mut bytes);
        let mut hset = redis::cmd("HSET");
        hset.arg(key(driver)).arg(vectors::field("driver_stats:acc_rate")).arg(bytes);
        hset.exec(&mut connection).expect("the cluster takes hashes");
    }
}

/// A cluster, with its drivers' rows at replicas too.
fn cluster() -> RedisCluster {
    let cluster = RedisCluster::start();
    store(&cluster, 0..DRIVERS, 1.0);
    wait_until("every row at a replica too", START, || cluster.sizes().iter().sum::<u64>() == 120);
    cluster
}

/// Nothing is cached, so that every answer is L2's.
fn weir(cluster: &RedisCluster, l2: &str) -> Weir {
    Weir::start(&format!(
        r#"
features:
  project: {PROJECT}
  l1: {{capacity: 0B}}
  l2: {{mode: cluster, redis: {}, timeout: 3s, {l2}}}
  breaker: {{open_for: 2s}}
  views:
    driver_stats: {{entities: {{driver_id: INT64}}, features: {{acc_rate: {{type: DOUBLE}}}}}}
    strict: {{entities: {{driver_id: INT64}}, features: {{acc_rate: {{type: DOUBLE}}}}, consistency: write_through}}
"#,
        cluster.urls()
    ))
}

#[track_caller]
fn ask(connection: &mut Http1, view: &str, drivers: &[i64]) -> Vec<Json> {
    let body = json!({"features": [format!("{view}:acc_rate")], "entities": {"driver_id": drivers}});
    let answer = connection.post("/get-online-features", body.to_string()).expect(200).json();
    answer["results"][1]["values"].as_array().expect("values").clone()
}

fn every_driver() -> String {
    let drivers: Vec<_> = (0..DRIVERS).collect();
    json!({"features": ["driver_stats:acc_rate"], "entities": {"driver_id": drivers}}).to_string()
}

fn info(node: &Redis) -> String {
    redis::cmd("INFO").arg("replication").query(&mut node.connection()).expect("the node runs")
}

#[track_caller]
fn ask_all(connection: &mut Http1) -> Vec<Json> {
    ask(connection, "driver_stats", &(0..DRIVERS).collect::<Vec<_>>())
}

/// The replicas that are read now, by their addresses.
fn read(weir: &Weir) -> Vec<String> {
    let metrics = weir.metrics();
    let lines = metrics.lines_of("weir_redis_replica_lag_seconds");
    let near = lines.lines().filter_map(|line| {
        let (target, lag) = line.split_once("redis/")?.1.split_once("\"} ")?;
        (lag.parse::<f64>().ok()? <= MAX_LAG.as_secs_f64()).then(|| target.to_owned())
    });
    near.collect()
}

fn await_replicas(weir: &Weir, count: usize) {
    wait_until("replicas to be known to be near", START, || read(weir).len() == count);
}

fn calls(nodes: &[Redis]) -> u64 {
    nodes.iter().map(|node| node.calls("hmget")).sum()
}

fn outcomes(weir: &Weir) -> BTreeMap<&'static str, f64> {
    let metrics = weir.metrics();
    let of = |outcome| (outcome, metrics.count("weir_redis_replica_reads_total", &[("outcome", outcome)]));
    ["answered", "absent", "failed", "moved", "behind"].map(of).into()
}

#[test]
fn rows_are_read_from_replicas_and_masters_say_what_is_not_there() {
    let cluster = cluster();
    let weir = weir(&cluster, "read_from: replica, max_lag: 1s");
    await_replicas(&weir, 3);
    let shown =
        || Http1::connect(weir.admin()).get("/admin/v1/features").expect(200).json()["state"]["replicas"].clone();
    wait_until("every shard to have a replica that is read", START, || {
        let shown = shown();
        let masters = shown["masters"].as_array().expect("a list");
        let is_read =
            |replica: &Json| replica["usable"] == true && replica["lag_seconds"].as_f64().is_some_and(|lag| lag <= 1.0);
        let has_one =
            |master: &Json| master["replicas"].as_array().is_some_and(|all| all.len() == 1 && is_read(&all[0]));
        masters.len() == 3 && masters.iter().all(has_one)
    });
    let (masters, replicas) = cluster.nodes().split_at(3);
    let mut connection = weir.connect();
    let before = (calls(masters), calls(replicas), outcomes(&weir));
    assert_eq!(ask_all(&mut connection), vec![json!(1.0); 60]);
    // A busy machine may find one of them behind: then its master was asked, and that was counted.
    let after = outcomes(&weir);
    let elsewhere = after["behind"] + after["failed"] - before.2["behind"] - before.2["failed"];
    assert_eq!(after["answered"] - before.2["answered"], 60.0 - elsewhere, "{after:?}");
    assert_eq!((calls(masters) - before.0) as f64, elsewhere);
    assert!(calls(replicas) - before.1 >= 60 - elsewhere as u64);

    let before = (calls(masters), outcomes(&weir));
    assert_eq!(ask(&mut connection, "driver_stats", &[9001]), [Json::Null]);
    assert_eq!(calls(masters) - before.0, 1, "an absence is a master's to say");
    measured(format_args!("rows by outcome: {:?}", outcomes(&weir)));

    let before = (calls(masters), calls(replicas));
    assert_eq!(ask(&mut connection, "strict", &[1, 2, 3]), vec![Json::Null; 3]);
    assert_eq!((calls(masters) - before.0, calls(replicas) - before.1), (3, 0), "write_through is read from masters");
}

#[test]
fn what_was_pushed_here_is_read_at_once_whatever_replicas_have() {
    let cluster = cluster();
    let weir = weir(&cluster, "read_from: replica, max_lag: 10s");
    wait_until("replicas to be known to be near", START, || read(&weir).len() == 3);
    let mut connection = weir.connect();
    // From now on replicas take nothing: what they have is from before.
    for replica in &cluster.nodes()[3..] {
        replica.freeze();
    }
    let second = |second: i64| format!("2026-11-22T10:{:02}:{:02}Z", second / 60, second % 60);
    for turn in 0..20 {
        let pushed = json!({"push_source_name": "driver_stats", "df": {
            "driver_id": [1, 2, 3], "event_timestamp": [second(turn), second(turn), second(turn)],
            "acc_rate": [turn, turn, turn],
        }});
        connection.post("/push", pushed.to_string()).expect(200);
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let expected = vec![json!(turn as f64); 3];
        assert_eq!(ask(&mut connection, "driver_stats", &[1, 2, 3]), expected);
    }
    for replica in &cluster.nodes()[3..] {
        replica.thaw();
    }
}

/// Has a replica's master drop it, and not take it back.
fn cut_off(cluster: &RedisCluster, replica: &Redis) {
    let mut connection = replica.connection();
    redis::cmd("CONFIG").arg(&["SET", "masterauth", "nobody-asked"]).exec(&mut connection).expect("it is set");
    for master in &cluster.nodes()[..3] {
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "replica"]).exec(&mut master.connection()).expect("it is done");
    }
    wait_until("the link to be down", START, || info(replica).contains("master_link_status:down"));
}

#[test]
fn no_answer_is_older_than_max_lag_allows_and_who_has_caught_up_is_read_again() {
    let cluster = cluster();
    let weir = weir(&cluster, "read_from: replica, max_lag: 1s");
    await_replicas(&weir, 3);
    let replica = &cluster.nodes()[3];
    cut_off(&cluster, replica);
    store(&cluster, 0..DRIVERS, 2.0);
    let written = Instant::now();
    let (mut connection, mut old, mut held) = (weir.connect(), 0, 0);
    while held < 50 {
        let asked = Instant::now();
        let values = ask_all(&mut connection);
        let is_old = values.contains(&json!(1.0));
        assert!(!is_old || asked < written + MAX_LAG, "{:?} after they were written", written.elapsed());
        old += u32::from(is_old);
        held += u32::from(asked >= written + MAX_LAG);
    }
    measured(format_args!("{old} answers within {MAX_LAG:?} of the write had old rows, none of {held} later ones"));
    // The others' links were cut for a moment only.
    let address = replica.address().to_string();
    wait_until("the others to be read", START, || read(&weir).len() == 2 && !read(&weir).contains(&address));

    redis::cmd("CONFIG").arg(&["SET", "masterauth", ""]).exec(&mut replica.connection()).expect("it is set");
    wait_until("the replica to be read again", START, || {
        let before = replica.calls("hmget");
        assert_eq!(ask_all(&mut connection), vec![json!(2.0); 60]);
        replica.calls("hmget") > before
    });
}

#[test]
fn a_master_that_stops_makes_its_replica_one_that_is_behind() {
    let cluster = cluster();
    let weir = weir(&cluster, "read_from: replica, max_lag: 1s");
    await_replicas(&weir, 3);
    cluster.nodes()[0].freeze();
    wait_until("its replica to count as behind", START, || read(&weir).len() < 3);
    cluster.nodes()[0].thaw();
    wait_until("three replicas to be read again", START, || read(&weir).len() == 3);
}

#[test]
fn a_replica_that_hangs_or_dies_costs_no_answer() {
    let cluster = cluster();
    let weir = Arc::new(weir(&cluster, "read_from: replica, max_lag: 1s"));
    await_replicas(&weir, 3);
    let ask_on = |turns: u32| {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let mut connection = weir.connect();
                thread::spawn(move || {
                    (0..turns).for_each(|_| assert_eq!(ask_all(&mut connection), vec![json!(1.0); 60]));
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().expect("every answer was whole"));
    };
    ask_on(10);
    let [hangs, dies] = [&cluster.nodes()[3], &cluster.nodes()[4]];
    hangs.freeze();
    ask_on(20);
    measured(format_args!("while one hung: {:?}", outcomes(&weir)));
    hangs.thaw();
    dies.kill();
    ask_on(20);
    measured(format_args!("after another died: {:?}", outcomes(&weir)));
    wait_until("those that are left to be read", START, || read(&weir).len() == 2);
}

#[test]
fn reads_go_on_when_a_replica_that_is_read_takes_over() {
    let cluster = cluster();
    // Longer than a failover takes: replicas answer meanwhile.
    let weir = weir(&cluster, "read_from: replica, max_lag: 60s");
    wait_until("replicas to be known to be near", START, || read(&weir).len() == 3);
    cluster.nodes()[0].kill();
    let mut connection = weir.connect();
    let (killed, mut whole, mut asked) = (Instant::now(), 0, 0);
    wait_until("every row from where it is now", START, || {
        let answer = connection.post("/get-online-features", every_driver());
        asked += 1;
        // For a moment the whole cluster serves nobody.
        let is_whole = answer.status == 200 && {
            let values = answer.json()["results"][1]["values"].as_array().expect("values").clone();
            assert!(values.iter().all(|value| value.is_null() || *value == json!(1.0)), "{values:?}");
            values == vec![json!(1.0); 60]
        };
        whole += u32::from(is_whole);
        is_whole && cluster.nodes()[3..].iter().any(|node| info(node).contains("role:master")) && read(&weir).len() == 2
    });
    measured(format_args!(
        "{whole} of {asked} answers whole until another was master, {:?} after the kill",
        killed.elapsed()
    ));
}

/// The drivers whose rows a node has.
fn held_by(node: &Redis) -> Vec<i64> {
    let mut connection = node.connection();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("the node runs");
    (0..DRIVERS).filter(|driver| keys.contains(&key(*driver))).collect()
}

#[test]
fn slots_that_move_cost_no_read_of_a_replica_its_row_and_are_read_at_their_new_masters_replica() {
    let cluster = cluster();
    let weir = Arc::new(weir(&cluster, "read_from: replica, max_lag: 60s"));
    wait_until("replicas to be known to be near", START, || read(&weir).len() == 3);
    let (masters, replicas) = cluster.nodes().split_at(3);
    let (from, to) = (&masters[0], &masters[2]);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (weir, stop) = (Arc::clone(&weir), Arc::clone(&stop));
            thread::spawn(move || {
                let (mut connection, mut answers) = (weir.connect(), 0_u32);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(ask_all(&mut connection), vec![json!(1.0); 60], "no row is missed");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    let before = held_by(to);
    cluster.reshard(from, to, 2500);
    let moved: Vec<i64> = held_by(to).into_iter().filter(|driver| !before.contains(driver)).collect();
    assert!(!moved.is_empty());

    // Who follows their new master has them, and is asked for them alone.
    let follows = |node: &&Redis| info(node).contains(&format!("master_port:{}", to.address().port()));
    let replica = replicas.iter().find(follows).expect("each master has one");
    let mut connection = weir.connect();
    wait_until("moved rows to be read at their new master's replica", START, || {
        let before = calls(masters);
        assert_eq!(ask(&mut connection, "driver_stats", &moved), vec![json!(1.0); moved.len()]);
        calls(masters) == before && replica.calls("hmget") > 0
    });
    stop.store(true, Ordering::Relaxed);
    let answers: u32 = readers.into_iter().map(|reader| reader.join().expect("no row was missed")).sum();
    measured(format_args!(
        "{answers} answers while {} rows moved, none of them without a row: {:?}",
        moved.len(),
        outcomes(&weir)
    ));
}

#[test]
fn the_nearest_copies_are_those_of_the_own_zone() {
    let cluster = cluster();
    let near = cluster.nodes()[3..].iter().map(|node| format!("\"{}\": here", node.address()));
    let zones = near.collect::<Vec<_>>().join(", ");
    let config = format!("read_from: nearest, zones: {{\"127.0.0.1:\": there, {zones}}}");
    let weir = Weir::start(&format!(
        "zone: here\nfeatures:\n  project: {PROJECT}\n  l1: {{capacity: 0B}}\n  l2: {{mode: cluster, redis: {}, timeout: 3s, max_lag: 10s, \
         {config}}}\n  views:\n    driver_stats: {{entities: {{driver_id: INT64}}, features: {{acc_rate: {{type: DOUBLE}}}}}}\n",
        cluster.urls()
    ));
    wait_until("replicas to be known to be near", START, || read(&weir).len() == 3);
    let (masters, replicas) = cluster.nodes().split_at(3);
    let before = (calls(masters), calls(replicas));
    assert_eq!(ask_all(&mut weir.connect()), vec![json!(1.0); 60]);
    assert_eq!((calls(masters) - before.0, calls(replicas) - before.1), (0, 60));
}

/// Has the cluster tell of a server at another port.
fn announce(cluster: &RedisCluster, node: &Redis, line: &SlowLine) {
    let port = line.address().port().to_string();
    node.ask::<()>(&["CONFIG", "SET", "cluster-announce-port", &port]);
    let address = line.address().to_string();
    wait_until("every server to know it by that port", START, || {
        cluster.nodes().iter().all(|node| node.ask::<String>(&["CLUSTER", "NODES"]).contains(&address))
    });
}

#[test]
fn the_nearest_copies_are_those_that_answer_soonest_where_zones_say_nothing() {
    let cluster = cluster();
    let (masters, replicas) = cluster.nodes().split_at(3);
    // Two of three replicas are far away.
    let lines: Vec<_> = replicas[..2].iter().map(|replica| SlowLine::to(replica.address())).collect();
    replicas.iter().zip(&lines).for_each(|(replica, line)| announce(&cluster, replica, line));
    lines.iter().for_each(|line| line.slow(50));
    let weir = weir(&cluster, "read_from: nearest, max_lag: 10s");
    wait_until("replicas to be known to be near enough in time", START, || {
        weir.metrics().lines_of("weir_redis_replica_lag_seconds").lines().count() == 3
    });
    let mut connection = weir.connect();
    wait_until("the replica that is near to be read", START, || {
        assert_eq!(ask_all(&mut connection), vec![json!(1.0); 60]);
        replicas[2].calls("hmget") > 0
    });
    // Whatever was known of them in the beginning, it is known by now.
    let before = [calls(masters), calls(&replicas[..2]), calls(&replicas[2..])];
    for _ in 0..30 {
        assert_eq!(ask_all(&mut connection), vec![json!(1.0); 60]);
    }
    let after = [calls(masters), calls(&replicas[..2]), calls(&replicas[2..])];
    assert_eq!(after[1], before[1], "those far away are read by nobody");
    assert!(after[0] > before[0], "{before:?} {after:?}");
    // The one that is near takes turns with its master.
    wait_until("it to be read again", START, || {
        ask_all(&mut connection);
        calls(&replicas[2..]) > before[2]
    });
}
