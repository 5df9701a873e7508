//! Single flight: concurrent wishes for one key share one piece of work.
//!
//! ```text
//! join(key) ── nobody there ──► Lead ── publish(…)* ──► end(…): the last word is said, the key is free
//!          └── somebody is ───► Watch ── until(…) ────► a word that is enough, or the last one there is
//! ```
//!
//! The first to come leads: it does the work, or hands the `Lead` to a task that does, so that the work outlives whoever
//! asked. Everyone, the first one too, watches. A key is free again only after the last word was said: who comes later starts
//! anew and must look for the result where the lead left it. A lead that is dropped without a last word (a panic, an aborted
//! task) ends with what it said before; it never leaves anybody hanging.
//!
//! Whoever leads many keys at once leads a `Batch`: what becomes of them is said in one place, and all at once where it is
//! known at once. Who watches one is woken for all, and looks only at its own.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::{HashTable, hash_table::Entry};
use tokio::sync::Notify;

const SHARDS: usize = 16;

/// The keys in flight.
#[derive(Debug)]
pub(crate) struct Flights<K, T> {
    shards: [Mutex<HashTable<Seat<K, T>>>; SHARDS],
    hasher: RandomState,
}

/// A key in flight, and where is said how far it is.
#[derive(Debug)]
struct Seat<K, T> {
    key: K,
    hash: u64,
    watch: Watch<T>,
}

/// What is said of keys that one leads.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    said: Mutex<Vec<Said<T>>>,
    /// Rung after each word.
    bell: Notify,
}

#[derive(Debug)]
struct Said<T> {
    word: T,
    /// Nothing more will be.
    last: bool,
}

/// What [`Flights::join`] makes of the caller.
#[derive(Debug)]
pub(crate) enum Joined<K: Eq + Hash, T> {
    /// The caller is first: the work is its to do.
    Leader(Lead<K, T>),
    /// Somebody does it already.
    Waiter(Watch<T>),
}

/// The duty to do the work of one key.
#[derive(Debug)]
pub(crate) struct Lead<K: Eq + Hash, T> {
    watch: Watch<T>,
    ended: bool,
    /// `None`: a flight nobody can join.
    entry: Option<(Arc<Flights<K, T>>, u64)>,
}

/// A look at the work of one key.
#[derive(Debug)]
pub(crate) struct Watch<T> {
    batch: Arc<Batch<T>>,
    at: usize,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { said: Mutex::default(), bell: Notify::new() }
    }
}

impl<K, T> Flights<K, T> {
    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<Seat<K, T>>> {
        // The table takes the lowest bits, and its tags the highest.
        let shard = (hash >> 32) as usize % SHARDS;
        // Nothing panics while it is held; were it so, the table would still be whole.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, T> Flights<K, T> {
    /// Joins the flight of `key`, or begins it at `start` as one of the caller's batch.
    pub(crate) fn join(self: &Arc<Self>, batch: &Arc<Batch<T>>, key: K, start: T) -> Joined<K, T> {
        let hash = self.hasher.hash_one(&key);
        let mut shard = self.shard(hash);
        match shard.entry(hash, |seat| seat.key == key, |seat| seat.hash) {
            Entry::Occupied(seat) => Joined::Waiter(seat.get().watch.clone()),
            Entry::Vacant(vacant) => {
                let watch = batch.begin(start);
                vacant.insert(Seat { key, hash, watch: watch.clone() });
                Joined::Leader(Lead { watch, ended: false, entry: Some((Arc::clone(self), hash)) })
            }
        }
    }

    /// From now on nobody joins the flight of `key` that is under way, if one is: what it finds may be out of date.
    pub(crate) fn forget(&self, key: &K) {
        let hash = self.hasher.hash_one(key);
        if let Ok(seat) = self.shard(hash).find_entry(hash, |seat| seat.key == *key) {
            seat.remove();
        }
    }

    /// The same of all flights that are meant. Looks at each.
    pub(crate) fn forget_all(&self, is_meant: impl Fn(&K) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|seat| !is_meant(&seat.key));
        }
    }

    /// A forgotten flight leaves the key to the one that followed it.
    fn leave(&self, hash: u64, watch: &Watch<T>) {
        if let Ok(seat) = self.shard(hash).find_entry(hash, |seat| seat.watch.is(watch)) {
            seat.remove();
        }
    }
}

impl<T> Batch<T> {
    fn begin(self: &Arc<Self>, start: T) -> Watch<T> {
        let mut said = self.said();
        said.push(Said { word: start, last: false });
        Watch { batch: Arc::clone(self), at: said.len() - 1 }
    }

