//! Circuit breakers as callers meet them: an open one lets nothing by and says for how long, a half-open one lets one probe by
//! at a time, and what is said too late or by a caller's own mistake moves nothing.
//!
//! Breakers trip at the first failure here, so that one counted by mistake shows.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use ::weir::proto::inference as pb;
use tokio::time::Instant;

use crate::{
    faults::answers,
    support::{
        Weir,
        faulty_model::{FaultyModel, Script, Speaks, Step},
        hand::{Arrival, Counting, Hand},
        http1::{Http1, Response},
        metrics::await_metric,
        process::{await_some, free_port, loopback, wait_until},
    },
};

const PATH: &str = "/v2/models/m/infer";
const OPEN_FOR: Duration = Duration::from_millis(500);
/// Far beyond what anything here takes.
const LIMIT: Duration = Duration::from_secs(20);
const OK: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const FAILED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";

/// One model, `m`, whose pool has these endpoints, a breaker that trips at the first failure, and no retries.
fn weir(endpoints: &[String], open_for: Duration) -> Weir {
    weir_with(endpoints, open_for, "retry: {max_retries: 0}, health: {interval: 1h}")
}

fn weir_with(endpoints: &[String], open_for: Duration, keys: &str) -> Weir {
    let (endpoints, open_for) = (endpoints.join(", "), open_for.as_millis());
    Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{endpoints}], breaker: {{failure_threshold: 1, open_for: {open_for}ms, \
         half_open_requests: 3, success_threshold: 3}}, {keys}}}\nmodels:\n  m: {{pool: p, timeout: 20s}}\n"
    ))
}

fn of(hand: &Hand) -> [String; 1] {
    [format!("\"{}\"", hand.endpoint())]
}

/// Waits until the endpoint's breaker is in that state.
#[track_caller]
fn await_state(weir: &Weir, endpoint: &str, state: &str) {
    let target = target(endpoint);
    await_metric(weir.admin(), "weir_breaker_state", &[("target", &target), ("state", state)], |is| is > 0.0);
}

fn transitions(weir: &Weir, endpoint: &str, to: &str) -> f64 {
    weir.metrics().count("weir_breaker_transitions_total", &[("target", &target(endpoint)), ("to", to)])
}

fn target(endpoint: &str) -> String {
    format!("p/{}", endpoint.trim_start_matches("http://"))
}

/// A caller of its own, whose answer comes in time or not at all.
fn ask(http: SocketAddr) -> Receiver<Response> {
    let (sender, answer) = channel();
    // The test may have ended and dropped the receiver.
    thread::spawn(move || drop(sender.send(Http1::connect(http).post(PATH, "{}"))));
    answer
}

#[track_caller]
fn received(answers: &Receiver<Response>) -> Response {
    answers.recv_timeout(LIMIT).expect("an answer comes")
}

/// One exchange: the upstream answers with these bytes.
#[track_caller]
fn exchange(weir: &Weir, hand: &Hand, bytes: &[u8]) -> Response {
    let answer = ask(weir.http());
    hand.arrival().write(bytes);
    received(&answer)
}

/// Opens the breaker and waits until it lets a probe by.
#[track_caller]
fn trip_and_wait(weir: &Weir, hand: &Hand) {
    exchange(weir, hand, FAILED).expect(500);
    // It opened before the answer came.
    let opened = Instant::now();
    wait_until("open_for to pass", LIMIT, || opened.elapsed() > OPEN_FOR);
}

/// The next probe, asked for until there is one.
#[track_caller]
fn probe(weir: &Weir, hand: &Hand, bytes: &[u8]) {
    exchange(weir, hand, bytes).expect(200);
}

/// Fails unless it is a level 4 answer that says to come back within `open_for`.
#[track_caller]
fn refused(answer: Response, open_for: Duration) {
    let answer = answer.expect(503);
    assert_eq!(answer.header("weir-level").as_deref(), Some("4"));
    let after: u64 = answer.header("retry-after").expect("a retry-after").parse().expect("seconds");
    let most = open_for.as_millis().div_ceil(1000);
    assert!(after > 0 && u128::from(after) <= most, "{after} s, of {open_for:?}");
    assert!(answer.error().contains("circuit breaker"), "{}", answer.error());
}

