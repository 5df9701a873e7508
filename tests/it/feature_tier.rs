//! Rows read through feature servers are the rows that are stored, and a server that dies costs nobody a row.
//!
//! A sidecar reads from two gateways that read from one Redis, or from Feast's own Python server; whoever asks the sidecar is to see
//! what one sees who asks Redis.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value as Stored},
};
use serde_json::{Value, json};

use crate::{
    support::{
        FeastServer, Redis, Weir,
        hand::Echo,
        http1::{Http1, Response},
        lookup, measured,
        process::{Folder, START, free_port, wait_until},
        vectors::{self, DUMP, StoredHash},
    },
    world::STORE,
};

/// What Feast wrote; its views are in the dump.
const REGISTRY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/feast/registry.pb");

fn columns(answer: &Value) -> BTreeMap<String, Value> {
    let names = answer["metadata"]["feature_names"].as_array().expect("names").iter();
    let results = answer["results"].as_array().expect("columns").iter().cloned();
    names.map(|name| name.as_str().expect("text").to_owned()).zip(results).collect()
}

/// A view's whole rows.
fn online(weir: &Weir, features: &[String], entities: &Value) -> BTreeMap<String, Value> {
    let body = json!({"features": features, "entities": entities, "full_feature_names": true});
    columns(&weir.connect().post("/get-online-features", body.to_string()).expect(200).json())
}

/// Every view of the recorded registry: its name, its features, and the entities that have a row, with one that has none.
fn recorded_views() -> Vec<(String, Vec<String>, Value)> {
    let registry = vectors::read_json("feast/registry.json");
    let text = |json: &Value| json.as_str().expect("text").to_owned();
    let views = registry["feature_views"].as_array().expect("an array").iter().map(|view| {
        let name = text(&view["spec"]["name"]);
        let features = view["spec"]["features"].as_array().expect("an array").iter();
        let features = features.map(|feature| format!("{name}:{}", text(&feature["name"]))).collect();
        let mut entities = BTreeMap::<String, Vec<Value>>::new();
        for hash in DUMP.iter().filter(|hash| hash.views.contains(&name)) {
            for (key, _, value) in &hash.entity {
                entities.entry(key.clone()).or_default().push(value.clone());
            }
        }
        for values in entities.values_mut() {
            values.push(if values[0].is_string() { json!("nobody") } else { json!(424_242) });
        }
        (name, features, json!(entities))
    });
    views.collect()
}

fn in_front_of(servers: &[&Weir]) -> String {
    let urls: Vec<String> = servers.iter().map(|server| format!("\"http://{}\"", server.http())).collect();
    format!("feature_server: [{}]", urls.join(", "))
}

/// How many requests a server answered.
pub(crate) fn answered(sidecar: &Weir, server: &str) -> f64 {
    let labels = [("target", server), ("outcome", "answered")];
    sidecar.metrics().count("weir_feature_server_requests_total", &labels)
}

#[test]
fn rows_of_every_type_are_those_that_redis_holds() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let weir = |l2: &str| {
        Weir::start(&format!(
            "features:\n  registry: {REGISTRY}\n  l1: {{capacity: 0B}}\n  l2: {{{l2}, timeout: 5s}}\n"
        ))
    };
    let on_redis = || weir(&format!("redis: [{}]", redis.url()));
    let servers = [on_redis(), on_redis()];
    let sidecar = weir(&in_front_of(&[&servers[0], &servers[1]]));
    let mut compared = 0;
    for (view, features, entities) in recorded_views() {
        let direct = online(&servers[0], &features, &entities);
        assert_eq!(online(&sidecar, &features, &entities), direct, "{view}");
        compared += direct.len();
    }
    measured(format_args!("{compared} columns of {} views are the same", recorded_views().len()));
    assert!(compared >= 50, "{compared}");
    let both: f64 = servers.iter().map(|server| answered(&sidecar, &format!("feature_server/{}", server.http()))).sum();
    assert!(both >= 10.0, "one request a view: {both}");

    // What is read through a server is not written through it, whatever the body is.
    let write = json!({"feature_view_name": "live", "df": {"driver_id": [1], "event_timestamp": ["2026-11-22T10:00:00Z"],
        "speed": [1.0], "gear": [2]}});
    let empty = json!({"push_source_name": "driver_push", "df": {}});
    for (path, body) in [
        ("/write-to-online-store", write.to_string()),
        ("/write-to-online-store", "{".into()),
        ("/push", empty.to_string()),
        ("/push", json!({"push_source_name": "nobody's", "to": "nowhere"}).to_string()),
        ("/push", "no JSON".into()),
    ] {
        let refused = sidecar.connect().post(path, body).expect(501).json();
        assert!(refused.as_str().expect("words").contains("features.l2.feature_server"), "{refused}");
    }
}

