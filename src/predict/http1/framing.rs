//! Where an answer's body ends: by its length, by its last chunk, or with the connection.
//!
//! **Source:** RFC 9112 §6, §7.1.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::{
    Malformed,
    head::{self, LONGEST},
};

/// The longest line with a chunk's size and what is said besides.
const LONGEST_LINE: usize = 4 * 1024;
/// Fields of trailers that are read; more are an error.
const MOST_FIELDS: usize = 64;
/// Parts up to this long are copied, so that the connection's buffer is used again. Longer ones take it along.
const COPY_UP_TO: usize = 4 * 1024;

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// A chunk's size is next.
    Size,
    /// So much of a chunk.
    Chunk(u64),
    /// The end of a chunk's line is next.
    Gap,
    /// Trailers are next, or the end.
    Trailers,
}

/// What a buffer held.
#[derive(Debug)]
pub enum Progress {
    /// A part of the body.
    Data(Bytes),
    /// Trailers, behind all data. The end is next.
    Trailers(HeaderMap),
    /// Nothing whole: more has to be read.
    Wanting,
    /// The end.
    End,
}

impl Framing {
    /// No body.
    pub(super) const fn empty() -> Self {
        Self(State::Length(0))
    }

    pub(super) const fn length(length: u64) -> Self {
        Self(State::Length(length))
    }

    pub(super) const fn chunked() -> Self {
        Self(State::Size)
    }

    pub(super) const fn until_close() -> Self {
        Self(State::UntilClose)
    }

    /// Whether all of the body was taken.
    pub const fn is_end(&self) -> bool {
        matches!(self.0, State::Length(0))
    }

    pub(super) const fn is_until_close(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// How many bytes are still to come, where that was said.
    pub(super) const fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// The connection was closed; says whether that ends the body as it should.
    pub fn close(&mut self) -> bool {
        if self.is_until_close() {
            *self = Self::empty();
        }
        self.is_end()
    }

    /// Takes the next part out of `buffer`.
    ///
    /// # Errors
    ///
    /// The chunks or trailers are broken.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Progress, Malformed> {
        loop {
            match &mut self.0 {
                State::Length(0) => return Ok(Progress::End),
                State::Length(left) => return Ok(take(buffer, left)),
                State::UntilClose => {
                    let mut endless = u64::MAX;
                    return Ok(take(buffer, &mut endless));
                }
                State::Chunk(left) => {
                    let taken = take(buffer, left);
                    if *left == 0 {
                        self.0 = State::Gap;
                    }
                    return Ok(taken);
                }
                State::Size => {
                    let Some(size) = size(buffer)? else { return Ok(Progress::Wanting) };
                    self.0 = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::Gap => {
                    if !gap(buffer)? {
                        return Ok(Progress::Wanting);
                    }
                    self.0 = State::Size;
                }
                State::Trailers => {
                    let Some(trailers) = trailers(buffer)? else { return Ok(Progress::Wanting) };
                    *self = Self::empty();
                    if !trailers.is_empty() {
                        return Ok(Progress::Trailers(trailers));
                    }
                }
            }
        }
    }
}

/// Takes up to `left` bytes.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Progress {
    let length = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
    if length == 0 {
        return Progress::Wanting;
    }
    *left -= length as u64;
    if length > COPY_UP_TO {
        return Progress::Data(buffer.split_to(length).freeze());
    }
    let copy = Bytes::copy_from_slice(&buffer[..length]);
    buffer.advance(length);
    Progress::Data(copy)
}

/// A chunk's size, once its line is there. What is said behind it has no meaning here.
fn size(buffer: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() < LONGEST_LINE { Ok(None) } else { Err(Malformed::Chunk) };
    };
    let line = buffer[..end].strip_suffix(b"\r").ok_or(Malformed::Chunk)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, besides) = line.split_at(digits);
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let size = size.filter(|_| matches!(besides.trim_ascii_start().first(), None | Some(b';')));
    let size = size.ok_or(Malformed::Chunk)?;
    buffer.advance(end + 1);
    Ok(Some(size))
}

/// Takes the end of a chunk's line, once it is there.
fn gap(buffer: &mut BytesMut) -> Result<bool, Malformed> {
    match (buffer.first(), buffer.get(1)) {
        (None, _) | (Some(b'\r'), None) => Ok(false),
        (Some(b'\r'), Some(b'\n')) => {
            buffer.advance(2);
            Ok(true)
        }
        _ => Err(Malformed::Chunk),
    }
}

fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    match httparse::parse_headers(buffer, &mut fields).map_err(Malformed::Head)? {
        httparse::Status::Complete((length, fields)) => {
            let trailers = head::fields(fields, &buffer[..length])?;
            buffer.advance(length);
            Ok(Some(trailers))
        }
        httparse::Status::Partial if buffer.len() < LONGEST => Ok(None),
        httparse::Status::Partial => Err(Malformed::TooLong),
    }
}
