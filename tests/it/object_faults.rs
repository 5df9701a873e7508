//! An object store that is slow, refuses, cuts off or resets costs an answer its freshness or its defaults, never its truth: what
//! could not be read is said, is not taken for absent, and is found again once the store is well.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::support::{
    Redis, SeaweedFs, Weir,
    faulty::{Fault, Faulty},
    hand::Echo,
    http1::Response,
    lookup,
    metrics::await_metric,
    process::{START, wait_until},
    seaweed::BUCKET,
};

const PROJECT: &str = "objects";

/// The lookup file that all tests read: 200 drivers.
static LOOKUP: LazyLock<String> = LazyLock::new(|| {
    let url = format!("s3://{BUCKET}/object-faults");
    let rows: Vec<_> = (0..200).map(|driver| (driver, tag(driver), 1_700_000_000_000_000)).collect();
    lookup::build(&url, PROJECT, &SeaweedFs::shared().environment(), &rows);
    url
});

/// The row says whose it is.
const fn tag(driver: i64) -> i64 {
    driver * 10 + 7
}

/// Weir over an empty Redis and an object store behind the proxy.
struct World {
    weir: Weir,
    redis: Redis,
    store: Faulty,
    _echo: Echo,
}

impl World {
    fn start(l3_timeout: &str) -> Self {
        Self::with(Fault::None, l3_timeout)
    }

    /// One whose store is spoilt from the start.
    fn with(fault: Fault, l3_timeout: &str) -> Self {
        let (redis, echo, store) = (Redis::start(), Echo::listen(), Faulty::before(SeaweedFs::shared()));
        store.spoil(fault);
        let config = config(&echo, &redis, &format!("{{url: \"{}\", timeout: {l3_timeout}}}", &*LOOKUP));
        let weir = Weir::with_environment(&config, &store.environment(SeaweedFs::shared()));
        Self { weir, redis, store, _echo: echo }
    }

    fn infer(&self, driver: i64, headers: &[(&str, &str)]) -> Response {
        let body = json!({"instances": [{"driver_id": driver}]}).to_string();
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.weir.connect().request("POST", "/v1/models/drivers:predict", &headers, body.as_bytes()).expect(200)
    }

    fn online(&self, driver: i64) -> Response {
        let body =
            json!({"features": ["driver_stats:avg_daily_trips"], "entities": {"driver_id": [driver]}}).to_string();
        self.weir.connect().post("/get-online-features", body)
    }

    /// The driver's own row, at level 0.
    #[track_caller]
    fn is_found(&self, driver: i64) {
        let answer = self.infer(driver, &[]);
        assert_eq!(predicted(&answer), tag(driver), "{:?}", answer.headers);
        assert_eq!(answer.header("weir-level").as_deref(), Some("0"), "{:?}", answer.headers);
        assert_eq!(answer.header("weir-degraded"), None);
        let told = self.online(driver).expect(200).json();
        assert_eq!(told["results"][1]["values"], json!([tag(driver)]));
        assert_eq!(told["results"][1]["statuses"], json!(["PRESENT"]));
    }

    /// The default, at level 2, with the reason.
    #[track_caller]
    fn is_defaulted(&self, driver: i64, headers: &[(&str, &str)]) {
        let answer = self.infer(driver, headers);
        assert_eq!(predicted(&answer), -1);
        assert_eq!(answer.header("weir-level").as_deref(), Some("2"));
        assert_eq!(answer.header("weir-degraded").as_deref(), Some("default;view=driver_stats;reason=unavailable"));
        assert_eq!(
            answer.header("cache-status").as_deref(),
            Some("weir-l1; fwd=miss, weir-l2; fwd=miss, weir-l3; fwd=miss; detail=unavailable")
        );
    }

    /// What was fetched a second ago stands in, at level 1.
    #[track_caller]
    fn is_stale(&self, driver: i64) {
        wait_until("the row to be past its ttl", START, || {
            let answer = self.infer(driver, &[]);
            assert_eq!(predicted(&answer), tag(driver), "{:?}", answer.headers);
            answer.header("weir-level").as_deref() == Some("1")
        });
        let answer = self.online(driver).expect(200);
        assert_eq!(answer.header("weir-level").as_deref(), Some("1"), "{:?}", answer.headers);
        let degraded = answer.header("weir-degraded").expect("it is told");
        assert!(degraded.starts_with("stale;view=driver_stats;age="), "{degraded}");
        assert_eq!(answer.json()["results"][1]["values"], json!([tag(driver)]));
    }

