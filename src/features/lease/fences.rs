//! Which rows are being changed: while one is, by whatever gateway, its reads go to the store, each by itself, and nothing that they
//! find is kept.
//!
//! ```text
//!        hold(round)                      release(round), the last one
//! free ───────────────► held by rounds ───────────────────────────────► free
//!                          └── too long: whoever held it is gone ──────► free
//! ```
//!
//! What was asked before a row was free again is not kept after that either: the fill may have read what was there before the change.
//! Keys share shards, and so the time of the last release; a fill that is refused for a neighbour's sake costs a miss.
//!
//! Invariant: holding, releasing, keeping and joining a key are one step each, under the lock of its shard. So nobody joins a fetch that
//! began before the row was held once it is held, and no fill slips in between the look and the putting.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::infer::EntityKey;

/// Keys share so many locks: a release refuses the fills under way of few others.
const SHARDS: usize = 1024;

/// A row, by what it is stored as: the same on every gateway. Two of one number, were there any, would be held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowId(pub(super) u128);

impl RowId {
    /// The row of a view, by the name that it is stored under.
    pub(super) fn of(stored: &str, key: &EntityKey) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&(stored.len() as u64).to_le_bytes());
        hash.update(stored.as_bytes());
        hash.update(key.as_bytes());
        Self(hash.digest128())
    }

    const fn shard(self) -> usize {
        (self.0 >> 64) as usize % SHARDS
    }
}

/// A change of rows: whose it is, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RoundId {
    pub(super) by: u64,
    pub(super) number: u64,
}

/// The rows that are held.
#[derive(Debug)]
pub(super) struct Fences {
    shards: Box<[Mutex<Shard>]>,
    /// How long a row is held at most.
    longest: Duration,
}

#[derive(Debug, Default)]
struct Shard {
    held: Vec<Held>,
    /// When a row was released last.
    released: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    row: RowId,
    rounds: SmallVec<[(RoundId, Instant); 2]>,
    /// Whether another held it too since it was free: what one of them wrote need not be what is stored.
    contested: bool,
}

impl Shard {
    /// Lets go of rows whose holders are gone.
    fn tidy(&mut self, now: Instant) {
        let Self { held, released } = self;
        held.retain_mut(|held| {
            let before = held.rounds.len();
            held.rounds.retain(|(_, until)| now < *until);
            held.contested |= held.rounds.len() < before;
            let stays = !held.rounds.is_empty();
            *released = if stays { *released } else { (*released).max(Some(now)) };
            stays
        });
    }

    fn find(&mut self, row: RowId, now: Instant) -> Option<usize> {
        self.tidy(now);
        self.held.iter().position(|held| held.row == row)
    }
}

