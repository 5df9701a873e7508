//! Slots and the queues before them.
//!
//! While nobody waits, only the bulkhead's word is touched. Whoever finds no slot queues under a lock and looks once more;
//! whoever frees a slot looks for waiters afterwards. Both sides write first and read then, sequentially consistent, so
//! one of them sees the other and no slot stays free beside a waiter who may have it (`nobody_is_forgotten_under_contention`
//! hangs without either half). A freed slot goes to the highest tier that waits and may have one, and while one waits for a
//! shared slot, lower tiers' newcomers take none; reservations keep that from starving them.
//!
//! Within a tier it is first come, first served. Earliest deadline first was measured and left out (`docs/benchmarks.md`): it
//! gains nothing where slots are few enough, and where they are not, it spends them on those who are about to be late.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::waits::{Left, Waits};
use crate::{
    infer::{ModelId, TierId},
    resilience::bulkhead::Bulkhead,
    telemetry::handles::admission::QueueDepth,
};

/// The bulkhead and who waits for it.
pub(super) struct Gate {
    bulkhead: Bulkhead,
    /// How many wait, by tier: written under the lock, read without.
    waiting: Box<[AtomicU32]>,
    /// How the queues move, by tier.
    waits: Box<[Waits]>,
    queues: Mutex<Queues>,
}

struct Queues {
    next: u64,
    /// By tier, in the order of asking, so in the order of `number`.
    tiers: Box<[VecDeque<Entry>]>,
    /// How many wait, by model, beside what shows it.
    models: Box<[(u32, QueueDepth)]>,
}

struct Entry {
    number: u64,
    model: ModelId,
    since: Instant,
    turn: oneshot::Sender<()>,
}

/// Who waits for what.
#[derive(Clone, Copy)]
pub(super) struct Waiter {
    pub(super) tier: TierId,
    pub(super) model: ModelId,
    /// Since when.
    pub(super) since: Instant,
}

impl Gate {
    pub(super) fn new(bulkhead: Bulkhead, models: Vec<QueueDepth>, now: Instant) -> Self {
        let tiers = bulkhead.tiers();
        Self {
            bulkhead,
            waiting: (0..tiers).map(|_| AtomicU32::new(0)).collect(),
            waits: (0..tiers).map(|_| Waits::new(now)).collect(),
            queues: Mutex::new(Queues {
                next: 0,
                tiers: (0..tiers).map(|_| VecDeque::new()).collect(),
                models: models.into_iter().map(|depth| (0, depth)).collect(),
            }),
        }
    }

    /// Takes a slot without waiting, behind nobody's back.
    pub(super) fn acquire(&self, tier: TierId) -> bool {
        if self.waiting(tier) > 0 {
            false
        } else if (0..tier.index()).any(|higher| self.wants_shared(higher)) {
            self.bulkhead.acquire_reserved(tier.index())
        } else {
            self.bulkhead.acquire(tier.index())
        }
    }

    /// Whether the next shared slot is this tier's: one of its requests waits that may have it.
    fn wants_shared(&self, tier: usize) -> bool {
        self.waiting[tier].load(SeqCst) > 0 && !self.bulkhead.is_at_most(tier)
    }

    /// Gives a slot back, or on to whoever waits.
    pub(super) fn release(&self, tier: TierId) {
        self.bulkhead.release(tier.index());
        if self.waiting.iter().any(|waiting| waiting.load(SeqCst) > 0) {
            self.hand_out(&mut self.lock());
        }
    }

