//! The spool of a single process: a redb database on disk, or in memory where the config names no file.
//!
//! The database has everything, a book in memory says where each entry stands. A change is made to a copy, written, and only then
//! entered in the book, all under one lock: what a caller was told is on disk. A claim alone is not flushed: a process that starts
//! lets all entries that were being tried wait again, since the one that tried them is gone. One of a model that must not be asked
//! twice is flushed, and parked then.

mod book;
mod record;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, backends::InMemoryBackend};

use self::book::{Book, Mark};
use super::{
    Claimed, Depth, Entry, Error, Failed, Finished, Held, Kept, Millis, New, Put, Replayed, Reply, Request, SWEEP,
    Standing, State, Terms, millis,
};

/// Id → `record`.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("spool_entries");
/// Id → the request.
const REQUESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("spool_requests");
/// Id → the result.
const REPLIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("spool_replies");

/// The embedded store.
#[derive(Debug)]
pub(crate) struct Embedded {
    inner: Arc<Inner>,
    place: &'static str,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    book: Mutex<Book>,
    terms: Terms,
}

impl Embedded {
    /// Opens the file, or makes a store in memory where there is none.
    pub(crate) fn open(path: Option<&Path>, terms: Terms) -> Result<Self, Error> {
        let database = match path {
            Some(path) => Database::create(path).map_err(|error| unopened(path, &error))?,
            None => Database::builder().create_with_backend(InMemoryBackend::new()).map_err(failed)?,
        };
        let inner = Inner { book: Mutex::new(read(&database)?), database, terms };
        inner.interrupted()?;
        Ok(Self { inner: Arc::new(inner), place: if path.is_some() { "file" } else { "memory" } })
    }

    /// What it is, in a word.
    pub(super) const fn place(&self) -> &'static str {
        self.place
    }

    /// Disks are waited for aside.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut Book) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            // Every change to the book is made whole.
            let mut book = inner.book.lock().unwrap_or_else(PoisonError::into_inner);
            work(&inner, &mut book)
        });
        done.await.map_err(failed)?
    }

    pub(super) async fn put(&self, new: &New, now: Millis) -> Result<Put, Error> {
        let new = new.clone();
        self.aside(move |inner, book| inner.put(book, &new, now)).await
    }

    pub(super) async fn claim(
        &self,
        (models, most): (&[Arc<str>], usize),
        by: &Arc<str>,
        (now, until): (Millis, Millis),
    ) -> Result<Vec<Claimed>, Error> {
        let (models, by) = (models.to_vec(), Arc::clone(by));
        self.aside(move |inner, book| inner.claim(book, (&models, most), &by, (now, until))).await
    }

    pub(super) async fn finish(&self, id: &Arc<str>, reply: &Reply, now: Millis) -> Result<Finished, Error> {
        let (id, reply) = (Arc::clone(id), reply.encode());
        self.aside(move |inner, book| {
            let Some(mut entry) = book.get(&id).cloned() else { return Ok(Finished::Gone) };
            let finished = entry.finish(now, inner.terms.keep_for);
            if finished == Finished::Stored {
                inner.store(book, entry, Some(&reply))?;
            }
            Ok(finished)
        })
        .await
    }

    pub(super) async fn fail(&self, id: &Arc<str>, claim: u64, failed: Failed, now: Millis) -> Result<Held, Error> {
        self.held(id, move |entry| entry.fail(claim, failed, now)).await
    }

    pub(super) async fn give_back(&self, id: &Arc<str>, claim: u64, (due, _): (Millis, Millis)) -> Result<Held, Error> {
        self.held(id, move |entry| entry.give_back(claim, due)).await
    }

    async fn held(
        &self,
        id: &Arc<str>,
        change: impl FnOnce(&mut Entry) -> Held + Send + 'static,
    ) -> Result<Held, Error> {
        let id = Arc::clone(id);
        self.aside(move |inner, book| {
            let Some(mut entry) = book.get(&id).cloned() else { return Ok(Held::No) };
            let held = change(&mut entry);
            if held == Held::Yes {
                inner.store(book, entry, None)?;
            }
            Ok(held)
        })
        .await
    }

    pub(super) async fn get(&self, id: &str) -> Result<Option<Kept>, Error> {
        let id: Arc<str> = id.into();
        self.aside(move |inner, book| {
            let Some(entry) = book.get(&id).cloned() else { return Ok(None) };
            let request = inner.request(&id)?.ok_or_else(|| Error::Damaged(format!("{id} has no request").into()))?;
            let reply = inner.read(REPLIES, &id)?.map(Reply::decode).transpose()?;
            Ok(Some(Kept { entry, request, reply }))
        })
        .await
    }

    pub(super) async fn id_of(&self, model: &str, key: &str) -> Result<Option<Arc<str>>, Error> {
        let (model, key): (Box<str>, Box<str>) = (model.into(), key.into());
        self.aside(move |_, book| Ok(book.id_of(&model, &key).cloned())).await
    }

    pub(super) async fn list(&self, standing: Option<Standing>, most: usize) -> Result<Vec<Entry>, Error> {
        self.aside(move |_, book| Ok(book.list(standing, most))).await
    }

    pub(super) async fn replay(&self, id: &Arc<str>, now: Millis) -> Result<Replayed, Error> {
        let id = Arc::clone(id);
        self.aside(move |inner, book| {
            let Some(mut entry) = book.get(&id).cloned() else { return Ok(Replayed::Gone) };
            let replayed = entry.replay(now);
            if replayed == Replayed::Due {
                inner.store(book, entry, None)?;
            }
            Ok(replayed)
        })
        .await
    }

    pub(super) async fn forget(&self, id: &Arc<str>) -> Result<bool, Error> {
        let ids = vec![Arc::clone(id)];
        self.aside(move |inner, book| Ok(inner.forget(book, &ids)? > 0)).await
    }

    pub(super) async fn depth(&self) -> Result<Depth, Error> {
        self.aside(move |_, book| Ok(book.depth())).await
    }
}

