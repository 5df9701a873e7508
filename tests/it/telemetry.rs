//! What can be seen from outside: metrics that promtool accepts, and headers that tell each answer's story.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    support::{
        Weir,
        http1::Response,
        metrics::{await_metric, promtool},
        process::{Folder, await_some},
    },
    world::{BEFORE_TRITON, FRAUD_PATH, STORE, fraud_config, fraud_request},
};

/// A gateway whose counters only this file moves.
static WEIR: LazyLock<Weir> = LazyLock::new(|| Weir::start(&fraud_config(&format!("redis: [{}]", STORE.0.url()), "")));

fn ask(headers: &[(&str, &str)]) -> Response {
    let headers = [&[("content-type", "application/json")], headers].concat();
    WEIR.connect().request("POST", FRAUD_PATH, &headers, fraud_request(1002, "m-1", 1.0).as_bytes()).expect(200)
}

/// The names that dashboards rely on, of the parts that exist.
const PROMISED: &[&str] = &[
    "weir_build_info",
    "weir_requests_total",
    "weir_request_duration_seconds",
    "weir_stage_duration_seconds",
    "weir_added_latency_seconds",
    "weir_feature_lookups_total",
    "weir_feature_age_seconds",
    "weir_breaker_state",
    "weir_attempts_total",
    "weir_answers_total",
    "weir_ladder_level",
    "weir_ladder_observed_level",
    "weir_ladder_transitions_total",
    "weir_ladder_level_seconds_total",
    "weir_demand",
    "weir_tier_slots",
    "weir_tier_slots_in_use",
    "weir_inference_queue_depth",
];

#[test]
fn promtool_is_content() {
    ask(&[]);
    let metrics = WEIR.metrics();
    assert_eq!(promtool(metrics.text()), "");
    let families = metrics.families();
    let missing: Vec<_> = PROMISED.iter().filter(|name| !families.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} not in {families:?}");
    for family in families.iter().filter(|family| family.ends_with("_seconds")) {
        let kind =
            metrics.text().lines().find(|line| line.starts_with(&format!("# TYPE {family} "))).expect("its type");
        assert!(!kind.ends_with("summary"), "{kind}: buckets are not set");
    }
}

/// The alerts that come with the repository are ones, fire for what they are about, and name metrics that there are.
#[test]
fn the_alerts_fire_for_what_they_are_about() {
    let (rules, cases) = (include_str!("../../config/alerts.yaml"), include_str!("../data/alerts_test.yaml"));
    let folder = Folder::new("alerts");
    folder.write("alerts.yaml", rules);
    let cases = folder.write("alerts_test.yaml", cases);
    let output = Command::new("promtool").args(["test", "rules"]).arg(cases).output().expect("promtool is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let names = include_str!("../../src/telemetry/names.rs");
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let metrics: BTreeSet<_> = words.filter(|word| word.starts_with("weir_")).collect();
    assert!(metrics.len() > 5, "{metrics:?}");
    for metric in metrics {
        assert!(names.contains(&format!("= \"{metric}\",")), "{metric} is no metric");
    }
    let sources = label_sources();
    let values = rules.lines().filter(|line| line.contains("weir_")).flat_map(values_in);
    // Statuses are numbers.
    let values: BTreeSet<_> = values.filter(|value| *value != "5..").collect();
    assert!(values.len() > 10, "{values:?}");
    for value in values {
        assert!(sources.contains(&format!("\"{value}\"")), "{value} is no label's value");
    }
}

/// The labels that `docs/metrics.md` names are those of the series (its names, kinds and texts: `telemetry/names.rs`).
#[test]
fn the_labels_of_metrics_are_those_that_are_documented() {
    ask(&[]);
    let documented: HashMap<_, BTreeSet<_>> = include_str!("../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| {
            (name, rest.split(" | ").nth(1).unwrap_or_default().split('`').skip(1).step_by(2).collect())
        })
        .collect();
    let metrics = WEIR.metrics();
    let mut seen = 0;
    for line in metrics.text().lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, labels) = line.split_once('{').unwrap_or_else(|| (line.split(' ').next().unwrap_or(line), ""));
        let mut names: Vec<_> = labels.split("=\"").filter_map(|part| part.rsplit(',').next()).collect();
        // The last one's value.
        names.pop();
        let labels: BTreeSet<_> = names.into_iter().filter(|name| *name != "le").collect();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end)).unwrap_or(series);
        assert_eq!(documented.get(family), Some(&labels), "{line}");
        seen += 1;
    }
    assert!(seen > 100, "{seen} series");
}

