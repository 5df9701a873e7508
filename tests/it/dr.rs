//! When the Redis of the rows is lost another takes over; and the first has the work back only once it has every row that was
//! acknowledged meanwhile. The same of clusters, where only an operator can say that it has.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    Redis, RedisCluster, Weir,
    http1::{self, Http1, Response},
    measured,
    metrics::await_metric,
    process::{START, wait_until},
};

const MARKS: &str = "weir:dr:dr";

/// Nothing is cached, so that every answer is L2's.
const NO_L1: &str = "capacity: 0B";

fn weir(primary: &Redis, dr: &Redis) -> Weir {
    let urls = [primary, dr].map(|redis| format!("[{}]", redis.url()));
    Weir::start(&config("single", &urls, NO_L1))
}

/// Soon over and soon back, for the machine's patience.
fn config(mode: &str, [primary, dr]: &[String; 2], l1: &str) -> String {
    format!(
        r#"
features:
  project: dr
  l1: {{{l1}}}
  l2:
    mode: {mode}
    redis: {primary}
    timeout: 2s
    dr: {{redis: {dr}, failover_after: 2s, back_after: 1s}}
  views:
    live: {{entities: {{driver_id: INT64}}, features: {{speed: {{type: DOUBLE}}}}, ttl: 1h}}
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
    for number in 1..=500 {
        push(&mut connection, 1, number).expect(200);
    }
    // Replication is asynchronous: what the DR has confirmed is all that is sure to outlive the primary.
    let confirmed: u64 = primary.ask(&["WAIT", "1", "60000"]);
    assert_eq!(confirmed, 1, "the DR has everything so far");
    for number in 501..=600 {
        push(&mut connection, 1, number).expect(200);
    }
    primary.kill();
    let killed = Instant::now();
    wait_until("rows to be read again", START, || speed(&mut connection, 1).is_some());
    let rto = killed.elapsed();
    let found = speed(&mut connection, 1).expect("a row");
    measured(format_args!(
        "RTO of reads {rto:?} with failover_after 2s; RPO: {} of the last 100 acknowledged pushes lost, none of 500 that the DR had confirmed",
        600.0 - found
    ));
    assert!((500.0..=600.0).contains(&found), "{found}");
    assert!(rto >= Duration::from_secs(2), "no sooner than the file says");

    // A replica takes no writes; that is told in words.
    let refused = push(&mut connection, 1, 1000).expect(503);
    assert!(refused.text().contains("takes none before it is promoted"), "{}", refused.text());
    assert_eq!((&active(&weir)["active"], &active(&weir)["reason"]), (&json!("dr"), &json!("primary_gone")));
    dr.promote();
    let promoted = Instant::now();
    wait_until("a push to be taken", START, || push(&mut connection, 1, 1001).status == 200);
    measured(format_args!("RTO of pushes {:?} after the DR was promoted", promoted.elapsed()));
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
    measured(format_args!("back at the primary {:?} after the handover, with all rows up to {last}", handed.elapsed()));
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

/// As above, with a first Redis that would have to be well for an hour before it has the rows again.
fn patient(primary: &Redis, dr: &Redis) -> Weir {
    let urls = [primary, dr].map(|redis| format!("[{}]", redis.url()));
    Weir::start(&config("single", &urls, NO_L1).replace("back_after: 1s", "back_after: 1h"))
}

#[test]
fn a_first_redis_that_is_handed_the_rows_has_them_at_once_and_pushes_go_on() {
    let (primary, dr) = pair();
    let weir = patient(&primary, &dr);
    let mut connection = weir.connect();
    push(&mut connection, 1, 1).expect(200);
    primary.kill();
    await_active(&weir, "dr");
    dr.promote();
    wait_until("a push to be taken", START, || push(&mut connection, 1, 2).status == 200);
    primary.restart();
    primary.follow(&dr);
    in_step(&primary);
    await_reason(&weir, "primary_read_only");

    let (port, mut last) = (primary.address().port().to_string(), 2);
    wait_until("the DR to hand over", START, || {
        redis::cmd("FAILOVER").arg(&["TO", "127.0.0.1", &port]).exec(&mut dr.connection()).is_ok()
    });
    let (mut taken, mut longest, mut refused) = (Instant::now(), Duration::ZERO, 0);
    wait_until("pushes to be taken by the first", START, || {
        // A look at the first that came to nothing, on a busy machine, is told as what it is.
        let reason = || active(&weir)["reason"].clone();
        let before = reason();
        let answer = push(&mut connection, 1, last + 1);
        if answer.status == 200 {
            longest = longest.max(taken.elapsed());
            (last, taken) = (last + 1, Instant::now());
            return active(&weir)["active"] == json!("primary");
        }
        refused += 1;
        let seen = [before, reason()];
        let is_misled = answer.text().contains("before it is promoted") && !seen.contains(&json!("primary_gone"));
        assert!(!is_misled, "nobody is to do that now: {}; {seen:?}", answer.text());
        false
    });
    measured(format_args!("a planned handover: pushes were refused {refused} times, for {longest:?} at the longest"));
    assert_eq!(speed(&mut connection, 1), Some(f64::from(last)));
}

#[test]
fn a_push_that_is_refused_while_the_first_settles_is_told_so() {
    let (primary, dr) = pair();
    let weir = patient(&primary, &dr);
    let mut connection = weir.connect();
    push(&mut connection, 1, 5).expect(200);
    primary.freeze();
    await_active(&weir, "dr");
    let refused = push(&mut connection, 1, 6).expect(503);
    assert!(refused.text().contains("takes none before it is promoted"), "{}", refused.text());
    primary.thaw();
    await_reason(&weir, "settling");
    let refused = push(&mut connection, 1, 6).expect(503);
    assert!(refused.text().contains("is about to have the rows again"), "{}", refused.text());
}

#[test]
fn a_dr_that_could_not_take_over_is_told_of_before_it_is_needed() {
    let (primary, dr) = pair();
    let mut weir = weir(&primary, &dr);
    let await_ready = |ready: f64| await_metric(weir.admin(), "weir_l2_dr_ready", &[], |found| found == ready);
    let await_why = |why: &str| {
        wait_until(why, START, || active(&weir)["dr"]["why"].as_str().is_some_and(|found| found.contains(why)));
        await_ready(0.0);
        assert_eq!(active(&weir)["dr"]["usable"], json!(false));
    };
    await_ready(1.0);
    assert_eq!(active(&weir)["dr"], json!({"usable": true, "why": null}));
    dr.promote();
    await_why("it follows nobody");
    dr.follow(&primary);
    await_ready(1.0);
    dr.kill();
    await_why("it does not answer");
    dr.restart();
    await_ready(1.0);
    // Its rows are no worse for that they do not come: it is what it could be.
    primary.freeze();
    await_active(&weir, "dr");
    await_ready(1.0);
    let log = weir.process().log();
    assert!(log.contains("the DR Redis could not take over now") && log.contains("could take over again"), "{log}");
}

/// The stored row, as another's tool would move it.
fn row(redis: &Redis) -> (Vec<u8>, Vec<u8>) {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut redis.connection()).expect("it runs");
    let key = keys.into_iter().find(|key| !key.starts_with(b"weir") && !key.starts_with(b"{weir")).expect("a row");
    let dump = redis::cmd("DUMP").arg(&key).query(&mut redis.connection()).expect("it runs");
    (key, dump)
}

fn put(redis: &Redis, (key, dump): &(Vec<u8>, Vec<u8>)) {
    let mut restore = redis::cmd("RESTORE");
    restore.arg(key).arg(0).arg(dump).arg("REPLACE").exec(&mut redis.connection()).expect("it is taken");
}

/// Waits until this Redis, and no other, is listened to.
fn await_heard(weir: &Weir, redis: &Redis) {
    let expected = json!({"up": true, "servers": [{"redis": redis.address().to_string(), "up": true, "why": null}]});
    wait_until(&format!("{expected}"), START, || {
        let features = Http1::connect(weir.admin()).get("/admin/v1/features").expect(200).json();
        features["state"]["invalidation"]["tracking"] == expected
    });
    await_metric(weir.admin(), "weir_invalidation_channel_up", &[("channel", "tracking")], |up| up == 1.0);
}

#[test]
fn whoever_has_the_rows_is_listened_to() {
    let (primary, dr) = pair();
    let urls = [&primary, &dr].map(|redis| format!("[{}]", redis.url()));
    let tracking = "  invalidate: {tracking: true}\n  views:";
    let weir = Weir::start(&config("single", &urls, "ttl: 1h").replace("  views:", tracking));
    let mut connection = weir.connect();
    await_heard(&weir, &primary);
    push(&mut connection, 1, 5).expect(200);
    wait_until("the row at the DR", START, || dr.ask::<u64>(&["DBSIZE"]) == 1);
    primary.kill();
    await_active(&weir, "dr");
    // A replica tells, too.
    await_heard(&weir, &dr);
    dr.promote();
    wait_until("a push to be taken", START, || push(&mut connection, 1, 6).status == 200);
    let six = row(&dr);
    push(&mut connection, 1, 7).expect(200);

    // Back, empty, and of no concern to anybody.
    primary.restart();
    await_reason(&weir, "primary_lacks_writes");
    await_heard(&weir, &dr);
    assert_eq!(speed(&mut connection, 1), Some(7.0));
    put(&dr, &six);
    wait_until("what was written behind everybody's back", START, || speed(&mut connection, 1) == Some(6.0));

    put(&primary, &row(&dr));
    primary.ask::<()>(&["HSET", MARKS, "vouched", "2"]);
    await_active(&weir, "primary");
    await_heard(&weir, &primary);
    push(&mut connection, 1, 8).expect(200);
    assert_eq!(speed(&mut connection, 1), Some(8.0));
    put(&primary, &six);
    wait_until("what was written there", START, || speed(&mut connection, 1) == Some(6.0));
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
fn what_l1_had_of_the_dr_is_not_served_once_the_primary_has_the_rows_again() {
    let (primary, dr) = pair();
    let urls = [&primary, &dr].map(|redis| format!("[{}]", redis.url()));
    // Rows are good for an hour.
    let [one, other] = [(); 2].map(|()| Weir::start(&config("single", &urls, "ttl: 1h")));
    let [mut pusher, mut reader] = [one.connect(), other.connect()];
    push(&mut pusher, 1, 5).expect(200);
    wait_until("the row at the other gateway", START, || speed(&mut reader, 1) == Some(5.0));
    wait_until("the row at the DR", START, || dr.ask::<u64>(&["DBSIZE"]) > 0);
    primary.freeze();
    [&one, &other].into_iter().for_each(|weir| await_active(weir, "dr"));
    // What L1 had is dropped right after.
    let dropped = |times: f64| {
        let labels = [("origin", "dr"), ("scope", "all")];
        await_metric(other.admin(), "weir_invalidations_total", &labels, |count| count >= times)
    };
    dropped(1.0);
    dr.promote();
    wait_until("a push to be taken", START, || push(&mut pusher, 1, 6).status == 200);
    wait_until("the row at the other gateway", START, || speed(&mut reader, 1) == Some(6.0));
    // What tells it of changed rows was in the primary: from now on it has an old row, as the file allows.
    push(&mut pusher, 1, 7).expect(200);
    assert_eq!((speed(&mut reader, 1), speed(&mut pusher, 1)), (Some(6.0), Some(7.0)));
    let hits = other.metrics().count("weir_feature_lookups_total", &[("layer", "l1"), ("outcome", "hit")]);
    assert!(hits > 0.0, "it was L1 that had it");

    primary.thaw();
    [&one, &other].into_iter().for_each(|weir| await_reason(weir, "primary_lacks_writes"));
    primary.follow(&dr);
    in_step(&primary);
    let (port, mut last) = (primary.address().port().to_string(), 7);
    wait_until("the DR to hand over", START, || {
        redis::cmd("FAILOVER").arg(&["TO", "127.0.0.1", &port]).exec(&mut dr.connection()).is_ok()
    });
    wait_until("the primary to have the rows", START, || {
        if push(&mut pusher, 1, last + 1).status == 200 {
            last += 1;
        }
        let found = speed(&mut pusher, 1);
        assert!(found.is_none_or(|found| found >= f64::from(last)), "{found:?} where {last} was acknowledged");
        [&one, &other].into_iter().all(|weir| active(weir)["active"] == json!("primary"))
    });
    dropped(2.0);
    assert_eq!([speed(&mut pusher, 1), speed(&mut reader, 1)], [Some(f64::from(last)); 2]);
}

/// Every key of a cluster with what is there, as a tool that copies clusters would have it.
fn copy(from: &RedisCluster, to: &RedisCluster) {
    let mut there = to.connection();
    for node in from.nodes() {
        let mut here = node.connection();
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut here).expect("it runs");
        for key in keys {
            let Some(dump) = redis::cmd("DUMP").arg(&key).query::<Option<Vec<u8>>>(&mut here).expect("it runs") else {
                continue;
            };
            let mut restore = redis::cmd("RESTORE");
            restore.arg(&key).arg(0).arg(dump).arg("REPLACE").exec(&mut there).expect("the other takes it");
        }
    }
}

#[test]
fn a_cluster_takes_over_and_the_first_has_the_rows_back_on_an_operators_word() {
    let (primary, dr) = (RedisCluster::of_masters(), RedisCluster::of_masters());
    let text = config("cluster", &[primary.urls(), dr.urls()], NO_L1);
    let [weir, other] = [(); 2].map(|()| Weir::start(&text));
    let (mut connection, mut reader) = (weir.connect(), other.connect());
    // On every master of either.
    let drivers = 1..=30;
    for driver in drivers.clone() {
        push(&mut connection, driver, 5).expect(200);
    }
    copy(&primary, &dr);
    let all = |connection: &mut Http1| drivers.clone().map(|driver| speed(connection, driver)).collect::<Vec<_>>();

    // One master of three is enough.
    primary.nodes()[0].freeze();
    [&weir, &other].into_iter().for_each(|weir| await_active(weir, "dr"));
    assert_eq!(all(&mut reader), [Some(5.0); 30]);
    for driver in drivers.clone() {
        push(&mut connection, driver, 6).expect(200);
    }
    primary.nodes()[0].thaw();
    [&weir, &other].into_iter().for_each(|weir| await_reason(weir, "primary_lacks_writes"));
    assert_eq!(all(&mut reader), [Some(6.0); 30], "and not what the primary has");

    // Even one that has every row, and the count of them: of several streams no count proves that.
    copy(&dr, &primary);
    push(&mut connection, 1, 7).expect(200);
    copy(&dr, &primary);
    // Nor does one that starts now believe it.
    let late = Weir::start(&text);
    await_reason(&late, "primary_lacks_writes");
    assert_eq!(speed(&mut late.connect(), 1), Some(7.0));
    assert_eq!((&active(&weir)["active"], &active(&weir)["reason"]), (&json!("dr"), &json!("primary_lacks_writes")));
    let acknowledged: u64 =
        redis::cmd("HGET").arg(&[MARKS, "acknowledged"]).query(&mut dr.connection()).expect("a count");
    assert_eq!(acknowledged, 31);
    let vouched = acknowledged.to_string();
    redis::cmd("HSET").arg(&[MARKS, "vouched", &vouched]).exec(&mut primary.connection()).expect("it is set");
    [&weir, &other, &late].into_iter().for_each(|weir| await_active(weir, "primary"));
    let back = all(&mut reader);
    assert_eq!((back[0], &back[1..]), (Some(7.0), &[Some(6.0); 29][..]));
    for driver in drivers.clone() {
        push(&mut connection, driver, 8).expect(200);
    }
    assert_eq!(all(&mut reader), [Some(8.0); 30]);
    let moves = |to| weir.metrics().count("weir_l2_moves_total", &[("to", to)]);
    assert_eq!((moves("dr"), moves("primary")), (1.0, 1.0));
}
