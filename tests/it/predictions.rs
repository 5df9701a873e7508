//! A prediction that was asked for before is given again as the model would give it, to nobody for whom it would be another one, and for
//! no longer than it is true: a push and a promotion end it.

mod shared;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use ::weir::proto::inference as pb;
use bytes::Bytes;
use serde_json::json;

use crate::{
    ladder::scene::{Moody, PROTOCOLS, Told, ask, ask_with, caching, each, pool, tag},
    support::{
        KServe, Redis, RedisCluster, Weir,
        faulty_model::{FaultyModel, Speaks, Step},
        grpc::{Grpc, raw_input},
        hand::{Counting, Hand},
        http1::{self, Http1, Response},
        process::{Folder, START, await_some, wait_until},
        vectors,
    },
    world::{TRITON, first_number, near, score},
};

const ECHO: &str = "/v2/models/echo/infer";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"predictions\":[]}";

/// A gateway of one model in front of an endpoint, with further keys of the model and of the file.
fn before(endpoint: &str, model: &str, more: &str) -> Weir {
    Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{endpoint}], retry: {{max_retries: 0}}}}\nmodels:\n  echo: {{pool: p, timeout: 20s{model}}}\n{more}"
    ))
}

/// What the prediction cache says it did.
fn cache(response: &Response) -> String {
    let status = response.header("cache-status").unwrap_or_default();
    let member = status.split(", ").find_map(|member| member.strip_prefix("weir-prediction; "));
    member.unwrap_or_else(|| panic!("{status:?}")).to_owned()
}

fn v1(user: u32, x: u32) -> String {
    json!({"instances": [{"user_id": user, "x": x}]}).to_string()
}

fn predict(weir: &Weir, body: &str) -> Response {
    weir.connect().post("/v1/models/echo:predict", body)
}

/// Which answers count as the model's own words: body, and the length of its JSON.
fn words(response: Response) -> (Vec<u8>, Option<String>) {
    let length = response.header("inference-header-content-length");
    (response.expect(200).body, length)
}

/// A V2 request with that id, for tensors in JSON or behind it.
fn v2(id: &str, binary: bool) -> String {
    let mut request = json!({
        "parameters": {"binary_data_output": binary},
        "inputs": [
            {"name": "f", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2.5]},
            {"name": "s", "shape": [1], "datatype": "BYTES", "data": ["a"]},
            {"name": "i", "shape": [1], "datatype": "INT64", "data": [7]},
            {"name": "b", "shape": [1], "datatype": "BOOL", "data": [true]},
        ],
    });
    if !id.is_empty() {
        request["id"] = id.into();
    }
    request.to_string()
}

fn grpc_request(id: &str) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "echo".into(),
        id: id.into(),
        inputs: vec![
            raw_input("f", "FP32", &[1, 2]),
            raw_input("s", "BYTES", &[1]),
            raw_input("i", "INT64", &[1]),
            raw_input("b", "BOOL", &[1]),
        ],
        raw_input_contents: vec![
            Bytes::from([1.5_f32.to_le_bytes(), 2.5_f32.to_le_bytes()].concat()),
            Bytes::from(vectors::bytes_element(b"a")),
            Bytes::copy_from_slice(&7_i64.to_le_bytes()),
            Bytes::from_static(&[1]),
        ],
        ..Default::default()
    }
}

fn every_hit_is_the_servers_own_words(endpoint: &str, http: SocketAddr, grpc: SocketAddr, names_itself: bool) {
    let weir = before(endpoint, ", cache: {}", "");
    let (mut through, mut direct) = (weir.connect(), Http1::connect(http));
    // A server that makes up an id where there is none says another one each time.
    let unnamed: &[&str] = if names_itself { &[] } else { &["", ""] };
    for binary in [false, true] {
        for (number, id) in [&["first", "a-much-longer-id", "b"], unnamed].concat().into_iter().enumerate() {
            let answer = through.post(ECHO, v2(id, binary));
            assert_eq!(cache(&answer), if matches!(number, 0 | 3) { "fwd=miss" } else { "hit" }, "{id:?} {binary}");
            assert_eq!(answer.header("weir-level").as_deref(), Some("0"));
            assert_eq!(words(answer), words(direct.post(ECHO, v2(id, binary))), "{id:?} {binary}");
            // In the same bytes it is known before it is on its path.
            for _ in 0..2 {
                let again = through.post(ECHO, v2(id, binary));
                assert_eq!((&*cache(&again), again.header("weir-level").as_deref()), ("hit", Some("0")));
                assert_eq!(words(again), words(direct.post(ECHO, v2(id, binary))), "{id:?} {binary}");
            }
        }
    }
    let (mut through, mut direct) = (weir.connect_grpc(), Grpc::connect(grpc));
    for (id, expected) in [("first", "fwd=miss"), ("a-much-longer-id", "hit"), ("b", "hit")] {
        let (told, said) = (through.infer(&grpc_request(id)), direct.infer(&grpc_request(id)));
        assert_eq!(told.metadata("cache-status"), Some(format!("weir-prediction; {expected}")));
        assert_eq!((told.status(), &told.message), (0, &said.message), "{id}");
        assert_eq!(told.decode::<pb::ModelInferResponse>().id, id);
    }
}