    fn said(&self) -> MutexGuard<'_, Vec<Said<T>>> {
        // Nothing that it guards is left half done by a panic.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something, and wakes who waits for it.
    fn say(&self, words: impl FnOnce(&mut [Said<T>])) {
        words(&mut self.said());
        self.bell.notify_waiters();
    }
}

impl<K: Eq + Hash, T> Lead<K, T> {
    /// A flight of its own, which nobody else joins.
    pub(crate) fn alone(batch: &Arc<Batch<T>>, start: T) -> Self {
        Self { watch: batch.begin(start), ended: false, entry: None }
    }

    /// Watches the work.
    pub(crate) fn watch(&self) -> Watch<T> {
        self.watch.clone()
    }

    /// Says how far it is.
    pub(crate) fn publish(&self, word: T) {
        self.watch.batch.say(|said| said[self.watch.at].word = word);
    }

    /// Says the last word.
    pub(crate) fn end(self, word: T) {
        Self::end_all(vec![(self, word)]);
    }

    /// Says the last word of each, of all of a batch at once.
    pub(crate) fn end_all(words: Vec<(Self, T)>) {
        let mut words = words.into_iter().peekable();
        // Leads are dropped, and so free their keys, after all was said.
        let mut ended = Vec::with_capacity(words.len());
        while let Some((first, _)) = words.peek() {
            let batch = Arc::clone(&first.watch.batch);
            batch.say(|said| {
                while let Some((mut lead, word)) = words.next_if(|(lead, _)| Arc::ptr_eq(&lead.watch.batch, &batch)) {
                    said[lead.watch.at] = Said { word, last: true };
                    lead.ended = true;
                    ended.push(lead);
                }
            });
        }
    }
}

impl<K: Eq + Hash, T> Drop for Lead<K, T> {
    fn drop(&mut self) {
        if !self.ended {
            self.watch.batch.say(|said| said[self.watch.at].last = true);
        }
        if let Some((flights, hash)) = &self.entry {
            flights.leave(*hash, &self.watch);
        }
    }
}

impl<T> Watch<T> {
    fn is(&self, other: &Self) -> bool {
        self.at == other.at && Arc::ptr_eq(&self.batch, &other.batch)
    }
}

impl<T: Clone> Watch<T> {
    /// What was said last.
    pub(crate) fn now(&self) -> T {
        self.batch.said()[self.at].word.clone()
    }

