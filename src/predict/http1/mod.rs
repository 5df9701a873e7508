//! HTTP/1.1 to an endpoint: one connection, one exchange at a time, driven by the task of the request that holds it.
//!
//! ```text
//! Idle ──take──► Lease ──send──► answer's head ──poll_frame──► … ──► end ──release──► Idle
//!                  └── dropped at any point: the connection closes
//! ```
//!
//! Not hyper's client: that drives a connection apart from who uses it and hands requests, answers and bodies over through
//! channels, which here would lead from a task to itself, and took a quarter of the instructions of a request passing through. What is
//! left out: pipelining, upgrades and TLS. An answer that could be read in two ways is refused (`head`).

mod framing;
mod head;
mod idle;
mod outbox;
#[cfg(test)]
mod tests;

pub use framing::{Framing, Progress};
pub use head::{Head, read_head};
pub(super) use idle::{Idle, Lease, lease};
pub(super) use outbox::Request;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use self::outbox::Outbox;
use super::{body::RequestBody, classify::Failure};
use crate::config::Upstream;

/// What is read at least at a time: most answers whole.
const READ: usize = 8 * 1024;
/// What is read at most at a time.
const READ_AT_MOST: usize = 256 * 1024;

/// Why an exchange came to no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The endpoint closed the connection too early.
    #[error("it closed the connection")]
    Closed,
    /// The answer is not HTTP/1.1.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The request's own body failed on its way.
    #[error("the request's body: {0}")]
    Upload(Box<dyn std::error::Error + Send + Sync>),
}

/// What is wrong with an answer. Asking the same endpoint again on another connection may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No status line, or a field that is none.
    #[error("its head is not HTTP/1.1: {0}")]
    Head(httparse::Error),
    /// The head, or the trailers, have no end.
    #[error("its fields are longer than 64 KiB")]
    TooLong,
    /// `content-length` is no number, or says more than one.
    #[error("its content-length is not one number")]
    Length,
    /// A `transfer-encoding` that is not `chunked` once, or in HTTP/1.0, which has none.
    #[error("its transfer-encoding is not \"chunked\", or in HTTP/1.0")]
    Coding,
    /// A switch of protocols that nobody asked for.
    #[error("it switches protocols unasked")]
    Switched,
    /// A chunk without a size, or without its end.
    #[error("its chunked encoding is broken")]
    Chunk,
}

/// An open connection.
pub(super) struct Connection {
    stream: TcpStream,
    outbox: Outbox,
    /// What was read and not yet taken.
    inbox: BytesMut,
    /// How much is read next.
    read: usize,
    /// How much of a head that is not whole was looked through.
    seen: usize,
    /// What is still to come of the answer's body.
    body: Framing,
    /// Whether both sides leave the connection open after this exchange.
    persistent: bool,
    /// Requests it was given.
    sent: u64,
    /// Sweeps that found it idle.
    idle_sweeps: u32,
}

impl Connection {
    /// Connects.
    async fn open(upstream: &Upstream, timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            stream: super::endpoint::connect(upstream, timeout).await?,
            outbox: Outbox::default(),
            inbox: BytesMut::new(),
            read: READ,
            seen: 0,
            body: Framing::empty(),
            persistent: true,
            sent: 0,
            idle_sweeps: 0,
        })
    }

    /// Whether an idle connection can take a request: it is open and says nothing, as far as the runtime has heard. Without a
    /// system call, unless something came in; so one that is being closed just now may be taken, and the request then be asked again.
    fn is_usable(&self) -> bool {
        self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether this exchange left it as it found it.
    fn is_at_rest(&self) -> bool {
        self.persistent && self.body.is_end() && self.inbox.is_empty() && self.outbox.is_empty()
    }

    /// Lets go of the room that a long exchange took. What an inbox has left to fill says little of the block it is in.
    fn shrink(&mut self) {
        if self.read > READ || self.inbox.capacity() > READ {
            self.inbox = BytesMut::new();
        }
        self.outbox.shrink(READ);
    }

    fn begin(&mut self, request: &Request<'_>, body: RequestBody) {
        self.sent += 1;
        (self.read, self.seen) = (READ, 0);
        self.outbox.fill(request, body);
    }

    /// Sends the request and reads the answer's head, whichever can go on. A server may answer before it has read all: what it says
    /// counts, also where it then refuses the rest.
    fn poll_head(&mut self, verb: &Method, cx: &mut Context<'_>) -> Poll<Result<(StatusCode, HeaderMap), Failure>> {
        let refused = match self.outbox.poll_flush(&mut self.stream, cx) {
            Poll::Ready(Err(Error::Io(_))) if self.outbox.is_untouched() => {
                return Poll::Ready(Err(Failure::Unsent(Box::new(self.outbox.take_back()))));
            }
            Poll::Ready(Err(error @ Error::Io(_))) => Some(error),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        loop {
            if let Some(head) = self.take_head(verb).map_err(Error::from)? {
                let Head { status, headers, framing, persistent } = head;
                (self.body, self.persistent) = (framing, persistent);
                return Poll::Ready(Ok((status, headers)));
            }
            let failed = match ready!(self.poll_fill(cx)) {
                Ok(1..) => continue,
                Ok(0) => Error::Closed,
                Err(error) => Error::Io(error),
            };
            return Poll::Ready(Err(refused.unwrap_or(failed).into()));
        }
    }

    /// The answer's head, once it is whole. One that comes in many parts is parsed once, not once a part.
    fn take_head(&mut self, verb: &Method) -> Result<Option<Head>, Malformed> {
        if self.seen > 0 && !head::may_end(&self.inbox, self.seen) {
            self.seen = self.inbox.len();
            return Ok(None);
        }
        let head = read_head(&mut self.inbox, verb)?;
        self.seen = self.inbox.len();
        Ok(head)
    }

    /// The next part of the answer's body.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(Err(error @ Error::Upload(_))) = self.outbox.poll_flush(&mut self.stream, cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match self.body.decode(&mut self.inbox)? {
                Progress::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Progress::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Progress::End => return Poll::Ready(None),
                Progress::Wanting => {}
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(if self.body.close() { None } else { Some(Err(Error::Closed)) });
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Reads what there is. Whoever fills what was offered is offered twice as much.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbox.reserve(self.read);
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.inbox))?;
        if read >= self.read {
            self.read = (2 * self.read).min(READ_AT_MOST);
        }
        Poll::Ready(Ok(read))
    }
}