#[test]
fn sixteen_callers_at_once_are_one_probe() {
    let hand = Hand::listen();
    let weir = weir(&of(&hand), OPEN_FOR);
    trip_and_wait(&weir, &hand);
    let (start, http, (sender, answers)) = (Arc::new(Barrier::new(16)), weir.http(), channel());
    for _ in 0..16 {
        let (start, sender) = (start.clone(), sender.clone());
        thread::spawn(move || {
            let mut connection = Http1::connect(http);
            start.wait();
            drop(sender.send(connection.post(PATH, "{}")));
        });
    }
    let mut probe = hand.arrival();
    for _ in 0..15 {
        refused(received(&answers), OPEN_FOR);
    }
    await_state(&weir, &hand.endpoint(), "half_open");
    probe.write(OK);
    received(&answers).expect(200);
    assert_eq!(hand.pending(), 0, "one probe");
}

#[test]
fn while_one_endpoint_is_probed_another_answers() {
    let (hand, well) = (Hand::listen(), Counting::listen(OK_KEPT));
    let weir = weir(&[format!("\"{}\"", hand.endpoint()), format!("\"{}\"", well.endpoint())], OPEN_FOR);
    let (answer, mut arrival) = meet(&weir, &hand);
    arrival.write(FAILED);
    received(&answer).expect(500);
    let opened = Instant::now();
    wait_until("open_for to pass", LIMIT, || opened.elapsed() > OPEN_FOR);
    let before = well.count();
    let (sender, answers) = channel();
    for _ in 0..16 {
        let (sender, http) = (sender.clone(), weir.http());
        thread::spawn(move || drop(sender.send(Http1::connect(http).post(PATH, "{}"))));
    }
    let mut probe = hand.arrival();
    for _ in 0..15 {
        received(&answers).expect(200);
    }
    assert_eq!((well.count() - before, hand.pending()), (15, 0), "one probe, and no caller waits for it but its own");
    probe.write(OK);
    received(&answers).expect(200);
}

/// A request that one endpoint of several got: others are answered meanwhile.
#[track_caller]
fn meet(weir: &Weir, hand: &Hand) -> (Receiver<Response>, Arrival) {
    await_some("the endpoint to be asked", LIMIT, || {
        let (answer, mut arrival) = (ask(weir.http()), None);
        wait_until("an answer or an arrival", LIMIT, || {
            arrival = hand.waiting();
            arrival.is_some() || answer.try_recv().is_ok()
        });
        Some((answer, arrival?))
    })
}

#[test]
fn a_probe_whose_caller_went_away_leaves_its_place() {
    let hand = Hand::listen();
    let weir = weir(&of(&hand), OPEN_FOR);
    trip_and_wait(&weir, &hand);
    let mut caller = weir.connect();
    caller.send("POST", PATH, &[("content-type", "application/json")], b"{}");
    let mut arrival = hand.arrival();
    drop(caller);
    assert!(arrival.closed_within(LIMIT), "the probe is cancelled");
    // The place is free a moment before or after the connection is closed: who comes in between is refused.
    let (answer, mut arrival) = meet(&weir, &hand);
    arrival.write(OK);
    received(&answer).expect(200);
    await_state(&weir, &hand.endpoint(), "half_open");
    probe(&weir, &hand, OK);
    probe(&weir, &hand, OK);
    await_state(&weir, &hand.endpoint(), "closed");
    assert_eq!(transitions(&weir, &hand.endpoint(), "open"), 1.0);
}

#[test]
fn a_probe_that_fails_opens_again() {
    let hand = Hand::listen();
    let weir = weir(&of(&hand), OPEN_FOR);
    trip_and_wait(&weir, &hand);
    probe(&weir, &hand, OK);
    probe(&weir, &hand, OK);
    trip_and_wait(&weir, &hand);
    assert_eq!(transitions(&weir, &hand.endpoint(), "open"), 2.0);
    for _ in 0..3 {
        probe(&weir, &hand, OK);
    }
    await_state(&weir, &hand.endpoint(), "closed");
}

/// A request that was admitted while the breaker was closed, and is still to be answered.
#[track_caller]
fn early(weir: &Weir, hand: &Hand) -> (Receiver<Response>, Arrival) {
    let answer = ask(weir.http());
    (answer, hand.arrival())
}

