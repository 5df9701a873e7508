//! Reading a request's body: whole where something must read it or where it is short, else only its beginning.

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::grpc::FRAME;
use crate::infer::{Deadline, Error, Kind, Rest};

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
    /// As much as is held to be sent again (`listen.hold_body`), also where nobody reads it.
    Beginning(usize),
    /// Of a stream of gRPC messages the first one's frame: more may wait for an answer. The stream as a whole has no limit.
    Frame,
}

/// Reads `body`, of at most `limit` bytes, until `deadline`.
///
/// # Errors
///
/// `TooLarge` over the limit, `RequestTimeout` past the deadline, `Cancelled` when the caller breaks off.
pub(super) async fn receive(body: Incoming, extent: Extent, limit: u64, deadline: Deadline) -> Result<Received, Error> {
    let declared = body.size_hint().exact();
    let whole_limit = if extent == Extent::Frame { u64::MAX } else { limit };
    if declared.is_some_and(|length| length > whole_limit) {
        return Err(too_large(limit));
    }
    let rest = Limited::new(body, usize::try_from(whole_limit).unwrap_or(usize::MAX));
    if let Extent::Beginning(held) = extent
        && declared.is_some_and(|length| length > held as u64)
    {
        return Ok(Received::Longer(Bytes::new(), rest));
    }
    let until = match extent {
        Extent::Whole => usize::MAX,
        Extent::Beginning(held) => held,
        Extent::Frame => FRAME - 1,
    };
    read_until(Bytes::new(), rest, until, (limit, deadline)).await
}

/// Reads on from where [`receive`] stopped, to the end.
///
/// # Errors
///
/// As [`receive`].
pub(super) async fn read_on(head: Bytes, rest: Rest, limit: u64, deadline: Deadline) -> Result<Bytes, Error> {
    match read_until(head, rest, usize::MAX, (limit, deadline)).await? {
        Received::Whole(whole) => Ok(whole),
        Received::Longer(..) => Err(too_large(limit)),
    }
}

/// Reads on from where [`receive`] stopped with [`Extent::Frame`], until the first message of the stream is whole.
///
/// # Errors
///
/// As [`receive`]; the limit is the message's.
pub(super) async fn read_message(head: Bytes, rest: Rest, limit: u64, deadline: Deadline) -> Result<Received, Error> {
    let Some(end) = first_message(&head) else {
        return Ok(Received::Longer(head, rest));
    };
    if (end - FRAME) as u64 > limit {
        return Err(too_large(limit));
    }
    if head.len() >= end {
        return Ok(Received::Longer(head, rest));
    }
    read_until(head, rest, end - 1, (limit, deadline)).await
}

/// Where the first gRPC message of a body ends, once its frame is there.
pub(super) fn first_message(body: &[u8]) -> Option<usize> {
    let &[_, a, b, c, d] = body.first_chunk::<FRAME>()?;
    Some(FRAME + u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Reads until there are more than `until` bytes, `head` included.
async fn read_until(
    head: Bytes,
    rest: Rest,
    until: usize,
    (limit, deadline): (u64, Deadline),
) -> Result<Received, Error> {
    match tokio::time::timeout_at(deadline.instant(), read(head, rest, until, limit)).await {
        Ok(received) => received,
        Err(_) => Err(Error::new(Kind::RequestTimeout, "the request's body did not arrive before the deadline")),
    }
}

async fn read(head: Bytes, mut rest: Rest, until: usize, limit: u64) -> Result<Received, Error> {
    let (mut first, mut more) = (head, BytesMut::new());
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