impl Inner {
    /// What was being tried when the process before ended waits again.
    fn interrupted(&self) -> Result<(), Error> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        for id in book.running() {
            let Some(mut entry) = book.get(&id).cloned() else { continue };
            entry.overdue(super::now(), self.terms.retry.max_retries);
            self.store(&mut book, entry, None)?;
        }
        Ok(())
    }

    fn put(&self, book: &mut Book, new: &New, now: Millis) -> Result<Put, Error> {
        self.forget(book, &book.expired(SWEEP, now))?;
        let digest = new.request.digest();
        if let Some(known) = book.id_of(&new.request.model, &new.key).and_then(|id| book.get(id)) {
            return match &known.id {
                _ if known.digest != digest => Err(Error::OtherRequest(Arc::clone(&new.key))),
                id if *id == new.id => Ok(Put::Kept),
                id => Ok(Put::Known(Arc::clone(id))),
            };
        }
        if book.len() >= self.terms.max_entries {
            return Err(Error::Full(self.terms.max_entries));
        }
        let request = new.request.encode();
        let (kept, more, most) = (book.bytes(), request.len() as u64, self.terms.max_bytes);
        if kept.saturating_add(more) > most {
            return Err(Error::NoRoom { kept, more, most });
        }
        let entry = Entry {
            id: Arc::clone(&new.id),
            key: Arc::clone(&new.key),
            model: new.request.model.as_str().into(),
            why: new.why,
            once: new.once,
            digest,
            received: now,
            expires: now.saturating_add(millis(self.terms.keep_for)),
            attempts: 0,
            claims: 0,
            state: State::Waiting { due: now },
        };
        let mark = Mark { number: book.next(), bytes: more };
        let writing = self.database.begin_write().map_err(failed)?;
        insert(&writing, ENTRIES, (&entry.id, &record::encode(mark, &entry)))?;
        insert(&writing, REQUESTS, (&entry.id, &request))?;
        writing.commit().map_err(failed)?;
        book.set(mark, entry);
        Ok(Put::Kept)
    }

    fn claim(
        &self,
        book: &mut Book,
        (models, most): (&[Arc<str>], usize),
        by: &Arc<str>,
        (now, until): (Millis, Millis),
    ) -> Result<Vec<Claimed>, Error> {
        self.forget(book, &book.expired(SWEEP, now))?;
        for id in book.overdue(SWEEP, now) {
            let Some(mut entry) = book.get(&id).cloned() else { continue };
            entry.overdue(now, self.terms.retry.max_retries);
            self.store(book, entry, None)?;
        }
        let due: Vec<_> = models.iter().flat_map(|model| book.due(model, now)).take(most).cloned().collect();
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let mut writing = self.database.begin_write().map_err(failed)?;
        if !due.iter().any(|id| book.get(id).is_some_and(|entry| entry.once)) {
            writing.set_durability(Durability::None).map_err(failed)?;
        }
        let mut entries = Vec::with_capacity(due.len());
        for id in due {
            let Some((mark, mut entry)) = book.mark(&id).zip(book.get(&id).cloned()) else { continue };
            entry.claim(Arc::clone(by), until);
            insert(&writing, ENTRIES, (&id, &record::encode(mark, &entry)))?;
            entries.push((mark, entry));
        }
        writing.commit().map_err(failed)?;
        let mut claimed = Vec::with_capacity(entries.len());
        for (mark, entry) in entries {
            let request = self.read(REQUESTS, &entry.id)?;
            let request =
                request.ok_or_else(|| super::Unreadable::because("it is not there")).and_then(Request::decode);
            let Entry { claims: claim, attempts, once, .. } = entry;
            claimed.push(Claimed { id: Arc::clone(&entry.id), claim, attempts, once, request });
            book.set(mark, entry);
        }
        Ok(claimed)
    }

    /// Writes what an entry became, with its result where it got one, and enters it in the book.
    fn store(&self, book: &mut Book, entry: Entry, reply: Option<&[u8]>) -> Result<(), Error> {
        let mut mark = book.mark(&entry.id).unwrap_or(Mark { number: book.next(), bytes: 0 });
        mark.bytes += reply.map_or(0, |reply| reply.len() as u64);
        let writing = self.database.begin_write().map_err(failed)?;
        insert(&writing, ENTRIES, (&entry.id, &record::encode(mark, &entry)))?;
        if let Some(reply) = reply {
            insert(&writing, REPLIES, (&entry.id, reply))?;
        }
        writing.commit().map_err(failed)?;
        book.set(mark, entry);
        Ok(())
    }

    fn forget(&self, book: &mut Book, ids: &[Arc<str>]) -> Result<usize, Error> {
        if ids.is_empty() {
            return Ok(0);
        }
        let writing = self.database.begin_write().map_err(failed)?;
        for table in [ENTRIES, REQUESTS, REPLIES] {
            let mut table = writing.open_table(table).map_err(failed)?;
            for id in ids {
                table.remove(&**id).map_err(failed)?;
            }
        }
        writing.commit().map_err(failed)?;
        Ok(ids.iter().filter(|id| book.remove(id)).count())
    }

    fn request(&self, id: &str) -> Result<Option<Request>, Error> {
        Ok(self.read(REQUESTS, id)?.map(Request::decode).transpose()?)
    }

    fn read(&self, table: TableDefinition<'_, &str, &[u8]>, id: &str) -> Result<Option<Bytes>, Error> {
        let reading = self.database.begin_read().map_err(failed)?;
        let table = reading.open_table(table).map_err(failed)?;
        let stored = table.get(id).map_err(failed)?;
        Ok(stored.map(|stored| Bytes::copy_from_slice(stored.value())))
    }
}

