//! The model server that faults happen to: it takes its time, and writes down when each inference arrived.
//!
//! Arrivals go to a file at once, one time of the monotonic clock each, so that what a killed process had seen is still known.
//! `PUT /takes` with a number of microseconds makes it slower or faster; every `GET` says that it is ready, at once.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;

use crate::backend::{ANSWER, read};

struct Endpoint {
    /// Microseconds.
    takes: AtomicU64,
    arrivals: File,
}

/// Serves until the process is stopped.
pub(crate) async fn serve(address: SocketAddr, takes: u64, arrivals: &Path) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let arrivals = OpenOptions::new().append(true).create(true).open(arrivals).context("no place for arrivals")?;
    let endpoint = Arc::new(Endpoint { takes: AtomicU64::new(takes), arrivals });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, endpoint.clone()));
            // A caller that goes away in the middle of a request is what half of this part is about.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, endpoint: Arc<Endpoint>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = match *request.method() {
        Method::POST => {
            endpoint.note_arrival();
            read(request.into_body()).await;
            endpoint.compute().await;
            ANSWER
        }
        Method::PUT => {
            let takes = read(request.into_body()).await;
            let takes = std::str::from_utf8(&takes).ok().and_then(|takes| takes.parse().ok());
            endpoint.takes.store(takes.unwrap_or_default(), Ordering::Relaxed);
            "{}"
        }
        _ => r#"{"ready":true}"#,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Endpoint {
    fn note_arrival(&self) {
        // A count that is short shows as less extra load than there was; the disk being full would fail the run elsewhere.
        let _ = (&self.arrivals).write_all(&now().to_le_bytes());
    }

    async fn compute(&self) {
        let takes = self.takes.load(Ordering::Relaxed);
        if takes > 0 {
            tokio::time::sleep(Duration::from_micros(takes)).await;
        }
    }
}

/// Nanoseconds of the monotonic clock, which all processes share.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
