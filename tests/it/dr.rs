//! When the Redis of the rows is lost another takes over; and the first has the work back only once it has every row that was
//! acknowledged meanwhile.

use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    Redis, RedisCluster, Weir,
    http1::{self, Http1, Response},
    metrics::await_metric,
    process::{START, wait_until},
};

const MARKS: &str = "weir:dr:dr";

/// Nothing is cached, so that every answer is L2's; soon over and soon back, for the machine's patience.
fn weir(primary: &Redis, dr: &Redis) -> Weir {
    Weir::start(&config(primary, dr))
}

fn config(primary: &Redis, dr: &Redis) -> String {
    of(&format!("redis: [{}]", primary.url()), &format!("[{}]", dr.url()))
}

fn of(primary: &str, dr: &str) -> String {
    format!(
        r#"
features:
  project: dr
  l1: {{capacity: 0B}}
  l2:
    {primary}
    timeout: 2s
    dr: {{redis: {dr}, failover_after: 2s, back_after: 1s}}
  views:
    live: {{entities: {{driver_id: INT64}}, features: {{speed: {{type: DOUBLE}}}}}}
"#
    )
}

/// A primary and a DR that follows it and is in step.
fn pair() -> (Redis, Redis) {
    let primary = Redis::start();
    let dr = Redis::replica_of(&primary);
    in_step(&dr);
    (primary, dr)
}

fn in_step(replica: &Redis) {
    wait_until("the replica to be in step", START, || {
        replica.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    });
}

/// The driver's speed becomes the number, which is the event's second too.
fn push(connection: &mut Http1, driver: i64, number: u32) -> Response {
    let time = format!("2026-11-22T{:02}:{:02}:{:02}Z", number / 3600, number / 60 % 60, number % 60);
    let body = json!({"push_source_name": "live", "df": {
        "driver_id": [driver], "event_timestamp": [time], "speed": [number]
    }});
    connection.post("/push", body.to_string())
}

/// The driver's speed; `None`: it cannot be read now.
fn speed(connection: &mut Http1, driver: i64) -> Option<f64> {
    let body = json!({"features": ["live:speed"], "entities": {"driver_id": [driver]}});
    let answer = connection.post("/get-online-features", body.to_string());
    if answer.status != 200 {
        return None;
    }
    let value = answer.json()["results"][1]["values"][0].clone();
    Some(value.as_f64().unwrap_or(-1.0))
}

fn active(weir: &Weir) -> Value {
    http1::Http1::connect(weir.admin()).get("/admin/v1/features").expect(200).json()["state"]["l2"].clone()
}

fn await_active(weir: &Weir, store: &str) {
    await_metric(weir.admin(), "weir_l2_active", &[("store", store)], |active| active > 0.0);
}

fn await_reason(weir: &Weir, reason: &str) {
    await_metric(weir.admin(), "weir_l2_reason", &[("reason", reason)], |on| on > 0.0);
}

