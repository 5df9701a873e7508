//! How requests are kept for later.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Redis, Retry};

/// Requests kept for later.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    pub(crate) store: SpoolStore,
    /// How long a request is kept, and then its result.
    pub(crate) keep_for: Duration,
    /// Results among them; at least 1.
    pub(crate) max_entries: u64,
    /// Of requests and results together; at least 1.
    pub(crate) max_bytes: u64,
    /// How a kept request is tried again.
    pub(crate) retry: Retry,
    /// Whether what was answered at level 3 is kept too.
    pub(crate) log: bool,
}

/// Where requests are kept.
#[derive(Clone, Debug)]
pub(crate) enum SpoolStore {
    /// In the Redis of the features, for all gateways of the project.
    Redis {
        /// The Redis.
        redis: Redis,
        /// The Feast project.
        project: Arc<str>,
    },
    /// By this process alone; `None`: in memory.
    Embedded {
        /// The database file.
        path: Option<PathBuf>,
    },
}

impl SpoolStore {
    /// The file that it is in, where it is in one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Embedded { path } => path.as_deref(),
            Self::Redis { .. } => None,
        }
    }
}
