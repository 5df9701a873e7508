//! Models that answer together: all are asked at once, their answers are one, and who is late or fails costs no more than the level.

mod scene;

use self::scene::*;

use std::{fmt::Write as _, sync::Arc, thread, time::Duration};

use ::weir::proto::inference as pb;
use prost::Message;
use serde_json::{Value, json};

use crate::{
    faults::answers,
    support::{
        Weir,
        faulty_model::{
            Arrived, FaultyModel, Speaks,
            Step::{self, Close, Hang, Send},
        },
        grpc::{Grpc, framed, raw_input},
        hand::{Counting, Echo, Hand},
        http1,
        http2::{data, head, last_head},
        metrics::await_metric,
        process::{await_some, free_port, loopback, wait_until},
        triton::Triton,
    },
    world::near,
};

#[test]
fn members_are_asked_once_each_and_their_answers_become_one() {
    let mut file = File::default();
    let members: Vec<_> = PROTOCOLS
        .iter()
        .enumerate()
        .map(|(at, protocol)| {
            let members = [1.0, 3.0, 3.0].map(|value| says(protocol, &[value, 0.5]).model());
            for (name, member) in ["a", "b", "c"].iter().zip(&members) {
                file.server(&format!("{name}{at}"), protocol, member.address());
            }
            let named = format!("members: [a{at}, b{at}, c{at}]");
            file.model(&format!("mean{at}"), &format!("ensemble: {{{named}}}, timeout: {FAR}"));
            file.model(
                &format!("weighted{at}"),
                &format!("ensemble: {{{named}, combine: weighted, weights: [6, 1, 1]}}, timeout: {FAR}"),
            );
            file.model(&format!("vote{at}"), &format!("ensemble: {{{named}, combine: vote}}, timeout: {FAR}"));
            members
        })
        .collect();
    let weir = file.start("");
    for (at, (protocol, members)) in PROTOCOLS.iter().zip(&members).enumerate() {
        for (asked, (combine, expected)) in
            [("mean", 7.0 / 3.0), ("weighted", 1.5), ("vote", 3.0)].into_iter().enumerate()
        {
            let model = format!("{combine}{at}");
            let told = ask(&weir, protocol, &model);
            assert_eq!(
                (told.status, &*told.level, &told.degraded),
                (good(protocol), "0", &None),
                "{protocol} {told:?}"
            );
            assert_eq!(told.values.len(), 2, "{protocol} {told:?}");
            near(told.values[0], expected);
            near(told.values[1], 0.5);
            let names = (*protocol != "v1").then(|| (model, "mine".to_owned()));
            assert_eq!(told.names, names, "{protocol}");
            assert_eq!(members.each_ref().map(FaultyModel::requests), [asked + 1; 3], "{protocol}");
        }
    }
    assert!(weir.metrics().count("weir_ensemble_members_left_out_total", &[]) < 0.5);
}

/// What is wrong with the third member, and what the caller and the operator are told of it.
const FAULTS: [(&str, &str, &str); 8] = [
    ("refused", "failed", "failed"),
    ("closed", "failed", "failed"),
    ("500", "failed", "failed"),
    ("404", "failed", "failed"),
    ("429", "shed", "shed"),
    ("503", "unavailable", "unavailable"),
    ("garbage", "failed", "unreadable"),
    ("another shape", "failed", "differs"),
];

fn faulty(fault: &str, protocol: &'static str) -> Option<FaultyModel> {
    let status = |http, grpc| if protocol == "grpc" { grpc } else { http };
    let with = |status| Says { status, ..says(protocol, &[9.0]) }.model();
    Some(match fault {
        "closed" => scripted(speaks(protocol), |_| vec![Close]),
        "500" => with(status(500, 13)),
        "404" => with(status(404, 5)),
        "429" => with(status(429, 8)),
        "503" => with(status(503, 14)),
        // A field that is longer than its message, and no JSON.
        "garbage" => says(protocol, &[]).answering(&framed(b"\x2a\x7fnonsense"), ""),
        "another shape" => says(protocol, &[9.0, 9.0]).model(),
        _ => return None,
    })
}

