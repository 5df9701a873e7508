//! Active health checks: every endpoint is asked at its pool's interval, when the set changes, and when a caller wants to know, over
//! HTTP where it has that port, else over gRPC. One that failed, or whose breaker is open, is asked ten times as often, and fifty
//! times where requests find nobody to ask: as long as it is not known to be back, it serves nobody. One that takes its time to answer
//! holds up no other.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, uri::PathAndQuery};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{
    body::{AnswerStream, Held, RequestBody, Source},
    classify::Failure,
    endpoint::{Endpoint, Health},
    http1, http2,
    pool::Pool,
};
use crate::{
    app::Tasks,
    infer::{Protocol, WorkerId},
};

/// Longest health answer that is read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Checks of an endpoint that is out of use, in one interval.
const SICK_CHECKS: u32 = 10;

/// The same where requests find nobody to ask.
const WANTED_CHECKS: u32 = 50;

/// Checks the pool's endpoints for ever.
pub(super) async fn watch(pool: &Pool, worker: WorkerId, tasks: &Tasks) {
    let mut tick = every(pool.config.health.interval);
    let mut sick = every(pool.config.health.interval / SICK_CHECKS);
    let (mut checks, mut wanted_from) = (FuturesUnordered::new(), Instant::now());
    let mut under_way: Vec<Arc<Endpoint>> = Vec::new();
    loop {
        let all = tokio::select! {
            _ = tick.tick() => true,
            () = pool.changed.notified() => true,
            _ = sick.tick() => false,
            () = wanted(pool, wanted_from) => {
                wanted_from = Instant::now() + pool.config.health.interval / WANTED_CHECKS;
                false
            }
            Some(checked) = checks.next() => {
                under_way.retain(|endpoint| !Arc::ptr_eq(endpoint, &checked));
                continue;
            }
        };
        for endpoint in pool.members().iter().filter(|endpoint| all || endpoint.is_out()) {
            if !under_way.iter().any(|asked| Arc::ptr_eq(asked, endpoint)) {
                under_way.push(Arc::clone(endpoint));
                let endpoint = Arc::clone(endpoint);
                checks.push(async move {
                    check(pool, &endpoint, worker, tasks).await;
                    endpoint
                });
            }
        }
    }
}

/// Waits until a request finds nobody to ask, from a time on.
async fn wanted(pool: &Pool, from: Instant) {
    tokio::time::sleep_until(from).await;
    pool.wanted.notified().await;
}

fn every(period: Duration) -> Interval {
    let mut tick = interval(period.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Checks each endpoint once, all at the same time.
pub(super) async fn check_all(pool: &Pool, worker: WorkerId, tasks: &Tasks) {
    let members = pool.members();
    futures_util::future::join_all(members.iter().map(|endpoint| check(pool, endpoint, worker, tasks))).await;
}

async fn check(pool: &Pool, endpoint: &Arc<Endpoint>, worker: WorkerId, tasks: &Tasks) {
    let began = Instant::now();
    let asked = tokio::time::timeout(pool.config.health.timeout, ask(pool, endpoint, worker, tasks)).await;
    let verdict = match asked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(format!("no answer within {} ms", pool.config.health.timeout.as_millis())),
    };
    let now = if verdict.is_ok() { Health::Passing } else { Health::Failing };
    let ended = Instant::now();
    let before = endpoint.checked(now, ended - began, ended);
    if before.is_some_and(|before| before != now) {
        match verdict {
            Ok(()) => {
                tracing::info!(pool = %pool.name, endpoint = %endpoint.name(), "endpoint passes its health check")
            }
            Err(reason) => {
                tracing::warn!(pool = %pool.name, endpoint = %endpoint.name(), reason, "endpoint fails its health check");
            }
        }
    }
}

async fn ask(pool: &Pool, endpoint: &Arc<Endpoint>, worker: WorkerId, tasks: &Tasks) -> Result<(), String> {
    if endpoint.http.is_some() {
        ask_http(pool, endpoint, worker).await
    } else {
        ask_grpc(pool, endpoint, worker, tasks).await
    }
}

async fn ask_http(pool: &Pool, endpoint: &Arc<Endpoint>, worker: WorkerId) -> Result<(), String> {
    let upstream = endpoint.http.as_ref().expect("asked over HTTP where there is a port");
    let connect = pool.config.connect_timeout.min(pool.config.health.timeout);
    let mut lease = http1::lease(endpoint.idle(worker), upstream, connect).await.map_err(|error| error.to_string())?;
    let path = PathAndQuery::try_from(&*pool.config.health.path).map_err(|error| error.to_string())?;
    let request = http1::Request {
        verb: &Method::GET,
        path: &path,
        host: endpoint.host(Protocol::V2Json),
        headers: &HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static("weir-health"))]),
        own: &[],
        numbers: &[],
    };
    let (status, _) = lease.send(&request, RequestBody::Whole(None)).await.map_err(describe)?;
    hold(Source::Http1(Some(lease))).await?;
    if status == StatusCode::OK { Ok(()) } else { Err(format!("{} answered {status}", pool.config.health.path)) }
}

async fn ask_grpc(pool: &Pool, endpoint: &Arc<Endpoint>, worker: WorkerId, tasks: &Tasks) -> Result<(), String> {
    /// A frame around an empty `ServerReadyRequest`.
    const EMPTY: &[u8] = &[0, 0, 0, 0, 0];
    let upstream = endpoint.grpc.as_ref().expect("validated: an endpoint has a port");
    let connect = pool.config.connect_timeout.min(pool.config.health.timeout);
    let shared = endpoint.shared(worker);
    let mut line = shared.line(upstream, connect, tasks).await.map_err(|error| error.to_string())?;
    let uri = format!("http://{}/inference.GRPCInferenceService/ServerReady", upstream.authority);
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(RequestBody::Whole(Some(Bytes::from_static(EMPTY))))
        .map_err(|error| error.to_string())?;
    let (_, incoming) = http2::send(&mut line, request).await.map_err(describe)?.into_parts();
    match hold(Source::Http2(incoming)).await? {
        // `ServerReadyResponse { ready: true }` is field 1, varint 1, behind the frame's five bytes.
        Held::Whole(body, _) if body.get(5..) == Some(&[0x08, 0x01]) => Ok(()),
        _ => Err("ServerReady did not answer ready".into()),
    }
}

async fn hold(source: Source) -> Result<Held, String> {
    let stream = AnswerStream { head: Default::default(), source, guards: (None, None), limit: None };
    stream.hold(LONGEST_ANSWER).await.map_err(describe)
}

/// What went wrong, for people.
pub(super) fn describe(failure: Failure) -> String {
    match failure {
        Failure::Unsent(_) => "the connection closed before the check was sent".into(),
        Failure::Connect(error) => error.to_string(),
        Failure::Caller(_) | Failure::Spent => "the check's own body failed".into(),
        Failure::Broken(error) => error.to_string(),
        Failure::TimedOut(after) | Failure::Unconnected(after) => format!("no answer within {} ms", after.as_millis()),
    }
}
