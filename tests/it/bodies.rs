//! What is held of bodies has a bound over all requests, and a caller that stops taking its answer keeps nothing from others.

use std::thread;

use prost::Message as _;
use weir::proto::inference as pb;

use crate::support::{
    Weir,
    grpc::{SERVICE, framed, raw_input},
    hand::{Counting, Hand},
    http1::Http1,
    metrics::await_metric,
};

const PATH: &str = "/v2/models/m/infer";
/// Listens on any port of loopback, and more.
const LISTEN: &str = "listen: {http: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// `m` joins nothing, `joins` has a body decoded. A kilobyte may be held.
fn narrow(held: &str, busy: &str) -> Weir {
    Weir::start(&format!(
        "{LISTEN}, max_body: 1KiB, hold_body: 1KiB, hold_bodies: 1KiB}}\npools:\n  held: {{endpoints: [\"{held}\"]}}\n  \
         busy: {{endpoints: [\"{busy}\"], retry: {{max_retries: 1, initial_delay: 1ms, max_delay: 1ms}}}}\nmodels:\n  \
         held: {{pool: held, timeout: 60s}}\n  m: {{pool: busy, timeout: 20s}}\n  \
         joins: {{pool: busy, timeout: 20s, features: [{{view: users, join: {{user_id: user_id}}}}]}}\nfeatures:\n  views:\n    \
         users: {{entities: {{user_id: INT64}}, features: {{clicks: {{type: INT64, default: 0}}}}}}\n"
    ))
}

/// Over HTTP/1.1, whose caller is still there to be told.
#[test]
fn a_body_whose_chunks_are_none_is_its_callers_mistake() {
    let (well, slow) = (Counting::listen(OK), Hand::listen());
    let weir = Weir::start(&format!(
        "{LISTEN}, hold_body: 1KiB}}\npools:\n  held: {{endpoints: [\"{}\"]}}\n  well: {{endpoints: [\"{}\"]}}\nmodels:\n  \
         held: {{pool: held, timeout: 20s}}\n  m: {{pool: well}}\n",
        slow.endpoint(),
        well.endpoint()
    ));
    let head = |model: &str| {
        format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\n\r\n"
        )
    };
    // Held, and passed on as it comes: longer than what is held.
    for (model, chunk) in [("m", "2\r\n{}\r\n".to_owned()), ("held", format!("401\r\n{}\r\n", " ".repeat(0x401)))] {
        let mut connection = weir.connect();
        connection.send_raw(format!("{}{chunk}zz\r\n", head(model)).as_bytes());
        let answer = connection.receive().expect(400);
        assert!(answer.error().contains("chunked"), "{}", answer.error());
    }
    assert_eq!(well.count(), 0);
}

#[test]
fn bodies_beyond_the_bound_are_streamed_or_refused() {
    let (slow, busy) = (Hand::listen(), Counting::listen(BUSY));
    let weir = narrow(&slow.endpoint(), &busy.endpoint());
    let not_held = |outcome| weir.metrics().count("weir_bodies_not_held_total", &[("outcome", outcome)]);
    let mut connection = weir.connect();
    connection.post(PATH, "{}").expect(503);
    assert_eq!((busy.count(), not_held("streamed")), (2, 0.0), "there is room: held, and asked again");

    let mut full = weir.connect();
    full.send("POST", "/v2/models/held/infer", JSON, " ".repeat(1024).as_bytes());
    let arrival = slow.arrival();
    assert_eq!(weir.metrics().sum("weir_held_body_bytes", &[]), Some(1024.0));
    connection.post(PATH, "{}").expect(503);
    assert_eq!((busy.count(), not_held("streamed")), (3, 1.0), "passed on, once");
    let denied = weir.metrics().count("weir_retries_denied_total", &[("reason", "not_replayable")]);
    assert!((denied - 1.0).abs() < f64::EPSILON, "{denied}");
    let refused = connection.post("/v2/models/joins/infer", "{}").expect(429);
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert!(refused.error().contains("listen.hold_bodies"), "{}", refused.error());
    let refused = connection.post("/get-online-features", "{}");
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (429, Some("1")), "{}", refused.text());
    assert_eq!((busy.count(), not_held("refused")), (3, 2.0));

    arrival.answer("{}");
    full.receive().expect(200);
    await_metric(weir.admin(), "weir_held_body_bytes", &[], |held| held == 0.0);
    connection.post(PATH, "{}").expect(503);
    assert_eq!(busy.count(), 5, "held again");
}

