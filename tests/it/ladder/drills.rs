//! Drills and observation: a level held by hand, on every protocol, and a ladder that only says what it would do.

use std::process::{Output, Stdio};

use serde_json::json;

use super::scene::{Exporter, Moody, PROTOCOLS, ask, await_standing, caching, each, moves, standing, tag};
use crate::support::{
    Weir, client, http1,
    metrics::{await_metric, promtool},
    weir::command,
};

fn drill(weir: &Weir, model: &str, level: &str, time: &str) -> Output {
    let admin = weir.admin().to_string();
    let mut command = command();
    command.args(["drill", "--model", model, "--level", level, "--for", time, "--admin", &admin]);
    command.stdin(Stdio::null()).output().expect("weir starts")
}

#[track_caller]
fn drilled(weir: &Weir, model: &str, level: &str, time: &str) -> String {
    let output = drill(weir, model, level, time);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const DEFAULT: &str = "default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.5]}]}";

fn with_fallbacks(models: &[Moody; 4], lites: &[Moody; 4], ladder: &str) -> Weir {
    let (mut pools, mut entries) = (String::new(), String::new());
    for ((name, model), lite) in PROTOCOLS.map(tag).into_iter().zip(models).zip(lites) {
        pools += &(model.pool(&name, "") + &lite.pool(&format!("{name}-lite"), ""));
        entries += &format!(
            "  {name}: {{pool: {name}, timeout: 20s, fallback: {{model: {name}-lite, {DEFAULT}}}}}\n  {name}-lite: {{pool: {name}-lite, timeout: 20s}}\n"
        );
    }
    Weir::start(&format!("pools:\n{pools}models:\n{entries}ladder: {ladder}\n"))
}

#[test]
fn a_drill_holds_a_level_until_its_time_or_level_0() {
    let (models, lites) = (Moody::all(), Moody::all());
    let mut weir = with_fallbacks(&models, &lites, "{enter_after: 100ms, exit_after: 500ms}");
    each(|protocol| {
        let name = tag(protocol);
        let rows = [(1, 1.0), (2, 2.0)];
        for (level, answered, status, degraded) in [
            // Nothing is joined, so that level 1 lowers nothing.
            ("1", "0", 200, String::new()),
            ("2", "2", 200, format!("model;used={name}-lite;reason=drill")),
            ("3", "3", 200, "default;reason=drill".to_owned()),
            ("4", "4", 503, String::new()),
        ] {
            let said = drilled(&weir, &name, level, "5m");
            assert!(said.starts_with(&format!("{name}: ")) && said.contains("\"reasons\":[\"drill\"]"), "{said}");
            let told = ask(&weir, protocol, &name, &rows);
            assert_eq!((told.status, &*told.level, &*told.degraded), (status, answered, &*degraded), "{told:?}");
            match level {
                "3" => assert_eq!(told.scores, [0.5, 0.5]),
                "4" => {
                    assert!(told.text.contains("is not answered at level 4 (reject: drill)"), "{told:?}");
                    assert!(told.retry_after.is_some_and(|seconds| seconds >= 1), "{told:?}");
                }
                _ => {}
            }
            assert_eq!(standing(&weir, &name)["level"].to_string(), level);
            let models = http1::get(weir.admin(), "/admin/v1/models").expect(200).json();
            assert_eq!(models["state"][&name]["level"].to_string(), level, "there too: {models}");
            assert!(standing(&weir, &name)["drill_seconds_left"].as_f64().is_some_and(|left| left > 200.0));
            let metrics = weir.metrics();
            assert_eq!(metrics.sum("weir_ladder_level", &[("model", &name)]), level.parse().ok());
        }
        // It ends at once with level 0, and by itself with its time.
        drilled(&weir, &name, "0", "0s");
        assert_eq!(standing(&weir, &name)["level"], 0);
        assert_eq!((&*ask(&weir, protocol, &name, &rows).level, lites_of(&lites, protocol).arrivals()), ("0", 1));
        drilled(&weir, &name, "3", "300ms");
        await_standing(&weir, &name, 0, &[]);
        assert_eq!(&*ask(&weir, protocol, &name, &rows).level, "0");
    });
    let log = weir.process().log();
    for name in PROTOCOLS.map(tag) {
        assert_eq!(log.matches(&format!("drill model=\"{name}\"")).count(), 6, "each is told\n{log}");
        assert!(moves(&log, "model stands lower", &name, "drill") >= 1, "{log}");
        assert_eq!(moves(&log, "model stands higher", &name, "drill ended"), 2, "by level 0, and by its time\n{log}");
        assert_eq!(moves(&log, "model stands higher", &name, "quiet"), 0, "{log}");
    }
    assert_eq!(promtool(weir.metrics().text()), "");
}

/// What answers in full says so, wherever its model stands: a caller who sees another level is told what was lowered.
#[test]
fn a_drill_that_has_nothing_to_lower_is_answered_in_full() {
    let models = Moody::all();
    let weir = caching(&models);
    each(|protocol| {
        let name = tag(protocol);
        for (level, amount) in [("1", 1.0), ("2", 2.0)] {
            drilled(&weir, &name, level, "5m");
            for cache in ["weir-prediction; fwd=miss", "weir-prediction; hit"] {
                let told = ask(&weir, protocol, &name, &[(1, amount)]);
                assert_eq!((told.status, &*told.level, &*told.degraded), (200, "0", ""), "{told:?}");
                assert_eq!(told.caches, cache, "{told:?}");
            }
            assert_eq!(standing(&weir, &name)["level"].to_string(), level);
        }
    });
    let answers = weir.metrics().count("weir_answers_total", &[("level", "full")]);
    assert!(answers == 16.0, "{answers}");
}

fn lites_of<'a>(lites: &'a [Moody; 4], protocol: &str) -> &'a Moody {
    &lites[PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one")]
}

