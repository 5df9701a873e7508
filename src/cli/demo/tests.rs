//! The sample model server, asked over loopback in every form that it understands.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tonic::{Code, transport::Channel};

use super::{model::Model, server::Server};
use crate::proto::inference::{
    InferTensorContents, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};

const ROWS: [f32; 8] = [20.0, 1.0, 80.0, 0.01, 950.0, 11.0, 30.0, 0.07];

fn expected() -> Vec<f32> {
    Model::find("fraud-detector", None).unwrap().infer("FP32", &[2, 4], &ROWS).unwrap()
}

fn raw(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

struct Http {
    server: Server,
    client: reqwest::Client,
}

impl Http {
    fn start() -> Self {
        Self { server: Server::start().unwrap(), client: reqwest::Client::new() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.http)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(self.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.client.post(self.url(path)).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

#[tokio::test]
async fn health_and_metadata_over_http() {
    let http = Http::start();
    assert_eq!(http.get("/v2/health/live").await, (200, json!({"live": true})));
    assert_eq!(http.get("/v2/health/ready").await, (200, json!({"ready": true})));
    assert_eq!(http.get("/v2").await.1["extensions"], json!(["binary_tensor_data"]));
    assert_eq!(http.get("/v1/models").await, (200, json!({"models": ["fraud-detector", "fraud-lite"]})));
    assert_eq!(http.get("/v1/models/fraud-lite").await, (200, json!({"name": "fraud-lite", "ready": true})));
    assert_eq!(http.get("/v2/models/fraud-lite/versions/1/ready").await, (200, json!({"ready": true})));
    let (status, metadata) = http.get("/v2/models/fraud-detector").await;
    assert_eq!(status, 200);
    assert_eq!(metadata["inputs"], json!([{"name": "input-0", "datatype": "FP32", "shape": [-1, 4]}]));
    assert_eq!(metadata["outputs"], json!([{"name": "score", "datatype": "FP32", "shape": [-1]}]));
}

#[tokio::test]
async fn v2_json_takes_flat_and_nested_data() {
    let http = Http::start();
    for data in [json!(ROWS), json!([&ROWS[..4], &ROWS[4..]])] {
        let tensor = json!({"name": "input-0", "datatype": "FP32", "shape": [2, 4], "data": data});
        let body = json!({"id": "42", "inputs": [tensor], "outputs": [{"name": "score"}]});
        let (status, answer) = http.post("/v2/models/fraud-detector/infer", &body).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!((&answer["id"], &answer["model_version"]), (&json!("42"), &json!("1")));
        assert_eq!(answer["outputs"][0]["shape"], json!([2]));
        assert_eq!(floats(&answer["outputs"][0]["data"]), expected());
    }
}

#[tokio::test]
async fn v2_binary_in_and_out() {
    let http = Http::start();
    let tensors = json!([
        {"name": "other", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        {"name": "input-0", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": 32}},
    ]);
    for (parameters, outputs) in [
        (json!({"binary_data_output": true}), json!([])),
        (json!({}), json!([{"name": "score", "parameters": {"binary_data": true}}])),
    ] {
        let mut body =
            json!({"parameters": parameters, "inputs": tensors, "outputs": outputs}).to_string().into_bytes();
        let length = body.len();
        body.extend([1, 0, 0, 0, b'x']);
        body.extend(raw(&ROWS));
        let url = http.url("/v2/models/fraud-detector/versions/1/infer");
        let request = http.client.post(url).header("inference-header-content-length", length);
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/octet-stream");
        let length = answer.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
        let body = answer.bytes().await.unwrap();
        let header: Value = serde_json::from_slice(&body[..length]).unwrap();
        assert_eq!(header["outputs"][0]["parameters"], json!({"binary_data_size": 8}));
        assert_eq!(body[length..], raw(&expected()));
    }
}

#[tokio::test]
async fn v1_takes_bare_and_named_rows() {
    let http = Http::start();
    let body = json!({"instances": [&ROWS[..4], {"input-0": &ROWS[4..]}]});
    let (status, answer) = http.post("/v1/models/fraud-detector:predict", &body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(floats(&answer["predictions"]), expected());
    let body = json!({"instances": [600.0, {"amount": 600.0, "user_id": 1}]});
    let (status, answer) = http.post("/v1/models/fraud-lite:predict", &body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(floats(&answer["predictions"]), [0.5, 0.5]);
}

#[tokio::test]
async fn wrong_requests_are_400_and_unknown_models_404() {
    let http = Http::start();
    let tensor = |name: &str, shape: Value| json!({"name": name, "datatype": "FP32", "shape": shape, "data": ROWS});
    let good = tensor("input-0", json!([2, 4]));
    let v2 = "/v2/models/fraud-detector/infer";
    for (path, body, status, text) in [
        (v2, json!({"inputs": [tensor("input-0", json!([1, 4]))]}), 400, "does not hold 8 elements"),
        (v2, json!({"inputs": [tensor("input-0", json!([2, 4, 1]))]}), 400, "shape is [-1, 4]"),
        (v2, json!({"inputs": [tensor("input-1", json!([2, 4]))]}), 400, "missing"),
        (v2, json!({"inputs": [good], "outputs": [{"name": "x"}]}), 400, "output \"x\" does not exist"),
        (v2, json!({}), 400, "missing field `inputs`"),
        ("/v2/models/nope/infer", json!({"inputs": [good]}), 404, "model \"nope\" does not exist"),
        ("/v2/models/fraud-lite/versions/2/infer", json!({"inputs": []}), 404, "no version \"2\""),
        ("/v1/models/fraud-detector:predict", json!({"instances": [[1, 2]]}), 400, "has 2 columns, not 4"),
        ("/v1/models/fraud-detector:predict", json!({"instances": ["x"]}), 400, "a number is wanted"),
        ("/v1/models/fraud-detector:explain", json!({"instances": []}), 404, "is unknown"),
    ] {
        let (got, answer) = http.post(path, &body).await;
        assert_eq!(got, status, "{path} {body} {answer}");
        assert!(answer["error"].as_str().unwrap().contains(text), "{answer}");
    }
}

#[tokio::test]
async fn binary_sizes_that_do_not_fit_are_400() {
    let http = Http::start();
    for (size, header_length, data) in
        [(33, None, 32), (31, None, 31), (32, Some("9999"), 32), (32, Some("x"), 32), (28, None, 32)]
    {
        let tensor = json!({"name": "input-0", "datatype": "FP32", "shape": [2, 4],
            "parameters": {"binary_data_size": size}});
        let mut body = json!({"inputs": [tensor]}).to_string().into_bytes();
        let header_length = header_length.map_or(body.len().to_string(), str::to_owned);
        body.extend(&raw(&ROWS)[..data]);
        let request = http.client.post(http.url("/v2/models/fraud-detector/infer"));
        let answer = request.header("inference-header-content-length", header_length).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{size} {data}");
    }
}

async fn grpc() -> (Server, GrpcInferenceServiceClient<Channel>) {
    let server = Server::start().unwrap();
    let client = GrpcInferenceServiceClient::connect(format!("http://{}", server.grpc)).await.unwrap();
    (server, client)
}

fn request(contents: Option<Vec<f32>>) -> ModelInferRequest {
    let contents = contents.map(|fp32_contents| InferTensorContents { fp32_contents, ..Default::default() });
    ModelInferRequest {
        model_name: "fraud-detector".into(),
        id: "42".into(),
        inputs: vec![InferInputTensor {
            name: "input-0".into(),
            datatype: "FP32".into(),
            shape: vec![2, 4],
            parameters: HashMap::new(),
            contents,
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn grpc_answers_in_the_form_it_was_asked() {
    let (_server, mut client) = grpc().await;
    let answer = client.model_infer(request(Some(ROWS.to_vec()))).await.unwrap().into_inner();
    assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("42", "1"));
    assert_eq!(answer.outputs[0].shape, [2]);
    assert_eq!(answer.outputs[0].contents.as_ref().unwrap().fp32_contents, expected());
    assert_eq!(answer.raw_output_contents, Vec::<Bytes>::new());

    let mut raw_request = request(None);
    raw_request.raw_input_contents = vec![raw(&ROWS).into()];
    let answer = client.model_infer(raw_request).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].contents, None);
    assert_eq!(answer.raw_output_contents, [raw(&expected())]);
}

#[tokio::test]
async fn grpc_health_and_metadata() {
    let (_server, mut client) = grpc().await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let metadata = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "weir-demo-models");
    let ready = ModelReadyRequest { name: "fraud-lite".into(), version: "1".into() };
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    let named = ModelMetadataRequest { name: "fraud-detector".into(), version: String::new() };
    let metadata = client.model_metadata(named).await.unwrap().into_inner();
    assert_eq!((metadata.inputs[0].name.as_str(), &metadata.inputs[0].shape[..]), ("input-0", &[-1, 4][..]));
    assert_eq!(metadata.outputs[0].name, "score");
}

#[tokio::test]
async fn grpc_refuses_what_does_not_fit() {
    let (_server, mut client) = grpc().await;
    let mut two_raw = request(None);
    two_raw.raw_input_contents = vec![Bytes::new(), Bytes::new()];
    let mut odd_raw = request(None);
    odd_raw.raw_input_contents = vec![Bytes::from_static(b"abc")];
    let mut output = request(Some(ROWS.to_vec()));
    output.outputs = vec![InferRequestedOutputTensor { name: "x".into(), ..Default::default() }];
    for wrong in [request(Some(vec![1.0])), request(None), two_raw, odd_raw, output] {
        assert_eq!(client.model_infer(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let unknown = ModelReadyRequest { name: "nope".into(), version: String::new() };
    assert_eq!(client.model_ready(unknown).await.unwrap_err().code(), Code::NotFound);
}
