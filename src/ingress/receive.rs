//! Reading a request's body: whole where something must read it or where it is short, else only its beginning.

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::infer::{Deadline, Error, Kind, Rest};

/// Bodies up to this long are held even when nobody reads them: they can be sent again.
pub(super) const HOLD_UP_TO: usize = 64 * 1024;

/// A received body.
pub(super) enum Received {
    /// All of it.
    Whole(Bytes),
    /// The beginning, and what is still to come.
    Longer(Bytes, Rest),
}

/// How much of a body is needed before the path can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// As much as is held for a second attempt.
    Beginning,
    /// What comes first: more may wait for an answer.
    First,
}

/// Reads `body`, of at most `limit` bytes, until `deadline`.
///
/// # Errors
///
/// `TooLarge` over the limit, `RequestTimeout` past the deadline, `Cancelled` when the caller breaks off.
pub(super) async fn receive(body: Incoming, extent: Extent, limit: u64, deadline: Deadline) -> Result<Received, Error> {
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let rest = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    if extent == Extent::Beginning && declared.is_some_and(|length| length > HOLD_UP_TO as u64) {
        return Ok(Received::Longer(Bytes::new(), rest));
    }
    let until = match extent {
        Extent::Whole => usize::MAX,
        Extent::Beginning => HOLD_UP_TO,
        Extent::First => 0,
    };
    match tokio::time::timeout_at(deadline.instant(), read(rest, until, limit)).await {
        Ok(received) => received,
        Err(_) => Err(Error::new(Kind::RequestTimeout, "the request's body did not arrive before the deadline")),
    }
}

/// Reads on from where [`receive`] stopped, to the end.
///
/// # Errors
///
/// As [`receive`].
pub(super) async fn read_on(head: Bytes, rest: Rest, limit: u64, deadline: Deadline) -> Result<Bytes, Error> {
    match tokio::time::timeout_at(deadline.instant(), read(rest, usize::MAX, limit)).await {
        Ok(Ok(Received::Whole(tail))) => {
            let mut whole = BytesMut::with_capacity(head.len() + tail.len());
            whole.extend_from_slice(&head);
            whole.extend_from_slice(&tail);
            Ok(whole.freeze())
        }
        Ok(Ok(Received::Longer(..))) => Err(too_large(limit)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(Kind::RequestTimeout, "the request's body did not arrive before the deadline")),
    }
}

async fn read(mut rest: Rest, until: usize, limit: u64) -> Result<Received, Error> {
    let (mut first, mut more) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = rest.frame().await {
        let frame = frame.map_err(|error| broken(error, limit))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
                first = Bytes::new();
            }
            more.extend_from_slice(&data);
        }
        if first.len().max(more.len()) > until {
            return Ok(Received::Longer(joined(first, more), rest));
        }
    }
    Ok(Received::Whole(joined(first, more)))
}

fn joined(first: Bytes, more: BytesMut) -> Bytes {
    if more.is_empty() { first } else { more.freeze() }
}

fn broken(error: Box<dyn std::error::Error + Send + Sync>, limit: u64) -> Error {
    if error.is::<LengthLimitError>() {
        return too_large(limit);
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) if error.is_parse() => {
            Error::invalid(format!("the request's body is not valid chunked encoding: {error}")).with_source(error)
        }
        Ok(error) => {
            Error::new(Kind::Cancelled, "the caller broke off while sending the request's body").with_source(error)
        }
        Err(error) => Error::new(Kind::Cancelled, "the request's body could not be read").with_source(error),
    }
}

fn too_large(limit: u64) -> Error {
    Error::new(
        Kind::TooLarge,
        format!("the request's body is longer than the {limit} bytes that listen.max_body allows"),
    )
}
