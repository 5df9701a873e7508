//! When something is down: each trigger entered and left with its level's effect, in every protocol; no level that keeps itself,
//! none that flaps.
//!
//! Nothing here is timed: tests wait for what the admin API and the metrics show. Faults last until the test lifts them.

use std::{
    sync::{LazyLock, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

mod drills;
mod explainers;
mod recovery;
pub(crate) mod scene;
mod ways;

use self::scene::{
    Absent, Exporter, Moody, PATIENCE, PROTOCOLS, Told, ask, await_standing, burst, each, moves, pool, standing, tag,
};
use crate::support::{
    Redis, SlowLine, Weir,
    faulty_model::FaultyModel,
    http1, measured,
    metrics::await_metric,
    process::{await_some, wait_until},
};

/// A row in the store, or what stands in for it.
const JOINED: &str = "features: [{view: user_stats, join: {user_id: user_id}}, {view: bonus, join: {user_id: user_id}, \
                      optional: true}], inputs: {as: matrix, name: x, datatype: FP32, columns: [amount, \"user_stats:txns\", \
                      \"bonus:points\"]}";

/// Views on this Redis, whose rows are good for half a second.
fn views(redis: &str, timeout: &str, breaker: &str) -> String {
    format!(
        "features:\n  project: shop\n  l2: {{redis: [{}], timeout: {timeout}}}\n  retry: {{max_retries: 0}}\n  breaker: {breaker}\n  \
         views:\n    user_stats: {{entities: {{user_id: INT64}}, features: {{txns: {{type: INT64, default: 5}}}}, ttl: 500ms}}\n    \
         bonus: {{entities: {{user_id: INT64}}, features: {{points: {{type: FLOAT, default: 0.5}}}}, ttl: 1h}}\n",
        redis
    )
}

/// Stores a row of both views for user 1.
fn push(weir: &Weir) {
    for (view, feature) in [("user_stats", "txns"), ("bonus", "points")] {
        let df = json!({"user_id": [1], feature: [7], "event_timestamp": ["2026-01-01T00:00:00Z"]});
        let body = json!({"push_source_name": view, "df": df}).to_string();
        http1::post(weir.http(), "/push", body).expect(200);
    }
}

/// A model for each protocol, on a pool of its own.
fn by_protocol(models: &[Moody; 4], model: &str) -> String {
    let pools: String = models.iter().zip(PROTOCOLS).map(|(at, name)| at.pool(&tag(name), "")).collect();
    let entries: String = PROTOCOLS.map(tag).map(|name| format!("  {name}: {{pool: {name}, {model}}}\n")).concat();
    format!("pools:\n{pools}models:\n{entries}")
}

fn full(told: &Told) -> bool {
    (told.status, &*told.level, &*told.degraded) == (200, "0", "")
}

/// Waits until a model's answers are whole again.
#[track_caller]
fn await_full(weir: &Weir, protocol: &str, model: &str) {
    let mut last = None;
    wait_until(&format!("a full answer of {model}: {last:?}"), PATIENCE, || {
        full(last.insert(ask(weir, protocol, model, &[(1, 1.0)])))
    });
}

#[track_caller]
fn expect_moves(weir: &mut Weir, model: &str, name: &str, reason: &str) {
    let metrics = weir.metrics();
    let moved = |level| metrics.count("weir_ladder_transitions_total", &[("model", model), ("level", level)]);
    assert_eq!((moved(name), moved("full")), (1.0, 1.0), "{}", metrics.lines_of("weir_ladder_transitions"));
    assert_eq!(metrics.sum("weir_ladder_level", &[("model", model)]), Some(0.0));
    let log = weir.process().log();
    assert_eq!(moves(&log, "model stands lower", model, reason), 1, "{model} {reason}\n{log}");
    assert_eq!(moves(&log, "model stands higher", model, "quiet"), 1, "{model}\n{log}");
}

#[test]
fn slow_features_are_level_1() {
    let (redis, models) = (Redis::start(), Moody::all());
    let line = SlowLine::to(redis.address());
    let mut weir = Weir::start(&format!(
        "{}{}ladder: {{feature_p99: 200ms, enter_after: 100ms, exit_after: 4s}}\n",
        by_protocol(&models, &format!("timeout: 20s, {JOINED}")),
        views(&line.url(), "5s", "{failure_threshold: 100000}"),
    ));
    push(&weir);
    each(|protocol| await_full(&weir, protocol, &tag(protocol)));
    line.slow(400);
    each(|protocol| {
        let name = tag(protocol);
        // Users who are not known yet: each lookup waits for as long as it may.
        burst(&weir, protocol, &name, 8);
        let unknown = |user| ask(&weir, protocol, &name, &[(user, 1.0)]);
        thread::scope(|scope| (2..10).for_each(|user| drop(scope.spawn(move || unknown(user)))));
        await_standing(&weir, &name, 1, &["features_slow"]);
    });
    assert_eq!(weir.metrics().sum("weir_ladder_level", &[("model", "v1")]), Some(1.0));
    each(|protocol| {
        // What is at hand answers at once, whatever its age, and what the model can do without is not asked for.
        let told = ask(&weir, protocol, &tag(protocol), &[(1, 1.0)]);
        assert_eq!((told.status, &*told.level), (200, "1"), "{told:?}");
        assert!(told.degraded.contains("stale;view=user_stats;age="), "{told:?}");
        assert!(told.degraded.contains("default;view=bonus;reason=unavailable"), "{told:?}");
        assert!(told.caches.starts_with("weir-l1; hit"), "{told:?}");
    });
    line.slow(0);
    each(|protocol| {
        await_standing(&weir, &tag(protocol), 0, &[]);
        await_full(&weir, protocol, &tag(protocol));
    });
    for protocol in PROTOCOLS {
        expect_moves(&mut weir, &tag(protocol), "reduced_features", "features_slow");
    }
    let log = weir.process().log();
    let stale: Vec<_> = log.lines().filter(|line| line.contains("rows past their ttl are used")).collect();
    assert_eq!(stale.len(), 1, "a line a view and minute: {stale:?}");
    assert!(stale[0].contains("view=user_stats"), "{stale:?}");
    assert!(weir.metrics().count("weir_feature_lookups_total", &[("layer", "l1"), ("outcome", "stale_hit")]) >= 4.0);
}

#[test]
fn a_store_that_is_gone_is_level_2() {
    let (redis, models, explainer) = (Redis::start(), Moody::all(), Moody::new("v1"));
    let mut weir = Weir::start(&format!(
        "{}  explained: {{pool: v1, timeout: 20s, explainer: {{pool: explainer}}, {JOINED}}}\n{}ladder: {{enter_after: 100ms, exit_after: \
         1s}}\n",
        by_protocol(&models, &format!("timeout: 20s, {JOINED}"))
            .replace("pools:\n", &format!("pools:\n{}", explainer.pool("explainer", ""))),
        views(&redis.url(), "400ms", "{failure_threshold: 5}"),
    ));
    let explain =
        || http1::post(weir.http(), "/v1/models/explained:explain", r#"{"instances": [{"user_id": 2, "amount": 1}]}"#);
    each(|protocol| await_full_but_for_defaults(&weir, protocol));
    explain().expect(200);
    redis.kill();
    each(|protocol| {
        let mut user = 100;
        wait_until("level 2", PATIENCE, || {
            user += 1;
            ask(&weir, protocol, &tag(protocol), &[(user, 1.0)]);
            standing(&weir, &tag(protocol))["reasons"] == json!(["features_unavailable"])
        });
        let before = models[PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one")].arrivals();
        let told = ask(&weir, protocol, &tag(protocol), &[(7777, 1.0)]);
        assert_eq!((told.status, &*told.level), (200, "2"), "{told:?}");
        assert!(told.degraded.contains("default;view=user_stats;reason=unavailable"), "{told:?}");
        let after = models[PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one")].arrivals();
        assert_eq!(after, before + 1, "the model stays");
    });
    let asked = explainer.arrivals();
    await_standing(&weir, "explained", 2, &["features_unavailable"]);
    let refused = explain().expect(503);
    assert_eq!(
        refused.error(),
        "model \"explained\" is not explained at level 2 (simplified_model: features_unavailable)"
    );
    assert!(refused.header("retry-after").is_some());
    assert_eq!(explainer.arrivals(), asked);
    redis.restart();
    each(|protocol| {
        await_standing(&weir, &tag(protocol), 0, &[]);
        await_full_but_for_defaults(&weir, protocol);
    });
    await_standing(&weir, "explained", 0, &[]);
    explain().expect(200);
    for protocol in PROTOCOLS {
        expect_moves(&mut weir, &tag(protocol), "simplified_model", "features_unavailable");
    }
}

/// Users whom nobody knows: defaults, at level 0.
#[track_caller]
fn await_full_but_for_defaults(weir: &Weir, protocol: &str) {
    wait_until("an answer at level 0", PATIENCE, || {
        let told = ask(weir, protocol, &tag(protocol), &[(1, 1.0)]);
        (told.status, &*told.level) == (200, "0")
    });
}

#[test]
fn full_gpus_are_level_2_for_whoever_makes_room() {
    let (models, lites, exporter) = (Moody::all(), Moody::all(), Exporter::at(&[50]));
    let (mut pools, mut entries) = (String::new(), String::new());
    for ((protocol, model), lite) in PROTOCOLS.into_iter().zip(&models).zip(&lites) {
        let name = tag(protocol);
        pools += &model.pool(&name, &exporter.key());
        pools += &lite.pool(&format!("{name}-lite"), "");
        entries += &format!(
            "  {name}: {{pool: {name}, timeout: 20s, low_priority: true, fallback: {{model: {name}-lite}}}}\n  {name}-lite: {{pool: {name}-lite}}\n  \
             {name}-ruled: {{pool: {name}, timeout: 20s, low_priority: true, fallback: {{rule: '0.125', default: {{outputs: [{{name: score, datatype: \
             FP32, shape: [1], data: [0.5]}}]}}}}}}\n  \
             {name}-bare: {{pool: {name}, timeout: 20s, low_priority: true}}\n  {name}-first: {{pool: {name}, timeout: 20s}}\n  \
             {name}-both: {{timeout: 20s, low_priority: true, ensemble: {{members: [{name}-first, {name}-lite]}}}}\n"
        );
    }
    let mut weir =
        Weir::start(&format!("pools:\n{pools}models:\n{entries}ladder: {{enter_after: 100ms, exit_after: 500ms}}\n"));
    await_metric(weir.admin(), "weir_gpu_memory_ratio", &[("pool", "v1")], |share| share == 0.5);
    let suffixes = ["", "-ruled", "-bare", "-first", "-both"];
    each(|protocol| suffixes.iter().for_each(|suffix| await_full(&weir, protocol, &(tag(protocol) + suffix))));
    exporter.fill(95);
    each(|protocol| {
        let name = tag(protocol);
        let suffixes = ["", "-ruled", "-bare", "-both"];
        suffixes.iter().for_each(|suffix| await_standing(&weir, &(name.clone() + suffix), 2, &["gpu_memory"]));
        let position = PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one");
        let (asked, spared) = (models[position].arrivals(), lites[position].arrivals());
        // An ensemble answers by the member that is elsewhere.
        for lower in [name.clone(), format!("{name}-both")] {
            let told = ask(&weir, protocol, &lower, &[(1, 1.0)]);
            assert_eq!((told.status, &*told.level), (200, "2"), "{told:?}");
            assert_eq!(told.degraded, format!("model;used={name}-lite;reason=gpu_memory"));
        }
        let told = ask(&weir, protocol, &format!("{name}-ruled"), &[(1, 1.0), (2, 2.0)]);
        assert_eq!((told.status, &*told.level, &*told.degraded), (200, "2", "rule;reason=gpu_memory"));
        assert_eq!(told.scores, [0.125, 0.125]);
        let told = ask(&weir, protocol, &format!("{name}-bare"), &[(1, 1.0)]);
        assert_eq!((told.status, &*told.level), (503, "4"), "{told:?}");
        assert!(
            told.text.contains("has neither a simpler model nor a rule at level 2 (simplified_model: gpu_memory)"),
            "{told:?}"
        );
        assert!(told.retry_after.is_some(), "{told:?}");
        assert_eq!(models[position].arrivals(), asked, "nobody took room");
        let told = ask(&weir, protocol, &format!("{name}-first"), &[(1, 1.0)]);
        assert!(full(&told), "{told:?}");
        assert_eq!(
            (lites[position].arrivals(), standing(&weir, &format!("{name}-first"))["level"].as_u64()),
            (spared + 2, Some(0))
        );
    });
    exporter.fill(50);
    each(|protocol| {
        let name = tag(protocol);
        suffixes.iter().for_each(|suffix| await_standing(&weir, &(name.clone() + suffix), 0, &[]));
        // Level 0 is shown at once; requests come back bit by bit, and each says at which level it was answered.
        wait_until("all requests to come back", PATIENCE, || {
            let told = ask(&weir, protocol, &name, &[(1, 1.0)]);
            let lower = format!("model;used={name}-lite;reason=gpu_memory");
            assert!(full(&told) || (&*told.level, &*told.degraded) == ("2", &*lower), "{told:?}");
            standing(&weir, &name)["readmitted"].is_null()
        });
        assert_eq!(weir.metrics().sum("weir_ladder_readmitted_ratio", &[("model", &name)]), Some(1.0));
        assert!(full(&ask(&weir, protocol, &name, &[(1, 1.0)])));
    });
    for protocol in PROTOCOLS {
        expect_moves(&mut weir, &tag(protocol), "simplified_model", "gpu_memory");
    }
}

#[test]
fn timeouts_are_level_2_until_a_probe_says_otherwise() {
    // Three endpoints each, so that none has so many answers that its breaker would judge them: what is slow is not yet broken.
    let (models, lites) = (PROTOCOLS.map(|protocol| [(); 3].map(|()| Moody::new(protocol))), Moody::all());
    let (mut pools, mut entries) = (String::new(), String::new());
    for ((protocol, model), lite) in PROTOCOLS.into_iter().zip(&models).zip(&lites) {
        let name = tag(protocol);
        pools += &pool(&name, &model.each_ref().map(Moody::endpoint), ", attempt_timeout: 700ms");
        pools += &lite.pool(&format!("{name}-lite"), "");
        entries += &format!(
            "  {name}: {{pool: {name}, timeout: 20s, fallback: {{model: {name}-lite}}}}\n  {name}-lite: {{pool: {name}-lite, timeout: 20s}}\n"
        );
    }
    let mut weir =
        Weir::start(&format!("pools:\n{pools}models:\n{entries}ladder: {{enter_after: 100ms, exit_after: 5s}}\n"));
    models.iter().flatten().for_each(|model| model.turn("hang"));
    each(|protocol| {
        let (name, model) =
            (tag(protocol), &models[PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one")]);
        let arrivals = || model.iter().map(Moody::arrivals).sum::<usize>();
        let told = burst(&weir, protocol, &name, 25);
        let timed_out = format!("model;used={name}-lite;reason=timeout");
        assert!(told.iter().all(|told| (told.status, &*told.level) == (200, "2")), "{told:?}");
        assert!(told.iter().any(|told| told.degraded == timed_out), "{told:?}");
        await_standing(&weir, &name, 2, &["timeouts"]);
        // Most are spared the wait. Probes, a few, keep telling, for longer than what was counted before they were alone.
        let before = arrivals();
        let stood = || {
            weir.metrics().count("weir_ladder_level_seconds_total", &[("model", &name), ("level", "simplified_model")])
        };
        let ask_on = || {
            let mut asked = 0;
            while stood() < 16.0 {
                let told = ask(&weir, protocol, &name, &[(1, 1.0)]);
                assert_eq!((told.status, &*told.level), (200, "2"), "{told:?}");
                assert!(told.degraded == format!("{timed_out}s") || told.degraded == timed_out, "{told:?}");
                asked += 1;
                // So slowly that probes alone would be too few to enter anew.
                thread::sleep(Duration::from_millis(100));
            }
            asked
        };
        let asked: usize = thread::scope(|scope| {
            let clients = [scope.spawn(ask_on), scope.spawn(ask_on)];
            clients.map(|client| client.join().expect("it is answered")).into_iter().sum()
        });
        assert_eq!(standing(&weir, &name)["reasons"], json!(["timeouts"]));
        let probes = arrivals() - before;
        assert!(probes > 5 && asked > 2 * probes, "{probes} of {asked}");
        model.iter().for_each(|model| model.turn("none"));
        wait_until("level 0 with traffic", PATIENCE, || full(&ask(&weir, protocol, &name, &[(1, 1.0)])));
        await_standing(&weir, &name, 0, &[]);
    });
    for protocol in PROTOCOLS {
        expect_moves(&mut weir, &tag(protocol), "simplified_model", "timeouts");
    }
}

const DEFAULT: &str =
    "timeout: 20s, fallback: {default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.5]}]}}";

#[test]
fn a_pool_that_is_killed_is_level_3_and_with_nothing_left_4() {
    let models = Moody::all();
    // A process that can be killed, for all protocols: a gateway before them.
    let upstream = |port: u16| {
        let listen = format!("listen: {{http: \"127.0.0.1:{port}\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}}\n");
        by_protocol(&models, "timeout: 20s") + &listen
    };
    let port = crate::support::process::free_port();
    let start = || Weir::start(&upstream(port));
    let server = start();
    let pool = format!(
        "pools:\n  p: {{endpoints: [{{http: \"http://127.0.0.1:{port}\", grpc: \"http://127.0.0.1:{port}\"}}], health: {{path: \
                        /v2/health/live, interval: 200ms}}}}\n"
    );
    let entries: String = PROTOCOLS
        .map(tag)
        .map(|name| format!("  {name}: {{{DEFAULT}}}\n  {name}-bare: {{timeout: 20s, upstream_model: {name}}}\n"))
        .concat();
    let mut weir = Weir::start(&format!("{pool}models:\n{entries}ladder: {{enter_after: 100ms, exit_after: 500ms}}\n"));
    each(|protocol| {
        await_full(&weir, protocol, &tag(protocol));
        await_full(&weir, protocol, &format!("{}-bare", tag(protocol)));
    });
    drop(server);
    await_metric(weir.admin(), "weir_endpoint_healthy", &[("pool", "p")], |healthy| healthy == 0.0);
    each(|protocol| {
        let (name, bare) = (tag(protocol), format!("{}-bare", tag(protocol)));
        // Until the breaker has opened it is tried, in vain.
        let told = await_some("nobody is asked any more", PATIENCE, || {
            let told = ask(&weir, protocol, &name, &[(1, 1.0), (2, 2.0), (3, 3.0)]);
            assert_eq!((told.status, &*told.level), (200, "3"), "{told:?}");
            (told.degraded != "default;reason=failed").then_some(told)
        });
        assert_eq!((told.status, &*told.level, &*told.degraded), (200, "3", "default;reason=unavailable"), "{told:?}");
        assert_eq!(told.scores, [0.5; 3], "{told:?}");
        for _ in 0..5 {
            let told = ask(&weir, protocol, &bare, &[(1, 1.0)]);
            assert_eq!((told.status, &*told.level, &*told.degraded), (503, "4", ""), "{told:?}");
            assert!(told.retry_after.is_some_and(|seconds| seconds >= 1), "{told:?}");
        }
        let count = |model, level| weir.metrics().count("weir_answers_total", &[("model", model), ("level", level)]);
        assert!(count(&*name, "default_response") >= 1.0);
        assert_eq!(count(&*bare, "reject"), 5.0);
    });
    let log = weir.process().log();
    for name in PROTOCOLS.map(tag) {
        let bare = format!("model={name}-bare ");
        let told: Vec<_> =
            log.lines().filter(|line| line.contains("a request got no answer") && line.contains(&bare)).collect();
        assert_eq!(told.len(), 1, "a line a model and minute: {told:?}\n{log}");
        assert!(told[0].contains("ERROR") && told[0].contains("status=503"), "{told:?}");
        assert_eq!(standing(&weir, &name)["level"], 0, "single answers move nobody");
    }
    let _server = start();
    each(|protocol| {
        await_full(&weir, protocol, &tag(protocol));
        await_full(&weir, protocol, &format!("{}-bare", tag(protocol)));
    });
}

#[test]
fn a_signal_that_flaps_moves_a_model_once_or_not_at_all() {
    let (model, lite) = (Moody::new("v1"), Moody::new("v1"));
    for (enter, exit, transitions) in [("0s", "60s", 1.0), ("60s", "0s", 0.0)] {
        // Around the threshold at every look.
        let exporter = Exporter::at(&[89, 91]);
        let weir = Weir::start(&format!(
            "pools:\n{}{}models:\n  m: {{pool: p, low_priority: true, fallback: {{model: lite}}}}\n  lite: {{pool: q}}\nladder: {{enter_after: \
             {enter}, exit_after: {exit}}}\n",
            model.pool("p", &exporter.key()),
            lite.pool("q", ""),
        ));
        wait_until("a hundred scrapes", PATIENCE, || exporter.scrapes() > 100);
        let metrics = weir.metrics();
        assert_eq!(metrics.count("weir_ladder_transitions_total", &[("model", "m")]), transitions, "{enter} {exit}");
        assert_eq!(standing(&weir, "m")["level"], 2.0 * transitions, "{enter} {exit}");
    }
}
