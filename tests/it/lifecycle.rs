//! From start to drain: readiness says what is missing, connections are kept, and SIGTERM loses nothing.

use std::{io::Write, thread, time::Duration};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use crate::{
    support::{
        Redis, Weir,
        hand::Hand,
        http1::{self, Http1},
        metrics::await_metric,
        process::{free_port, listening, loopback, wait_until},
    },
    world::{
        BEFORE_TRITON, FRAUD_DETECTOR, FRAUD_PATH, TRITON, first_number, fraud_config, fraud_request, near, score,
    },
};

const DRAIN: Duration = Duration::from_secs(20);

/// One model, `m`, on an upstream that the test plays.
fn before(hand: &Hand) -> Weir {
    Weir::start(&format!(
        "pools:\n  hand: {{endpoints: [\"{}\"]}}\nmodels:\n  m: {{pool: hand, timeout: 20s}}\ndrain: {{delay: 0s, deadline: \
         20s}}\n",
        hand.endpoint()
    ))
}

fn slow_request(millis: u32) -> String {
    json!({"inputs": [{"name": "millis", "datatype": "FP32", "shape": [1], "data": [millis]}]}).to_string()
}

#[test]
fn readyz_says_what_is_missing() {
    let redis = Redis::start();
    redis.kill();
    let dead = loopback(free_port());
    let config = fraud_config(&format!("redis: [{}]", redis.url()), "")
        .replace(&TRITON.endpoint(), &format!("\"http://{dead}\""));
    let weir = Weir::unready(&config, &[]);
    let address = redis.address().to_string();
    // At first it only says that it starts.
    wait_until("what is missing to be named", Duration::from_secs(30), || {
        let text = http1::get(weir.admin(), "/readyz").expect(503).text();
        ["triton", &address].iter().all(|missing| text.contains(missing))
    });
    http1::get(weir.admin(), "/livez").expect(200);
    redis.restart();
    wait_until("the store to be found", Duration::from_secs(30), || {
        !http1::get(weir.admin(), "/readyz").text().contains("redis")
    });
    assert!(http1::get(weir.admin(), "/readyz").expect(503).text().contains("triton"));
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let config = format!(
        "pools:\n  triton: {{endpoints: [{}]}}\nmodels:\n  slow: {{pool: triton, timeout: 20s}}\ndrain: {{delay: 500ms, deadline: \
         20s}}\n",
        TRITON.endpoint()
    );
    let mut weir = Weir::start(&config);
    let (http, admin) = (weir.http(), weir.admin());
    let in_flight = thread::spawn(move || http1::post(http, "/v2/models/slow/infer", slow_request(3000)));
    await_metric(admin, "weir_tier_slots_in_use", &[], |count| count >= 1.0);
    weir.process().signal("TERM");
    // Not ready, but still accepting for the delay.
    wait_until("/readyz to say that it drains", Duration::from_secs(5), || {
        http1::try_get(admin, "/readyz") != Some(200)
    });
    let answer = in_flight.join().expect("the caller was answered").expect(200);
    near(first_number(&answer.json()), 3000.0);
    assert_eq!(weir.process().wait(DRAIN).code(), Some(0));
    assert!(!listening(http));
}

#[test]
fn after_the_delay_no_connection_is_taken() {
    let hand = Hand::listen();
    let mut weir = before(&hand);
    let http = weir.http();
    let mut idle = weir.connect();
    idle.get("/v2/health/live").expect(200);
    let caller = thread::spawn(move || http1::post(http, "/v2/models/m/infer", "{}"));
    let arrival = hand.arrival();
    weir.process().signal("TERM");
    wait_until("connections to be refused", DRAIN, || !listening(http));
    assert!(idle.closed(), "an idle connection is closed");
    assert_eq!(weir.process().ended(), None, "a request is in flight");
    arrival.answer("{\"outputs\": []}");
    let answer = caller.join().expect("the caller was answered").expect(200);
    assert_eq!(answer.json(), json!({"outputs": []}));
    assert_eq!(weir.process().wait(DRAIN).code(), Some(0));
}

#[test]
fn the_drain_has_an_end() {
    let hand = Hand::listen();
    let config = format!(
        "pools:\n  hand: {{endpoints: [\"{}\"]}}\nmodels:\n  m: {{pool: hand, timeout: 60s}}\ndrain: {{delay: 0s, deadline: \
         300ms}}\n",
        hand.endpoint()
    );
    let mut weir = Weir::start(&config);
    let mut caller = weir.connect();
    caller.send("POST", "/v2/models/m/infer", &[("content-type", "application/json")], b"{}");
    let _never_answered = hand.arrival();
    weir.process().signal("TERM");
    weir.process().wait(DRAIN);
}

#[test]
fn a_caller_that_leaves_cancels_the_attempt() {
    let hand = Hand::listen();
    let weir = before(&hand);
    let mut caller = weir.connect();
    caller.send("POST", "/v2/models/m/infer", &[("content-type", "application/json")], b"{}");
    let mut arrival = hand.arrival();
    drop(caller);
    assert!(arrival.closed_within(Duration::from_secs(10)), "the attempt goes on for nobody");
    assert_eq!(hand.pending(), 0, "and is not made again");
}

