//! Sidecars that read through a few feature servers cost Redis nothing: its connections grow with the servers, and one of them that is
//! killed under load costs no request.
//!
//! Three sidecars, each a model's gateway that keeps nothing, read from two gateways over a Redis Cluster of three masters and three
//! replicas. Connections are told apart by who holds their other end. What must not be old is kept in no sidecar.

use std::{collections::BTreeMap, fs};

use redis::cmd;
use serde_json::json;

use crate::{
    feature_tier::{DRIVERS, Load, PROJECT, answered, breaker_is, drivers, has_even_share, server_on, stored},
    support::{
        Redis, RedisCluster, Weir,
        hand::Echo,
        lookup, measured,
        process::{START, free_port, wait_until},
    },
};

const MASTERS: usize = 3;
const SIDECARS: usize = 3;

/// The driver that is read alone.
const DRIVER: i64 = 7;

/// A connection: the ports of its ends.
type Ends = (u16, u16);

/// Connections of the machine, by their sockets.
fn connections() -> BTreeMap<u64, Ends> {
    let table = fs::read_to_string("/proc/net/tcp").expect("it is Linux");
    let connections = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = |at: usize| u16::from_str_radix(columns.get(at)?.rsplit(':').next()?, 16).ok();
        Some((columns.get(9)?.parse().ok()?, (port(1)?, port(2)?)))
    });
    connections.collect()
}

/// Those that a process holds.
fn held(weir: &mut Weir, all: &BTreeMap<u64, Ends>) -> Vec<Ends> {
    let files = fs::read_dir(format!("/proc/{}/fd", weir.process().id())).expect("it runs");
    let sockets = files.flatten().filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    });
    sockets.filter_map(|socket: u64| all.get(&socket).copied()).collect()
}

/// The connections of a server's clients, without the one that asks. A port that one of them came from may be another connection's too, to
/// another server: only both ends together are one's own.
fn ends_of_clients(redis: &Redis) -> Vec<Ends> {
    let mut connection = redis.connection();
    let own: i64 = cmd("CLIENT").arg("ID").query(&mut connection).expect("Redis runs");
    let list: String = cmd("CLIENT").arg(&["LIST", "TYPE", "normal"]).query(&mut connection).expect("Redis runs");
    let others = list.lines().filter(|line| !line.starts_with(&format!("id={own} ")));
    let ports = others.filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("addr=")));
    ports.filter_map(|address| Some((address.rsplit(':').next()?.parse().ok()?, redis.address().port()))).collect()
}

/// How many clients each master has, of each process.
fn on_each_master(cluster: &RedisCluster, weirs: &mut [&mut Weir]) -> Vec<Vec<usize>> {
    let masters: Vec<_> = cluster.nodes()[..MASTERS].iter().map(ends_of_clients).collect();
    let all = connections();
    let held: Vec<Vec<Ends>> = weirs.iter_mut().map(|weir| held(weir, &all)).collect();
    let of = |clients: &[Ends], held: &[Ends]| held.iter().filter(|ends| clients.contains(ends)).count();
    masters.iter().map(|clients| held.iter().map(|held| of(clients, held)).collect()).collect()
}

/// How many connections a process has to a port.
fn to(port: u16, weir: &mut Weir) -> usize {
    held(weir, &connections()).iter().filter(|ends| ends.1 == port).count()
}

