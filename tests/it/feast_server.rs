//! Feast's feature server API: Feast's SDK uses it unchanged, statuses are true, and what was acknowledged is stored.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    Feast, Redis, RedisCluster, Weir, client,
    http1::Response,
    process::wait_until,
    vectors::{self, DUMP, VIEWS},
};

/// Long enough for a machine that is busy with everything else.
const LONG: Duration = Duration::from_secs(30);

/// A gateway that is a feature server and nothing else.
fn config(project: &str, l2: &str, features: &str, views: &str) -> String {
    format!("features:\n  project: {project}\n  l2: {{{l2}, timeout: 5s}}\n{features}  views:\n{views}")
}

/// One on the recorded database.
fn recorded(redis: &Redis, features: &str) -> Weir {
    redis.load(&DUMP);
    let views: String = VIEWS.iter().map(vectors::View::yaml).collect();
    Weir::start(&config("weir_demo", &format!("redis: [{}]", redis.url()), features, &views))
}

fn columns(answer: &Value) -> BTreeMap<String, Value> {
    let names = answer["metadata"]["feature_names"].as_array().expect("names").iter();
    let results = answer["results"].as_array().expect("columns").iter().cloned();
    names.map(|name| name.as_str().expect("text").to_owned()).zip(results).collect()
}

/// A driver's `live` row: speed, status.
#[track_caller]
fn speed(weir: &Weir, driver: i64) -> (Value, Value) {
    let ask = json!({"features": ["live:speed"], "entities": {"driver_id": [driver]}});
    let answer = weir.connect().post("/get-online-features", ask.to_string()).expect(200).json();
    let column = columns(&answer).remove("speed").expect("it was asked for");
    (column["values"][0].clone(), column["statuses"][0].clone())
}

#[track_caller]
fn push(weir: &Weir, driver: i64, second: u32, speed: f64) -> Response {
    let time = format!("2026-11-22T10:00:{second:02}Z");
    let body = json!({"push_source_name": "live", "df": {
        "driver_id": [driver], "event_timestamp": [time], "speed": [speed], "gear": [2]
    }});
    weir.connect().post("/push", body.to_string())
}

#[test]
fn feasts_own_sdk_reads_and_writes_through_weir_unchanged() {
    let redis = Redis::start();
    let feast = Feast::into_redis(&redis.address().to_string());
    let all_types = vectors::view("all_types");
    let mut views = String::from(
        "    user_stats:\n      entities: {user_id: INT64}\n      features: {txn_count_1h: {type: INT64}, avg_amount_7d: \
         {type: DOUBLE}}\n      max_age: 24h\n    merchant_stats:\n      entities: {merchant_id: STRING}\n      features: \
         {chargeback_rate: {type: FLOAT}}\n    all_types:\n      entities: {user_id: INT64}\n      features:\n",
    );
    for (name, kind) in &all_types.features {
        views += &format!("        {name}: {{type: {kind}}}\n");
    }
    let weir = Weir::start(&config(Feast::PROJECT, &format!("redis: [{}]", redis.url()), "", &views));
    let registry = feast.registry().display().to_string();
    let (redis_address, url) = (redis.address().to_string(), format!("http://{}", weir.http()));
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients/feast_remote.py");
    let home = [("FEAST_USAGE".into(), "False".into()), ("HOME".into(), "/tmp".into())];
    let told = client::python("feast", &script, &[&registry, Feast::PROJECT, &redis_address, &url], &home);

    assert_eq!(told["differences"], json!([]));
    // Four rows each of 3, 2 and 17 columns.
    assert_eq!(told["compared"], 88);
    assert_eq!(told["written"]["txn_count_1h"], json!([77, 78]));
    assert_eq!(told["written"]["avg_amount_7d"], json!([7.5, 8.5]));
    assert_eq!(told["pushed"], json!([200, ""]));
    for after in told["after"].as_array().expect("two stores") {
        assert_eq!(after["txn_count_1h"], json!([80, null]));
        assert_eq!(after["avg_amount_7d"], json!([9.5, 10.5]));
    }
    assert_eq!(told["unknown_view"][0], "FeatureViewNotFoundException");
    assert_eq!(told["unknown_service"][0], "FeatureServiceNotFoundException");
}

#[test]
fn recorded_reads_come_from_redis_as_feast_gave_them() {
    let redis = Redis::start();
    let weir = recorded(&redis, "  compat: feast-python\n");
    let known = |feature: &Value| {
        let view = feature.as_str().unwrap_or_default().split([':', '@']).next().unwrap_or_default();
        VIEWS.iter().any(|known| known.name == view)
    };
    let mut compared = 0;
    for case in vectors::read_json("feast/http_get_online_features.json").as_array().expect("cases") {
        let (request, response) = (&case["request"]["body"], &case["response"]);
        let features = request["features"].as_array().filter(|features| features.iter().all(known));
        if response["status"] != 200 || features.is_none() {
            continue;
        }
        let answer = weir.connect().post("/get-online-features", request.to_string()).expect(200).json();
        assert_eq!(columns(&answer), columns(&response["body_json"]), "{}", case["name"]);
        compared += 1;
    }
    assert_eq!(compared, 21);
    let missing = weir.connect().get("/").expect(404).json();
    assert_eq!(missing, json!({"detail": "Not Found"}));
}