#[test]
fn a_caller_that_does_not_read_holds_up_its_model_and_not_the_memory() {
    const LENGTH: usize = 64 << 20;
    let hand = Hand::listen();
    let weir = before(&hand);
    let mut caller = weir.connect();
    caller.send("POST", "/v2/models/m/infer", &[("content-type", "application/json")], b"{}");
    let mut arrival = hand.arrival();
    arrival.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes());
    let body = vec![b'x'; LENGTH];
    // What sockets and bounded buffers hold, and no more: who is held up for a second is held up for good.
    let taken = arrival.write_until_held_up(&body, Duration::from_secs(1));
    assert!(taken < LENGTH, "nobody read it, and all of it was taken");
    let rest = thread::spawn(move || arrival.write_until_held_up(&body[taken..], Duration::from_secs(10)));
    let answer = caller.receive().expect(200);
    assert_eq!(answer.body.len(), LENGTH);
    assert_eq!(rest.join().expect("it was written"), LENGTH - taken);
}

#[test]
fn a_deadline_goes_out_with_what_remains() {
    let hand = Hand::listen();
    let weir = before(&hand);
    let mut caller = weir.connect();
    let headers = [("content-type", "application/json"), ("weir-timeout-ms", "7000")];
    caller.send("POST", "/v2/models/m/infer", &headers, b"{}");
    let arrival = hand.arrival();
    let remains: u64 = arrival.header("weir-timeout-ms").expect("the deadline").parse().expect("milliseconds");
    assert!((1..=7000).contains(&remains), "{remains}");
    assert_eq!(arrival.body, b"{}");
    arrival.answer("{\"outputs\": []}");
    caller.receive().expect(200);
    // And is kept: the upstream never answers.
    let headers = [("content-type", "application/json"), ("weir-timeout-ms", "200")];
    caller.send("POST", "/v2/models/m/infer", &headers, b"{}");
    let _never_answered = hand.arrival();
    caller.receive().expect(504);
}

#[test]
fn connections_are_kept() {
    let mut connection = BEFORE_TRITON.connect();
    let body =
        json!({"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).to_string();
    for _ in 0..20 {
        connection.post("/v2/models/fraud/infer", &body).expect(200);
        connection.get("/v2/health/live").expect(200);
    }
    // Two requests in one write are answered in order.
    let request = |id: &str| {
        let body = body.replacen('{', &format!("{{\"id\":\"{id}\","), 1);
        format!("POST /v2/models/fraud/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    connection.send_raw(format!("{}{}", request("first"), request("second")).as_bytes());
    for id in ["first", "second"] {
        assert_eq!(connection.receive().expect(200).json()["id"], id);
    }
    let answer = connection.request("GET", "/v2/health/live", &[("connection", "close")], b"").expect(200);
    assert_eq!(answer.json(), json!({"live": true}));
    assert!(connection.closed());
    let mut old = Http1::connect(BEFORE_TRITON.http());
    old.send_raw(b"GET /v2/health/live HTTP/1.0\r\n\r\n");
    old.receive().expect(200);
    assert!(old.closed());
}

#[test]
fn expect_continue_is_granted_before_the_body() {
    for (weir, path, body) in [
        (&*BEFORE_TRITON, "/v2/models/slow/infer", slow_request(0)),
        (&*FRAUD_DETECTOR, FRAUD_PATH, fraud_request(1001, "m-2", 1.0)),
    ] {
        let mut connection = weir.connect();
        connection.send_raw(
            format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: \
                 {}\r\n\r\n",
                body.len()
            )
            .as_bytes(),
        );
        assert_eq!(connection.receive_head(), 100);
        connection.send_raw(body.as_bytes());
        connection.receive().expect(200);
    }
}

#[test]
fn gzip_bodies() {
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    };
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    // Decoded where features are joined, passed on where nothing is.
    let body = gzip(&fraud_request(1001, "m-2", 250.0));
    let answer = FRAUD_DETECTOR.connect().request("POST", FRAUD_PATH, &headers, &body).expect(200);
    near(first_number(&answer.json()), score(250.0, 7.0, 1.5, 0.125));
    let body = gzip(&slow_request(1));
    BEFORE_TRITON.connect().request("POST", "/v2/models/slow/infer", &headers, &body).expect(200);
}

#[test]
fn trailers_pass() {
    let hand = Hand::listen();
    let weir = before(&hand);
    let mut caller = weir.connect();
    caller.send("POST", "/v2/models/m/infer", &[("content-type", "application/json"), ("te", "trailers")], b"{}");
    hand.arrival().write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntrailer: x-checksum\r\ntransfer-encoding: chunked\r\n\r\n\
          2\r\n{}\r\n0\r\nx-checksum: abc\r\n\r\n",
    );
    let answer = caller.receive().expect(200);
    assert_eq!(answer.body, b"{}");
    let expected = [("x-checksum".to_owned(), "abc".to_owned())];
    assert_eq!(answer.trailers, expected, "{:?}", answer.headers);
}

#[test]
fn a_cut_answer_is_no_answer() {
    let hand = Hand::listen();
    let weir = before(&hand);
    let mut caller = weir.connect();
    caller.send("POST", "/v2/models/m/infer", &[("content-type", "application/json")], b"{}");
    // Held until whole, so the caller gets an error in words and the connection goes on. Retries may ask again.
    let cut = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"outputs\":";
    let cutter = thread::spawn(move || {
        while let Ok(mut arrival) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hand.arrival())) {
            arrival.write(cut);
        }
    });
    assert!(!caller.receive().expect(502).error().is_empty());
    caller.get("/v2/health/live").expect(200);
    drop(weir);
    drop(cutter);
}