#[test]
fn a_member_that_fails_is_left_out_and_named() {
    let mut file = File::default();
    let mut cells = Vec::new();
    for protocol in PROTOCOLS {
        for fault in FAULTS {
            let (at, bad) = (cells.len(), faulty(fault.0, protocol));
            let well = [1.0, 3.0].map(|value| says(protocol, &[value]).model());
            let bad_at = bad.as_ref().map_or_else(|| loopback(free_port()), FaultyModel::address);
            for (name, address) in [("a", well[0].address()), ("bad", bad_at), ("b", well[1].address())] {
                file.server(&format!("{name}{at}"), protocol, address);
            }
            file.model(&format!("e{at}"), &format!("ensemble: {{members: [bad{at}, a{at}, b{at}]}}, timeout: {FAR}"));
            cells.push((protocol, fault, well, bad));
        }
    }
    let weir = file.start("");
    for (at, (protocol, (fault, cause, _), well, bad)) in cells.iter().enumerate() {
        let told = ask(&weir, protocol, &format!("e{at}"));
        let degraded = format!("member;model=bad{at};reason={cause}");
        let values = vec![2.0];
        assert_eq!(
            (told.status, &*told.level, told.degraded, told.values),
            (good(protocol), "2", Some(degraded), values),
            "{protocol}: {fault}"
        );
        let arrivals = well.iter().chain(bad).map(FaultyModel::requests);
        assert!(arrivals.clone().all(|count| count == 1), "{protocol}: {fault}: {:?}", arrivals.collect::<Vec<_>>());
    }
    let metrics = weir.metrics();
    for (at, (protocol, (fault, _, reason), ..)) in cells.iter().enumerate() {
        let labels = [("ensemble", &*format!("e{at}")), ("member", &*format!("bad{at}")), ("reason", reason)];
        let count = metrics.count("weir_ensemble_members_left_out_total", &labels);
        assert!((count - 1.0).abs() < f64::EPSILON, "{protocol}: {fault}: {count}");
    }
    assert!(weir.metrics().count("weir_answers_total", &[("level", "simplified_model")]) > 31.5);
}

#[test]
fn a_member_that_is_late_is_left_out_and_named() {
    let mut file = File::default();
    let members = PROTOCOLS
        .map(|protocol| (protocol, says(protocol, &[1.0]).model(), scripted(speaks(protocol), |_| vec![Hang])));
    for (at, (protocol, well, late)) in members.iter().enumerate() {
        file.server(&format!("a{at}"), protocol, well.address());
        file.server(&format!("late{at}"), protocol, late.address());
        // All of it is waited for; a member that is well has no reason to take a part of that.
        file.model(&format!("e{at}"), &format!("ensemble: {{members: [late{at}, a{at}]}}, timeout: 5s"));
    }
    let weir = file.start("");
    thread::scope(|scope| {
        for (at, (protocol, well, late)) in members.iter().enumerate() {
            let weir = &weir;
            scope.spawn(move || {
                let told = ask(weir, protocol, &format!("e{at}"));
                let degraded = Some(format!("member;model=late{at};reason=timeout"));
                assert_eq!((told.status, &*told.level, told.degraded), (good(protocol), "2", degraded), "{protocol}");
                assert_eq!((told.values, well.requests(), late.requests()), (vec![1.0], 1, 1), "{protocol}");
            });
        }
    });
}

