//! Where rows are kept, nearest first: in process, in the online store, on an object store.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{Secret, Upstream};

/// What the in-process cache is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L1Mode {
    /// It answers.
    Serve,
    /// Nothing is served from it: what it would have said is compared with what the layers behind it say.
    Observe,
}

/// The in-process cache.
#[derive(Clone, Debug)]
pub(crate) struct L1 {
    pub(crate) mode: L1Mode,
    /// Bytes.
    pub(crate) capacity: u64,
    pub(crate) ttl: Duration,
    pub(crate) stale_for: Duration,
    /// How long an absence is kept.
    pub(crate) negative_ttl: Duration,
    /// `None`: it starts empty.
    pub(crate) warm_start: Option<WarmStart>,
}

/// How hot keys are found and split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HotKeys {
    /// Share of all reads that makes a key hot.
    pub(crate) share: f64,
    /// Reads a second under which no key is hot.
    pub(crate) min_rate: f64,
    pub(crate) copies: Copies,
}

/// How many copies a hot key gets on other masters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    Off,
    /// As many as its share asks for.
    Auto,
    /// So many, as far as there are masters.
    Number(u32),
}

/// Copies that a key may have at most. Every gateway knows the names of so many.
pub(crate) const MOST_COPIES: u32 = 31;

/// How the rows that were asked for most come back after a restart.
#[derive(Clone, Debug)]
pub(crate) struct WarmStart {
    pub(crate) save_to: SaveTo,
    /// Most keys that are saved, and read at a start.
    pub(crate) max_keys: usize,
    pub(crate) save_every: Duration,
    /// Longest that a start waits for it, from when L2 answers.
    pub(crate) timeout: Duration,
}

/// Where the list of keys is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SaveTo {
    /// In the Redis of the rows, for all gateways of the project.
    L2,
    /// A file of this gateway's.
    File(PathBuf),
}

/// The distributed store.
#[derive(Clone, Debug)]
pub(crate) enum L2 {
    /// Feast's Redis.
    Redis(Redis),
    /// Feature servers of the same project, which have the rows.
    FeatureServers(FeatureServers),
    /// A store of this process's own; `None`: in memory.
    Embedded {
        /// The database file.
        path: Option<PathBuf>,
        /// How long a row that Weir wrote back lives.
        ttl: Duration,
    },
}

/// How feature servers are reached.
#[derive(Clone, Debug)]
pub(crate) struct FeatureServers {
    /// At least one, each once.
    pub(crate) servers: Vec<Upstream>,
    /// Longest wait for one round trip.
    pub(crate) timeout: Duration,
    /// Most requests under way at one server.
    pub(crate) max_in_flight: u32,
}

/// How Redis is reached.
#[derive(Clone, Debug)]
pub(crate) struct Redis {
    /// `redis://` or `rediss://` URLs; seeds in cluster mode, sentinels in sentinel mode. May hold a password: never printed.
    pub(crate) urls: Vec<Secret>,
    pub(crate) mode: RedisMode,
    pub(crate) ttl: Duration,
    /// Longest wait for one round trip.
    pub(crate) timeout: Duration,
    /// PEM file of the authorities that are trusted instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Of each worker to each server; at least 1.
    pub(crate) connections: usize,
    /// Most requests under way at one server.
    pub(crate) max_in_flight: u32,
    /// Which replicas are read; `None`: masters only.
    pub(crate) replicas: Option<Box<Replicas>>,
    /// Who takes over.
    pub(crate) dr: Option<Box<Dr>>,
}

/// Which servers rows are read from.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    pub(crate) from: ReadFrom,
    /// How far behind its master a replica may be.
    pub(crate) max_lag: Duration,
    /// The gateway's.
    pub(crate) own_zone: Option<Arc<str>>,
    /// What addresses begin with, and the zone of those that do.
    pub(crate) zones: Vec<(String, Arc<str>)>,
}

/// Which of a shard's servers, where it is not the master alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// Any replica.
    Replicas,
    /// The nearest, the master among them.
    Nearest,
}

/// The Redis that takes over for another.
#[derive(Clone, Debug)]
pub(crate) struct Dr {
    /// As those of the other.
    pub(crate) urls: Vec<Secret>,
    /// How long the other must be gone.
    pub(crate) failover_after: Duration,
    /// How long the other must be well again.
    pub(crate) back_after: Duration,
}

/// What kind of Redis it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RedisMode {
    /// One server.
    Single,
    /// Redis Cluster.
    Cluster,
    /// The master of that name, which sentinels know.
    Sentinel {
        /// Its name at the sentinels.
        master: Arc<str>,
    },
}

/// The lookup files on an object store.
#[derive(Clone, Debug)]
pub(crate) struct L3 {
    /// `s3://bucket/prefix`, `gs://`, `az://` or `file:///folder`.
    pub(crate) url: String,
    pub(crate) timeout: Duration,
}
