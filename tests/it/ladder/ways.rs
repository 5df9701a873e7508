//! What answers when the model does not, in which order, in what time, and what it says: in every protocol.

use std::{thread, time::Duration};

use tokio::time::Instant;

use super::scene::{Moody, PROTOCOLS, Told, ask, ask_with, each, tag};
use crate::support::{Redis, Weir, http1, process::wait_until};

const SCORE: &str = "{name: score, datatype: FP32, shape: [1], data: [0.5]}";
const LABEL: &str = "{name: label, datatype: BYTES, shape: [1], data: [unknown]}";

#[track_caller]
fn expect(told: &Told, level: &str, degraded: &str) {
    assert_eq!((told.status, &*told.level, &*told.degraded), (200, level, degraded), "{told:?}");
}

/// A server of one of several sets of them.
fn of<'a>(models: &'a [Moody; 4], protocol: &str) -> &'a Moody {
    &models[PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one")]
}

/// For each protocol a model whose servers are those, and entries beside it; `{p}` is the protocol.
fn config(servers: &[(&str, &[Moody; 4])], entries: &str) -> String {
    let (mut pools, mut models) = (String::new(), String::new());
    for protocol in PROTOCOLS {
        let name = tag(protocol);
        for (suffix, moody) in servers {
            pools += &of(moody, protocol).pool(&format!("{name}{suffix}"), "");
        }
        models += &entries.replace("{p}", &name);
    }
    format!("pools:\n{pools}models:\n{models}")
}

#[test]
fn a_rule_answers_row_by_row_over_inputs_and_features() {
    let (redis, models) = (Redis::start(), Moody::all());
    let joined = "features: [{view: user_stats, join: {user_id: user_id}}], inputs: {as: matrix, name: x, datatype: FP32, columns: [amount, \
                  \"user_stats:txns\"]}";
    let weir = Weir::start(&format!(
        "{}features:\n  project: shop\n  l2: {{redis: [{}], timeout: 2s}}\n  views:\n    user_stats: {{entities: {{user_id: INT64}}, \
         features: {{txns: {{type: INT64, default: 5}}}}}}\n",
        config(
            &[("", &models)],
            &format!(
                "  {{p}}: {{pool: {{p}}, timeout: 20s, {joined}, fallback: {{rule: 'amount > 1000.0 || user_stats.txns > 6 ? 0.75 : \
                 0.125', default: {{outputs: [{SCORE}, {LABEL}]}}}}}}\n  {{p}}-failing: {{pool: {{p}}, timeout: 20s, {joined}, fallback: {{rule: \
                 'amount + txns > 1.0 ? 0.75 : 0.125', default: {{outputs: [{SCORE}]}}}}}}\n"
            )
        ),
        redis.url()
    ));
    let df = r#"{"push_source_name": "user_stats", "df": {"user_id": [1], "txns": [7], "event_timestamp": ["2026-01-01T00:00:00Z"]}}"#;
    http1::post(weir.http(), "/push", df).expect(200);
    models.iter().for_each(|model| model.turn("503"));
    each(|protocol| {
        let rows = [(1, 1.0), (2, 5.0), (3, 2000.0)];
        let told = ask(&weir, protocol, &tag(protocol), &rows);
        expect(&told, "2", "default;view=user_stats;reason=not_found, rule;reason=failed");
        assert_eq!(told.scores, [0.75, 0.125, 0.75], "{told:?}");
        assert_eq!(told.text.matches("unknown").count(), if protocol == "v2 binary" { 0 } else { 3 });
        assert!(told.text.contains("label"), "{told:?}");
        // A double and an int are not added: the rule has no answer, and the default has.
        let told = ask(&weir, protocol, &format!("{}-failing", tag(protocol)), &rows[..2]);
        expect(&told, "3", "default;reason=failed");
        assert_eq!(told.scores, [0.5, 0.5]);
    });
}

