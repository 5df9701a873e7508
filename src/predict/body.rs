//! Bodies on the way up and down. Chunks pass as the sockets gave them; only short ones are copied.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::LengthLimitError;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{classify::Failure, http1};
use crate::infer::{Deadline, Error, Kind, Rest, is_malformed};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body on its way to an endpoint.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// Held whole: can be sent again.
    Whole(Option<Bytes>),
    /// Goes once.
    Stream {
        /// What was read already.
        head: Option<Bytes>,
        /// What is still to come.
        rest: Rest,
        /// Where it is noted when the caller's body fails.
        fault: Arc<Fault>,
    },
}

/// Whether a caller's body failed on its way, and how, or is waited for. HTTP/2 reports a failure as any other broken stream, so it is
/// noted here.
#[derive(Debug, Default)]
pub(super) struct Fault(AtomicU8);

/// What [`Fault`] says of a body of which more is to come, which its endpoint would take.
const AWAITED: u8 = 4;

/// How a caller's body failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// It is longer than allowed.
    TooLong,
    /// It is not what its framing says.
    Malformed,
    /// It broke off.
    BrokeOff,
    /// It did not end in time.
    Late,
}

impl Fault {
    fn note(&self, error: &(dyn std::error::Error + 'static)) {
        let fault = if error.is::<LengthLimitError>() {
            1
        } else if is_malformed(error) {
            2
        } else {
            3
        };
        self.0.store(fault, Ordering::Relaxed);
    }

    /// What was noted.
    pub(super) fn noted(&self) -> Option<BodyFault> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(BodyFault::TooLong),
            2 => Some(BodyFault::Malformed),
            3 => Some(BodyFault::BrokeOff),
            _ => None,
        }
    }

    fn awaits(&self, more: bool) {
        self.0.store(if more { AWAITED } else { 0 }, Ordering::Relaxed);
    }

    /// Whether the caller is waited for.
    pub(super) fn is_awaited(&self) -> bool {
        self.0.load(Ordering::Relaxed) == AWAITED
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { head, rest, fault } => match head.take() {
                Some(head) => Poll::Ready(Some(Ok(Frame::data(head)))),
                None => {
                    let polled = Pin::new(rest).poll_frame(cx);
                    fault.awaits(polled.is_pending());
                    polled.map_err(|error| {
                        fault.note(&*error);
                        error
                    })
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream { head, rest, .. } => head.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream { head, rest, .. } => {
                let ahead = head.as_ref().map_or(0, |head| head.len() as u64);
                rest.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(ahead + rest))
            }
        }
    }
}

/// Where an answer's body comes from.
pub(super) enum Source {
    /// The connection that brings it; `None` once it was given back.
    Http1(Option<http1::Lease>),
    Http2(Incoming),
}

/// An answer's body on its way down, with whatever must live as long as it does.
pub(super) struct AnswerStream {
    /// Read before the decision to stream was made.
    pub(super) head: std::collections::VecDeque<Bytes>,
    pub(super) source: Source,
    /// Counts the request as in flight until its last byte (slots, endpoint load). Health checks are not counted.
    pub(super) guards: Guards,
    /// How long it may take, once it is passed through.
    pub(super) limit: Option<Limit>,
}

/// What is held until an answer's last byte.
pub(super) type Guards = (Option<super::endpoint::InFlight>, Option<crate::admission::Permit>);

/// How long a passed-through answer may take.
pub(super) struct Limit {
    sleep: Pin<Box<Sleep>>,
    /// `Some`: an event stream, of which each part may take this long.
    each: Option<Duration>,
}

impl Limit {
    /// The whole answer must have come by `deadline`.
    pub(super) fn by(deadline: Deadline) -> Self {
        Self { sleep: Box::pin(sleep_until(deadline.instant())), each: None }
    }

    /// Each part must come within `each` of the one before.
    pub(super) fn each(each: Duration) -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now() + each)), each: Some(each) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }

    fn again(&mut self) {
        if let Some(each) = self.each {
            self.sleep.as_mut().reset(Instant::now() + each);
        }
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let lease = match self {
            Self::Http2(incoming) => return Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Self::Http1(lease) => lease,
        };
        let Some(connection) = lease else { return Poll::Ready(None) };
        let frame = ready!(connection.poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        // Back to the pool as soon as the last byte is read.
        if let Some(lease) = lease.take_if(|connection| connection.is_end_stream()) {
            lease.release();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.as_ref().is_none_or(http1::Lease::is_end_stream),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(lease) => lease.as_ref().map_or(SizeHint::with_exact(0), http1::Lease::size_hint),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

impl AnswerStream {
    /// Reads on until the body ends or `limit` is passed.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropped, it closes the connection, which tells the endpoint that nobody waits.
    pub(super) async fn hold(mut self, limit: usize) -> Result<Held, Failure> {
        let (mut first, mut more, mut length) = (Bytes::new(), BytesMut::new(), 0);
        loop {
            let frame = match std::future::poll_fn(|cx| self.source.poll_frame(cx)).await {
                None => return Ok(Held::Whole(join(first, more), None)),
                Some(frame) => frame.map_err(Failure::Broken)?,
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    length += data.len();
                    match (first.is_empty(), more.is_empty()) {
                        (true, _) => first = data,
                        (false, true) => {
                            more.reserve(first.len() + data.len());
                            more.extend_from_slice(&first);
                            more.extend_from_slice(&data);
                        }
                        (false, false) => more.extend_from_slice(&data),
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    return Ok(Held::Whole(join(first, more), trailers));
                }
            }
            if length > limit {
                self.head.push_back(join(first, more));
                return Ok(Held::Longer(self));
            }
        }
    }
}

fn join(first: Bytes, more: BytesMut) -> Bytes {
    if more.is_empty() { first } else { more.freeze() }
}

fn late() -> Error {
    Error::new(Kind::DeadlineExceeded, "the model's answer did not end in time")
}

/// What [`AnswerStream::hold`] found.
pub(super) enum Held {
    /// The whole body, and trailers if there were any.
    Whole(Bytes, Option<HeaderMap>),
    /// Longer than the limit: to be passed through.
    Longer(AnswerStream),
}

impl Body for AnswerStream {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Some(head) = this.head.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        // A deadline ends the answer though there is more of it; a part's own time only where there is nothing.
        if let Some(limit) = this.limit.as_mut().filter(|limit| limit.each.is_none())
            && limit.poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(late())));
        }
        let Poll::Ready(frame) = this.source.poll_frame(cx) else {
            if let Some(limit) = this.limit.as_mut().filter(|limit| limit.each.is_some()) {
                ready!(limit.poll(cx));
                return Poll::Ready(Some(Err(late())));
            }
            return Poll::Pending;
        };
        if let Some(limit) = &mut this.limit {
            limit.again();
        }
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| Error::new(Kind::BackendFailed, "the model's answer broke off").with_source(error))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.head.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        self.source.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(ahead + rest))
    }
}
