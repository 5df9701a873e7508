//! Lookup files: one view's rows on an object store, so laid out that any one of them costs at most two ranged reads.
//!
//! `<url>/<project>/<view>/manifest.json` names an immutable data file beside it: rows in hash buckets of about 8 KiB, then a
//! directory of the buckets in pages of 64 KB. `format` is the bytes, `manifest` the JSON, `writer` (over `partition`) makes both,
//! `file` reads one; who reads them on the request path, and refreshes manifests, is `features::object`.

pub(crate) mod file;
pub(crate) mod format;
pub(crate) mod location;
pub(crate) mod manifest;
pub(crate) mod partition;
pub(crate) mod view;
pub(crate) mod writer;

pub(crate) use location::{Location, Patience};
pub(crate) use writer::{Target, Writer, write};

/// Why a lookup file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The object store failed: may pass.
    #[error("the object store failed")]
    Store(#[from] object_store::Error),
    /// The object store gave another number of bytes than it was asked for: may pass.
    #[error("the object store gave {given} of the {asked} bytes it was asked for")]
    Cut {
        /// Bytes that came.
        given: u64,
        /// Bytes of the range.
        asked: u64,
    },
    /// A temporary file failed.
    #[error("a temporary file failed (TMPDIR says where they are)")]
    Temporary(#[from] std::io::Error),
    /// A data file is not what was written: build it again.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The data file.
        file: String,
        /// What does not hold.
        what: format::Damaged,
    },
    /// The file and the config do not agree: build it again, or correct the config.
    #[error("{0}")]
    Mismatch(String),
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
