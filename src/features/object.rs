//! L3: point reads of the lookup files on an object store.
//!
//! A lookup makes at most two ranged reads; the caller waits no longer than `l3.timeout`, while a read that has begun goes on for a
//! while to warm the connection and the directory for the next one. Reads run on a runtime of their own in one thread, because a
//! pooled connection belongs to the runtime that opened it, and a request's runtime may end before the store does. How many
//! run at once is bounded: over that a lookup is refused at once.
//!
//! Opening never fails because the object store is down: a view's lookups fail until its manifest could be read. A view without a
//! manifest has no rows, which is not an error. Nothing is retried here: the feature stage has the budget for that.

mod guard;

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Semaphore, oneshot, watch},
    time::{Instant, sleep},
};

use self::guard::Guard;
use super::{
    Row, chain,
    lookup::{
        self, Location, Patience,
        file::{self, DataFile, Pages},
        format,
        view::{Current, Place, State},
    },
};
use crate::{
    config::{self, View},
    infer::EntityKey,
    resilience::breaker::Policy,
};

const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// While a view's manifest could not be read yet.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// How long opening waits for the manifests.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
const PAGE_BYTES: u64 = 64 << 20;
const READS_IN_FLIGHT: usize = 256;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL, or what the environment says about it, is wrong: a matter of configuration.
    #[error("l3.url cannot be used")]
    Url(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread that reads could not be started.
    #[error("the object store's thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The object store failed, or the manifest could not be read yet; says why. May pass.
    #[error("lookup file unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The answer did not come within `l3.timeout`. May pass.
    #[error("the object store did not answer within {0:?}")]
    Timeout(Duration),
    /// The store failed lately, and is left alone for a while.
    #[error("the object store's circuit breaker is open")]
    Open {
        /// When it lets a read by.
        until: Instant,
    },
    /// As many reads as allowed are under way.
    #[error("{READS_IN_FLIGHT} reads of lookup files are under way already")]
    Busy,
    /// A checksum or length is wrong: the file must be built again.
    #[error("lookup file damaged: {0}")]
    Damaged(String),
    /// File and config do not agree on a type.
    #[error("lookup file does not fit the config: {0}")]
    Mismatch(String),
}

/// The lookup files of all views.
#[derive(Debug)]
pub struct Store {
    views: HashMap<Arc<str>, Arc<Current>>,
    timeout: Duration,
    permits: Arc<Semaphore>,
    guard: Guard,
    /// Shared by all snapshots, as what it runs is.
    thread: Arc<Thread>,
    place: Place,
    pages: Pages,
}

impl Store {
    /// Opens the lookup files of `views`: waits for their manifests a little, then goes on reading them in the background, every
    /// 60 s for a new file and every 2 s where none could be read.
    ///
    /// # Errors
    /// The URL cannot be understood; never because the object store does not answer.
    pub(crate) async fn open(
        config: &config::L3,
        breaker: Policy,
        project: &str,
        views: &[Arc<View>],
    ) -> Result<Self, Error> {
        let patience = Patience { timeout: Patience::REQUEST.timeout.max(config.timeout), ..Patience::REQUEST };
        let location = Location::open(&config.url, patience).map_err(|error| Error::Url(error.into()))?;
        Self::open_at(location, (config.timeout, breaker), project, views).await
    }

    async fn open_at(
        location: Location,
        (timeout, breaker): (Duration, Policy),
        project: &str,
        views: &[Arc<View>],
    ) -> Result<Self, Error> {
        let store = Self {
            views: HashMap::new(),
            timeout,
            permits: Arc::new(Semaphore::new(READS_IN_FLIGHT)),
            guard: Guard::new(breaker),
            thread: Arc::new(Thread::start().map_err(Error::Thread)?),
            place: Place { store: location.store, root: location.path, url: location.url, project: project.into() },
            pages: file::pages(PAGE_BYTES),
        };
        Ok(store.next(project, views).await)
    }

    /// The same lookup files, for what the views have become: those of views that are as they were stay open, the others' manifests
    /// are waited for a little.
    pub(crate) async fn next(&self, project: &str, views: &[Arc<View>]) -> Self {
        let place = Place { project: project.into(), ..self.place.clone() };
        let (mut known, mut read) = (HashMap::new(), Vec::new());
        for view in views {
            let held = self.views.get(&view.name).filter(|held| held.is_of(project, view));
            let current = held.cloned().unwrap_or_else(|| {
                let current = Arc::new(Current::new(&place, view.clone(), self.pages.clone()));
                read.push(self.thread.follow(current.clone()));
                current
            });
            known.insert(view.name.clone(), current);
        }
        // Late ones stay `Unread`: their lookups fail until the manifest came.
        let _ = tokio::time::timeout(OPEN_WITHIN, futures_util::future::join_all(read)).await;
        let (thread, permits) = (Arc::clone(&self.thread), Arc::clone(&self.permits));
        let (guard, pages) = (self.guard.clone(), self.pages.clone());
        Self { views: known, timeout: self.timeout, permits, guard, thread, place, pages }
    }

