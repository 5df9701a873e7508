//! What is written to Redis by anybody is seen by the next request, however long L1 would have kept what was there before; and what
//! an operator drops is gone from every gateway.

use std::time::Duration;

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value},
};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::support::{
    Redis, RedisCluster, Weir,
    http1::Http1,
    measured,
    metrics::await_metric,
    process::{START, wait_until},
    vectors,
};

const PROJECT: &str = "told";
const RATE: &str = "driver_stats:acc_rate";
const AGE: &str = "user_profile:age";
const UP: &str = "weir_invalidation_channel_up";
const TRACKING: (&str, &str) = ("channel", "tracking");

/// Rows live for an hour: what is seen sooner was told.
fn weir(l2: &str, more: &str) -> Weir {
    let weir = Weir::start(&format!(
        r#"
features:
  project: {PROJECT}
  l1: {{ttl: 1h, negative_ttl: 1h}}
  l2: {{{l2}, timeout: 2s}}
  breaker: {{open_for: 1s}}
  {more}
  views:
    driver_stats: {{entities: {{driver_id: INT64}}, features: {{acc_rate: {{type: DOUBLE}}}}}}
    user_profile: {{entities: {{user_id: STRING}}, features: {{age: {{type: DOUBLE}}}}}}
"#
    ));
    if !more.is_empty() {
        await_metric(weir.admin(), UP, &[TRACKING], |up| up == 1.0);
    }
    weir
}

const TRACKED: &str = "invalidate: {tracking: true}";

fn of_one(redis: &Redis) -> String {
    format!("redis: \"{}\"", redis.url())
}

fn key(entity: &EntityValue, project: &str) -> Vec<u8> {
    let name = if matches!(entity, EntityValue::Int64(_)) { "driver_id" } else { "user_id" };
    [EntityKey::new([(name, entity)].into_iter()).as_bytes(), project.as_bytes()].concat()
}

/// As Feast writes it: past every gateway.
fn hset(key: &[u8], feature: &str, value: f64) -> redis::Cmd {
    let mut bytes = Vec::new();
    encode_value(&Value::Double(value), &mut bytes);
    let mut hset = redis::cmd("HSET");
    hset.arg(key).arg(vectors::field(feature)).arg(bytes);
    hset
}

fn write(connection: &mut impl redis::ConnectionLike, driver: i64, value: f64) {
    hset(&key(&EntityValue::Int64(driver), PROJECT), RATE, value).exec(connection).expect("it is written");
}

#[track_caller]
fn read(connection: &mut Http1, drivers: &[i64]) -> Vec<Json> {
    values(connection, RATE, json!({"driver_id": drivers}))
}

#[track_caller]
fn values(connection: &mut Http1, feature: &str, entities: Json) -> Vec<Json> {
    let body = json!({"features": [feature], "entities": entities});
    let answer = connection.post("/get-online-features", body.to_string()).expect(200).json();
    answer["results"][1]["values"].as_array().expect("values").clone()
}

/// Waits until they are read so; how long that took.
#[track_caller]
fn await_values(connection: &mut Http1, drivers: &[i64], expected: &[Json]) -> Duration {
    let began = Instant::now();
    wait_until(&format!("{expected:?}"), START, || read(connection, drivers) == expected);
    began.elapsed()
}

#[test]
fn what_feast_writes_is_seen_at_once_and_other_projects_keys_cost_nothing() {
    let redis = Redis::start();
    let weir = weir(&of_one(&redis), TRACKED);
    let (mut feast, mut client) = (redis.connection(), weir.connect());
    write(&mut feast, 1, 1.0);
    await_values(&mut client, &[1, 2], &[json!(1.0), Json::Null]);
    let asked = redis.calls("hmget");
    assert_eq!(read(&mut client, &[1, 2]), [json!(1.0), Json::Null]);
    assert_eq!(redis.calls("hmget"), asked, "L1 has them, and that there is none");

    write(&mut feast, 1, 2.0);
    let took = await_values(&mut client, &[1], &[json!(2.0)]);
    measured(format_args!("a write was seen {took:?} after it was made"));
    write(&mut feast, 2, 3.0);
    await_values(&mut client, &[2], &[json!(3.0)]);

    let asked = redis.calls("hmget");
    hset(&key(&EntityValue::Int64(1), "other"), RATE, 9.0).exec(&mut feast).unwrap();
    hset(&key(&EntityValue::Int64(1), &format!("{PROJECT}:shard_1")), RATE, 9.0).exec(&mut feast).unwrap();
    write(&mut feast, 2, 4.0);
    await_values(&mut client, &[2], &[json!(4.0)]);
    assert_eq!(read(&mut client, &[1]), [json!(2.0)]);
    let of_two = redis.calls("hmget") - asked;
    assert!(of_two >= 1);
    read(&mut client, &[1]);
    assert_eq!(redis.calls("hmget") - asked, of_two, "driver 1 was read from L1 all along");

    redis::cmd("FLUSHALL").exec(&mut feast).unwrap();
    await_values(&mut client, &[1, 2], &[Json::Null, Json::Null]);
}

