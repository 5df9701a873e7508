//! L1: the predictions of this process. Bounded in bytes; what is asked for least goes first (as the rows of `features`, and with the
//! same cache). It has no deadlines of its own: whether an entry still answers is asked of the entry.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use tokio::time::Instant;

use super::{kept::Kept, key::Key};
use crate::resilience::seeded::Seeded;

/// What an entry costs beside its prediction: key, index, lists, ghosts. As measured for rows.
const ENTRY: u64 = 300;
/// An entry's size as long as nobody knows better.
const TYPICAL: u64 = 2000;
/// Ghosts to as many entries.
const GHOSTS: f64 = 0.2;
/// The least that a shard holds.
const SHARD: u64 = 4 << 20;
/// How often dead entries are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// A prediction and when it is of no use any more.
#[derive(Clone, Debug)]
struct Entry {
    kept: Arc<Kept>,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Weighed;

impl Weighter<Key, Entry> for Weighed {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        ENTRY + entry.kept.size() as u64
    }
}

/// The cache.
#[derive(Debug)]
pub(super) struct Memory {
    cache: Cache<Key, Entry, Weighed, Seeded>,
    swept: Mutex<Instant>,
}

impl Memory {
    /// Room for `capacity` bytes.
    pub(super) fn new(capacity: u64, now: Instant) -> Self {
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
        let cache = Cache::with_options(options, Weighed, Seeded::new(rand::random()), DefaultLifecycle::default());
        Self { cache, swept: Mutex::new(now) }
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Arc<Kept>> {
        self.cache.get(key).filter(|entry| now < entry.until).map(|entry| entry.kept)
    }

    /// Keeps it, in place of an older one.
    pub(super) fn put(&self, key: Key, kept: Arc<Kept>, keep_for: Duration) {
        let until = kept.asked + keep_for;
        if self.cache.peek(&key).is_none_or(|held| held.kept.asked <= kept.asked) {
            self.cache.insert(key, Entry { kept, until });
        }
    }

    /// Drops what is of no use at `now`, once a minute; a shard's lock is held for an entry at a time. `dead` says more of a key.
    pub(super) fn sweep(&self, now: Instant, dead: impl Fn(&Key) -> bool) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*swept) < SWEEP {
            return;
        }
        *swept = now;
        for (key, entry) in self.cache.iter() {
            if entry.until <= now || dead(&key) {
                self.cache.remove_if(&key, |entry| entry.until <= now || dead(&key));
            }
        }
    }

    pub(super) fn entries(&self) -> u64 {
        self.cache.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}
