//! Extra attempts: a slow endpoint costs no answer, what that costs is bounded, and nothing is asked twice that must not be.

use std::time::Duration;

use crate::support::{
    Weir,
    hand::{Counting, Hand},
    metrics::await_metric,
    process::wait_until,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const PATH: &str = "/v2/models/m/infer";
const ONCE: &str = "/v2/models/once/infer";

/// Two models, of which `once` is not idempotent, on a pool with these endpoints and further keys.
fn config(endpoints: &[String], keys: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "pools:\n  p: {{endpoints: [{}], {keys}}}\nmodels:\n  m: {{pool: p, timeout: 20s}}\n  \
         once: {{pool: p, timeout: 20s, idempotent: false}}\n",
        endpoints.join(", ")
    )
}

const ALWAYS: &str = "retry: {budget: 1.0}, hedge: {after: 1ms, share: 1.0}";

#[test]
fn a_stopped_server_costs_no_answer() {
    // Processes that can be stopped: gateways, each before a model of its own.
    let models = [(); 2].map(|()| Counting::listen(OK));
    let [mut stopped, alive] = models.each_ref().map(|model| Weir::start(&config(&[model.endpoint()], "")));
    let endpoints = [&stopped, &alive].map(|server| format!("http://{}", server.http()));
    // Its health check would find it out too.
    let keys = "health: {interval: 1h}, retry: {budget: 1.0}, hedge: {after: 50ms, share: 1.0}";
    let weir = Weir::start(&config(&endpoints, keys));
    await_metric(weir.admin(), "weir_endpoint_healthy", &[("pool", "p")], |healthy| healthy == 2.0);
    stopped.process().signal("STOP");
    // Of two that were never asked either may be first; then the one that still was not looks free.
    let mut connection = weir.connect();
    for _ in 0..2 {
        connection.post(PATH, "{}").expect(200);
    }
    stopped.process().signal("CONT");
    await_metric(weir.admin(), "weir_hedges_total", &[("pool", "p"), ("outcome", "won")], |won| won >= 1.0);
}

#[test]
fn a_percentile_is_learned_from_answers() {
    let models = [(); 2].map(|()| Counting::listen(OK));
    let [mut stopped, alive] = models.each_ref().map(|model| Weir::start(&config(&[model.endpoint()], "")));
    let endpoints = [&stopped, &alive].map(|server| format!("http://{}", server.http()));
    let keys = "health: {interval: 1h}, retry: {budget: 1.0}, hedge: {after: p95, share: 1.0}";
    let weir = Weir::start(&config(&endpoints, keys));
    let hedges =
        |outcome: &'static str| weir.metrics().count("weir_hedges_total", &[("pool", "p"), ("outcome", outcome)]);
    let mut connection = weir.connect();
    for _ in 0..19 {
        connection.post(PATH, "{}").expect(200);
    }
    assert!(hedges("won") + hedges("lost") < 0.5, "known before there were enough answers");
    for _ in 0..100 {
        connection.post(PATH, "{}").expect(200);
    }
    stopped.process().signal("STOP");
    wait_until("a hedge to win", Duration::from_secs(60), || {
        connection.post(PATH, "{}").expect(200);
        hedges("won") > 0.0
    });
    stopped.process().signal("CONT");
}

#[test]
fn the_loser_is_cancelled() {
    let [a, b] = [(); 2].map(|()| Hand::listen());
    let weir = Weir::start(&config(&[a.endpoint(), b.endpoint()], ALWAYS));
    let mut connection = weir.connect();
    connection.send("POST", PATH, &[("content-type", "application/json")], b"{}");
    let (mut given_up, answered) = (a.arrival(), b.arrival());
    for arrival in [&given_up, &answered] {
        let left: u64 = arrival.header("weir-timeout-ms").and_then(|left| left.parse().ok()).expect("what is left");
        assert!((1..=20_000).contains(&left), "{left}");
    }
    answered.answer("{\"outputs\":[]}");
    connection.receive().expect(200);
    assert!(given_up.closed_within(Duration::from_secs(20)), "the slower attempt goes on for nobody");
    await_metric(weir.admin(), "weir_attempts_total", &[("outcome", "cancelled")], |count| count == 1.0);
}

