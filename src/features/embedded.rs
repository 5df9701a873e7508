//! L2 of a single process: rows that came back from L3 or were pushed, in a redb database on disk or in memory.
//!
//! The same hashes as in Feast's Redis, under the same keys, and the same contract: one life a hash, set by the write-back that
//! created it, and without end once a row was pushed into it; newer rows win. Reads run where the request runs (a few
//! microseconds from redb's page cache); writes and the sweeping of expired hashes are one thread's, so that a disk's flush never
//! holds up a request. Whoever drops the store waits for the last flush. A crash may lose the last second of writes, never the
//! database: rows of L3 are read from there again, pushed ones must be pushed again.

mod hash;
mod writer;

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use redb::{Database, ReadableDatabase, TableDefinition, backends::InMemoryBackend};
use tokio::sync::oneshot;

use self::{
    hash::Hash,
    writer::{Job, Writer},
};
use super::{
    Row,
    feast::{Layout, encode_time, redis_key},
    l2::{Ask, Error, Purpose, Put, Written},
};
use crate::config::{Features, View};

/// Redis key → hash, as `hash` lays it out.
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

/// Writes that may wait; beyond it they are refused: the rows are still in L3.
const WAITING: usize = 4096;

/// The embedded store.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// Shared by all snapshots: the last one to go closes it.
    opened: Arc<Opened>,
    project: Arc<str>,
    layouts: Box<[Layout]>,
    ttl: Duration,
}

/// The database and its writer.
#[derive(Debug)]
struct Opened {
    database: Arc<Database>,
    /// `None` once it is being dropped.
    writes: Option<mpsc::SyncSender<Job>>,
    /// The writer's thread.
    writer: Option<JoinHandle<()>>,
}

impl Drop for Opened {
    /// Waits for the last flush, which the writer does when no more jobs can come.
    fn drop(&mut self) {
        drop(self.writes.take());
        if let Some(Err(_)) = self.writer.take().map(JoinHandle::join) {
            tracing::error!("embedded store: the writer panicked; the last second of write-backs may be lost");
        }
    }
}

impl Embedded {
    /// Opens the file, or makes a store in memory where there is none.
    pub(crate) fn open(path: Option<&Path>, ttl: Duration, features: &Features) -> Result<Self, redb::Error> {
        let database = match path {
            Some(path) => Database::create(path)?,
            None => Database::builder().create_with_backend(InMemoryBackend::new())?,
        };
        let database = Arc::new(database);
        let writer = Writer::new(Arc::clone(&database))?;
        let (writes, jobs) = mpsc::sync_channel(WAITING);
        let writer = std::thread::Builder::new()
            .name("weir-embedded".into())
            .spawn(move || writer.run(&jobs))
            .map_err(redb::Error::Io)?;
        Ok(Self::over(Arc::new(Opened { database, writes: Some(writes), writer: Some(writer) }), ttl, features))
    }

    fn over(opened: Arc<Opened>, ttl: Duration, features: &Features) -> Self {
        let layouts = features.views.iter().map(|view| Layout::of(view)).collect();
        Self { opened, project: Arc::clone(&features.project), layouts, ttl }
    }

    /// The same store, for what the views have become.
    pub(crate) fn next(&self, features: &Features) -> Self {
        Self::over(Arc::clone(&self.opened), self.ttl, features)
    }

    /// The rows asked for, in that order.
    pub(crate) fn read(&self, asks: &[Ask]) -> Vec<Result<Option<Row>, Error>> {
        self.read_at(asks, millis(SystemTime::now()))
    }

    fn read_at(&self, asks: &[Ask], now: u64) -> Vec<Result<Option<Row>, Error>> {
        let table = self.opened.database.begin_read().map_err(redb::Error::from);
        let table = table.and_then(|reading| reading.open_table(ROWS).map_err(redb::Error::from));
        let table = match table {
            Ok(table) => table,
            Err(error) => return asks.iter().map(|_| Err(failed(&error))).collect(),
        };
        let read = |ask: &Ask| {
            let stored = table.get(&*redis_key(&ask.key, &self.project)).map_err(|error| failed(&error))?;
            let Some(stored) = stored else { return Ok(None) };
            let hash = Hash::read(stored.value()).filter(|hash| hash.lives(now));
            hash.map_or(Ok(None), |hash| self.row(&ask.view, &hash))
        };
        asks.iter().map(read).collect()
    }

    fn row(&self, view: &View, hash: &Hash<'_>) -> Result<Option<Row>, Error> {
        let layout = &self.layouts[view.id.index()];
        let malformed = |source| Error::Malformed { view: Arc::clone(&view.name), source };
        layout.row(layout.fields().map(|field| hash.get(field))).map_err(malformed)
    }

    /// Stores each row unless one as new is stored; returns when they are visible.
    pub(crate) async fn write(&self, puts: &[Put], purpose: Purpose) -> Vec<Result<Written, Error>> {
        self.write_at(puts, purpose, millis(SystemTime::now())).await
    }

    async fn write_at(&self, puts: &[Put], purpose: Purpose, now: u64) -> Vec<Result<Written, Error>> {
        let waiting: Vec<_> = puts.iter().map(|put| self.send(put, purpose, now)).collect();
        let mut written = Vec::with_capacity(puts.len());
        for waiting in waiting {
            written.push(match waiting {
                Ok(done) => done.await.map_err(|_| Error::Embedded("the write failed".into())),
                Err(error) => Err(error),
            });
        }
        written
    }

    fn send(&self, put: &Put, purpose: Purpose, now: u64) -> Result<oneshot::Receiver<Written>, Error> {
        let Put { ask, row } = put;
        let layout = &self.layouts[ask.view.id.index()];
        let life = self.ttl.min(ask.view.ttl).as_millis().try_into().unwrap_or(u64::MAX);
        let (done, written) = oneshot::channel();
        let job = Job {
            key: redis_key(&ask.key, &self.project),
            time_field: layout.event_time().into(),
            time: row.event_time,
            cells: layout
                .cells(row)
                .map(|(field, value)| (field.into(), value))
                .chain(row.event_time.map(|time| (layout.event_time().into(), encode_time(time))))
                .collect(),
            now,
            expires: now.saturating_add(life),
            purpose,
            done,
        };
        let writes = self.opened.writes.as_ref().expect("taken by drop only");
        writes.try_send(job).map_err(|error| Error::Embedded(error.to_string().into()))?;
        Ok(written)
    }
}

fn failed(error: &impl std::fmt::Display) -> Error {
    Error::Embedded(error.to_string().into())
}

fn millis(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
