//! Rows out of recorded JSON, and which server is asked.

use std::{cell::Cell, sync::Arc, time::Duration};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{Feature, L2, Upstream, View},
    features::{
        feast::{Malformed, decode_value, tests::unhex},
        tests::{ask, breaker, features, int, key, row, view},
    },
    infer::{EntityKey, EntityType, EntityValue, FeatureType, Value},
    telemetry::scratch,
};

#[derive(Deserialize)]
struct Vectors {
    values: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    hex: String,
    oneof: String,
    http_json: Box<RawValue>,
}

/// The type of a feature that has such values.
fn kind(value: &Value) -> FeatureType {
    match value {
        Value::Null | Value::Double(_) => FeatureType::Double,
        Value::Bytes(_) => FeatureType::Bytes,
        Value::String(_) => FeatureType::String,
        Value::Int32(_) => FeatureType::Int32,
        Value::Int64(_) => FeatureType::Int64,
        Value::Float(_) => FeatureType::Float,
        Value::Bool(_) => FeatureType::Bool,
        Value::UnixTimestamp(_) => FeatureType::UnixTimestamp,
        Value::BytesList(_) => FeatureType::BytesList,
        Value::StringList(_) => FeatureType::StringList,
        Value::Int32List(_) => FeatureType::Int32List,
        Value::Int64List(_) => FeatureType::Int64List,
        Value::DoubleList(_) => FeatureType::DoubleList,
        Value::FloatList(_) => FeatureType::FloatList,
        Value::BoolList(_) => FeatureType::BoolList,
        Value::UnixTimestampList(_) => FeatureType::UnixTimestampList,
        Value::Opaque(_) => FeatureType::Opaque,
    }
}

#[test]
fn every_value_that_feast_told_is_read_as_the_one_that_is_stored() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../../tests/data/feast/values.json")).unwrap();
    for Vector { hex, oneof, http_json } in &vectors.values {
        let stored = decode_value(&unhex(hex)).unwrap();
        let told = cell::value(kind(&stored), http_json.get());
        match stored {
            // Feast writes it as a null.
            _ if http_json.get() == "null" => assert_eq!(told, Some(Value::Null), "{oneof} {hex}"),
            // The JSON does not say which kind of set or map it is.
            Value::Opaque(_) => assert!(matches!(told, Some(Value::Opaque(_))), "{oneof} {hex}"),
            // A NaN is not equal to itself.
            stored => assert_eq!(format!("{told:?}"), format!("{:?}", Some(stored)), "{oneof} {hex}"),
        }
    }
    assert!(vectors.values.len() >= 60);
}

