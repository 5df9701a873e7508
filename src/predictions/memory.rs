//! L1: the predictions of this process, and the requests that came before byte for byte (`verbatim`). Bounded in bytes; what is asked for
//! least goes first (as the rows of `features`, and with the same cache). It has no deadlines of its own: whether an entry still answers
//! is asked of the entry.

use std::{
    hash::Hash,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use quick_cache::{
    Equivalent, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle, EntryAction, EntryResult},
};
use tokio::time::Instant;

use crate::resilience::seeded::Seeded;

/// What an entry costs beside its key and value: index, lists, ghosts. As measured for rows.
const ENTRY: u64 = 300;
/// An entry's size as long as nobody knows better.
const TYPICAL: u64 = 2000;
/// Ghosts to as many entries.
const GHOSTS: f64 = 0.2;
/// The least that a shard holds.
const SHARD: u64 = 4 << 20;
/// How often dead entries are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Tells what it takes.
pub(super) trait Weigh {
    /// In bytes.
    fn size(&self) -> usize;
}

/// A value and when it is of no use any more.
#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Weighed;

impl<K: Weigh, V: Weigh> Weighter<K, Entry<V>> for Weighed {
    fn weight(&self, key: &K, entry: &Entry<V>) -> u64 {
        ENTRY + (key.size() + entry.value.size()) as u64
    }
}

/// The cache.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    cache: Cache<K, Entry<V>, Weighed, Seeded>,
    swept: Mutex<Instant>,
}

impl<K: Eq + Hash + Clone + Weigh, V: Clone + Weigh> Memory<K, V> {
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

    pub(super) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q, now: Instant) -> Option<V> {
        self.cache.get(key).filter(|entry| now < entry.until).map(|entry| entry.value)
    }

    /// Keeps it until then, in place of one that it `replaces`: asked and done in one step, under the lock of the key's shard. Of two
    /// that come at once the one stays that replaces the other.
    pub(super) fn put(&self, key: &K, value: V, until: Instant, replaces: impl FnOnce(&V) -> bool) {
        let mut new = Some(Entry { value, until });
        let put = self.cache.entry(key, None, |_, held| {
            let replaced = if replaces(&held.value) { new.take().map(|new| mem::replace(held, new)) } else { None };
            // Dropped without the lock.
            EntryAction::Retain(replaced)
        });
        // Whoever puts the same waits for it; nobody who reads does.
        if let (EntryResult::Vacant(place), Some(new)) = (put, new) {
            // It fails where the place is gone: then nothing is kept.
            let _ = place.insert(new);
        }
    }

    /// Drops what is of no use at `now`, once a minute; a shard's lock is held for an entry at a time. `dead` says more of an entry.
    pub(super) fn sweep(&self, now: Instant, dead: impl Fn(&K, &V) -> bool) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*swept) < SWEEP {
            return;
        }
        *swept = now;
        let is_dead = |key: &K, entry: &Entry<V>| entry.until <= now || dead(key, &entry.value);
        for (key, entry) in self.cache.iter() {
            if is_dead(&key, &entry) {
                self.cache.remove_if(&key, |entry| is_dead(&key, entry));
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    impl Weigh for u64 {
        fn size(&self) -> usize {
            size_of::<Self>()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_comes_between_what_is_decided_and_what_is_done() {
        let (memory, now) = (Memory::<u64, u64>::new(1 << 20, Instant::now()), Instant::now());
        let until = now + SWEEP;
        memory.put(&1, 1, until, |_| false);
        memory.put(&1, 2, until, |held| {
            assert_eq!(*held, 1);
            assert!(memory.cache.try_peek(&1).is_err(), "it is locked");
            true
        });
        memory.put(&1, 3, until, |held| *held == 1);
        assert_eq!(memory.get(&1, now), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_put_at_once_the_newest_stays_whoever_is_last() {
        const PUTS: u64 = 2000;
        let (memory, now) = (Memory::<u64, u64>::new(64 << 20, Instant::now()), Instant::now());
        thread::scope(|scope| {
            for thread in 0..4 {
                let memory = &memory;
                scope.spawn(move || {
                    for key in 0..PUTS {
                        let asked = (thread + key) % 4;
                        memory.put(&key, asked, now + SWEEP, |held| *held <= asked);
                    }
                });
            }
        });
        assert!((0..PUTS).all(|key| memory.get(&key, now) == Some(3)));
    }
}
