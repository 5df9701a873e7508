//! What a gateway tells the others: how often its hottest keys are read there, and all keys together.
//!
//! ```text
//! "weirhot1" │ all reads a second, f64 │ ( length, 2 bytes │ view │ length, 2 bytes │ entity key │ reads a second, f64 )*
//!     numbers little-endian
//! ```
//!
//! What is no report is passed over: a gateway of another version counts for itself.

use std::sync::Arc;

use super::Key;
use crate::infer::EntityKey;

/// What every report begins with, its layout's version in it.
const MAGIC: &[u8; 8] = b"weirhot1";

/// Keys of a report that are looked at, and no more than that.
const MOST: usize = 256;

/// A report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// Of all keys together, a second.
    pub(crate) total: f64,
    /// Reads a second of those that are read most.
    pub(crate) keys: Vec<(Key, f64)>,
}

impl Report {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &self.total.to_le_bytes()].concat();
        for ((view, key), rate) in &self.keys {
            let parts = [view.as_bytes(), key.as_bytes()];
            if parts.iter().all(|part| u16::try_from(part.len()).is_ok()) {
                for part in parts {
                    bytes.extend(u16::try_from(part.len()).unwrap_or(0).to_le_bytes());
                    bytes.extend_from_slice(part);
                }
                bytes.extend(rate.to_le_bytes());
            }
        }
        bytes
    }

    /// `None`: it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut report = Self { total: rate(&mut rest)?, keys: Vec::new() };
        while !rest.is_empty() && report.keys.len() < MOST {
            let view: Arc<str> = std::str::from_utf8(part(&mut rest)?).ok()?.into();
            let key = EntityKey::from(part(&mut rest)?);
            report.keys.push(((view, key), rate(&mut rest)?));
        }
        Some(report)
    }
}

/// How many keys a report has. For fuzzing.
#[must_use]
pub fn count(bytes: &[u8]) -> Option<usize> {
    Report::decode(bytes).map(|report| report.keys.len())
}

/// A number of reads a second; what is none is no report.
fn rate(rest: &mut &[u8]) -> Option<f64> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    let rate = f64::from_le_bytes(*number);
    (rate.is_finite() && rate >= 0.0).then_some(rate)
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (part, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
    *rest = after;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::key;

    #[test]
    fn a_report_is_read_as_it_was_told_and_damaged_it_is_none() {
        let keys = vec![(("v".into(), key(1)), 12.5), (("w".into(), key(2)), 0.0)];
        let report = Report { total: 100.0, keys };
        let bytes = report.encode();
        assert_eq!(Report::decode(&bytes), Some(report));
        let whole = (0..bytes.len()).filter(|&end| Report::decode(&bytes[..end]).is_some()).count();
        assert_eq!(whole, 2, "cut between keys it is a shorter one");
        let nan = [&MAGIC[..], &f64::NAN.to_le_bytes()].concat();
        assert_eq!([Report::decode(&nan), Report::decode(b"weirhot2")], [None, None]);
    }
}
