//! The name of a model on the way out and back: the pool may know it under another one.
//!
//! Only the name is spliced; everything else of a message keeps its bytes. An answer that cannot be read is passed on as it
//! is: whoever asked gets the backend's own words.

use bytes::Bytes;

use crate::infer::{
    Error, Kind, Protocol,
    decoded::{
        Span,
        inflate::gunzip,
        json::Scanner,
        wire::{Fault, Fields, Wire, put_bytes, record_length},
        writer::put_json_text,
    },
};

/// Bytes before a gRPC message: a flag and the length.
pub(super) const FRAME: usize = 5;

/// The longest answer that is decompressed to be renamed.
const LARGEST_ANSWER: u64 = 64 << 20;

/// The field of a request that names the model: calls about the repository name that first.
pub(super) fn field(path: &str) -> u32 {
    match path.rsplit('/').next() {
        Some("RepositoryModelLoad" | "RepositoryModelUnload") => 2,
        _ => 1,
    }
}

/// Renames a held, framed gRPC request. `name`: the field and what it shall say.
///
/// # Errors
/// Not exactly one message, or none that can be read.
pub(super) fn request(framed: &Bytes, name: (u32, &str), limit: u64) -> Result<Bytes, Error> {
    let invalid = || Error::invalid("invalid gRPC message: allowed: exactly one message in its frame");
    let (compressed, length) = frame(framed).ok_or_else(invalid)?;
    let message = framed.slice(FRAME..);
    if message.len() != length {
        return Err(invalid());
    }
    let message = if compressed { gunzip(&message, limit)? } else { message };
    message_to(&message, |_| true, name, None)
}

/// Renames the front of a gRPC request whose rest is still to come. A later second `model_name` stays as it is.
///
/// # Errors
/// The message is compressed, so its front cannot be changed without the rest, or the front does not name the model.
pub(super) fn front(head: &Bytes, name: (u32, &str)) -> Result<Bytes, Error> {
    let (compressed, length) =
        frame(head).ok_or_else(|| Error::new(Kind::Internal, "a streamed gRPC message began without its frame"))?;
    if compressed {
        return Err(Error::new(
            Kind::Unimplemented,
            "a compressed message that is too long to hold cannot be renamed for this model's pool; allowed: uncompressed",
        ));
    }
    if head.len() - FRAME > length {
        return Err(Error::invalid("invalid gRPC message: allowed: exactly one message in its frame"));
    }
    message_to(&head[FRAME..], |_| true, name, Some(length))
}

/// Gives a held answer the name that the caller used. Returns it and, in the binary extension, the length of its JSON.
#[must_use]
pub fn answer(
    protocol: Protocol,
    body: Bytes,
    upstream: &str,
    model: &str,
    json_length: Option<usize>,
) -> (Bytes, Option<usize>) {
    if upstream == model {
        return (body, json_length);
    }
    let renamed = match protocol {
        Protocol::V1 => None,
        Protocol::V2Json => json_answer(&body, body.len(), upstream, model),
        Protocol::V2Binary => {
            let length = json_length.unwrap_or(body.len()).min(body.len());
            json_answer(&body, length, upstream, model)
        }
        Protocol::Grpc => grpc_answer(&body, upstream, model).map(|bytes| (bytes, 0)),
    };
    match renamed {
        None => (body, json_length),
        Some((bytes, length)) => (bytes, json_length.map(|_| length)),
    }
}

fn json_answer(body: &Bytes, length: usize, upstream: &str, model: &str) -> Option<(Bytes, usize)> {
    let json = &body[..length];
    let mut scanner = Scanner::new(json);
    scanner.space();
    if scanner.peek() != Some(b'{') {
        return None;
    }
    let mut found = None;
    let walked = scanner.object(|scanner, key| {
        let value = scanner.span()?;
        // Metadata and readiness say `name`.
        if key.is(json, "model_name") || key.is(json, "name") {
            found = Some(value);
        }
        Ok(())
    });
    let name = walked.ok().and(found)?;
    let said = Scanner::new(name.of(json)).text("model_name").ok()?;
    if !said.is(name.of(json), upstream) {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() + model.len() + 2);
    out.extend_from_slice(&body[..name.start()]);
    put_json_text(&mut out, model);
    let length = out.len() + length - name.end();
    out.extend_from_slice(&body[name.end()..]);
    Some((out.into(), length))
}

fn grpc_answer(body: &Bytes, upstream: &str, model: &str) -> Option<Bytes> {
    let (compressed, length) = frame(body)?;
    let message = body.slice(FRAME..);
    if message.len() != length {
        return None;
    }
    let message = if compressed { gunzip(&message, LARGEST_ANSWER).ok()? } else { message };
    message_to(&message, |name| name == upstream.as_bytes(), (1, model), None).ok()
}

/// Whether a frame's message is compressed, and how long it says it is.
fn frame(bytes: &[u8]) -> Option<(bool, usize)> {
    let &[flag, a, b, c, d] = bytes.first_chunk::<FRAME>()?;
    Some((flag & 1 == 1, u32::from_be_bytes([a, b, c, d]) as usize))
}

/// Frames `message` with its `model_name` replaced wherever `old` knows it. `whole`: the message's length where `message` is
/// only its front.
fn message_to(
    message: &[u8],
    old: impl Fn(&[u8]) -> bool,
    (number, name): (u32, &str),
    whole: Option<usize>,
) -> Result<Bytes, Error> {
    let mut fields = Fields::all(message);
    let mut names: Vec<Span> = Vec::new();
    loop {
        match fields.next() {
            Ok(Some(field)) => {
                if let Wire::Bytes(span) = field.value
                    && field.number == number
                    && old(span.of(message))
                {
                    names.push(field.span);
                }
            }
            Ok(None) => break,
            Err(Fault::Short(_)) if whole.is_some() => break,
            Err(fault) => return Err(fault.into()),
        }
    }
    if names.is_empty() {
        return Err(Error::invalid("model_name is missing"));
    }
    let removed: usize = names.iter().map(|span| span.len()).sum();
    let added = record_length(name.len());
    let length = whole.unwrap_or(message.len()) - removed + added;
    let mut out = Vec::with_capacity(FRAME + message.len() - removed + added);
    out.extend_from_slice(&[0; FRAME]);
    put_bytes(&mut out, number, name.as_bytes());
    let mut at = 0;
    for span in names {
        out.extend_from_slice(&message[at..span.start()]);
        at = span.end();
    }
    out.extend_from_slice(&message[at..]);
    set_length(&mut out, length)?;
    Ok(out.into())
}

/// Writes the length of the message that follows the frame's first bytes.
pub(super) fn close_frame(out: &mut [u8]) -> Result<(), Error> {
    let length = out.len() - FRAME;
    set_length(out, length)
}

fn set_length(out: &mut [u8], length: usize) -> Result<(), Error> {
    let length = u32::try_from(length)
        .map_err(|_| Error::new(Kind::TooLarge, "with its joined features the message is over 4 GiB"))?;
    out[1..FRAME].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
