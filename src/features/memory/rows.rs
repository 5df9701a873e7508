//! Where L1's entries lie: a sharded table that holds so many bytes at most and lets go of what is asked for least (S3-FIFO with
//! the ghosts of CLOCK-Pro).
//!
//! A hit takes its shard's lock for reading, allocates nothing and writes one counter beside the entry that it reads. That is
//! what this cache was chosen for: moka, which held the rows before, queues every hit and moves a node of a list for it later,
//! wherever that lies in memory. `benches/l1.rs` measures what a hit costs.
//!
//! It has no deadlines of its own. Entries that are of no use any more leave with a sweep a minute, or earlier as the least used.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use quick_cache::{
    Equivalent, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use smallvec::SmallVec;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Definition, Entry};

/// What an entry costs beside its row and what of its key does not fit in: its place in a list that grows by doubling, its share
/// of the places of ghosts, and the index. Measured as resident memory.
pub(super) const ENTRY: usize = 300;

/// An entry's size as long as nobody knows better, from which the numbers of shards and of ghosts follow.
const TYPICAL: u64 = 1000;

/// Ghosts, the hashes of keys that were let go of lately, to as many entries: each takes an entry's place.
const GHOSTS: f64 = 0.2;

/// The least that a shard holds: a row that is longer than one is never kept.
const SHARD: u64 = 4 << 20;

/// How often dead entries are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// A row's key. Most are held in the entry itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowKey {
    pub(super) of: Definition,
    pub(super) entity: SmallVec<[u8; 40]>,
}

/// A key to look up by. Hashes as [`RowKey`] does.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowRef<'a> {
    pub(super) of: Definition,
    pub(super) entity: &'a [u8],
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        RowRef { of: self.of, entity: &self.entity }.hash(state);
    }
}

impl Hash for RowRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.of.0);
        state.write(self.entity);
    }
}

impl Equivalent<RowKey> for RowRef<'_> {
    fn equivalent(&self, key: &RowKey) -> bool {
        self.of == key.of && *self.entity == *key.entity
    }
}

impl RowKey {
    /// What of it is not held in the entry.
    pub(super) fn heap(&self) -> usize {
        if self.entity.spilled() { self.entity.len() } else { 0 }
    }
}

/// XXH3 from a seed that callers, who choose the keys, do not know.
#[derive(Clone, Debug)]
struct Seeded(u64);

#[derive(Debug)]
struct Xxh3(u64);

impl BuildHasher for Seeded {
    type Hasher = Xxh3;

    fn build_hasher(&self) -> Xxh3 {
        Xxh3(self.0)
    }
}

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = self.0.wrapping_add(u64::from(number));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Entries know what they weigh.
#[derive(Clone, Debug)]
struct Weighed;

impl Weighter<RowKey, Entry> for Weighed {
    fn weight(&self, _: &RowKey, entry: &Entry) -> u64 {
        u64::from(entry.weight)
    }
}

/// The entries of all snapshots.
#[derive(Debug)]
pub(super) struct Rows {
    cache: Cache<RowKey, Entry, Weighed, Seeded>,
    swept: Mutex<Instant>,
}

impl Rows {
    /// Room for `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        let mut options = OptionsBuilder::new();
        let items = usize::try_from(capacity / TYPICAL).unwrap_or(usize::MAX);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = usize::try_from(capacity / SHARD).unwrap_or(usize::MAX).clamp(1, 4 * cores);
        options
            .weight_capacity(capacity)
            .estimated_items_capacity(items.max(1))
            .ghost_allocation(GHOSTS)
            .shards(shards);
        let options = options.build().expect("both capacities are given");
        let cache = Cache::with_options(options, Weighed, Seeded(rand::random()), DefaultLifecycle::default());
        Self { cache, swept: Mutex::new(Instant::now()) }
    }

    pub(super) fn get(&self, key: RowRef<'_>) -> Option<Entry> {
        self.cache.get(&key)
    }

    pub(super) fn insert(&self, key: RowKey, entry: Entry) {
        self.cache.insert(key, entry);
    }

    /// Drops the entry of a key if it is meant. Whether it was.
    pub(super) fn remove(&self, key: RowRef<'_>, is_meant: impl FnOnce(&Entry) -> bool) -> bool {
        self.cache.remove_if(&key, is_meant).is_some()
    }

    /// Drops what is of no use at `now`, once a minute. Goes through all that there is: not for a thread that serves.
    pub(super) fn sweep(&self, now: Instant) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*swept) >= SWEEP {
            *swept = now;
            self.remove_all(|_, entry| entry.is_dead(now));
        }
    }

    /// Drops all that is meant of what is there when it begins; how many. Takes a shard's lock an entry at a time, and lets rows
    /// go outside of it: `retain` would hold up every hit on a shard for as long as it takes to free what is dropped there, which
    /// is tens of milliseconds. Goes through all that there is.
    pub(super) fn remove_all(&self, is_meant: impl Fn(&RowKey, &Entry) -> bool) -> u64 {
        let mut removed = 0;
        for (key, entry) in self.cache.iter() {
            // Another may have taken its place.
            if is_meant(&key, &entry) && self.cache.remove_if(&key, |entry| is_meant(&key, entry)).is_some() {
                removed += 1;
            }
        }
        removed
    }

    /// What there is, a shard at a time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RowKey, Entry)> + '_ {
        self.cache.iter()
    }

    #[cfg(test)]
    pub(super) fn clear(&self) {
        self.cache.clear();
    }

    pub(super) fn count(&self) -> u64 {
        self.cache.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}
