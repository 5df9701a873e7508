//! How a pool finds its endpoints, spreads its requests over them, and is stood in for. What a pool is otherwise is in `config`.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use super::Upstream;
use crate::infer::PoolId;

/// Where endpoints are found.
#[derive(Clone, Debug)]
pub(crate) enum Discovery {
    /// One an address of a name.
    Dns(Dns),
    /// A list in a file.
    File(EndpointsFile),
}

impl fmt::Display for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(dns) => write!(f, "dns {}", dns.http.authority),
            Self::File(file) => write!(f, "file {}", file.path.display()),
        }
    }
}

/// A name whose addresses are endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Dns {
    /// The name and the HTTP port; requests say it in `host`.
    pub(crate) http: Upstream,
    pub(crate) grpc_port: Option<u16>,
    pub(crate) zone: Option<Arc<str>>,
    /// How often it is resolved again.
    pub(crate) refresh: Duration,
}

/// A file with a list of endpoints.
#[derive(Clone, Debug)]
pub(crate) struct EndpointsFile {
    pub(crate) path: PathBuf,
    /// Of those that name none.
    pub(crate) zone: Option<Arc<str>>,
}

/// How a pool's requests are spread.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    /// The gateway's own zone.
    pub(crate) own_zone: Option<Arc<str>>,
    /// The healthy share under which all endpoints are asked.
    pub(crate) panic_threshold: f64,
    pub(crate) slow_start: Duration,
    pub(crate) outlier: Outlier,
}

/// When an endpoint that is worse than the others is left out for a while.
#[derive(Clone, Debug)]
pub(crate) struct Outlier {
    pub(crate) interval: Duration,
    pub(crate) base_ejection: Duration,
    pub(crate) max_ejection: Duration,
    pub(crate) max_ejected: f64,
    pub(crate) latency: f64,
    pub(crate) latency_floor: Duration,
    pub(crate) failures: f64,
}

/// When another pool takes over.
#[derive(Clone, Debug)]
pub(crate) struct Failover {
    pub(crate) pool: PoolId,
    /// The healthy share under which it does.
    pub(crate) threshold: f64,
    /// How long the share must be back before requests go back.
    pub(crate) back_after: Duration,
}
