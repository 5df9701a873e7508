//! A replay is asked with all of its features or not at all: none is thrown away that a model acted on with defaults, and none costs a try.

use super::*;
use crate::{
    feature_tier::{PROJECT, server, stored},
    support::{hand::Hand, lookup, process::free_port},
};

const DRIVER: i64 = 7;

/// Two models that join a row, one of them not to be asked twice.
fn gateway(model: &Hand, features: u16) -> Weir {
    let joins = "timeout: 60s, features: [{view: driver_stats, join: {driver_id: driver_id}}], \
                 inputs: {as: columns, columns: [\"driver_stats:avg_daily_trips\"]}";
    Weir::start(&format!(
        "pools: {{p: {{endpoints: [\"{}\"]}}}}\nmodels:\n  m: {{pool: p, {joins}}}\n  once: {{pool: p, {joins}, idempotent: false}}\n\
         features:\n  project: {PROJECT}\n  l1: {{capacity: 0B}}\n  l2: {{feature_server: [\"http://127.0.0.1:{features}\"], timeout: 5s}}\n  \
         breaker: {{open_for: 1s}}\n  views:\n{}spool: {{retry: {{max_retries: 0}}}}\n",
        model.endpoint(),
        lookup::view("")
    ))
}

#[test]
fn none_is_asked_with_features_that_are_made_up_and_none_loses_a_try() {
    let (redis, model, port) = (Redis::start(), Hand::listen(), free_port());
    redis.load(&[stored(DRIVER)]);
    let served = server(&redis, port);
    let weir = gateway(&model, port);
    drop(served);
    let ids = ["m", "once"].map(|name| {
        drill(&weir, name, 4);
        let headers = [("content-type", "application/json"), ("prefer", "respond-async")];
        let body = json!({"instances": [{"driver_id": DRIVER}]}).to_string();
        let path = format!("/v1/models/{name}:predict");
        let queued = weir.connect().request("POST", &path, &headers, body.as_bytes()).expect(202);
        queued.json()["id"].as_str().expect("an id").to_owned()
    });
    ["once", "m"].iter().for_each(|name| drill(&weir, name, 0));
    await_metric(weir.admin(), "weir_spool_replays_total", &[("outcome", "given_back")], |given| given >= 1.0);
    assert_eq!(model.pending(), 0, "no model is asked with defaults");
    let _server = server(&redis, port);
    for _ in &ids {
        let arrival = await_some("a replay", PATIENCE, || model.waiting());
        let asked: Value = serde_json::from_slice(&arrival.body).expect("JSON");
        assert_eq!(asked["instances"][0]["avg_daily_trips"], DRIVER, "{asked}");
        arrival.answer("{\"predictions\": [1]}");
    }
    wait_until("the results", PATIENCE, || ids.iter().all(|id| result(&weir, id).status == 200));
    let entries = http1::get(weir.admin(), "/admin/v1/spool").expect(200).json()["entries"].take();
    for entry in entries.as_array().expect("a list") {
        assert_eq!((&entry["state"], &entry["attempts"]), (&json!("done"), &json!(1)), "{entry}");
    }
}