#[test]
fn the_dr_takes_over_and_nothing_that_it_acknowledged_is_ever_missing_again() {
    let (primary, dr) = pair();
    let weir = weir(&primary, &dr);
    let mut connection = weir.connect();
    let mut acknowledged = 0;
    for number in 1..=500 {
        push(&mut connection, 1, number).expect(200);
        acknowledged = number;
    }
    primary.kill();
    let killed = Instant::now();
    wait_until("rows to be read again", START, || speed(&mut connection, 1).is_some());
    let rto = killed.elapsed();
    let found = speed(&mut connection, 1).expect("a row");
    println!(
        "RTO of reads {rto:?} with failover_after 2s; RPO: {} of {acknowledged} pushes lost",
        f64::from(acknowledged) - found
    );
    // One after the other is sent on as it is acknowledged.
    assert!(found >= f64::from(acknowledged) - 100.0, "{found}");
    assert!(rto >= Duration::from_secs(2), "no sooner than the file says");

    // A replica takes no writes; that is told in words.
    let refused = push(&mut connection, 1, 1000).expect(503);
    assert!(refused.text().contains("takes none before it is promoted"), "{}", refused.text());
    assert_eq!((&active(&weir)["active"], &active(&weir)["reason"]), (&json!("dr"), &json!("primary_gone")));
    dr.promote();
    let promoted = Instant::now();
    wait_until("a push to be taken", START, || push(&mut connection, 1, 1001).status == 200);
    println!("RTO of pushes {:?} after the DR was promoted", promoted.elapsed());
    assert_eq!(speed(&mut connection, 1), Some(1001.0));
    for number in 1002..1010 {
        push(&mut connection, 1, number).expect(200);
    }

    // It comes back as whatever it was, and has nothing: everybody stays with the DR.
    primary.restart();
    await_reason(&weir, "primary_lacks_writes");
    let shown = active(&weir);
    assert_eq!((&shown["active"], &shown["primary_has"], &shown["acknowledged"]), (&json!("dr"), &json!(0), &json!(9)));
    assert_eq!(speed(&mut connection, 1), Some(1009.0));
    primary.follow(&dr);
    in_step(&primary);
    await_reason(&weir, "primary_read_only");
    push(&mut connection, 1, 1010).expect(200);

    // Rows go on being read and pushed until the moment that the DR hands over.
    let mut last = 1010;
    let port = primary.address().port().to_string();
    wait_until("the DR to hand over", START, || {
        redis::cmd("FAILOVER").arg(&["TO", "127.0.0.1", &port]).exec(&mut dr.connection()).is_ok()
    });
    let handed = Instant::now();
    wait_until("the primary to have the rows", START, || {
        if push(&mut connection, 1, last + 1).status == 200 {
            last += 1;
        }
        if let Some(found) = speed(&mut connection, 1) {
            assert!(found >= f64::from(last), "{found} where {last} was acknowledged");
        }
        active(&weir)["active"] == json!("primary")
    });
    println!("back at the primary {:?} after the handover, with all rows up to {last}", handed.elapsed());
    assert_eq!(speed(&mut connection, 1), Some(f64::from(last)));
    wait_until("a push to be taken there", START, || push(&mut connection, 1, last + 1).status == 200);
    assert_eq!(speed(&mut connection, 1), Some(f64::from(last + 1)));
    assert!(primary.calls("evalsha") + primary.calls("eval") > 0);
    let moves = |to| weir.metrics().count("weir_l2_moves_total", &[("to", to)]);
    assert_eq!((moves("dr"), moves("primary")), (1.0, 1.0));
    // What L1 had of the one is not true of the other.
    let dropped = [("origin", "dr"), ("scope", "all")];
    await_metric(weir.admin(), "weir_invalidations_total", &dropped, |count| count >= 2.0);
}

#[test]
fn a_dr_that_never_had_the_rows_does_not_say_that_there_are_none() {
    let (primary, dr) = (Redis::start(), Redis::start());
    let _: String = dr.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let weir = weir(&primary, &dr);
    let mut connection = weir.connect();
    push(&mut connection, 1, 5).expect(200);
    primary.kill();
    await_reason(&weir, "dr_gone");
    assert_eq!(active(&weir)["active"], json!("primary"));
    assert_eq!(speed(&mut connection, 1), None, "it cannot be read, which is not that there is none");
}

#[test]
fn a_short_outage_moves_nobody_and_one_without_pushes_is_over_by_itself() {
    let (primary, dr) = pair();
    let weir = weir(&primary, &dr);
    let mut connection = weir.connect();
    push(&mut connection, 1, 5).expect(200);
    wait_until("the row at the DR", START, || dr.ask::<u64>(&["DBSIZE"]) == 1);
    primary.freeze();
    await_active(&weir, "dr");
    assert_eq!(speed(&mut connection, 1), Some(5.0), "the DR has it");
    push(&mut connection, 1, 6).expect(503);
    primary.thaw();
    await_active(&weir, "primary");
    // Its breaker is closed by then: no request finds out that it was open.
    push(&mut connection, 1, 7).expect(200);
    assert_eq!(speed(&mut connection, 1), Some(7.0));
}

