//! HTTP/2 connections to one endpoint: one a worker, shared by its requests, owned by a task.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex;

use super::{body::RequestBody, classify::Failure};
use crate::{app::Tasks, config::Upstream};

/// Flow-control windows large enough for tensors: the protocol's 64 KiB would stall every one.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// One worker's connection to one endpoint.
#[derive(Default)]
pub(super) struct Shared(Mutex<Option<Line>>);

/// A connection as a request holds it.
#[derive(Clone)]
pub(super) struct Line {
    sender: SendRequest<RequestBody>,
    /// Whether it ever brought an answer.
    proven: Arc<AtomicBool>,
}

impl Line {
    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it ever brought an answer: one that did and then takes no request was closed by its server in good order.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// The open connection, or a new one. Concurrent callers wait for one handshake.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next caller connects.
    pub(super) async fn line(&self, upstream: &Upstream, timeout: Duration, tasks: &Tasks) -> io::Result<Line> {
        if let Ok(slot) = self.0.try_lock()
            && let Some(line) = slot.as_ref().filter(|line| !line.is_closed())
        {
            return Ok(line.clone());
        }
        // Boxed: a request that finds a connection does not carry the room for making one.
        Box::pin(self.connect(upstream, timeout, tasks)).await
    }

    /// Lets go of the connection, which ends with its last stream. One that is just being made ends with the endpoint.
    pub(super) fn close(&self) {
        if let Ok(mut slot) = self.0.try_lock() {
            slot.take();
        }
    }

    async fn connect(&self, upstream: &Upstream, timeout: Duration, tasks: &Tasks) -> io::Result<Line> {
        let mut slot = self.0.lock().await;
        if let Some(line) = slot.as_ref().filter(|line| !line.is_closed()) {
            return Ok(line.clone());
        }
        let stream = super::endpoint::connect(upstream, timeout).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tasks.background(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
        });
        let line = Line { sender, proven: Arc::default() };
        *slot = Some(line.clone());
        Ok(line)
    }
}

/// Sends one request and waits for the answer's head.
///
/// # Cancel safety
///
/// Not cancel safe: dropped, the stream is reset, which tells the server that nobody waits.
pub(super) fn send(
    line: &mut Line,
    request: Request<RequestBody>,
) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
    let response = line.sender.try_send_request(request);
    async {
        let response = response.await.map_err(Failure::of_sending)?;
        line.proven.store(true, Ordering::Relaxed);
        Ok(response)
    }
}