#[test]
fn each_way_down_is_tried_once_in_its_order() {
    let (models, firsts, seconds) = (Moody::all(), Moody::all(), Moody::all());
    let weir = Weir::start(&config(
        &[("", &models), ("-1", &firsts), ("-2", &seconds)],
        &format!(
            "  {{p}}: {{pool: {{p}}, timeout: 20s, fallback: {{model: {{p}}-1, rule: '0.125', default: {{outputs: [{SCORE}]}}}}}}\n  {{p}}-1: {{pool: \
             {{p}}-1, timeout: 20s, fallback: {{model: {{p}}-2}}}}\n  {{p}}-2: {{pool: {{p}}-2, timeout: 20s}}\n"
        ),
    ));
    each(|protocol| {
        let (model, first, second) = (of(&models, protocol), of(&firsts, protocol), of(&seconds, protocol));
        let (name, arrivals) = (tag(protocol), || [model, first, second].map(Moody::arrivals));
        let ask = || ask(&weir, protocol, &name, &[(1, 1.0)]);
        expect(&ask(), "0", "");
        model.turn("reset before the head");
        expect(&ask(), "2", &format!("model;used={name}-1;reason=failed"));
        assert_eq!(arrivals(), [2, 1, 0]);
        first.turn("500");
        expect(&ask(), "2", &format!("model;used={name}-2;reason=failed"));
        assert_eq!(arrivals(), [3, 2, 1]);
        second.turn("garbage in the body");
        let told = ask();
        expect(&told, "2", "rule;reason=failed");
        assert_eq!((arrivals(), &*told.scores), ([4, 3, 2], &[0.125][..]), "{told:?}");
    });
}

#[test]
fn what_the_backend_says_of_the_request_passes_and_what_it_says_of_itself_does_not() {
    let (models, lites) = (Moody::all(), Moody::all());
    let weir = Weir::start(&config(
        &[("", &models), ("-lite", &lites)],
        "  {p}: {pool: {p}, timeout: 20s, fallback: {model: {p}-lite}}\n  {p}-lite: {pool: {p}-lite, timeout: 20s}\n",
    ));
    each(|protocol| {
        let (model, lite, name) = (of(&models, protocol), of(&lites, protocol), tag(protocol));
        for (fault, status) in [("400", 400), ("404", 404)] {
            model.turn(fault);
            let told = ask(&weir, protocol, &name, &[(1, 1.0)]);
            assert_eq!((told.status, &*told.level, &*told.degraded), (status, "0", ""), "{fault}: {told:?}");
        }
        assert_eq!(lite.arrivals(), 0);
        let faults = [
            "500",
            "503",
            "504",
            "429",
            "reset after the head",
            "closed before the head",
            "truncated",
            "without its end",
            "nonsense",
        ];
        for (asked, fault) in faults.into_iter().enumerate() {
            model.turn(fault);
            let told = ask(&weir, protocol, &name, &[(1, 1.0)]);
            assert!(told.degraded.starts_with(&format!("model;used={name}-lite;reason=")), "{fault}: {told:?}");
            assert_eq!((told.status, &*told.level, lite.arrivals()), (200, "2", asked + 1), "{fault}: {told:?}");
        }
    });
}

/// How an answer of that protocol names its model; V1 names none.
fn naming(protocol: &str, model: &str) -> String {
    match protocol {
        "v1" => String::new(),
        "grpc" => format!("model_name: {model:?}"),
        _ => format!("\"model_name\":{model:?}"),
    }
}

