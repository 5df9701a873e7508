//! The body of an answer on its way to the socket.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

use crate::infer::{Error, Kind};

/// An answer's body.
pub(crate) enum ResponseBody {
    /// Held whole, with gRPC trailers where there are any.
    Whole(Option<Bytes>, Option<Box<HeaderMap>>),
    /// Passed through.
    Stream(Passing),
    /// From a service of tonic's own (health, reflection).
    Tonic(tonic::body::Body),
}

impl ResponseBody {
    /// A body held whole.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()), None)
    }

    /// One that is passed through.
    pub(crate) fn stream(body: UnsyncBoxBody<Bytes, Error>) -> Self {
        Self::Stream(Passing::new(body))
    }

    /// No body.
    pub(crate) const fn empty() -> Self {
        Self::Whole(None, None)
    }
}

/// A body that is passed through. Where it breaks off, what came before has a turn to be written: hyper drops what it has not
/// written when a body fails, the answer's head with it.
pub(crate) struct Passing(Arc<Mutex<Flow>>);

/// Shared with whoever looks whether its caller still takes it (`stall`), so locked; nobody waits for it.
pub(super) struct Flow {
    /// `None` once it broke off.
    body: Option<UnsyncBoxBody<Bytes, Error>>,
    broken: Option<Error>,
    asked: Asked,
}

/// Whether a body was asked for more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It was, and is waited for.
    Waited,
    /// Not since it gave the last part.
    NotYet,
    /// Nor since it was last looked at.
    NotSince,
}

impl Passing {
    fn new(body: UnsyncBoxBody<Bytes, Error>) -> Self {
        Self(Arc::new(Mutex::new(Flow { body: Some(body), broken: None, asked: Asked::NotYet })))
    }

    /// The body, for as long as it lives.
    pub(super) fn flow(&self) -> Weak<Mutex<Flow>> {
        Arc::downgrade(&self.0)
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        self.asked = Asked::Waited;
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Err(error)) => {
                (self.body, self.broken) = (None, Some(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => {
                self.asked = Asked::NotYet;
                Poll::Ready(frame)
            }
        }
    }

    /// To be called now and then: where nothing was asked since it was called last, breaks the answer off and returns what is
    /// left of its body.
    pub(super) fn stalled(&mut self) -> Option<UnsyncBoxBody<Bytes, Error>> {
        match self.asked {
            Asked::Waited => None,
            Asked::NotYet => {
                self.asked = Asked::NotSince;
                None
            }
            Asked::NotSince => {
                let body = self.body.take()?;
                let late = "the caller took nothing of its answer for as long as listen.send_timeout allows";
                self.broken = Some(Error::new(Kind::Cancelled, late));
                Some(body)
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Whole(bytes, trailers) => Poll::Ready(match bytes.take() {
                Some(bytes) => Some(Ok(Frame::data(bytes))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))),
            }),
            Self::Stream(passing) => passing.lock().poll_frame(cx),
            Self::Tonic(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|status| Error::new(Kind::Internal, status.message().to_owned()).with_source(status)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            Self::Stream(passing) => {
                let flow = passing.lock();
                flow.broken.is_none() && flow.body.as_ref().is_none_or(Body::is_end_stream)
            }
            Self::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // Trailers follow a chunked body only.
            Self::Whole(_, Some(_)) => SizeHint::default(),
            Self::Whole(bytes, None) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(passing) => passing.lock().body.as_ref().map_or_else(SizeHint::default, Body::size_hint),
            Self::Tonic(body) => body.size_hint(),
        }
    }
}