#[test]
fn redis_connections_grow_with_the_feature_servers_and_a_killed_one_costs_no_request() {
    let (cluster, echo) = (RedisCluster::start(), Echo::listen());
    cluster.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    let l2 = format!("mode: cluster, redis: {}", cluster.urls());
    let ports = [free_port(), free_port()];
    let targets = ports.map(|port| format!("feature_server/127.0.0.1:{port}"));
    let [mut first, mut second] = ports.map(|port| server_on(&l2, port));

    // One sidecar's traffic has every connection made that is needed.
    let mut sidecars = vec![drivers(&ports, &echo, "")];
    let mut loads = vec![Load::on(&sidecars[0])];
    let mut before = Vec::new();
    wait_until("both servers to be alike on every master", START, || {
        loads[0].go_on(20);
        before = on_each_master(&cluster, &mut [&mut first, &mut second]);
        before.iter().all(|counts| counts[0] > 0 && counts[0] == counts[1])
    });
    for _ in 1..SIDECARS {
        sidecars.push(drivers(&ports, &echo, ""));
        loads.push(Load::on(&sidecars[sidecars.len() - 1]));
    }
    loads.iter().for_each(|load| load.go_on(50));
    assert_eq!(on_each_master(&cluster, &mut [&mut first, &mut second]), before, "thrice the load, no connection more");
    let none = vec![vec![0; SIDECARS]; MASTERS];
    assert_eq!(on_each_master(&cluster, &mut sidecars.iter_mut().collect::<Vec<_>>()), none);
    measured(format_args!("connections on each master, by feature server: {before:?}"));
    for sidecar in &mut sidecars {
        assert!(targets.iter().all(|target| answered(sidecar, target) > 0.0), "both are asked");
        // Four callers, and the checks of its health.
        let most = ports.map(|port| to(port, sidecar));
        assert!(most.iter().all(|count| (1..=16).contains(count)), "{most:?}");
    }

    first.process().signal("KILL");
    sidecars.iter().for_each(|sidecar| breaker_is(sidecar, &targets[0], "open"));
    loads.iter().for_each(|load| load.go_on(50));
    drop(first);
    first = server_on(&l2, ports[0]);
    for sidecar in &sidecars {
        breaker_is(sidecar, &targets[0], "closed");
        has_even_share(sidecar, &targets);
    }
    wait_until("as many connections as before", START, || {
        on_each_master(&cluster, &mut [&mut first, &mut second]) == before
    });
    let answers: u64 = loads.into_iter().map(Load::end).sum();
    measured(format_args!("{answers} answers through {SIDECARS} sidecars, none without a row"));
    assert_eq!(on_each_master(&cluster, &mut sidecars.iter_mut().collect::<Vec<_>>()), none);
}

/// Asks a sidecar for a driver's row: the value, and whether it said that L1 had it.
fn read(sidecar: &Weir) -> (i64, bool) {
    let body = json!({"features": ["driver_stats:avg_daily_trips"], "entities": {"driver_id": [DRIVER]}});
    let answer = sidecar.connect().post("/get-online-features", body.to_string()).expect(200);
    let is_kept = answer.header("cache-status").is_some_and(|status| status.ends_with("weir-l1; hit"));
    (answer.json()["results"][1]["values"][0].as_i64().expect("a number"), is_kept)
}

#[test]
fn a_write_through_row_is_kept_in_no_sidecar() {
    let (redis, port) = (Redis::start(), free_port());
    redis.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    let server = server_on(&format!("redis: [{}]", redis.url()), port);
    let sidecar = |view: &str| {
        let views = lookup::view(view);
        Weir::start(&format!(
            "features:\n  project: {PROJECT}\n  l1: {{ttl: 1h}}\n  l2: {{feature_server: \"http://127.0.0.1:{port}\", timeout: \
             5s}}\n  views:\n{views}"
        ))
    };
    let (plain, strong) = (sidecar(", ttl: 1h"), sidecar(", consistency: write_through"));
    let target = format!("feature_server/127.0.0.1:{port}");
    for asked in 1..=5 {
        assert_eq!(read(&plain), (DRIVER, asked > 1));
        assert_eq!(read(&strong), (DRIVER, false));
        let counts = [&plain, &strong].map(|weir| answered(weir, &target));
        assert!((counts[0] - 1.0).abs() < 0.1 && (counts[1] - f64::from(asked)).abs() < 0.1, "{asked}: {counts:?}");
    }
    // What the server acknowledged is what it serves from then on.
    let row = json!({"driver_id": [DRIVER], "event_timestamp": ["2026-11-22T10:00:00Z"], "avg_daily_trips": [12_345]});
    let push = json!({"push_source_name": "driver_stats", "df": row}).to_string();
    server.connect().post("/push", push).expect(200);
    assert_eq!((read(&strong), read(&plain)), ((12_345, false), (DRIVER, true)));
}
