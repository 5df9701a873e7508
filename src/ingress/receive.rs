//! Reading a request's body: whole where something must read it, or where it is short and there is room to hold it; else only its
//! beginning.

use std::future::ready;

use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::{grpc::FRAME, hold::Hold};
use crate::infer::{Deadline, Error, Kind, Payload, Rest, is_malformed};

/// A received body.
pub(super) enum Received {
    /// All of it.
    Whole(Bytes),
    /// The beginning, and what is still to come.
    Longer(Bytes, Rest),
}

impl From<Received> for Payload {
    fn from(received: Received) -> Self {
        match received {
            Received::Whole(bytes) => Self::Retained(bytes),
            Received::Longer(head, rest) => Self::Stream { head, rest },
        }
    }
}

/// How much of a body is needed before the path can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// All of it, where there is room to hold it: nobody has to read it, but one who might stand in for its model.
    WholeIfRoom,
    /// As much as is held to be sent again (`listen.hold_body`), also where nobody reads it.
    Beginning(usize),
    /// The same, and the front of a longer one, which tells whom it is for.
    Front(usize),
    /// Of a stream of gRPC messages the first one's frame: more may wait for an answer. The stream as a whole has no limit.
    Frame,
}

/// A name in the front of a gRPC message ends before this, or the whole message is read for it.
const FRONT: usize = 4 << 10;

impl Extent {
    /// Up to where a body is read that says to be of that length.
    fn until(self, declared: Option<u64>) -> usize {
        let is_longer = |held: usize| declared.is_some_and(|length| length > held as u64);
        match self {
            Self::Whole | Self::WholeIfRoom => usize::MAX,
            Self::Beginning(held) => held,
            Self::Front(held) if is_longer(held) => held.min(FRONT),
            Self::Front(held) => held,
            Self::Frame => FRAME - 1,
        }
    }
}

/// What a body may be, by when it must be there, and the room that it takes.
pub(super) struct Terms<'a, 'h> {
    pub(super) limit: u64,
    pub(super) deadline: Deadline,
    pub(super) hold: &'a mut Hold<'h>,
}

/// Reads `body` as far as `extent` says, or less: where there is no room to hold more, and not all of it is wanted.
///
/// # Errors
///
/// `TooLarge` over the limit, `RequestTimeout` past the deadline, `Cancelled` when the caller breaks off, `Shed` where there is
/// no room for one that is wanted whole.
pub(super) fn receive(
    body: Incoming,
    extent: Extent,
    terms: Terms<'_, '_>,
) -> impl Future<Output = Result<Received, Error>> + Send {
    receive_begun((Bytes::new(), body), extent, terms)
}

/// The same of a body of which something was read already.
///
/// # Errors
///
/// As [`receive`].
pub(super) fn receive_begun(
    (begun, body): (Bytes, Incoming),
    extent: Extent,
    terms: Terms<'_, '_>,
) -> impl Future<Output = Result<Received, Error>> + Send {
    let at_once = |outcome| Either::Left(ready(outcome));
    let limit = terms.limit;
    let declared = body.size_hint().exact().map(|left| begun.len() as u64 + left);
    let whole_limit = if extent == Extent::Frame { u64::MAX } else { limit };
    if declared.is_some_and(|length| length > whole_limit) {
        return at_once(Err(too_large(limit)));
    }
    let left = whole_limit.saturating_sub(begun.len() as u64);
    let rest = Limited::new(body, usize::try_from(left).unwrap_or(usize::MAX));
    if let Extent::Beginning(held) = extent
        && declared.is_some_and(|length| length > held as u64)
    {
        return at_once(Ok(Received::Longer(begun, rest)));
    }
    let until = extent.until(declared);
    let wanted = if extent == Extent::Whole { Wanted::Whole } else { Wanted::Beginning };
    Either::Right(read_until((begun, rest), until, wanted, terms))
}

/// Reads on from where [`receive`] stopped, to the end, or as far as there is room.
///
/// # Errors
///
/// As [`receive`].
pub(super) async fn read_on_if_room(head: Bytes, rest: Rest, terms: Terms<'_, '_>) -> Result<Received, Error> {
    if rest.is_end_stream() {
        return Ok(Received::Whole(head));
    }
    read_until((head, rest), usize::MAX, Wanted::Beginning, terms).await
}