    /// Queues behind `most` - 1 others at most; `None` where the queue is full.
    pub(super) fn queue(&self, waiter: Waiter, most: u32) -> Option<Turn<'_>> {
        let mut queues = self.lock();
        if queues.tiers[waiter.tier.index()].len() >= most as usize {
            return None;
        }
        let (turn, given) = oneshot::channel();
        let number = queues.next;
        queues.next += 1;
        let Waiter { tier, model, since } = waiter;
        queues.tiers[tier.index()].push_back(Entry { number, model, since, turn });
        queues.count(waiter.model, 1);
        self.publish(&queues, waiter.tier);
        self.hand_out(&mut queues);
        Some(Turn { gate: self, tier: waiter.tier, number, given: Some(given) })
    }

    pub(super) fn has_room(&self, tier: TierId) -> bool {
        self.bulkhead.has_room(tier.index())
    }

    pub(super) fn waiting(&self, tier: TierId) -> u32 {
        self.waiting[tier.index()].load(SeqCst)
    }

    pub(super) fn in_use(&self, tier: usize) -> u32 {
        self.bulkhead.in_use(tier)
    }

    pub(super) fn room(&self, tier: usize) -> u32 {
        self.bulkhead.room(tier)
    }

    pub(super) fn borrowed(&self, tier: usize) -> u32 {
        self.bulkhead.borrowed(tier)
    }

    /// The mean wait of those who left the tier's queue in the last second.
    pub(super) fn mean_wait(&self, tier: TierId, now: Instant) -> Option<Duration> {
        self.waits[tier.index()].mean(now)
    }

    /// How long it will be until everybody who waits in the tier now, and one more, has a slot.
    pub(super) fn moves_on_in(&self, tier: TierId, now: Instant) -> Option<Duration> {
        self.waits[tier.index()].serves_in(self.waiting(tier).saturating_add(1), now)
    }

    /// Gives free slots to those in front, highest tier first.
    fn hand_out(&self, queues: &mut Queues) {
        for tier in 0..queues.tiers.len() {
            while !queues.tiers[tier].is_empty() && self.bulkhead.acquire(tier) {
                let Some(entry) = queues.tiers[tier].pop_front() else { break };
                queues.count(entry.model, -1);
                self.publish(queues, TierId(tier as u32));
                self.note(tier, &entry, Left::Served);
                // A waiter that is leaving finds itself gone from the queue and gives the slot on.
                let _leaving = entry.turn.send(());
            }
        }
    }

    /// Takes a waiter out of the queue; `false` where it was given a slot before.
    fn withdraw(&self, tier: TierId, number: u64) -> bool {
        let mut queues = self.lock();
        let queue = &mut queues.tiers[tier.index()];
        let found = queue.binary_search_by_key(&number, |entry| entry.number).ok().and_then(|at| queue.remove(at));
        if let Some(entry) = &found {
            queues.count(entry.model, -1);
            self.publish(&queues, tier);
            self.note(tier.index(), entry, Left::InVain);
        }
        found.is_some()
    }

    fn note(&self, tier: usize, entry: &Entry, left: Left) {
        let now = Instant::now();
        self.waits[tier].note(left, now.saturating_duration_since(entry.since), now);
    }

    fn publish(&self, queues: &Queues, tier: TierId) {
        self.waiting[tier.index()].store(queues.tiers[tier.index()].len() as u32, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn count(&mut self, model: ModelId, change: i32) {
        let (waiting, depth) = &mut self.models[model.index()];
        *waiting = waiting.saturating_add_signed(change);
        depth.set(*waiting);
    }
}

/// A place in the queue. Dropping it leaves the queue, or gives on the slot that came meanwhile.
pub(super) struct Turn<'a> {
    gate: &'a Gate,
    tier: TierId,
    number: u64,
    /// `None` once the slot is the caller's.
    given: Option<oneshot::Receiver<()>>,
}

impl Turn<'_> {
    /// Waits for a slot, which is the caller's to give back from then on.
    pub(super) async fn taken(mut self) {
        if let Some(given) = &mut self.given {
            // The sender is dropped by `withdraw` alone, which only this turn calls.
            given.await.expect("a queued turn keeps its sender");
        }
        self.given = None;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.given.is_some() && !self.gate.withdraw(self.tier, self.number) {
            self.gate.release(self.tier);
        }
    }
}
