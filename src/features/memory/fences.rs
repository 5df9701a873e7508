//! What L1 must not serve or keep any more: pushes and invalidations, against fetches that began before them.
//!
//! ```text
//! a row          under its key's lock: the entry goes, and the key's fence moves: no fetch from before it is put
//! a view, all    the view's fence moves: entries from before it are misses, and no fetch from before it is put
//! many rows      the view's fence for puts alone moves, who was putting is waited for, and what is meant is swept out
//! ```
//!
//! An entry is as old as its fetch's beginning. So whoever looks after an invalidation has returned sees nothing that was
//! fetched before it, however the two interleave with fetches that begin, end and are kept: `tests::model` tries. Fences
//! only move forward, and belong to the rows: the snapshots that share these share them.
//!
//! A fence is a key's only by a part of its hash: one in some thousand fetches is not kept for another key's sake, and is made
//! again by the next request.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Definition, Entry, Memory, rows::RowKey};
use crate::{
    infer::{EntityKey, ViewId},
    resilience::since::nanos,
};

/// Keys share so many locks.
const LOCKS: usize = 64;
/// Keys of a lock share so many fences.
const FENCES: usize = 64;
/// The least time there is.
const TICK: std::time::Duration = std::time::Duration::from_nanos(1);

/// What orders those who put a row and those who drop it.
#[derive(Debug)]
pub(super) struct Locks([Mutex<Puts>; LOCKS]);

impl Default for Locks {
    fn default() -> Self {
        Self([const { Mutex::new(Puts::NONE) }; LOCKS])
    }
}

/// What happened under a lock.
#[derive(Debug)]
struct Puts {
    /// When the latest of what was put was fetched.
    fetched: Option<Instant>,
    fences: [Fence; FENCES],
}

impl Puts {
    const NONE: Self = Self { fetched: None, fences: [Fence::NONE; FENCES] };
}

/// From when on a key's fetches are let in. The cache may have let go of what was there: still nothing older is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    /// When the latest push was stored.
    pub(super) pushed: Option<Instant>,
    /// Just after the latest invalidation.
    dropped: Option<Instant>,
}

impl Fence {
    const NONE: Self = Self { pushed: None, dropped: None };

    pub(super) fn push(&mut self, at: Instant) {
        self.pushed = self.pushed.max(Some(at));
    }
}

/// A key's lock, held.
pub(super) struct Lock<'a> {
    puts: MutexGuard<'a, Puts>,
    fence: usize,
}

impl Locks {
    /// Waits for whoever holds it, which is never long.
    pub(super) fn of(&self, view: Definition, entity: &EntityKey) -> Lock<'_> {
        let hash = xxh3_64_with_seed(entity.as_bytes(), view.0.into()) as usize;
        Lock { puts: self.at(hash % LOCKS), fence: hash / LOCKS % FENCES }
    }

    /// Returns once everybody is through who holds a lock now.
    fn pass(&self) {
        (0..LOCKS).for_each(|at| drop(self.at(at)));
    }

    fn at(&self, at: usize) -> MutexGuard<'_, Puts> {
        // Nothing that it guards is left half done by a panic.
        self.0[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lock<'_> {
    pub(super) fn fence(&mut self) -> &mut Fence {
        &mut self.puts.fences[self.fence]
    }

    /// Notes that what was fetched then is put.
    pub(super) fn put(&mut self, fetched: Instant) {
        self.puts.fetched = self.puts.fetched.max(Some(fetched));
    }

    /// Whether anything that was put, or pushed, is from later.
    pub(super) fn has_later(&mut self, fetched: Instant) -> bool {
        self.puts.fetched.max(self.fence().pushed) > Some(fetched)
    }
}

/// From when on rows of a view are good, in nanoseconds after its making; 0: always were.
#[derive(Debug)]
pub(super) struct ViewFence {
    /// Before every fetch of the view.
    made: Instant,
    /// Entries from before it are not served.
    served: AtomicU64,
    /// Fetches from before it are not put; not before `served`.
    kept: AtomicU64,
}