/// Redis tells no time; a gateway knows when it wrote what it is told of.
#[test]
fn how_long_redis_takes_to_tell_is_measured_at_what_is_pushed_here() {
    let redis = Redis::start();
    let weir = weir(&of_one(&redis), TRACKED);
    let (mut feast, mut client) = (redis.connection(), weir.connect());
    let measured = || weir.metrics().count("weir_invalidation_delay_seconds_count", &[("origin", "tracking")]);
    let told = || weir.metrics().count("weir_invalidations_total", &[("origin", "tracking"), ("scope", "rows")]);
    for round in 1..=5_u8 {
        write(&mut feast, 1, round.into());
        await_values(&mut client, &[1], &[json!(f64::from(round))]);
    }
    assert!(told() > 0.0 && measured() == 0.0, "nobody knows when Feast wrote");
    let push = |time: &str| {
        let rows = json!({"driver_id": [2], "event_timestamp": [time], "acc_rate": [1.0]});
        weir.connect().post("/push", json!({"push_source_name": "driver_stats", "df": rows}).to_string()).expect(200);
    };
    push("2026-11-22T10:00:01Z");
    await_metric(weir.admin(), "weir_invalidation_delay_seconds_count", &[("origin", "tracking")], |count| {
        count == 1.0
    });
    // One that changes nothing is told to nobody, and the next is not measured by it.
    push("2026-11-22T10:00:00Z");
    write(&mut feast, 2, 7.0);
    await_values(&mut client, &[2], &[json!(7.0)]);
    assert_eq!(measured(), 1.0);
    let sum = weir.metrics().count("weir_invalidation_delay_seconds_sum", &[("origin", "tracking")]);
    assert!(sum > 0.0 && sum < 5.0, "{sum}");
}

#[test]
fn what_was_written_while_redis_was_not_heard_is_seen() {
    let redis = Redis::start();
    let weir = weir(&of_one(&redis), TRACKED);
    let (mut feast, mut client) = (redis.connection(), weir.connect());
    for round in 0..5 {
        let (before, after) = (f64::from(round), f64::from(round) + 0.5);
        write(&mut feast, 1, before);
        await_values(&mut client, &[1], &[json!(before)]);
        // Whoever listened is gone when the row is written.
        let mut together = redis::pipe();
        together.atomic().cmd("CLIENT").arg("KILL").arg("TYPE").arg("NORMAL").arg("SKIPME").arg("YES").ignore();
        together.add_command(hset(&key(&EntityValue::Int64(1), PROJECT), RATE, after)).ignore();
        together.exec(&mut feast).expect("both are done");
        await_values(&mut client, &[1], &[json!(after)]);
        await_metric(weir.admin(), UP, &[TRACKING], |up| up == 1.0);
    }
    let lost = weir.metrics().count("weir_invalidation_channel_losses_total", &[TRACKING]);
    assert!(lost >= 5.0, "{lost}");

    redis.freeze();
    await_metric(weir.admin(), UP, &[TRACKING], |up| up == 0.0);
    assert_eq!(read(&mut client, &[1]), [json!(4.5)], "what L1 has is served on");
    redis.thaw();
    await_metric(weir.admin(), UP, &[TRACKING], |up| up == 1.0);
    write(&mut feast, 1, 7.0);
    await_values(&mut client, &[1], &[json!(7.0)]);
}

