//! Attempts over gRPC, against an HTTP/2 server in this process: pushback, the deadline on the wire, cancellation.

use std::{convert::Infallible, sync::Mutex};

use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use super::*;

/// What a call is answered: headers of an answer that has only those, or, behind [`TRAILERS`], trailers behind a message; nothing:
/// it is not answered.
type Fields = &'static [(&'static str, &'static str)];

struct Http2 {
    authority: String,
    timeouts: Arc<Mutex<Vec<String>>>,
    /// Told when a call that is not answered is given up by the client.
    gone: Arc<Notify>,
}

/// Tells that a call is dropped.
struct Call(Arc<Notify>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Http2 {
    /// Answers each call with the next of `answers`, the last for ever.
    async fn start(answers: &'static [Fields]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (timeouts, gone) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (seen, told) = (timeouts.clone(), gone.clone());
        Tasks::default().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, told) = (seen.clone(), told.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let timeout = request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
                    let mut seen = seen.lock().unwrap();
                    let fields = answers[seen.len().min(answers.len() - 1)];
                    seen.push(timeout);
                    answer(fields, Call(told.clone()))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                Tasks::default()
                    .spawn(async move { drop(server.serve_connection(TokioIo::new(stream), service).await) });
            }
        });
        Self { authority, timeouts, gone }
    }

    fn timeouts(&self) -> Vec<String> {
        self.timeouts.lock().unwrap().clone()
    }
}

const TRAILERS: (&str, &str) = ("", "");

type Frames = futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

async fn answer(fields: Fields, call: Call) -> Result<Response<StreamBody<Frames>>, Infallible> {
    if fields.is_empty() {
        std::future::pending::<()>().await;
    }
    std::mem::forget(call);
    let map = |fields: Fields| {
        let field = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect::<HeaderMap>()
    };
    let (head, trailers) = match fields.iter().position(|field| *field == TRAILERS) {
        Some(at) => (&fields[..at], Some(&fields[at + 1..])),
        None => (fields, None),
    };
    let frames = trailers.map(|trailers| {
        let message = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]));
        vec![Ok(message), Ok(Frame::trailers(map(trailers)))]
    });
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames.unwrap_or_default())));
    *response.headers_mut() = map(head);
    Ok(response)
}

fn grpc_pool(server: &Http2) -> config::Pool {
    let mut pool = pool(&[&server.authority]);
    let endpoint = &mut pool.endpoints[0];
    endpoint.grpc = endpoint.http.take();
    pool
}

fn call() -> Enriched {
    let mut enriched = request();
    enriched.request.protocol = Protocol::Grpc;
    enriched.request.path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
    enriched
}

async fn status(predict: &Predict) -> String {
    let plan = plan(Duration::from_secs(20));
    let prediction = predict.run(call(), None, &plan, PoolId(0), Instant::now()).await.unwrap();
    prediction.headers["grpc-status"].to_str().unwrap().to_owned()
}

const OK: Fields = &[("content-type", "application/grpc"), ("grpc-status", "0")];
const NO: Fields = &[("content-type", "application/grpc"), ("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")];
const SOON: Fields = &[("content-type", "application/grpc"), ("grpc-status", "14"), ("grpc-retry-pushback-ms", "3")];

#[tokio::test]
async fn a_status_in_trailers_decides_whether_there_is_a_lesson_in_it() {
    const TYPE: (&str, &str) = ("content-type", "application/grpc");
    let server = Http2::start(&[
        &[TYPE, TRAILERS, ("grpc-status", "0")],
        &[TYPE, TRAILERS, ("grpc-status", "3")],
        &[TYPE, TRAILERS, ("grpc-status", "13")],
    ])
    .await;
    let predict = predict(grpc_pool(&server));
    let mut lessons = Vec::new();
    for _ in 0..3 {
        let plan = plan(Duration::from_secs(20));
        let prediction = predict.run(call(), None, &plan, PoolId(0), Instant::now()).await.unwrap();
        lessons.push(prediction.answered_in.is_some());
    }
    assert_eq!(lessons, [true, false, false]);
}

#[tokio::test]
async fn a_pushback_says_when_and_whether() {
    let server = Http2::start(&[SOON, NO, OK]).await;
    let (predict, scrape) = scratch(|| predict(grpc_pool(&server)));
    assert_eq!(status(&predict).await, "14");
    assert_eq!(server.timeouts().len(), 2, "once more, and then not");
    assert!(scrape.render().contains("weir_retries_denied_total{pool=\"p\",reason=\"pushback\"} 1\n"));
}

#[tokio::test]
async fn every_attempt_tells_what_is_left() {
    let server = Http2::start(&[SOON, SOON, OK]).await;
    assert_eq!(status(&predict(grpc_pool(&server))).await, "0");
    let left: Vec<u64> =
        server.timeouts().iter().map(|timeout| timeout.trim_end_matches('u').parse().unwrap()).collect();
    assert_eq!(left.len(), 3);
    assert!(left[0] <= 20_000_000 && left.windows(2).all(|pair| pair[1] + 3_000 <= pair[0]), "{left:?}");
}

#[test]
fn what_weir_says_itself_is_told_once_and_in_place_of_the_caller_s() {
    let now = Instant::now();
    let endpoint = Pool::new(&pool(&["127.0.0.1:1"]), 1, now).members()[0].clone();
    let mut enriched = call();
    let theirs = [
        ("weir-timeout-ms", "5000"),
        ("x-envoy-expected-rq-timeout-ms", "5000"),
        ("grpc-timeout", "5S"),
        ("x-request-id", "theirs"),
        ("content-type", "application/grpc+proto"),
        ("content-length", "7"),
        ("host", "theirs"),
        ("x-own", "theirs"),
    ];
    let field = |(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value));
    enriched.request.headers = Arc::new(theirs.into_iter().map(field).collect());
    let outgoing = Outgoing::new(enriched, "m", "m");
    for attempt in [200, 100] {
        let sent = outgoing.http2(&endpoint, Duration::from_millis(attempt)).unwrap();
        let told = |name: &str| {
            let values = sent.headers().get_all(name).into_iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(told("weir-timeout-ms"), [attempt.to_string()]);
        assert_eq!(told("x-envoy-expected-rq-timeout-ms"), [attempt.to_string()]);
        assert_eq!(told("grpc-timeout"), [format!("{}u", attempt * 1000)]);
        assert_eq!((told("x-request-id"), told("content-type")), (vec!["id".into()], vec!["application/grpc".into()]));
        assert_eq!((told("content-length"), told("host"), told("x-own")), (vec![], vec![], vec!["theirs".to_owned()]));
    }
}

#[tokio::test]
async fn a_caller_that_leaves_resets_the_stream() {
    let server = Http2::start(&[&[]]).await;
    let predict = predict(grpc_pool(&server));
    let plan = plan(Duration::from_secs(20));
    let asking = predict.run(call(), None, &plan, PoolId(0), Instant::now());
    let arrived = async {
        while server.timeouts().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { _ = asking => unreachable!("nobody answers"), () = arrived => {} }
    tokio::time::timeout(Duration::from_secs(10), server.gone.notified()).await.expect("the stream is reset");
}
