//! Rows that Feast wrote reach the model exactly, from every layer; what is missing becomes defaults, and the answer says so.

use std::{thread, time::Duration};

use ::weir::proto::inference as pb;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    support::{
        Feast, Redis, RedisCluster, SeaweedFs, Weir,
        grpc::{Answer, Grpc, raw_input},
        http1::Response,
        metrics::await_metric,
        process::wait_until,
        vectors::{self, DUMP, StoredHash, VIEWS, View},
        weir,
    },
    world::{
        FRAUD_DETECTOR, FRAUD_PATH, STORE, TRITON, first_number, fraud_config, fraud_over_grpc, fraud_request, near,
        score,
    },
};

/// A config that joins all of a view's features, one tensor each, to a model that echoes them.
fn echo_config<'a>(project: &str, l2: &str, views: impl Iterator<Item = &'a View> + Clone) -> String {
    let mut text = format!("pools:\n  triton: {{endpoints: [{}]}}\nmodels:\n", TRITON.endpoint());
    for view in views.clone() {
        let joins: Vec<_> = view.entities.iter().map(|(name, _)| format!("{name}: {name}")).collect();
        let columns: Vec<_> =
            view.features.iter().map(|(name, _)| format!("{{name: {name}, from: \"{}:{name}\"}}", view.name)).collect();
        text += &format!(
            "  echo-{}:\n    pool: triton\n    features:\n      - {{view: {}, join: {{{}}}}}\n    inputs: {{as: columns, \
             columns: [{}]}}\n",
            view.name,
            view.name,
            joins.join(", "),
            columns.join(", ")
        );
    }
    text += &format!("features:\n  project: {project}\n  l2: {{{l2}}}\n  views:\n");
    views.for_each(|view| text += &view.yaml());
    text
}

/// One entity's row, asked for over gRPC with raw tensors.
fn ask(grpc: &mut Grpc, view: &View, entity: &[(String, String, Value)]) -> Answer {
    let kind = |name: &str| view.entities.iter().find(|(key, _)| key == name).map(|(_, kind)| kind.as_str());
    let mut request = pb::ModelInferRequest { model_name: format!("echo-{}", view.name), ..Default::default() };
    for (name, _, value) in entity {
        let kind = kind(name).expect("the entity is the view's");
        request.inputs.push(raw_input(name, vectors::datatype(kind).expect("a key"), &[1]));
        request.raw_input_contents.push(Bytes::from(raw_of(value, kind)));
    }
    grpc.infer(&request)
}

/// A JSON value, or list of values, as raw tensor contents.
fn raw_of(value: &Value, kind: &str) -> Vec<u8> {
    if let (Some(list), Some(element)) = (value.as_array(), kind.strip_suffix("_LIST")) {
        return list.iter().flat_map(|value| raw_of(value, element)).collect();
    }
    let number = || value.as_i64().unwrap_or_else(|| panic!("{value} is not a {kind}"));
    let float = || value.as_f64().unwrap_or_else(|| panic!("{value} is not a {kind}"));
    match kind {
        "INT32" => i32::try_from(number()).expect("it fits").to_le_bytes().into(),
        "INT64" | "UNIX_TIMESTAMP" => number().to_le_bytes().into(),
        "DOUBLE" => float().to_le_bytes().into(),
        #[expect(clippy::cast_possible_truncation, reason = "the value was a float before JSON")]
        "FLOAT" => (float() as f32).to_le_bytes().into(),
        "BOOL" => vec![u8::from(value.as_bool().expect("a boolean"))],
        "STRING" => vectors::bytes_element(value.as_str().expect("text").as_bytes()),
        "BYTES" => {
            let bytes: Vec<u8> = serde_json::from_value(value.clone()).expect("bytes as numbers");
            vectors::bytes_element(&bytes)
        }
        _ => panic!("no tensor holds a {kind}"),
    }
}