#[test]
fn members_that_time_out_too_often_leave_the_first() {
    // Every eighth answer is late: too many for the ladder, and not for a breaker.
    let (body, _) = says("v2 json", &[1.0]).body();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = [head.as_bytes(), &body].concat();
    let answers = move |at: Arrived| vec![if at.nth.is_multiple_of(8) { Hang } else { Send(answer.clone()) }];
    let (well, late) = (says("v2 json", &[1.0]).model(), FaultyModel::listen(Speaks::Http1, Arc::new(answers)));
    let mut file = File::default();
    file.server("a", "v2 json", well.address());
    file.server("late", "v2 json", late.address());
    file.pools = file.pools.replacen("  late: {", "  late: {attempt_timeout: 200ms, ", 1);
    file.model("e", &format!("ensemble: {{members: [a, late]}}, timeout: {FAR}"));
    let weir = file.start("ladder: {enter_after: 100ms}\n");
    let told = await_some("the first member to be asked alone", Duration::from_secs(60), || {
        let told = ask(&weir, "v2 json", "e");
        assert_eq!((told.status, &told.values), (200, &vec![1.0]), "{told:?}");
        told.degraded.as_ref().is_some_and(|degraded| degraded.starts_with("model;")).then_some(told)
    });
    assert_eq!((&*told.level, told.degraded.as_deref()), ("2", Some("model;used=a;reason=timeouts")));
    assert_eq!(told.names, Some(("member".to_owned(), "members".to_owned())), "passed on as it came");
    assert!(late.requests() < well.requests(), "{} of {}", late.requests(), well.requests());
}

#[test]
fn a_member_that_was_killed_is_left_out() {
    // Processes that can be killed: gateways, each before a model of its own.
    let models = [1.0, 3.0].map(|value| says("v2 json", &[value]).model());
    let mut servers = models.each_ref().map(|model| {
        let endpoint = format!("http://{}", model.address());
        Weir::start(&format!(
            "pools: {{p: {{endpoints: [\"{endpoint}\"]}}}}\nmodels: {{a: {{pool: p}}, b: {{pool: p}}}}\n"
        ))
    });
    let mut file = File::default();
    file.server("a", "v2 json", servers[0].http());
    file.server("b", "v2 json", servers[1].http());
    file.model("e", &format!("ensemble: {{members: [a, b]}}, timeout: {FAR}"));
    let weir = file.start("");
    let told = ask(&weir, "v2 json", "e");
    assert_eq!((&*told.level, told.values), ("0", vec![2.0]));
    servers[0].process().signal("KILL");
    servers[0].process().wait(Duration::from_secs(20));
    for _ in 0..20 {
        let told = ask(&weir, "v2 json", "e");
        assert_eq!((told.status, &*told.level, &told.values), (200, "2", &vec![3.0]), "{told:?}");
        let degraded = told.degraded.unwrap_or_default();
        // Once its breaker is open it is not asked any more.
        let reasons = ["failed", "unavailable"].map(|reason| format!("member;model=a;reason={reason}"));
        assert!(reasons.contains(&degraded), "{degraded}");
    }
}

#[test]
fn a_word_about_the_request_is_the_answer() {
    let mut file = File::default();
    let members = PROTOCOLS.map(|protocol| {
        let status = if protocol == "grpc" { 3 } else { 400 };
        let refuses = Says { status, ..says(protocol, &[9.0]) }.model();
        (protocol, says(protocol, &[1.0]).model(), refuses)
    });
    for (at, (protocol, well, refuses)) in members.iter().enumerate() {
        file.server(&format!("a{at}"), protocol, well.address());
        file.server(&format!("b{at}"), protocol, refuses.address());
        file.model(
            &format!("e{at}"),
            &format!("ensemble: {{members: [a{at}, b{at}]}}, timeout: {FAR}, fallback: {{model: a{at}}}"),
        );
    }
    let weir = file.start("");
    for (at, (protocol, _, refuses)) in members.iter().enumerate() {
        let told = ask(&weir, protocol, &format!("e{at}"));
        let status = if *protocol == "grpc" { 3 } else { 400 };
        assert_eq!((told.status, &*told.level, told.degraded), (status, "0", None), "{protocol}");
        assert_eq!(refuses.requests(), 1, "{protocol}");
    }
    // What no member could read is not asked of any.
    let bad = weir.connect().post("/v1/models/e0:predict", "{\"instances\": 1}").expect(400);
    assert!(bad.error().contains("\"instances\" must be an array"), "{}", bad.text());
    assert_eq!(members[0].2.requests(), 1);
}