#[test]
fn a_fallback_answers_under_the_name_that_its_caller_used() {
    let (models, lites) = (Moody::all(), Moody::all());
    // The servers know each of them as `model`.
    let weir = Weir::start(&config(
        &[("", &models), ("-lite", &lites)],
        "  {p}: {pool: {p}, timeout: 20s, fallback: {model: {p}-lite}}\n  {p}-kept: {pool: {p}, timeout: 20s, fallback: {model: {p}-cached}}\n  \
         {p}-lite: {pool: {p}-lite, upstream_model: model, timeout: 20s}\n  {p}-cached: {pool: {p}-lite, upstream_model: model, timeout: 20s, cache: \
         {ttl: 1h}}\n",
    ));
    each(|protocol| {
        let name = tag(protocol);
        let answered = |asked: &str, level: &str| {
            let told = ask(&weir, protocol, asked, &[(1, 1.0)]);
            assert_eq!((told.status, &*told.level), (200, level), "{asked}: {told:?}");
            assert!(told.text.contains(&naming(protocol, asked)), "{asked}: {told:?}");
            told
        };
        let (kept, cached) = (format!("{name}-kept"), format!("{name}-cached"));
        of(&models, protocol).turn("503");
        answered(&name, "2");
        // So does one that is kept, whoever asked first.
        answered(&kept, "2");
        answered(&cached, "0");
        for (asked, level) in [(&kept, "2"), (&cached, "0")] {
            let told = answered(asked, level);
            assert!(told.caches.ends_with("weir-prediction; hit"), "{asked}: {told:?}");
        }
        let drill = r#"{"level": 2, "for": "5m"}"#;
        http1::post(weir.admin(), &format!("/admin/v1/levels/{name}"), drill).expect(200);
        assert_eq!(answered(&name, "2").degraded, format!("model;used={name}-lite;reason=drill"));
    });
}

#[test]
fn a_fallback_runs_under_its_own_tier_and_does_not_queue() {
    let (models, lites) = (Moody::all(), Moody::all());
    let tiers = "capacity: {slots: 40, shared: 0.0}\ntiers:\n  high: {reserved: 0.1, max: 0.1, queue: 0}\n  low: {reserved: 0.1, max: 0.1, queue: \
                 64, queue_timeout: 60s}\n";
    let weir = Weir::start(&format!(
        "{tiers}{}",
        config(
            &[("", &models), ("-lite", &lites)],
            &format!(
                "  {{p}}: {{tier: high, pool: {{p}}, timeout: 60s, fallback: {{model: {{p}}-lite, rule: '0.125', default: {{outputs: [{SCORE}]}}}}}}\n  \
                 {{p}}-lite: {{tier: low, pool: {{p}}-lite, timeout: 60s}}\n"
            )
        )
    ));
    let in_use = |tier, count: f64| {
        let of_tier = || weir.metrics().count("weir_tier_slots_in_use", &[("tier", tier)]);
        wait_until(&format!("{count} slots of {tier} in use"), Duration::from_secs(60), || of_tier() == count);
    };
    // The high tier's four slots are held by requests that hang: the fifth goes on to the fallback, which has room.
    models.iter().for_each(|model| model.turn("hang"));
    thread::scope(|scope| {
        let held: Vec<_> = (0..4).map(|_| scope.spawn(|| hold(&weir, "v1"))).collect();
        in_use("high", 4.0);
        each(|protocol| {
            let told = ask(&weir, protocol, &tag(protocol), &[(1, 1.0)]);
            expect(&told, "2", &format!("model;used={}-lite;reason=shed", tag(protocol)));
        });
        held.into_iter().for_each(|held| drop(held.join()));
    });
    in_use("high", 0.0);
    // The low tier's are held too: nobody waits for one who has something else to answer with.
    models.iter().for_each(|model| model.turn("503"));
    lites.iter().for_each(|lite| lite.turn("hang"));
    thread::scope(|scope| {
        let held: Vec<_> = (0..4).map(|_| scope.spawn(|| hold(&weir, "v1-lite"))).collect();
        in_use("low", 4.0);
        each(|protocol| {
            let before = of(&lites, protocol).arrivals();
            let told = ask(&weir, protocol, &tag(protocol), &[(1, 1.0)]);
            expect(&told, "2", "rule;reason=failed");
            assert_eq!(of(&lites, protocol).arrivals(), before);
        });
        held.into_iter().for_each(|held| drop(held.join()));
    });
    assert_eq!(weir.metrics().count("weir_inference_queue_depth", &[]), 0.0);
}

/// Holds a slot for five seconds.
fn hold(weir: &Weir, model: &str) {
    ask_with(weir, "v1", (model, &[("weir-timeout-ms", "5000")]), &[(1, 1.0)]);
}

