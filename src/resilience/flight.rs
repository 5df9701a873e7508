//! Single flight: concurrent wishes for one key share one piece of work.
//!
//! ```text
//! join(key) ── nobody there ──► Lead ── publish(…)* ──► drop: the key is free, waiters see the last word
//!          └── somebody is ───► Waiter ── changed() ──► … ──► the last word, or the lead's end without one
//! ```
//!
//! The first to come leads: it does the work, or hands the `Lead` to a task that does, so that the work outlives whoever
//! asked. Everyone, the first one too, watches. A key is free again before its last watcher hears, and only after the last
//! word was published: who comes later starts anew and must look for the result where the lead left it. A lead that is
//! dropped without a word (a panic, an aborted task) wakes its waiters with nothing; it never leaves them hanging.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

const SHARDS: usize = 16;

/// The keys in flight.
#[derive(Debug)]
pub(crate) struct Flights<K, T> {
    shards: [Mutex<HashMap<K, watch::Receiver<T>>>; SHARDS],
    hasher: RandomState,
}

/// What [`Flights::join`] makes of the caller.
#[derive(Debug)]
pub(crate) enum Joined<K: Eq + Hash, T> {
    /// The caller is first: the work is its to do.
    Leader(Lead<K, T>),
    /// Somebody does it already.
    Waiter(watch::Receiver<T>),
}

/// The duty to do the work of one key.
#[derive(Debug)]
pub(crate) struct Lead<K: Eq + Hash, T> {
    progress: watch::Sender<T>,
    /// `None`: a flight nobody can join.
    entry: Option<(Arc<Flights<K, T>>, K)>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl<K: Eq + Hash, T> Flights<K, T> {
    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, watch::Receiver<T>>> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        // Nothing panics while it is held; were it so, the map would still be whole.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, T> Flights<K, T> {
    /// Joins the flight of `key`, or begins it at `start`.
    pub(crate) fn join(self: &Arc<Self>, key: K, start: T) -> Joined<K, T> {
        let mut shard = self.shard(&key);
        if let Some(progress) = shard.get(&key) {
            return Joined::Waiter(progress.clone());
        }
        let (progress, watched) = watch::channel(start);
        shard.insert(key.clone(), watched);
        Joined::Leader(Lead { progress, entry: Some((Arc::clone(self), key)) })
    }
}

impl<K: Eq + Hash, T> Flights<K, T> {
    /// From now on nobody joins the flight of `key` that is under way, if one is: what it finds may be out of date.
    pub(crate) fn forget(&self, key: &K) {
        self.shard(key).remove(key);
    }
}

impl<K: Eq + Hash, T> Lead<K, T> {
    /// A flight of its own, which nobody else joins.
    pub(crate) fn alone(start: T) -> Self {
        Self { progress: watch::Sender::new(start), entry: None }
    }

    /// Watches the work.
    pub(crate) fn watch(&self) -> watch::Receiver<T> {
        self.progress.subscribe()
    }

    /// Says how far it is. The last word is what was published when the lead is dropped.
    pub(crate) fn publish(&self, progress: T) {
        self.progress.send_replace(progress);
    }
}

impl<K: Eq + Hash, T> Drop for Lead<K, T> {
    fn drop(&mut self) {
        if let Some((flights, key)) = &self.entry {
            let mut shard = flights.shard(key);
            // A forgotten flight leaves the key to the one that followed it.
            if shard.get(key).is_some_and(|current| current.same_channel(&self.progress.subscribe())) {
                shard.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights() -> Arc<Flights<&'static str, u32>> {
        Arc::default()
    }

    #[tokio::test]
    async fn the_first_leads_and_the_others_hear_what_it_says() {
        let flights = flights();
        let Joined::Leader(lead) = flights.join("a", 0) else { panic!("nobody was there") };
        let Joined::Waiter(mut second) = flights.join("a", 0) else { panic!("a second leader") };
        assert!(matches!(flights.join("b", 0), Joined::Leader(_)), "another key is another flight");
        lead.publish(7);
        drop(lead);
        assert_eq!(*second.wait_for(|&said| said == 7).await.unwrap(), 7, "also after the lead is gone");
        assert!(matches!(flights.join("a", 0), Joined::Leader(_)), "the key is free again");
    }

    #[tokio::test]
    async fn a_lead_that_dies_wakes_its_waiters() {
        let flights = flights();
        let Joined::Leader(lead) = flights.join("a", 0) else { panic!("nobody was there") };
        let Joined::Waiter(mut waiter) = flights.join("a", 0) else { panic!("a second leader") };
        let waiting = async { waiter.wait_for(|&said| said != 0).await.is_err() };
        let (heard_nothing, ()) = tokio::join!(waiting, async { drop(lead) });
        assert!(heard_nothing);
        assert!(matches!(flights.join("a", 0), Joined::Leader(_)));
    }

    #[tokio::test]
    async fn a_forgotten_flight_is_joined_by_nobody_and_ends_no_other() {
        let flights = flights();
        let Joined::Leader(first) = flights.join("a", 0) else { panic!("nobody was there") };
        let Joined::Waiter(mut waiter) = flights.join("a", 0) else { panic!("a second leader") };
        flights.forget(&"a");
        let Joined::Leader(second) = flights.join("a", 0) else { panic!("it was forgotten") };
        first.publish(7);
        drop(first);
        assert_eq!(*waiter.wait_for(|&said| said == 7).await.unwrap(), 7, "who waited hears it");
        assert!(matches!(flights.join("a", 0), Joined::Waiter(_)), "the second is under way");
        drop(second);
        assert!(matches!(flights.join("a", 0), Joined::Leader(_)));
    }

    #[tokio::test]
    async fn the_leads_own_watch_and_a_flight_alone() {
        let flights = flights();
        let Joined::Leader(lead) = flights.join("a", 0) else { panic!("nobody was there") };
        let alone = Lead::<&str, u32>::alone(0);
        let (mut own, mut other) = (lead.watch(), alone.watch());
        drop(alone);
        assert!(matches!(flights.join("a", 0), Joined::Waiter(_)), "a flight alone frees no key");
        assert!(other.changed().await.is_err());
        lead.publish(1);
        assert!(own.changed().await.is_ok());
    }
}
