//! Where the copies of a hot key are, and which of them may be read.
//!
//! With `M` masters and a key of share `s`, `p` places (the key itself is one) take `s/p` each, where an even spread would be `s/M`.
//! What a place has too much is to be no more than a twentieth of a master's share: `s/p - s/M <= 1/20M`, hence
//! `p >= s·M / (s + 1/20)`, two at least. So half of all reads go to all three of three masters, a tenth to two.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Copies, Table, lock, name, nanos};
use crate::{
    config,
    features::redis::{slots::Slot, topology::Topology},
    infer::EntityKey,
};

/// What a place may have beyond an even spread, as a part of a master's share.
const UNEVEN: f64 = 0.05;

/// A hot key.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    pub(crate) key: EntityKey,
    /// Of all reads.
    pub(crate) share: f64,
    /// How long a copy is good, at most.
    pub(crate) life: Duration,
}

/// A hot key's copies.
#[derive(Debug)]
pub(super) struct Spread {
    pub(super) key: EntityKey,
    pub(super) life: Duration,
    pub(super) places: Box<[Place]>,
    /// Moves with every invalidation.
    epoch: AtomicU32,
    /// Until then it is of no use to try again; a mark.
    pub(super) not_before: AtomicU64,
}

/// One copy.
#[derive(Debug)]
pub(super) struct Place {
    number: u32,
    master: Arc<str>,
    pub(super) name: Box<[u8]>,
    /// When the key was read for it, at the latest, as a mark; 0: it is not there, as far as known.
    pub(super) made: AtomicU64,
    /// Whether a copy that another gateway made will do: not where its master is another than before, which may have lost its removal.
    pub(super) adopts: bool,
}

impl Spread {
    /// How many copies may be read at a mark.
    pub(super) fn good(&self, now: u64) -> usize {
        self.places.iter().filter(|place| place.is_good(now, nanos(self.life))).count()
    }

    /// The place to read from, of those that are good for `life` at a mark, and when it was made; `None`: the key itself.
    pub(super) fn choose(&self, now: u64, life: Duration, random: u32) -> Option<(usize, u64)> {
        let life = nanos(life.min(self.life));
        let mut good = smallvec::SmallVec::<[(usize, u64); 8]>::new();
        for (at, place) in self.places.iter().enumerate() {
            let made = place.made.load(Acquire);
            if is_good(made, now, life) {
                good.push((at, made));
            }
        }
        let turn = random as usize % (good.len() + 1);
        turn.checked_sub(1).map(|turn| good[turn])
    }

    /// None of its copies is good any more.
    pub(super) fn fence(&self) {
        self.epoch.fetch_add(1, AcqRel);
        self.places.iter().for_each(|place| place.made.store(0, Release));
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Acquire)
    }

    /// A copy is there, unless there was an invalidation since `epoch`.
    pub(super) fn found(&self, place: usize, made: u64, epoch: u32) {
        let place = &self.places[place];
        place.made.store(made, Release);
        if self.epoch() != epoch {
            // Another that was found since is found again.
            place.made.store(0, Release);
        }
    }

    /// A copy that was made then is not there.
    pub(super) fn lost(&self, place: usize, made: u64) {
        // Made anew meanwhile: it stays.
        let _ = self.places[place].made.compare_exchange(made, 0, AcqRel, Relaxed);
    }

    fn new(hot: &Hot, chosen: Vec<(u32, Arc<str>)>, redis_key: &[u8], old: Option<&Self>) -> Self {
        let place = |(number, master): (u32, Arc<str>)| {
            let before = old.and_then(|old| old.places.iter().find(|place| place.number == number));
            let same = before.filter(|place| place.master == master);
            Place {
                number,
                name: name::name(redis_key, number).into(),
                made: AtomicU64::new(same.map_or(0, |place| place.made.load(Acquire))),
                adopts: before.is_none() || same.is_some_and(|place| place.adopts),
                master,
            }
        };
        Self {
            key: hot.key.clone(),
            life: hot.life,
            places: chosen.into_iter().map(place).collect(),
            epoch: AtomicU32::new(0),
            not_before: AtomicU64::new(0),
        }
    }

    fn is_like(&self, chosen: &[(u32, Arc<str>)], life: Duration) -> bool {
        let places = self.places.iter().map(|place| (place.number, &place.master));
        self.life == life && places.eq(chosen.iter().map(|(number, master)| (*number, master)))
    }
}

impl Place {
    fn is_good(&self, now: u64, life: u64) -> bool {
        is_good(self.made.load(Acquire), now, life)
    }
}

const fn is_good(made: u64, now: u64, life: u64) -> bool {
    made > 0 && now < made.saturating_add(life)
}