/// Fails unless the answer echoes these elements under that feature's name.
#[track_caller]
fn expect_output(answer: &pb::ModelInferResponse, feature: &str, kind: &str, elements: &[Vec<u8>]) {
    let at = answer.outputs.iter().position(|output| output.name == format!("echo_{feature}"));
    let at = at.unwrap_or_else(|| panic!("no echo_{feature}"));
    let output = &answer.outputs[at];
    assert_eq!(Some(output.datatype.as_str()), vectors::datatype(kind), "{feature}");
    let count = i64::try_from(elements.len()).expect("it fits");
    let shape = if kind.ends_with("_LIST") { vec![1, count] } else { vec![1] };
    assert_eq!(output.shape, shape, "{feature}");
    assert_eq!(answer.raw_output_contents[at], elements.concat(), "{feature}: {kind}");
}

/// Asks for every row of every dumped view and compares each tensor's bytes.
fn every_dumped_row_arrives(weir: &Weir) {
    let mut grpc = weir.connect_grpc();
    let mut rows = 0;
    for view in VIEWS.iter() {
        for row in view.rows() {
            let answer = ask(&mut grpc, view, &row.entity);
            let context = format!("{} {:?}", view.name, row.entity);
            let message: pb::ModelInferResponse = answer.decode();
            let mut nulls = 0;
            for (feature, kind) in &view.features {
                let stored = row.features.get(&format!("{}:{feature}", view.name)).map(Vec::as_slice);
                nulls += usize::from(stored.is_none_or(<[u8]>::is_empty));
                expect_output(&message, feature, kind, &vectors::elements(stored, kind));
            }
            assert_eq!(answer.metadata("weir-level").as_deref(), Some("0"), "{context}");
            let degraded = answer.metadata("weir-degraded");
            assert_eq!(degraded.is_some(), nulls > 0, "{context}: {degraded:?}");
            rows += 1;
        }
    }
    assert!(rows > 60, "only {rows} rows");
}

/// The dump's own project.
const DUMPED: &str = "weir_demo";

#[test]
fn every_type_and_key_that_feast_wrote_to_redis() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let weir = Weir::start(&echo_config(DUMPED, &format!("redis: [{}]", redis.url()), VIEWS.iter()));
    every_dumped_row_arrives(&weir);
}

#[test]
fn every_type_and_key_that_feast_wrote_to_a_cluster() {
    let cluster = RedisCluster::shared();
    cluster.load(&DUMP);
    let l2 = format!("mode: cluster, redis: {}", cluster.urls());
    let weir = Weir::start(&echo_config(DUMPED, &l2, VIEWS.iter()));
    every_dumped_row_arrives(&weir);
    let hits = weir.metrics().count("weir_feature_lookups_total", &[("layer", "l2"), ("outcome", "hit")]);
    assert!(hits > 60.0, "{hits}");
}

/// The view `all_types` as the test's own repository declares it.
fn all_types() -> View {
    let dumped = vectors::view("all_types");
    View {
        name: "all_types".into(),
        entities: vec![("user_id".into(), "INT64".into())],
        features: dumped.features.clone(),
    }
}