#[test]
fn what_is_no_drill_is_refused_with_words() {
    let model = Moody::new("v1");
    let weir = Weir::start(&format!("pools:\n{}models:\n  m: {{pool: p}}\n", model.pool("p", "")));
    for (name, level, time, told) in [
        ("n", "3", "5m", "no such model \"n\"; models: m"),
        ("m", "3", "soon", "for \"soon\"; allowed: 0s to 24h"),
        ("m", "3", "25h", "for \"25h\"; allowed: 0s to 24h"),
        ("m", "5", "5m", "5 is not in 0..=4"),
    ] {
        let said = refused(&drill(&weir, name, level, time));
        assert!(said.contains(told), "{said}");
    }
    let post = |body: &str| http1::post(weir.admin(), "/admin/v1/levels/m", body);
    assert!(post("{\"level\": 7, \"for\": \"1m\"}").expect(400).error().contains("level 7; allowed: 0 to 4"));
    assert!(post("{\"level\": 3}").expect(400).error().contains("missing field `for`"));
    let nobody = crate::support::process::free_port();
    let output = command()
        .args(["drill", "--model", "m", "--level", "1", "--for", "1m", "--admin", &format!("127.0.0.1:{nobody}")])
        .output();
    let said = refused(&output.expect("weir starts"));
    assert!(said.contains("no gateway answers at 127.0.0.1:"), "{said}");
    assert_eq!(standing(&weir, "m")["level"], 0);
    // A model without anything below is refused where the drill takes everything away.
    drilled(&weir, "m", "3", "1m");
    let told = ask(&weir, "v1", "m", &[(1, 1.0)]);
    assert_eq!((told.status, &*told.level), (503, "4"), "{told:?}");
    assert!(told.text.contains("has neither a cache nor default outputs"), "{told:?}");
}

#[test]
fn an_observing_ladder_says_what_it_would_do_and_lowers_nothing() {
    let (model, lite, exporter) = (Moody::new("v1"), Moody::new("v1"), Exporter::at(&[95]));
    let mut weir = Weir::start(&format!(
        "pools:\n{}{}models:\n  m: {{pool: p, low_priority: true, timeout: 20s, fallback: {{model: lite, {DEFAULT}}}}}\n  lite: {{pool: q}}\n\
         ladder: {{mode: observe, enter_after: 100ms, exit_after: 500ms}}\n",
        model.pool("p", &exporter.key()),
        lite.pool("q", ""),
    ));
    await_metric(weir.admin(), "weir_ladder_observed_level", &[("model", "m")], |level| level == 2.0);
    assert_eq!(weir.metrics().sum("weir_ladder_level", &[("model", "m")]), Some(0.0));
    let state = standing(&weir, "m");
    assert_eq!(
        (&state["level"], &state["reasons"], &state["acts"]),
        (&json!(2), &json!(["gpu_memory"]), &json!(false))
    );
    let told = ask(&weir, "v1", "m", &[(1, 1.0)]);
    assert_eq!((told.status, &*told.level, &*told.degraded), (200, "0", ""), "{told:?}");
    // Nor does what answers in the model's place.
    model.turn("503");
    let told = ask(&weir, "v1", "m", &[(1, 1.0)]);
    assert_eq!((told.status, &*told.level, &*told.degraded), (503, "0", ""), "the model's own answer: {told:?}");
    assert_eq!(lite.arrivals(), 0);
    let log = weir.process().log();
    assert_eq!(moves(&log, "model stands lower", "m", "gpu_memory"), 1, "{log}");
    assert!(log.contains("acts=false"), "{log}");
    // A drill acts all the same.
    drilled(&weir, "m", "2", "1m");
    let told = ask(&weir, "v1", "m", &[(1, 1.0)]);
    assert_eq!((told.status, &*told.level, &*told.degraded), (200, "2", "model;used=lite;reason=drill"), "{told:?}");
}

#[test]
fn triton_clients_read_default_outputs() {
    let model = Moody::new("v2 json");
    let weir = Weir::start(&format!(
        "pools:\n{}models:\n  m: {{pool: p, timeout: 20s, fallback: {{default: {{outputs: [{{name: score, datatype: FP32, shape: [1], data: [0.5]}}, \
         {{name: label, datatype: BYTES, shape: [1], data: [unknown]}}, {{name: pair, datatype: INT64, shape: [1, 2], data: [1, -2]}}]}}}}}}\n",
        model.pool("p", "")
    ));
    drilled(&weir, "m", "3", "10m");
    for (protocol, address) in [("http", weir.http()), ("grpc", weir.grpc())] {
        let seen = client::run("triton_defaults.py", &[protocol, &address.to_string(), "m"]);
        let expected = json!({"score": [0.5, 0.5], "label": ["unknown", "unknown"], "pair": [[1, -2], [1, -2]]});
        assert_eq!((&seen["binary"], &seen["json"]), (&expected, &expected), "{protocol}");
        assert_eq!(seen["one"], json!({"pair": [[1, -2], [1, -2]]}), "{protocol}");
    }
}
