//! L1: the rows this process read lately.
//!
//! Each entry carries its own deadlines: fresh until the shorter of the view's and L1's `ttl`, then stale for `stale_for`,
//! then a miss, whatever the cache's housekeeping got to. A read waits for no other read, allocates nothing
//! (`tiered::sample` proves it) and counts no outcome. Whether a stale row may be used is the caller's decision.
//!
//! When Feast's registry changes, the next snapshot's cache shares the rows of this one: of views whose definition is the same, whatever
//! their ids have become. Rows of another definition are never found, and leave as their time comes.

mod fences;
mod heat;
mod rows;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::Instant;

pub(crate) use self::fences::Swept;
use self::{
    fences::{Locks, ViewFence},
    heat::Heat,
    rows::{ENTRY, RowKey, RowRef, Rows},
};
use super::Row;
use crate::{
    config::{Consistency, L1, L1Mode, View},
    infer::{EntityKey, ViewId},
    resilience::{lease::Lease, refresh},
};

/// How long a row from L3 is trusted while L2, which may hold a newer one, cannot be asked.
const DOUBTFUL: Duration = Duration::from_secs(5);

/// The in-process row cache.
#[derive(Debug)]
pub(crate) struct Memory {
    rows: Arc<Rows>,
    /// Who puts holds the lock of its key.
    locks: Arc<Locks>,
    lives: Box<[Life]>,
    /// How long the store's word that there is no such row is taken, at most: an entity's first row arrives at any time.
    negative_ttl: Duration,
    /// By view, what its rows are kept under.
    definitions: Box<[Definition]>,
    /// By view, what of it is out of date as a whole.
    fences: Box<[Arc<ViewFence>]>,
    known: Definitions,
    /// What vouches for rows of `write_through` views.
    lease: Arc<Lease>,
    /// Which keys are asked for most, where they are to be saved.
    heat: Option<Arc<Heat>>,
    behind: Behind,
}

/// Whether the store may say today what it said yesterday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Never,
    /// Replicas are read that may be behind others: a fresh row with a newer event stays, for its time.
    MayBe,
}

/// The number of a view's definition: its stored name, join keys and features. Of all snapshots, no two definitions have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Definition(u32);

/// Every definition there ever was. Grows by one with a change of a view, which an operator makes.
#[derive(Clone, Debug, Default)]
struct Definitions(Arc<Mutex<HashMap<String, Defined>>>);

/// A definition's number, and what of its rows is out of date.
type Defined = (Definition, Arc<ViewFence>);

impl Definitions {
    fn number(&self, views: &[Arc<View>]) -> (Box<[Definition]>, Box<[Arc<ViewFence>]>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |view: &Arc<View>| {
            let features: Vec<_> = view.features.iter().map(|feature| (&feature.name, feature.kind)).collect();
            let next = Definition(u32::try_from(known.len()).unwrap_or(u32::MAX));
            let new = || (next, Arc::default());
            known.entry(format!("{:?} {:?} {features:?}", view.stored, view.entities)).or_insert_with(new).clone()
        };
        let numbered: (Vec<_>, Vec<_>) = views.iter().map(number).unzip();
        (numbered.0.into(), numbered.1.into())
    }

    fn fences(&self) -> Vec<Arc<ViewFence>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|(_, fence)| Arc::clone(fence)).collect()
    }
}

/// What L1 says about a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cached {
    /// Within its `ttl`. `None`: the store has no such row.
    Fresh(Option<Arc<Row>>),
    /// The same, but this reader is to have it fetched again, before it expires for all.
    Early(Arc<Row>),
    /// Past its `ttl`, within `stale_for`; fetched `age` ago.
    Stale { row: Arc<Row>, age: Duration },
    /// Nothing of use.
    Miss,
}

/// What there is to do for a row that is to stay.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stay {
    /// Nothing: it is for ever, the store has none, or rows of its view are not kept.
    No,
    /// It is not there, or past its time.
    Missing,
    /// It is good until then, and was for so long.
    Held { row: Arc<Row>, until: Instant, life: Duration },
}

/// How long a view's rows are good.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Not kept: L1 is off, or only observed and the rows need a lease.
    Never,
    /// While the lease of the term in which they were fetched is held: `write_through` rows must not outlive an acknowledged push.
    Leased {
        fresh: Duration,
    },
    For {
        fresh: Duration,
        stale: Duration,
    },
    Forever,
}