#[test]
fn a_success_from_before_the_trip_closes_nothing() {
    let hand = Hand::listen();
    // Open for good, as far as this test sees.
    let weir = weir(&of(&hand), Duration::from_secs(60));
    let early: Vec<_> = (0..3).map(|_| early(&weir, &hand)).collect();
    exchange(&weir, &hand, FAILED).expect(500);
    await_state(&weir, &hand.endpoint(), "open");
    for (answer, mut arrival) in early {
        arrival.write(OK);
        received(&answer).expect(200);
    }
    refused_or_failed(&weir, &hand, Duration::from_secs(60));
    await_state(&weir, &hand.endpoint(), "open");
    assert_eq!(hand.pending(), 0);
}

/// A request that an open breaker refuses, or that is a probe ahead of its time, which fails: where this test takes longer than a second.
#[track_caller]
fn refused_or_failed(weir: &Weir, hand: &Hand, open_for: Duration) {
    let (answer, mut arrival, mut told) = (ask(weir.http()), None, None);
    wait_until("an answer or an arrival", LIMIT, || {
        arrival = hand.waiting();
        told = answer.try_recv().ok();
        arrival.is_some() || told.is_some()
    });
    match arrival {
        Some(mut arrival) => {
            arrival.write(FAILED);
            received(&answer).expect(500);
        }
        None => refused(told.expect("an answer or an arrival"), open_for),
    }
}

#[test]
fn a_failure_from_before_the_trip_opens_nothing() {
    let hand = Hand::listen();
    let weir = weir(&of(&hand), OPEN_FOR);
    let [half_open, closed] = [early(&weir, &hand), early(&weir, &hand)];
    trip_and_wait(&weir, &hand);
    probe(&weir, &hand, OK);
    fail_late(half_open);
    await_state(&weir, &hand.endpoint(), "half_open");
    probe(&weir, &hand, OK);
    probe(&weir, &hand, OK);
    await_state(&weir, &hand.endpoint(), "closed");
    fail_late(closed);
    await_state(&weir, &hand.endpoint(), "closed");
    assert_eq!(transitions(&weir, &hand.endpoint(), "open"), 1.0);
    exchange(&weir, &hand, OK).expect(200);
}

#[track_caller]
fn fail_late((answer, mut arrival): (Receiver<Response>, Arrival)) {
    arrival.write(FAILED);
    received(&answer).expect(500);
}

#[test]
fn no_4xx_ever_opens_a_breaker() {
    for (speaks, protocol) in [(Speaks::Http1, "v2 json"), (Speaks::Http2, "grpc")] {
        for fault in ["400", "404", "429"] {
            let model = answers::model(fault, protocol).expect("a known fault");
            let (well, address) = (answers::good("v2 json"), model.address());
            let weir = match speaks {
                Speaks::Http1 => weir(&[format!("\"http://{address}\"")], OPEN_FOR),
                Speaks::Http2 => weir(&[ports(&well, &model)], OPEN_FOR),
            };
            let endpoint = if speaks == Speaks::Http1 { address } else { well.address() }.to_string();
            let (mut http, mut grpc) = (weir.connect(), weir.connect_grpc());
            for _ in 0..100 {
                match speaks {
                    Speaks::Http1 => assert_eq!(http.post(PATH, "{}").status.to_string(), fault),
                    Speaks::Http2 => assert!(matches!(grpc.infer(&request()).status(), 3 | 5 | 8)),
                }
            }
            assert_eq!(model.requests(), 100, "{protocol} {fault}");
            await_state(&weir, &endpoint, "closed");
            assert_eq!(weir.metrics().count("weir_breaker_transitions_total", &[]), 0.0, "{protocol} {fault}");
        }
    }
}

fn request() -> pb::ModelInferRequest {
    pb::ModelInferRequest { model_name: "m".into(), ..Default::default() }
}

/// An endpoint with both ports, of which `well` answers the health checks.
fn ports(well: &FaultyModel, grpc: &FaultyModel) -> String {
    format!("{{http: \"http://{}\", grpc: \"http://{}\"}}", well.address(), grpc.address())
}