/// The book of what the database has; makes the tables where there are none.
fn read(database: &Database) -> Result<Book, Error> {
    let writing = database.begin_write().map_err(failed)?;
    let mut entries = Vec::<(Mark, Entry)>::new();
    for table in [REQUESTS, REPLIES] {
        writing.open_table(table).map_err(failed)?;
    }
    {
        let table = writing.open_table(ENTRIES).map_err(failed)?;
        for stored in table.iter().map_err(failed)? {
            let (id, record) = stored.map_err(failed)?;
            entries.push(record::decode(id.value(), record.value())?);
        }
    }
    writing.commit().map_err(failed)?;
    let mut book = Book::default();
    entries.into_iter().for_each(|(mark, entry)| book.set(mark, entry));
    Ok(book)
}

fn insert(
    writing: &redb::WriteTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
    (id, value): (&str, &[u8]),
) -> Result<(), Error> {
    writing.open_table(table).map_err(failed)?.insert(id, value).map_err(failed)?;
    Ok(())
}

fn unopened(path: &Path, error: &redb::DatabaseError) -> Error {
    let why = match error {
        redb::DatabaseError::DatabaseAlreadyOpen => "another process has it open".to_owned(),
        error => error.to_string(),
    };
    Error::Unreachable(format!("{}: {why}", path.display()).into())
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Unreachable(error.to_string().into())
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, thread, time::Duration};

    use super::*;
    use crate::resilience::backoff::Retry;

    #[tokio::test]
    async fn who_looks_for_a_key_while_the_disk_is_written_to_keeps_no_worker() {
        let (initial_delay, max_delay) = (Duration::from_secs(60), Duration::from_secs(3600));
        let retry = Retry { max_retries: 2, initial_delay, max_delay, multiplier: 2.0, jitter: 0.3 };
        let terms = Terms { max_entries: 6, max_bytes: 1 << 20, keep_for: Duration::from_secs(10), retry };
        let store = Embedded::open(None, terms).unwrap();
        let (inner, (taken, is_taken), (release, released)) = (Arc::clone(&store.inner), channel(), channel::<()>());
        let writer = thread::spawn(move || {
            let book = inner.book.lock().unwrap();
            taken.send(()).unwrap();
            // Were the worker kept, nobody would say so.
            drop((released.recv_timeout(Duration::from_secs(20)), book));
        });
        is_taken.recv().unwrap();
        let mut look = std::pin::pin!(store.id_of("m", "k"));
        assert!(futures_util::poll!(look.as_mut()).is_pending());
        release.send(()).unwrap();
        assert_eq!(look.await.unwrap(), None);
        writer.join().unwrap();
    }
}