#[test]
fn rows_of_feasts_own_server_are_those_that_redis_holds() {
    let (redis, feast) = &*STORE;
    let server = FeastServer::start(feast, &redis.address().to_string());
    let weir = |l2: &str| {
        let registry = feast.registry();
        Weir::start(&format!(
            "features:\n  registry: {}\n  l1: {{capacity: 0B}}\n  l2: {{{l2}, timeout: 30s}}\n",
            registry.display()
        ))
    };
    let direct = weir(&format!("redis: [{}]", redis.url()));
    let sidecar = weir(&format!("feature_server: \"http://{}\"", server.address()));
    let users = json!({"user_id": [1, 2, -1, 424_242]});
    for (view, features, entities) in [
        ("user_stats", vec!["txn_count_1h", "avg_amount_7d"], json!({"user_id": [1000, 1003, 424_242]})),
        ("merchant_stats", vec!["chargeback_rate"], json!({"merchant_id": ["m-1", "großhändler-用户", "nobody"]})),
        ("all_types", vectors::view("all_types").features.iter().map(|(name, _)| name.as_str()).collect(), users),
    ] {
        let features: Vec<String> = features.iter().map(|feature| format!("{view}:{feature}")).collect();
        assert_eq!(online(&sidecar, &features, &entities), online(&direct, &features, &entities), "{view}");
    }
    assert!(answered(&sidecar, &format!("feature_server/{}", server.address())) >= 3.0);
}

#[test]
fn a_view_that_the_servers_do_not_have_is_said_and_opens_no_breaker() {
    let redis = Redis::start();
    redis.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    let port = free_port();
    let _server = server(&redis, port);
    let mut sidecar = Weir::start(&format!(
        "features:\n  project: {PROJECT}\n  l1: {{capacity: 0B}}\n  l2: {{feature_server: \"http://127.0.0.1:{port}\", timeout: \
         5s}}\n  views:\n{}    nope: {{entities: {{driver_id: INT64}}, features: {{x: {{type: INT64}}}}}}\n",
        lookup::view("")
    ));
    let ask = |feature: &str, sidecar: &Weir| {
        let body = json!({"features": [feature], "entities": {"driver_id": [7]}}).to_string();
        sidecar.connect().post("/get-online-features", body)
    };
    for _ in 0..10 {
        let refused = ask("nope:x", &sidecar).expect(503).json();
        assert!(refused.as_str().expect("words").contains("nope"), "{refused}");
    }
    let answer = ask("driver_stats:avg_daily_trips", &sidecar).expect(200).json();
    assert_eq!(columns(&answer)["avg_daily_trips"]["values"], json!([7]));
    let refused = [("target", &*format!("feature_server/127.0.0.1:{port}")), ("outcome", "refused")];
    assert!((sidecar.metrics().count("weir_feature_server_requests_total", &refused) - 10.0).abs() < 0.1);
    let log = sidecar.process().log();
    assert_eq!(log.matches("feature_server: refused what it was asked").count(), 1, "{log}");
    assert!(log.contains("Feature view nope does not exist"), "{log}");
}

#[test]
fn what_a_server_serves_past_its_time_is_told_as_that() {
    let redis = Redis::start();
    redis.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    let weir = |l2: &str, l1: &str| {
        let views = lookup::view("");
        Weir::start(&format!(
            "features:\n  project: {PROJECT}\n  l1: {{{l1}}}\n  l2: {{{l2}, timeout: 5s}}\n  views:\n{views}"
        ))
    };
    let server = weir(&format!("redis: [{}]", redis.url()), "ttl: 1s");
    let sidecar = weir(&in_front_of(&[&server]), "ttl: 1h");
    let body = json!({"features": ["driver_stats:avg_daily_trips"], "entities": {"driver_id": [7]}}).to_string();
    let ask = |weir: &Weir| weir.connect().post("/get-online-features", body.clone()).expect(200);
    let level = |answer: &Response| answer.header("weir-level").expect("it is told");
    ask(&server);
    redis.kill();
    wait_until("the server's row to be stale", START, || level(&ask(&server)) == "1");
    // The second finds nothing in L1, where it would pass for fresh.
    for _ in 0..2 {
        let answer = ask(&sidecar);
        assert_eq!(columns(&answer.json())["avg_daily_trips"]["values"], json!([7]));
        let told = answer.header("weir-degraded").expect("it is told");
        assert!(told.starts_with("stale;view=driver_stats;age="), "{told}");
        assert_eq!(level(&answer), "1");
    }
    redis.restart();
    redis.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    wait_until("the row to be fresh", START, || level(&ask(&sidecar)) == "0");
}

