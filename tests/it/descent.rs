//! A request's way from its model to what stands in for it: slots, time and bodies on the way down.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Weir,
    hand::{Counting, Hand},
    http1::{Http1, Response},
    metrics::await_metric,
};

const FAILURE: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}";
const OUTPUTS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const BODY: &str = r#"{"inputs":[{"name":"user_id","datatype":"INT64","shape":[1],"data":[7]}]}"#;
/// A view whose row nobody has: the feature is its default.
const VIEW: &str = "features:
  project: p
  views:
    stats: {entities: {user_id: INT64}, features: {count: {type: INT64, default: 7}}, ttl: 1h}
";
const JOIN: &str = "features: [{view: stats, join: {user_id: user_id}, select: [count]}], inputs: {as: columns, columns: [\"stats:count\"]}";
const DEFAULT: &str = "default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.5]}]}";

fn ask(connection: &mut Http1, model: &str) -> Response {
    let headers = [("content-type", "application/json")];
    connection.request("POST", &format!("/v2/models/{model}/infer"), &headers, BODY.as_bytes())
}

fn level(answer: &Response) -> String {
    answer.header("weir-level").expect("every answer says its level")
}

/// One slot for all, whose queue takes nobody.
fn one_slot(pools: &str, models: &str) -> Weir {
    Weir::start(&format!(
        "capacity: {{slots: 1, shared: 0}}\ntiers:\n  only: {{pool: a, reserved: 1.0, max: 1.0, queue: 0}}\n\
         pools:\n{pools}models:\n{models}{VIEW}"
    ))
}

/// Pools of one endpoint each.
fn pools(a: &str, b: &str) -> String {
    format!("  a: {{endpoints: [\"{a}\"]}}\n  b: {{endpoints: [\"{b}\"]}}\n")
}

#[test]
fn a_slot_is_free_again_before_the_fallback_asks_for_one() {
    let (failing, fallback) = (Counting::listen(FAILURE), Counting::listen(OUTPUTS));
    let weir = one_slot(
        &pools(&failing.endpoint(), &fallback.endpoint()),
        &format!("  m: {{timeout: 20s, fallback: {{model: lite, {DEFAULT}}}}}\n  lite: {{pool: b}}\n"),
    );
    let answer = ask(&mut weir.connect(), "m").expect(200);
    assert_eq!((level(&answer), answer.json()), ("2".into(), json!({"outputs": []})));
    assert_eq!(fallback.count(), 1);
}

#[test]
fn a_caller_who_goes_away_takes_his_fallbacks_slot_along() {
    let (failing, fallback) = (Counting::listen(FAILURE), Hand::listen());
    let weir = one_slot(
        &pools(&failing.endpoint(), &fallback.endpoint()),
        &format!("  m: {{timeout: 600s, fallback: {{model: lite, {DEFAULT}}}}}\n  lite: {{pool: b}}\n"),
    );
    let mut caller = weir.connect();
    caller.send("POST", "/v2/models/m/infer", &[("content-type", "application/json")], BODY.as_bytes());
    let mut asked = fallback.arrival();
    await_metric(weir.admin(), "weir_tier_slots_in_use", &[("tier", "only")], |slots| slots == 1.0);
    drop(caller);
    assert!(asked.closed_within(Duration::from_secs(20)), "the fallback goes on for nobody");
    await_metric(weir.admin(), "weir_tier_slots_in_use", &[("tier", "only")], |slots| slots == 0.0);
}

#[test]
fn a_rule_has_its_features_where_its_tier_takes_no_more() {
    let model = Hand::listen();
    let weir = one_slot(
        &format!("  a: {{endpoints: [\"{}\"]}}\n", model.endpoint()),
        &format!("  m: {{timeout: 600s, {JOIN}, fallback: {{rule: \"count > 5 ? 0.75 : 0.25\", {DEFAULT}}}}}\n"),
    );
    let mut first = weir.connect();
    first.send("POST", "/v2/models/m/infer", &[("content-type", "application/json")], BODY.as_bytes());
    let _held = model.arrival();
    let answer = ask(&mut weir.connect(), "m").expect(200);
    assert_eq!(
        (level(&answer), &answer.json()["outputs"][0]["data"]),
        ("2".into(), &json!([0.75])),
        "{}",
        answer.text()
    );
}

#[test]
fn a_fallback_joins_what_the_model_named_does_not() {
    let (failing, fallback) = (Counting::listen(FAILURE), Hand::listen());
    let weir = one_slot(
        &pools(&failing.endpoint(), &fallback.endpoint()),
        &format!("  m: {{timeout: 600s, fallback: {{model: lite, {DEFAULT}}}}}\n  lite: {{pool: b, {JOIN}}}\n"),
    );
    let mut caller = weir.connect();
    caller.send("POST", "/v2/models/m/infer", &[("content-type", "application/json")], BODY.as_bytes());
    let asked = fallback.arrival();
    let sent: serde_json::Value = serde_json::from_slice(&asked.body).expect("JSON");
    assert_eq!((&sent["inputs"][0]["name"], &sent["inputs"][0]["data"]), (&json!("count"), &json!([7])), "{sent}");
    asked.answer("{\"outputs\":[]}");
    assert_eq!(level(&caller.receive().expect(200)), "2");
}