#[test]
fn a_gateway_that_may_not_listen_serves_and_says_so() {
    let redis = Redis::start();
    let mut feast = redis.connection();
    let user = ["SETUSER", "reader", "on", ">pw", "~*", "&*", "+@all", "-client|tracking"];
    redis::cmd("ACL").arg(&user).exec(&mut feast).unwrap();
    write(&mut feast, 1, 1.0);
    let url = redis.url().replace("redis://", "redis://reader:pw@");
    // Ready, though it is not told of anything.
    let weir = weir(&format!("redis: \"{url}\""), "");
    assert_eq!(weir.metrics().sum(UP, &[TRACKING]), None, "nothing is shown of what is not wanted");
    drop(weir);
    let weir = Weir::start(&format!(
        "features: {{project: {PROJECT}, l2: {{redis: \"{url}\"}}, {TRACKED}, \
         views: {{driver_stats: {{entities: {{driver_id: INT64}}, features: {{acc_rate: {{type: DOUBLE}}}}}}}}}}"
    ));
    assert_eq!(read(&mut weir.connect(), &[1]), [json!(1.0)]);
    let mut admin = Http1::connect(weir.admin());
    let mut state = || admin.get("/admin/v1/features").expect(200).json()["state"]["invalidation"]["tracking"].clone();
    wait_until("it to say why", START, || state()["servers"][0]["why"].as_str().is_some());
    let told = state();
    assert!(told["up"] == json!(false) && told["servers"][0]["why"].as_str().unwrap().contains("NOPERM"), "{told}");
    assert_eq!(weir.metrics().count(UP, &[TRACKING]), 0.0);
    Http1::connect(weir.admin()).get("/readyz").expect(200);
}

#[test]
fn a_cluster_is_heard_whoever_is_master() {
    const DRIVERS: i64 = 60;
    let cluster = RedisCluster::start();
    let weir = weir(&format!("mode: cluster, redis: {}", cluster.urls()), TRACKED);
    let (mut feast, mut client) = (cluster.connection(), weir.connect());
    let drivers: Vec<_> = (0..DRIVERS).collect();
    let mut write_all = |value: f64| drivers.iter().for_each(|driver| write(&mut feast, *driver, value));
    let all = |value: f64| vec![json!(value); drivers.len()];
    write_all(1.0);
    await_values(&mut client, &drivers, &all(1.0));
    write_all(2.0);
    await_values(&mut client, &drivers, &all(2.0));
    wait_until("every row at a replica too", START, || cluster.sizes().iter().sum::<u64>() >= 120);

    let slots =
        |weir: &Weir| weir.metrics().count("weir_invalidations_total", &[("origin", "tracking"), ("scope", "slots")]);
    let before = slots(&weir);
    let master = &cluster.nodes()[0];
    master.kill();
    let killed = Instant::now();
    await_metric(weir.admin(), UP, &[TRACKING], |up| up == 0.0);
    await_metric(weir.admin(), UP, &[TRACKING], |up| up == 1.0);
    measured(format_args!("heard again {:?} after a master was killed", killed.elapsed()));
    assert!(slots(&weir) > before);
    let all_dropped = [("origin", "tracking"), ("scope", "all")];
    assert_eq!(weir.metrics().count("weir_invalidations_total", &all_dropped), 0.0, "other shards' rows stay");
    assert_eq!(read(&mut client, &drivers), all(2.0), "nothing was lost that replicas had");
    let mut feast = cluster.connection();
    for driver in &drivers {
        write(&mut feast, *driver, 3.0);
    }
    await_values(&mut client, &drivers, &all(3.0));
    // And when the old one comes back, as a replica.
    master.restart();
    for driver in &drivers {
        write(&mut feast, *driver, 4.0);
    }
    await_values(&mut client, &drivers, &all(4.0));
}

#[test]
fn slots_that_move_are_heard_at_their_new_master_and_no_replica_undoes_what_was_told() {
    const DRIVERS: i64 = 60;
    let cluster = RedisCluster::start();
    let weir = weir(&format!("mode: cluster, redis: {}, read_from: replica, max_lag: 60s", cluster.urls()), TRACKED);
    let mut client = weir.connect();
    let drivers: Vec<_> = (0..DRIVERS).collect();
    let write_all = |value: f64| {
        let mut feast = cluster.connection();
        drivers.iter().for_each(|driver| write(&mut feast, *driver, value));
    };
    let all = |value: f64| vec![json!(value); drivers.len()];
    write_all(1.0);
    await_values(&mut client, &drivers, &all(1.0));

    let slots = || weir.metrics().count("weir_invalidations_total", &[("origin", "tracking"), ("scope", "slots")]);
    let before = slots();
    cluster.reshard(&cluster.nodes()[0], &cluster.nodes()[2], 2500);
    wait_until("the slots that moved to be vouched for anew", START, || slots() > before);
    await_metric(weir.admin(), UP, &[TRACKING], |up| up == 1.0);
    // What replicas have from now on is old: L1, which would keep it for an hour, is not filled from them.
    let replicas = &cluster.nodes()[3..];
    replicas.iter().for_each(Redis::freeze);
    for value in [2.0, 3.0, 4.0] {
        write_all(value);
        await_values(&mut client, &drivers, &all(value));
    }
    replicas.iter().for_each(Redis::thaw);
    let asked: u64 = cluster.nodes().iter().map(|node| node.calls("hmget")).sum();
    assert_eq!(read(&mut client, &drivers), all(4.0));
    assert_eq!(cluster.nodes().iter().map(|node| node.calls("hmget")).sum::<u64>(), asked, "L1 has them");
}