#[test]
fn a_hit_is_what_triton_would_have_said() {
    every_hit_is_the_servers_own_words(&TRITON.endpoint(), TRITON.http(), TRITON.grpc(), false);
}

#[test]
fn a_hit_is_what_kserve_would_have_said() {
    let kserve = KServe::shared();
    every_hit_is_the_servers_own_words(&kserve.endpoint(), kserve.http(), kserve.grpc(), true);
}

#[test]
fn no_cache_asks_the_model_and_another_caller_gets_no_hit() {
    let model = Counting::listen(ANSWER);
    let weir = before(&model.endpoint(), ", cache: {headers: [x-tenant]}", "");
    let ask = |headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], headers].concat();
        cache(&weir.connect().request("POST", "/v1/models/echo:predict", &headers, v1(1, 1).as_bytes()).expect(200))
    };
    assert_eq!([ask(&[]), ask(&[]), ask(&[])], ["fwd=miss", "hit", "hit"]);
    assert_eq!(ask(&[("cache-control", "no-cache")]), "fwd=bypass");
    for header in [("authorization", "Bearer a"), ("x-tenant", "t"), ("accept-encoding", "gzip")] {
        assert_eq!([ask(&[header]), ask(&[header])], ["fwd=miss", "hit"], "{header:?}");
    }
    assert_eq!(ask(&[("user-agent", "other"), ("x-request-id", "7")]), "hit");
    assert_eq!(model.count(), 5);
    let hits = weir.metrics().count("weir_prediction_lookups_total", &[("layer", "l1"), ("outcome", "hit")]);
    assert!(hits == 6.0, "{hits}");
}

/// However its bytes come, all of them reach the model, and the same are known again.
#[test]
fn a_request_that_comes_in_parts_is_asked_whole_and_known_again() {
    let model = Hand::listen();
    let weir = before(&model.endpoint(), ", cache: {}", "");
    let head = |body: &str| {
        let length = body.len();
        format!("POST /v1/models/echo:predict HTTP/1.1\r\nhost: weir\r\ncontent-length: {length}\r\n\r\n")
    };
    let send = |parts: &[&str]| {
        let mut caller = weir.connect();
        for part in parts {
            caller.send_raw(part.as_bytes());
            // Most likely each is read before the next one comes; it is the same where not.
            thread::sleep(Duration::from_millis(10));
        }
        caller
    };
    for (length, first) in
        [100, 3_000, 12_000, 40_000].into_iter().flat_map(|length| [(length, 0), (length, 1), (length, 2)])
    {
        let body = format!("{{\"instances\": [\"{}\", {first}]}}", "x".repeat(length));
        let (head, middle) = (head(&body), body.len() / 2);
        let ways: [&[&str]; 3] = [
            &[&format!("{head}{body}")],
            &[&head, &body],
            &[&format!("{head}{}", &body[..middle]), &body[middle..middle + 9], &body[middle + 9..]],
        ];
        let mut caller = send(ways[first]);
        let asked = model.arrival();
        assert_eq!(String::from_utf8_lossy(&asked.body), body, "way {first}");
        asked.answer("{\"predictions\": [1]}");
        assert_eq!(cache(&caller.receive().expect(200)), "fwd=miss");
        for again in [first, 0, 1, 2, 0] {
            let told = send(ways[again]).receive().expect(200);
            assert_eq!((&*cache(&told), &*told.body), ("hit", &b"{\"predictions\": [1]}"[..]), "{first} {again}");
        }
        // One that breaks off is no other's, and counted; also where its end comes with its head.
        drop(send(&ways[2][..1]));
        let mut gone = weir.connect();
        gone.send_raw(head.as_bytes());
        gone.finish_sending();
    }
    wait_until("those that broke off are counted", START, || {
        weir.metrics().count("weir_requests_total", &[("model", "echo"), ("status", "499")]) == 24.0
    });
    assert_eq!(model.pending(), 0);
}

