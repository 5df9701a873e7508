//! Where nothing is joined, Weir is not there: same statuses, byte-identical bodies, same errors; clients work unchanged.

use std::{io::Write as _, net::SocketAddr};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use serde_json::{Value, json};
use weir::proto::inference as pb;

use crate::{
    support::{
        KServe, Weir, client,
        grpc::{Grpc, SERVICE, raw_input},
        http1::{Http1, Response},
    },
    world::{BEFORE_KSERVE, BEFORE_TRITON, TRITON},
};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// What differs between two answers of the same server.
const VARIES: &[&str] = &["date", "content-length", "transfer-encoding", "connection", "keep-alive"];

/// Sends the same request to both; fails unless status, body and the server's own headers are the same.
#[track_caller]
fn same(
    direct: SocketAddr,
    weir: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let expected = Http1::connect(direct).request(method, path, headers, body);
    let found = Http1::connect(weir).request(method, path, headers, body);
    assert_eq!(found.status, expected.status, "{path}: {} instead of {}", found.text(), expected.text());
    assert_eq!(found.text(), expected.text(), "{path}");
    assert_eq!(found.body, expected.body, "{path}");
    for (name, value) in expected.headers.iter().filter(|(name, _)| !VARIES.contains(&name.as_str())) {
        assert_eq!(found.header(name).as_deref(), Some(value.as_str()), "{path}: header {name}");
    }
    found
}

fn echo_inputs() -> Value {
    json!([
        {"name": "f", "datatype": "FP32", "shape": [2, 2], "data": [[0.1, -2.5], [3e38, 0.0]]},
        {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["", "grün 🚀 \"quoted\""]},
        {"name": "i", "datatype": "INT64", "shape": [1], "data": [9_007_199_254_740_993_i64]},
        {"name": "b", "datatype": "BOOL", "shape": [3], "data": [true, false, true]},
    ])
}

/// JSON and the binary tensors after it; KServe takes no bytes over REST that are not UTF-8.
fn binary_request(bytes: [u8; 2]) -> (usize, Vec<u8>) {
    let tensors: [(&str, &str, &[i64], Vec<u8>); 4] = [
        ("f", "FP32", &[1, 2], [0.1_f32, f32::MIN_POSITIVE].iter().flat_map(|value| value.to_le_bytes()).collect()),
        ("s", "BYTES", &[2], [&[0, 0, 0, 0, 2, 0, 0, 0], bytes.as_slice()].concat()),
        ("i", "INT64", &[1], i64::MIN.to_le_bytes().to_vec()),
        ("b", "BOOL", &[2], vec![1, 0]),
    ];
    let inputs: Vec<_> = tensors
        .iter()
        .map(|(name, datatype, shape, data)| {
            json!({"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": data.len()}})
        })
        .collect();
    let head = json!({"inputs": inputs, "parameters": {"binary_data_output": true}}).to_string();
    let mut body = head.clone().into_bytes();
    tensors.iter().for_each(|(.., data)| body.extend_from_slice(data));
    (head.len(), body)
}

