//! Requests kept for later: what was answered at level 3 (logged), and what could not be answered and waits (queued).
//!
//! ```text
//!   put ─► waiting ─► claim ─► running ─► finish ─► done, for `keep_for`
//!            ▲                   │ fail: later, as `spool.retry` says; or parked
//! ```
//!
//! In Redis (`redis`: a stream with a consumer group a model, shared by all gateways of a project) or in a database of this process
//! (`embedded`). Both keep one contract: a request reaches its model at least once while tries are left (at most once where the model must
//! not be asked twice), and a key has exactly one result, the first; what fails again and again is parked; never are more than
//! `max_entries` kept, results among them; everything is forgotten after `keep_for`. Who replays, and when, is the composition root's
//! business.

pub(crate) mod desk;
mod embedded;
mod entry;
mod kept;
mod redis;
mod replay;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    entry::{Entry, Failed, Finished, Held, Millis, Replayed, Standing, State, Why, millis},
    kept::{Asker, Reply, Request, Unreadable, without_secrets},
    replay::ReplayOutcome,
};
use crate::{
    config::{self, SpoolStore},
    resilience::backoff::Retry,
    telemetry::handles::spool::{Kept as Outcome, Replay, Spool as Handles},
};

/// What goes wrong with a store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// As many are kept as may be: come back later, or let an operator make room.
    #[error("the spool is full: it keeps {0} entries (spool.max_entries), results among them")]
    Full(u64),
    /// As much is kept as may be: the same, or send less.
    #[error(
        "the spool is full: it keeps {kept} bytes of requests and results, and this one has {more} (spool.max_bytes: {most})"
    )]
    NoRoom {
        /// What is kept.
        kept: u64,
        /// What was to be kept.
        more: u64,
        /// What may be.
        most: u64,
    },
    /// The key belongs to another request, or to another caller's: use a new one.
    #[error(
        "idempotency-key {0:?} was used for another request to this model, or by another caller; allowed: the same request with \
         the same credentials, or a new key"
    )]
    OtherRequest(Arc<str>),
    /// The store could not be asked: try again.
    #[error("the spool cannot be reached: {0}")]
    Unreachable(Box<str>),
    /// What the store says makes no sense.
    #[error("the spool is damaged: {0}")]
    Damaged(Box<str>),
}

impl From<Unreadable> for Error {
    fn from(why: Unreadable) -> Self {
        Self::Damaged(why.to_string().into())
    }
}

/// A request to be kept.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub(crate) id: Arc<str>,
    /// The caller's `idempotency-key`, or the id.
    pub(crate) key: Arc<str>,
    pub(crate) why: Why,
    /// Whether the model must not be asked again once it may have been (`idempotent: false`).
    pub(crate) once: bool,
    pub(crate) request: Request,
}

/// What became of a request that was to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is kept, under its id.
    Kept,
    /// The same request is kept already under that key, with this id.
    Known(Arc<str>),
}

/// An entry with everything that is kept of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) entry: Entry,
    pub(crate) request: Request,
    /// Once it is done.
    pub(crate) reply: Option<Reply>,
}

/// An entry to be tried, and the number under which it was given out.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) id: Arc<str>,
    pub(crate) claim: u64,
    /// This try among them.
    pub(crate) attempts: u32,
    /// Whether this is the only one, if it may reach the model.
    pub(crate) once: bool,
    /// A gateway of another version may have written something else.
    pub(crate) request: Result<Request, Unreadable>,
}

/// How full the spool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// In the order of [`Standing::ALL`].
    pub(crate) entries: [u64; 4],
    /// Of requests and results together.
    pub(crate) bytes: u64,
    /// When the oldest of those that wait was received.
    pub(crate) oldest_waiting: Option<Millis>,
}

/// What a store is bound by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) max_entries: u64,
    pub(crate) max_bytes: u64,
    pub(crate) keep_for: Duration,
    pub(crate) retry: Retry,
}

/// Expired entries that one call forgets at most, beside its work.
const SWEEP: usize = 100;

