//! A request on its way out: its head and the body behind it, as much as the socket takes.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::PathAndQuery};
use http_body::Body as _;
use tokio::{io::AsyncWrite as _, net::TcpStream};

use super::Error;
use crate::predict::body::RequestBody;

/// A request's head. What frames the body is said by the connection, whatever `headers` say.
pub(in crate::predict) struct Request<'a> {
    pub(in crate::predict) verb: &'a Method,
    pub(in crate::predict) path: &'a PathAndQuery,
    pub(in crate::predict) host: &'a HeaderValue,
    pub(in crate::predict) headers: &'a HeaderMap,
    /// Said in place of what `headers` say of the same.
    pub(in crate::predict) own: &'a [(HeaderName, HeaderValue)],
    /// The same, of numbers.
    pub(in crate::predict) numbers: &'a [(HeaderName, u64)],
}

impl Request<'_> {
    /// Whether it says itself what a header of that name says.
    fn says(&self, name: &HeaderName) -> bool {
        self.own.iter().any(|(own, _)| own == name) || self.numbers.iter().any(|(own, _)| own == name)
    }
}

/// What is still to be written of one request.
#[derive(Default)]
pub(super) struct Outbox {
    /// The head, or a chunk's size. Keeps its room for the next.
    ahead: Vec<u8>,
    /// How much of `ahead` was written.
    written: usize,
    data: Bytes,
    /// A chunk's end.
    behind: &'static [u8],
    /// Where more comes from.
    source: Option<(RequestBody, Coding)>,
    /// Whether nothing of the request was written yet.
    untouched: bool,
}

/// How the end of a body that comes in parts is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// By its length, of which so much is left.
    Length(u64),
    Chunked,
}

const END_OF_LINE: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// A chunk's end and the last chunk.
const LAST_END: &[u8] = b"\r\n0\r\n\r\n";

impl Outbox {
    /// Takes the request in.
    pub(super) fn fill(&mut self, request: &Request<'_>, body: RequestBody) {
        (self.written, self.untouched) = (0, true);
        self.ahead.clear();
        write_head(&mut self.ahead, request);
        self.source = None;
        self.data = Bytes::new();
        match body {
            RequestBody::Whole(bytes) => {
                self.data = bytes.unwrap_or_default();
                if !self.data.is_empty() || has_body(request.verb) {
                    put_number(&mut self.ahead, &header::CONTENT_LENGTH, self.data.len() as u64);
                }
            }
            // Its parts are asked for when the head is out: until then it can be taken back.
            stream @ RequestBody::Stream { .. } => {
                let coding = stream.size_hint().exact().map_or(Coding::Chunked, Coding::Length);
                match coding {
                    Coding::Length(length) => put_number(&mut self.ahead, &header::CONTENT_LENGTH, length),
                    Coding::Chunked => self.ahead.extend_from_slice(b"transfer-encoding: chunked\r\n"),
                }
                self.source = Some((stream, coding));
            }
        }
        self.ahead.extend_from_slice(END_OF_LINE);
    }

    /// Whether all of it was written.
    pub(super) fn is_empty(&self) -> bool {
        self.queued() == 0 && self.source.is_none()
    }

    /// Whether nothing of it was written.
    pub(super) const fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// The body of a request of which nothing was written.
    pub(super) fn take_back(&mut self) -> RequestBody {
        debug_assert!(self.untouched, "a body that went out in part cannot go again");
        match self.source.take() {
            Some((body, _)) => body,
            None => RequestBody::Whole(Some(std::mem::take(&mut self.data)).filter(|data| !data.is_empty())),
        }
    }

    /// Lets go of the room of a head longer than `most`.
    pub(super) fn shrink(&mut self, most: usize) {
        if self.ahead.capacity() > most {
            self.ahead = Vec::new();
            self.written = 0;
        }
    }