#[test]
fn what_an_operator_drops_is_gone_from_every_gateway() {
    let redis = Redis::start();
    let mut feast = redis.connection();
    // Neither listens to Redis.
    let gateways = [(); 2].map(|()| weir(&of_one(&redis), ""));
    let mut clients = gateways.each_ref().map(Weir::connect);
    let users = ["ann", "anton", "bob"];
    let mut set = |value: f64| {
        (1..=2).for_each(|driver| write(&mut feast, driver, value));
        for user in users {
            let key = key(&EntityValue::String(user.into()), PROJECT);
            hset(&key, AGE, value).exec(&mut feast).unwrap();
        }
    };
    let mut seen = || {
        clients.each_mut().map(|client| {
            let mut seen = values(client, RATE, json!({"driver_id": [1, 2]}));
            seen.extend(values(client, AGE, json!({"user_id": users})));
            seen.iter().map(|value| value.as_f64().expect("a value")).collect::<Vec<_>>()
        })
    };
    let mut admin = Http1::connect(gateways[0].admin());
    let mut drop_all_of = |body: Json| admin.post("/admin/v1/invalidate", body.to_string());
    for gateway in &gateways {
        let mut admin = Http1::connect(gateway.admin());
        wait_until("the gateways to meet", START, || {
            admin.get("/admin/v1/features").expect(200).json()["state"]["lease"]["connected"] == json!(true)
        });
    }
    set(1.0);
    assert_eq!(seen(), [[1.0; 5]; 2]);
    set(2.0);
    assert_eq!(seen(), [[1.0; 5]; 2], "nobody told them");
    let mut dropped = |body: Json, rows: u64, expected: [f64; 5]| {
        let answer = drop_all_of(body.clone()).expect(200).json();
        assert_eq!((&answer["rows"], &answer["other_gateways"]), (&json!(rows), &json!("told")), "{body}");
        assert_eq!(seen()[0], expected, "{body}, here and at once");
        wait_until(&format!("{body}, there"), START, || seen()[1] == expected);
    };
    dropped(json!({"view": "driver_stats", "entity": {"driver_id": 1}}), 1, [2.0, 1.0, 1.0, 1.0, 1.0]);
    dropped(json!({"view": "user_profile", "prefix": "an"}), 2, [2.0, 1.0, 2.0, 2.0, 1.0]);
    dropped(json!({"view": "user_profile"}), 3, [2.0, 1.0, 2.0, 2.0, 2.0]);
    dropped(json!({"view": "driver_stats", "entity": {"driver_id": 2}}), 1, [2.0; 5]);

    // Nobody knows when what they dropped was written; of a push it is told.
    let delays =
        |at: usize| gateways[at].metrics().count("weir_invalidation_delay_seconds_count", &[("origin", "pubsub")]);
    assert_eq!([delays(0), delays(1)], [0.0; 2]);
    let df = json!({"driver_id": [1], "acc_rate": [3.0], "event_timestamp": ["2026-11-22T10:00:00Z"]});
    let push = json!({"push_source_name": "driver_stats", "df": df, "to": "online"});
    Http1::connect(gateways[0].http()).post("/push", push.to_string()).expect(200);
    wait_until("the other gateway to drop it", START, || seen()[1][0] == 3.0);
    assert_eq!([delays(0), delays(1)], [0.0, 1.0]);

    for (body, status, told) in [
        (json!({"view": "x"}), 404, "unknown view \"x\"; configured: driver_stats, user_profile"),
        (
            json!({"view": "driver_stats", "prefix": "1"}),
            400,
            "view driver_stats has no prefixes: its first join key driver_id is INT64",
        ),
        (
            json!({"view": "driver_stats", "entity": {"driver": 1}}),
            400,
            "driver is no join key of view driver_stats; allowed: exactly its join keys, driver_id: INT64",
        ),
        (
            json!({"view": "user_profile", "prefix": ""}),
            400,
            "an empty prefix, with which all rows of view user_profile begin; allowed: text, or no `prefix`",
        ),
        (json!({"rows": []}), 400, "{\"view\": \"name\", \"entity\": {\"join key\": value}}"),
    ] {
        let answer = drop_all_of(body).expect(status).json();
        assert!(answer["error"].as_str().unwrap().contains(told), "{answer}");
    }
}
