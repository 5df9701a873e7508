//! HTTP/1 connections to one endpoint.
//!
//! A connection has no task of its own: whoever uses it polls it, so a request costs no wake-up of another task. An idle one
//! is polled before reuse, which finds those that the server closed meanwhile.

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};

use super::{body::RequestBody, classify::Failure};
use crate::config::Upstream;

type Driver = http1::Connection<TokioIo<TcpStream>, RequestBody>;

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    driver: Box<Driver>,
    state: State,
    /// Whether the last request's body was streamed: then its answer may have come before all of it was sent.
    streamed: bool,
    idle_since: Instant,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// The driver finished: polling it again would panic.
    Closed,
}

impl Connection {
    /// Connects and shakes hands.
    pub(super) async fn open(upstream: &Upstream, timeout: Duration) -> io::Result<Self> {
        let stream = super::endpoint::connect(upstream, timeout).await?;
        // Not `max_headers`: once set, hyper allocates room for them on the heap for every answer.
        let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Box::new(driver), state: State::Open, streamed: false, idle_since: Instant::now() })
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        // An error reaches the request through its own future; here it only means closed.
        if self.state == State::Open && Pin::new(&mut *self.driver).poll(cx).is_ready() {
            self.state = State::Closed;
        }
    }

    /// Whether an idle connection can take a request.
    fn poll_usable(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.state == State::Open && self.sender.is_ready()
    }

    /// Queues the request at once; the future waits for the answer's head.
    fn send(&mut self, request: Request<RequestBody>) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        self.streamed = matches!(request.body(), RequestBody::Stream { .. });
        let response = self.sender.try_send_request(request);
        let (driver, state) = (&mut self.driver, &mut self.state);
        async move {
            let mut response = pin!(response);
            let sent = std::future::poll_fn(|cx| {
                if *state == State::Open && Pin::new(&mut **driver).poll(cx).is_ready() {
                    *state = State::Closed;
                }
                response.as_mut().poll(cx)
            });
            sent.await.map_err(Failure::of_sending)
        }
    }
}

/// One worker's idle connections to one endpoint.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Connection>>);

/// Idle connections a worker keeps an endpoint; more are closed.
const MAX_IDLE: usize = 256;
/// An idle connection older than this is closed.
const IDLE_FOR: Duration = Duration::from_secs(60);

impl Idle {
    /// Takes the most recently used connection that still works, with the slot to give it back to.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is awaited.
    pub(super) fn take(self: &Arc<Self>, cx: &mut Context<'_>) -> Option<Lease> {
        loop {
            let mut connection = self.lock().pop()?;
            if connection.poll_usable(cx) {
                return Some(Lease { connection, idle: self.clone() });
            }
        }
    }

    /// A lease on a connection just opened.
    pub(super) fn adopt(self: &Arc<Self>, connection: Connection) -> Lease {
        Lease { connection, idle: self.clone() }
    }

    /// Closes what the server closed and what was idle too long.
    pub(super) fn sweep(&self, now: Instant) {
        let mut cx = Context::from_waker(Waker::noop());
        self.lock().retain_mut(|connection| {
            now.saturating_duration_since(connection.idle_since) < IDLE_FOR && connection.poll_usable(&mut cx)
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A panic while a Vec is pushed or popped leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Dropped, it closes the connection; released, it goes back to the pool.
pub(super) struct Lease {
    connection: Connection,
    idle: Arc<Idle>,
}

impl Lease {
    /// Sends one request and waits for the answer's head.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropped, the connection closes, which tells the server that nobody waits.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        self.connection.send(request)
    }

    /// Lets the connection read and write.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.connection.drive(cx);
    }

    /// Gives the connection back. Whether it can be used again is found when it is taken; but one that still sends a body
    /// whose answer has come is closed at once, and the caller's upload with it.
    pub(super) fn release(self, cx: &mut Context<'_>) {
        let Self { mut connection, idle } = self;
        if connection.state == State::Closed || (connection.streamed && !connection.poll_usable(cx)) {
            return;
        }
        connection.idle_since = Instant::now();
        let mut connections = idle.lock();
        if connections.len() < MAX_IDLE {
            connections.push(connection);
        }
    }
}

/// Takes an idle connection or opens one.
pub(super) async fn lease(idle: &Arc<Idle>, upstream: &Upstream, timeout: Duration) -> io::Result<Lease> {
    if let Some(lease) = std::future::poll_fn(|cx| Poll::Ready(idle.take(cx))).await {
        return Ok(lease);
    }
    // Boxed: a request that finds a connection does not carry the room for making one.
    Box::pin(Connection::open(upstream, timeout)).await.map(|connection| idle.adopt(connection))
}
