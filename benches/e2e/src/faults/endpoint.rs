//! The model server that faults happen to: it takes its time, and writes down when each inference arrived.
//!
//! Arrivals go to a file at once, one time of the monotonic clock each, so that what a killed process had seen is still known.
//! `PUT /behaviour` changes how inferences go ([`Behaviour`]); every `GET` says that it is ready, at once.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;

use crate::backend::{ANSWER, read};

struct Endpoint {
    behaviour: Mutex<Behaviour>,
    asked: AtomicU32,
    arrivals: File,
}

/// How inferences go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    /// How long each takes.
    pub(super) takes: Duration,
    /// What each is answered with.
    pub(super) status: u16,
    /// Every so many'th is not answered; 0: all are.
    pub(super) silent: u32,
}

impl Behaviour {
    pub(super) const fn well(takes: Duration) -> Self {
        Self { takes, status: 200, silent: 0 }
    }

    /// Written in words of a `PUT`.
    pub(super) fn words(self) -> String {
        format!("{} {} {}", self.takes.as_micros(), self.status, self.silent)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let takes = Duration::from_micros(words.next()?.parse().ok()?);
        Some(Self { takes, status: words.next()?.parse().ok()?, silent: words.next()?.parse().ok()? })
    }
}

/// Serves until the process is stopped.
pub(crate) async fn serve(address: SocketAddr, behaviour: &str, arrivals: &Path) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let arrivals = OpenOptions::new().append(true).create(true).open(arrivals).context("no place for arrivals")?;
    let behaviour = Mutex::new(Behaviour::parse(behaviour).context("no behaviour")?);
    let endpoint = Arc::new(Endpoint { behaviour, asked: AtomicU32::new(0), arrivals });
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
    let mut status = 200;
    let text = match *request.method() {
        Method::POST => {
            endpoint.note_arrival();
            read(request.into_body()).await;
            status = endpoint.compute().await;
            ANSWER
        }
        Method::PUT => {
            let words = read(request.into_body()).await;
            match std::str::from_utf8(&words).ok().and_then(Behaviour::parse) {
                Some(behaviour) => *endpoint.lock() = behaviour,
                None => status = 400,
            }
            "{}"
        }
        _ => r#"{"ready":true}"#,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Endpoint {
    fn note_arrival(&self) {
        // A count that is short shows as less extra load than there was; the disk being full would fail the run elsewhere.
        let _ = (&self.arrivals).write_all(&now().to_le_bytes());
    }

    /// Takes its time; the answer's status.
    async fn compute(&self) -> u16 {
        let Behaviour { takes, status, silent } = *self.lock();
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if silent > 0 && asked.is_multiple_of(silent) {
            std::future::pending::<()>().await;
        }
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        status
    }

    fn lock(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds of the monotonic clock, which all processes share.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_reads_as_it_is_written() {
        let behaviour = Behaviour { takes: Duration::from_millis(2), status: 500, silent: 10 };
        let read = Behaviour::parse(&behaviour.words()).expect("three words");
        assert_eq!((read.takes, read.status, read.silent), (behaviour.takes, 500, 10));
        assert!(Behaviour::parse("2000 200").is_none());
    }
}
