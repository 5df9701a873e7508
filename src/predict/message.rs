//! Where a gRPC answer ends: with a status, and behind a message. One that ends before is cut short, however well its stream
//! ended, as an HTTP answer shorter than its length is.
//!
//! Nothing of an answer itself is read, but where another way can answer as well: there what cannot be one, at a glance, is none.

use http::HeaderMap;

use super::classify::Failure;
use crate::infer::{Protocol, outputs::may_be_answer};

const STATUS: &str = "grpc-status";

/// Why what came is no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfinished {
    #[error("it ended without a grpc-status")]
    NoStatus,
    #[error("it ended within a message")]
    WithinMessage,
    #[error("its body is no JSON, or not all of it")]
    NoJson,
    #[error("its message cannot be read")]
    NoMessage,
}

/// Whether an answer held whole is one: it has a status, and if that is OK, its body ends with a message.
///
/// # Errors
///
/// `Broken`: asking again may help.
pub(super) fn ended(head: &HeaderMap, body: &[u8], trailers: Option<&HeaderMap>) -> Result<(), Failure> {
    match head.get(STATUS).or_else(|| trailers?.get(STATUS)) {
        None => Err(Failure::Broken(Unfinished::NoStatus.into())),
        Some(code) if code == "0" && !ends_with_message(body) => Err(Failure::Broken(Unfinished::WithinMessage.into())),
        Some(_) => Ok(()),
    }
}

/// Whether an answer held whole that says OK may be one, by both of its ends.
///
/// # Errors
///
/// `Broken`: asking again may help.
pub(super) fn makes_sense(
    protocol: Protocol,
    head: &HeaderMap,
    body: &[u8],
    trailers: Option<&HeaderMap>,
) -> Result<(), Failure> {
    let is_told =
        protocol == Protocol::Grpc && head.get(STATUS).or_else(|| trailers?.get(STATUS)).is_none_or(|code| code != "0");
    if is_told || may_be_answer(protocol, head, body) {
        return Ok(());
    }
    let why = if protocol == Protocol::Grpc { Unfinished::NoMessage } else { Unfinished::NoJson };
    Err(Failure::Broken(why.into()))
}

/// **Source:** gRPC over HTTP/2, "Length-Prefixed-Message".
fn ends_with_message(mut body: &[u8]) -> bool {
    while let Some((&[_, a, b, c, d], rest)) = body.split_first_chunk() {
        match rest.get(u32::from_be_bytes([a, b, c, d]) as usize..) {
            Some(rest) => body = rest,
            None => return false,
        }
    }
    body.is_empty()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_answer_ends_with_a_status_behind_a_message() {
        let none = HeaderMap::new();
        let [ok, failed] =
            ["0", "5"].map(|code| HeaderMap::from_iter([(STATUS.parse().unwrap(), HeaderValue::from_static(code))]));
        let message = b"\0\0\0\0\x02ab";
        for (head, body, trailers, expected) in [
            (&none, &message[..], Some(&ok), None),
            (&none, &[&message[..], &message[..]].concat(), Some(&ok), None),
            (&ok, b"", None, None),
            (&none, b"\0\0", Some(&failed), None),
            (&failed, b"", None, None),
            (&none, &message[..], None, Some("it ended without a grpc-status")),
            (&none, &message[..], Some(&none), Some("it ended without a grpc-status")),
            (&none, &message[..6], Some(&ok), Some("it ended within a message")),
            (&none, &message[..4], Some(&ok), Some("it ended within a message")),
        ] {
            let found = ended(head, body, trailers).err().map(|failure| match failure {
                Failure::Broken(error) => error.to_string(),
                other => format!("{other:?}"),
            });
            assert_eq!(found.as_deref(), expected, "{head:?} {body:?} {trailers:?}");
        }
    }
}