#[test]
fn an_open_breaker_means_no_arrivals() {
    let (model, well) = (answers::model("500", "v2 json").expect("a known fault"), Counting::listen(OK_KEPT));
    let endpoint = model.address().to_string();
    // Open for good, as far as this test sees.
    let endpoints = [format!("\"http://{endpoint}\""), format!("\"{}\"", well.endpoint())];
    let mut weir = weir(&endpoints, Duration::from_secs(300));
    let mut connection = weir.connect();
    wait_until("the endpoint to be asked", LIMIT, || connection.post(PATH, "{}").status == 500);
    await_state(&weir, &endpoint, "open");
    let before = well.count();
    for _ in 0..50 {
        connection.post(PATH, "{}").expect(200);
    }
    assert_eq!((model.requests(), well.count() - before), (1, 50));
    assert_eq!(transitions(&weir, &endpoint, "open"), 1.0);
    let log = weir.process().log();
    let moved: Vec<_> = log.lines().filter(|line| line.contains("circuit breaker opened")).collect();
    let told = ["WARN", &*target(&endpoint), "why=a failure", "open_for=300s"];
    assert!(matches!(*moved, [line] if told.iter().all(|told| line.contains(told))), "{log}");
}

/// Nobody else can be asked: one in a while finds out how it is, and the others hear at once when they may come again.
#[test]
fn where_all_breakers_are_open_each_request_is_refused_or_a_probe_ahead_of_its_time() {
    let open_for = Duration::from_secs(300);
    let model = answers::model("500", "v2 json").expect("a known fault");
    let endpoint = model.address().to_string();
    let weir = weir(&[format!("\"http://{endpoint}\"")], open_for);
    let mut connection = weir.connect();
    connection.post(PATH, "{}").expect(500);
    let (mut refusals, mut failures) = (0, 1);
    wait_until("two probes ahead of their time", LIMIT, || {
        let answer = connection.post(PATH, "{}");
        if answer.status == 500 {
            failures += 1;
        } else {
            refused(answer, Duration::from_secs(2));
            refusals += 1;
        }
        failures >= 3
    });
    assert!(refusals >= 2, "{refusals}");
    assert_eq!(model.requests(), failures);
    await_state(&weir, &endpoint, "open");
    assert_eq!(transitions(&weir, &endpoint, "open"), 1.0, "what fails ahead of its time moves nothing");
}

/// With default settings a breaker stays open for 30 s, longer than anything here takes.
#[test]
fn a_pool_whose_servers_are_back_does_not_wait_for_its_breakers() {
    for count in [1, 3] {
        let failing = Arc::new(AtomicBool::new(true));
        let script: Script = {
            let failing = failing.clone();
            Arc::new(move |_| {
                let answer = if failing.load(Ordering::SeqCst) { UNAVAILABLE } else { OK_KEPT };
                vec![Step::Send(answer.to_vec())]
            })
        };
        let models: Vec<_> = (0..count).map(|_| FaultyModel::listen(Speaks::Http1, script.clone())).collect();
        let endpoints: Vec<_> = models.iter().map(|model| format!("\"http://{}\"", model.address())).collect();
        let weir = Weir::start(&format!(
            "pools:\n  p: {{endpoints: [{}]}}\nmodels:\n  m: {{pool: p, timeout: 20s}}\n",
            endpoints.join(", ")
        ));
        let mut connection = weir.connect();
        wait_until("every breaker to open", LIMIT, || {
            connection.post(PATH, "{}").error().contains("the circuit breaker of every endpoint is open")
        });
        failing.store(false, Ordering::SeqCst);
        wait_until("an answer", LIMIT, || connection.post(PATH, "{}").status == 200);
        // One that is back is enough.
        wait_until("a breaker to close", LIMIT, || {
            connection.post(PATH, "{}");
            weir.metrics().count("weir_breaker_transitions_total", &[("to", "closed")]) >= 1.0
        });
        connection.post(PATH, "{}").expect(200);
    }
}

#[test]
fn an_open_breaker_says_so_over_grpc() {
    let (well, model) = (answers::good("v2 json"), answers::model("503", "grpc").expect("a known fault"));
    let weir = weir(&[ports(&well, &model)], Duration::from_secs(5));
    let mut connection = weir.connect_grpc();
    assert_eq!(connection.infer(&request()).status(), 14);
    await_state(&weir, &well.address().to_string(), "open");
    let mut asked = 1;
    let answer = await_some("a refusal", LIMIT, || {
        let answer = connection.infer(&request());
        // Else it was a probe ahead of its time: it is a second since.
        asked += usize::from(!answer.text().contains("circuit breaker"));
        answer.text().contains("circuit breaker").then_some(answer)
    });
    assert_eq!((answer.status(), answer.metadata("weir-level").as_deref()), (14, Some("4")));
    let after: u64 = answer.metadata("retry-after").expect("a retry-after").parse().expect("seconds");
    assert!((1..=5).contains(&after), "{after}");
    assert_eq!(model.requests(), asked);
}

