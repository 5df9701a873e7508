//! The lookup files' counters of one view.

use metrics::{Counter, counter};

use crate::telemetry::names;

/// Resolved once a view.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) manifest_reads: Counter,
    pub(crate) directory_reads: Counter,
    pub(crate) bucket_reads: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) timeout: Counter,
    pub(crate) open: Counter,
    pub(crate) busy: Counter,
    pub(crate) damaged: Counter,
    pub(crate) mismatch: Counter,
}

impl Object {
    /// The handles of `view`.
    pub(crate) fn new(view: &str) -> Self {
        let read = |kind| counter!(names::OBJECT_READS, "view" => view.to_owned(), "kind" => kind);
        let error = |reason| counter!(names::OBJECT_ERRORS, "view" => view.to_owned(), "reason" => reason);
        Self {
            manifest_reads: read("manifest"),
            directory_reads: read("directory"),
            bucket_reads: read("bucket"),
            unavailable: error("unavailable"),
            timeout: error("timeout"),
            open: error("open"),
            busy: error("busy"),
            damaged: error("damaged"),
            mismatch: error("mismatch"),
        }
    }
}