#[derive(Clone, Debug)]
struct Entry {
    row: Option<Arc<Row>>,
    fetched: Instant,
    /// How long the fetch took, in seconds: an entry is kept small.
    took: f32,
    /// `None`: for ever.
    fresh_until: Option<Instant>,
    stale_until: Option<Instant>,
    /// What it takes of the capacity; known once it has a key.
    weight: u32,
}

impl Entry {
    fn new(row: Option<Arc<Row>>, fetch: Fetch, fresh: Option<Duration>, stale: Option<Duration>) -> Self {
        let Fetch { began, took } = fetch;
        let until = |life: Option<Duration>| life.and_then(|life| began.checked_add(life));
        Self {
            row,
            fetched: began,
            took: took.as_secs_f32(),
            fresh_until: until(fresh),
            stale_until: until(stale),
            weight: 0,
        }
    }

    fn due_at(&self, now: Instant) -> bool {
        let took = Duration::try_from_secs_f32(self.took).unwrap_or(Duration::MAX);
        let left = self.fresh_until.map(|until| until.saturating_duration_since(now));
        left.is_some_and(|left| refresh::is_due(left, took, rand::random))
    }

    /// Whether it is of no use from `now` on.
    fn is_dead(&self, now: Instant) -> bool {
        self.stale_until.or(self.fresh_until).is_some_and(|until| until <= now)
    }
}

/// When the store was asked, and how long it took: what it said is as old as the question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

impl From<Instant> for Fetch {
    /// One that took no time.
    fn from(began: Instant) -> Self {
        Self { began, took: Duration::ZERO }
    }
}

impl Life {
    fn of_all(views: &[Arc<View>], l1: &L1) -> Box<[Self]> {
        views.iter().map(|view| Self::of(view, l1)).collect()
    }

    fn of(view: &View, l1: &L1) -> Self {
        match view.consistency {
            _ if l1.capacity == 0 => Self::Never,
            Consistency::Ttl => Self::For { fresh: view.ttl.min(l1.ttl), stale: l1.stale_for },
            Consistency::WriteThrough if l1.mode == L1Mode::Observe => Self::Never,
            Consistency::WriteThrough => Self::Leased { fresh: view.ttl.min(l1.ttl) },
            Consistency::Immutable => Self::Forever,
        }
    }
}

impl Memory {
    pub(crate) fn new(config: &L1, views: &[Arc<View>]) -> Self {
        let lives = Life::of_all(views, config);
        let known = Definitions::default();
        let (definitions, fences) = known.number(views);
        let (rows, negative_ttl) = (Arc::new(Rows::new(config.capacity)), config.negative_ttl);
        let (locks, lease) = (Arc::default(), Arc::new(Lease::none()));
        Self { rows, locks, lives, negative_ttl, definitions, fences, known, lease, heat: None, behind: Behind::Never }
    }

    /// The same, counting which keys are asked for most, each of so many workers by itself.
    pub(crate) fn heeding(self, workers: usize) -> Self {
        Self { heat: Some(Arc::new(Heat::new(workers))), ..self }
    }

    /// The same, before a store that may be behind what it said before.
    pub(crate) fn before_replicas(self) -> Self {
        Self { behind: Behind::MayBe, ..self }
    }

    /// The same, keeping `write_through` rows while a lease vouches for them.
    pub(crate) fn under(self, lease: Arc<Lease>) -> Self {
        Self { lease, ..self }
    }

    /// The same rows, for what the views have become.
    pub(crate) fn next(&self, config: &L1, views: &[Arc<View>]) -> Self {
        let (definitions, fences) = self.known.number(views);
        // Nobody was told of changes of rows whose definition was not in force, should it have been once.
        let now = Instant::now();
        let is_new = |at: &usize| !self.definitions.contains(&definitions[*at]);
        (0..definitions.len()).filter(is_new).for_each(|at| fences[at].serve_after(now));
        Self {
            rows: Arc::clone(&self.rows),
            locks: Arc::clone(&self.locks),
            lives: Life::of_all(views, config),
            negative_ttl: config.negative_ttl,
            definitions,
            fences,
            known: self.known.clone(),
            lease: Arc::clone(&self.lease),
            heat: self.heat.clone(),
            behind: self.behind,
        }
    }