#[test]
fn what_does_not_fit_its_type_is_no_value() {
    for (kind, json) in [
        (FeatureType::Int64, "1.5"),
        (FeatureType::Int64, "9223372036854775808"),
        (FeatureType::Int64, "\"1\""),
        (FeatureType::Int32, "2147483648"),
        (FeatureType::Bool, "1"),
        (FeatureType::Double, "\"nan\""),
        (FeatureType::Double, "true"),
        (FeatureType::String, "1"),
        (FeatureType::Bytes, "\"*\""),
        (FeatureType::Int64List, "1"),
        (FeatureType::Int64List, "[1,null]"),
        (FeatureType::StringList, "{}"),
    ] {
        assert_eq!(cell::value(kind, json), None, "{kind} {json}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert_eq!(cell::value(FeatureType::Opaque, &deep), None);
}

fn typed(name: &str, features: &[(&str, FeatureType)]) -> Arc<View> {
    let feature =
        |&(name, kind): &(&str, FeatureType)| Feature { name: name.into(), kind, default: Value::Null, length: None };
    let plain = view(name).build();
    Arc::new(View { features: features.iter().map(feature).collect(), ..View::clone(&plain) })
}

fn told(
    view: &View,
    body: &serde_json::Value,
    count: usize,
) -> Result<Vec<Result<Option<Row>, Malformed>>, &'static str> {
    answer::rows(Form::of(view).features(), body.to_string().as_bytes(), count)
}

const TIME: &str = "2026-11-22T10:00:00.5Z";
const EPOCH: &str = "1970-01-01T00:00:00Z";

fn timed(values: [Option<Value>; 2]) -> Row {
    Row::new(Some(1_795_341_600_500_000_000), values.into())
}

#[test]
fn a_weir_tells_what_is_null_what_is_not_there_and_what_is_too_old() {
    let view = typed("v", &[("a", FeatureType::Int64), ("b", FeatureType::String)]);
    let body = json!({
        "results": [
            {"values": [1, 2, 3, 4], "statuses": vec!["PRESENT"; 4], "event_timestamps": vec![EPOCH; 4]},
            {"values": ["x", null, null, "y"], "statuses": ["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"],
             "event_timestamps": [TIME, TIME, EPOCH, TIME]},
            {"values": [7, null, null, null], "statuses": ["PRESENT", "NOT_FOUND", "NOT_FOUND", "OUTSIDE_MAX_AGE"],
             "event_timestamps": [TIME, EPOCH, EPOCH, TIME]},
        ],
        "metadata": {"feature_names": ["user", "v__b", "v__a"]},
    });
    let string = |text: &str| Some(Value::String(text.into()));
    let expected = [
        Ok(Some(timed([int(7), string("x")]))),
        Ok(Some(timed([None, Some(Value::Null)]))),
        Ok(None),
        Ok(Some(timed([Some(Value::Null), string("y")]))),
    ];
    assert_eq!(told(&view, &body, 4).unwrap(), expected);
}

#[test]
fn of_feasts_own_server_a_null_at_the_epoch_was_never_written() {
    let view = typed("v", &[("a", FeatureType::Int64), ("b", FeatureType::Int64)]);
    let column = |values: serde_json::Value| json!({"values": values, "statuses": vec!["PRESENT"; 3], "event_timestamps": [TIME, EPOCH, EPOCH]});
    let body = json!({
        "results": [column(json!([1, 2, 3])), column(json!([null, null, 5])), column(json!([7, null, null]))],
        "metadata": {"feature_names": ["user", "v__a", "v__b"]},
    });
    let untimed = Row::new(None, [int(5), None].into());
    let expected = [Ok(Some(timed([Some(Value::Null), int(7)]))), Ok(None), Ok(Some(untimed))];
    assert_eq!(told(&view, &body, 3).unwrap(), expected);
    let bare = json!({"results": [{"values": [1]}, {"values": [2]}], "metadata": {"feature_names": ["v__a", "v__b"]}});
    assert_eq!(told(&view, &bare, 1).unwrap(), [Ok(Some(Row::new(None, [int(1), int(2)].into())))]);
}

#[test]
fn a_cell_that_cannot_be_read_spoils_its_row_and_no_other() {
    let view = typed("v", &[("a", FeatureType::Int64)]);
    let body = json!({
        "results": [{"values": [1, "x", null, 4, 5], "statuses": ["PRESENT", "PRESENT", "INVALID", "SOMETHING", "PRESENT"],
                     "event_timestamps": [TIME, TIME, EPOCH, TIME, "yesterday"]}],
        "metadata": {"feature_names": ["v__a"]},
    });
    let rows = told(&view, &body, 5).unwrap();
    let wrong = |what| Err(Malformed::Served(what));
    let first = Row::new(Some(1_795_341_600_500_000_000), [int(1)].into());
    let status = "a cell's status";
    assert_eq!(rows, [Ok(Some(first)), wrong("a value"), wrong(status), wrong(status), wrong("an event's time")]);
}

#[test]
fn an_answer_to_something_else_is_none() {
    let view = typed("v", &[("a", FeatureType::Int64)]);
    let names = json!({"feature_names": ["v__a"]});
    let wrong = |body: serde_json::Value| told(&view, &body, 2).unwrap_err();
    let rows = "the answer has another number of rows than was asked for";
    assert_eq!(wrong(json!({"results": [{"values": [1]}], "metadata": names})), rows);
    assert_eq!(wrong(json!({"results": [{"values": [1, 2], "statuses": ["PRESENT"]}], "metadata": names})), rows);
    assert_eq!(wrong(json!({"results": [], "metadata": names})), "the answer lacks a feature");
    assert_eq!(wrong(json!({"results": [], "metadata": {"feature_names": []}})), "the answer lacks a feature");
    assert_eq!(wrong(json!({"results": {}})), "the answer is not Feast's JSON");
    assert_eq!(answer::rows(&[], b"\xff", 2), Err("the answer is not Feast's JSON"));
}

#[test]
fn what_a_weir_served_past_its_time_is_known_by_its_view() {
    let age = |told: &[&str]| {
        let mut headers = http::HeaderMap::new();
        for told in told {
            headers.append("weir-degraded", told.parse().unwrap());
        }
        answer::stale(&headers, "v").map(|age| age.as_secs())
    };
    assert_eq!(age(&[]), None);
    assert_eq!(age(&["default;view=v;reason=unavailable"]), None);
    assert_eq!(age(&["stale;view=vv;age=5, stale; age=7; view=v"]), Some(7));
    assert_eq!(age(&["stale;view=v;age=5", "stale;view=v;age=9"]), Some(9));
    assert_eq!(age(&["stale;view=v;age=x, stale;view=v, stale"]), None);
}

proptest! {
    #[test]
    fn no_json_breaks_the_reader(json in prop_oneof![".{0,40}", "[\\[\\]{}\",:0-9a-z.-]{0,40}"], at in 0..16_usize) {
        for kind in [FeatureType::ALL[at % FeatureType::ALL.len()], FeatureType::Opaque] {
            // What is no JSON never gets so far.
            if let Ok(raw) = serde_json::from_str::<&RawValue>(&json) {
                let _ = cell::value(kind, raw.get());
            }
        }
        let view = typed("v", &[("a", FeatureType::Int64)]);
        let _ = answer::rows(Form::of(&view).features(), json.as_bytes(), 1);
    }
}

#[test]
fn a_question_names_the_keys_of_one_view() {
    let entities = [("item \"x\"", EntityType::String), ("user", EntityType::Int64)];
    let pairs = view("pairs").id(1).entities(&entities).features(&["f", "g"]).build();
    let of = |item: &str, user| {
        let (item, user) = (EntityValue::String(item.into()), EntityValue::Int64(user));
        EntityKey::new([("item \"x\"", &item), ("user", &user)].into_iter())
    };
    let other = view("v").build();
    let asks = [
        Ask { view: Arc::clone(&pairs), key: of("a", 1) },
        ask(&other, 5),
        Ask { view: Arc::clone(&pairs), key: of("ü\"", -1) },
        Ask { view: Arc::clone(&pairs), key: key(7) },
    ];
    let (questions, answers) = question::of(&asks);
    let bodies: Vec<serde_json::Value> = questions
        .iter()
        .map(|question| serde_json::from_slice(&Form::of(question.view).body(question)).unwrap())
        .collect();
    let of_pairs = json!({"features": ["pairs:f", "pairs:g"], "full_feature_names": true,
        "entities": {"item \"x\"": ["a", "ü\""], "user": [1, -1]}});
    let of_other = json!({"features": ["v:f"], "full_feature_names": true, "entities": {"user": [5]}});
    assert_eq!(bodies, [of_pairs, of_other]);
    assert_eq!([&questions[0].places, &questions[1].places], [&[0, 2], &[1][..]]);
    assert!(matches!(answers.as_slice(), [None, None, None, Some(Err(Error::Malformed { .. }))]));
    let many: Vec<Ask> = (0..300).map(|user| ask(&other, user)).collect();
    assert_eq!(question::of(&many).0.iter().map(|question| question.places.len()).collect::<Vec<_>>(), [128, 128, 44]);
}

const TIMEOUT: Duration = Duration::from_secs(20);

/// Servers of the test, and what asks them about `v`.
async fn fleet<const N: usize>(timeout: Duration) -> ([TcpListener; N], Served) {
    let listeners = listen().await;
    let served = asking(&listeners.each_ref(), timeout);
    (listeners, served)
}

async fn listen<const N: usize>() -> [TcpListener; N] {
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    listeners.try_into().unwrap()
}

fn asking(listeners: &[&TcpListener], timeout: Duration) -> Served {
    let upstream = |listener: &&TcpListener| {
        let address = listener.local_addr().unwrap();
        Upstream { authority: address.to_string().into(), host: address.ip().to_string().into(), port: address.port() }
    };
    let servers = listeners.iter().map(upstream).collect();
    let config = crate::config::FeatureServers { servers, timeout, max_in_flight: 8 };
    let features = features("p", &[view("v").build()], L2::FeatureServers(config.clone()), None);
    Served::unwatched(&config, &features, 1)
}

/// Answers every request the same, and counts them.
async fn serve(listener: &TcpListener, (status, body): (u16, &str), count: &Cell<u32>) {
    let one = async |mut socket: TcpStream| {
        let mut said = Vec::new();
        while socket.read_buf(&mut said).await.is_ok_and(|read| read > 0) {
            // The body's end; nothing in it looks like that.
            if said.ends_with(b"]}}") || said.ends_with(b"\r\n\r\n") && said.starts_with(b"GET") {
                said.clear();
                count.set(count.get() + 1);
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    let mut open = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => open.push(one(accepted.unwrap().0)),
            Some(()) = futures_util::StreamExt::next(&mut open) => {}
        }
    }
}

async fn always(listener: &TcpListener, answer: (u16, &str)) {
    serve(listener, answer, &Cell::new(0)).await;
}

const SEVEN: &str = r#"{"results":[{"values":[7],"statuses":["PRESENT"],"event_timestamps":["1970-01-01T00:00:05Z"]}],"metadata":{"feature_names":["v__f"]}}"#;

async fn read(served: &Served) -> Answer {
    served.read(WorkerId(0), &[ask(&view("v").build(), 1)]).await.pop().unwrap()
}

#[tokio::test]
async fn another_server_is_asked_where_one_fails_at_once() {
    let [broken, well] = &listen().await;
    let (served, scrape) = scratch(|| asking(&[broken, well], TIMEOUT));
    let (refusals, answers) = (Cell::new(0), Cell::new(0));
    let asks = async {
        for _ in 0..50 {
            assert_eq!(read(&served).await.unwrap(), Some(row(5, [int(7)])));
        }
    };
    tokio::select! {
        () = asks => {}
        () = serve(broken, (503, "\"no\""), &refusals) => {}
        () = serve(well, (200, SEVEN), &answers) => {}
    }
    assert_eq!(answers.get(), 50);
    let failed = refusals.get();
    assert!(failed <= breaker().failure_threshold, "{failed} requests to a server that fails: it is avoided at once");
    let text = scrape.render();
    let target = format!("target=\"feature_server/{}\"", well.local_addr().unwrap());
    assert!(text.contains(&format!("{{{target},outcome=\"answered\"}} 50\n")), "{text}");
}

#[tokio::test]
async fn no_other_server_is_asked_beyond_the_budget() {
    let [broken, well] = &listen().await;
    let (served, scrape) = scratch(|| asking(&[broken, well], TIMEOUT));
    while served.budget().withdraw(Instant::now()) {}
    let (refusals, answers) = (Cell::new(0), Cell::new(0));
    let asks = async {
        let mut asked = 1;
        while read(&served).await.is_ok() {
            asked += 1;
        }
        asked
    };
    let asked = tokio::select! {
        asked = asks => asked,
        () = serve(broken, (503, "\"no\""), &refusals) => unreachable!(),
        () = serve(well, (200, SEVEN), &answers) => unreachable!(),
    };
    assert_eq!((refusals.get(), answers.get()), (1, asked - 1), "each question went out once");
    assert!(scrape.render().contains("weir_feature_retries_denied_total 1\n"));
}

#[tokio::test]
async fn a_server_that_keeps_failing_is_not_asked() {
    let ([broken], served) = fleet::<1>(TIMEOUT).await;
    let count = Cell::new(0);
    let threshold = breaker().failure_threshold;
    let asks = async {
        for _ in 0..threshold {
            assert!(matches!(read(&served).await, Err(Error::Failed { why, .. }) if &*why == "500: no"));
        }
        assert!(!served.would_ask());
        assert!(matches!(read(&served).await, Err(Error::Open { .. })));
    };
    tokio::select! { () = asks => {}, () = serve(&broken, (500, "no"), &count) => {} }
    assert_eq!(count.get(), threshold);
}

#[tokio::test]
async fn a_fleet_is_unavailable_where_every_server_refuses() {
    let ([gone, there], served) = fleet::<2>(TIMEOUT).await;
    drop(gone);
    let threshold = breaker().failure_threshold;
    let checks = async {
        for _ in 0..threshold {
            served.ready().await.unwrap();
        }
        assert!(!served.is_unavailable(Instant::now()), "one answers");
    };
    tokio::select! { () = checks => {}, () = always(&there, (200, "")) => {} }
    drop(there);
    for _ in 0..threshold {
        served.ready().await.unwrap_err();
    }
    assert!(served.is_unavailable(Instant::now()));
    assert!(!served.is_unavailable(Instant::now() + breaker().open_for), "without traffic it does not go on");
}

#[tokio::test]
async fn what_a_server_says_of_the_request_is_no_failure() {
    let ([server], served) = fleet::<1>(TIMEOUT).await;
    let asks = async {
        for _ in 0..3 * breaker().failure_threshold {
            let error = read(&served).await.unwrap_err().to_string();
            assert!(error.ends_with(": 404: \"Feature view v does not exist\""), "{error}");
        }
        assert!(served.would_ask());
    };
    tokio::select! { () = asks => {}, () = always(&server, (404, "\"Feature view v does not exist\"")) => {} }
}

#[tokio::test]
async fn bytes_that_are_no_answer_are_a_failure() {
    let ([server], served) = fleet::<1>(TIMEOUT).await;
    let asks = async {
        for _ in 0..breaker().failure_threshold {
            assert!(matches!(read(&served).await, Err(Error::Failed { .. })));
        }
        assert!(!served.would_ask());
    };
    tokio::select! { () = asks => {}, () = always(&server, (200, "{}")) => {} }
}

#[tokio::test]
async fn an_answer_that_does_not_come_ends_the_read_in_time() {
    // It takes connections and says nothing.
    let ([_silent], served) = fleet::<1>(Duration::from_millis(20)).await;
    for _ in 0..breaker().failure_threshold {
        assert!(matches!(read(&served).await, Err(Error::TimedOut(_))));
    }
    assert!(matches!(read(&served).await, Err(Error::Open { .. })));
    let many: Vec<Ask> = (0..3000).map(|user| ask(&view("v").build(), user)).collect();
    assert_eq!(served.read(WorkerId(0), &many).await.len(), 3000);
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_may_be() {
    let ([_silent], served) = fleet::<1>(TIMEOUT).await;
    let eight = join_all((0..8).map(|_| read(&served)));
    tokio::select! {
        biased;
        _ = eight => unreachable!("nobody answers"),
        ninth = read(&served) => assert!(matches!(ninth, Err(Error::Full { .. })), "{ninth:?}"),
    }
    assert!(served.would_ask(), "what was given up says nothing of the server");
}

#[tokio::test]
async fn a_worker_has_no_more_connections_than_questions_under_way() {
    let ([server], served) = fleet::<1>(TIMEOUT).await;
    let (connections, questions) = (Cell::new(0), Cell::new(0));
    let one = async |mut socket: TcpStream| {
        connections.set(connections.get() + 1);
        let mut said = Vec::new();
        while socket.read_buf(&mut said).await.is_ok_and(|read| read > 0) {
            if said.ends_with(b"]}}") {
                said.clear();
                questions.set(questions.get() + 1);
                let answer = format!("HTTP/1.1 200 X\r\ncontent-length: {}\r\n\r\n{SEVEN}", SEVEN.len());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    let serving = async {
        let mut open = futures_util::stream::FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = server.accept() => open.push(one(accepted.unwrap().0)),
                Some(()) = futures_util::StreamExt::next(&mut open) => {}
            }
        }
    };
    // As many as may be, time and again.
    let asker = async || {
        for _ in 0..100 {
            assert_eq!(read(&served).await.unwrap(), Some(row(5, [int(7)])));
        }
    };
    tokio::select! { _ = join_all((0..8).map(|_| asker())) => {}, () = serving => {} }
    assert_eq!(questions.get(), 800);
    assert!((1..=8).contains(&connections.get()), "{}", connections.get());
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_answer_and_another_is_made() {
    let ([server], served) = fleet::<1>(TIMEOUT).await;
    let serving = async {
        // The first takes the request and goes away.
        let mut first = server.accept().await.unwrap().0;
        assert_ne!(first.read(&mut [0; 1024]).await.unwrap(), 0);
        drop(first);
        always(&server, (200, SEVEN)).await;
    };
    tokio::select! {
        row_of = read(&served) => assert_eq!(row_of.unwrap(), Some(row(5, [int(7)]))),
        () = serving => {}
    }
}

#[tokio::test]
async fn one_server_that_is_well_is_enough_to_be_ready() {
    let ([down, up], served) = fleet::<2>(TIMEOUT).await;
    drop(down);
    tokio::select! {
        ready = served.ready() => ready.unwrap(),
        () = always(&up, (200, "")) => {}
    }
    // Over connections of its own: those of before are nobody's.
    let served = asking(&[&up], TIMEOUT);
    let address = up.local_addr().unwrap();
    tokio::select! {
        ready = served.ready() => {
            let words = ready.unwrap_err();
            assert!(words.starts_with(&format!("feature server {address}: ")), "{words}");
            assert!(words.ends_with("/health answered 503 Service Unavailable"), "{words}");
        }
        () = always(&up, (503, "")) => {}
    }
}

#[tokio::test]
async fn a_check_that_passes_after_one_that_failed_has_the_server_tried_again() {
    let ([server], served) = fleet::<1>(TIMEOUT).await;
    let (count, threshold) = (Cell::new(0), breaker().failure_threshold);
    let sick = async {
        for _ in 0..threshold {
            served.ready().await.unwrap_err();
        }
        assert!(!served.would_ask(), "checks that fail are failures");
    };
    tokio::select! { () = sick => {}, () = serve(&server, (503, ""), &count) => {} }
    assert_eq!(count.get(), threshold);
    // The connections are of the last one's serving.
    let served = &served;
    let well = async {
        // An idle connection that nobody serves any more may be met first.
        while served.ready().await.is_err() {}
        for _ in 0..breaker().success_threshold {
            assert!(served.would_ask());
            assert_eq!(read(served).await.unwrap(), Some(row(5, [int(7)])));
        }
    };
    tokio::select! { () = well => {}, () = always(&server, (200, SEVEN)) => {} }
}

#[tokio::test]
async fn a_server_that_was_not_there_is_tried_again_as_soon_as_a_check_passes() {
    let slam = async |listener: &TcpListener| {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    let ([gone, broken], count) = (listen::<2>().await, Cell::new(0));
    let (gone_is_asked, broken_is_asked) = (asking(&[&gone], TIMEOUT), asking(&[&broken], TIMEOUT));
    let until_open = async |served: &Served| {
        let mut errors = Vec::new();
        loop {
            match read(served).await {
                Err(Error::Open { .. }) => return errors,
                answer => errors.push(answer.unwrap_err()),
            }
        }
    };
    tokio::select! {
        errors = until_open(&gone_is_asked) => {
            let is_gone = |error: &Error| matches!(error, Error::Unreachable { .. });
            assert!(!errors.is_empty() && errors.iter().all(is_gone), "{errors:?}");
        }
        () = slam(&gone) => {}
    }
    tokio::select! { _ = until_open(&broken_is_asked) => {}, () = serve(&broken, (500, "no"), &count) => {} }
    assert!(!gone_is_asked.would_ask() && !broken_is_asked.would_ask());

    // Both say that they are well. What one answered says more than its check; of the other nothing else is known.
    let checks = async {
        while gone_is_asked.ready().await.is_err() {}
        while broken_is_asked.ready().await.is_err() {}
        assert!(!broken_is_asked.would_ask(), "its breaker stays open for its time");
        for _ in 0..breaker().success_threshold {
            assert!(gone_is_asked.would_ask());
            assert_eq!(read(&gone_is_asked).await.unwrap(), Some(row(5, [int(7)])));
        }
    };
    tokio::select! { () = checks => {}, () = always(&gone, (200, SEVEN)) => {}, () = always(&broken, (200, SEVEN)) => {} }
}
