//! gzip, with a bound on what comes out.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use crate::infer::{Error, Kind};

/// Decompresses a gzip body, stopping at `limit` bytes: a bomb costs no more memory than an honest body.
///
/// # Errors
/// Not gzip, cut short, or longer than `limit`.
pub(crate) fn gunzip(body: &[u8], limit: u64) -> Result<Bytes, Error> {
    let mut out = Vec::with_capacity(body.len().saturating_mul(2).min(1 << 20));
    let mut reader = MultiGzDecoder::new(body).take(limit.saturating_add(1));
    reader.read_to_end(&mut out).map_err(|error| Error::invalid("the body is not valid gzip").with_source(error))?;
    if out.len() as u64 > limit {
        return Err(Error::new(Kind::TooLarge, format!("the decompressed body is over the limit of {limit} bytes")));
    }
    Ok(out.into())
}