/// What Feast materialized a moment ago, compared with what its own SDK reads.
fn every_materialized_row_arrives(weir: &Weir, feast: &Feast) {
    let view = all_types();
    let mut grpc = weir.connect_grpc();
    let rows = feast.rows["all_types"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for row in rows {
        let entity = [("user_id".to_owned(), "int64".to_owned(), row["user_id"].clone())];
        let message: pb::ModelInferResponse = ask(&mut grpc, &view, &entity).decode();
        for (feature, kind) in &view.features {
            let value = &row[feature];
            let elements: Vec<_> = match value.as_array() {
                Some(list) if kind.ends_with("_LIST") => {
                    list.iter().map(|value| raw_of(value, kind.trim_end_matches("_LIST"))).collect()
                }
                _ => vec![raw_of(value, kind)],
            };
            expect_output(&message, feature, kind, &elements);
        }
    }
}

#[test]
fn what_feast_materializes_into_redis_arrives() {
    let view = all_types();
    let config = echo_config(Feast::PROJECT, &format!("redis: [{}]", STORE.0.url()), std::iter::once(&view));
    every_materialized_row_arrives(&Weir::start(&config), &STORE.1);
}

#[test]
fn what_feast_materializes_into_a_cluster_arrives() {
    let cluster = RedisCluster::shared();
    let feast = Feast::into_cluster(&cluster.addresses());
    let view = all_types();
    let l2 = format!("mode: cluster, redis: {}", cluster.urls());
    let weir = Weir::start(&echo_config(Feast::PROJECT, &l2, std::iter::once(&view)));
    every_materialized_row_arrives(&weir, &feast);
}

#[test]
fn a_fraud_request_is_joined_in_every_protocol() {
    let weir = &*FRAUD_DETECTOR;
    let expected = score(250.0, 7.0, 1.5, 0.125);
    let answer = weir.connect().post(FRAUD_PATH, fraud_request(1001, "m-2", 250.0)).expect(200);
    near(first_number(&answer.json()), expected);
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"));
    assert_eq!(answer.header("weir-degraded"), None);

    let v1 = json!({"instances": [{"user_id": 1001, "merchant_id": "m-2", "amount": 250.0}]}).to_string();
    let answer = weir.connect().post("/v1/models/fraud-kserve:predict", v1).expect(200).json();
    near(answer["predictions"][0].as_f64().expect("a number"), expected);

    let message: pb::ModelInferResponse = weir.connect_grpc().infer(&fraud_over_grpc(1001, "m-2", 250.0)).decode();
    let raw: [u8; 4] = message.raw_output_contents[0][..].try_into().expect("one FP32");
    near(f32::from_le_bytes(raw).into(), expected);
}

#[test]
fn missing_rows_become_defaults_and_the_answer_says_so() {
    let answer = FRAUD_DETECTOR.connect().post(FRAUD_PATH, fraud_request(-77, "nobody", 1.0)).expect(200);
    near(first_number(&answer.json()), score(1.0, 5.0, 0.25, 0.5));
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"), "only failures cost a level");
    let degraded = answer.header("weir-degraded").expect("defaults are told");
    for view in ["user_stats", "merchant_stats"] {
        assert!(degraded.contains(&format!("default;view={view};reason=not_found")), "{degraded}");
    }
}

#[test]
fn no_cache_reads_the_store() {
    let redis = Redis::start();
    let feast = Feast::into_redis(&redis.address().to_string());
    assert_eq!(feast.rows["user_stats"][4]["txn_count_1h"], 28);
    let weir = Weir::start(&fraud_config(&format!("redis: [{}]", redis.url()), ""));
    let mut connection = weir.connect();
    let mut statuses = |headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let body = fraud_request(1004, "m-1", 1.0);
        cache_status(&connection.request("POST", FRAUD_PATH, &headers, body.as_bytes()).expect(200))
    };
    assert!(statuses(&[]).contains("weir-l2; hit"));
    assert!(statuses(&[]).contains("weir-l1; hit"));
    let before = redis.calls("hmget");
    let bypassed = statuses(&[("cache-control", "no-cache")]);
    assert!(!bypassed.contains("weir-l1; hit") && bypassed.contains("weir-l2; hit"), "{bypassed}");
    assert!(redis.calls("hmget") > before);
}

#[track_caller]
fn cache_status(answer: &Response) -> String {
    answer.header("cache-status").unwrap_or_else(|| panic!("no cache-status in {:?}", answer.headers))
}