#[test]
fn with_all_members_down_the_ladder_goes_on() {
    let mut file = File::default();
    let members = PROTOCOLS.map(|protocol| {
        let down = Says { status: if protocol == "grpc" { 14 } else { 503 }, ..says(protocol, &[9.0]) };
        (protocol, [down.clone().model(), down.model()], says(protocol, &[7.0]).model())
    });
    let default = "default: {outputs: [{name: y, datatype: FP32, shape: [1], data: [0.25]}]}";
    for (at, (protocol, down, lite)) in members.iter().enumerate() {
        file.server(&format!("a{at}"), protocol, down[0].address());
        file.server(&format!("b{at}"), protocol, down[1].address());
        file.server(&format!("lite{at}"), protocol, lite.address());
        let ensemble = format!("ensemble: {{members: [a{at}, b{at}]}}, timeout: {FAR}");
        file.model(&format!("model{at}"), &format!("{ensemble}, fallback: {{model: lite{at}}}"));
        file.model(&format!("default{at}"), &format!("{ensemble}, fallback: {{{default}}}"));
        file.model(&format!("nothing{at}"), &ensemble);
    }
    let weir = file.start("");
    for (at, (protocol, down, lite)) in members.iter().enumerate() {
        let model = format!("model{at}");
        let told = ask(&weir, protocol, &model);
        let used = Some(format!("model;used=lite{at};reason=failed"));
        assert_eq!((&*told.level, told.degraded, told.values), ("2", used, vec![7.0]), "{protocol}");
        if *protocol != "v1" {
            assert_eq!(told.names.map(|(name, _)| name), Some("member".to_owned()), "{protocol}: the model's own word");
        }
        assert_eq!(lite.requests(), 1, "{protocol}");
        let told = ask(&weir, protocol, &format!("default{at}"));
        assert_eq!(
            (&*told.level, told.degraded.as_deref(), told.values),
            ("3", Some("default;reason=failed"), vec![0.25]),
            "{protocol}"
        );
        let told = ask(&weir, protocol, &format!("nothing{at}"));
        let (status, level) = if *protocol == "grpc" { (14, "0") } else { (503, "0") };
        assert_eq!((told.status, &*told.level), (status, level), "{protocol}: the first member's own answer");
        assert!(down.iter().all(|member| member.requests() == 3), "{protocol}");
    }
}

#[test]
fn a_caller_that_leaves_cancels_all_members() {
    let members = [(); 2].map(|()| Hand::listen());
    let mut file = File::default();
    for (name, member) in ["a", "b"].iter().zip(&members) {
        file.server(name, "v1", member.endpoint().trim_start_matches("http://"));
    }
    file.model("e", &format!("ensemble: {{members: [a, b]}}, timeout: {FAR}"));
    let weir = file.start("");
    let mut connection = weir.connect();
    connection.send("POST", "/v1/models/e:predict", &[("content-type", "application/json")], b"{\"instances\": [1]}");
    // Both are there before either has answered.
    let mut arrivals = members.each_ref().map(Hand::arrival);
    assert!(
        arrivals
            .iter()
            .all(|arrival| arrival.head.starts_with("POST /v1/models/") && arrival.header("accept-encoding").is_none())
    );
    drop(connection);
    assert!(arrivals.iter_mut().all(|arrival| arrival.closed_within(Duration::from_secs(20))));
    await_metric(weir.admin(), "weir_tier_slots_in_use", &[], |slots| slots == 0.0);
}