#[test]
fn a_caller_that_leaves_cancels_both_attempts() {
    let [a, b] = [(); 2].map(|()| Hand::listen());
    let weir = Weir::start(&config(&[a.endpoint(), b.endpoint()], ALWAYS));
    let mut connection = weir.connect();
    connection.send("POST", PATH, &[("content-type", "application/json")], b"{}");
    let mut arrivals = [a.arrival(), b.arrival()];
    drop(connection);
    assert!(arrivals.iter_mut().all(|arrival| arrival.closed_within(Duration::from_secs(20))));
}

#[test]
fn what_it_costs_is_bounded_by_the_share() {
    let slow = [(); 2].map(|()| Counting::slow(OK, Duration::from_millis(20)));
    let keys = "retry: {max_retries: 0}, hedge: {after: 1ms, share: 0.1}";
    let weir = Weir::start(&config(&slow.each_ref().map(Counting::endpoint), keys));
    let mut connection = weir.connect();
    for _ in 0..100 {
        connection.post(PATH, "{}").expect(200);
    }
    let arrivals = slow.iter().map(Counting::count).sum::<usize>();
    assert!((101..=110).contains(&arrivals), "100 requests, at most 10 hedges: {arrivals}");
    let metrics = weir.metrics();
    assert!((1.0..=10.0).contains(&metrics.count("weir_hedges_total", &[])), "{}", metrics.lines_of("weir_hedges"));
    assert!(metrics.count("weir_hedges_denied_total", &[("reason", "share")]) > 0.0);
}

#[test]
fn a_model_that_is_not_idempotent_is_never_asked_twice() {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";
    let slow = [(); 2].map(|()| Counting::slow(BUSY, Duration::from_millis(20)));
    let keys = format!("{ALWAYS}, breaker: {{failure_threshold: 1000}}");
    let weir = Weir::start(&config(&slow.each_ref().map(Counting::endpoint), &keys));
    let mut connection = weir.connect();
    let arrivals = || slow.iter().map(Counting::count).sum::<usize>();
    for _ in 0..10 {
        connection.post(ONCE, "{}").expect(503);
    }
    assert_eq!(arrivals(), 10, "neither hedged nor asked again");
    connection.post(PATH, "{}").expect(503);
    assert!(arrivals() > 11, "the other model is, on the same pool: {}", arrivals());
}

#[test]
fn an_endpoint_that_asks_to_wait_beyond_the_deadline_is_not_asked_again() {
    const LATER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";
    let busy = Counting::listen(LATER);
    let weir = Weir::start(&config(&[busy.endpoint()], "retry: {max_retries: 2}"));
    let answer = weir.connect().post(PATH, "{}").expect(503);
    assert_eq!(answer.header("retry-after").as_deref(), Some("60"));
    assert_eq!(busy.count(), 1);
}

#[test]
fn only_bodies_that_are_held_are_sent_again() {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";
    let busy = Counting::listen(BUSY);
    let keys = "retry: {max_retries: 1, initial_delay: 1ms, max_delay: 1ms}";
    let weir = Weir::start(&format!(
        "listen: {{http: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", hold_body: 1KiB}}\n{}",
        config(&[busy.endpoint()], keys)
    ));
    let mut connection = weir.connect();
    connection.post(PATH, " ".repeat(1024)).expect(503);
    assert_eq!(busy.count(), 2);
    connection.post(PATH, " ".repeat(1025)).expect(503);
    assert_eq!(busy.count(), 3);
    let denied = weir.metrics().count("weir_retries_denied_total", &[("reason", "not_replayable")]);
    assert!((denied - 1.0).abs() < f64::EPSILON, "{denied}");
}