/// An answer that was kept is its caller's: it has the caller's id, what lasts of the model's headers, and its line in the log.
#[test]
fn what_is_told_again_has_its_callers_id_and_none_of_the_connections_headers() {
    let model = Counting::listen(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\n\
          x-hop: 1\r\nx-model: 7\r\ncontent-length: 18\r\n\r\n{\"predictions\":[]}",
    );
    let folder = Folder::new("told-again");
    let log = folder.path().join("access.log");
    let config =
        format!("pools:\n  p: {{endpoints: [{}]}}\nmodels:\n  echo: {{pool: p, cache: {{}}}}\n", model.endpoint());
    let weir = Weir::with_environment(&config, &[("WEIR_ACCESS_LOG".into(), log.display().to_string())]);
    let mut caller = weir.connect();
    for (id, outcome) in [("one", "fwd=miss"), ("two", "hit"), ("three", "hit"), ("four", "hit")] {
        let headers = [("content-type", "application/json"), ("x-request-id", id), ("expect", "100-continue")];
        let told = caller.request("POST", "/v1/models/echo:predict", &headers, v1(1, 1).as_bytes()).expect(200);
        assert_eq!((&*cache(&told), &*told.body), (outcome, &br#"{"predictions":[]}"#[..]));
        for (name, value) in [
            ("x-request-id", Some(id)),
            ("weir-level", Some("0")),
            ("content-type", Some("application/json")),
            ("content-length", Some("18")),
            ("x-model", Some("7")),
            ("keep-alive", None),
            ("x-hop", None),
        ] {
            assert_eq!(told.header(name).as_deref(), value, "{id} {name}");
        }
    }
    let lines = await_some("four lines", START, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let whole = text.ends_with('\n') && text.lines().count() >= 4;
        whole.then(|| {
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<serde_json::Value>>()
        })
    });
    for (line, id) in lines.iter().zip(["one", "two", "three", "four"]) {
        let told = json!([line["request_id"], line["model"], line["status"], line["level"], line["protocol"]]);
        assert_eq!(told, json!([id, "echo", 200, 0, "v1"]));
    }
    assert_eq!(lines.len(), 4);
    let metrics = weir.metrics();
    for name in [
        "weir_requests_total",
        "weir_answers_total",
        "weir_request_duration_seconds_count",
        "weir_added_latency_seconds_count",
    ] {
        let count = metrics.count(name, &[("model", "echo")]);
        assert!(count == 4.0, "{name} {count}");
    }
}

/// A caller's word on caches, however it is written, in every protocol.
#[test]
fn callers_say_what_caches_may_do() {
    let models = Moody::all();
    let weir = caching(&models);
    each(|protocol| {
        let name = tag(protocol);
        let ask = |said: &[&str], amount: f64| {
            let headers: Vec<_> = said.iter().map(|value| ("cache-control", *value)).collect();
            let told = ask_with(&weir, protocol, (&name, &headers), &[(1, amount)]);
            assert_eq!((told.status, &*told.level), (200, "0"), "{told:?}");
            told.caches.strip_prefix("weir-prediction; ").expect("it says what it did").to_owned()
        };
        assert_eq!([ask(&[], 1.0), ask(&[], 1.0), ask(&[], 1.0)], ["fwd=miss", "hit", "hit"]);
        for said in [&["No-Cache"][..], &["NO-CACHE"], &["max-age=0"], &["max-stale=5", "no-cache"], &["No-Store"]] {
            assert_eq!([ask(said, 1.0), ask(&[], 1.0)], ["fwd=bypass", "hit"], "{said:?}");
        }
        assert_eq!(ask(&["max-stale=5"], 1.0), "hit");
        // What is answered to it is nobody else's.
        assert_eq!([ask(&["no-store"], 2.0), ask(&[], 2.0)], ["fwd=bypass", "fwd=miss"]);
        assert_eq!([ask(&["max-age=9", "no-store"], 3.0), ask(&[], 3.0)], ["fwd=bypass", "fwd=miss"]);
    });
}

#[test]
fn who_asks_the_same_at_once_asks_once_and_takes_one_slot() {
    let model = Hand::listen();
    let tiers = "capacity: {slots: 1}\ntiers: {standard: {queue: 0}}\n";
    let weir = before(&model.endpoint(), ", cache: {ttl: 10m}", tiers);
    let others = thread::scope(|scope| {
        let ask = || predict(&weir, &v1(1, 1));
        let first = scope.spawn(ask);
        let asked = model.arrival();
        let others: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        // The only slot is taken, and nothing is kept that would stand in.
        assert!(matches!(predict(&weir, &v1(2, 2)).status, 429 | 503));
        asked.answer(r#"{"predictions":[1]}"#);
        assert_eq!(cache(&first.join().expect("an answer").expect(200)), "fwd=miss");
        others.into_iter().map(|other| other.join().expect("an answer").expect(200)).collect::<Vec<_>>()
    });
    for other in &others {
        assert_eq!(other.text(), r#"{"predictions":[1]}"#);
        assert!(matches!(cache(other).as_str(), "hit" | "fwd=miss; collapsed"));
    }
    assert_eq!(model.pending(), 0);
    // A hit needs no slot either.
    thread::scope(|scope| {
        let busy = scope.spawn(|| predict(&weir, &v1(3, 3)));
        let asked = model.arrival();
        assert_eq!(cache(&predict(&weir, &v1(1, 1)).expect(200)), "hit");
        asked.answer("{}");
        busy.join().expect("an answer").expect(200);
    });
}

#[test]
fn a_kept_prediction_stands_in_where_the_model_fails() {
    let model = FaultyModel::listen(
        Speaks::Http1,
        std::sync::Arc::new(|arrived| match arrived.nth {
            1 => vec![Step::Send(ANSWER.into())],
            _ => vec![Step::Close],
        }),
    );
    let cache = ", cache: {ttl: 1ms, keep_for: 1h, entity: user_id}";
    let weir = before(&format!("http://{}", model.address()), cache, "");
    predict(&weir, &v1(7, 1)).expect(200);
    wait_until("the prediction to be no fresh one", START, || {
        let answer = predict(&weir, &v1(7, 1)).expect(200);
        answer.header("weir-level").as_deref() == Some("3")
    });
    let kept = predict(&weir, &v1(7, 1)).expect(200);
    let degraded = kept.header("weir-degraded").expect("it says so");
    assert!(degraded.starts_with("cached;age=") && !degraded.contains("of=entity"), "{degraded}");
    assert_eq!(kept.text(), r#"{"predictions":[]}"#);
    let of_entity = predict(&weir, &v1(7, 2)).expect(200);
    assert!(of_entity.header("weir-degraded").expect("it says so").contains(";of=entity"));
    assert_eq!(of_entity.header("weir-level").as_deref(), Some("3"));
    assert!(predict(&weir, &v1(8, 1)).status >= 500, "nothing is kept of it");
    let stand_ins = |of| weir.metrics().count("weir_prediction_stand_ins_total", &[("of", of)]);
    assert!(stand_ins("request") >= 2.0 && stand_ins("entity") == 1.0);
}

/// What is no answer is none where something else may answer, and what is less than one is told once.
#[test]
fn garbage_that_says_200_is_not_kept() {
    let servers = Moody::all();
    let (mut pools, mut entries) = (String::new(), String::new());
    for (name, server) in PROTOCOLS.map(tag).into_iter().zip(&servers) {
        pools += &server.pool(&name, "");
        entries += &format!(
            "  {name}: {{pool: {name}, upstream_model: model, timeout: 20s, cache: {{ttl: 1h}}}}\n  {name}-bare: {{pool: {name}, timeout: 20s}}\n"
        );
    }
    let weir = Weir::start(&format!("pools:\n{pools}models:\n{entries}"));
    each(|protocol| {
        let name = tag(protocol);
        let at = PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one");
        servers[at].turn("nonsense");
        let garbage = ask(&weir, protocol, &name, &[(7, 1.0)]);
        // gRPC says 14, which is 503 over HTTP.
        let failed = if protocol == "grpc" { 503 } else { 502 };
        assert_eq!((garbage.status, &*garbage.level), (failed, "4"), "{garbage:?}");
        if protocol != "grpc" {
            let bare = ask(&weir, protocol, &format!("{name}-bare"), &[(7, 1.0)]);
            assert_eq!((bare.status, &*bare.level, &*bare.text), (200, "0", "xyz"), "passed on as it came: {bare:?}");
            servers[at].turn("200 without outputs");
            let error = ask(&weir, protocol, &name, &[(7, 1.0)]);
            assert_eq!((error.status, &*error.text), (200, "{\"error\": \"out of memory\"}"), "{error:?}");
            let malformed = [("model", &*name), ("outcome", "malformed")];
            assert_eq!(weir.metrics().count("weir_predictions_kept_total", &malformed), 1.0);
        }
        servers[at].turn("none");
        for cache in ["fwd=miss", "hit"] {
            let well = ask(&weir, protocol, &name, &[(7, 1.0)]);
            assert_eq!((well.status, &*well.caches), (200, &*format!("weir-prediction; {cache}")), "{well:?}");
        }
    });
}

/// Over gRPC the version is in the message, and so are parameters that a model may answer by.
#[test]
fn what_another_version_said_of_an_entity_stands_in_for_nothing() {
    let model = Moody::new("grpc");
    let weir = before(&model.endpoint(), ", cache: {ttl: 1ms, keep_for: 1h, entity: user_id}", "");
    let ask = |version: &str, amount: f64, threshold: Option<i64>| {
        let parameter = |value| {
            let choice = pb::infer_parameter::ParameterChoice::Int64Param(value);
            ("threshold".to_owned(), pb::InferParameter { parameter_choice: Some(choice) })
        };
        let request = pb::ModelInferRequest {
            model_name: "echo".into(),
            model_version: version.into(),
            parameters: threshold.map(parameter).into_iter().collect(),
            inputs: vec![raw_input("user_id", "INT64", &[1]), raw_input("amount", "FP64", &[1])],
            raw_input_contents: vec![
                Bytes::copy_from_slice(&900_i64.to_le_bytes()),
                Bytes::copy_from_slice(&amount.to_le_bytes()),
            ],
            ..Default::default()
        };
        let told = weir.connect_grpc().infer(&request);
        (told.status(), told.metadata("weir-degraded").unwrap_or_default())
    };
    assert_eq!(ask("1", 50.0, None), (0, String::new()));
    model.turn("reset before the head");
    let (status, degraded) = ask("1", 51.0, None);
    assert!(status == 0 && degraded.contains(";of=entity;"), "{status} {degraded}");
    for (version, threshold) in [("2", None), ("", None), ("1", Some(9))] {
        let told = ask(version, 51.0, threshold);
        assert_eq!(told, (14, String::new()), "{version:?} {threshold:?}");
    }
}

/// All replicas failing, in every protocol: the request's own prediction, else the entity's, else nothing.
#[test]
fn kept_predictions_stand_in_in_every_protocol() {
    let replicas = PROTOCOLS.map(|protocol| [(); 2].map(|()| Moody::new(protocol)));
    let (mut pools, mut entries) = (String::new(), String::new());
    for (name, servers) in PROTOCOLS.map(tag).into_iter().zip(&replicas) {
        pools += &pool(&name, &servers.each_ref().map(Moody::endpoint), "");
        let cache = "cache: {ttl: 1ms, keep_for: 1h, entity: user_id}";
        entries += &format!("  {name}: {{pool: {name}, timeout: 20s, {cache}}}\n");
    }
    let weir = Weir::start(&format!("pools:\n{pools}models:\n{entries}"));
    each(|protocol| {
        let name = tag(protocol);
        let ask = |row| ask(&weir, protocol, &name, &[row]);
        let first = ask((7, 1.0));
        assert_eq!((first.status, &*first.level, &*first.degraded), (200, "0", ""), "{first:?}");
        let at = PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one");
        replicas[at].iter().for_each(|server| server.turn("reset before the head"));
        // One that is fresh is no stand-in.
        let kept = await_some("a prediction that is kept", START, || {
            let told = ask((7, 1.0));
            assert_eq!((told.status, &told.scores), (200, &first.scores), "{told:?}");
            (told.level == "3").then_some(told)
        });
        let is_cached = |told: &Told| told.degraded.starts_with("cached;age=");
        assert!(is_cached(&kept) && kept.degraded.contains(";reason="), "{kept:?}");
        assert!(!kept.degraded.contains("of=entity") && kept.caches.contains("weir-prediction; hit"), "{kept:?}");
        assert_eq!(kept.text, first.text);
        let of_entity = ask((7, 2.0));
        assert_eq!(
            (of_entity.status, &*of_entity.level, &of_entity.scores),
            (200, "3", &first.scores),
            "{of_entity:?}"
        );
        assert!(is_cached(&of_entity) && of_entity.degraded.contains(";of=entity;"), "{of_entity:?}");
        let nothing = ask((8, 1.0));
        assert!(nothing.status >= 500 && nothing.degraded.is_empty(), "nothing is kept of it: {nothing:?}");
        let stand_ins = |of| weir.metrics().count("weir_prediction_stand_ins_total", &[("model", &name), ("of", of)]);
        assert!(stand_ins("request") >= 1.0 && stand_ins("entity") == 1.0);
        replicas[at].iter().for_each(|server| server.turn("none"));
        let well = ask((8, 1.0));
        assert_eq!((well.status, &*well.level), (200, "0"), "{well:?}");
    });
}