#[test]
fn gateways_come_together_where_rows_were_acknowledged_and_one_that_starts_finds_them() {
    let (primary, dr) = pair();
    let (one, other) = (weir(&primary, &dr), weir(&primary, &dr));
    push(&mut one.connect(), 1, 5).expect(200);
    primary.freeze();
    [&one, &other].into_iter().for_each(|weir| await_active(weir, "dr"));
    dr.promote();
    wait_until("a push to be taken", START, || push(&mut one.connect(), 1, 6).status == 200);
    primary.thaw();
    [&one, &other].into_iter().for_each(|weir| await_reason(weir, "primary_lacks_writes"));
    // Whoever starts now is not ready before it knows.
    let late = weir(&primary, &dr);
    assert_eq!(active(&late)["active"], json!("dr"));
    assert_eq!(speed(&mut late.connect(), 1), Some(6.0));

    // An operator who knows better has a way out, and nobody is left behind at the DR.
    primary.ask::<()>(&["HSET", MARKS, "vouched", "1"]);
    [&one, &other, &late].into_iter().for_each(|weir| await_active(weir, "primary"));
    assert!(dr.ask::<bool>(&["HEXISTS", MARKS, "closed"]), "the DR acknowledges nothing any more");
    push(&mut other.connect(), 1, 7).expect(200);
    assert_eq!(speed(&mut one.connect(), 1), Some(7.0));

    // The next time it is opened again by who goes over.
    primary.kill();
    [&one, &other, &late].into_iter().for_each(|weir| await_active(weir, "dr"));
    wait_until("a push to be taken", START, || push(&mut one.connect(), 1, 8).status == 200);
    assert_eq!(speed(&mut other.connect(), 1), Some(8.0));
    assert_eq!(dr.ask::<u64>(&["HGET", MARKS, "acknowledged"]), 2);
}

#[test]
fn a_cluster_takes_over_for_a_cluster_that_lacks_a_master_and_an_operator_says_when_that_has_all_again() {
    let (first, dr) = (RedisCluster::of_masters(), RedisCluster::of_masters());
    let text = of(&format!("mode: cluster\n    redis: {}", first.urls()), &dr.urls());
    let (one, other) = (Weir::start(&text), Weir::start(&text));
    let (mut pusher, mut reader) = (one.connect(), other.connect());
    // On all of their masters; the DR is kept in step by somebody else.
    let drivers = 1..=12;
    drivers.clone().for_each(|driver| _ = push(&mut pusher, driver, 5).expect(200));
    assert!(first.sizes().iter().all(|rows| *rows > 0), "{:?}", first.sizes());
    copy(&first, &dr);

    first.nodes()[1].freeze();
    [&one, &other].into_iter().for_each(|weir| await_active(weir, "dr"));
    drivers.clone().for_each(|driver| assert_eq!(speed(&mut reader, driver), Some(5.0)));
    drivers.clone().for_each(|driver| _ = push(&mut pusher, driver, 6).expect(200));
    drivers.clone().for_each(|driver| assert_eq!(speed(&mut reader, driver), Some(6.0)));

    // Its masters write one stream each: a count that came over proves nothing of the others' rows.
    first.nodes()[1].thaw();
    [&one, &other].into_iter().for_each(|weir| await_reason(weir, "primary_lacks_writes"));
    copy(&dr, &first);
    assert_eq!(first.connection().hget::<_, _, u64>(MARKS, "acknowledged").expect("it is there"), 12);
    let late = Weir::start(&text);
    await_reason(&late, "primary_lacks_writes");
    assert_eq!(speed(&mut late.connect(), 1), Some(6.0));

    first.connection().hset::<_, _, _, ()>(MARKS, "vouched", 12).expect("it is set");
    [&one, &other, &late].into_iter().for_each(|weir| await_active(weir, "primary"));
    drivers.clone().for_each(|driver| assert_eq!(speed(&mut reader, driver), Some(6.0)));
    push(&mut pusher, 1, 7).expect(200);
    assert_eq!(speed(&mut reader, 1), Some(7.0));
    assert_eq!(dr.connection().hget::<_, _, u64>(MARKS, "acknowledged").expect("it is there"), 12, "not there");
}

/// Copies every hash of a cluster to another, as an operator's tool would.
fn copy(from: &RedisCluster, to: &RedisCluster) {
    let (mut source, mut target) = (from.connection(), to.connection());
    for node in from.nodes() {
        let keys: Vec<Vec<u8>> = node.connection().keys("*").expect("it answers");
        for key in keys {
            let cells: Vec<(Vec<u8>, Vec<u8>)> = source.hgetall(&key).expect("a hash");
            target.hset_multiple::<_, _, _, ()>(&key, &cells).expect("it is taken");
        }
    }
}
