//! A row that is spoilt where it is stored, or whose event is yet to come, is counted and told; every other row answers.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value as Stored},
};
use serde_json::{Value, json};

use crate::support::{
    Redis, Weir,
    hand::Echo,
    http1::Response,
    lookup,
    process::{Folder, START, wait_until},
    vectors,
};

const PROJECT: &str = "rows";

/// The row says whose it is.
const fn tag(driver: i64) -> i64 {
    driver * 10 + 7
}

fn weir(echo: &Echo, layers: &str, view: &str) -> Weir {
    Weir::start(&format!(
        r#"{}features:
  project: {PROJECT}
  l1: {{capacity: 0B}}
{layers}
  views:
{}"#,
        lookup::model(echo, "avg_daily_trips"),
        lookup::view(view)
    ))
}

fn infer(weir: &Weir, drivers: &[i64]) -> Response {
    let instances: Vec<_> = drivers.iter().map(|driver| json!({"driver_id": driver})).collect();
    weir.connect().post("/v1/models/drivers:predict", json!({"instances": instances}).to_string()).expect(200)
}

/// The drivers' tags as the model got them.
fn predicted(answer: &Response) -> Vec<i64> {
    let rows = answer.json()["predictions"].as_array().expect("rows").clone();
    rows.iter().map(|row| row["avg_daily_trips"].as_i64().expect("a tag")).collect()
}

fn online(weir: &Weir, drivers: &[i64]) -> Response {
    let body = json!({"features": ["driver_stats:avg_daily_trips"], "entities": {"driver_id": drivers}});
    weir.connect().post("/get-online-features", body.to_string()).expect(200)
}

/// Fails unless every driver's row is its own but those of `spoilt`, which are defaults, and both APIs say so.
#[track_caller]
fn only_spoilt_are_missing(weir: &Weir, drivers: &[i64], spoilt: &BTreeSet<i64>) {
    let expected = |driver: &i64| if spoilt.contains(driver) { -1 } else { tag(*driver) };
    let answer = infer(weir, drivers);
    assert_eq!(predicted(&answer), drivers.iter().map(expected).collect::<Vec<_>>());
    told(&answer);
    let answer = online(weir, drivers);
    told(&answer);
    let column = answer.json()["results"][1].clone();
    for (at, driver) in drivers.iter().enumerate() {
        let is_spoilt = spoilt.contains(driver);
        assert_eq!(column["values"][at], if is_spoilt { Value::Null } else { json!(tag(*driver)) }, "{driver}");
        assert_eq!(column["statuses"][at], if is_spoilt { "INVALID" } else { "PRESENT" }, "{driver}");
        assert_eq!(column["event_timestamps"][at] == "1970-01-01T00:00:00Z", is_spoilt, "{driver}");
    }
}

#[track_caller]
fn told(answer: &Response) {
    assert_eq!(answer.header("weir-level").as_deref(), Some("2"), "{:?}", answer.headers);
    assert_eq!(answer.header("weir-degraded").as_deref(), Some("default;view=driver_stats;reason=unavailable"));
    let cache = answer.header("cache-status").expect("it is told");
    assert!(cache.ends_with("fwd=miss; detail=unavailable"), "{cache}");
}

fn unreadable(weir: &Weir, layer: &str) -> f64 {
    weir.metrics().count("weir_feature_lookups_total", &[("layer", layer), ("outcome", "unreadable")])
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_secs()).expect("it is before 2262")
}

/// The driver's key in Redis.
fn key(driver: i64) -> Vec<u8> {
    let key = EntityKey::new([("driver_id", &EntityValue::Int64(driver))].into_iter());
    [key.as_bytes(), PROJECT.as_bytes()].concat()
}

fn number(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).expect("seven bits"));
    bytes
}

/// Stores the driver's row as Feast does, of an event at that second.
fn store(redis: &Redis, driver: i64, second: i64) {
    let mut value = Vec::new();
    encode_value(&Stored::Int64(tag(driver)), &mut value);
    let time = [vec![8], number(second.unsigned_abs())].concat();
    let mut command = redis::cmd("HSET");
    command
        .arg(key(driver))
        .arg(vectors::field("driver_stats:avg_daily_trips"))
        .arg(value)
        .arg("_ts:driver_stats")
        .arg(time);
    command.exec(&mut redis.connection()).expect("Redis takes hashes");
}

