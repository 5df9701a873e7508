//! Keys that changed just now, as far as this process knows: they are read from masters until every replica that is read has them.
//!
//! A push that this gateway acknowledged, or a change that it was told of, must not be undone by a replica that is behind: L1 would
//! keep what that says for a whole `ttl`. A replica is read only where it has all that its master had `max_lag` ago: so for as long,
//! from when the change was known, its key's reads go to the master.
//!
//! Kept by hash, in so many places: two keys that share one send each other's reads to the master, which costs a replica's help and
//! nothing else. A place is an atomic; marking and looking take no lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::{infer::EntityKey, resilience::since::nanos_from_one};

/// At a thousand changes a second and a second of lag, one read in seventeen goes to a master for another's sake.
const PLACES: usize = 1 << 14;

/// By key, when it last changed.
#[derive(Debug)]
pub(super) struct Fence {
    origin: Instant,
    /// How long a change counts.
    lag: Duration,
    /// Nanoseconds since `origin`, and one; 0: never.
    places: Box<[AtomicU64]>,
    /// The same, of all keys.
    all: AtomicU64,
}

impl Fence {
    pub(super) fn new(lag: Duration, origin: Instant) -> Self {
        Self { origin, lag, places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), all: AtomicU64::new(0) }
    }

    /// The key's rows are others by `now`.
    pub(super) fn changed(&self, key: &EntityKey, now: Instant) {
        self.place(key).fetch_max(self.nanos(now), Relaxed);
    }

    /// Any key's rows may be.
    pub(super) fn all_changed(&self, now: Instant) {
        self.all.fetch_max(self.nanos(now), Relaxed);
    }

    /// Whether a replica may lack what is known to have changed.
    pub(super) fn holds(&self, key: &EntityKey, now: Instant) -> bool {
        let changed = self.place(key).load(Relaxed).max(self.all.load(Relaxed));
        changed > 0 && u128::from(self.nanos(now).saturating_sub(changed)) <= self.lag.as_nanos()
    }

    fn place(&self, key: &EntityKey) -> &AtomicU64 {
        &self.places[xxh3_64(key.as_bytes()) as usize % PLACES]
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos_from_one(self.origin, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::key;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_change_counts_for_as_long_as_a_replica_may_be_behind() {
        let origin = Instant::now();
        let fence = Fence::new(100 * MS, origin);
        assert!(!fence.holds(&key(1), origin));
        fence.changed(&key(1), origin);
        // Told late, of what was before.
        fence.changed(&key(1), origin + 10 * MS);
        fence.changed(&key(1), origin + 5 * MS);
        assert!(fence.holds(&key(1), origin + 110 * MS) && !fence.holds(&key(1), origin + 111 * MS));
        assert!(!fence.holds(&key(2), origin));
        fence.all_changed(origin + 200 * MS);
        assert!(fence.holds(&key(2), origin + 300 * MS) && !fence.holds(&key(2), origin + 301 * MS));
    }
}
