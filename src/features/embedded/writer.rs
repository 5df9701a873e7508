//! The one thread that writes: jobs in batches, one transaction each, and a sweep of what expired once a minute.
//!
//! Batches are not flushed one by one: a flush follows once a second of writing and at the end, which comes when the last
//! handle to the store is dropped.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, SystemTime},
};

use redb::{Database, Durability, ReadableTable, Table};
use tokio::{sync::oneshot, time::Instant};

use super::{ROWS, hash::Hash, millis};
use crate::features::{
    feast::decode_time,
    l2::{Order, Purpose, Written},
};

/// Jobs of one transaction at most.
const BATCH: usize = 256;
const FLUSH: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(60);

/// A row to store.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: Vec<u8>,
    pub(super) time_field: Box<[u8]>,
    pub(super) time: Option<i64>,
    /// The event time among them.
    pub(super) cells: Vec<(Box<[u8]>, Vec<u8>)>,
    pub(super) now: u64,
    /// For a hash that does not exist.
    pub(super) expires: u64,
    pub(super) purpose: Purpose,
    pub(super) done: oneshot::Sender<Written>,
}

pub(super) struct Writer {
    database: Arc<Database>,
}

impl Writer {
    /// Makes sure that there is a table to read.
    pub(super) fn new(database: Arc<Database>) -> Result<Self, redb::Error> {
        let writing = database.begin_write()?;
        writing.open_table(ROWS)?;
        writing.commit()?;
        Ok(Self { database })
    }

    pub(super) fn run(self, jobs: &Receiver<Job>) {
        let (mut swept, mut flushed) = (Instant::now(), Instant::now());
        let mut unflushed = false;
        loop {
            let batch = match jobs.recv_timeout(if unflushed { FLUSH } else { SWEEP }) {
                Ok(first) => [first].into_iter().chain(jobs.try_iter()).take(BATCH).collect(),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            unflushed |= !batch.is_empty();
            let flush = unflushed && flushed.elapsed() >= FLUSH;
            if !batch.is_empty() || flush {
                logged(self.write(batch, flush));
            }
            if flush {
                (unflushed, flushed) = (false, Instant::now());
            }
            if swept.elapsed() >= SWEEP {
                logged(self.sweep(millis(SystemTime::now())));
                swept = Instant::now();
            }
        }
        logged(self.write(Vec::new(), true));
    }

    /// Writes a batch; who waits for it hears when it is visible, or that it failed.
    fn write(&self, batch: Vec<Job>, flush: bool) -> Result<(), redb::Error> {
        let mut writing = self.database.begin_write()?;
        writing.set_durability(if flush { Durability::Immediate } else { Durability::None })?;
        let mut done = Vec::with_capacity(batch.len());
        {
            let mut table = writing.open_table(ROWS)?;
            for job in batch {
                let written = put(&mut table, &job)?;
                done.extend(written.map(|written| (job.done, written)));
            }
        }
        writing.commit()?;
        for (waiter, written) in done {
            // Nobody may wait any more.
            let _ = waiter.send(written);
        }
        Ok(())
    }

    /// Removes hashes that expired by `now`.
    pub(super) fn sweep(&self, now: u64) -> Result<(), redb::Error> {
        let writing = self.database.begin_write()?;
        writing.open_table(ROWS)?.retain(|_, record| Hash::expires(record).is_some_and(|expires| now < expires))?;
        Ok(writing.commit()?)
    }
}

/// Stores a row; `None` if it is too long to be stored.
fn put(table: &mut Table<'_, &[u8], &[u8]>, job: &Job) -> Result<Option<Written>, redb::Error> {
    let record = {
        let stored = table.get(&*job.key)?;
        let stored = stored.as_ref().and_then(|record| Hash::read(record.value())).filter(|hash| hash.lives(job.now));
        let mut hash = stored.unwrap_or_else(|| Hash::until(job.expires));
        if !is_newer(job, &hash) {
            return Ok(Some(Written::Older));
        }
        if matches!(job.purpose, Purpose::Push(_)) {
            hash.keep();
        }
        for (field, value) in &job.cells {
            hash.set(field, value);
        }
        hash.record()
    };
    let Some(record) = record else { return Ok(None) };
    table.insert(&*job.key, &*record)?;
    Ok(Some(Written::Written))
}

fn is_newer(job: &Job, hash: &Hash<'_>) -> bool {
    let Some(stored) = hash.get(&job.time_field) else { return true };
    let order = match job.purpose {
        Purpose::WriteBack => Order::ByTime,
        Purpose::Push(order) => order,
    };
    // A stored time that is none holds nothing up.
    decode_time(stored).ok().is_none_or(|stored| order.replaces(job.time, stored))
}

fn logged(done: Result<(), redb::Error>) {
    if let Err(error) = done {
        tracing::error!(%error, "embedded store: write failed");
    }
}
