//! A slot of a tier, and the places at pools that go with it.

use tokio::time::Instant;

use super::{Inside, limit::Limit, tier::Tier};
use crate::{
    infer::{Error, PoolId},
    telemetry::handles::admission::ShedReason,
};

/// Whose a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The tier's own: it has one of the places at the tier's pool.
    Own,
    /// Borrowed: the tier's pool has as many of its requests as the tier has reserved.
    Borrowed,
}

/// A slot of a tier. Dropping it gives the slot to the next in turn.
pub struct Permit {
    inside: Inside,
    /// `Some(Own)` is owed a place back.
    slot: Option<Slot>,
    /// The pool whose limit counts it.
    counted_at: Option<PoolId>,
    waited_until: Option<Instant>,
}

impl Permit {
    pub(super) const fn new(inside: Inside, waited_until: Option<Instant>) -> Self {
        Self { inside, slot: None, counted_at: None, waited_until }
    }

    /// When the slot came free; `None`: one was free.
    pub(crate) const fn waited_until(&self) -> Option<Instant> {
        self.waited_until
    }

    /// Whose the slot is, for a request that may run on the burst pool. Asked for the first time, it takes a place at the tier's
    /// own pool if there is one: so that pool has as many of the tier's requests as it has reserved before any runs elsewhere,
    /// and a request within the reservation never does (`loom_within_the_reservation_is_within_the_quota`).
    pub(crate) fn slot(&mut self) -> Slot {
        let taken = || if self.tier().own.enter() { Slot::Own } else { Slot::Borrowed };
        let slot = self.slot.unwrap_or_else(taken);
        self.slot = Some(slot);
        slot
    }

    /// Whether the pool's limit has room for it.
    pub(crate) fn fits(&self, pool: PoolId) -> bool {
        self.limit(pool).is_none_or(Limit::has_room)
    }

    /// Counts the request at the pool that it is about to ask.
    ///
    /// # Errors
    ///
    /// [`crate::infer::Kind::Shed`] where that has as many as its adaptive limit allows.
    pub(crate) fn count_at(&mut self, pool: PoolId, now: Instant) -> Result<(), Error> {
        let Some(limit) = self.limit(pool) else { return Ok(()) };
        if !limit.enter() {
            return Err(self.inside.house.refuse(self.inside.asked, ShedReason::Limit, now));
        }
        self.counted_at = Some(pool);
        Ok(())
    }

    fn tier(&self) -> &Tier {
        &self.inside.house.tiers[self.inside.asked.tier.index()]
    }

    fn limit(&self, pool: PoolId) -> Option<&Limit> {
        self.inside.house.limits[pool.index()].as_ref()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(limit) = self.counted_at.and_then(|pool| self.limit(pool)) {
            limit.leave();
        }
        // Before the slot: whoever gets that finds the place.
        if self.slot == Some(Slot::Own) {
            self.tier().own.leave();
        }
        self.inside.house.gate.release(self.inside.asked.tier);
    }
}