/// Requests that may wait to be logged; beyond it they are dropped, and counted: they were answered.
const LOGGED: usize = 1024;

/// The spool.
#[derive(Debug)]
pub(crate) struct Spool {
    store: Store,
    terms: Terms,
    handles: Handles,
    to_log: mpsc::Sender<New>,
    /// Until [`Spool::log_all`] takes it.
    logged: Mutex<Option<mpsc::Receiver<New>>>,
}

#[derive(Debug)]
enum Store {
    Redis(Box<redis::Shared>),
    Embedded(embedded::Embedded),
}

/// Hands a call to whichever store there is.
macro_rules! either {
    ($spool:expr, $store:ident => $call:expr) => {
        match &$spool.store {
            Store::Redis($store) => $call,
            Store::Embedded($store) => $call,
        }
    };
}

impl Spool {
    /// Opens the store; Redis is connected to when it is first asked.
    ///
    /// # Errors
    ///
    /// The database cannot be opened (another process has it open), or Redis's certificates cannot be read.
    pub(crate) fn open(config: &config::Spool) -> Result<Self, Error> {
        let terms = Terms {
            max_entries: config.max_entries,
            max_bytes: config.max_bytes,
            keep_for: config.keep_for,
            retry: Retry::from(&config.retry),
        };
        let store = match &config.store {
            SpoolStore::Redis { redis, project } => Store::Redis(Box::new(redis::Shared::open(redis, project, terms)?)),
            SpoolStore::Embedded { path } => Store::Embedded(embedded::Embedded::open(path.as_deref(), terms)?),
        };
        Ok(Self::over(store, terms))
    }

    fn over(store: Store, terms: Terms) -> Self {
        let (to_log, logged) = mpsc::channel(LOGGED);
        Self { store, terms, handles: Handles::new(), to_log, logged: Mutex::new(Some(logged)) }
    }

