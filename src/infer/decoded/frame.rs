//! gRPC's five-byte frame around a message.
//!
//! **Source:** gRPC over HTTP/2, "Length-Prefixed-Message".

use bytes::{BufMut, Bytes, BytesMut};

use super::inflate;
use crate::infer::{Error, Kind};

/// Bytes before a message: a flag and the length.
pub const FRAME: usize = 5;

/// The one message of a unary request, without its frame and decompressed. `encoding` is the `grpc-encoding` header.
///
/// # Errors
/// Not exactly one message, an encoding other than `identity` and `gzip`, or a message over `limit` bytes.
pub fn unframe(body: Bytes, encoding: Option<&str>, limit: u64) -> Result<Bytes, Error> {
    let Some(&[flag, a, b, c, d]) = body.first_chunk::<FRAME>() else {
        let size = body.len();
        return Err(Error::invalid(format!("invalid gRPC message: {size} bytes, a frame begins with {FRAME}")));
    };
    let (length, found) = (u32::from_be_bytes([a, b, c, d]) as usize, body.len() - FRAME);
    if length as u64 > limit {
        return Err(Error::new(Kind::TooLarge, format!("the message has {length} bytes, over the limit of {limit}")));
    }
    if length != found {
        return Err(Error::invalid(format!(
            "invalid gRPC message: the frame says {length} bytes, {found} follow; allowed: exactly one message"
        )));
    }
    let message = body.slice(FRAME..);
    match (flag, encoding) {
        (0, _) => Ok(message),
        (1, Some("gzip")) => inflate::gunzip(&message, limit),
        (1, None | Some("identity")) => {
            Err(Error::invalid("invalid gRPC message: marked as compressed, without a grpc-encoding"))
        }
        (1, Some(other)) => Err(Error::new(
            Kind::Unimplemented,
            format!("grpc-encoding {other:?} cannot be read; allowed: identity, gzip"),
        )),
        (flag, _) => Err(Error::invalid(format!("invalid gRPC message: the frame's flag is {flag}; allowed: 0, 1"))),
    }
}

/// The message behind an uncompressed frame.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(FRAME + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("a message over 4 GiB is refused when it is read"));
    out.put_slice(message);
    out.freeze()
}
