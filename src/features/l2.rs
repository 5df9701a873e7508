//! L2: the store behind the in-process cache. Feast's Redis, feature servers in front of it, or one of this process's own; the
//! same contract.
//!
//! A read takes all keys of a request at once, whatever views they are of. A write never replaces a newer row and never
//! shortens the life of a hash that was there before. Feature servers are read only.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Row,
    embedded::Embedded,
    feast::Malformed,
    redis::{Redis, ShardShown, Whereabouts},
    served::Served,
};
use crate::{
    config::{Features, View},
    infer::{EntityKey, WorkerId},
};

/// Why the embedded store keeps nothing else.
const ROWS_ONLY: &str = "it keeps rows only";

/// A row that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) view: Arc<View>,
    pub(crate) key: EntityKey,
}

/// Where a row may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Under its key, or in a copy of it.
    Copies,
    /// Under its key only: what is read is as old as the question.
    Key,
}

/// What a read came to.
#[derive(Debug)]
pub(crate) struct Answers {
    /// In the order of what was asked for; `None` where the store has none.
    pub(crate) rows: Vec<Result<Option<Row>, Error>>,
    /// Those that come from copies, in the same order, and when those were made: what they say is as old as that.
    pub(crate) copied: Vec<(usize, Instant)>,
}

impl From<Vec<Result<Option<Row>, Error>>> for Answers {
    fn from(rows: Vec<Result<Option<Row>, Error>>) -> Self {
        Self { rows, copied: Vec::new() }
    }
}

/// A row that is to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) ask: Ask,
    pub(crate) row: Arc<Row>,
}

/// Why a row is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It was found further away: a hash that it creates lives as long as the store's `ttl` says.
    WriteBack,
    /// It is new, and nowhere else: a hash that it creates lives for ever.
    Push(Order),
}

/// Which stored rows a row replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Those with an older event.
    ByTime,
    /// The same, and all whose event was not after 1970, as Feast has it.
    SinceEpoch,
}

impl Order {
    /// Whether a row of an event at `new` replaces one of an event at `stored`.
    pub(crate) const fn replaces(self, new: Option<i64>, stored: i64) -> bool {
        match (self, new) {
            (Self::SinceEpoch, _) if stored <= 0 => true,
            (_, Some(new)) => new > stored,
            (_, None) => false,
        }
    }
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the usual outcome of a write is that it is written")]
pub(crate) enum Written {
    /// The row is stored.
    Written,
    /// The same, in the place of one whose event time cannot be read: it could not be shown to be newer, nor ever be replaced.
    Mended,
    /// The store holds one that is as new or newer.
    Older,
}

impl Written {
    /// Whether the store holds the row now.
    pub(crate) const fn is_stored(self) -> bool {
        matches!(self, Self::Written | Self::Mended)
    }
}

/// What a server may have of a question that it did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Nothing,
    /// All of it: it may be carried out yet.
    Perhaps,
}

/// Why the store did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no connection; one is being made.
    #[error("{address}: {why}")]
    Unreachable { address: Arc<str>, why: Arc<str>, sent: Sent },
    /// The answer did not come in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The server answered with an error.
    #[error("{address}: {why}")]
    Refused { address: Arc<str>, why: Arc<str> },
    /// The server failed too often of late: it was not asked, and will not be until then.
    #[error("{address}: not asked, its circuit breaker is open")]
    Open { address: Arc<str>, until: Instant },
    /// As many requests as may be are under way at the server: it was not asked.
    #[error("{address}: not asked, too many requests are under way (features.l2.max_in_flight)")]
    Full { address: Arc<str> },
    /// What is stored is not a row.
    #[error("the stored row of {view} cannot be read")]
    Malformed { view: Arc<str>, source: Malformed },
    /// The server answered that it cannot serve, or what is no answer.
    #[error("{address}: {why}")]
    Failed { address: Arc<str>, why: Arc<str> },
    /// The store itself could not read the row anew: what it has is from before, this long past its time.
    #[error("a row of {age:?} ago")]
    Stale { row: Arc<Row>, age: Duration },
    /// The Redis that took over for the first is a replica still.
    #[error("{address}: the DR Redis takes no writes yet: promote it (REPLICAOF NO ONE), or bring the first one back")]
    NotPromoted { address: Arc<str> },
    /// The Redis that took over for the first is a replica, and the first one is about to have the rows again.
    #[error("{address}: the DR Redis takes no writes, and the first one is about to have the rows again")]
    Returning { address: Arc<str> },
    /// The Redis that took over for the first acknowledges nothing any more.
    #[error("{address}: the DR Redis is closed: others have gone back to the first one, which does not answer here")]
    Closed { address: Arc<str> },
    /// The store takes no rows from here.
    #[error("features.l2.feature_server is read only")]
    ReadOnly,
    /// The embedded store failed, or has too much to write.
    #[error("embedded store: {0}")]
    Embedded(Arc<str>),
}

impl Error {
    /// Whether it is what is stored under the key that cannot be read: no row, or a key of another Redis type.
    pub(crate) fn is_about_the_row(&self) -> bool {
        match self {
            Self::Malformed { .. } => true,
            Self::Refused { why, .. } => why.starts_with("WRONGTYPE"),
            _ => false,
        }
    }

    /// Whether nothing of what was asked can be carried out any more: it was not sent, or was refused.
    pub(crate) const fn is_over(&self) -> bool {
        match self {
            Self::Unreachable { sent, .. } => matches!(sent, Sent::Nothing),
            Self::Open { .. }
            | Self::Full { .. }
            | Self::Refused { .. }
            | Self::NotPromoted { .. }
            | Self::Returning { .. }
            | Self::ReadOnly => true,
            Self::TimedOut(_)
            | Self::Malformed { .. }
            | Self::Failed { .. }
            | Self::Stale { .. }
            | Self::Closed { .. }
            | Self::Embedded(_) => false,
        }
    }

