//! HTTP/2 frames by hand, as a server that means no good writes them.
//!
//! Frames are whole or cut as the test wants. Nothing is kept of a connection's state, and no header is read: every HEADERS
//! frame that comes is a request.
//!
//! **Source:** RFC 9113 §4.1, §6; RFC 7541 §6.2.2.

use std::{io::Read, net::TcpStream};

/// Flags.
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;

/// Codes of errors.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;

/// The longest frame that every peer takes.
const LONGEST: usize = 16 * 1024;
/// What every client says first.
const PREFACE: usize = 24;

/// What came of a client, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// A request's head on this stream, and whether that was all of it.
    Head(u32, bool),
    /// The end of a request's body.
    End(u32),
    /// Something to be acknowledged with these bytes.
    Settings,
    /// The same.
    Ping([u8; 8]),
    /// Nothing that wants an answer.
    Other,
}

/// Reads the client's preface.
pub(crate) fn read_preface(stream: &mut TcpStream) -> Option<()> {
    stream.read_exact(&mut [0; PREFACE]).ok()
}

/// Reads one frame.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Option<Came> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [a, b, c, kind, flags, stream_id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).ok()?;
    let id = u32::from_be_bytes(stream_id);
    Some(match kind {
        0 if flags & END_STREAM != 0 => Came::End(id),
        1 => Came::Head(id, flags & END_STREAM != 0),
        4 if flags & ACK == 0 => Came::Settings,
        6 if flags & ACK == 0 => Came::Ping(payload.try_into().ok()?),
        _ => Came::Other,
    })
}

/// What a server says first: room for long requests.
pub(crate) fn greeting() -> Vec<u8> {
    let window = 1_u32 << 20;
    let mut settings = vec![0, 4];
    settings.extend_from_slice(&window.to_be_bytes());
    [frame(4, 0, 0, &settings), frame(8, 0, 0, &window.to_be_bytes())].concat()
}

/// The answer to a client's settings.
pub(crate) fn settings_ack() -> Vec<u8> {
    frame(4, ACK, 0, &[])
}

/// The answer to a ping.
pub(crate) fn pong(payload: [u8; 8]) -> Vec<u8> {
    frame(6, ACK, 0, &payload)
}

/// The head of an answer that goes on.
pub(crate) fn head(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(1, END_HEADERS, stream, &block(fields))
}

/// The head of an answer that is all of it, or trailers.
pub(crate) fn last_head(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(1, END_HEADERS | END_STREAM, stream, &block(fields))
}

/// Data that is followed by more.
pub(crate) fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(LONGEST).flat_map(|chunk| frame(0, 0, stream, chunk)).collect()
}

/// Data that ends the stream.
pub(crate) fn last_data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(0, END_STREAM, stream, bytes)
}

/// A stream's end by force.
pub(crate) fn reset_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(3, 0, stream, &code.to_be_bytes())
}

/// A connection's end: streams after `last` were not looked at.
pub(crate) fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(7, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Literal fields with new names, without indexing, not compressed.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("one byte holds the length");
        [&[length], text.as_bytes()].concat()
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}