#[test]
fn a_row_of_redis_that_cannot_be_read_costs_no_other_anything() {
    let (redis, echo) = (Redis::start(), Echo::listen());
    let drivers: Vec<i64> = (0..20).collect();
    drivers.iter().for_each(|driver| store(&redis, *driver, now() - 60));
    let mut spoil = redis.connection();
    let mut set = |driver: i64, field: &[u8], value: &[u8]| {
        redis::cmd("HSET").arg(key(driver)).arg(field).arg(value).exec(&mut spoil).expect("an answer");
    };
    let tag_field = vectors::field("driver_stats:avg_daily_trips");
    // No value, one that ends early, no time, a time that ends early.
    set(3, &tag_field, b"\xff\xff\xff");
    set(4, &tag_field, b"\x20");
    set(5, b"_ts:driver_stats", b"\xff\xff\xff");
    set(6, b"_ts:driver_stats", b"\x08\xff");
    // Another Redis type.
    redis::cmd("SET").arg(key(7)).arg("text").exec(&mut spoil).expect("an answer");
    redis::cmd("DEL").arg(key(8)).exec(&mut spoil).expect("an answer");
    redis::cmd("RPUSH").arg(key(8)).arg("a").arg("b").exec(&mut spoil).expect("an answer");
    let spoilt: BTreeSet<i64> = (3..=8).collect();

    let mut weir = weir(&echo, &format!("  l2: {{redis: [\"{}\"], timeout: 5s}}", redis.url()), "");
    only_spoilt_are_missing(&weir, &drivers, &spoilt);
    assert!((unreadable(&weir, "l2") - 12.0).abs() < 0.1, "{}", weir.metrics().lines_of("weir_feature_lookups"));
    for _ in 0..10 {
        only_spoilt_are_missing(&weir, &drivers, &spoilt);
    }
    let target = format!("redis/{}", redis.address());
    let closed = weir.metrics().count("weir_breaker_state", &[("target", &target), ("state", "closed")]);
    assert!((closed - 1.0).abs() < 0.1, "what is wrong with a key is nothing of its server's");
    let log = weir.process().log();
    assert_eq!(log.matches("skipped a row of L2 that cannot be read").count(), 1, "once a minute: {log}");

    // What spoilt a hash does not keep it so: the next event is stored, whatever stands where the last one's time was.
    let push = |driver: i64| {
        let time = chrono::DateTime::from_timestamp(now(), 0).expect("a time").to_rfc3339();
        let df = json!({"driver_id": [driver], "event_timestamp": [time], "avg_daily_trips": [tag(driver)]});
        weir.connect().post("/push", json!({"push_source_name": "driver_stats", "df": df}).to_string())
    };
    for driver in 3..=6 {
        push(driver).expect(200);
    }
    // A key of another type takes no row: that is said.
    push(7).expect(503);
    only_spoilt_are_missing(&weir, &drivers, &[7, 8].into());
}

/// A lookup file of 2 000 drivers in a folder, in a dozen buckets and one page of the directory.
struct LookupFile {
    folder: Folder,
    url: String,
}

const DRIVERS: i64 = 2000;

impl LookupFile {
    fn build() -> Self {
        let folder = Folder::new("rows");
        let url = format!("file://{}", folder.path().join("lookup").display());
        let file = Self { folder, url };
        file.build_again();
        file
    }

    fn build_again(&self) {
        let rows: Vec<_> = (0..DRIVERS).map(|driver| (driver, tag(driver), 1_700_000_000_000_000)).collect();
        lookup::build(&self.url, PROJECT, &[], &rows);
    }

    fn view(&self) -> PathBuf {
        self.folder.path().join("lookup").join(PROJECT).join("driver_stats")
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.view().join("manifest.json")).expect("a manifest")).expect("JSON")
    }

    fn data(&self) -> PathBuf {
        self.view().join(self.manifest()["data"].as_str().expect("a name"))
    }

    fn layers(&self) -> String {
        format!("  l3: {{url: \"{}\", timeout: 60s}}", self.url)
    }
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[at] ^= 0x40;
    fs::write(file, bytes).expect("a writable folder");
}