    /// When to ask again, where a breaker says so.
    pub(crate) const fn until(&self) -> Option<Instant> {
        match self {
            Self::Open { until, .. } => Some(*until),
            _ => None,
        }
    }
}

/// The store that the config names.
#[derive(Debug)]
pub(crate) enum L2 {
    Redis(Redis),
    Served(Served),
    Embedded(Embedded),
}

impl L2 {
    /// The same store, for what the views have become.
    pub(crate) fn next(&self, features: &Features) -> Self {
        match self {
            Self::Redis(redis) => Self::Redis(redis.next(features)),
            Self::Served(served) => Self::Served(served.next(features)),
            Self::Embedded(embedded) => Self::Embedded(embedded.next(features)),
        }
    }

    /// The rows asked for.
    pub(crate) async fn fetch(&self, worker: WorkerId, asks: &[Ask], via: Via) -> Answers {
        match self {
            Self::Redis(redis) => redis.fetch(worker, asks, via).await,
            Self::Served(served) => served.read(worker, asks).await.into(),
            Self::Embedded(embedded) => embedded.read(asks).into(),
        }
    }

    /// The Redis that gateways share, where there is one.
    pub(crate) const fn redis(&self) -> Option<&Redis> {
        match self {
            Self::Redis(redis) => Some(redis),
            Self::Served(_) | Self::Embedded(_) => None,
        }
    }

    /// Whether it takes rows: feature servers write back and are pushed to themselves.
    pub(crate) const fn is_writable(&self) -> bool {
        !matches!(self, Self::Served(_))
    }

    /// What Weir itself keeps in the store under a name.
    pub(crate) async fn read_own(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::Redis(redis) => redis.read_own(name).await,
            Self::Served(_) => Err(Error::ReadOnly),
            Self::Embedded(_) => Err(Error::Embedded(ROWS_ONLY.into())),
        }
    }

    /// Keeps it, in place of what was there.
    pub(crate) async fn write_own(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::Redis(redis) => redis.write_own(name, bytes).await,
            Self::Served(_) => Err(Error::ReadOnly),
            Self::Embedded(_) => Err(Error::Embedded(ROWS_ONLY.into())),
        }
    }

    /// The key's rows were changed by now, by whomever: reads that begin later are not to be behind that.
    pub(crate) fn changed(&self, key: &EntityKey) {
        if let Self::Redis(redis) = self {
            redis.changed(key);
        }
    }

    /// The same of all keys.
    pub(crate) fn all_changed(&self) {
        if let Self::Redis(redis) = self {
            redis.all_changed();
        }
    }

    /// How the servers stand that rows are read from; `None`: there are no replicas among them.
    pub(crate) fn shards(&self, now: Instant) -> Option<Vec<ShardShown>> {
        self.redis().and_then(|redis| redis.shards(now))
    }

    /// Which of two Redises has the rows, where one may take over for the other.
    pub(crate) fn whereabouts(&self) -> Option<Whereabouts> {
        match self {
            Self::Redis(redis) => redis.whereabouts(),
            Self::Served(_) | Self::Embedded(_) => None,
        }
    }

    /// Longest wait for the answers to a read.
    pub(crate) fn timeout(&self) -> Duration {
        match self {
            Self::Redis(redis) => redis.timeout(),
            Self::Served(served) => served.timeout(),
            Self::Embedded(_) => Duration::ZERO,
        }
    }

    /// Whether the row's server would be asked now, as far as its breaker goes.
    pub(crate) fn would_ask(&self, worker: WorkerId, ask: &Ask) -> bool {
        match self {
            Self::Redis(redis) => redis.would_ask(worker, ask),
            Self::Served(served) => served.would_ask(),
            Self::Embedded(_) => true,
        }
    }

    /// Whether every server's breaker refuses now: nobody could be asked, whatever the row. Not longer than breakers stay open
    /// unless somebody asks in vain.
    pub(crate) fn is_unavailable(&self, now: Instant) -> bool {
        match self {
            Self::Redis(redis) => redis.is_unavailable(now),
            Self::Served(served) => served.is_unavailable(now),
            Self::Embedded(_) => false,
        }
    }

    /// Stores rows, each unless the store holds one as new; what became of each, in their order.
    pub(crate) async fn write(&self, worker: WorkerId, puts: &[Put], purpose: Purpose) -> Vec<Result<Written, Error>> {
        match self {
            Self::Redis(redis) => redis.write(worker, puts, purpose).await,
            Self::Served(_) => puts.iter().map(|_| Err(Error::ReadOnly)).collect(),
            Self::Embedded(embedded) => embedded.write(puts, purpose).await,
        }
    }

    /// Writes how long open breakers stay so; to be called before each scrape.
    pub(crate) fn show(&self, now: Instant) {
        match self {
            Self::Redis(redis) => redis.show(now),
            Self::Served(served) => served.show(now),
            Self::Embedded(_) => {}
        }
    }

    /// Opens the connections of a worker before its first request needs them.
    pub(crate) async fn connect(&self, worker: WorkerId) {
        match self {
            Self::Redis(redis) => redis.connect(worker).await,
            Self::Served(served) => served.connect(worker).await,
            Self::Embedded(_) => {}
        }
    }

    /// Whether all of the store answers now; the text says which part does not, and why.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        match self {
            Self::Redis(redis) => redis.ready().await,
            Self::Served(served) => served.ready().await,
            Self::Embedded(_) => Ok(()),
        }
    }
}