impl Copies {
    /// Takes which keys are hot, and chooses where their copies lie. A key's copies grow with its share, and do not shrink while it
    /// is hot.
    pub(in crate::features::redis) fn spread(
        &self,
        hot: &[Hot],
        redis_key: impl Fn(&EntityKey) -> Vec<u8>,
        topology: &Topology,
    ) {
        let old = self.table.load_full();
        let (mut table, mut replaced) = (Table::new(), Vec::new());
        for hot in hot {
            let (key, before) = (redis_key(&hot.key), old.get(&hot.key));
            let held = before.map_or(0, |before| before.places.len());
            let wanted = wanted(self.many, hot.share, topology.masters.len()).max(held);
            let chosen = choose(topology, Slot::of(&key), wanted);
            if chosen.is_empty() {
                continue;
            }
            let spread = match before {
                Some(before) if before.is_like(&chosen, hot.life) => Arc::clone(before),
                _ => {
                    let epoch = before.map(|before| (Arc::clone(before), before.epoch()));
                    let spread = Arc::new(Spread::new(hot, chosen, &key, before.map(|before| &**before)));
                    replaced.extend(epoch.map(|epoch| (epoch, Arc::clone(&spread))));
                    spread
                }
            };
            table.insert(hot.key.clone(), spread);
        }
        self.table.store(Arc::new(table));
        // What was invalidated while it was copied over is so here, too.
        for ((before, epoch), spread) in replaced {
            if before.epoch() != epoch {
                spread.fence();
            }
        }
        self.forget_cold();
    }

    /// No key is hot, or there is nowhere to copy it to.
    pub(in crate::features::redis) fn spread_none(&self) {
        self.table.store(Arc::default());
        self.forget_cold();
    }

    /// Of keys that are not hot nothing is read, so nothing is in doubt, once they are not listed either.
    fn forget_cold(&self) {
        let known = self.known();
        lock(&self.doubtful).retain(|key| known.contains(key));
    }

    /// The hot keys' copies.
    pub(super) fn spreads(&self) -> Vec<Arc<Spread>> {
        self.table.load_full().values().cloned().collect()
    }

    /// The hot keys' copies, by key; `None` where no key is hot.
    pub(super) fn hot(&self) -> Option<Arc<HashMap<EntityKey, Arc<Spread>>>> {
        let table = self.table.load_full();
        (!table.is_empty()).then_some(table)
    }

    /// When something is to be done next for copies that are there.
    pub(super) fn next_renewal(&self, now: Instant) -> Option<Instant> {
        let renewal = |spread: &Arc<Spread>| {
            let made = spread.places.iter().map(|place| place.made.load(Acquire)).filter(|made| *made > 0).min()?;
            Some((self.instant(made) + spread.life / 2).max(self.instant(spread.not_before.load(Relaxed))))
        };
        self.table.load_full().values().filter_map(renewal).min().map(|due| due.max(now))
    }
}

/// Copies of a key of that share, on as many masters.
fn wanted(many: config::Copies, share: f64, masters: usize) -> usize {
    let others = masters.saturating_sub(1);
    match many {
        config::Copies::Off => 0,
        config::Copies::Number(count) => others.min(count as usize),
        config::Copies::Auto => {
            let masters = masters as f64;
            let places = (share * masters / (share + UNEVEN)).ceil() as usize;
            others.min(places.max(2) - 1).min(config::MOST_COPIES as usize)
        }
    }
}

/// The numbers of as many copies of a key in a slot, each on a master of its own, and those masters.
fn choose(topology: &Topology, own: Slot, wanted: usize) -> Vec<(u32, Arc<str>)> {
    let mut chosen: Vec<(u32, Arc<str>)> = Vec::with_capacity(wanted);
    let own_master = topology.master(own);
    for number in name::numbers() {
        if chosen.len() == wanted {
            break;
        }
        let Some(master) = topology.master(name::slot(own, number)) else { continue };
        if Some(master) != own_master && !chosen.iter().any(|(_, taken)| taken == master) {
            chosen.push((number, Arc::clone(master)));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_grow_with_the_share_up_to_one_a_master() {
        let auto = |share, masters| wanted(config::Copies::Auto, share, masters);
        assert_eq!([0.5, 0.2, 0.1, 0.01].map(|share| auto(share, 3)), [2, 2, 1, 1]);
        assert_eq!([0.5, 0.1, 0.02, 0.01].map(|share| auto(share, 100)), [31, 31, 28, 16]);
        assert_eq!([auto(0.5, 1), auto(0.5, 2), auto(1.0, 3)], [0, 1, 2]);
        assert_eq!(wanted(config::Copies::Number(7), 0.01, 3), 2, "more would share a master");
        assert_eq!([wanted(config::Copies::Off, 0.9, 9), wanted(config::Copies::Number(1), 0.9, 9)], [0, 1]);
    }
}