    /// The row of `key`, with values in the order of `view`'s features; `None`: the file has none.
    ///
    /// # Errors
    /// See [`Error`]; the row is unknown then, not absent.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a read that has begun to itself; nothing else is lost.
    pub(crate) async fn get(&self, view: &View, key: &EntityKey) -> Result<Option<Row>, Error> {
        let Some(current) = self.views.get(&view.name) else {
            return Err(Error::Unavailable(format!("view {:?} was not opened", view.name).into()));
        };
        let found = self.find(current, view, key).await;
        if let Err(error) = &found {
            error.count(current);
            current.tell_failure(error);
        }
        found
    }

    async fn find(&self, current: &Arc<Current>, view: &View, key: &EntityKey) -> Result<Option<Row>, Error> {
        let file = match &*current.state() {
            State::Unread(reason) => return Err(Error::Unavailable(reason.clone())),
            State::Absent => return Ok(None),
            State::Open(file) => file.clone(),
        };
        let bucket = self.read(current, &file, format::hash(key.as_bytes())).await?;
        Ok(file.row(&bucket, key, view)?)
    }

    async fn read(&self, current: &Arc<Current>, file: &Arc<DataFile>, hash: u64) -> Result<Bytes, Error> {
        let pass = self.guard.admit().map_err(|until| Error::Open { until })?;
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let (current, file) = (current.clone(), file.clone());
        let read = self.thread.handle.spawn(async move {
            let _permit = permit;
            let bucket = file.bucket(hash, |read| current.count(read)).await;
            if let Err(lookup::Error::Store(object_store::Error::NotFound { .. }) | lookup::Error::Damaged { .. }) =
                &bucket
            {
                // The manifest in hand may be old: its file is gone, or has been built again.
                current.stale.notify_one();
            }
            bucket
        });
        let bucket = pass.watch(read, self.timeout).await.ok_or(Error::Timeout(self.timeout))?;
        let bucket = bucket.map_err(|error| Error::Unavailable(error.to_string().into()))?;
        Ok(bucket?)
    }

    /// Writes how long the breaker stays open; to be called before each scrape.
    pub(crate) fn show(&self, now: Instant) {
        self.guard.show(now);
    }

    /// Reads made so far for a view: what shows that a lookup costs at most two.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn reads(&self, view: &str) -> lookup::view::Reads {
        self.views.get(view).map(|current| current.reads()).unwrap_or_default()
    }
}

impl From<lookup::Error> for Error {
    fn from(error: lookup::Error) -> Self {
        match error {
            lookup::Error::Damaged { .. } => Self::Damaged(error.to_string()),
            lookup::Error::Mismatch(words) => Self::Mismatch(words),
            error => Self::Unavailable(chain(&error).into()),
        }
    }
}

impl Error {
    fn count(&self, current: &Current) {
        let metrics = &current.metrics;
        match self {
            Self::Url(_) | Self::Thread(_) | Self::Unavailable(_) => metrics.unavailable.increment(1),
            Self::Timeout(_) => metrics.timeout.increment(1),
            Self::Open { .. } => metrics.open.increment(1),
            Self::Busy => metrics.busy.increment(1),
            Self::Damaged(_) => metrics.damaged.increment(1),
            Self::Mismatch(_) => metrics.mismatch.increment(1),
        }
    }
}

/// The thread whose runtime owns the connections. Ends, with all it runs, when it is dropped.
#[derive(Debug)]
struct Thread {
    handle: Handle,
    _running: watch::Sender<()>,
}

impl Thread {
    fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(16).build()?;
        let handle = runtime.handle().clone();
        let (running, stopped) = watch::channel(());
        thread::Builder::new().name("weir-l3".into()).spawn(move || run(runtime, stopped))?;
        Ok(Self { handle, _running: running })
    }

    /// Keeps a view's manifest fresh for as long as a snapshot has the view; the receiver hears when it was read for the first time.
    fn follow(&self, view: Arc<Current>) -> oneshot::Receiver<()> {
        let (done, read) = oneshot::channel();
        self.handle.spawn(async move {
            let mut etag = None;
            view.refresh(&mut etag).await;
            // Opening may have stopped waiting.
            let _ = done.send(());
            // With nobody else holding it, no snapshot will ask for it again.
            while Arc::strong_count(&view) > 1 {
                wait(&view).await;
                view.refresh(&mut etag).await;
            }
        });
        read
    }
}

fn run(runtime: Runtime, mut stopped: watch::Receiver<()>) {
    // Ends with an error when the sender is gone, which is what is waited for.
    let _ = runtime.block_on(stopped.changed());
    runtime.shutdown_background();
}

async fn wait(view: &Current) {
    if !view.is_known() {
        return sleep(RETRY_EVERY).await;
    }
    tokio::select! {
        () = sleep(REFRESH_EVERY) => {}
        // Not at once: lookups ring for as long as the manifest names a file that is gone.
        () = view.stale.notified() => sleep(Duration::from_millis(500)).await,
    }
}

#[cfg(test)]
mod tests;