/// Each alert says where its runbook is, and it is there; nothing else is.
#[test]
fn every_alert_has_its_runbook() {
    let (rules, runbooks) = (include_str!("../../config/alerts.yaml"), include_str!("../../docs/runbooks.md"));
    let alerts: Vec<_> = rules.split("- alert: ").skip(1).collect();
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = alert.lines().next().expect("a name");
        let place = format!("\n          runbook: docs/runbooks.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&place), "{name} has no annotation{place}");
        names.insert(name);
    }
    let sections: BTreeSet<_> = runbooks.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(sections, names);
    for section in runbooks.split("\n### ").skip(1) {
        for part in ["\n**Callers** ", "\n**Look** at ", "\n**Do** "] {
            assert!(section.contains(part), "{part:?} is not in {section}");
        }
    }
}

/// Where labels' values are written.
fn label_sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let handles =
        std::fs::read_dir(root.join("telemetry/handles")).expect("a folder").map(|file| file.expect("a file").path());
    let files = handles.chain([root.join("infer/plan.rs"), root.join("infer/level.rs")]);
    files.map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect()
}

/// What `label="value"` and `label=~"value|value"` name.
fn values_in(line: &str) -> Vec<&str> {
    let quoted = line.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    quoted.flat_map(|inside| inside.split('"').skip(1).step_by(2)).flat_map(|values| values.split('|')).collect()
}

#[test]
fn requests_are_counted_once() {
    let count = || WEIR.metrics().count("weir_answers_total", &[("model", "fraud"), ("level", "full")]);
    let before = count();
    let body = r#"{"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}"#;
    (0..7).for_each(|_| drop(WEIR.connect().post("/v2/models/fraud/infer", body).expect(200)));
    let labels = [("model", "fraud"), ("level", "full")];
    let found = await_metric(WEIR.admin(), "weir_answers_total", &labels, |count| count >= before + 7.0);
    assert!(
        (found - before - 7.0).abs() < 1e-9,
        "{found} after {before}:\n{}",
        WEIR.metrics().lines_of("weir_answers_total")
    );
}

#[test]
fn an_unknown_model_is_no_label() {
    WEIR.connect().post("/v2/models/made-up-by-the-caller/infer", "{}").expect(404);
    await_metric(WEIR.admin(), "weir_requests_total", &[("model", "other")], |count| count >= 1.0);
    assert!(!WEIR.metrics().text().contains("made-up-by-the-caller"));
}

#[test]
fn an_answer_tells_its_story() {
    let answer = ask(&[]);
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"));
    assert_eq!(answer.header("weir-degraded"), None);
    let timing = answer.header("server-timing").expect("server-timing");
    for stage in ["features", "model"] {
        assert!(timing.contains(stage) && timing.contains("dur="), "{timing}");
    }
    let status = answer.header("cache-status").expect("cache-status");
    assert!(status.contains("weir-l1"), "{status}");
    // Where nothing is joined there is no cache to tell of.
    let metadata = BEFORE_TRITON.connect().get("/v2/models/echo").expect(200);
    assert_eq!(metadata.header("cache-status"), None);
}