#[test]
fn a_drill_leaves_the_first_member() {
    let members = [1.0, 3.0].map(|value| says("v2 json", &[value]).model());
    let mut file = File::default();
    for (name, member) in ["a", "b"].iter().zip(&members) {
        file.server(name, "v2 json", member.address());
    }
    file.model("e", &format!("ensemble: {{members: [a, b]}}, timeout: {FAR}"));
    let weir = file.start("");
    http1::post(weir.admin(), "/admin/v1/levels/e", json!({"level": 2, "for": "1h"}).to_string()).expect(200);
    let told = ask(&weir, "v2 json", "e");
    assert_eq!(
        (&*told.level, told.degraded.as_deref(), told.values),
        ("2", Some("model;used=a;reason=drill"), vec![1.0])
    );
    assert_eq!(members.each_ref().map(FaultyModel::requests), [1, 0]);
    http1::post(weir.admin(), "/admin/v1/levels/e", json!({"level": 0, "for": "0s"}).to_string()).expect(200);
    assert_eq!(ask(&weir, "v2 json", "e").values, [2.0]);
    // A member that is held down is left out of its ensemble.
    http1::post(weir.admin(), "/admin/v1/levels/a", json!({"level": 2, "for": "1h"}).to_string()).expect(200);
    let told = ask(&weir, "v2 json", "e");
    assert_eq!(
        (&*told.level, told.degraded.as_deref(), told.values),
        ("2", Some("member;model=a;reason=drill"), vec![3.0])
    );
    assert_eq!(members.each_ref().map(FaultyModel::requests), [2, 2]);
}

#[test]
fn where_nothing_is_lowered_no_member_is_left_out() {
    let (well, bad) = (says("v2 json", &[1.0]).model(), Says { status: 500, ..says("v2 json", &[9.0]) }.model());
    let mut file = File::default();
    file.server("a", "v2 json", well.address());
    file.server("b", "v2 json", bad.address());
    file.model("e", &format!("ensemble: {{members: [a, b]}}, timeout: {FAR}"));
    let weir = file.start("ladder: {mode: observe}\n");
    let told = ask(&weir, "v2 json", "e");
    assert_eq!((told.status, &*told.level, told.degraded), (500, "0", None), "the member's own answer");
    let labels = [("member", "b"), ("reason", "failed")];
    assert!(weir.metrics().count("weir_ensemble_members_left_out_total", &labels) > 0.5);
}

#[test]
fn members_join_what_they_join() {
    let model = Echo::listen();
    let join = "pool: p, timeout: 20s, features: [{view: stats, join: {user: user}}]";
    let weir = Weir::start(&format!(
        "pools: {{p: {{endpoints: [\"{}\"]}}}}\nmodels:\n  a: {{{join}}}\n  b: {{{join}}}\n  e: {{ensemble: {{members: [a, b]}}, timeout: 20s}}\n\
         features: {{views: {{stats: {{entities: {{user: INT64}}, features: {{n: {{type: INT64, default: 5}}}}}}}}}}\n",
        model.endpoint()
    ));
    let push = json!({"push_source_name": "stats", "df": {"user": [1], "n": [40], "event_timestamp": ["2026-11-22T10:00:00Z"]}});
    weir.connect().post("/push", push.to_string()).expect(200);
    let ask = |user: i64| {
        weir.connect()
            .post("/v1/models/e:predict", json!({"instances": [{"user": user, "x": 2}]}).to_string())
            .expect(200)
    };
    let answer = ask(1);
    assert_eq!(answer.json(), json!({"predictions": [{"x": 2, "n": 40}]}));
    assert_eq!((answer.header("weir-level").as_deref(), answer.header("weir-degraded")), (Some("0"), None));
    assert!(
        answer.header("cache-status").is_some_and(|status| status.matches("weir-l1").count() == 1),
        "{:?}",
        answer.headers
    );
    // What both say is said once.
    let answer = ask(2);
    assert_eq!(answer.json(), json!({"predictions": [{"x": 2, "n": 5}]}));
    assert_eq!(answer.header("weir-degraded").as_deref(), Some("default;view=stats;reason=not_found"));
}

/// Scores `x` times a factor.
fn scaled(factor: f64) -> String {
    format!(
        r#"
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("y", (x * {factor}).astype(np.float32))]))
        return answers
"#
    )
}