impl Fences {
    /// Nothing is held. No row is for longer than `longest` after it was.
    pub(super) fn new(longest: Duration) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), longest }
    }

    fn shard(&self, row: RowId) -> MutexGuard<'_, Shard> {
        // Nothing that it guards is left half done by a panic.
        self.shards[row.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a row; `forget` is to drop what is kept of it and to end the joining of what is fetched of it.
    pub(super) fn hold(&self, row: RowId, round: RoundId, now: Instant, forget: impl FnOnce()) {
        let mut shard = self.shard(row);
        let until = now + self.longest;
        match shard.find(row, now) {
            Some(at) => {
                let held = &mut shard.held[at];
                held.contested |= held.rounds.iter().any(|(other, _)| *other != round);
                held.rounds.retain(|(other, _)| *other != round);
                held.rounds.push((round, until));
            }
            None => {
                shard.held.push(Held { row, rounds: [(round, until)].into_iter().collect(), contested: false });
            }
        }
        forget();
    }

    /// Lets go of a row. If it is free then, and this round alone held it since it was, `keep` may keep what the round wrote.
    pub(super) fn release(&self, row: RowId, round: RoundId, now: Instant, keep: impl FnOnce()) {
        let mut shard = self.shard(row);
        let Some(at) = shard.find(row, now) else { return };
        let held = &mut shard.held[at];
        held.rounds.retain(|(other, _)| *other != round);
        if !held.rounds.is_empty() {
            return;
        }
        let contested = held.contested;
        shard.held.swap_remove(at);
        shard.released = shard.released.max(Some(now));
        if !contested {
            keep();
        }
    }

    /// Keeps what was asked for at `asked`, unless the row is held or was since.
    pub(super) fn keep(&self, row: RowId, (asked, now): (Instant, Instant), put: impl FnOnce()) {
        let mut shard = self.shard(row);
        if shard.find(row, now).is_none() && shard.released.is_none_or(|released| asked > released) {
            put();
        }
    }

    /// Joins a fetch of the row, unless it is held.
    pub(super) fn join<T>(&self, row: RowId, now: Instant, join: impl FnOnce() -> T) -> Option<T> {
        let mut shard = self.shard(row);
        shard.find(row, now).is_none().then(join)
    }

    /// Rows that are held: those whose holders are gone are let go of first, for nobody else may ever ask for one.
    pub(super) fn count(&self, now: Instant) -> usize {
        let held = |shard: &Mutex<Shard>| {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.tidy(now);
            shard.held.len()
        };
        self.shards.iter().map(held).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const ROW: RowId = RowId(7);
    const MS: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_secs(30);

    fn round(number: u64) -> RoundId {
        RoundId { by: 1, number }
    }

    fn keeps(fences: &Fences, asked: Instant, now: Instant) -> bool {
        let kept = Cell::new(false);
        fences.keep(ROW, (asked, now), || kept.set(true));
        kept.get()
    }

    fn releases(fences: &Fences, number: u64, now: Instant) -> bool {
        let kept = Cell::new(false);
        fences.release(ROW, round(number), now, || kept.set(true));
        kept.get()
    }

    #[test]
    fn a_row_that_is_held_is_neither_kept_nor_joined_and_slow_fills_are_refused_after() {
        let fences = Fences::new(LONGEST);
        let now = Instant::now();
        assert!(keeps(&fences, now, now) && fences.join(ROW, now, || ()).is_some());
        let forgotten = Cell::new(false);
        fences.hold(ROW, round(1), now, || forgotten.set(true));
        assert!(forgotten.get());
        assert!(!keeps(&fences, now + MS, now + MS) && fences.join(ROW, now + MS, || ()).is_none());
        assert!(releases(&fences, 1, now + 2 * MS), "what it wrote is kept");
        assert!(!keeps(&fences, now + MS, now + 3 * MS), "asked while it was held");
        assert!(!keeps(&fences, now + 2 * MS, now + 3 * MS), "asked when it was released");
        assert!(keeps(&fences, now + 3 * MS, now + 3 * MS) && fences.join(ROW, now + 3 * MS, || ()).is_some());
        assert_eq!(fences.count(now + 3 * MS), 0);
    }

    #[test]
    fn of_two_that_held_it_at_once_nobody_knows_whose_row_is_stored() {
        let fences = Fences::new(LONGEST);
        let now = Instant::now();
        fences.hold(ROW, round(1), now, || ());
        fences.hold(ROW, round(2), now, || ());
        assert!(!releases(&fences, 2, now + MS));
        assert!(fences.join(ROW, now + MS, || ()).is_none(), "the first still holds it");
        assert!(!releases(&fences, 1, now + 2 * MS), "the second may have written after it");
        fences.hold(ROW, round(3), now + 3 * MS, || ());
        fences.hold(ROW, round(3), now + 3 * MS, || ());
        assert!(releases(&fences, 3, now + 4 * MS), "told twice, it is the same");
    }

    #[test]
    fn a_row_is_not_held_for_ever() {
        let fences = Fences::new(LONGEST);
        let now = Instant::now();
        fences.hold(ROW, round(1), now, || ());
        assert!(fences.join(ROW, now + LONGEST - MS, || ()).is_none());
        assert!(fences.join(ROW, now + LONGEST, || ()).is_some());
        assert!(!keeps(&fences, now + LONGEST, now + LONGEST + MS), "asked before it was found to be free");
        assert!(keeps(&fences, now + LONGEST + MS, now + LONGEST + MS));
        assert!(!releases(&fences, 1, now + LONGEST + 2 * MS), "it was not held any more");
    }

    #[test]
    fn a_row_whose_holder_is_gone_is_not_counted_though_nobody_asks_for_it() {
        let fences = Fences::new(LONGEST);
        let now = Instant::now();
        fences.hold(ROW, round(1), now, || ());
        fences.hold(RowId(8), round(2), now + MS, || ());
        assert_eq!(fences.count(now + LONGEST - MS), 2);
        assert_eq!(fences.count(now + LONGEST), 1);
        assert_eq!(fences.count(now + LONGEST + MS), 0);
        assert!(!keeps(&fences, now + LONGEST, now + LONGEST + 2 * MS), "asked before it was found to be free");
        assert!(keeps(&fences, now + LONGEST + 2 * MS, now + LONGEST + 2 * MS));
    }

    #[test]
    fn rows_are_told_apart_by_view_and_key() {
        let key = |user| EntityKey::new([("user_id", &crate::infer::EntityValue::Int64(user))].into_iter());
        assert_eq!(RowId::of("v", &key(1)), RowId::of("v", &key(1)));
        assert_ne!(RowId::of("v", &key(1)), RowId::of("v", &key(2)));
        assert_ne!(RowId::of("v", &key(1)), RowId::of("w", &key(1)));
    }
}