#[test]
fn what_was_pushed_is_in_redis_as_feast_would_have_written_it() {
    let redis = Redis::start();
    let weir = recorded(&redis, "");
    let driver = |id: i64| {
        let mut key = vectors::unhex("0100000002000000090000006472697665725f69640400000008000000");
        key.extend_from_slice(&id.to_le_bytes());
        key.extend_from_slice(b"weir_demo");
        key
    };
    assert_eq!(speed(&weir, 3001).1, "NOT_FOUND");
    assert_eq!(push(&weir, 3001, 0, 10.5).expect(200).text(), "");
    assert_eq!(speed(&weir, 3001), (json!(10.5), json!("PRESENT")));
    let mut connection = redis.connection();
    let hash: BTreeMap<Vec<u8>, Vec<u8>> =
        redis::cmd("HGETALL").arg(driver(3001)).query(&mut connection).expect("a hash");
    let expected = [("08436418", "290000000000002540"), ("3b66a89b", "1802"), ("5f74733a6c697665", "08a0fa8ad806")];
    let unhex = |(name, value): (&str, &str)| (vectors::unhex(name), vectors::unhex(value));
    assert_eq!(hash, expected.into_iter().map(unhex).collect());
    let life = |connection: &mut redis::Connection, id| {
        redis::cmd("TTL").arg(driver(id)).query::<i64>(connection).expect("an answer")
    };
    assert_eq!(life(&mut connection, 3001), -1, "what was pushed is nowhere else");

    // Somebody else's life of a hash is left alone, and an older event changes nothing.
    redis::cmd("EXPIRE").arg(driver(3001)).arg(1000).exec(&mut connection).expect("an answer");
    push(&weir, 3001, 5, 11.5).expect(200);
    assert!((900..=1000).contains(&life(&mut connection, 3001)));
    push(&weir, 3001, 4, 99.0).expect(200);
    assert_eq!(speed(&weir, 3001).0, json!(11.5));
    let written = weir.metrics().count("weir_feature_pushes_total", &[("outcome", "written")]);
    let older = weir.metrics().count("weir_feature_pushes_total", &[("outcome", "older")]);
    assert!((written - 2.0).abs() < 0.1 && (older - 1.0).abs() < 0.1, "{written} {older}");
    let ok = [("endpoint", "/push"), ("status", "200")];
    assert!((weir.metrics().count("weir_feature_requests_total", &ok) - 3.0).abs() < 0.1);
}

#[test]
fn a_cluster_is_pushed_to_and_read_from() {
    let cluster = RedisCluster::shared();
    let view = vectors::view("live").yaml();
    let weir = Weir::start(&config("pushed", &format!("mode: cluster, redis: {}", cluster.urls()), "", &view));
    let ids: Vec<i64> = (0..100).collect();
    let body = json!({"push_source_name": "live", "df": {
        "driver_id": ids, "event_timestamp": vec!["2026-11-22T10:00:00Z"; 100], "speed": ids, "gear": ids
    }});
    weir.connect().post("/push", body.to_string()).expect(200);
    let ask = json!({"features": ["live:gear"], "entities": {"driver_id": ids}});
    // Past L1: from the shards.
    let headers = [("content-type", "application/json"), ("cache-control", "no-cache")];
    let answer = weir.connect().request("POST", "/get-online-features", &headers, ask.to_string().as_bytes());
    assert_eq!(columns(&answer.expect(200).json())["gear"]["values"], json!(ids));
}

#[test]
fn a_store_that_is_down_is_said_and_never_told_as_nulls() {
    let redis = Redis::start();
    let weir = recorded(&redis, "  l1: {ttl: 1s}\n");
    assert_eq!(weir.connect().get("/health").expect(200).text(), "");
    let ask = |driver: i64| {
        let ask = json!({"features": ["driver_stats:tier"], "entities": {"driver_id": [driver]}}).to_string();
        weir.connect().post("/get-online-features", ask)
    };
    ask(1001).expect(200);
    redis.kill();
    wait_until("the row to be stale", LONG, || ask(1001).header("weir-level").as_deref() == Some("1"));
    let stale = ask(1001).expect(200);
    assert!(stale.header("weir-degraded").is_some_and(|told| told.starts_with("stale;view=driver_stats")));
    assert_eq!(columns(&stale.json())["tier"]["values"], json!([0]));
    let refused = ask(1002).expect(503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.header("weir-level").as_deref(), Some("4"));
    assert!(refused.json().as_str().expect("words").contains("driver_stats"));
    assert!(push(&weir, 1001, 0, 1.0).expect(503).json().as_str().expect("words").contains("live"));
    redis.restart();
    wait_until("the store to be back", LONG, || ask(1002).status == 200);
}

