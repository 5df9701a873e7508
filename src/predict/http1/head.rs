//! The head of an answer, and what it says of the body behind it.
//!
//! Where a head could be read in two ways it is an error, or the connection is not used again: two readers who disagree on
//! where an answer ends give one caller the answer of another.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{Framing, Malformed};

/// Fields of a head that are read; more are an error.
const MOST_FIELDS: usize = 128;
/// The longest head, and the longest trailers.
pub(super) const LONGEST: usize = 64 * 1024;

/// An answer's head.
#[derive(Debug)]
pub struct Head {
    /// Its status, which is final.
    pub status: StatusCode,
    /// Its fields, but for a `content-length` that does not count.
    pub headers: HeaderMap,
    /// How the body behind it ends.
    pub framing: Framing,
    /// Whether the connection stays open.
    pub persistent: bool,
}

/// Takes the head of the answer to a `verb` request out of `buffer`, once all of it is there; interim answers ahead of it are
/// passed over.
///
/// # Errors
///
/// What is there cannot become an answer.
pub fn read_head(buffer: &mut BytesMut, verb: &Method) -> Result<Option<Head>, Malformed> {
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut fields);
        let httparse::Status::Complete(length) = parsed.map_err(Malformed::Head)? else {
            return if buffer.len() <= LONGEST { Ok(None) } else { Err(Malformed::TooLong) };
        };
        if length > LONGEST {
            return Err(Malformed::TooLong);
        }
        let status = status(&response)?;
        let head = if status.is_informational() { None } else { Some(head(&response, &buffer[..length], verb)?) };
        buffer.advance(length);
        match head {
            Some(head) => return Ok(Some(head)),
            None if status == StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed::Switched),
            None => {}
        }
    }
}

/// Whether a head may end behind `seen` bytes of it, or is too long.
pub(super) fn may_end(buffer: &[u8], seen: usize) -> bool {
    let fresh = &buffer[seen.saturating_sub(3)..];
    let mut lines = memchr::memchr_iter(b'\n', fresh);
    let ends = lines.any(|at| matches!(fresh[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]));
    ends || buffer.len() > LONGEST
}

fn status(response: &httparse::Response<'_, '_>) -> Result<StatusCode, Malformed> {
    let code = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    code.ok_or(Malformed::Head(httparse::Error::Status))
}

fn head(response: &httparse::Response<'_, '_>, text: &[u8], verb: &Method) -> Result<Head, Malformed> {
    let status = status(response)?;
    let mut told = Told::default();
    let headers = collect(response.headers, text, |name, value| told.note(name, value).map(|()| true))?;
    let one_one = response.version == Some(1);
    let mut head = Head { status, headers, framing: Framing::empty(), persistent: told.persistent.unwrap_or(one_one) };
    if *verb == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(head);
    }
    if let Some(codings) = told.codings {
        // Others than chunked have to be asked for, and nobody does.
        if codings != Codings::Chunked || !one_one {
            return Err(Malformed::Coding);
        }
        // The length does not count, but who sent both may mean it. §6.1, §6.3.
        head.persistent &= head.headers.remove(header::CONTENT_LENGTH).is_none();
        head.framing = Framing::chunked();
    } else {
        head.framing = told.length.map_or(Framing::until_close(), Framing::length);
    }
    head.persistent &= !head.framing.is_until_close();
    Ok(head)
}

/// What fields say of the connection and the body.
///
/// **Source:** RFC 9112 §6.3, §9.3.
#[derive(Default)]
struct Told {
    length: Option<u64>,
    codings: Option<Codings>,
    persistent: Option<bool>,
}

/// The transfer codings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codings {
    /// A `transfer-encoding` without any.
    None,
    Chunked,
    /// Another, or more than one.
    Other,
}

/// Trailers as a map, without what has a meaning in a head only.
///
/// **Source:** RFC 9110 §6.5.1.
pub(super) fn trailers(fields: &[httparse::Header<'_>], text: &[u8]) -> Result<HeaderMap, Malformed> {
    collect(fields, text, |name, _| {
        Ok(!matches!(
            *name,
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION | header::TRAILER | header::HOST
        ))
    })
}

/// The fields that `keeps` as a map. Their values share one copy of the text, so that the connection's buffer stays its own.
fn collect(
    fields: &[httparse::Header<'_>],
    text: &[u8],
    mut keeps: impl FnMut(&HeaderName, &HeaderValue) -> Result<bool, Malformed>,
) -> Result<HeaderMap, Malformed> {
    let (shared, start) = (Bytes::copy_from_slice(text), text.as_ptr() as usize);
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| Malformed::Head(httparse::Error::HeaderName))?;
        let at = field.value.as_ptr() as usize - start;
        let value = HeaderValue::from_maybe_shared(shared.slice(at..at + field.value.len()));
        let value = value.map_err(|_| Malformed::Head(httparse::Error::HeaderValue))?;
        if keeps(&name, &value)? {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

impl Told {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
        if *name == header::CONTENT_LENGTH {
            let length = length(value)?;
            if self.length.replace(length).is_some_and(|before| before != length) {
                return Err(Malformed::Length);
            }
        } else if *name == header::TRANSFER_ENCODING {
            let mut codings = self.codings.unwrap_or(Codings::None);
            for coding in tokens(value) {
                let chunked = coding.eq_ignore_ascii_case(b"chunked") && codings == Codings::None;
                codings = if chunked { Codings::Chunked } else { Codings::Other };
            }
            self.codings = Some(codings);
        } else if *name == header::CONNECTION {
            for option in tokens(value) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.persistent = Some(false);
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    self.persistent.get_or_insert(true);
                }
            }
        }
        Ok(())
    }
}

/// The members of a list.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// A length, which may be said several times over if each time the same.
fn length(value: &HeaderValue) -> Result<u64, Malformed> {
    let mut length = None;
    for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        // Not `parse` alone, which takes a sign.
        let digits = token.iter().all(u8::is_ascii_digit).then_some(token);
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
        let number: u64 = number.ok_or(Malformed::Length)?;
        if length.replace(number).is_some_and(|before| before != number) {
            return Err(Malformed::Length);
        }
    }
    length.ok_or(Malformed::Length)
}
