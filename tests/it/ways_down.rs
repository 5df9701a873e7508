//! What a caller hears when what stands in for its model has nothing either, and what a body that finds no room costs.

use serde_json::json;

use crate::support::{
    Weir,
    hand::{Counting, Hand},
    http1::{Http1, Response},
    metrics::await_metric,
};

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";
const OUTPUTS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const BODY: &str = r#"{"inputs":[{"name":"user_id","datatype":"INT64","shape":[1],"data":[7]}]}"#;
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const DEFAULT: &str = "default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.5]}]}";

fn ask(connection: &mut Http1, model: &str) -> Response {
    connection.request("POST", &format!("/v2/models/{model}/infer"), JSON, BODY.as_bytes())
}

#[test]
fn a_models_own_words_are_passed_on_where_its_fallback_has_no_slot() {
    let (failing, slow) = (Counting::listen(BUSY), Hand::listen());
    let weir = Weir::start(&format!(
        "capacity: {{slots: 2, shared: 0}}\ntiers:\n  high: {{reserved: 0.5, max: 0.5, queue: 0}}\n  low: {{reserved: 0.5, max: 0.5, queue: 0}}\n\
         pools:\n  a: {{endpoints: [\"{}\"], retry: {{max_retries: 0}}}}\n  b: {{endpoints: [\"{}\"]}}\nmodels:\n  \
         m: {{tier: high, pool: a, timeout: 600s, fallback: {{model: lite}}}}\n  lite: {{tier: low, pool: b, timeout: 600s}}\n",
        failing.endpoint(),
        slow.endpoint()
    ));
    let mut first = weir.connect();
    first.send("POST", "/v2/models/lite/infer", JSON, BODY.as_bytes());
    let _held = slow.arrival();
    let answer = ask(&mut weir.connect(), "m").expect(503);
    assert_eq!((answer.error(), answer.header("weir-level").as_deref()), ("busy".to_owned(), Some("0")));
    let shed = weir.metrics().count("weir_requests_shed_total", &[("tier", "low"), ("reason", "no_slot")]);
    assert!((shed - 1.0).abs() < f64::EPSILON, "{shed}");
}

#[test]
fn an_answer_below_says_of_the_rows_what_the_failed_one_would_have() {
    let failing = Counting::listen(BUSY);
    let weir = Weir::start(&format!(
        "pools: {{a: {{endpoints: [\"{}\"], retry: {{max_retries: 0}}}}}}\nfeatures:\n  project: p\n  views:\n    \
         stats: {{entities: {{user_id: INT64}}, features: {{count: {{type: INT64, default: 7}}}}, ttl: 1h}}\nmodels:\n  m:\n    timeout: 600s\n    \
         features: [{{view: stats, join: {{user_id: user_id}}, select: [count]}}]\n    inputs: {{as: columns, columns: [\"stats:count\"]}}\n    \
         fallback: {{rule: \"count > 5 ? 0.75 : 0.25\", {DEFAULT}}}\n",
        failing.endpoint()
    ));
    let answer = ask(&mut weir.connect(), "m").expect(200);
    assert_eq!(answer.json()["outputs"][0]["data"], json!([0.75]));
    assert_eq!(
        answer.header("weir-degraded").as_deref(),
        Some("default;view=stats;reason=not_found, rule;reason=failed"),
        "{}",
        answer.text()
    );
    assert_eq!(failing.count(), 1);
}

/// A kilobyte is held in all, and somebody has it.
#[test]
fn a_fallback_makes_no_model_less_available_where_there_is_no_room_for_bodies() {
    let (model, slow) = (Counting::listen(OUTPUTS), Hand::listen());
    let weir = Weir::start(&format!(
        "listen: {{http: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", max_body: 1KiB, hold_body: 1KiB, hold_bodies: 1KiB}}\n\
         pools: {{a: {{endpoints: [\"{}\"]}}, b: {{endpoints: [\"{}\"]}}}}\nmodels:\n  held: {{pool: b, timeout: 600s}}\n  \
         m: {{pool: a, timeout: 600s, fallback: {{{DEFAULT}}}}}\n",
        model.endpoint(),
        slow.endpoint()
    ));
    let mut full = weir.connect();
    full.send("POST", "/v2/models/held/infer", JSON, " ".repeat(1024).as_bytes());
    let arrival = slow.arrival();
    let answer = ask(&mut weir.connect(), "m").expect(200);
    assert_eq!((answer.header("weir-level").as_deref(), model.count()), (Some("0"), 1));
    // Where the default outputs are to answer, the body must be read.
    let drill = json!({"level": 3, "for": "10m"}).to_string();
    let drilled = Http1::connect(weir.admin()).request("POST", "/admin/v1/levels/m", JSON, drill.as_bytes());
    assert_eq!(drilled.status, 200, "{}", drilled.text());
    let refused = ask(&mut weir.connect(), "m").expect(429);
    assert!(refused.error().contains("listen.hold_bodies"), "{}", refused.error());
    assert_eq!(model.count(), 1, "it was not asked");
    arrival.answer("{}");
    full.receive().expect(200);
    await_metric(weir.admin(), "weir_held_body_bytes", &[], |held| held == 0.0);
    assert_eq!(ask(&mut weir.connect(), "m").expect(200).header("weir-level").as_deref(), Some("3"));
}
