//! Pools: several endpoints share the work, one that is down or silent costs no answer, and a missing port is named.

use std::time::Duration;

use ::weir::proto::inference as pb;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    support::{
        Weir,
        hand::{Counting, Hand},
        metrics::await_metric,
        process::{free_port, loopback},
    },
    world::TRITON,
};

const PATH: &str = "/v2/models/m/infer";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";

/// One model, `m`, on a pool with these endpoints and further keys.
fn weir(endpoints: &[String], keys: &str) -> Weir {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{}]{keys}}}\nmodels:\n  m: {{pool: p, timeout: 10s}}\n",
        endpoints.join(", ")
    ))
}

#[test]
fn every_endpoint_takes_its_share() {
    let [a, b] = [(); 2].map(|()| Counting::listen(OK));
    let weir = weir(&[a.endpoint(), b.endpoint()], "");
    let mut connection = weir.connect();
    for _ in 0..60 {
        connection.post(PATH, "{}").expect(200);
    }
    assert_eq!(a.count() + b.count(), 60, "each request went out once");
    assert!(a.count() > 0 && b.count() > 0, "{} and {}", a.count(), b.count());
}

#[test]
fn an_endpoint_that_is_down_costs_no_answer() {
    let alive = Counting::listen(OK);
    let weir = weir(&[format!("http://{}", loopback(free_port())), alive.endpoint()], "");
    let mut connection = weir.connect();
    for _ in 0..30 {
        connection.post(PATH, "{}").expect(200);
    }
    assert_eq!(alive.count(), 30);
}

#[test]
fn an_endpoint_that_is_silent_is_left_after_the_attempt_timeout() {
    let silent = Hand::listen();
    let alive = Counting::listen(OK);
    let weir = weir(&[silent.endpoint(), alive.endpoint()], ", attempt_timeout: 200ms");
    let mut connection = weir.connect();
    let mut met_silence = false;
    for _ in 0..200 {
        let start = Instant::now();
        connection.post(PATH, "{}").expect(200);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        met_silence |= silent.pending() > 0;
        if met_silence {
            break;
        }
    }
    assert!(met_silence, "the silent endpoint was never tried");
    await_metric(weir.admin(), "weir_retries_total", &[("pool", "p")], |count| count >= 1.0);
}

#[test]
fn retries_are_as_many_as_configured() {
    let busy = Counting::listen(UNAVAILABLE);
    let weir = weir(&[busy.endpoint()], ", retry: {max_retries: 2, initial_delay: 10ms, max_delay: 20ms}");
    let answer = weir.connect().post(PATH, "{}");
    assert!(matches!(answer.status, 502 | 503), "{} {}", answer.status, answer.text());
    assert_eq!(busy.count(), 3, "max_retries is attempts less one");
}

#[test]
fn a_pool_that_is_gone_answers_at_once_in_words() {
    let weir = Weir::unready(
        &format!(
            "pools:\n  p: {{endpoints: [\"http://{}\"]}}\nmodels:\n  m: {{pool: p, timeout: 10s}}\n",
            loopback(free_port())
        ),
        &[],
    );
    let answer = weir.connect().post(PATH, "{}");
    assert!(matches!(answer.status, 502 | 503), "{} {}", answer.status, answer.text());
    assert!(!answer.error().is_empty());
    assert!(answer.header("weir-level").is_some());
}

#[test]
fn a_port_that_an_endpoint_lacks_is_named() {
    let only_http = weir(&[format!("http://{}", TRITON.http())], "");
    let request = pb::ModelInferRequest { model_name: "m".into(), ..Default::default() };
    let answer = only_http.connect_grpc().infer(&request);
    assert_eq!(answer.status(), 12);
    assert!(answer.text().to_ascii_lowercase().contains("grpc"), "{}", answer.text());
    let only_grpc = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{{grpc: \"http://{}\"}}]}}\nmodels:\n  m: {{pool: p, upstream_model: fraud}}\n",
        TRITON.grpc()
    ));
    let answer = only_grpc.connect().post(PATH, "{\"inputs\": []}").expect(501);
    assert!(answer.error().to_ascii_lowercase().contains("http"), "{}", answer.error());
}

#[test]
fn an_upstream_models_name_is_put_back() {
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{}]}}\nmodels:\n  mine: {{pool: p, upstream_model: fraud}}\n",
        TRITON.endpoint()
    ));
    let body = json!({"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]});
    let answer = weir.connect().post("/v2/models/mine/infer", body.to_string()).expect(200).json();
    assert_eq!(answer["model_name"], "mine");
    let request = pb::ModelInferRequest {
        model_name: "mine".into(),
        inputs: vec![crate::support::grpc::raw_input("input-0", "FP32", &[1, 4])],
        raw_input_contents: vec![bytes::Bytes::from_static(&[0; 16])],
        ..Default::default()
    };
    let answer: pb::ModelInferResponse = weir.connect_grpc().infer(&request).decode();
    assert_eq!(answer.model_name, "mine");
    weir.connect().post("/v2/models/fraud/infer", body.to_string()).expect(404);
}

#[test]
fn a_model_is_ready_as_long_as_its_pool_is() {
    // A process that can be killed, and says that it is ready: a gateway of no models.
    let backend = Weir::start("features: {views: {v: {entities: {id: INT64}, features: {f: {type: DOUBLE}}}}}");
    let endpoint = format!("http://{}", backend.http());
    let weir = weir(&[endpoint], ", health: {path: /v2/health/ready, interval: 1h}");
    let ready = |status| weir.connect().get("/v1/models/m").expect(status).json();
    assert_eq!(ready(200), json!({"name": "m", "ready": true}));
    drop(backend);
    // The next check is an hour away: who asks gets the truth of this moment.
    assert_eq!(ready(503), json!({"name": "m", "ready": false}));
    weir.connect().get("/v2/models/m/ready").expect(502);
    // Other answers are as they were.
    weir.connect().get("/v1/models/nope").expect(404);
    weir.connect().post("/v1/models/m", "{}").expect(405);
}
