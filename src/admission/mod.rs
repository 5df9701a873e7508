//! Stages 1 and 5: the door, which refuses what its tier cannot make, and the slot that an attempt at the model holds.
//!
//! Two steps, so that looking features up holds no slot. Invariants: a slot belongs to one [`Permit`] and is free again when
//! that is dropped, wherever it went (a streamed body takes it along); within a tier, slots are given in the order of asking,
//! and shared ones to the highest tier that waits; at most `queue` requests of a tier wait; none waits longer than leaves it
//! half of its model's answers' time. It does not choose the tier or the pool: the plan does.

mod limit;
mod model;
mod permit;
mod queue;
mod shares;
mod tier;
mod waits;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub(crate) use self::permit::Slot;
use self::{
    limit::Limit,
    model::{Inside, Model, Time},
    queue::{Gate, Waiter},
    shares::shares,
    tier::Tier,
};
pub use self::{permit::Permit, tier::TierState};
use crate::{
    config::{self, Config},
    infer::{Deadline, Error, InferRequest, Method, ModelId, Plan, PoolId, Queue, TierId},
    resilience::bulkhead::{Bulkhead, TooWide},
    telemetry::handles::admission::{Aliases, QueueDepth, ShedReason},
};

/// The door of all tiers. Cheap to clone; clones are the same door.
#[derive(Clone)]
pub struct Door(Arc<House>);

/// What the door, its tickets and its permits share.
struct House {
    gate: Gate,
    tiers: Box<[Tier]>,
    models: Box<[Model]>,
    /// By pool.
    limits: Box<[Option<Limit>]>,
}

impl Door {
    /// Divides the configured slots among the tiers.
    ///
    /// # Errors
    ///
    /// [`TooWide`] where the tiers' maxima do not fit one word.
    pub fn new(config: &Config) -> Result<Self, TooWide> {
        let now = Instant::now();
        let (shares, shared) = shares(&config.capacity, &config.tiers);
        let tiers = config.tiers.iter().zip(&shares).map(|(tier, share)| Tier::new(tier, *share));
        let aliases = if config.metrics_aliases { Aliases::On } else { Aliases::Off };
        let depths = config.models.iter().map(|model| QueueDepth::new(&model.name, aliases));
        let limit = |pool: &config::Pool| pool.limit.is_adaptive().then(|| Limit::new(pool, &config.capacity, now));
        Ok(Self(Arc::new(House {
            gate: Gate::new(Bulkhead::new(&shares, shared)?, depths.collect(), now),
            tiers: tiers.collect(),
            models: config.models.iter().map(|model| Model::new(&model.name, now)).collect(),
            limits: config.pools.iter().map(limit).collect(),
        })))
    }

    /// Lets a request in, or refuses it: no slot and no place in its tier's queue is free, or there is less time left than half
    /// of the model's answers take.
    ///
    /// # Errors
    ///
    /// [`crate::infer::Kind::Shed`] with `retry_after`.
    pub fn enter(&self, request: &InferRequest, plan: &Plan, now: Instant) -> Result<Ticket, Error> {
        let house = &self.0;
        let asked = RequestClass { tier: plan.tier, model: plan.model, method: request.method };
        let time = house.in_time(asked, plan.model_by, now)?;
        let gate = &house.gate;
        if !gate.has_room(plan.tier) && gate.waiting(plan.tier) >= house.tiers[plan.tier.index()].queue {
            let reason = if plan.queue == Queue::Skips { ShedReason::NoSlot } else { ShedReason::QueueFull };
            return Err(house.refuse(asked, reason, now));
        }
        let inside = Inside::new(Arc::clone(house), asked);
        Ok(Ticket { inside, model_by: plan.model_by, queue: plan.queue, time })
    }

    /// Learns that a model's answer took `took`, at the plan's pool, and was there at `now`.
    pub fn answered(&self, plan: &Plan, method: Method, took: Duration, now: Instant) {
        self.0.models[plan.model.index()].answers(method).median.observe(took, now);
        self.learn(plan.pool, took, now);
    }

    /// Learns that a pool did not answer in time.
    pub fn given_up(&self, plan: &Plan, after: Duration, now: Instant) {
        self.learn(plan.pool, after, now);
    }

    /// Learns that a pool took no more: a request that had its slot was refused all the same.
    pub fn limited(&self, plan: &Plan, now: Instant) {
        self.0.count(plan.tier, plan.model, ShedReason::Limit, now);
    }