    /// What is known of a row at `now`.
    pub(crate) fn get(&self, view: ViewId, entity: &EntityKey, now: Instant) -> Cached {
        let life = self.lives[view.index()];
        if matches!(life, Life::Never) {
            return Cached::Miss;
        }
        let Some(entry) = self.held(view, entity) else { return Cached::Miss };
        let is_vouched_for = || !matches!(life, Life::Leased { .. }) || self.lease.vouches(entry.fetched, now);
        if !self.fences[view.index()].serves(entry.fetched) || !is_vouched_for() {
            return Cached::Miss;
        }
        if entry.fresh_until.is_none_or(|until| now < until) {
            return match entry.row {
                Some(row) if entry.due_at(now) => Cached::Early(row),
                row => Cached::Fresh(row),
            };
        }
        match entry.row {
            Some(row) if entry.stale_until.is_some_and(|until| now < until) => {
                Cached::Stale { row, age: now.saturating_duration_since(entry.fetched) }
            }
            _ => Cached::Miss,
        }
    }

    /// What there is to do at `now` for a row to stay.
    pub(crate) fn stay(&self, view: ViewId, entity: &EntityKey, now: Instant) -> Stay {
        let is_leased = match self.lives[view.index()] {
            Life::Never => return Stay::No,
            // What is fetched without a lease is not kept.
            Life::Leased { .. } if !self.lease.vouches(now, now) => return Stay::No,
            life => matches!(life, Life::Leased { .. }),
        };
        let Some(Entry { row, fetched, fresh_until, .. }) = self.held(view, entity) else { return Stay::Missing };
        match (row, fresh_until) {
            _ if !self.fences[view.index()].serves(fetched) => Stay::Missing,
            _ if is_leased && !self.lease.vouches(fetched, now) => Stay::Missing,
            (_, Some(until)) if until <= now => Stay::Missing,
            (Some(row), Some(until)) => Stay::Held { row, until, life: until.saturating_duration_since(fetched) },
            (None, _) | (_, None) => Stay::No,
        }
    }

    /// Keeps what the store said: a row, or that there is none. What was fetched later stays: a slow fetch must not undo a quick
    /// one that began after it.
    pub(crate) fn put(&self, view: ViewId, entity: &EntityKey, row: Option<Arc<Row>>, fetch: impl Into<Fetch>) {
        let fetch = fetch.into();
        let (fresh, stale) = match self.lives[view.index()] {
            Life::Never => return,
            // Nobody would be served it.
            Life::Leased { .. } if !self.lease.vouches(fetch.began, Instant::now()) => return,
            Life::Leased { fresh } if row.is_some() => (Some(fresh), None),
            Life::Forever if row.is_some() => (None, None),
            Life::Forever => (Some(self.negative_ttl), None),
            Life::For { fresh, .. } | Life::Leased { fresh } if row.is_none() => {
                (Some(fresh.min(self.negative_ttl)), None)
            }
            Life::Leased { fresh } => (Some(fresh), None),
            Life::For { fresh, stale } => (Some(fresh), Some(fresh + stale)),
        };
        let entry = Entry::new(row, fetch, fresh, stale);
        self.put_latest(view, entity, entry);
    }

    /// Keeps a row from L3 while L2 cannot be asked: for a short time, and never in place of a newer one.
    pub(crate) fn put_doubtful(&self, view: ViewId, entity: &EntityKey, row: &Arc<Row>, fetched: Instant) {
        let (fresh, stale) = match self.lives[view.index()] {
            // It may be older than a push that was acknowledged.
            Life::Never | Life::Leased { .. } => return,
            Life::Forever => (DOUBTFUL, None),
            Life::For { fresh, stale } => (fresh.min(DOUBTFUL), Some(fresh.min(DOUBTFUL) + stale)),
        };
        let entry = Entry::new(Some(Arc::clone(row)), fetched.into(), Some(fresh), stale);
        self.put_unless(view, entity, entry, |held| {
            held.fetched > fetched || held.row.as_ref().is_some_and(|held| held.event_time >= row.event_time)
        });
    }

