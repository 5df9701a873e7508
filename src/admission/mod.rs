//! Stages 1 and 5: the door, which refuses what its tier cannot make, and the slot that an attempt at the model holds.
//!
//! Two steps, so that looking features up holds no slot. Invariants: a slot belongs to one [`Permit`] and is free again when
//! that is dropped, wherever it went (a streamed body takes it along); within a tier, slots are given in the order of asking;
//! at most `queue` requests of a tier wait. It does not choose the tier: the plan does.

mod queue;
mod shares;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use self::{
    queue::{Gate, Waiter},
    shares::shares,
};
use crate::{
    config::{self, Config},
    infer::{Deadline, Error, InferRequest, Kind, ModelId, Plan, TierId},
    resilience::bulkhead::{Bulkhead, TooWide},
    telemetry::handles::admission::{Aliases, QueueDepth, ShedReason, TierHandles},
};

/// What a refused caller is told to wait at least: `retry-after` has whole seconds.
const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The door of all tiers. Cheap to clone; clones are the same door.
#[derive(Clone)]
pub struct Door(Arc<House>);

/// What the door, its tickets and its permits share.
struct House {
    gate: Gate,
    tiers: Box<[Tier]>,
}

struct Tier {
    name: Arc<str>,
    /// Slots it may hold at most.
    slots: u32,
    queue: u32,
    queue_timeout: Duration,
    handles: TierHandles,
}

impl Door {
    /// Divides the configured slots among the tiers.
    ///
    /// # Errors
    ///
    /// [`TooWide`] where the tiers' maxima do not fit one word.
    pub fn new(config: &Config) -> Result<Self, TooWide> {
        let (shares, shared) = shares(&config.capacity, &config.tiers);
        let tiers = config.tiers.iter().zip(&shares).map(|(tier, share)| Tier::new(tier, share.max));
        let aliases = if config.metrics_aliases { Aliases::On } else { Aliases::Off };
        let depths = config.models.iter().map(|model| QueueDepth::new(&model.name, aliases));
        let gate = Gate::new(Bulkhead::new(&shares, shared)?, depths.collect());
        Ok(Self(Arc::new(House { gate, tiers: tiers.collect() })))
    }

    /// Lets a request in, or refuses it because no slot and no place in its tier's queue is free.
    ///
    /// # Errors
    ///
    /// [`Kind::Shed`] with `retry_after`.
    pub fn enter(&self, _request: &InferRequest, plan: &Plan) -> Result<Ticket, Error> {
        let tier = &self.0.tiers[plan.tier.index()];
        if !self.0.gate.has_room(plan.tier) && self.0.gate.waiting(plan.tier) >= tier.queue {
            return Err(tier.refuse(ShedReason::QueueFull));
        }
        Ok(Ticket { house: Arc::clone(&self.0), tier: plan.tier, model: plan.model, deadline: plan.deadline })
    }

    /// Sets the gauges of slots; to be called before a scrape.
    pub fn observe(&self) {
        for (position, tier) in self.0.tiers.iter().enumerate() {
            tier.handles.slots(tier.slots, self.0.gate.in_use(position));
        }
    }

    /// Each tier's name, the slots it may hold, holds, and how many requests wait, highest tier first.
    pub fn tiers(&self) -> impl Iterator<Item = TierState<'_>> {
        self.0.tiers.iter().enumerate().map(|(position, tier)| TierState {
            name: &tier.name,
            slots: tier.slots,
            in_use: self.0.gate.in_use(position),
            waiting: self.0.gate.waiting(TierId(position as u32)),
        })
    }
}

/// A tier at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierState<'a> {
    /// The configured name.
    pub name: &'a str,
    /// Slots it may hold at most.
    pub slots: u32,
    /// Slots it holds.
    pub in_use: u32,
    /// Requests that wait for one.
    pub waiting: u32,
}

impl Tier {
    fn new(tier: &config::Tier, slots: u32) -> Self {
        Self {
            name: Arc::clone(&tier.name),
            slots,
            queue: tier.queue,
            queue_timeout: tier.queue_timeout,
            handles: TierHandles::new(&tier.name),
        }
    }

    fn refuse(&self, reason: ShedReason) -> Error {
        self.handles.shed(reason);
        let Self { name, slots, queue, queue_timeout, .. } = self;
        let of = format!("tier {name} may use {slots} slots and a queue of {queue}");
        let shed =
            |text: String| Error::new(Kind::Shed, text).with_retry_after((*queue_timeout).max(LEAST_RETRY_AFTER));
        match reason {
            ShedReason::QueueFull => shed(format!("too many requests: {of}, and both are full")),
            ShedReason::QueueTimeout => shed(format!(
                "too many requests: {of}, and no slot came free within its queue_timeout of {queue_timeout:?}"
            )),
            ShedReason::Deadline => {
                Error::new(Kind::DeadlineExceeded, format!("the deadline passed before a slot came free: {of}"))
            }
        }
    }
}

/// Past the door, no slot yet.
pub struct Ticket {
    house: Arc<House>,
    tier: TierId,
    model: ModelId,
    deadline: Deadline,
}

impl Ticket {
    /// Takes a slot of the ticket's tier, in turn, waiting no longer than the tier's `queue_timeout` and the deadline.
    /// Where a slot is free and nobody waits, this is one compare-and-swap, allocates nothing and looks at no clock.
    ///
    /// # Errors
    ///
    /// [`Kind::Shed`] where the queue is full or the wait was too long, [`Kind::DeadlineExceeded`] past the deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue; a slot that was just given goes to the next in turn.
    pub async fn slot(self) -> Result<Permit, Error> {
        let Self { house, tier, model, deadline } = self;
        if house.gate.acquire(tier) {
            return Ok(Permit { house, tier, waited_until: None });
        }
        house.wait(tier, model, deadline).await?;
        Ok(Permit { house, tier, waited_until: Some(Instant::now()) })
    }
}

impl House {
    async fn wait(&self, tier: TierId, model: ModelId, deadline: Deadline) -> Result<(), Error> {
        let limits = &self.tiers[tier.index()];
        let patience = Deadline::after(Instant::now(), limits.queue_timeout);
        let reason = if deadline < patience { ShedReason::Deadline } else { ShedReason::QueueTimeout };
        let queued = self.gate.queue(Waiter { tier, model }, limits.queue);
        let turn = queued.ok_or_else(|| limits.refuse(ShedReason::QueueFull))?;
        match tokio::time::timeout_at(deadline.earliest(patience).instant(), turn.taken()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(limits.refuse(reason)),
        }
    }
}

/// A slot of a tier. Dropping it gives the slot to the next in turn.
pub struct Permit {
    house: Arc<House>,
    tier: TierId,
    waited_until: Option<Instant>,
}

impl Permit {
    /// When the slot came free; `None`: one was free.
    pub(crate) const fn waited_until(&self) -> Option<Instant> {
        self.waited_until
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.house.gate.release(self.tier);
    }
}

#[cfg(test)]
mod tests;