    /// Learns that something else answered in a model's place, or nobody, without taking the model's time or a refusal here.
    pub fn passed_over(&self, model: ModelId, now: Instant) {
        self.0.models[model.index()].unmet.add(1, now);
    }

    fn learn(&self, pool: PoolId, took: Duration, now: Instant) {
        if let Some(limit) = &self.0.limits[pool.index()] {
            limit.observe(took, now);
        }
    }

    /// Sets the gauges; to be called before a scrape.
    pub fn observe(&self) {
        let now = Instant::now();
        for (position, tier) in self.0.tiers.iter().enumerate() {
            tier.handles.slots(tier.share.max, self.0.gate.in_use(position));
        }
        self.0.models.iter().for_each(|model| model.show(now));
        self.0.limits.iter().flatten().for_each(Limit::show);
    }

    /// Each tier's name, its slots, and who holds them and waits for them, highest tier first.
    pub fn tiers(&self) -> impl Iterator<Item = TierState<'_>> {
        let now = Instant::now();
        self.0.tiers.iter().enumerate().map(move |(position, tier)| tier.state(position, &self.0.gate, now))
    }
}

/// Past the door, no slot yet.
pub struct Ticket {
    inside: Inside,
    /// What comes after it is kept for the ways down.
    model_by: Deadline,
    queue: Queue,
    /// What the door said of it.
    time: Time,
}

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
struct RequestClass {
    tier: TierId,
    model: ModelId,
    method: Method,
}

impl Ticket {
    /// Takes a slot of the ticket's tier, in turn, waiting no longer than the tier's `queue_timeout` and than the deadline
    /// leaves time for the model; without waiting where the plan says so. Where a slot is free and nobody waits, this is one compare-and-swap, allocates nothing and
    /// looks at no clock.
    ///
    /// # Errors
    ///
    /// [`crate::infer::Kind::Shed`] where the queue is full, the wait was too long, or too little time is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue; a slot that was just given goes to the next in turn.
    pub async fn slot(self, now: Instant) -> Result<Permit, Error> {
        let Self { inside, model_by, queue, time } = self;
        let (house, asked) = (&inside.house, inside.asked);
        if time == Time::Enough {
            house.in_time(asked, model_by, now)?;
        }
        if house.gate.acquire(asked.tier) {
            return Ok(Permit::new(inside, None));
        }
        if queue == Queue::Skips {
            return Err(house.refuse(asked, ShedReason::NoSlot, now));
        }
        house.wait(asked, model_by, now).await?;
        Ok(Permit::new(inside, Some(Instant::now())))
    }
}

impl House {
    async fn wait(&self, asked: RequestClass, model_by: Deadline, now: Instant) -> Result<(), Error> {
        let limits = &self.tiers[asked.tier.index()];
        let patience = now + limits.queue_timeout;
        let latest = self.models[asked.model.index()].latest_start(asked.method, model_by, now);
        let reason = if latest < patience { ShedReason::Deadline } else { ShedReason::QueueTimeout };
        let waiter = Waiter { tier: asked.tier, model: asked.model, since: now };
        let turn = self.gate.queue(waiter, limits.queue);
        let turn = turn.ok_or_else(|| self.refuse(asked, ShedReason::QueueFull, now))?;
        // Boxed: few wait, and a timer within would align every request as it is aligned.
        let waited = Box::pin(tokio::time::timeout_at(latest.min(patience), turn.taken())).await;
        waited.map_err(|_| self.refuse(asked, reason, Instant::now()))
    }

    /// Whether there is time for the model.
    fn in_time(&self, asked: RequestClass, model_by: Deadline, now: Instant) -> Result<Time, Error> {
        let left = model_by.remaining(now);
        let time = self.models[asked.model.index()].answers(asked.method).judge(left, now);
        let Time::TooLittle(median) = time else { return Ok(time) };
        self.count(asked.tier, asked.model, ShedReason::Deadline, now);
        Err(self.tiers[asked.tier.index()].too_late(left, median))
    }

    fn refuse(&self, asked: RequestClass, reason: ShedReason, now: Instant) -> Error {
        self.count(asked.tier, asked.model, reason, now);
        let tier = &self.tiers[asked.tier.index()];
        tier.refuse(reason, self.gate.moves_on_in(asked.tier, now))
    }

    fn count(&self, tier: TierId, model: ModelId, reason: ShedReason, now: Instant) {
        self.tiers[tier.index()].handles.shed(reason);
        self.models[model.index()].shed.add(1, now);
    }
}

#[cfg(test)]
mod tests;