#[test]
fn request_ids_are_echoed_or_made() {
    assert_eq!(ask(&[("x-request-id", "mine-1")]).header("x-request-id").as_deref(), Some("mine-1"));
    let [first, second] = [(); 2].map(|()| ask(&[]).header("x-request-id").expect("one is made"));
    assert!(first.len() >= 16 && first != second, "{first} {second}");
    let refused = WEIR.connect().post("/v2/models/nope/infer", "{}").expect(404);
    assert!(refused.header("x-request-id").is_some());
}

#[test]
fn lookups_are_counted_by_layer() {
    let count =
        |layer, outcome| WEIR.metrics().count("weir_feature_lookups_total", &[("layer", layer), ("outcome", outcome)]);
    let body = fraud_request(1017, "m-2", 1.0);
    WEIR.connect().post(FRAUD_PATH, &body).expect(200);
    let (l1, l2) = (count("l1", "hit"), count("l2", "hit"));
    assert!(l2 >= 1.0, "{l2}");
    WEIR.connect().post(FRAUD_PATH, &body).expect(200);
    let labels = [("layer", "l1"), ("outcome", "hit")];
    await_metric(WEIR.admin(), "weir_feature_lookups_total", &labels, |count| count >= l1 + 2.0);
}

#[test]
fn the_feature_server_has_its_lines_in_the_access_log() {
    let folder = Folder::new("access");
    let log = folder.path().join("access.log");
    let views = "features:\n  views:\n    v: {entities: {id: INT64}, features: {f: {type: DOUBLE}}}\n";
    let weir = Weir::with_environment(views, &[("WEIR_ACCESS_LOG".into(), log.display().to_string())]);
    let mut caller = weir.connect();
    let json = ("content-type", "application/json");
    let push =
        r#"{"push_source_name": "v", "df": {"id": [1], "f": [2.5], "event_timestamp": ["2026-11-22T10:00:00Z"]}}"#;
    caller.request("POST", "/push", &[json, ("x-request-id", "one")], push.as_bytes()).expect(200);
    let ask = |feature: &str| format!(r#"{{"features": ["{feature}"], "entities": {{"id": [1]}}}}"#);
    caller.request("POST", "/get-online-features", &[json, ("x-request-id", "two")], ask("v:f").as_bytes()).expect(200);
    caller.get("/health").expect(200);
    caller.post("/get-online-features", ask("nope:f")).expect(404);
    // Of a probe there is no line.
    let lines = await_some("three lines", Duration::from_secs(30), || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let whole = text.ends_with('\n') && text.lines().count() >= 3;
        whole.then(|| text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>())
    });
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, id, endpoint, status) in
        [(&lines[0], "one", "/push", 200), (&lines[1], "two", "/get-online-features", 200)]
    {
        assert_eq!(
            (&line["request_id"], &line["endpoint"], &line["status"]),
            (&json!(id), &json!(endpoint), &json!(status))
        );
        assert_eq!((&line["protocol"], &line["level"]), (&json!("feast"), &json!(0)));
        assert!(line["duration_us"].is_u64() && line["time_ms"].is_u64(), "{line}");
        assert!(line.get("error").is_none() && line.get("model").is_none(), "{line}");
    }
    assert_eq!(lines[2]["status"], 404);
    assert!(lines[2]["error"].as_str().expect("words").contains("nope"), "{}", lines[2]);
}

#[test]
fn the_feature_servers_rate_has_its_autoscalers_name() {
    let views = "features:\n  views:\n    v: {entities: {id: INT64}, features: {f: {type: DOUBLE}}}\n";
    let weir = Weir::start(views);
    let ask = r#"{"features": ["v:f"], "entities": {"id": [1]}}"#;
    (0..20).for_each(|_| drop(weir.connect().post("/get-online-features", ask).expect(200)));
    await_metric(weir.admin(), "feast_requests_per_second", &[], |rate| rate > 0.0);
    let without = Weir::start(&format!("metrics: {{aliases: false}}\n{views}"));
    assert_eq!(without.metrics().sum("feast_requests_per_second", &[]), None);
}