#[test]
fn a_caller_that_leaves_gives_its_bytes_back() {
    let (slow, busy) = (Hand::listen(), Counting::listen(BUSY));
    let weir = narrow(&slow.endpoint(), &busy.endpoint());
    // One whose body is at the model, and one whose body does not come to its end.
    let mut sent = weir.connect();
    sent.send("POST", "/v2/models/held/infer", JSON, " ".repeat(500).as_bytes());
    let _arrival = slow.arrival();
    let mut half = weir.connect();
    half.send_raw(format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{{").as_bytes());
    await_metric(weir.admin(), "weir_held_body_bytes", &[], |held| held == 1000.0);
    drop((sent, half));
    await_metric(weir.admin(), "weir_held_body_bytes", &[], |held| held == 0.0);
}

#[test]
fn a_long_grpc_message_is_passed_on_before_it_has_all_come() {
    // A gateway that does not have the model says so as soon as it knows which one is wanted.
    let target = Weir::start("models: {}\n");
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{{http: \"http://{}\", grpc: \"http://{}\"}}]}}\nmodels:\n  m: {{pool: p, timeout: 60s}}\n",
        target.http(),
        target.grpc()
    ));
    let request = pb::ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![raw_input("x", "UINT8", &[200_000])],
        raw_input_contents: vec![vec![7; 200_000].into()],
        ..Default::default()
    };
    let message = framed(&request.encode_to_vec());
    let length = message.len().to_string();
    let path = format!("{SERVICE}/ModelInfer");
    // With its length and without: half of it is sent, and answered.
    for metadata in [&[("content-length", length.as_str())][..], &[]] {
        let head = weir.connect_grpc().half_a_call(&path, metadata, &message[..100_000]);
        assert_eq!(head["grpc-status"], "5", "{head:?}");
    }
}

/// One slot. Its requests wait for longer than the caller that keeps it may take nothing.
fn one_slot(endpoint: &str) -> Weir {
    Weir::start(&format!(
        "{LISTEN}, send_timeout: 200ms}}\ncapacity: {{slots: 1, shared: 0}}\ntiers:\n  only: {{pool: p, queue_timeout: 25s}}\n\
         pools:\n  p: {{endpoints: [\"{endpoint}\"]}}\nmodels:\n  m: {{tier: only, timeout: 60s}}\n"
    ))
}

/// More than the sockets on the way take.
const LONG: usize = 256 << 20;

#[test]
fn a_caller_that_takes_nothing_gives_its_slot_back() {
    let upstream = Hand::listen();
    let weir = one_slot(&upstream.endpoint());
    let mut idle = weir.connect();
    idle.send("POST", PATH, JSON, b"{}");
    let mut arrival = upstream.arrival();
    let writing = thread::spawn(move || {
        arrival.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n").as_bytes());
        arrival.write_as_far_as_it_goes(LONG)
    });
    assert_eq!(idle.receive_head(), 200);
    next_is_answered(&weir, &upstream);
    assert!(writing.join().expect("it ends") < LONG, "the model's server is told too");
    assert!(idle.closed(), "half an answer is no answer");
    assert_eq!(weir.metrics().count("weir_stalled_answers_total", &[]), 1.0);
}

#[test]
fn over_http2_too() {
    let upstream = Hand::listen();
    let weir = one_slot(&upstream.endpoint());
    let mut idle = weir.connect_grpc();
    let writing = thread::spawn(move || {
        let mut arrival = upstream.arrival();
        arrival.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n").as_bytes());
        (arrival.write_as_far_as_it_goes(LONG), upstream)
    });
    assert_eq!(idle.unread(PATH, b"{}")["weir-level"], "0");
    await_metric(weir.admin(), "weir_stalled_answers_total", &[], |stalled| stalled == 1.0);
    let (written, upstream) = writing.join().expect("it ends");
    assert!(written < LONG, "the model's server is told");
    next_is_answered(&weir, &upstream);
}

/// The slot is there for the next one.
fn next_is_answered(weir: &Weir, upstream: &Hand) {
    let mut next: Http1 = weir.connect();
    next.send("POST", PATH, JSON, b"{}");
    upstream.arrival().answer("{}");
    next.receive().expect(200);
}