/// Runs `weir offline build`; fails with what it said.
#[track_caller]
pub(crate) fn build(config: &str, environment: &[(String, String)], view: &str, from: &str, to: &str) {
    let folder = crate::support::process::Folder::new("offline");
    let path = folder.write("weir.yaml", config);
    let mut command = weir::command();
    command.args(["offline", "build", "-c"]).arg(&path).args(["--view", view, "--from", from, "--to", to]);
    let output = command.envs(environment.iter().cloned()).output().expect("weir starts");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_user_only_in_l3_is_found_there_then_nearer() {
    let redis = Redis::start();
    let seaweed = SeaweedFs::shared();
    let url = format!("s3://{}/lookup-{}", crate::support::seaweed::BUCKET, redis.address().port());
    let config = fraud_config(&format!("redis: [{}]", redis.url()), &format!("l3: {{url: \"{url}\", timeout: 2s}}"));
    let environment = seaweed.environment();
    for view in ["user_stats", "merchant_stats"] {
        let parquet = format!("file://{}", STORE.1.parquet(view).display());
        build(&config, &environment, view, &parquet, &url);
    }
    let weir = Weir::with_environment(&config, &environment);
    let mut connection = weir.connect();
    let expected = score(10.0, 21.0, 3.5, 1.5);
    let body = fraud_request(1003, "{tag}", 10.0);

    let answer = connection.post(FRAUD_PATH, &body).expect(200);
    near(first_number(&answer.json()), expected);
    assert!(cache_status(&answer).contains("weir-l3; hit"), "{}", cache_status(&answer));
    assert_eq!(answer.header("weir-degraded"), None);

    let answer = connection.post(FRAUD_PATH, &body).expect(200);
    near(first_number(&answer.json()), expected);
    assert!(cache_status(&answer).contains("weir-l1; hit"), "{}", cache_status(&answer));
    assert!(!cache_status(&answer).contains("weir-l3"), "{}", cache_status(&answer));

    // Written back: a gateway with an empty L1 finds both rows in Redis.
    wait_until("both rows in Redis", Duration::from_secs(10), || {
        redis::cmd("DBSIZE").query::<u64>(&mut redis.connection()).expect("Redis runs") == 2
    });
    let other = Weir::with_environment(&config, &environment);
    let answer = other.connect().post(FRAUD_PATH, &body).expect(200);
    near(first_number(&answer.json()), expected);
    assert!(cache_status(&answer).contains("weir-l2; hit"), "{}", cache_status(&answer));
    // Weir's own keys expire, after L2's ttl.
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut redis.connection()).expect("Redis runs");
    let ttl = |key| redis::cmd("TTL").arg(key).query::<i64>(&mut redis.connection()).expect("Redis runs");
    let lives: Vec<i64> = keys.into_iter().map(ttl).collect();
    assert!(matches!(lives[..], [86_000..=86_400, 86_000..=86_400]), "{lives:?}");
    // Nobody, anywhere.
    let answer = connection.post(FRAUD_PATH, fraud_request(5, "m-1", 10.0)).expect(200);
    near(first_number(&answer.json()), score(10.0, 5.0, 0.25, 0.01));
    assert_eq!(answer.header("weir-degraded").as_deref(), Some("default;view=user_stats;reason=not_found"));
}

#[test]
fn without_redis_cached_rows_answer_and_others_default_in_time() {
    let redis = Redis::start();
    Feast::into_redis(&redis.address().to_string());
    let weir = Weir::start(&fraud_config(&format!("redis: [{}], timeout: 2s", redis.url()), ""));
    let mut connection = weir.connect();
    let cached = fraud_request(1001, "m-2", 100.0);
    connection.post(FRAUD_PATH, &cached).expect(200);
    redis.kill();

    let answer = connection.post(FRAUD_PATH, &cached).expect(200);
    near(first_number(&answer.json()), score(100.0, 7.0, 1.5, 0.125));
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"));
    assert_eq!(answer.header("weir-degraded"), None);

    unavailable_in_time(&mut connection, 1002);
    // Every gateway lost it at once: were that not ready, nobody would be left to answer.
    connection.get("/v2/health/ready").expect(200);
    redis.restart();
    wait_until("rows of the store that came back to be asked for", Duration::from_secs(60), || {
        // Redis came back empty: not found there is an answer, for the merchant as well where its row in L1 has ended.
        let answer = connection.post(FRAUD_PATH, fraud_request(1005, "m-2", 100.0)).expect(200);
        let degraded = answer.header("weir-degraded");
        degraded.is_some_and(|views| views.starts_with("default;view=user_stats;reason=not_found"))
    });
}