    /// No layer but L1 has what was written back.
    fn forget_written_back(&self, rows: u64) {
        wait_until("the rows to be written back", START, || {
            redis::cmd("DBSIZE").query::<u64>(&mut self.redis.connection()).expect("Redis runs") == rows
        });
        redis::cmd("FLUSHALL").exec(&mut self.redis.connection()).expect("Redis runs");
    }
}

fn config(echo: &Echo, redis: &Redis, l3: &str) -> String {
    format!(
        r#"{}features:
  project: {PROJECT}
  breaker: {{open_for: 100ms}}
  l1: {{ttl: 1s}}
  l2: {{redis: ["{}"], timeout: 5s}}
  l3: {l3}
  views:
{}"#,
        lookup::model(echo, "avg_daily_trips"),
        redis.url(),
        lookup::view("")
    )
}

#[track_caller]
fn predicted(answer: &Response) -> i64 {
    let value = &answer.json()["predictions"][0]["avg_daily_trips"];
    value.as_i64().unwrap_or_else(|| panic!("no number in {}", answer.text()))
}

/// The life of a fault: rows that are cached go stale, others are defaults or refused in words, and all come back.
fn survives(fault: Fault, outcome: &str, reason: &str, l3_timeout: &str) {
    let mut world = World::start(l3_timeout);
    // Where little time is given, a busy machine may need more than one lookup of a store that is well.
    let found = |world: &World, driver: i64| {
        if fault == Fault::Held {
            wait_until("the row to come in time", START, || predicted(&world.infer(driver, &[])) != -1);
        }
        world.is_found(driver);
    };
    [1, 2].into_iter().for_each(|driver| found(&world, driver));
    world.forget_written_back(2);
    let lookups = |world: &World| {
        world.weir.metrics().count("weir_feature_lookups_total", &[("layer", "l3"), ("outcome", outcome)])
    };
    let before = lookups(&world);
    assert!(before < 0.5 || fault == Fault::Held, "{fault:?}");

    world.store.spoil(fault);
    for driver in [11, 12] {
        world.is_defaulted(driver, &[]);
        let refused = world.online(driver).expect(503);
        assert!(
            refused.header("retry-after").is_some() && refused.text().contains("driver_stats"),
            "{}",
            refused.text()
        );
    }
    world.is_stale(1);
    assert!(world.store.spoilt() > 0);
    assert!(lookups(&world) >= before + 4.0, "{}", world.weir.metrics().lines_of("weir_feature_lookups_total"));
    let errors = [("view", "driver_stats"), ("reason", reason)];
    assert!(world.weir.metrics().count("weir_object_errors_total", &errors) > 0.0, "{fault:?}");
    let log = world.weir.process().log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("could not be read from its lookup file")).collect();
    assert_eq!(told.len(), 1, "once a minute, however often: {log}");
    assert!(told[0].contains("view=driver_stats") && told[0].contains(&**LOOKUP), "{}", told[0]);

    // Failures open the store's breaker, which asks nobody for a while.
    let open = [("target", "l3"), ("to", "open")];
    wait_until("the breaker to open", START, || {
        world.infer(14, &[]);
        world.weir.metrics().count("weir_breaker_transitions_total", &open) > 0.0
    });
    world.store.spoil(Fault::None);
    wait_until("the store to be found well", START, || predicted(&world.infer(14, &[])) != -1);
    [11, 12, 1, 13].into_iter().for_each(|driver| found(&world, driver));
}

#[test]
fn a_store_that_asks_to_slow_down_is_unavailable_and_not_empty() {
    survives(Fault::SlowDown, "error", "unavailable", "5s");
}

#[test]
fn a_body_that_ends_early_is_no_row() {
    survives(Fault::CutOff, "error", "unavailable", "5s");
}

#[test]
fn a_range_that_is_short_is_no_row_and_no_damage() {
    survives(Fault::Fewer, "error", "unavailable", "5s");
}

#[test]
fn a_whole_object_in_place_of_a_range_is_not_read_as_one() {
    survives(Fault::WholeObject, "error", "unavailable", "5s");
}

#[test]
fn a_connection_that_is_reset_midway_costs_one_lookup() {
    survives(Fault::Reset, "error", "unavailable", "5s");
}

#[test]
fn a_store_that_does_not_answer_within_its_timeout_is_given_up_on() {
    survives(Fault::Held, "timeout", "timeout", "300ms");
}

#[test]
fn a_store_that_is_down_at_the_start_is_found_when_it_is_back() {
    for fault in [Fault::SlowDown, Fault::CutOff] {
        let world = World::with(fault, "5s");
        world.is_defaulted(41, &[]);
        world.online(41).expect(503);
        world.store.spoil(Fault::None);
        wait_until("the manifest to be read", START, || predicted(&world.infer(41, &[])) != -1);
        world.is_found(41);
        world.is_found(42);
    }
}