fn at(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a number")).expect("it fits")
}

#[test]
fn a_damaged_bucket_of_a_lookup_file_costs_only_its_own_rows() {
    let (file, echo) = (LookupFile::build(), Echo::listen());
    assert!(at(&file.manifest()["buckets"]) > 5, "{}", file.manifest());
    // A byte in the middle of the first bucket.
    flip(&file.data(), 1000);
    let mut weir = weir(&echo, &file.layers(), "");
    let drivers: Vec<i64> = (0..DRIVERS).collect();
    let found = predicted(&infer(&weir, &drivers));
    let spoilt: BTreeSet<i64> = drivers.iter().copied().filter(|driver| found[at(&json!(driver))] == -1).collect();
    assert!((100..1000).contains(&spoilt.len()), "{}", spoilt.len());
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let expected = spoilt.len() as f64;
    assert!((unreadable(&weir, "l3") - expected).abs() < 0.1);
    let damaged = [("view", "driver_stats"), ("reason", "damaged")];
    assert!((weir.metrics().count("weir_object_errors_total", &damaged) - expected).abs() < 0.1);
    only_spoilt_are_missing(&weir, &drivers, &spoilt);
    let log = weir.process().log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("checksum is wrong")).collect();
    assert!(told.len() == 1 && told[0].contains(&file.url) && told[0].contains("view=driver_stats"), "{log}");

    // Built again, it is found without a restart.
    file.build_again();
    wait_until("all rows", START, || predicted(&infer(&weir, &drivers)).iter().all(|tag| *tag != -1));
    assert_eq!(predicted(&infer(&weir, &drivers)), drivers.iter().map(|driver| tag(*driver)).collect::<Vec<_>>());
}

#[test]
fn a_damaged_directory_is_no_row_and_no_absence() {
    for offset in [0, 8, 12] {
        let (file, echo) = (LookupFile::build(), Echo::listen());
        // An offset, a length, a checksum: whichever, the page is not as it was written.
        flip(&file.data(), at(&file.manifest()["directory"]) + offset);
        let weir = weir(&echo, &file.layers(), "");
        let drivers: Vec<i64> = (0..20).collect();
        only_spoilt_are_missing(&weir, &drivers, &drivers.iter().copied().collect());
        assert!((unreadable(&weir, "l3") - 40.0).abs() < 0.1);
    }
    // The page's own checksum, which ends the file.
    let (file, echo) = (LookupFile::build(), Echo::listen());
    flip(&file.data(), at(&file.manifest()["size"]) - 1);
    let weir = weir(&echo, &file.layers(), "");
    only_spoilt_are_missing(&weir, &[1, 2], &[1, 2].into());
}

#[test]
fn a_manifest_that_cannot_be_read_is_said_and_answers_nothing() {
    for (damage, word) in [("garbage", "cannot be read"), ("size", "do not make"), ("view", "it is for view")] {
        let (file, echo) = (LookupFile::build(), Echo::listen());
        let mut manifest = file.manifest();
        match damage {
            "size" => manifest["size"] = json!(at(&manifest["size"]) + 1),
            "view" => manifest["view"] = json!("riders"),
            _ => manifest = json!([]),
        }
        fs::write(file.view().join("manifest.json"), manifest.to_string()).expect("a writable folder");
        let mut weir = weir(&echo, &file.layers(), "");
        let answer = infer(&weir, &[1]);
        assert_eq!((predicted(&answer), answer.header("weir-level").as_deref()), (vec![-1], Some("2")));
        let body = json!({"features": ["driver_stats:avg_daily_trips"], "entities": {"driver_id": [1]}}).to_string();
        weir.connect().post("/get-online-features", body).expect(503);
        let log = weir.process().log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("manifest could not be read")).collect();
        assert_eq!(told.len(), 1, "{log}");
        for word in [word, "view=driver_stats", &file.url] {
            assert!(told[0].contains(word), "{word:?} is not in {}", told[0]);
        }
        // Mended, it is found without a restart.
        file.build_again();
        wait_until("the row", START, || predicted(&infer(&weir, &[1])) == [tag(1)]);
    }
}