#[test]
fn on_a_model_server() {
    let tensors: ([_; 1], [_; 1]) = ([("x", "FP32", &[-1i64][..])], [("y", "FP32", &[-1i64][..])]);
    let triton = Triton::builder()
        .model("low", &tensors.0, &tensors.1, &scaled(1.0))
        .model("high", &tensors.0, &tensors.1, &scaled(3.0))
        .start();
    let weir = Weir::start(&format!(
        "pools: {{p: {{endpoints: [{}]}}}}\nmodels:\n  a: {{pool: p, upstream_model: low, timeout: 20s}}\n  \
         b: {{pool: p, upstream_model: high, timeout: 20s}}\n  none: {{pool: p, timeout: 20s}}\n  \
         both: {{timeout: 20s, ensemble: {{members: [a, b]}}}}\n  three: {{timeout: 20s, ensemble: {{members: [a, none, b]}}}}\n",
        triton.endpoint()
    ));
    for protocol in ["v2 json", "v2 binary", "grpc"] {
        let told = ask(&weir, protocol, "both");
        assert_eq!((told.status, &*told.level, &told.degraded), (good(protocol), "0", &None), "{protocol}");
        assert_eq!((told.values, told.names), (vec![2.0], Some(("both".to_owned(), "mine".to_owned()))), "{protocol}");
    }
    // What is no prediction is the first member's to answer, under the ensemble's name.
    let about = weir.connect().get("/v2/models/both").expect(200).json();
    assert_eq!((&about["name"], &about["inputs"][0]["name"]), (&json!("both"), &json!("x")));
    weir.connect().get("/v2/models/both/ready").expect(200);
    weir.connect().get("/v1/models/both").expect(200);
    let request = pb::ModelMetadataRequest { name: "both".into(), ..Default::default() };
    let about = weir.connect_grpc().call("ModelMetadata", &request, &[]).decode::<pb::ModelMetadataResponse>();
    assert_eq!((&*about.name, about.outputs.len()), ("both", 1));
    let explained = weir.connect().post("/v1/models/both:explain", "{\"instances\": [1]}").expect(501);
    assert!(explained.error().contains("has no explainer"), "{}", explained.text());
}

#[test]
fn it_is_ready_when_its_members_are() {
    let (well, late) = (says("v2 json", &[1.0]).model(), loopback(free_port()));
    let mut file = File::default();
    file.server("a", "v2 json", well.address());
    file.server("b", "v2 json", late);
    file.pools = file.pools.replace("interval: 1h", "interval: 50ms");
    file.model("e", "ensemble: {members: [a, b]}");
    let weir = file.start("");
    wait_until("the second member to be missed", Duration::from_secs(20), || {
        let missing = http1::get(weir.admin(), "/readyz").json()["missing"].to_string();
        missing.contains("pool \\\"b\\\"") && !missing.contains("pool \\\"a\\\"")
    });
    let _late = FaultyModel::at(late, Speaks::Http1, Vec::new(), Arc::new(|_| vec![Hang]));
    wait_until("ready", Duration::from_secs(20), || http1::try_get(weir.admin(), "/readyz") == Some(200));
}

#[test]
fn long_answers_are_combined_too() {
    let numbers: Vec<f32> = (0..60_000u16).map(f32::from).collect();
    let answer: &'static [u8] = {
        let body = json!({"predictions": numbers}).to_string();
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .leak()
            .as_bytes()
    };
    let members = [(); 2].map(|()| Counting::listen(answer));
    let mut file = File::default();
    for (name, member) in ["a", "b"].iter().zip(&members) {
        file.server(name, "v1", member.endpoint().trim_start_matches("http://"));
    }
    file.model("e", &format!("ensemble: {{members: [a, b]}}, timeout: {FAR}"));
    let told = ask(&file.start(""), "v1", "e");
    assert_eq!((&*told.level, told.degraded, told.values.len()), ("0", None, numbers.len()));
    assert!(told.values.iter().zip(&numbers).all(|(told, said)| *told == f64::from(*said)));
    assert_eq!(members.each_ref().map(Counting::count), [1, 1]);
}
