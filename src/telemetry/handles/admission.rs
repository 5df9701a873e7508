//! What the door counts: slots, refusals, waiting requests.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// Why a request was refused at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedReason {
    /// Every slot the tier may use was taken and its queue was full.
    QueueFull,
    /// Every slot the tier may use was taken, and the request, which had waited for another model before, was not to wait again.
    NoSlot,
    /// No slot came free within the tier's `queue_timeout`.
    QueueTimeout,
    /// Too little of the request's deadline was left for the model, at the door or while it waited.
    Deadline,
    /// It had a slot, and the pool had as many requests as it takes.
    Limit,
}

impl ShedReason {
    const ALL: [Self; 5] = [Self::QueueFull, Self::NoSlot, Self::QueueTimeout, Self::Deadline, Self::Limit];

    const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::NoSlot => "no_slot",
            Self::QueueTimeout => "queue_timeout",
            Self::Deadline => "deadline",
            Self::Limit => "limit",
        }
    }
}

/// One tier's handles.
pub struct TierHandles {
    slots: Gauge,
    in_use: Gauge,
    shed: [Counter; ShedReason::ALL.len()],
}

impl TierHandles {
    /// Handles for the tier of that name.
    #[must_use]
    pub fn new(tier: &str) -> Self {
        let tier = tier.to_owned();
        Self {
            slots: gauge!(names::TIER_SLOTS, "tier" => tier.clone()),
            in_use: gauge!(names::TIER_SLOTS_IN_USE, "tier" => tier.clone()),
            shed: ShedReason::ALL
                .map(|reason| counter!(names::SHED, "tier" => tier.clone(), "reason" => reason.name())),
        }
    }

    /// Sets how many slots the tier may use at most, and how many it uses.
    pub fn slots(&self, most: u32, in_use: u32) {
        self.slots.set(most);
        self.in_use.set(in_use);
    }

    /// Counts a refused request.
    pub fn shed(&self, reason: ShedReason) {
        self.shed[reason as usize].increment(1);
    }
}

/// How much is asked of a model.
pub struct Demand(Gauge);

impl Demand {
    /// The handle for the model of that name.
    #[must_use]
    pub fn new(model: &str) -> Self {
        Self(gauge!(names::DEMAND, "model" => model.to_owned()))
    }

    /// Sets it, in requests at once.
    pub fn set(&self, demand: f64) {
        self.0.set(demand);
    }
}

/// A pool's adaptive limit.
pub struct PoolLimit(Gauge);

impl PoolLimit {
    /// The handle for the pool of that name.
    #[must_use]
    pub fn new(pool: &str) -> Self {
        Self(gauge!(names::POOL_LIMIT, "pool" => pool.to_owned()))
    }

    /// Sets how many requests it may have at once.
    pub fn set(&self, limit: u32) {
        self.0.set(limit);
    }
}

/// How many requests for one model wait for a slot.
pub struct QueueDepth {
    own: Gauge,
    alias: Option<Gauge>,
}

/// Whether a metric is also exported under the name that others' autoscalers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aliases {
    /// Under both names.
    On,
    /// Under Weir's name only.
    Off,
}

impl QueueDepth {
    /// The handle for the model of that name.
    #[must_use]
    pub fn new(model: &str, aliases: Aliases) -> Self {
        let depth = Self {
            own: gauge!(names::QUEUE_DEPTH, "model" => model.to_owned()),
            alias: (aliases == Aliases::On).then(|| gauge!(names::QUEUE_DEPTH_ALIAS, "model" => model.to_owned())),
        };
        depth.set(0);
        depth
    }

    /// Sets how many wait.
    pub fn set(&self, waiting: u32) {
        self.own.set(waiting);
        if let Some(alias) = &self.alias {
            alias.set(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn the_alias_says_the_same_and_only_where_it_is_on() {
        for (aliases, expected) in [(Aliases::On, true), (Aliases::Off, false)] {
            let (depth, scrape) = scratch(|| QueueDepth::new("m", aliases));
            depth.set(4);
            let text = scrape.render();
            assert!(text.contains("\nweir_inference_queue_depth{model=\"m\"} 4\n"));
            assert_eq!(text.contains("\nkserve_inference_queue_depth{model=\"m\"} 4\n"), expected);
        }
    }

    #[test]
    fn refusals_are_told_apart_by_reason() {
        let (handles, scrape) = scratch(|| TierHandles::new("high"));
        ShedReason::ALL.into_iter().for_each(|reason| handles.shed(reason));
        let text = scrape.render();
        for reason in ["queue_full", "queue_timeout", "deadline", "limit"] {
            assert!(
                text.contains(&format!("weir_requests_shed_total{{tier=\"high\",reason=\"{reason}\"}} 1")),
                "{text}"
            );
        }
    }
}
