//! The attempt loop against real sockets. Time is never asserted, only what arrived where and what came back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{times::has_stalled, *};
use crate::{
    config,
    enrich::Body,
    infer::{Caching, Deadline, InferRequest, Method, ModelId, Payload, Protocol, RequestId, TierId},
    resilience::breaker::Outcome,
    telemetry::scratch,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers each request on a connection with the next of `answers`, the last for ever. An answer that ends in
/// `!` is followed by a reset.
struct Server {
    authority: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (c, r) = (connections.clone(), requests.clone());
        Tasks::default().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                c.fetch_add(1, Ordering::SeqCst);
                Tasks::default().spawn(serve(stream, answers, r.clone()));
            }
        });
        Self { authority, connections, requests }
    }

    fn arrivals(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }
}

async fn serve(mut stream: TcpStream, answers: &'static [&'static str], requests: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    // Requests here are short: one read is one request.
    while let Ok(1..) = stream.read(&mut buffer).await {
        let index = requests.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let answer = answers[index];
        stream.write_all(answer.trim_end_matches('!').as_bytes()).await.unwrap();
        if answer.ends_with('!') {
            return;
        }
    }
}

fn pool(authorities: &[&str]) -> config::Pool {
    let upstream = |authority: &&str| {
        let (host, port) = authority.rsplit_once(':').unwrap();
        config::Upstream { authority: (*authority).into(), host: host.into(), port: port.parse().unwrap() }
    };
    config::Pool {
        name: "p".into(),
        endpoints: authorities
            .iter()
            .map(|a| config::Endpoint { name: (*a).into(), http: Some(upstream(a)), grpc: None, zone: None })
            .collect(),
        discovery: Vec::new(),
        balance: crate::fixture::balance(),
        region: None,
        failover: None,
        gpu: None,
        health: config::Health { path: "/".into(), interval: Duration::from_secs(5), timeout: Duration::from_secs(1) },
        breaker: config::Breaker {
            failure_threshold: 5,
            window: Duration::from_secs(10),
            success_rate: 0.8,
            open_for: Duration::from_secs(30),
            max_open_for: Duration::from_secs(30),
            half_open_requests: 3,
            success_threshold: 3,
        },
        retry: config::Retry {
            max_retries: 2,
            initial_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(2),
            multiplier: 2.0,
            jitter: 0.2,
        },
        retry_budget: 0.2,
        hedge: None,
        attempt_timeout: None,
        connect_timeout: Duration::from_secs(1),
        max_in_flight: None,
        limit: config::Limit::None,
    }
}

fn predict(pool: config::Pool) -> Predict {
    asking(pool, |_| {})
}

/// The same, of a model that is changed.
fn asking(pool: config::Pool, change: impl FnOnce(&mut config::Model)) -> Predict {
    let now = Instant::now();
    let lite = crate::fixture::config().models.remove(1);
    let mut model = config::Model { name: "m".into(), upstream: "m".into(), ..lite };
    change(&mut model);
    Predict {
        failovers: vec![None],
        awaited: vec![true],
        models: vec![Model::new(&model, &pool, now)],
        pools: vec![Pool::new(&pool, 1, now)],
        tasks: Tasks::default(),
    }
}

fn request() -> Enriched {
    let deadline = Deadline::after(Instant::now(), Duration::from_secs(20));
    let request = InferRequest {
        id: RequestId(HeaderValue::from_static("id")),
        worker: WorkerId(0),
        protocol: Protocol::V2Json,
        method: Method::Predict,
        verb: Verb::POST,
        path: PathAndQuery::from_static("/v2/models/m/infer"),
        model: ModelId(0),
        version: None,
        tier: TierId(0),
        deadline,
        caching: Caching::Allowed,
        headers: Arc::default(),
        json_length: None,
        payload: Payload::Retained(Bytes::new()),
        as_came: None,
    };
    Enriched { request: Box::new(request), body: Body::Whole(Bytes::from_static(b"{}")), json_length: None }
}

