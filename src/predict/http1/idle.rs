//! A worker's idle connections to one endpoint, and the lease on one in use.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};

use super::{Connection, Error, Request};
use crate::{
    config::Upstream,
    predict::{SWEEP_EVERY, body::RequestBody, classify::Failure},
};

/// Idle connections a worker keeps an endpoint; more are closed.
const MAX_IDLE: usize = 256;
/// A connection that more sweeps than this found idle is closed: after about a minute.
const MOST_IDLE_SWEEPS: u32 = (60 / SWEEP_EVERY.as_secs()) as u32;

/// A connection as it goes from hand to hand, which its own size would slow down.
type Handed = Box<Connection>;

/// One worker's idle connections to one endpoint.
#[derive(Default)]
pub(in crate::predict) struct Idle(Mutex<Vec<Handed>>);

impl Idle {
    /// Takes the most recently used connection that still works, with the slot to give it back to.
    fn take(self: &Arc<Self>) -> Option<Lease> {
        loop {
            let connection = self.lock().pop()?;
            if connection.is_usable() {
                return Some(Lease { connection, idle: Arc::clone(self) });
            }
        }
    }

    /// Closes what the server closed and what was idle too long. Idle time is counted in sweeps: a request looks at no clock
    /// to give its connection back.
    pub(in crate::predict) fn sweep(&self) {
        self.lock().retain_mut(|connection| {
            connection.idle_sweeps += 1;
            connection.idle_sweeps <= MOST_IDLE_SWEEPS && connection.is_usable()
        });
    }

    /// Closes all of them.
    pub(in crate::predict) fn clear(&self) {
        let connections = std::mem::take(&mut *self.lock());
        drop(connections);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Handed>> {
        // A panic while a Vec is pushed or popped leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Dropped, it closes the connection; released, it goes back to the pool.
pub(in crate::predict) struct Lease {
    pub(super) connection: Handed,
    pub(super) idle: Arc<Idle>,
}

impl Lease {
    /// Whether the connection was opened for this request, which took time.
    pub(in crate::predict) const fn is_new(&self) -> bool {
        self.connection.sent == 0
    }

    /// Sends one request and waits for the answer's head.
    ///
    /// # Errors
    ///
    /// `Unsent` where nothing of it was written, with the body; else `Broken`.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: the lease is of no more use, and dropping it closes the connection, which tells the server that nobody
    /// waits.
    pub(in crate::predict) async fn send(
        &mut self,
        request: &Request<'_>,
        body: RequestBody,
    ) -> Result<(StatusCode, HeaderMap), Failure> {
        self.connection.begin(request, body);
        std::future::poll_fn(|cx| self.connection.poll_head(request.verb, cx)).await
    }

    /// The next part of the answer's body; what is left of the request's goes out meanwhile.
    pub(in crate::predict) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.connection.poll_frame(cx)
    }

    /// Whether all of the answer was taken.
    pub(in crate::predict) const fn is_end_stream(&self) -> bool {
        self.connection.body.is_end()
    }

    /// What is still to come of the answer.
    pub(in crate::predict) fn size_hint(&self) -> SizeHint {
        self.connection.size_hint()
    }

    /// Gives the connection back; it is closed unless both its sides came to an end, and a caller's upload with it.
    pub(in crate::predict) fn release(self) {
        let Self { mut connection, idle } = self;
        if !connection.is_at_rest() {
            return;
        }
        connection.shrink();
        connection.idle_sweeps = 0;
        let mut connections = idle.lock();
        if connections.len() < MAX_IDLE {
            connections.push(connection);
        }
    }
}

/// Takes an idle connection or opens one.
///
/// # Cancel safety
///
/// Cancel safe: a connection half made is closed.
pub(in crate::predict) async fn lease(idle: &Arc<Idle>, upstream: &Upstream, timeout: Duration) -> io::Result<Lease> {
    if let Some(lease) = idle.take() {
        return Ok(lease);
    }
    // Boxed: a request that finds a connection does not carry the room for making one.
    let connection = Box::pin(Connection::open(upstream, timeout)).await?;
    Ok(Lease { connection: Box::new(connection), idle: Arc::clone(idle) })
}
