//! The body of an answer on its way to the socket.

use std::{
    pin::Pin,
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
    pub(crate) const fn stream(body: UnsyncBoxBody<Bytes, Error>) -> Self {
        Self::Stream(Passing { body, broken: None })
    }

    /// No body.
    pub(crate) const fn empty() -> Self {
        Self::Whole(None, None)
    }
}

/// A body that is passed through. Where it breaks off, what came before has a turn to be written: hyper drops what it has not
/// written when a body fails, the answer's head with it.
pub(crate) struct Passing {
    body: UnsyncBoxBody<Bytes, Error>,
    broken: Option<Error>,
}

impl Passing {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(error)) => {
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
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
            Self::Stream(passing) => passing.poll_frame(cx),
            Self::Tonic(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|status| Error::new(Kind::Internal, status.message().to_owned()).with_source(status)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            Self::Stream(passing) => passing.broken.is_none() && passing.body.is_end_stream(),
            Self::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // Trailers follow a chunked body only.
            Self::Whole(_, Some(_)) => SizeHint::default(),
            Self::Whole(bytes, None) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(passing) => passing.body.size_hint(),
            Self::Tonic(body) => body.size_hint(),
        }
    }
}