    /// Waits for a word that is enough, or for the last one.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it was a look.
    pub(crate) async fn until(&self, enough: impl Fn(&T) -> bool) -> T {
        let settled = || {
            let said = self.batch.said();
            let Said { word, last } = &said[self.at];
            (*last || enough(word)).then(|| word.clone())
        };
        loop {
            if let Some(word) = settled() {
                return word;
            }
            let mut rung = pin!(self.batch.bell.notified());
            // From here on no word is missed.
            rung.as_mut().enable();
            if let Some(word) = settled() {
                return word;
            }
            rung.await;
        }
    }
}

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Self { batch: Arc::clone(&self.batch), at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Flight = Flights<&'static str, u32>;

    fn lead(flights: &Arc<Flight>, batch: &Arc<Batch<u32>>, key: &'static str) -> Lead<&'static str, u32> {
        let Joined::Leader(lead) = flights.join(batch, key, 0) else { panic!("somebody was there") };
        lead
    }

    fn waiter(flights: &Arc<Flight>, key: &'static str) -> Watch<u32> {
        let Joined::Waiter(watch) = flights.join(&Arc::default(), key, 0) else { panic!("a second leader") };
        watch
    }

    #[tokio::test]
    async fn the_first_leads_and_the_others_hear_what_it_says() {
        let flights = Arc::<Flight>::default();
        let first = lead(&flights, &Arc::default(), "a");
        let second = waiter(&flights, "a");
        drop(lead(&flights, &Arc::default(), "b"));
        first.publish(6);
        assert_eq!(second.until(|&said| said == 6).await, 6);
        first.end(7);
        assert_eq!(second.until(|&said| said == 7).await, 7, "also after the lead is gone");
        assert_eq!(second.now(), 7);
        drop(lead(&flights, &Arc::default(), "a"));
    }

    #[tokio::test]
    async fn a_lead_that_dies_wakes_its_waiters() {
        let flights = Arc::<Flight>::default();
        let batch = Arc::default();
        // One of a batch of which another goes on.
        let (first, other) = (lead(&flights, &batch, "a"), lead(&flights, &batch, "b"));
        let waiter = waiter(&flights, "a");
        let (heard, ()) = tokio::join!(waiter.until(|_| false), async { drop(first) });
        assert_eq!(heard, 0, "nothing");
        drop(lead(&flights, &Arc::default(), "a"));
        drop(other);
    }

    #[tokio::test]
    async fn the_words_of_a_batch_are_said_at_once_and_each_is_heard_by_its_own() {
        let flights = Arc::<Flight>::default();
        let (batch, other) = (Arc::default(), Arc::default());
        let leads = [("a", &batch), ("b", &batch), ("c", &other)].map(|(key, batch)| lead(&flights, batch, key));
        let waiters = ["a", "b", "c"].map(|key| waiter(&flights, key));
        let heard = waiters.each_ref().map(|waiter| waiter.until(|&said| said > 0));
        let words = leads.into_iter().zip(1..).collect();
        let (heard, ()) = tokio::join!(futures_util::future::join_all(heard), async { Lead::end_all(words) });
        assert_eq!(heard, [1, 2, 3]);
        for key in ["a", "b", "c"] {
            drop(lead(&flights, &Arc::default(), key));
        }
    }

    #[tokio::test]
    async fn one_that_goes_on_wakes_nobody_for_good() {
        let flights = Arc::<Flight>::default();
        let batch = Arc::default();
        let (first, second) = (lead(&flights, &batch, "a"), lead(&flights, &batch, "b"));
        let waiter = waiter(&flights, "b");
        let words = async {
            first.end(1);
            tokio::task::yield_now().await;
            second.publish(2);
            tokio::task::yield_now().await;
            second.end(3);
        };
        let (heard, ()) = tokio::join!(waiter.until(|&said| said == 3), words);
        assert_eq!(heard, 3);
    }

    #[tokio::test]
    async fn a_forgotten_flight_is_joined_by_nobody_and_ends_no_other() {
        let flights = Arc::<Flight>::default();
        let first = lead(&flights, &Arc::default(), "a");
        let waited = waiter(&flights, "a");
        flights.forget(&"a");
        let second = lead(&flights, &Arc::default(), "a");
        first.end(7);
        assert_eq!(waited.until(|&said| said == 7).await, 7, "who waited hears it");
        // The second is under way.
        waiter(&flights, "a");
        drop(second);
        drop(lead(&flights, &Arc::default(), "a"));
    }

    #[tokio::test]
    async fn of_many_flights_those_that_are_meant_are_forgotten() {
        let flights = Arc::<Flight>::default();
        let batch = Arc::default();
        let (first, second) = (lead(&flights, &batch, "a"), lead(&flights, &batch, "b"));
        flights.forget_all(|key| *key == "a");
        waiter(&flights, "b");
        let third = lead(&flights, &Arc::default(), "a");
        drop((first, second));
        waiter(&flights, "a");
        drop(third);
    }

    #[tokio::test]
    async fn the_leads_own_watch_and_a_flight_alone() {
        let flights = Arc::<Flight>::default();
        let first = lead(&flights, &Arc::default(), "a");
        let alone = Lead::<&str, u32>::alone(&Arc::default(), 0);
        let (own, other) = (first.watch(), alone.watch());
        drop(alone);
        waiter(&flights, "a");
        assert_eq!(other.until(|_| false).await, 0);
        first.publish(1);
        assert_eq!(own.until(|&said| said == 1).await, 1);
    }

    #[test]
    fn on_many_threads_one_leads_and_all_hear_it() {
        const ROUNDS: u32 = 500;
        const KEYS: [&str; 4] = ["a", "b", "c", "d"];
        let flights = Arc::<Flight>::default();
        let board = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for round in 0..ROUNDS {
                let batch = Arc::default();
                let (mut leads, mut watches) = (Vec::new(), Vec::new());
                for key in KEYS {
                    match flights.join(&batch, key, 0) {
                        Joined::Leader(lead) => leads.push((lead, round + 1)),
                        Joined::Waiter(watch) => watches.push(watch),
                    }
                }
                Lead::end_all(leads);
                runtime.block_on(async {
                    for watch in &watches {
                        let heard = tokio::time::timeout(std::time::Duration::from_secs(60), watch.until(|_| false));
                        assert!(heard.await.unwrap() > 0);
                    }
                });
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(board))));
        assert!(flights.shards.iter().all(|shard| shard.lock().unwrap().is_empty()), "no key stays");
    }
}