const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";

/// As [`OK`], on a connection that stays.
const OK_KEPT: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";

/// What moves where a request meets an endpoint that is not well: how often its breaker opened, and requests were made again.
fn trouble(weir: &Weir, endpoint: &str) -> [f64; 2] {
    [transitions(weir, endpoint, "open"), weir.metrics().count("weir_retries_total", &[])]
}

/// Three endpoints of which one is dead: it takes requests again once it is back.
#[track_caller]
fn comes_back(keys: &str) {
    let [a, b] = [(); 2].map(|()| Counting::listen(OK_KEPT));
    let dead = loopback(free_port());
    let endpoints = [a.endpoint(), b.endpoint(), format!("http://{dead}")].map(|endpoint| format!("\"{endpoint}\""));
    let weir = weir_with(&endpoints, OPEN_FOR, keys);
    let mut connection = weir.connect();
    for _ in 0..50 {
        connection.post(PATH, "{}").expect(200);
    }
    assert_eq!(a.count() + b.count(), 50, "one that is dead costs no answer");
    let ok = Arc::new(|_| vec![Step::Send(OK_KEPT.to_vec())]);
    let back = FaultyModel::at(dead, Speaks::Http1, Vec::new(), ok);
    wait_until("the endpoint to take requests again", LIMIT, || {
        connection.post(PATH, "{}").expect(200);
        back.requests() >= 3
    });
    await_state(&weir, &dead.to_string(), "closed");
    let (before, had) = (back.requests(), trouble(&weir, &dead.to_string()));
    wait_until("the endpoint to take its share", LIMIT, || {
        connection.post(PATH, "{}").expect(200);
        back.requests() >= before + 5
    });
    assert_eq!(trouble(&weir, &dead.to_string()), had, "each of them was answered at once");
}

#[test]
fn an_endpoint_that_comes_back_is_found_by_its_health_check() {
    comes_back("retry: {max_retries: 2, initial_delay: 1ms, max_delay: 2ms}, health: {interval: 200ms}");
}

#[test]
fn an_endpoint_that_comes_back_is_found_by_probes() {
    // Without a health check that could say it is down: the server that answers those is another.
    let [a, b] = [(); 2].map(|()| (answers::good("v2 json"), answers::good("grpc")));
    let (well, dead) = (answers::good("v2 json"), loopback(free_port()));
    let third = format!("{{http: \"http://{}\", grpc: \"http://{dead}\"}}", well.address());
    let endpoints = [ports(&a.0, &a.1), ports(&b.0, &b.1), third];
    let keys = "retry: {max_retries: 2, initial_delay: 1ms, max_delay: 2ms}, health: {interval: 1h}";
    let weir = weir_with(&endpoints, OPEN_FOR, keys);
    let mut connection = weir.connect_grpc();
    let endpoint = well.address().to_string();
    wait_until("the breaker to open", LIMIT, || {
        assert_eq!(connection.infer(&request()).status(), 0, "one that is dead costs no answer");
        transitions(&weir, &endpoint, "open") >= 1.0
    });
    let greeting = vec![Step::Send(crate::support::http2::greeting())];
    let back = FaultyModel::at(dead, Speaks::Http2, greeting, answers::script("none", "grpc").expect("it is well"));
    wait_until("the endpoint to take requests again", LIMIT, || {
        assert_eq!(connection.infer(&request()).status(), 0);
        back.requests() >= 3
    });
    await_state(&weir, &endpoint, "closed");
    let (before, had) = (back.requests(), trouble(&weir, &endpoint));
    wait_until("the endpoint to take its share", LIMIT, || {
        assert_eq!(connection.infer(&request()).status(), 0);
        back.requests() >= before + 5
    });
    assert_eq!(trouble(&weir, &endpoint), had, "each of them was answered at once");
}
