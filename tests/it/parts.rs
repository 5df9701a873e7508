//! The parts themselves: each starts, answers without Weir, and says what the other tests rely on.

use serde_json::json;

use crate::support::{
    Feast, KServe, Redis, RedisCluster, SeaweedFs, Triton,
    grpc::Grpc,
    http1::{self, Http1},
    vectors,
};

#[test]
fn triton_echoes_and_scores() {
    let triton = Triton::builder()
        .echo("echo", &[("a", "INT64", &[-1]), ("b:c", "BYTES", &[-1, -1])])
        .model("fraud", &[("input-0", "FP32", &[-1, 4])], &[("score", "FP32", &[-1])], crate::support::triton::FRAUD)
        .start();
    let body = json!({"inputs": [
        {"name": "a", "datatype": "INT64", "shape": [2], "data": [1, 2]},
        {"name": "b:c", "datatype": "BYTES", "shape": [1, 2], "data": ["x", "ü"]},
    ]});
    let answer = http1::post(triton.http(), "/v2/models/echo/infer", body.to_string()).expect(200).json();
    assert_eq!(answer["outputs"][1]["data"], json!(["x", "ü"]));
    let body = json!({"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]});
    let answer = http1::post(triton.http(), "/v2/models/fraud/infer", body.to_string()).expect(200).json();
    assert_eq!(answer["outputs"][0]["data"], json!([4.321_f32]));
    let ready = Grpc::connect(triton.grpc()).call("ServerReady", &weir::proto::inference::ServerReadyRequest {}, &[]);
    assert!(ready.decode::<weir::proto::inference::ServerReadyResponse>().ready);
}

#[test]
fn kserve_echoes_and_scores() {
    let kserve = KServe::shared();
    let mut connection = Http1::connect(kserve.http());
    let answer = connection.post("/v1/models/fraud:predict", r#"{"instances": [[1, 2, 3, 4]]}"#).expect(200);
    assert_eq!(answer.json(), json!({"predictions": [4.321]}));
    let body = r#"{"inputs": [{"name": "a", "datatype": "INT64", "shape": [2], "data": [1, 2]}]}"#;
    let answer = connection.post("/v2/models/echo/infer", body).expect(200).json();
    assert_eq!(answer["outputs"][0]["name"], "echo_a");
    let ready = Grpc::connect(kserve.grpc()).call("ServerReady", &weir::proto::inference::ServerReadyRequest {}, &[]);
    assert!(ready.decode::<weir::proto::inference::ServerReadyResponse>().ready);
}

#[test]
fn feast_materializes_into_redis_and_a_cluster() {
    let redis = Redis::start();
    let feast = Feast::into_redis(&redis.address().to_string());
    assert_eq!(feast.rows["user_stats"][1]["txn_count_1h"], 7);
    assert!(feast.parquet("user_stats").exists());
    assert!(redis.calls("hset") > 0);
    let cluster = RedisCluster::start();
    let feast = Feast::into_cluster(&cluster.addresses());
    assert_eq!(feast.rows["all_types"][0]["f_int64"], 9_007_199_254_740_993_i64);
    assert!(cluster.sizes().iter().filter(|size| **size > 0).count() >= 6, "{:?}", cluster.sizes());
}

#[test]
fn seaweedfs_has_the_bucket() {
    assert_eq!(http1::try_get(SeaweedFs::shared().address(), "/features"), Some(403));
}

#[test]
fn the_dump_is_read_whole() {
    assert_eq!(vectors::DUMP.len(), 47);
    assert_eq!(vectors::view("user_item").rows().len(), 9);
    for view in vectors::VIEWS.iter() {
        for row in view.rows() {
            for (feature, kind) in &view.features {
                let stored = row.features.get(&format!("{}:{feature}", view.name));
                let elements = vectors::elements(stored.map(Vec::as_slice), kind);
                assert!(kind.ends_with("_LIST") || elements.len() == 1, "{}:{feature}", view.name);
            }
        }
    }
}
