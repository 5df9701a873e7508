//! Copies of hot keys on other masters, so that one key's reads are the work of several.
//!
//! A copy is a hash with the cells of the key's, all but those of `write_through` views, under a name of its own (`name`). Readers
//! choose at random among the key and the copies that this process knows to be there; a copy that is not, or whose server does not
//! answer, is passed over for the key itself. Who tends them (one task a gateway) makes what is missing and renews what is half
//! through its life, which is no longer than L1's.
//!
//! # No copy outlives an invalidation
//!
//! From when a push or an invalidation is acknowledged no read finds an older row in a copy, whoever made it and however slow
//! it was. Two things see to that.
//!
//! *The order of things at one copy.* A copy is leased before the key is read, and filled only while that lease is there
//! (`script`). Whoever writes the key removes the copy afterwards, lease and all, and acknowledges only then:
//!
//! ```text
//! copier   lease ──────── read key, mark it ────────────── fill: if the lease is still there
//! writer                 write key ──── remove copy ──── acknowledge
//! ```
//!
//! Had the copier read before the write, its lease is older than the write, so it is gone or the copy was filled before it was
//! removed. Had it read after, the copy has the new row. There is no third case, and no clock in it.
//!
//! *Knowing which keys have copies.* Removing 31 names a row that is pushed would be dear. So a gateway announces a key in a list
//! in Redis (`shared`) and makes no copy of it until [`NOTICE`] later; every gateway reads the list each second. A writer whose last
//! look at the list began less than `NOTICE` before its write was acknowledged has seen every key that could have been copied before
//! that write: the copier read the key `NOTICE` after its announcement or later, and before the write, so the announcement is older than
//! the look. An announcement outlives the copies that were made under it.
//!
//! A writer whose last look is older (Redis was slow, or it has just started) asks the key's own master after the write. There the
//! copier marks the key in the same step in which it reads it, for longer than the copy is there (`script`). So a key that is not
//! marked after a write has no copy that was read before it, and needs no removal; one that is marked has all its names removed. The
//! list spares pushes that question, and the mark is what is true: no other server has to answer for a push of a key without copies.
//! A push of which neither can be learned, or one of whose copies is on a server that does not answer, is not acknowledged.
//!
//! What is not covered: an announcement or a removal that a Redis failover loses (when the map of the cluster changes, copies on
//! the new master are made anew before they are read), a gateway without `hot_keys`, and Feast's own writers, whose rows copies
//! follow as L1 does: by tracking, or when they expire.

mod fill;
mod invalidation;
mod name;
mod reads;
mod removal;
mod script;
mod spread;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, time::Instant};

pub(crate) use self::spread::Hot;
use self::spread::Spread;
use crate::{
    config::{self, Consistency, View},
    infer::EntityKey,
    telemetry::handles::hot_keys::HotKeys as Handles,
};

/// How long a key is announced before a copy of it is made.
pub(super) const NOTICE: Duration = Duration::from_secs(3);

/// How much longer than a copy its announcement is there.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// No copy is made that long after announcements were last renewed: they would not outlive it.
const UNRENEWED: Duration = Duration::from_secs(20);

/// What this process knows of copies, its own and others'.
#[derive(Debug)]
pub(crate) struct Copies {
    many: config::Copies,
    origin: Instant,
    /// The keys that are hot, and where their copies are; written by who tends them.
    table: ArcSwap<Table>,
    /// The keys that may have copies, whoever made them.
    listed: ArcSwap<Listed>,
    /// Since when our keys are in the list.
    announced: Mutex<HashMap<EntityKey, Instant>>,
    /// Keys whose copies are to be removed yet.
    doubtful: Mutex<HashSet<EntityKey>>,
    /// Tells that there is something to tend.
    pub(crate) wake: Notify,
    pub(super) metrics: Arc<Handles>,
}

type Table = HashMap<EntityKey, Arc<Spread>>;

/// The list, as it was last read.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    /// When that read began.
    began: Option<Instant>,
    /// Until when a key may have copies.
    until: HashMap<EntityKey, Instant>,
}

impl Listed {
    /// Whether it has every key that could have a copy older than a write acknowledged at `now`.
    fn is_fresh(&self, now: Instant) -> bool {
        self.began.is_some_and(|began| now.saturating_duration_since(began) < NOTICE)
    }

    fn note(&mut self, key: &EntityKey, ends: Instant) {
        self.until.entry(key.clone()).and_modify(|until| *until = ends.max(*until)).or_insert(ends);
    }
}

/// Which rows' copies a writer has to remove.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// It is in the list: it may have copies.
    Listed,
    /// It is not known whether it is: the key's own master has to say.
    Unknown,
    /// It is not.
    None,
}