#[test]
fn a_callers_deadline_is_kept() {
    let redis = Redis::start();
    let weir = recorded(&redis, "");
    redis.freeze();
    let body = json!({"features": ["driver_stats:tier"], "entities": {"driver_id": [1004]}}).to_string();
    let headers = [("content-type", "application/json"), ("weir-timeout-ms", "100")];
    let began = tokio::time::Instant::now();
    weir.connect().request("POST", "/get-online-features", &headers, body.as_bytes()).expect(503);
    assert!(began.elapsed() < Duration::from_secs(3));
    redis.thaw();
}

/// What Weir does not do as Feast does, and says so.
const REFUSED: [(&str, u16); 2] = [("odfv_missing_request_data", 501), ("materialize_async", 501)];

#[test]
fn every_recorded_mistake_is_answered_as_feast_answered_it() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let registry = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/feast/registry.pb");
    let weir = Weir::start(&format!(
        "features:\n  registry: {registry}\n  compat: feast-python\n  l2: {{redis: [{}], timeout: 5s}}\n",
        redis.url()
    ));
    let mut compared = 0;
    for file in ["feast/http_get_online_features.json", "feast/http_writes.json"] {
        for case in vectors::read_json(file).as_array().expect("cases") {
            let (name, request, response) = (&case["name"], &case["request"], &case["response"]);
            let status = u16::try_from(response["status"].as_u64().expect("a status")).expect("it fits");
            if status == 200 {
                continue;
            }
            let mut connection = weir.connect();
            let (verb, path) =
                (request["method"].as_str().unwrap_or("POST"), request["path"].as_str().expect("a path"));
            let headers: &[_] = if verb == "POST" { &[("content-type", "application/json")] } else { &[] };
            connection.send(verb, path, headers, &body(request));
            if verb == "HEAD" {
                assert_eq!(connection.receive_head(), status, "{name}");
            } else {
                let answer = connection.receive();
                let refused = REFUSED.iter().find(|(refused, _)| name == refused);
                let expected = refused.map_or(status, |(_, status)| *status);
                assert_eq!(answer.status, expected, "{name}: {}", answer.text());
                if refused.is_none() {
                    assert_eq!(answer.text(), response["body_text"].as_str().expect("text"), "{name}");
                }
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 27);
    still_reads(&weir);
}

/// A recorded request's bytes; raw ones were recorded as Latin-1, a character a byte.
fn body(request: &Value) -> Vec<u8> {
    match (&request["body"], request["raw_body"].as_str()) {
        (Value::Null, Some(raw)) => raw.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect(),
        (Value::Null, None) => Vec::new(),
        (body, _) => body.to_string().into_bytes(),
    }
}

#[track_caller]
fn still_reads(weir: &Weir) {
    let ask = json!({"features": ["driver_stats:tier"], "entities": {"driver_id": [1001]}});
    let answer = weir.connect().post("/get-online-features", ask.to_string()).expect(200).json();
    assert_eq!(columns(&answer)["tier"]["values"], json!([0]));
}

#[test]
fn too_many_entities_are_refused_in_words_and_long_keys_are_keys() {
    let redis = Redis::start();
    let weir = recorded(&redis, "");
    let ask = |features: Value, entities: Value| {
        let body = json!({"features": features, "entities": entities}).to_string();
        weir.connect().post("/get-online-features", body)
    };
    let drivers = |count: usize| json!({"driver_id": vec![1001; count]});
    let feature = json!(["driver_stats:tier"]);
    let most = ask(feature.clone(), drivers(10_000)).expect(200).json();
    assert_eq!(columns(&most)["tier"]["values"].as_array().expect("values").len(), 10_000);
    for count in [10_001, 100_000, 1_000_000] {
        let refused = ask(feature.clone(), drivers(count)).expect(400);
        assert!(refused.text().contains("at most 10000 (listen.max_rows)"), "{}", refused.text());
        assert!(refused.text().len() < 1000);
    }
    // Ten thousand different ones that nobody has.
    let strangers: Vec<i64> = (0..10_000).map(|at| 5_000_000 + at).collect();
    let answer = ask(feature.clone(), json!({"driver_id": strangers})).expect(200).json();
    assert!(columns(&answer)["tier"]["statuses"].as_array().expect("statuses").iter().all(|is| is == "NOT_FOUND"));
    // A megabyte is a key like any other: it is looked for, and pushed.
    let long = "ü\"k".repeat(1 << 18);
    assert!(long.len() >= 1 << 20);
    let answer = ask(json!(["user_profile:age"]), json!({"user_id": [long, "u1"]})).expect(200).json();
    assert_eq!(columns(&answer)["user_id"]["values"][0], long);
    assert_eq!(columns(&answer)["age"]["statuses"], json!(["NOT_FOUND", "PRESENT"]));
    // Where a number is needed it is none, which is said without telling it back.
    let refused = ask(feature, json!({"driver_id": [long]})).expect(422);
    assert!(refused.text().len() < 2000, "{}", refused.text().len());
    let push = json!({"push_source_name": long, "df": {"driver_id": [1], "event_timestamp": [long], "speed": [1], "gear": [1]}});
    let refused = weir.connect().post("/push", push.to_string()).expect(422);
    assert!(refused.text().len() < 2000, "{}", refused.text().len());
    still_reads(&weir);
}
