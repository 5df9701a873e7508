//! HTTP/2 connections to one endpoint: one a worker, shared by its requests, owned by a task.

use std::{io, time::Duration};

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
pub(super) struct Shared(Mutex<Option<SendRequest<RequestBody>>>);

impl Shared {
    /// The open connection, or a new one. Concurrent callers wait for one handshake.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next caller connects.
    pub(super) async fn sender(
        &self,
        upstream: &Upstream,
        timeout: Duration,
        tasks: &Tasks,
    ) -> io::Result<SendRequest<RequestBody>> {
        if let Ok(slot) = self.0.try_lock()
            && let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed())
        {
            return Ok(sender.clone());
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

    async fn connect(
        &self,
        upstream: &Upstream,
        timeout: Duration,
        tasks: &Tasks,
    ) -> io::Result<SendRequest<RequestBody>> {
        let mut slot = self.0.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
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
        *slot = Some(sender.clone());
        Ok(sender)
    }
}

/// Sends one request and waits for the answer's head.
///
/// # Cancel safety
///
/// Not cancel safe: dropped, the stream is reset, which tells the server that nobody waits.
pub(super) fn send(
    sender: &mut SendRequest<RequestBody>,
    request: Request<RequestBody>,
) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
    let response = sender.try_send_request(request);
    async { response.await.map_err(Failure::of_sending) }
}