impl Copies {
    pub(super) fn new(many: config::Copies, metrics: Arc<Handles>) -> Self {
        Self {
            many,
            origin: Instant::now(),
            table: ArcSwap::default(),
            listed: ArcSwap::default(),
            announced: Mutex::default(),
            doubtful: Mutex::default(),
            wake: Notify::new(),
            metrics,
        }
    }

    /// Whether a key may have copies older than what was written to it by `now`.
    pub(super) fn suspicions<'a>(
        &self,
        keys: impl Iterator<Item = &'a EntityKey>,
        now: Instant,
    ) -> impl Iterator<Item = Suspicion> {
        let listed = self.listed.load_full();
        keys.map(move |key| {
            if listed.until.get(key).is_some_and(|until| now < *until) {
                Suspicion::Listed
            } else if listed.is_fresh(now) {
                Suspicion::None
            } else {
                Suspicion::Unknown
            }
        })
    }

    /// Whether the key is known to have copies, or to be about to.
    fn is_known(&self, key: &EntityKey) -> bool {
        self.listed.load_full().until.contains_key(key) || self.table.load_full().contains_key(key)
    }

    /// Every key that is.
    fn known(&self) -> HashSet<EntityKey> {
        let (listed, table) = (self.listed.load_full(), self.table.load_full());
        listed.until.keys().chain(table.keys()).cloned().collect()
    }

    /// From now on this process reads no copy of the key until it is made anew; it is removed before that.
    fn doubt(&self, key: &EntityKey) {
        lock(&self.doubtful).insert(key.clone());
        self.fence(key);
    }

    /// The same, of a key that this process may read copies of.
    fn doubt_known(&self, key: &EntityKey) {
        if self.is_known(key) {
            self.doubt(key);
        }
    }

    /// From now on this process reads no copy of the key that was there before.
    fn fence(&self, key: &EntityKey) {
        if let Some(spread) = self.table.load_full().get(key) {
            spread.fence();
        }
    }

    /// What is to be announced: our keys, and for how long.
    pub(super) fn announcements(&self) -> Vec<(EntityKey, Duration)> {
        let table = self.table.load_full();
        table.values().map(|spread| (spread.key.clone(), spread.life + GRACE)).collect()
    }

    /// Takes the list, as it was read from `began` on; what was announced with that reading is in it. Keys that it has no more keep
    /// their time: a list that Redis lost forgets nothing here.
    pub(super) fn take_list(
        &self,
        (began, now): (Instant, Instant),
        entries: Vec<(EntityKey, Duration)>,
        announced: &[(EntityKey, Duration)],
    ) {
        self.listed.rcu(|old| {
            let mut listed = Listed { began: Some(began), until: old.until.clone() };
            listed.until.retain(|_, until| now < *until);
            // What is left is as of some time between the two; the later one is on the safe side.
            entries.iter().for_each(|(key, left)| listed.note(key, now + *left));
            listed
        });
        let mut since = lock(&self.announced);
        since.retain(|key, _| announced.iter().any(|(announced, _)| announced == key));
        for (key, _) in announced {
            since.entry(key.clone()).or_insert(now);
        }
    }

    /// The key may have copies until then, whatever the list says.
    fn learn(&self, key: &EntityKey, until: Instant) {
        self.listed.rcu(|old| {
            let mut listed = Listed::clone(old);
            listed.note(key, until);
            listed
        });
    }

    /// Whether a copy of the key may be made.
    fn may_be_made(&self, key: &EntityKey, now: Instant) -> bool {
        let renewed = self.listed.load_full().began;
        let is_renewed = renewed.is_some_and(|began| now.saturating_duration_since(began) < UNRENEWED);
        let noticed =
            lock(&self.announced).get(key).is_some_and(|since| now.saturating_duration_since(*since) >= NOTICE);
        is_renewed && noticed && !lock(&self.doubtful).contains(key)
    }

    /// How many copies of a key are read.
    pub(crate) fn count(&self, key: &EntityKey, now: Instant) -> usize {
        self.table.load_full().get(key).map_or(0, |spread| spread.good(self.mark(now)))
    }

    /// How many copies of all keys are read.
    pub(crate) fn count_all(&self, now: Instant) -> usize {
        self.table.load_full().values().map(|spread| spread.good(self.mark(now))).sum()
    }

    /// A point in time as a number above zero.
    fn mark(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn instant(&self, mark: u64) -> Instant {
        self.origin + Duration::from_nanos(mark.saturating_sub(1))
    }
}

/// By view, how long a copy of a row of its is good: as long as L1 keeps one, on or off; `None`: `write_through` rows are read from
/// their keys.
pub(super) fn lives(features: &config::Features) -> Box<[Option<Duration>]> {
    let life = |view: &Arc<View>| match view.consistency {
        Consistency::Ttl => Some(view.ttl.min(features.l1.ttl)),
        Consistency::Immutable => Some(features.l1.ttl),
        Consistency::WriteThrough => None,
    };
    features.views.iter().map(life).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that it guards is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