#[test]
fn v2_json() {
    let (direct, weir) = (TRITON.http(), BEFORE_TRITON.http());
    for path in ["/v2/models/echo/infer", "/v2/models/echo/versions/1/infer"] {
        let body = json!({"id": "a-1", "inputs": echo_inputs()}).to_string();
        same(direct, weir, "POST", path, JSON, body.as_bytes()).expect(200);
    }
    let body = json!({"inputs": echo_inputs(), "outputs": [{"name": "echo_i"}]}).to_string();
    let answer = same(direct, weir, "POST", "/v2/models/echo/infer", JSON, body.as_bytes()).expect(200);
    assert_eq!(answer.json()["outputs"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"));

    // KServe puts an id of its own into an answer without one.
    let body = json!({"id": "a-1", "inputs": echo_inputs()}).to_string();
    same(KServe::shared().http(), BEFORE_KSERVE.http(), "POST", "/v2/models/echo/infer", JSON, body.as_bytes())
        .expect(200);
}

#[test]
fn v2_binary() {
    let (length, body) = binary_request([0xff, 0]);
    let length = length.to_string();
    let headers = [("content-type", "application/octet-stream"), ("inference-header-content-length", length.as_str())];
    let answer =
        same(TRITON.http(), BEFORE_TRITON.http(), "POST", "/v2/models/echo/infer", &headers, &body).expect(200);
    assert!(answer.header("inference-header-content-length").is_some(), "{:?}", answer.headers);
}

#[test]
fn v2_binary_on_kserve() {
    let (length, body) = binary_request(*b"\0a");
    // KServe makes an id up where there is none.
    let head = String::from_utf8(body[..length].to_vec()).expect("JSON").replacen('{', "{\"id\":\"b-1\",", 1);
    let body = [head.as_bytes(), &body[length..]].concat();
    let length = head.len().to_string();
    let headers = [("content-type", "application/octet-stream"), ("inference-header-content-length", length.as_str())];
    same(KServe::shared().http(), BEFORE_KSERVE.http(), "POST", "/v2/models/echo/infer", &headers, &body).expect(200);
}

#[test]
fn v1() {
    let (direct, weir) = (KServe::shared().http(), BEFORE_KSERVE.http());
    for (path, body) in [
        ("/v1/models/fraud:predict", r#"{"instances": [[1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]]}"#),
        ("/v1/models/echo:predict", r#"{"instances": [{"a": "ü", "b": [1.5, null]}], "parameters": {"x": 1}}"#),
    ] {
        same(direct, weir, "POST", path, JSON, body.as_bytes()).expect(200);
    }
    let mut connection = Http1::connect(weir);
    let models = connection.get("/v1/models").expect(200).json();
    assert_eq!(sorted(&models["models"]), json!(["echo", "fraud"]));
    assert_eq!(connection.get("/v1/models/fraud").expect(200).json(), json!({"name": "fraud", "ready": true}));
}

fn sorted(list: &Value) -> Value {
    let mut list: Vec<String> = serde_json::from_value(list.clone()).expect("a list of names");
    list.sort();
    json!(list)
}

#[test]
fn the_models_own_refusals_pass_through() {
    let (direct, weir) = (TRITON.http(), BEFORE_TRITON.http());
    let wrong = |inputs: Value| json!({"inputs": inputs}).to_string();
    for body in [
        wrong(json!([{"name": "nope", "datatype": "FP32", "shape": [1], "data": [1]}])),
        wrong(json!([{"name": "input-0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}])),
        wrong(json!([{"name": "input-0", "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 4]}])),
        wrong(json!([])),
    ] {
        let answer = same(direct, weir, "POST", "/v2/models/fraud/infer", JSON, body.as_bytes());
        assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
    }
    let body = r#"{"inputs": [{"name": "x", "shape": [1]}]}"#;
    let answer =
        same(KServe::shared().http(), BEFORE_KSERVE.http(), "POST", "/v2/models/echo/infer", JSON, body.as_bytes());
    assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
}

#[test]
fn a_model_that_fails_says_so_itself() {
    let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}).to_string();
    let path = "/v2/models/fails/infer";
    let answer = same(TRITON.http(), BEFORE_TRITON.http(), "POST", path, JSON, body.as_bytes()).expect(500);
    assert!(answer.error().contains("always fails"), "{}", answer.error());
    let request = pb::ModelInferRequest {
        model_name: "fails".into(),
        inputs: vec![raw_input("x", "FP32", &[1])],
        raw_input_contents: vec![Bytes::from_static(&[0; 4])],
        ..Default::default()
    };
    let path = format!("{SERVICE}/ModelInfer");
    let answer = same_call(TRITON.grpc(), BEFORE_TRITON.grpc(), &path, &request.encode_to_vec());
    assert!(answer.text().contains("always fails"), "{}", answer.text());
}

#[test]
fn a_missing_content_type_is_mended() {
    let body = json!({"id": "x", "inputs": echo_inputs()}).to_string();
    for weir in [&*BEFORE_TRITON, &*BEFORE_KSERVE] {
        weir.connect().request("POST", "/v2/models/echo/infer", &[], body.as_bytes()).expect(200);
        let (length, body) = binary_request(*b"\0a");
        let length = [("inference-header-content-length", &*length.to_string())];
        weir.connect().request("POST", "/v2/models/echo/infer", &length, &body).expect(200);
    }
    let v1 = br#"{"instances": [[1, 2, 3, 4]]}"#;
    BEFORE_KSERVE.connect().request("POST", "/v1/models/fraud:predict", &[], v1).expect(200);
}

#[test]
fn health_and_metadata() {
    let mut weir = BEFORE_TRITON.connect();
    assert_eq!(weir.get("/v2/health/live").expect(200).json(), json!({"live": true}));
    assert_eq!(weir.get("/v2/health/ready").expect(200).json(), json!({"ready": true}));
    let server = weir.get("/v2").expect(200).json();
    assert!(server["name"].is_string() && server["version"].is_string(), "{server}");
    let extensions = server["extensions"].as_array().expect("a list").clone();
    assert!(extensions.contains(&json!("binary_tensor_data")), "{server}");
    for path in ["/v2/models/echo", "/v2/models/echo/versions/1"] {
        let direct = Http1::connect(TRITON.http()).get(path).expect(200).json();
        assert_eq!(weir.get(path).expect(200).json(), direct);
    }
    for path in ["/v2/models/echo/ready", "/v2/models/echo/versions/1/ready"] {
        weir.get(path).expect(200);
    }
    for path in ["/v2/models/nope", "/v2/models/nope/ready", "/v1/models/nope", "/nowhere"] {
        assert!(!weir.get(path).expect(404).error().is_empty());
    }
    weir.request("GET", "/v2/models/echo/infer", &[], b"").expect(405);
    // Also of what weir answers itself.
    for (path, status) in [("/v2", 200), ("/v1/models", 200), ("/nowhere", 404), ("/v2/models/echo/infer", 405)] {
        let answer = weir.request("GET", path, &[("x-request-id", "mine")], b"").expect(status);
        assert_eq!(answer.header("weir-level").as_deref(), Some("0"), "{path}");
        assert_eq!(answer.header("x-request-id").as_deref(), Some("mine"), "{path}");
    }
    let live = BEFORE_TRITON.connect_grpc().call("ServerLive", &pb::ServerLiveRequest {}, &[]);
    assert_eq!(live.metadata("weir-level").as_deref(), Some("0"));
    assert!(live.metadata("x-request-id").is_some());
}

fn grpc_request() -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "echo".into(),
        id: "g-1".into(),
        inputs: vec![
            raw_input("f", "FP32", &[1, 1]),
            raw_input("s", "BYTES", &[1]),
            raw_input("i", "INT64", &[1]),
            raw_input("b", "BOOL", &[1]),
        ],
        raw_input_contents: [b"\x00\x00\x80\x3f".as_slice(), b"\x01\x00\x00\x00\xff", &i64::MAX.to_le_bytes(), b"\x01"]
            .map(Bytes::copy_from_slice)
            .into(),
        ..Default::default()
    }
}

/// The same call to both; fails unless status, text and message are the same.
#[track_caller]
fn same_call(direct: SocketAddr, weir: SocketAddr, path: &str, message: &[u8]) -> crate::support::grpc::Answer {
    let expected = Grpc::connect(direct).call_raw(path, message, &[]);
    let found = Grpc::connect(weir).call_raw(path, message, &[]);
    assert_eq!((found.status(), found.text()), (expected.status(), expected.text()), "{path}");
    assert_eq!(found.message, expected.message, "{path}");
    found
}

#[test]
fn grpc() {
    let typed = pb::ModelInferRequest {
        model_name: "fraud".into(),
        id: "g-2".into(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            contents: Some(pb::InferTensorContents { fp32_contents: vec![1.0, 2.0, 3.0, 4.0], ..Default::default() }),
            ..raw_input("input-0", "FP32", &[1, 4])
        }],
        ..Default::default()
    };
    let path = format!("{SERVICE}/ModelInfer");
    for (direct, weir) in [(TRITON.grpc(), &*BEFORE_TRITON), (KServe::shared().grpc(), &*BEFORE_KSERVE)] {
        // Both ports of Weir speak gRPC.
        for port in [weir.grpc(), weir.http()] {
            for request in [grpc_request(), typed.clone()] {
                let answer = same_call(direct, port, &path, &request.encode_to_vec());
                assert_eq!(answer.status(), 0, "{}", answer.text());
                assert_eq!(answer.metadata("weir-level").as_deref(), Some("0"));
            }
        }
    }
    let mut unknown_tensor = grpc_request();
    unknown_tensor.inputs[0].name = "nope".into();
    let mut wrong_shape = grpc_request();
    wrong_shape.inputs[0].shape = vec![4];
    for request in [unknown_tensor, wrong_shape] {
        let answer = same_call(TRITON.grpc(), BEFORE_TRITON.grpc(), &path, &request.encode_to_vec());
        assert_eq!(answer.status(), 3, "{}", answer.text());
    }
}

#[test]
fn grpc_health_and_metadata() {
    let mut weir = BEFORE_TRITON.connect_grpc();
    assert!(weir.call("ServerLive", &pb::ServerLiveRequest {}, &[]).decode::<pb::ServerLiveResponse>().live);
    assert!(weir.call("ServerReady", &pb::ServerReadyRequest {}, &[]).decode::<pb::ServerReadyResponse>().ready);
    let metadata: pb::ServerMetadataResponse = weir.call("ServerMetadata", &pb::ServerMetadataRequest {}, &[]).decode();
    assert!(!metadata.name.is_empty() && !metadata.version.is_empty(), "{metadata:?}");
    let ready = pb::ModelReadyRequest { name: "echo".into(), ..Default::default() };
    assert!(weir.call("ModelReady", &ready, &[]).decode::<pb::ModelReadyResponse>().ready);
    let request = pb::ModelMetadataRequest { name: "echo".into(), ..Default::default() }.encode_to_vec();
    for (direct, weir) in [(TRITON.grpc(), &*BEFORE_TRITON), (KServe::shared().grpc(), &*BEFORE_KSERVE)] {
        same_call(direct, weir.grpc(), &format!("{SERVICE}/ModelMetadata"), &request);
    }
    let unknown = pb::ModelMetadataRequest { name: "nope".into(), ..Default::default() };
    assert_eq!(weir.call("ModelMetadata", &unknown, &[]).status(), 5);
}

#[test]
fn other_grpc_methods_pass_raw() {
    // ModelConfigRequest{name} has the form of ModelMetadataRequest.
    let named = pb::ModelMetadataRequest { name: "fraud".into(), ..Default::default() }.encode_to_vec();
    let config = same_call(TRITON.grpc(), BEFORE_TRITON.grpc(), &format!("{SERVICE}/ModelConfig"), &named);
    assert!(config.message.is_some_and(|message| message.len() > 20));
    // It names no model, so no pool either: the refusal says what to ask instead.
    let index = BEFORE_TRITON.connect_grpc().call_raw(&format!("{SERVICE}/RepositoryIndex"), &[], &[]);
    assert_eq!(index.status(), 12);
    assert!(index.text().contains("ModelMetadata"), "{}", index.text());
    let statistics = BEFORE_TRITON.connect_grpc().call_raw(&format!("{SERVICE}/ModelStatistics"), &named, &[]);
    assert_eq!(statistics.status(), 0, "{}", statistics.text());
    assert!(statistics.message.is_some_and(|message| !message.is_empty()));
}

#[test]
fn a_stream_begins_with_its_first_message_however_it_is_cut() {
    let input = pb::model_infer_request::InferInputTensor {
        contents: Some(pb::InferTensorContents { fp32_contents: vec![1.0, 2.0, 3.0, 4.0], ..Default::default() }),
        ..raw_input("input-0", "FP32", &[1, 4])
    };
    let request = pb::ModelInferRequest { model_name: "fraud".into(), inputs: vec![input], ..Default::default() };
    let message = request.encode_to_vec();
    let plain = framed(0, &message);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&message).expect("memory");
    let zipped = framed(1, &encoder.finish().expect("memory"));
    for (metadata, messages) in
        [(&[][..], [plain.clone(), plain.clone()]), (&[("grpc-encoding", "gzip")][..], [zipped, plain])]
    {
        // The next message is sent only once the last was answered: nothing may wait for the stream's end.
        let (answers, trailers) =
            BEFORE_TRITON.connect_grpc().converse(&format!("{SERVICE}/ModelStreamInfer"), metadata, &messages);
        assert_eq!(answers.len(), 2, "{trailers:?}");
        assert_eq!(trailers["grpc-status"], "0", "{trailers:?}");
        for answer in answers {
            assert!(answer.windows(5).any(|window| window == b"fraud"), "{answer:?}");
        }
    }
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("under 4 GiB");
    [&[flag], length.to_be_bytes().as_slice(), message].concat()
}

#[test]
fn loading_and_unloading_models_is_refused() {
    // RepositoryModelLoadRequest{repository_name = 1, model_name = 2}
    for method in ["RepositoryModelLoad", "RepositoryModelUnload"] {
        let answer = BEFORE_TRITON.connect_grpc().call_raw(&format!("{SERVICE}/{method}"), b"\x12\x04echo", &[]);
        assert_eq!(answer.status(), 7, "{method}: {}", answer.text());
        assert!(answer.text().contains("allow_repository"), "{}", answer.text());
    }
    for verb in ["load", "unload"] {
        let answer = BEFORE_TRITON.connect().post(&format!("/v2/repository/models/echo/{verb}"), "{}");
        assert!(matches!(answer.status, 403 | 404), "{verb}: {}", answer.status);
    }
    BEFORE_TRITON.connect().get("/v2/models/echo/ready").expect(200);
}

#[test]
fn loading_and_unloading_is_the_servers_business_where_allowed() {
    let weir = Weir::start(&format!(
        "allow_repository: true\npools:\n  triton: {{endpoints: [{}]}}\nmodels:\n  echo: {{pool: triton}}\n",
        TRITON.endpoint()
    ));
    // This Triton was not started with explicit model control, and says so itself.
    let path = format!("{SERVICE}/RepositoryModelLoad");
    let answer = same_call(TRITON.grpc(), weir.grpc(), &path, b"\x12\x04echo");
    assert_ne!(answer.status(), 0);
}

#[test]
fn reflection_and_health_for_grpcurl() {
    let address = BEFORE_TRITON.grpc().to_string();
    let (services, ok) = client::grpcurl(&[&address, "list"]);
    assert!(ok, "{services}");
    for service in ["inference.GRPCInferenceService", "grpc.health.v1.Health"] {
        assert!(services.contains(service), "{services}");
    }
    let (described, ok) = client::grpcurl(&[&address, "describe", "inference.GRPCInferenceService"]);
    assert!(ok && described.contains("rpc ModelInfer"), "{described}");
    let (health, ok) = client::grpcurl(&[&address, "grpc.health.v1.Health/Check"]);
    assert!(ok && health.contains("SERVING"), "{health}");
    let (unknown, ok) = client::grpcurl(&["-d", r#"{"service": "nope"}"#, &address, "grpc.health.v1.Health/Check"]);
    assert!(!ok && unknown.contains("NotFound"), "{unknown}");
    let (ready, ok) =
        client::grpcurl(&["-d", r#"{"name": "echo"}"#, &address, "inference.GRPCInferenceService/ModelReady"]);
    assert!(ok && ready.contains("\"ready\": true"), "{ready}");
}

/// Runs a client against both; fails unless what it saw is the same.
#[track_caller]
fn same_for(script: &str, protocol: &str, direct: SocketAddr, weir: SocketAddr) -> Value {
    let [expected, found] = [direct, weir].map(|address| client::run(script, &[protocol, &address.to_string()]));
    assert_eq!(found, expected, "{script} {protocol}");
    found
}

#[test]
fn tritonclient_works_unchanged() {
    let http = same_for("triton.py", "http", TRITON.http(), BEFORE_TRITON.http());
    assert_eq!(http["json"]["echo_i"], json!([i64::MAX]));
    let grpc = same_for("triton.py", "grpc", TRITON.grpc(), BEFORE_TRITON.grpc());
    assert_eq!(grpc["binary"], http["binary"]);
}

#[test]
fn kserve_clients_work_unchanged() {
    same_for("kserve_clients.py", "rest", KServe::shared().http(), BEFORE_KSERVE.http());
    same_for("kserve_clients.py", "grpc", KServe::shared().grpc(), BEFORE_KSERVE.grpc());
    // And in front of a server on whose empty health answers the REST client fails.
    let through = client::run("kserve_clients.py", &["rest-v2", &BEFORE_TRITON.http().to_string()]);
    assert_eq!(through["live"], true);
}