pub(crate) const PROJECT: &str = "tier";
pub(crate) const DRIVERS: i64 = 40;
const PATH: &str = "/v1/models/drivers:predict";
/// What stands in for a row that could not be had.
const NONE: i64 = -1;

/// The driver's row says who it is of.
pub(crate) fn stored(driver: i64) -> StoredHash {
    let key = EntityKey::new([("driver_id", &EntityValue::Int64(driver))].into_iter());
    let mut value = Vec::new();
    encode_value(&Stored::Int64(driver), &mut value);
    StoredHash {
        key: [key.as_bytes(), PROJECT.as_bytes()].concat(),
        fields: vec![(vectors::field("driver_stats:avg_daily_trips"), value)],
        entity: Vec::new(),
        features: BTreeMap::new(),
        views: Vec::new(),
    }
}

/// A feature server at a port that outlives it.
pub(crate) fn server(redis: &Redis, port: u16) -> Weir {
    server_on(&format!("redis: [{}]", redis.url()), port)
}

/// The same, on any store.
pub(crate) fn server_on(l2: &str, port: u16) -> Weir {
    Weir::start(&format!(
        "listen: {{http: \"127.0.0.1:{port}\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}}\nfeatures:\n  project: \
         {PROJECT}\n  l2: {{{l2}, timeout: 5s}}\n  views:\n{}",
        lookup::view("")
    ))
}

/// A model's gateway in front of them; nothing is cached, so that every answer is theirs or L3's.
pub(crate) fn drivers(ports: &[u16], echo: &Echo, l3: &str) -> Weir {
    let urls: Vec<String> = ports.iter().map(|port| format!("\"http://127.0.0.1:{port}\"")).collect();
    Weir::start(&format!(
        r#"{}features:
  project: {PROJECT}
  l1: {{capacity: 0B}}
  l2: {{feature_server: [{}], timeout: 5s}}
{l3}  breaker: {{open_for: 1s}}
  views:
{}"#,
        lookup::model(echo, "avg_daily_trips"),
        urls.join(", "),
        lookup::view("")
    ))
}

fn ask(connection: &mut Http1) -> Response {
    let instances: Vec<_> = (0..DRIVERS).map(|driver| json!({"driver_id": driver})).collect();
    connection.post(PATH, json!({"instances": instances}).to_string()).expect(200)
}

/// All drivers' values: each its own, or the default.
#[track_caller]
fn values(answer: &Response) -> Vec<i64> {
    let rows = answer.json()["predictions"].as_array().expect("predictions").clone();
    assert_eq!(rows.len(), usize::try_from(DRIVERS).expect("few"));
    let values = rows.iter().map(|row| row["avg_daily_trips"].as_i64().expect("a number"));
    let checked = (0..).zip(values).map(|(driver, value)| {
        assert!(value == NONE || value == driver, "driver {driver} got the row of {value}");
        value
    });
    checked.collect()
}

fn is_whole(answer: &Response) -> bool {
    values(answer) == (0..DRIVERS).collect::<Vec<_>>()
}

/// Callers that go on until they are stopped; each answer must have every row.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn on(weir: &Weir) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let caller = |_| {
            let (stop, answers, mut connection) = (stop.clone(), answers.clone(), weir.connect());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(&mut connection);
                    assert!(is_whole(&answer), "{:?} {}", answer.headers, answer.text());
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let callers = (0..4).map(caller).collect();
        Self { stop, answers, callers }
    }

    #[track_caller]
    pub(crate) fn go_on(&self, answers: u64) {
        let until = self.answers.load(Ordering::Relaxed) + answers;
        wait_until("more answers", START, || {
            self.callers.iter().any(JoinHandle::is_finished) || self.answers.load(Ordering::Relaxed) >= until
        });
    }

    #[track_caller]
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().expect("every answer was right");
        }
        self.answers.load(Ordering::Relaxed)
    }
}

/// Waits until a server's breaker is there.
#[track_caller]
pub(crate) fn breaker_is(sidecar: &Weir, target: &str, state: &str) {
    let labels = [("target", target), ("state", state)];
    wait_until(&format!("{target} to be {state}"), START, || {
        sidecar.metrics().count("weir_breaker_state", &labels) > 0.0
    });
}

/// Waits until the first of two servers gives every other of the last so many answers, a quarter more or less.
#[track_caller]
pub(crate) fn has_even_share(sidecar: &Weir, targets: &[String; 2]) {
    const ANSWERS: f64 = 300.0;
    let mut from = [0.0; 2];
    wait_until("an even share", START, || {
        let now = targets.each_ref().map(|target| answered(sidecar, target));
        let [own, other] = [now[0] - from[0], now[1] - from[1]];
        if own + other < ANSWERS {
            return false;
        }
        from = now;
        (0.75..=1.25).contains(&(own * 2.0 / (own + other)))
    });
}