fn plan(timeout: Duration) -> Plan {
    let deadline = Deadline::after(Instant::now(), timeout);
    Plan { attempts: 3, ..Plan::full(ModelId(0), PoolId(0), TierId(0), deadline) }
}

async fn ask(predict: &Predict) -> Result<(u16, Vec<u8>), Error> {
    let prediction = predict.run(request(), None, &plan(Duration::from_secs(20)), PoolId(0), Instant::now()).await?;
    let body = match prediction.body {
        AnswerBody::Whole(bytes) => bytes.to_vec(),
        AnswerBody::Stream(body) => read(body).await,
    };
    Ok((prediction.status.as_u16(), body))
}

async fn read(mut body: http_body_util::combinators::UnsyncBoxBody<Bytes, Error>) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        whole.extend(frame.unwrap().into_data().unwrap());
    }
    whole
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Server::start(&[OK]).await;
    let predict = predict(pool(&[&server.authority]));
    for _ in 0..3 {
        assert_eq!(ask(&predict).await.unwrap(), (200, b"ok".to_vec()));
    }
    assert_eq!(server.arrivals(), (1, 3));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced_without_a_retry() {
    let server = Server::start(&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!"]).await;
    let predict = predict(pool(&[&server.authority]));
    for _ in 0..3 {
        ask(&predict).await.unwrap();
        tokio::task::yield_now().await;
    }
    let (_, requests) = server.arrivals();
    assert_eq!(requests, 3, "each request arrived once");
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again() {
    let server = Server::start(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal!", OK]).await;
    let predict = predict(pool(&[&server.authority]));
    assert_eq!(ask(&predict).await.unwrap(), (200, b"ok".to_vec()));
    assert_eq!(server.arrivals().1, 2);
}

#[tokio::test]
async fn an_unreadable_answer_is_asked_for_again_and_then_told() {
    let server = Server::start(&["garbage\r\n\r\n!"]).await;
    let predict = predict(pool(&[&server.authority]));
    let error = ask(&predict).await.unwrap_err();
    assert_eq!(error.kind(), Kind::BackendFailed);
    assert!(error.to_string().contains(&server.authority), "{error}");
    assert_eq!(server.arrivals().1, 3, "max_retries 2 are three attempts");
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_its_last_word_passes() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let server = Server::start(Box::leak(Box::new([busy]))).await;
    let predict = predict(pool(&[&server.authority]));
    assert_eq!(ask(&predict).await.unwrap(), (503, b"busy".to_vec()));
    assert_eq!(server.arrivals().1, 3);
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_not_asked_for_twice() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let server = Server::start(Box::leak(Box::new([busy]))).await;
    let predict = predict(pool(&[&server.authority]));
    let mut enriched = request();
    enriched.request.method = Method::Other;
    let plan = plan(Duration::from_secs(20));
    assert_eq!(predict.run(enriched, None, &plan, PoolId(0), Instant::now()).await.unwrap().status.as_u16(), 503);
    assert_eq!(server.arrivals().1, 1);
}

#[tokio::test]
async fn a_model_that_is_not_idempotent_is_asked_once() {
    for answer in ["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", "garbage\r\n\r\n!"] {
        let server = Server::start(Box::leak(Box::new([answer]))).await;
        let (predict, scrape) = scratch(|| asking(pool(&[&server.authority]), |model| model.idempotent = false));
        drop(ask(&predict).await);
        assert_eq!(server.arrivals().1, 1, "{answer}");
        assert!(scrape.render().contains("weir_retries_denied_total{pool=\"p\",reason=\"not_idempotent\"} 1\n"));
    }
}

#[tokio::test]
async fn what_never_reached_an_endpoint_is_asked_again_of_any_model() {
    let server = Server::start(&[OK]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let predict = asking(pool(&[&silent, &server.authority]), |model| model.idempotent = false);
    for _ in 0..8 {
        assert_eq!(ask(&predict).await.unwrap().0, 200);
    }
    assert_eq!(server.arrivals().1, 8);
}

/// A server whose queue is full takes no connection and refuses none.
#[tokio::test]
async fn an_attempt_that_found_no_connection_in_its_time_was_never_sent() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let full = listener.local_addr().unwrap();
    let _queue = [TcpStream::connect(full).await.unwrap(), TcpStream::connect(full).await.unwrap()];
    let server = Server::start(&[OK]).await;
    let settings = pool(&[&full.to_string(), &server.authority]);
    let (predict, scrape) = scratch(|| asking(settings, |model| model.idempotent = false));
    let plan = || Plan { attempt_timeout: Some(Duration::from_millis(500)), ..plan(Duration::from_secs(20)) };
    let failed = "weir_attempts_total{pool=\"p\",outcome=\"connect_failed\"} 0\n";
    while scrape.render().contains(failed) {
        let prediction = predict.run(request(), None, &plan(), PoolId(0), Instant::now()).await.unwrap();
        assert_eq!(prediction.status.as_u16(), 200);
    }
}

/// All of it is there, but nobody read it in time.
#[tokio::test]
async fn no_part_of_an_answer_is_handed_on_after_its_deadline() {
    let long: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n{}", "x".repeat(200_000)).into_boxed_str());
    let server = Server::start(Box::leak(Box::new([long]))).await;
    let predict = predict(pool(&[&server.authority]));
    let plan = plan(Duration::from_secs(2));
    let prediction = predict.run(request(), None, &plan, PoolId(0), Instant::now()).await.unwrap();
    let AnswerBody::Stream(mut body) = prediction.body else { panic!("it is longer than what is held") };
    tokio::time::sleep_until(plan.deadline.instant() + Duration::from_millis(2)).await;
    let late = loop {
        match body.frame().await.expect("it does not end well") {
            Ok(frame) => drop(frame),
            Err(late) => break late,
        }
    };
    assert_eq!(late.kind(), Kind::DeadlineExceeded);
}

#[tokio::test]
async fn no_retry_is_begun_that_could_not_be_answered() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let server = Server::start(Box::leak(Box::new([busy]))).await;
    let (predict, scrape) = scratch(|| predict(pool(&[&server.authority])));
    // Nothing was answered faster of late than the deadline leaves: the first attempt is made, and no other.
    predict.models[0].answered(Duration::from_secs(60), Instant::now());
    assert_eq!(ask(&predict).await.unwrap().0, 503);
    assert_eq!(server.arrivals().1, 1);
    assert!(scrape.render().contains("weir_retries_denied_total{pool=\"p\",reason=\"deadline\"} 1\n"));
}

#[tokio::test]
async fn an_endpoint_that_wants_to_be_left_alone_beyond_the_deadline_is() {
    for after in ["30", "18446744073709551615"] {
        let busy = format!("HTTP/1.1 429 Too Many Requests\r\nretry-after: {after}\r\ncontent-length: 4\r\n\r\nbusy");
        let server = Server::start(Box::leak(Box::new([&*busy.leak()]))).await;
        let predict = predict(pool(&[&server.authority]));
        for _ in 0..6 {
            assert_eq!(ask(&predict).await.unwrap().0, 429);
        }
        assert_eq!(server.arrivals().1, 6, "no retry, and being busy opens no breaker");
    }
}

#[test]
fn retry_after_is_that_of_the_endpoint_that_comes_back_first() {
    let predict = predict(pool(&["127.0.0.1:1", "127.0.0.1:2"]));
    let (pool, start) = (&predict.pools[0], Instant::now());
    for (index, later) in [(0, 0), (1, 7)] {
        let now = start + Duration::from_secs(later);
        let breaker = pool.members()[index].breaker.clone();
        (0..5).for_each(|_| breaker.admit(now).ok().unwrap().record(Outcome::Failure, now));
    }
    let now = start + Duration::from_millis(8_500);
    let want = Want { protocol: Protocol::V2Json, last: None, probing: true, asker: Asker::Caller };
    let error = pool.pick(&want, now).err().unwrap();
    assert_eq!(error.kind, Kind::Unavailable);
    assert_eq!(error.wait, Some(Duration::from_millis(21_500)));
}

#[tokio::test]
async fn a_models_own_failure_and_a_refusal_pass_at_once() {
    for (answer, status) in [
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 1\r\n\r\nx", 500),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 1\r\n\r\nx", 404),
    ] {
        let server = Server::start(Box::leak(Box::new([answer]))).await;
        let predict = predict(pool(&[&server.authority]));
        assert_eq!(ask(&predict).await.unwrap(), (status, b"x".to_vec()));
        assert_eq!(server.arrivals().1, 1);
    }
}

#[tokio::test]
async fn where_nobody_listens_another_endpoint_is_asked() {
    let server = Server::start(&[OK]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let predict = predict(pool(&[&silent, &server.authority]));
    for _ in 0..8 {
        assert_eq!(ask(&predict).await.unwrap().0, 200);
    }
    assert_eq!(server.arrivals().1, 8);
}

#[tokio::test]
async fn an_open_breaker_means_no_arrivals() {
    let server = Server::start(&["garbage\r\n\r\n!"]).await;
    let mut pool = pool(&[&server.authority]);
    pool.retry.max_retries = 0;
    let predict = predict(pool);
    for _ in 0..5 {
        assert_eq!(ask_once(&predict).await.unwrap_err().kind(), Kind::BackendFailed);
    }
    for _ in 0..5 {
        let error = ask_once(&predict).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.retry_after().unwrap() > Duration::from_secs(20), "the breaker's time left");
    }
    assert_eq!(server.arrivals().1, 5);
}

async fn ask_once(predict: &Predict) -> Result<Prediction, Error> {
    let plan = Plan { attempts: 1, ..plan(Duration::from_secs(20)) };
    predict.run(request(), None, &plan, PoolId(0), Instant::now()).await
}

#[tokio::test]
async fn a_silent_server_is_told_as_the_deadline() {
    let server = Server::start(&[""]).await;
    let predict = predict(pool(&[&server.authority]));
    let error =
        predict.run(request(), None, &plan(Duration::from_millis(300)), PoolId(0), Instant::now()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(error.may_have_acted(), "it has the request");
}

/// Once an attempt was sent that is told, whatever became of the ones after it.
#[tokio::test]
async fn it_is_told_whether_any_attempt_was_sent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let refused = ask(&predict(pool(&[&silent]))).await.err().unwrap();
    assert_eq!((refused.kind(), refused.may_have_acted()), (Kind::BackendFailed, false), "{refused}");
    let late = predict(pool(&[&silent]));
    let late = late.run(request(), None, &plan(Duration::ZERO), PoolId(0), Instant::now()).await.err().unwrap();
    assert_eq!((late.kind(), late.may_have_acted()), (Kind::DeadlineExceeded, false), "{late}");
    let breaks = Server::start(&["garbage\r\n\r\n!"]).await;
    let mut settings = pool(&[&breaks.authority, &silent]);
    settings.retry.max_retries = 1;
    let predict = predict(settings);
    for _ in 0..2 {
        let before = breaks.arrivals().1;
        let error = ask(&predict).await.err().unwrap();
        assert_eq!(error.may_have_acted(), breaks.arrivals().1 > before, "{error}");
    }
}

#[tokio::test]
async fn over_http_1_a_deadline_is_told_in_no_form_of_the_callers_own() {
    for (protocol, expected) in [(Protocol::V2Json, None), (Protocol::Grpc, Some("1H"))] {
        let mut enriched = request();
        enriched.request.protocol = protocol;
        Arc::make_mut(&mut enriched.request.headers).insert("grpc-timeout", HeaderValue::from_static("1H"));
        let predict = predict(pool(&["127.0.0.1:1"]));
        let outgoing = Outgoing::new(enriched, "m", "m");
        let sent =
            outgoing.http1(&predict.pools[0].members()[0], &Default::default()).headers.get("grpc-timeout").cloned();
        assert_eq!(sent.as_ref().map(|value| value.to_str().unwrap()), expected, "gRPC's is replaced: {protocol:?}");
    }
}

#[tokio::test]
async fn a_long_answer_passes_through() {
    let long: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n{}", "x".repeat(200_000)).into_boxed_str());
    let server = Server::start(Box::leak(Box::new([long]))).await;
    let predict = predict(pool(&[&server.authority]));
    for _ in 0..2 {
        assert_eq!(ask(&predict).await.unwrap().1.len(), 200_000);
    }
    assert_eq!(server.arrivals(), (1, 2), "the connection goes back after the last byte");
}

#[tokio::test]
async fn a_pool_without_the_port_says_which() {
    let predict = predict(pool(&["127.0.0.1:1"]));
    let mut enriched = request();
    enriched.request.protocol = Protocol::Grpc;
    let error =
        predict.run(enriched, None, &plan(Duration::from_secs(1)), PoolId(0), Instant::now()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Unimplemented);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn max_in_flight_is_kept() {
    let server = Server::start(&[""]).await;
    let mut pool = pool(&[&server.authority]);
    pool.max_in_flight = Some(1);
    let predict = predict(pool);
    let Some(_held) = predict.pools[0].members()[0].enter() else { panic!("room for one") };
    let error =
        predict.run(request(), None, &plan(Duration::from_secs(1)), PoolId(0), Instant::now()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Shed);
    assert_eq!(server.arrivals(), (0, 0));
}

mod advice;
mod grpc;
mod hedges;
mod tails;
mod takeovers;

#[tokio::test]
async fn an_endpoint_is_not_to_blame_that_it_had_hardly_any_time() {
    let server = Server::start(&[""]).await;
    let predict = predict(pool(&[&server.authority]));
    for _ in 0..10 {
        let error =
            predict.run(request(), None, &plan(Duration::from_millis(3)), PoolId(0), Instant::now()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
    }
    let members = predict.pools[0].members();
    assert!(members[0].breaker.is_closed() && members[0].estimate(Instant::now()) < 1.0);
}

/// Half of the answers take 50 ms, the fastest 5: who waits for 20 says nothing of the model, who waits for 100 does.
#[tokio::test(start_paused = true)]
async fn an_impatient_caller_lowers_no_model_for_others() {
    for (patience, is_to_blame) in [(20, false), (99, false), (100, true)] {
        let server = Server::start(&[""]).await;
        let mut pool = pool(&[&server.authority]);
        pool.breaker.failure_threshold = 20;
        let predict = asking(pool, |model| model.timeout = Duration::from_secs(5));
        let model = &predict.models[0];
        for took in [5, 50, 50, 50, 50, 60, 60, 60] {
            model.answered(Duration::from_millis(took), Instant::now());
        }
        for _ in 0..20 {
            let plan = Plan { attempts: 1, ..plan(Duration::from_millis(patience)) };
            drop(predict.run(request(), None, &plan, PoolId(0), Instant::now()).await);
        }
        assert_eq!(predict.timeouts(ModelId(0), Instant::now()) == Excess::Proven, is_to_blame, "{patience} ms");
        assert_eq!(predict.pools[0].members()[0].breaker.is_closed(), !is_to_blame, "{patience} ms");
    }
}

/// The slower its answers are, the fewer there are to learn that from.
#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_answer_within_its_own_timeout_is_to_blame_whatever_it_took() {
    for known in [None, Some(Duration::from_millis(180))] {
        let server = Server::start(&[""]).await;
        let timeout = Duration::from_millis(300);
        let predict = asking(pool(&[&server.authority]), |model| model.timeout = timeout);
        for _ in 0..8 {
            known.inspect(|took| predict.models[0].answered(*took, Instant::now()));
        }
        for _ in 0..5 {
            let plan = Plan { attempts: 1, ..plan(timeout / 2) };
            drop(predict.run(request(), None, &plan, PoolId(0), Instant::now()).await);
        }
        assert!(!predict.pools[0].members()[0].breaker.is_closed(), "{known:?}");
    }
}

/// A caller that gives 400 ms of a second, of a model of which half of the answers take 500.
#[tokio::test(start_paused = true)]
async fn a_caller_s_own_deadline_is_no_measure_of_the_model() {
    for (is_callers, is_closed) in [(true, true), (false, false)] {
        let server = Server::start(&[""]).await;
        let predict = asking(pool(&[&server.authority]), |model| model.timeout = Duration::from_secs(1));
        (0..8).for_each(|_| predict.models[0].answered(Duration::from_millis(500), Instant::now()));
        for _ in 0..5 {
            let (now, left) = (Instant::now(), Duration::from_millis(400));
            let deadline = if is_callers { Deadline::asked(now, left) } else { Deadline::after(now, left) };
            let plan = Plan { deadline, model_by: deadline, ..plan(left) };
            drop(predict.run(request(), None, &plan, PoolId(0), now).await);
        }
        assert_eq!(predict.pools[0].members()[0].breaker.is_closed(), is_closed, "{is_callers}");
    }
}

/// Where the first retry waits for 100 ms, two attempts share little of a short deadline.
#[tokio::test]
async fn a_model_of_which_nothing_is_known_has_all_the_time_that_there_is() {
    let mut pool = pool(&["127.0.0.1:1"]);
    (pool.retry.initial_delay, pool.retry.max_delay) = (Duration::from_secs(19), Duration::from_secs(19));
    let (predict, began) = (predict(pool), Instant::now());
    let plan = plan(Duration::from_secs(20));
    let run = Run {
        predict: &predict,
        pool: &predict.pools[0],
        home: PoolId(0),
        model: &predict.models[0],
        worker: WorkerId(0),
        plan: &plan,
        started: began,
    };
    let outgoing = Outgoing::new(request(), "m", "m");
    let times = |made| {
        let attempt = run.begin(&outgoing, (made, None), began).ok().unwrap();
        (attempt.limit, attempt.part)
    };
    let left = plan.model_by.remaining(began);
    assert_eq!(
        (times(0), times(1)),
        ((left, left / 3), (left, left / 2)),
        "half of a second would be too short for any answer"
    );
    predict.models[0].answered(Duration::from_millis(50), began);
    let (limit, part) = times(0);
    assert!(limit == left && part < Duration::from_secs(1), "two fit, and the wait between them: {part:?}");
}

/// With default retries, whose waits are of 100 and 200 ms: attempts that could never be made are not planned for.
#[tokio::test]
async fn an_attempt_leaves_the_waits_to_the_attempts_after_it() {
    let retry = config::Retry {
        initial_delay: Duration::from_millis(100),
        max_delay: Duration::from_secs(1),
        ..pool(&[]).retry
    };
    let predict = predict(config::Pool { retry: retry.clone(), ..pool(&["127.0.0.1:1"]) });
    let now = Instant::now();
    let outgoing = Outgoing::new(request(), "m", "m");
    let part = |predict: &Predict, millis: u64, made: u32| {
        let deadline = Deadline::after(now, Duration::from_millis(millis));
        let plan = Plan { deadline, model_by: deadline, ..plan(Duration::ZERO) };
        let run = Run {
            predict,
            pool: &predict.pools[0],
            home: PoolId(0),
            model: &predict.models[0],
            worker: WorkerId(0),
            plan: &plan,
            started: now,
        };
        run.begin(&outgoing, (made, None), now).ok().unwrap().part
    };
    assert_eq!(part(&predict, 900, 0), Duration::from_millis(300), "nothing is known");
    let fast = predict;
    let predict = self::predict(config::Pool { retry, ..pool(&["127.0.0.1:1"]) });
    fast.models[0].answered(Duration::from_millis(5), now);
    for (left, made, millis) in [(200, 0, 50), (900, 0, 200), (500, 1, 150), (100, 1, 100), (100, 2, 100)] {
        assert_eq!(part(&fast, left, made), Duration::from_millis(millis), "{left} ms after {made}");
    }
    // Nothing was answered in less than 80 ms of late: two of 50 ms would bring no answer.
    predict.models[0].answered(Duration::from_millis(80), now);
    assert_eq!(part(&predict, 200, 0), Duration::from_millis(200));
    assert_eq!(part(&predict, 900, 0), Duration::from_millis(200));
}

/// What a pool's limit and a model's median learn from.
#[tokio::test]
async fn an_answer_took_its_own_attempts_time_without_the_wait_before_it() {
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let server = Server::start(&[BUSY, OK, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"]).await;
    let mut pool = pool(&[&server.authority]);
    (pool.retry.initial_delay, pool.retry.jitter) = (Duration::from_millis(200), 0.0);
    pool.retry.max_delay = pool.retry.initial_delay;
    let predict = predict(pool);
    let plan = plan(Duration::from_secs(20));
    let ask = || predict.run(request(), None, &plan, PoolId(0), Instant::now());
    let retried = ask().await.unwrap();
    let alone = retried.answered_in.expect("it is an answer");
    assert!(alone + Duration::from_millis(200) <= retried.took, "{alone:?} of {:?}", retried.took);
    assert_eq!(ask().await.unwrap().answered_in, None, "how fast it says no is no lesson");
}

#[tokio::test]
async fn time_waited_in_vain_is_told_without_the_waits_between() {
    let server = Server::start(&["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", ""]).await;
    let mut pool = pool(&[&server.authority]);
    (pool.retry.initial_delay, pool.retry.jitter) = (Duration::from_millis(100), 0.0);
    pool.retry.max_delay = pool.retry.initial_delay;
    let predict = predict(pool);
    predict.models[0].answered(Duration::from_millis(1), Instant::now());
    let plan = Plan { attempts: 2, ..plan(Duration::from_millis(300)) };
    let began = Instant::now();
    let error = predict.run(request(), None, &plan, PoolId(0), began).await.unwrap_err();
    let waited = error.waited().expect("nothing was answered");
    assert!(waited + Duration::from_millis(100) <= began.elapsed(), "{waited:?} of {:?}", began.elapsed());
    let late = predict.run(request(), None, &plan, PoolId(0), plan.deadline.instant()).await.unwrap_err();
    assert_eq!((late.kind(), late.waited()), (Kind::DeadlineExceeded, None), "nobody was asked");
}

#[tokio::test]
async fn where_nobody_is_left_for_a_retry_the_answer_at_hand_is_told() {
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let server = Server::start(&[BUSY]).await;
    let mut pool = config::Pool { max_in_flight: Some(1), ..pool(&[&server.authority]) };
    pool.retry.initial_delay = Duration::from_millis(300);
    pool.retry.max_delay = Duration::from_millis(300);
    let (predict, scrape) = scratch(|| predict(pool));
    let endpoint = predict.pools[0].members()[0].clone();
    let taken = async {
        while server.arrivals().1 == 0 {
            tokio::task::yield_now().await;
        }
        loop {
            // Free again while the retry is waited for.
            if let Some(place) = endpoint.enter() {
                break place;
            }
            tokio::task::yield_now().await;
        }
    };
    let (answer, _place) = tokio::join!(ask(&predict), taken);
    assert_eq!(answer.unwrap(), (503, b"busy".to_vec()));
    assert_eq!(server.arrivals().1, 1);
    let text = scrape.render();
    assert!(text.contains("weir_retries_total{pool=\"p\"} 0\n"), "{text}");
    let now = Instant::now();
    let all = predict.pools[0].budget.available(now);
    assert!(predict.pools[0].budget.withdraw(now) && all >= 100, "{all}");
}

/// Nobody answers: with the clock paused, every attempt ends at its time.
#[tokio::test(start_paused = true)]
async fn a_model_is_timing_out_where_its_predictions_do() {
    for (last, expected) in [(Method::Predict, Excess::Proven), (Method::Other, Excess::OfFew)] {
        let server = Server::start(&[""]).await;
        let mut pool = pool(&[&server.authority]);
        pool.breaker.failure_threshold = 100;
        let predict = predict(pool);
        let timeout = Duration::from_millis(10);
        let plan = Plan { attempts: 1, attempt_timeout: Some(timeout), ..plan(Duration::from_secs(20)) };
        let ask = async |method| {
            let mut request = request();
            request.request.method = method;
            let error = predict.run(request, None, &plan, PoolId(0), Instant::now()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::DeadlineExceeded, "{error}");
        };
        for _ in 0..19 {
            ask(Method::Predict).await;
        }
        assert_eq!(predict.timeouts(ModelId(0), Instant::now()), Excess::OfFew, "few prove nothing");
        ask(last).await;
        assert_eq!(predict.timeouts(ModelId(0), Instant::now()), expected, "{last:?}");
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(predict.timeouts(ModelId(0), later), Excess::None, "quiet begins with the last one");
    }
}

#[tokio::test]
async fn a_pool_that_names_an_exporter_tells_how_full_its_gpus_are() {
    let page = "HTTP/1.1 200 OK\r\ncontent-length: 29\r\n\r\nvllm:kv_cache_usage_perc 0.95";
    let exporter = Server::start(Box::leak(Box::new([page]))).await;
    let mut pool = pool(&[&exporter.authority]);
    let server = pool.endpoints[0].http.clone().unwrap();
    pool.gpu = Some(config::Gpu { server, path: "/metrics".into(), interval: Duration::from_secs(60) });
    let predict = Arc::new(predict(pool));
    assert_eq!(predict.gpu_memory(PoolId(0), Instant::now()), None);
    predict.watch(WorkerId(0));
    let known = async {
        while predict.gpu_memory(PoolId(0), Instant::now()).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), known).await.unwrap();
    assert_eq!(predict.gpu_memory(PoolId(0), Instant::now()), Some(0.95));
    assert_eq!(predict.gpu_memory(PoolId(0), Instant::now() + Duration::from_secs(1000)), None);
    predict.tasks.finish().await;
}

#[tokio::test]
async fn a_process_that_slept_through_its_timeouts_blames_no_endpoint() {
    const LIMIT: Duration = Duration::from_millis(20);
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = hangs.local_addr().unwrap().to_string();
    let mut config = pool(&[&authority]);
    config.attempt_timeout = Some(LIMIT);
    let predict = predict(config);
    let breaker = &predict.pools[0].members()[0].breaker;
    for _ in 0..10 {
        let sleeps = async {
            tokio::task::yield_now().await;
            std::thread::sleep(LIMIT * 3);
        };
        let plan = Plan { attempts: 1, attempt_timeout: Some(LIMIT), ..plan(Duration::from_secs(20)) };
        let (answered, ()) = tokio::join!(predict.run(request(), None, &plan, PoolId(0), Instant::now()), sleeps);
        assert_eq!(answered.unwrap_err().kind(), Kind::DeadlineExceeded);
        assert!(breaker.is_closed());
    }
}

#[test]
fn a_timeout_told_in_time_is_the_endpoint_s() {
    let ms = Duration::from_millis;
    for (had, took, expected) in [
        (ms(20), ms(20), false),
        (ms(12), ms(21), false),
        (ms(12), ms(22), true),
        (ms(200), ms(299), false),
        (ms(200), ms(300), true),
        (ms(20), ms(10), false),
    ] {
        assert_eq!(has_stalled(had, took), expected, "{had:?} {took:?}");
    }
}