    fn queued(&self) -> usize {
        self.ahead.len() - self.written + self.data.len() + self.behind.len()
    }

    /// Writes until all is written, or the socket or the body has to be waited for.
    pub(super) fn poll_flush(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            while self.queued() > 0 {
                let parts = [&self.ahead[self.written..], &self.data, self.behind].map(IoSlice::new);
                match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &parts))? {
                    0 => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                    written => self.wrote(written),
                }
            }
            let Some((body, _)) = &mut self.source else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers of a request have no meaning to a model server.
                    if let Ok(data) = frame.into_data() {
                        self.queue(data)?;
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(Error::Upload(error))),
                None => self.end()?,
            }
        }
    }

    fn wrote(&mut self, mut count: usize) {
        self.untouched = false;
        let ahead = count.min(self.ahead.len() - self.written);
        self.written += ahead;
        count -= ahead;
        if count >= self.data.len() {
            self.behind = &self.behind[count - self.data.len()..];
            // Let go of, not only passed over: an idle connection would keep it.
            self.data = Bytes::new();
        } else {
            self.data.advance(count);
        }
    }

    fn queue(&mut self, data: Bytes) -> Result<(), Error> {
        let Some((body, coding)) = &mut self.source else { return Ok(()) };
        // All parts may be out before the caller's stream has said so.
        let last = match coding {
            Coding::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(wrong_length)?;
                *left == 0
            }
            // An empty chunk would be the last.
            Coding::Chunked if data.is_empty() => return Ok(()),
            Coding::Chunked => {
                self.ahead.clear();
                self.written = 0;
                // Writing to a Vec cannot fail.
                let _ = write!(self.ahead, "{:x}\r\n", data.len());
                let last = body.is_end_stream();
                self.behind = if last { LAST_END } else { END_OF_LINE };
                last
            }
        };
        self.data = data;
        if last {
            self.source = None;
        }
        Ok(())
    }

    /// The body says that it is over. One that is too short stays what is owed: the connection is of no more use.
    fn end(&mut self) -> Result<(), Error> {
        match self.source {
            Some((_, Coding::Length(1..))) => return Err(wrong_length()),
            Some((_, Coding::Chunked)) => self.behind = LAST_CHUNK,
            Some((_, Coding::Length(0))) | None => {}
        }
        self.source = None;
        Ok(())
    }
}

fn wrong_length() -> Error {
    Error::Upload("it is not as long as its content-length said".into())
}

/// Whether a request of that kind says also of an empty body how long it is.
///
/// **Source:** RFC 9110 §8.6.
const fn has_body(verb: &Method) -> bool {
    matches!(*verb, Method::POST | Method::PUT | Method::PATCH)
}

fn write_head(into: &mut Vec<u8>, request: &Request<'_>) {
    into.extend_from_slice(request.verb.as_str().as_bytes());
    into.push(b' ');
    // Apart: of a path that is empty this has the slash.
    into.extend_from_slice(request.path.path().as_bytes());
    if let Some(query) = request.path.query() {
        into.push(b'?');
        into.extend_from_slice(query.as_bytes());
    }
    into.extend_from_slice(b" HTTP/1.1\r\n");
    put(into, &header::HOST, request.host.as_bytes());
    for (name, value) in request.headers {
        // Trailers are not passed on, so none are promised.
        let is_framing =
            matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::TRAILER);
        if !is_framing && !request.says(name) {
            put(into, name, value.as_bytes());
        }
    }
    for (name, value) in request.own {
        put(into, name, value.as_bytes());
    }
    for (name, value) in request.numbers {
        put_number(into, name, *value);
    }
}

fn put_number(into: &mut Vec<u8>, name: &HeaderName, value: u64) {
    put(into, name, itoa::Buffer::new().format(value).as_bytes());
}

fn put(into: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    into.reserve(name.len() + value.len() + 4);
    into.extend_from_slice(name);
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(END_OF_LINE);
}
