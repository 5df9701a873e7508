//! Every file of examples/ starts and answers, with nothing changed but where its servers are.

use std::{collections::BTreeMap, fs, path::Path};

use ::weir::proto::inference as pb;
use bytes::Bytes;
use serde_json::json;

use crate::{
    features::build,
    support::{
        Redis, RedisCluster, SeaweedFs, Weir,
        grpc::raw_input,
        hand::Echo,
        seaweed::BUCKET,
        vectors::{self, DUMP},
    },
    world::{STORE, TRITON},
};

/// An example with its addresses replaced. Each must be in it.
#[track_caller]
fn example(name: &str, replaced: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let mut text = fs::read_to_string(path).expect("it is there");
    for (from, to) in replaced {
        assert!(text.contains(from), "{name} has no {from:?}");
        text = text.replace(from, to);
    }
    text
}

#[test]
fn every_example_is_started_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = fs::read_dir(folder).expect("it is there").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut yaml: Vec<_> = names.filter(|name| name.ends_with(".yaml")).collect();
    yaml.sort();
    assert_eq!(yaml, ["columns.yaml", "feature-server.yaml", "fraud.yaml", "proxy.yaml"]);
}

#[test]
fn the_proxy_forwards_under_the_names_that_callers_use() {
    let [http, grpc] = [TRITON.http(), TRITON.grpc()].map(|address| format!("http://{address}"));
    let text = example(
        "proxy.yaml",
        &[
            ("http://127.0.0.1:9000", http.clone()),
            ("http://127.0.0.1:9001", grpc),
            // The same server again, under another name.
            ("http://127.0.0.1:9010", http.replace("127.0.0.1", "localhost")),
        ],
    );
    let weir = Weir::start(&text);
    let body = json!({"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]});
    let answer = weir.connect().post("/v2/models/fraud-lite/infer", body.to_string()).expect(200).json();
    assert_eq!(answer["outputs"][0]["data"], json!([4.321_f32]));
    assert_eq!(answer["model_name"], "fraud-lite");
}

#[test]
fn the_feature_server_reads_and_is_pushed_to() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let listen = "{http: 127.0.0.1:0, grpc: 127.0.0.1:0, admin: 127.0.0.1:0}".to_owned();
    let text = example(
        "feature-server.yaml",
        &[
            ("{http: 0.0.0.0:6566, grpc: none, admin: 127.0.0.1:9090}", listen), // A busy machine may take longer than the 20 ms that a lookup has.
            ("redis: redis://127.0.0.1:6379", format!("redis: \"{}\", timeout: 5s", redis.url())),
        ],
    );
    let weir = Weir::start(&text);
    let ask = json!({"features": ["driver_stats:conv_rate"], "entities": {"driver_id": [1001]}}).to_string();
    let column = || weir.connect().post("/get-online-features", &ask).expect(200).json()["results"][1].clone();
    // The recorded row is days old.
    assert_eq!(column()["statuses"], json!(["OUTSIDE_MAX_AGE"]));
    let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
    let push = json!({"push_source_name": "driver_stats", "df": {
        "driver_id": [1001], "event_timestamp": [now.to_rfc3339()],
        "conv_rate": [0.5], "acc_rate": [0.25], "avg_daily_trips": [7]
    }});
    weir.connect().post("/push", push.to_string()).expect(200);
    assert_eq!((&column()["statuses"], &column()["values"]), (&json!(["PRESENT"]), &json!([0.5])));
}

#[test]
fn the_fraud_detector_joins_what_its_lookup_file_has() {
    let (echo, redis, seaweed) = (Echo::listen(), Redis::start(), SeaweedFs::shared());
    let set = |name: &str, value: &str| {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut redis.connection()).expect("Redis runs");
    };
    set("requirepass", "secret");
    let address = echo.endpoint();
    let bare = address.trim_start_matches("http://").to_owned();
    let lookup = format!("s3://{BUCKET}/example");
    let text = example(
        "fraud.yaml",
        &[
            ("grpc_port: 8081", format!("grpc_port: {}", bare.rsplit_once(':').expect("it has a port").1)),
            ("fraud-predictor.ml.svc:8080", bare),
            ("http://fraud-lite-predictor.ml.svc:8080", address),
            ("redis.ml.svc:6379", redis.address().to_string()),
            ("timeout: 20ms", "timeout: 5s".into()),
            ("timeout: 200ms", "timeout: 20s".into()),
            ("s3://features/lookup", lookup.clone()),
        ],
    );
    let mut environment = seaweed.environment();
    environment.push(("REDIS_PASSWORD".into(), "secret".into()));
    for view in ["user_stats", "merchant_stats"] {
        let parquet = format!("file://{}", STORE.1.parquet(view).display());
        build(&text, &environment, view, &parquet, &lookup);
    }
    let weir = Weir::with_environment(&text, &environment);
    let body = json!({"instances": [{"amount": 120.5, "user_id": 1003, "merchant_id": "m-2"}]}).to_string();
    let answer = weir.connect().post("/v1/models/fraud-detector:predict", body).expect(200);
    assert_eq!(answer.json()["predictions"], json!([[120.5, 21.0, 3.5, 0.125]]));
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"), "{:?}", answer.headers);
    let answer = weir.connect().post("/v1/models/fraud-lite:predict", r#"{"instances": [1]}"#).expect(200);
    assert_eq!(answer.json()["predictions"], json!([1]));
}

#[test]
fn the_ranker_gets_a_tensor_a_feature_over_grpc() {
    let nodes = RedisCluster::shared().addresses();
    let text = example(
        "columns.yaml",
        &[
            ("http://ranker.ml.svc:8001", format!("http://{}", TRITON.grpc())),
            ("redis-0:6379", nodes[0].clone()),
            ("redis-1:6379", nodes[1].clone()),
            ("redis-2:6379", nodes[2].clone()),
            ("timeout: 100ms", "timeout: 20s".into()),
        ],
    );
    let weir = Weir::start(&text);
    let item = vectors::bytes_element(b"i-1");
    let request = pb::ModelInferRequest {
        model_name: "ranker".into(),
        inputs: vec![raw_input("user", "INT64", &[1]), raw_input("item", "BYTES", &[1])],
        raw_input_contents: vec![Bytes::copy_from_slice(&7_i64.to_le_bytes()), Bytes::from(item.clone())],
        ..Default::default()
    };
    let answer: pb::ModelInferResponse = weir.connect_grpc().infer(&request).decode();
    let outputs: BTreeMap<_, _> =
        answer.outputs.iter().map(|output| output.name.as_str()).zip(&answer.raw_output_contents).collect();
    // Nobody has rows here: 64 zeros, and the default.
    let zeros = Bytes::from(vec![0; 64 * 4]);
    assert_eq!((outputs["echo_embedding"], outputs["echo_item_embedding"]), (&zeros, &zeros));
    assert_eq!(outputs["echo_category"], &vectors::bytes_element(b"unknown"));
    assert_eq!(outputs["echo_item"], &item);
}
