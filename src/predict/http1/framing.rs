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
#[derive(Debug, PartialEq, Eq)]
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
                    let Some(size) = take_size(buffer)? else { return Ok(Progress::Wanting) };
                    self.0 = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::Gap => {
                    if !take_gap(buffer)? {
                        return Ok(Progress::Wanting);
                    }
                    self.0 = State::Size;
                }
                State::Trailers => {
                    let Some(trailers) = take_trailers(buffer)? else { return Ok(Progress::Wanting) };
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

/// Takes a chunk's size, once its line is there. What is said behind it has no meaning here. Lines of chunks end in CR LF and
/// hold no other CR: where one reader sees a line's end and another none, they see different bodies.
fn take_size(buffer: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let end = memchr::memchr(b'\n', buffer);
    if end.unwrap_or(buffer.len()) > LONGEST_LINE {
        return Err(Malformed::Chunk);
    }
    let Some(end) = end else { return Ok(None) };
    let line = buffer[..end].strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')).ok_or(Malformed::Chunk)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, besides) = line.split_at(digits);
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let besides = besides.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    let size = size.filter(|_| matches!(besides, None | Some(b';'))).ok_or(Malformed::Chunk)?;
    buffer.advance(end + 1);
    Ok(Some(size))
}

/// Takes the end of a chunk's line, once it is there.
fn take_gap(buffer: &mut BytesMut) -> Result<bool, Malformed> {
    match (buffer.first(), buffer.get(1)) {
        (None, _) | (Some(b'\r'), None) => Ok(false),
        (Some(b'\r'), Some(b'\n')) => {
            buffer.advance(2);
            Ok(true)
        }
        _ => Err(Malformed::Chunk),
    }
}

/// Takes what is behind the last chunk, once its end is there.
fn take_trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let length = memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4);
    if length.unwrap_or(buffer.len()) > LONGEST {
        return Err(Malformed::TooLong);
    }
    let Some(length) = length else { return Ok(None) };
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let text = &buffer[..length];
    let trailers = match httparse::parse_headers(text, &mut fields).map_err(Malformed::Head)? {
        httparse::Status::Complete((parsed, fields)) if parsed == length => head::trailers(fields, text)?,
        // A bare LF ended them before.
        _ => return Err(Malformed::Chunk),
    };
    buffer.advance(length);
    Ok(Some(trailers))
}