#[test]
fn the_reserve_leaves_a_fallback_its_time() {
    let (models, lites) = (Moody::all(), Moody::all());
    let weir = Weir::start(&config(
        &[("", &models), ("-lite", &lites)],
        &format!(
            "  {{p}}: {{pool: {{p}}, timeout: 4s, fallback: {{model: {{p}}-lite, reserve: 0.5, default: {{outputs: [{SCORE}]}}}}}}\n  {{p}}-lite: {{pool: \
             {{p}}-lite, timeout: 20s}}\n  {{p}}-default: {{pool: {{p}}, timeout: 1s, fallback: {{default: {{outputs: [{SCORE}]}}}}}}\n  {{p}}-bare: \
             {{pool: {{p}}, timeout: 1s}}\n"
        ),
    ));
    models.iter().for_each(|model| model.turn("hang"));
    each(|protocol| {
        let (model, lite, name) = (of(&models, protocol), of(&lites, protocol), tag(protocol));
        let began = Instant::now();
        expect(&ask(&weir, protocol, &name, &[(1, 1.0)]), "2", &format!("model;used={name}-lite;reason=timeout"));
        assert!(began.elapsed() >= Duration::from_secs(2), "the model had its part");
        assert_eq!((model.arrivals(), lite.arrivals()), (1, 1));
        // What asks nobody needs no more than a moment of the deadline.
        let told = ask(&weir, protocol, &format!("{name}-default"), &[(1, 1.0)]);
        expect(&told, "3", "default;reason=timeout");
        let told = ask(&weir, protocol, &format!("{name}-bare"), &[(1, 1.0)]);
        assert_eq!((told.status, &*told.level), (504, "4"), "{told:?}");
    });
}

#[test]
fn a_fallback_joins_what_it_needs_itself() {
    let (models, lites) = (Moody::all(), Moody::all());
    let joined = "features: [{view: user_stats, join: {user_id: user_id}}], inputs: {as: matrix, name: x, datatype: FP32, columns: [amount, \
                  \"user_stats:txns\"]}";
    let weir = Weir::start(&format!(
        "{}features:\n  views:\n    user_stats: {{entities: {{user_id: INT64}}, features: {{txns: {{type: INT64, default: 5}}}}}}\n",
        config(
            &[("", &models), ("-lite", &lites)],
            &format!(
                "  {{p}}: {{pool: {{p}}, timeout: 20s, fallback: {{model: {{p}}-lite}}}}\n  {{p}}-lite: {{pool: {{p}}-lite, timeout: 20s, {joined}}}\n  \
                 {{p}}-joined: {{pool: {{p}}, timeout: 20s, {joined}, fallback: {{model: {{p}}-plain}}}}\n  {{p}}-plain: {{pool: {{p}}-lite, timeout: \
                 20s}}\n"
            )
        )
    ));
    models.iter().for_each(|model| model.turn("503"));
    each(|protocol| {
        let name = tag(protocol);
        let told = ask(&weir, protocol, &name, &[(1, 1.0)]);
        expect(&told, "2", &format!("default;view=user_stats;reason=not_found, model;used={name}-lite;reason=failed"));
        let told = ask(&weir, protocol, &format!("{name}-joined"), &[(1, 1.0)]);
        expect(&told, "2", &format!("model;used={name}-plain;reason=failed"));
    });
}

#[test]
fn outputs_of_unequal_rows_are_no_answer_where_the_protocol_cannot_say_them() {
    let models = Moody::all();
    let weir = Weir::start(&config(
        &[("", &models)],
        &format!(
            "  {{p}}: {{pool: {{p}}, timeout: 20s, fallback: {{default: {{outputs: [{SCORE}, {{name: classes, datatype: BYTES, shape: [3], data: [a, b, \
             c]}}]}}}}}}\n"
        ),
    ));
    models.iter().for_each(|model| model.turn("reset before the head"));
    each(|protocol| {
        let told = ask(&weir, protocol, &tag(protocol), &[(1, 1.0), (2, 1.0)]);
        if protocol == "v1" {
            assert_eq!((told.status, &*told.level), (502, "4"), "{told:?}");
            assert!(told.text.contains("brought no whole answer"), "how the model failed: {told:?}");
        } else {
            expect(&told, "3", "default;reason=failed");
            assert_eq!(told.scores, [0.5, 0.5]);
        }
    });
}