#[test]
fn a_store_slower_than_the_deadline_fills_the_cache_in_the_background() {
    let world = World::start("60s");
    world.is_found(1);
    let answered = |outcome: &'static str| {
        let labels = [("layer", "l3"), ("outcome", outcome)];
        world.weir.metrics().count("weir_feature_lookups_total", &labels)
    };
    let before = answered("hit");
    world.store.spoil(Fault::Held);
    // Two requests of one fetch.
    for _ in 0..2 {
        world.is_defaulted(21, &[("weir-timeout-ms", "3000")]);
    }
    world.store.spoil(Fault::None);
    let labels = [("layer", "l3"), ("outcome", "hit")];
    await_metric(world.weir.admin(), "weir_feature_lookups_total", &labels, |hits| hits > before + 0.5);
    let spoilt = world.store.spoilt();
    let answer = world.infer(21, &[]);
    assert_eq!(predicted(&answer), tag(21));
    let cache = answer.header("cache-status").expect("it is told");
    // L1's word is good for a second: on a busy machine L2 has it from the write-back.
    assert!(cache.starts_with("weir-l1; hit") || cache.ends_with("weir-l2; hit"), "{cache}");
    assert_eq!(world.store.spoilt(), spoilt);
    assert!(answered("error") + answered("timeout") < 0.5);
}

#[test]
fn a_row_of_l3_behind_a_redis_that_is_gone_is_told_where_it_came_from() {
    let world = World::start("5s");
    world.is_found(1);
    world.redis.kill();
    let answer = world.infer(31, &[]);
    assert_eq!(predicted(&answer), tag(31));
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"));
    let expected = "weir-l1; fwd=miss, weir-l2; fwd=miss; detail=unavailable, weir-l3; hit";
    assert_eq!(answer.header("cache-status").as_deref(), Some(expected));
    let online = world.online(32).expect(200);
    assert_eq!(online.header("cache-status").as_deref(), Some(expected));
    let stand_ins = world.weir.metrics().count("weir_feature_stand_ins_total", &[("view", "driver_stats")]);
    assert!((stand_ins - 2.0).abs() < 0.1, "{stand_ins}");
}

/// A gateway whose L3 is wrong; what its log says of it, and what it answers.
fn wrong(redis: &Redis, l3: &str, expected: &[&str]) -> Weir {
    let mut weir = Weir::with_environment(&config(&Echo::listen(), redis, l3), &SeaweedFs::shared().environment());
    let told = |log: &str| {
        let is_told = |line: &&str| line.contains("WARN") && line.contains("view=driver_stats");
        log.lines().filter(is_told).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    wait_until("a line about it", START, || !told(&weir.process().log()).is_empty());
    let lines = told(&weir.process().log());
    for word in expected {
        assert!(lines[0].contains(word), "{word:?} is not in {lines:?}");
    }
    weir
}

fn status(weir: &Weir) -> (u16, Value) {
    let body = json!({"features": ["driver_stats:avg_daily_trips"], "entities": {"driver_id": [1]}}).to_string();
    let answer = weir.connect().post("/get-online-features", body);
    (answer.status, answer.json()["results"][1]["statuses"][0].clone())
}

#[test]
fn a_bucket_or_a_prefix_that_is_wrong_is_said_when_it_is_first_met() {
    // Nothing there is an empty view by contract: it is said, and answered.
    let redis = Redis::start();
    // The bucket is there for sure once something was put into it.
    assert!(LOOKUP.starts_with("s3://"));
    let url = format!("s3://{BUCKET}/nowhere");
    let manifest = format!("url={url}/{PROJECT}/driver_stats/manifest.json");
    let weir = wrong(&redis, &format!("{{url: \"{url}\"}}"), &[&manifest, "no lookup file there"]);
    assert_eq!(status(&weir), (200, json!("NOT_FOUND")));
    // A bucket that is not there is no empty view.
    let mut weir =
        wrong(&redis, "{url: \"s3://no-such-bucket/lookup\"}", &["url=s3://no-such-bucket/lookup/", "NoSuchBucket"]);
    assert_eq!(status(&weir).0, 503);
    // It is looked for again and again, and said once.
    let reads = [("view", "driver_stats"), ("kind", "manifest")];
    await_metric(weir.admin(), "weir_object_reads_total", &reads, |reads| reads >= 3.0);
    assert_eq!(weir.process().log().matches("manifest could not be read").count(), 1, "{}", weir.process().log());
}