/// Reads on from where [`receive`] stopped, to the end.
///
/// # Errors
///
/// As [`receive`].
pub(super) async fn read_on(head: Bytes, rest: Rest, terms: Terms<'_, '_>) -> Result<Bytes, Error> {
    // There whole, for want of room it was only not held.
    if rest.is_end_stream() {
        return Ok(head);
    }
    let limit = terms.limit;
    match read_until((head, rest), usize::MAX, Wanted::Whole, terms).await? {
        Received::Whole(whole) => Ok(whole),
        Received::Longer(..) => Err(too_large(limit)),
    }
}

/// Reads on from where [`receive`] stopped with [`Extent::Frame`], until the first message of the stream is whole.
///
/// # Errors
///
/// As [`receive`]; the limit is the message's.
pub(super) async fn read_message(head: Bytes, rest: Rest, terms: Terms<'_, '_>) -> Result<Received, Error> {
    let Some(end) = first_message(&head) else {
        return Ok(Received::Longer(head, rest));
    };
    if (end - FRAME) as u64 > terms.limit {
        return Err(too_large(terms.limit));
    }
    if head.len() >= end {
        return Ok(Received::Longer(head, rest));
    }
    read_until((head, rest), end - 1, Wanted::Whole, terms).await
}

/// Where the first gRPC message of a body ends, once its frame is there.
pub(super) fn first_message(body: &[u8]) -> Option<usize> {
    let &[_, a, b, c, d] = body.first_chunk::<FRAME>()?;
    Some(FRAME + u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Whether what finds no room is refused, or left where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Whole,
    Beginning,
}

/// Reads until there are more than `until` bytes, `head` included, or no room for more.
#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
fn read_until(
    begun: (Bytes, Rest),
    until: usize,
    wanted: Wanted,
    Terms { limit, deadline, hold }: Terms<'_, '_>,
) -> impl Future<Output = Result<Received, Error>> + Send {
    async move {
        let mut reading = std::pin::pin!(read(begun, until, wanted, (limit, hold)));
        // Most bodies are there with their heads. A timer is looked after only where one is not; boxed, since its alignment (tokio keeps
        // timers apart, 128 bytes each) would be that of every request's future, which costs each allocation more than the timer does.
        if let Some(received) = futures_util::future::poll_immediate(reading.as_mut()).await {
            return received;
        }
        match Box::pin(tokio::time::timeout_at(deadline.instant(), reading)).await {
            Ok(received) => received,
            Err(_) => Err(Error::new(Kind::RequestTimeout, "the request's body did not arrive before the deadline")),
        }
    }
}

fn read(
    (mut first, mut rest): (Bytes, Rest),
    until: usize,
    wanted: Wanted,
    (limit, hold): (u64, &mut Hold<'_>),
) -> impl Future<Output = Result<Received, Error>> + Send {
    // Room is taken as bytes come, not for what a body only says it will be: saying so costs a caller nothing.
    let most = (first.len() as u64).saturating_add(rest.size_hint().upper().unwrap_or(u64::MAX));
    let mut more = BytesMut::new();
    async move {
        loop {
            let length = first.len().max(more.len());
            if length > until {
                return Ok(Received::Longer(joined(first, more), rest));
            }
            if !hold.growing(length as u64, most) {
                if wanted == Wanted::Whole {
                    return Err(hold.refused());
                }
                hold.streamed();
                return Ok(Received::Longer(joined(first, more), rest));
            }
            // One whose length was told is over with its last byte: to be told so once more takes as long as the bytes did.
            if rest.is_end_stream() {
                break;
            }
            let Some(frame) = rest.frame().await else { break };
            let Ok(data) = frame.map_err(|error| broken(error, limit))?.into_data() else { continue };
            if first.is_empty() && more.is_empty() {
                first = data;
            } else {
                if more.is_empty() {
                    more.extend_from_slice(&first);
                    first = Bytes::new();
                }
                more.extend_from_slice(&data);
            }
        }
        Ok(Received::Whole(joined(first, more)))
    }
}

fn joined(first: Bytes, more: BytesMut) -> Bytes {
    if more.is_empty() { first } else { more.freeze() }
}

pub(super) fn broken(error: Box<dyn std::error::Error + Send + Sync>, limit: u64) -> Error {
    if error.is::<LengthLimitError>() {
        return too_large(limit);
    }
    if is_malformed(&*error) {
        return Error::invalid(format!("the request's body is not valid chunked encoding: {error}")).with_source(error);
    }
    match error.downcast::<hyper::Error>() {
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