#[test]
fn a_server_that_is_killed_under_load_costs_nobody_a_row() {
    let (redis, echo) = (Redis::start(), Echo::listen());
    redis.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    let ports = [free_port(), free_port()];
    let [mut first, second] = ports.map(|port| server(&redis, port));
    let mut sidecar = drivers(&ports, &echo, "");
    let targets = ports.map(|port| format!("feature_server/127.0.0.1:{port}"));
    breaker_is(&sidecar, &targets[0], "closed");
    let load = Load::on(&sidecar);
    load.go_on(50);
    assert!(targets.iter().all(|target| answered(&sidecar, target) > 0.0), "both are asked");

    first.process().signal("KILL");
    breaker_is(&sidecar, &targets[0], "open");
    let before = targets.each_ref().map(|target| answered(&sidecar, target));
    load.go_on(100);
    let after = targets.each_ref().map(|target| answered(&sidecar, target));
    // Four callers at most share a fetch.
    assert!((after[0] - before[0]).abs() < 0.1 && after[1] >= before[1] + 20.0, "{before:?} {after:?}");

    drop(first);
    let revived = server(&redis, ports[0]);
    breaker_is(&sidecar, &targets[0], "closed");
    has_even_share(&sidecar, &targets);
    measured(format_args!("{} answers, none without a row", load.end()));
    let log = sidecar.process().log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text) && line.contains(&*targets[0])).count();
    assert!(
        lines("WARN") >= 1 && lines("circuit breaker opened") >= 1 && lines("circuit breaker closed") >= 1,
        "{log}"
    );
    let address = format!("address=127.0.0.1:{}", ports[0]);
    for told in ["feature_server: failed", "feature_server: well again"] {
        assert!(log.lines().any(|line| line.contains(told) && line.contains(&address)), "{told}: {log}");
    }
    drop((second, revived));
}

#[test]
fn a_server_that_hangs_costs_time_and_no_row() {
    let (redis, echo) = (Redis::start(), Echo::listen());
    redis.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    let ports = [free_port(), free_port()];
    let [mut hung, _other] = ports.map(|port| server(&redis, port));
    let sidecar = drivers(&ports, &echo, "");
    let targets = ports.map(|port| format!("feature_server/127.0.0.1:{port}"));
    let load = Load::on(&sidecar);
    load.go_on(20);

    hung.process().signal("STOP");
    breaker_is(&sidecar, &targets[0], "open");
    load.go_on(50);
    let timeout = [("target", &*targets[0]), ("outcome", "timeout")];
    assert!(sidecar.metrics().count("weir_feature_server_requests_total", &timeout) > 0.0);

    hung.process().signal("CONT");
    breaker_is(&sidecar, &targets[0], "closed");
    has_even_share(&sidecar, &targets);
    measured(format_args!("{} answers, none without a row", load.end()));
}

#[test]
fn with_no_server_left_l3_stands_in_and_else_defaults_until_one_is_back() {
    let (redis, echo, folder) = (Redis::start(), Echo::listen(), Folder::new("l3"));
    redis.load(&(0..DRIVERS).map(stored).collect::<Vec<_>>());
    let url = format!("file://{}", folder.path().display());
    let rows: Vec<lookup::Row> = (0..DRIVERS).map(|driver| (driver, driver, 1_795_341_600_000_000)).collect();
    lookup::build(&url, PROJECT, &[], &rows);
    let ports = [free_port(), free_port()];
    let servers = ports.map(|port| server(&redis, port));
    let plain = drivers(&ports, &echo, "");
    let with_l3 = drivers(&ports, &echo, &format!("  l3: {{url: \"{url}\", timeout: 5s}}\n"));
    assert!([&plain, &with_l3].iter().all(|weir| is_whole(&ask(&mut weir.connect()))));

    drop(servers);
    let answer = ask(&mut plain.connect());
    assert!(values(&answer).iter().all(|value| *value == NONE));
    assert_eq!(answer.header("weir-level").as_deref(), Some("2"));
    assert_eq!(answer.header("weir-degraded").as_deref(), Some("default;view=driver_stats;reason=unavailable"));
    let answer = ask(&mut with_l3.connect());
    assert!(is_whole(&answer), "{}", answer.text());
    let cache = answer.header("cache-status").expect("it is told");
    assert!(cache.ends_with("weir-l2; fwd=miss; detail=unavailable, weir-l3; hit"), "{cache}");

    let _revived = server(&redis, ports[1]);
    let from_l2 = |weir: &Weir| {
        let answer = ask(&mut weir.connect());
        is_whole(&answer) && answer.header("cache-status").is_some_and(|cache| cache.ends_with("weir-l2; hit"))
    };
    wait_until("rows of the server that is back", START, || from_l2(&plain) && from_l2(&with_l3));
}
