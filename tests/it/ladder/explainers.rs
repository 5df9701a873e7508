//! Explanations: asked of the explainer with the features that the model sees, off from level 2 on whatever took the model there, and
//! answered as docs/explainers.md says.

use serde_json::json;

use super::scene::{Exporter, Moody, PATIENCE, await_standing, burst, standing};
use crate::support::{
    Weir,
    hand::{Counting, Hand},
    http1::{self, Response},
    metrics::await_metric,
    process::wait_until,
};

const DOCUMENT: &str = include_str!("../../../docs/explainers.md");

/// What is answered must be what the document says.
#[track_caller]
fn documented(text: &str) {
    assert!(DOCUMENT.contains(text), "docs/explainers.md does not say {text}");
}

/// The document's configuration, at these servers.
fn configured(model: &str, explainer: &str) -> String {
    let (_, rest) = DOCUMENT.split_once("```yaml\n").expect("it has a configuration");
    let (yaml, _) = rest.split_once("```").expect("which ends");
    let placed = yaml.replace("http://fraud-explainer:8080", explainer).replace("http://fraud:8080", model);
    assert!(placed.contains(model) && placed.contains(explainer), "{placed}");
    placed
}

fn explain(weir: &Weir, model: &str, body: &str) -> Response {
    http1::post(weir.http(), &format!("/v1/models/{model}:explain"), body)
}

fn level(answer: &Response) -> String {
    answer.header("weir-level").expect("every answer has one")
}

#[test]
fn the_documents_examples_are_what_is_asked_and_answered() {
    let (model, explainer) = (Hand::listen(), Hand::listen());
    let lite = "  fraud-lite: {pool: gpu}\n";
    let config = configured(&model.endpoint(), &explainer.endpoint())
        .replace("features:\n  project", &format!("{lite}features:\n  project"));
    let weir = Weir::start(&config);
    let df = json!({"user_id": [7], "txn_count_1h": [3], "event_timestamp": ["2026-01-01T00:00:00Z"]});
    http1::post(weir.http(), "/push", json!({"push_source_name": "user_stats", "df": df}).to_string()).expect(200);
    for (user, asked, degraded) in [
        (7, "{\"instances\": [[120.5,3.0]]}", None),
        (8, "{\"instances\": [[120.5,0.0]]}", Some("default;view=user_stats;reason=not_found")),
    ] {
        let body = format!("{{\"instances\": [{{\"user_id\": {user}, \"amount\": 120.5}}]}}");
        let said = "{\"explanations\": [{\"amount\": 0.7, \"txn_count_1h\": 0.1}]}";
        let answer = std::thread::scope(|scope| {
            let caller = scope.spawn(|| explain(&weir, "fraud-detector", &body));
            let arrival = explainer.arrival();
            let line = arrival.head.lines().next().expect("a request line");
            assert_eq!(line, "POST /v1/models/fraud:explain HTTP/1.1");
            assert_eq!(String::from_utf8_lossy(&arrival.body), asked);
            arrival.answer(said);
            caller.join().expect("it is answered").expect(200)
        });
        assert_eq!((answer.text().as_ref(), &*level(&answer)), (said, "0"));
        assert_eq!(answer.header("weir-degraded").as_deref(), degraded);
        [asked, said].into_iter().chain(degraded).for_each(documented);
        if user == 7 {
            documented(&body);
        }
    }
    documented("POST /v1/models/fraud-detector:explain");
    documented("POST /v1/models/fraud:explain");
    let none = explain(&weir, "fraud-lite", "{\"instances\": [1]}").expect(501);
    documented(&format!("501 `{}`", none.text()));
    explain(&weir, "nobody", "{}").expect(404);
    // V2 has no such method: a path below the model, whose server answers.
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| http1::post(weir.http(), "/v2/models/fraud-detector/explain", "{}"));
        let arrival = model.arrival();
        assert!(arrival.head.starts_with("POST /v2/models/fraud/explain "), "{}", arrival.head);
        documented("`/v2/models/fraud/explain`");
        arrival.answer("{\"said\": \"by the model's server\"}");
        assert_eq!(caller.join().expect("it is answered").expect(200).json()["said"], "by the model's server");
    });
    // Off, whatever the reason: it is told where the document's example has its own.
    http1::post(weir.admin(), "/admin/v1/levels/fraud-detector", r#"{"level": 2, "for": "1h"}"#).expect(200);
    let off = explain(&weir, "fraud-detector", "{\"instances\": [{\"user_id\": 7, \"amount\": 1}]}").expect(503);
    documented(&off.text().replace(": drill)", ": features_unavailable)"));
    assert_eq!((&*level(&off), explainer.pending()), ("4", 0));
}

const EXPLAINED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 19\r\n\r\n{\"explanations\":[]}";

#[test]
fn gpus_timeouts_and_drills_switch_it_off_and_their_end_on() {
    // Three endpoints, so that none has so many answers that its breaker would judge them.
    let (models, exporter, explainer) =
        ([(); 3].map(|()| Moody::new("v1")), Exporter::at(&[50]), Counting::listen(EXPLAINED));
    let endpoints = models.each_ref().map(Moody::endpoint);
    let mut weir = Weir::start(&format!(
        "pools:\n{}  explainers: {{endpoints: [\"{}\"]}}\nmodels:\n  m: {{pool: p, timeout: 20s, low_priority: true, explainer: {{pool: \
         explainers}}}}\nladder: {{enter_after: 100ms, exit_after: 1s}}\n",
        super::scene::pool("p", &endpoints, &format!(", attempt_timeout: 700ms{}", exporter.key())),
        explainer.endpoint(),
    ));
    let ask = || explain(&weir, "m", "{\"instances\": [1]}");
    let refused = |reason: &str| {
        let asked = explainer.count();
        let told = ask().expect(503);
        assert_eq!(told.error(), format!("model \"m\" is not explained at level 2 (simplified_model: {reason})"));
        documented(&format!("`{reason}`"));
        assert!(told.header("retry-after").is_some() && level(&told) == "4", "{}", told.text());
        assert_eq!(explainer.count(), asked, "nobody was asked");
    };
    let back = || {
        await_standing(&weir, "m", 0, &[]);
        wait_until("all to be explained", PATIENCE, || standing(&weir, "m")["readmitted"].is_null());
        ask().expect(200);
    };
    await_metric(weir.admin(), "weir_gpu_memory_ratio", &[("pool", "p")], |share| share == 0.5);
    back();
    exporter.fill(95);
    await_standing(&weir, "m", 2, &["gpu_memory"]);
    refused("gpu_memory");
    exporter.fill(50);
    back();
    models.iter().for_each(|model| model.turn("hang"));
    burst(&weir, "v1", "m", 25);
    await_standing(&weir, "m", 2, &["timeouts"]);
    refused("timeouts");
    models.iter().for_each(|model| model.turn("none"));
    back();
    let drill = |level: u8, time: &str| {
        let body = json!({"level": level, "for": time}).to_string();
        http1::post(weir.admin(), "/admin/v1/levels/m", body).expect(200);
    };
    drill(2, "90s");
    refused("drill");
    let left: u64 = ask().header("retry-after").expect("what is left of it").parse().expect("seconds");
    assert!((1..=90).contains(&left), "{left}");
    drill(1, "90s");
    ask().expect(200);
    drill(0, "0s");
    back();
    let log = weir.process().log();
    assert!(!log.contains("panicked"), "{log}");
}