impl Default for ViewFence {
    fn default() -> Self {
        Self { made: Instant::now(), served: AtomicU64::new(0), kept: AtomicU64::new(0) }
    }
}

impl ViewFence {
    /// Whether what was fetched then is.
    pub(super) fn serves(&self, fetched: Instant) -> bool {
        self.lets_in(&self.served, fetched)
    }

    fn keeps(&self, fetched: Instant) -> bool {
        self.lets_in(&self.kept, fetched)
    }

    /// Most fences never moved.
    fn lets_in(&self, fence: &AtomicU64, fetched: Instant) -> bool {
        let fence = fence.load(Relaxed);
        fence == 0 || self.nanos(fetched) >= fence
    }

    /// Nothing from `at` or before is kept.
    fn keep_after(&self, at: Instant) {
        self.kept.fetch_max(self.nanos(at) + 1, Relaxed);
    }

    /// Nothing from `at` or before is served, nor kept.
    pub(super) fn serve_after(&self, at: Instant) {
        self.keep_after(at);
        self.served.fetch_max(self.nanos(at) + 1, Relaxed);
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos(self.made, at)
    }
}

/// Which entries are swept out.
#[derive(Clone, Copy)]
pub(crate) enum Swept<'a> {
    All,
    Of(ViewId),
    /// Those of the view whose entity is meant.
    Some(ViewId, &'a dyn Fn(&[u8]) -> bool),
    /// Those of any view whose entity is meant.
    Any(&'a dyn Fn(&[u8]) -> bool),
}

impl Memory {
    /// From now on a row that was fetched by `at` is neither served nor kept. Whether there was one.
    pub(crate) fn drop_row(&self, view: ViewId, entity: &EntityKey, at: Instant) -> bool {
        let mut lock = self.locks.of(self.definitions[view.index()], entity);
        let fence = lock.fence();
        fence.dropped = fence.dropped.max(at.checked_add(TICK));
        self.rows.remove(self.key(view, entity), |held| held.fetched <= at)
    }

    /// From now on no row of the view that was fetched by `at` is served or kept. Takes no longer for many than for one.
    pub(crate) fn drop_view(&self, view: ViewId, at: Instant) {
        self.fences[view.index()].serve_after(at);
    }

    /// The same of all views, also of those of other snapshots.
    pub(crate) fn drop_all(&self, at: Instant) {
        self.known.fences().iter().for_each(|fence| fence.serve_after(at));
    }

    /// Drops the entries that are meant and were fetched by `at`; how many. From when it returns on, none is served, and none is
    /// kept. Goes through all that there is: not for a thread that serves.
    pub(crate) fn sweep_out(&self, swept: Swept<'_>, at: Instant) -> u64 {
        match swept {
            Swept::All | Swept::Any(_) => self.known.fences().iter().for_each(|fence| fence.keep_after(at)),
            Swept::Of(view) | Swept::Some(view, _) => self.fences[view.index()].keep_after(at),
        }
        // Who looked at a fence before it moved has put what it had.
        self.locks.pass();
        let is_meant = |key: &RowKey| match swept {
            Swept::All => true,
            Swept::Of(view) => key.of == self.definitions[view.index()],
            Swept::Some(view, is_meant) => key.of == self.definitions[view.index()] && is_meant(&key.entity),
            Swept::Any(is_meant) => is_meant(&key.entity),
        };
        self.rows.remove_all(|key, entry| entry.fetched <= at && is_meant(key))
    }

    /// Whether a fetch comes too late to be put: something that happened since makes it out of date, or may.
    pub(super) fn is_late(&self, view: ViewId, entry: &Entry, fence: &Fence) -> bool {
        fence.pushed > Some(entry.fetched) || self.is_out_of_date(view, entry.fetched, fence)
    }

    /// Whether an invalidation came since.
    pub(super) fn is_out_of_date(&self, view: ViewId, fetched: Instant, fence: &Fence) -> bool {
        fence.dropped > Some(fetched) || !self.fences[view.index()].keeps(fetched)
    }
}

#[cfg(test)]
mod tests;
