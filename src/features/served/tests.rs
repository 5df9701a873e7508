//! Rows out of recorded JSON, and which server is asked.

mod answers;

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

fn typed(name: &str, features: &[(&str, FeatureType)]) -> Arc<View> {
    let feature =
        |&(name, kind): &(&str, FeatureType)| Feature { name: name.into(), kind, default: Value::Null, length: None };
    let plain = view(name).build();
    Arc::new(View { features: features.iter().map(feature).collect(), ..View::clone(&plain) })
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