#[test]
fn an_event_that_is_yet_to_come_is_served_within_max_age_and_told() {
    let (redis, echo) = (Redis::start(), Echo::listen());
    let (hour, day) = (3600, 86_400);
    for (driver, ahead) in [(1, -hour), (2, hour), (3, 2 * day), (4, 200 * 365 * day)] {
        store(&redis, driver, now() + ahead);
    }
    let l2 = format!("  l2: {{redis: [\"{}\"], timeout: 5s}}", redis.url());
    let weir_of = |view: &str| weir(&echo, &l2, view);
    let statuses = |weir: &Weir, drivers: &[i64]| online(weir, drivers).json()["results"][1]["statuses"].clone();

    // Further ahead than a row may be old, it cannot pass for fresh: as one that is too old.
    let weir = weir_of(", max_age: 24h");
    assert_eq!(statuses(&weir, &[1, 2, 3, 4]), json!(["PRESENT", "PRESENT", "OUTSIDE_MAX_AGE", "OUTSIDE_MAX_AGE"]));
    let answer = infer(&weir, &[1, 2, 3, 4]);
    assert_eq!(predicted(&answer), [tag(1), tag(2), -1, -1]);
    assert_eq!(answer.header("weir-degraded").as_deref(), Some("default;view=driver_stats;reason=outside_max_age"));
    let ahead = |weir: &Weir, seen| {
        weir.metrics().count("weir_feature_rows_ahead_total", &[("view", "driver_stats"), ("seen", seen)])
    };
    assert!((ahead(&weir, "read") - 6.0).abs() < 0.1, "{}", weir.metrics().lines_of("weir_feature_rows_ahead"));

    // Without a max_age rows never grow too old: it is served with its time, and counted.
    let mut weir = weir_of("");
    let told = online(&weir, &[4]).json();
    assert_eq!(
        (&told["results"][1]["values"], &told["results"][1]["statuses"]),
        (&json!([tag(4)]), &json!(["PRESENT"]))
    );
    assert!((ahead(&weir, "read") - 1.0).abs() < 0.1);

    // A push of such a row is stored, as Feast stores it, and then stands until its time: both are counted, the first is said.
    let push = |weir: &Weir, time: &str, tag: i64| {
        let df = json!({"driver_id": [9], "event_timestamp": [time], "avg_daily_trips": [tag]});
        weir.connect().post("/push", json!({"push_source_name": "driver_stats", "df": df}).to_string()).expect(200);
    };
    push(&weir, "2200-01-01T00:00:00Z", 1);
    push(&weir, "2026-11-22T10:00:00Z", 2);
    assert_eq!(predicted(&infer(&weir, &[9])), [1]);
    assert!((ahead(&weir, "pushed") - 1.0).abs() < 0.1);
    let older = weir.metrics().count("weir_feature_pushes_total", &[("outcome", "older")]);
    assert!((older - 1.0).abs() < 0.1);
    assert!(weir.process().log().contains("ahead of this machine's clock"), "{}", weir.process().log());
    assert_eq!(statuses(&weir_of(", max_age: 24h"), &[9]), json!(["OUTSIDE_MAX_AGE"]));
}

#[test]
fn an_event_of_a_lookup_file_that_is_yet_to_come_is_judged_alike() {
    let (folder, echo) = (Folder::new("rows"), Echo::listen());
    let url = format!("file://{}", folder.path().display());
    let rows: Vec<_> =
        [(1, -3600), (2, 3600), (3, 2 * 86_400)].map(|(id, ahead)| (id, tag(id), (now() + ahead) * 1_000_000)).into();
    lookup::build(&url, PROJECT, &[], &rows);
    let weir = weir(&echo, &format!("  l3: {{url: \"{url}\", timeout: 60s}}"), ", max_age: 24h");
    for _ in 0..2 {
        // From L3, then from what it wrote back.
        assert_eq!(predicted(&infer(&weir, &[1, 2, 3])), [tag(1), tag(2), -1]);
        let told = online(&weir, &[1, 2, 3]).json();
        assert_eq!(told["results"][1]["statuses"], json!(["PRESENT", "PRESENT", "OUTSIDE_MAX_AGE"]));
    }
}