    /// Keeps a row that was `stored`, in place of anything older and of whatever was asked of the store before the store had it.
    /// `None`: the store has another row now, which is to be read again. So it is where the row was invalidated since it was
    /// sent: another may have been stored after it.
    pub(crate) fn renew(
        &self,
        view: ViewId,
        entity: &EntityKey,
        (row, event): (Option<Arc<Row>>, Option<i64>),
        stored: impl Into<Fetch>,
    ) {
        let Fetch { began, took } = stored.into();
        let entry = match (self.lives[view.index()], row) {
            (Life::Never, _) => return,
            // Such rows are put as fetched ones are, once the push is through.
            (_, None) | (Life::Leased { .. }, _) => None,
            (Life::Forever, row) => Some(Entry::new(row, began.into(), None, None)),
            (Life::For { fresh, stale }, row) => Some(Entry::new(row, began.into(), Some(fresh), Some(fresh + stale))),
        };
        let mut lock = self.locks.of(self.definitions[view.index()], entity);
        let stays = match self.held(view, entity) {
            Some(held) => held.row.as_ref().is_some_and(|held| held.event_time > event),
            None => lock.fence().pushed > Some(began),
        };
        lock.fence().push(began + took);
        if stays {
            return;
        }
        match entry.filter(|_| !self.is_out_of_date(view, began, lock.fence())) {
            Some(entry) => self.insert(view, entity, entry),
            None => _ = self.rows.remove(self.key(view, entity), |_| true),
        }
    }

    fn held(&self, view: ViewId, entity: &EntityKey) -> Option<Entry> {
        self.rows.get(self.key(view, entity))
    }

    fn key<'a>(&self, view: ViewId, entity: &'a EntityKey) -> RowRef<'a> {
        RowRef { of: self.definitions[view.index()], entity: entity.as_bytes() }
    }

    /// Looks and writes as one step for the key, under its lock: nobody puts anything between the two.
    fn put_unless(&self, view: ViewId, entity: &EntityKey, entry: Entry, stays: impl FnOnce(&Entry) -> bool) {
        let mut lock = self.locks.of(self.definitions[view.index()], entity);
        if self.is_late(view, &entry, lock.fence()) || self.held(view, entity).is_some_and(|held| stays(&held)) {
            return;
        }
        lock.put(entry.fetched);
        self.insert(view, entity, entry);
    }

    /// The same, unless what is held was fetched later; which needs no look where nothing of the lock's was, and the store is never
    /// behind.
    fn put_latest(&self, view: ViewId, entity: &EntityKey, entry: Entry) {
        let mut lock = self.locks.of(self.definitions[view.index()], entity);
        let is_held_later = || self.held(view, entity).is_some_and(|held| held.fetched > entry.fetched);
        let is_behind = || self.held(view, entity).is_some_and(|held| self.is_behind(&entry, &held));
        let is_late = self.is_late(view, &entry, lock.fence()) || (lock.has_later(entry.fetched) && is_held_later());
        if is_late || (self.behind == Behind::MayBe && is_behind()) {
            return;
        }
        lock.put(entry.fetched);
        self.insert(view, entity, entry);
    }

    /// Whether the store was behind when it said that.
    fn is_behind(&self, entry: &Entry, held: &Entry) -> bool {
        let is_fresh = held.fresh_until.is_none_or(|until| entry.fetched < until);
        let event = |entry: &Entry| entry.row.as_ref().map(|row| row.event_time);
        self.behind == Behind::MayBe && is_fresh && entry.row.is_some() && event(held) > event(entry)
    }

    fn insert(&self, view: ViewId, entity: &EntityKey, entry: Entry) {
        let key = RowKey { of: self.definitions[view.index()], entity: SmallVec::from_slice(entity.as_bytes()) };
        let weight = ENTRY + key.heap() + entry.row.as_ref().map_or(0, |row| row.size());
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        self.rows.insert(key, Entry { weight, ..entry });
    }

    /// Housekeeping, to be called now and then: drops what is of no use any more.
    pub(crate) fn tidy(&self, now: Instant) {
        self.rows.sweep(now);
    }

    /// Rows (and known absences) held.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.count()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows.bytes()
    }
}

#[cfg(test)]
mod tests;