    /// Where requests are kept, in words.
    pub(crate) const fn place(&self) -> &'static str {
        match &self.store {
            Store::Redis(_) => "redis",
            Store::Embedded(store) => store.place(),
        }
    }

    /// What it is bound by.
    pub(crate) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Keeps a request.
    ///
    /// # Errors
    ///
    /// It is full, the key is another request's, or the store fails: the request may be kept then all the same, under its id.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the request may be kept or not. Asked again with the same id and key, it is kept once.
    pub(crate) async fn put(&self, new: &New, now: Millis) -> Result<Put, Error> {
        let put = either!(self, store => store.put(new, now).await);
        self.handles.kept(match (&put, new.why) {
            (Ok(Put::Kept), Why::Queued) => Outcome::Queued,
            (Ok(Put::Kept), Why::Logged) => Outcome::Logged,
            (Ok(Put::Known(_)), _) => Outcome::Known,
            (Err(Error::OtherRequest(_)), _) => Outcome::OtherRequest,
            (Err(Error::Full(_) | Error::NoRoom { .. }), _) => Outcome::Full,
            (Err(Error::Unreachable(_) | Error::Damaged(_)), _) => Outcome::Error,
        });
        put
    }

    /// Keeps a request that was answered, in a while; nobody waits for it.
    pub(crate) fn log(&self, new: New) {
        if self.to_log.try_send(new).is_err() {
            self.handles.kept(Outcome::Dropped);
        }
    }

    /// Puts what [`Spool::log`] was given, one after the other, until `end`; then what is still there, as long as the store takes it.
    /// What it does not take then is dropped, and counted.
    pub(crate) async fn log_all(&self, end: CancellationToken) {
        let logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut logged) = logged else { return };
        while let Some(Some(new)) = end.run_until_cancelled(logged.recv()).await {
            // A full spool, or one that is away, is counted; what was to be logged was answered.
            let _ = self.put(&new, now()).await;
        }
        let mut takes = true;
        while takes && let Ok(new) = logged.try_recv() {
            takes = self.put(&new, now()).await.is_ok();
        }
        // Whoever comes from here on counts it.
        logged.close();
        while logged.try_recv().is_ok() {
            self.handles.kept(Outcome::Dropped);
        }
    }

    /// Counts how a replay ended.
    pub(crate) fn replayed(&self, replay: Replay) {
        self.handles.replayed(replay);
    }

    /// Takes at most so many entries of these models whose turn it is, the first model's first and of a model the longest due first;
    /// they are `by`'s until then.
    ///
    /// # Errors
    ///
    /// The store fails; what it gave out is given out again after `until`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, what was given out is given out again after `until`.
    pub(crate) async fn claim(
        &self,
        (models, most): (&[Arc<str>], usize),
        by: &Arc<str>,
        (now, until): (Millis, Millis),
    ) -> Result<Vec<Claimed>, Error> {
        either!(self, store => store.claim((models, most), by, (now, until)).await)
    }

    /// Stores a result, unless there is one.
    pub(crate) async fn finish(&self, id: &Arc<str>, reply: &Reply, now: Millis) -> Result<Finished, Error> {
        either!(self, store => store.finish(id, reply, now).await)
    }

    /// Says that a try brought no result.
    pub(crate) async fn fail(&self, claimed: &Claimed, failed: Failed, now: Millis) -> Result<Held, Error> {
        either!(self, store => store.fail(&claimed.id, claimed.claim, failed, now).await)
    }

    /// Gives an entry back untried; its next turn is then.
    pub(crate) async fn give_back(&self, claimed: &Claimed, due: Millis, now: Millis) -> Result<Held, Error> {
        either!(self, store => store.give_back(&claimed.id, claimed.claim, (due, now)).await)
    }

    /// An entry with its request and its result.
    pub(crate) async fn get(&self, id: &str, now: Millis) -> Result<Option<Kept>, Error> {
        let kept = either!(self, store => store.get(id).await)?;
        Ok(kept.filter(|kept| now < kept.entry.expires))
    }

    /// The entry that a model has under a key.
    pub(crate) async fn under(&self, model: &str, key: &str, now: Millis) -> Result<Option<Kept>, Error> {
        match either!(self, store => store.id_of(model, key).await)? {
            Some(id) => self.get(&id, now).await,
            None => Ok(None),
        }
    }

    /// The oldest entries, of one state or of all.
    pub(crate) async fn list(&self, standing: Option<Standing>, most: usize) -> Result<Vec<Entry>, Error> {
        either!(self, store => store.list(standing, most).await)
    }

    /// Makes it an entry's turn now.
    pub(crate) async fn replay(&self, id: &Arc<str>, now: Millis) -> Result<Replayed, Error> {
        either!(self, store => store.replay(id, now).await)
    }

    /// Forgets an entry, whatever its state; whether there was one.
    pub(crate) async fn forget(&self, id: &Arc<str>) -> Result<bool, Error> {
        either!(self, store => store.forget(id).await)
    }

    /// How full it is.
    pub(crate) async fn depth(&self) -> Result<Depth, Error> {
        either!(self, store => store.depth().await)
    }

    /// Shows how full it is, to scrapes.
    pub(crate) async fn show(&self, now: Millis) -> Result<(), Error> {
        let depth = self.depth().await?;
        let waited = depth.oldest_waiting.map_or(0, |received| now.saturating_sub(received));
        self.handles.depth(depth.entries, depth.bytes, waited as f64 / 1000.0);
        Ok(())
    }

    /// Forgets gateways that went away for good, as those who claimed the models' entries.
    pub(crate) async fn tidy(&self, models: &[Arc<str>]) -> Result<(), Error> {
        match &self.store {
            Store::Redis(store) => store.tidy(models).await,
            Store::Embedded(_) => Ok(()),
        }
    }
}

/// Now, as entries say it.
pub(crate) fn now() -> Millis {
    millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// A new id, which nobody guesses.
pub(crate) fn new_id() -> Arc<str> {
    format!("{:032x}", rand::random::<u128>()).into()
}

#[cfg(test)]
mod tests;