/// An uncached user: defaults, level 2, the reason told, within the model's 5 s.
#[track_caller]
fn unavailable_in_time(connection: &mut crate::support::http1::Http1, user: i64) {
    let start = Instant::now();
    let answer = connection.post(FRAUD_PATH, fraud_request(user, "m-2", 100.0)).expect(200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    near(first_number(&answer.json()), score(100.0, 5.0, 0.25, 0.125));
    assert_eq!(answer.header("weir-level").as_deref(), Some("2"));
    assert_eq!(answer.header("weir-degraded").as_deref(), Some("default;view=user_stats;reason=unavailable"));
}

#[test]
fn a_redis_that_hangs_is_as_good_as_gone() {
    let redis = Redis::start();
    Feast::into_redis(&redis.address().to_string());
    let weir = Weir::start(&fraud_config(&format!("redis: [{}], timeout: 20ms", redis.url()), ""));
    let mut connection = weir.connect();
    connection.post(FRAUD_PATH, fraud_request(1001, "m-2", 100.0)).expect(200);
    redis.freeze();
    unavailable_in_time(&mut connection, 1002);
}

#[test]
fn concurrent_misses_of_one_key_fetch_once() {
    const CALLERS: usize = 12;
    let redis = Redis::start();
    Feast::into_redis(&redis.address().to_string());
    let config = fraud_config(&format!("redis: [{}], timeout: 5s", redis.url()), "");
    let weir = Weir::start(&config.replace("timeout: 5s\n", "timeout: 20s\n"));
    // The merchant is cached, so that each caller has one row to fetch; the connection to Redis is made.
    weir.connect().post(FRAUD_PATH, fraud_request(1001, "m-2", 1.0)).expect(200);
    let before = redis.calls("hmget");
    redis.freeze();
    let address = weir.http();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            thread::spawn(move || {
                let answer =
                    crate::support::http1::post(address, FRAUD_PATH, fraud_request(1009, "m-2", 1.0)).expect(200);
                (first_number(&answer.json()), answer.header("weir-degraded"))
            })
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a dozen")]
    let waiting = (CALLERS - 1) as f64;
    await_metric(weir.admin(), "weir_feature_coalesced_total", &[], |count| count >= waiting);
    redis.thaw();
    for caller in callers {
        let (found, degraded) = caller.join().expect("the caller was answered");
        near(found, score(1.0, 63.0, 9.5, 0.125));
        assert_eq!(degraded, None);
    }
    assert_eq!(redis.calls("hmget") - before, 1);
}

#[test]
fn write_back_and_reads_use_feasts_own_layout() {
    // What Feast wrote for one key of the dump is what Weir asks for: no other key, no other field is read or made.
    let redis = Redis::start();
    let rows: Vec<&StoredHash> = vectors::view("user_profile").rows();
    redis.load(&DUMP);
    let size = |redis: &Redis| redis::cmd("DBSIZE").query::<u64>(&mut redis.connection()).expect("Redis runs");
    let before = size(&redis);
    let view = vectors::view("user_profile");
    let weir = Weir::start(&echo_config(DUMPED, &format!("redis: [{}]", redis.url()), std::iter::once(view)));
    let mut grpc = weir.connect_grpc();
    for row in rows {
        ask(&mut grpc, view, &row.entity).decode::<pb::ModelInferResponse>();
    }
    assert_eq!(size(&redis), before);
    assert_eq!(redis.calls("hset"), u64::try_from(DUMP.len()).expect("it fits"), "only the test wrote");
}
