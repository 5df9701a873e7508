//! Tiers and capacity: order, defaults by name, and shares that add up.

use crate::{
    config::{
        Capacity, Config, Tier,
        problems::Path,
        raw::{self, Ratio, Span},
    },
    infer::PoolId,
};

use super::{Check, TIER_NAMES, index};

/// What a tier of that name has where the file says nothing.
struct Defaults {
    rank: usize,
    reserved: f64,
    max: Option<f64>,
    queue: u32,
    queue_timeout: Span,
}

fn defaults(name: &str) -> Defaults {
    let of = |rank, reserved, max, queue, ms| Defaults { rank, reserved, max, queue, queue_timeout: Span::ms(ms) };
    match name {
        "high" => of(0, 0.4, Some(0.5), 64, 50),
        "standard" => of(1, 0.3, Some(0.4), 128, 100),
        "best-effort" => of(2, 0.1, Some(0.3), 256, 250),
        _ => of(3, 0.0, None, 128, 100),
    }
}

/// Shares are sums of decimal fractions that binary ones cannot hold exactly.
const SLACK: f64 = 1e-9;

impl Check<'_> {
    pub(super) fn capacity(&mut self) -> Capacity {
        let raw = &self.raw.capacity;
        let path = Path::of("capacity").key("burst_pool");
        Capacity {
            slots: raw.slots,
            shared: raw.shared.0,
            burst_pool: raw.burst_pool.as_ref().and_then(|pool| self.pool_named(&path, pool)),
        }
    }

    /// A burst pool that serves nobody is a mistake.
    pub(super) fn burst(&mut self, config: &Config) {
        let named = config.capacity.burst_pool.is_some() && !config.models.is_empty() && self.problems.is_empty();
        if named && config.models.iter().all(|model| config.burst(model).is_none()) {
            let wrong =
                "no model would run on it: it serves models on their tier's pool, and none runs on one but this";
            self.wrong(
                &Path::of("capacity").key("burst_pool"),
                wrong,
                "a pool beside those of the tiers, whose models name none",
            );
        }
    }

    pub(super) fn tiers(&mut self) -> Vec<Tier> {
        let raw = self.raw;
        let shared = raw.capacity.shared.0;
        if raw.tiers.is_empty() {
            let all = raw::Tier { reserved: Some(Ratio(1.0 - shared)), max: Some(Ratio(1.0)), ..raw::Tier::default() };
            return vec![self.tier("standard", &all)];
        }
        let mut order: Vec<_> = raw.tiers.iter().collect();
        order.sort_by_key(|(name, _)| defaults(name).rank);
        let alone = order.len() == 1;
        let tiers: Vec<_> = order
            .into_iter()
            .map(|(name, tier)| match tier {
                raw::Tier { reserved: None, max: None, .. } if alone => {
                    let mut whole = self.tier(name, tier);
                    (whole.reserved, whole.max) = (1.0 - shared, 1.0);
                    whole
                }
                _ => self.tier(name, tier),
            })
            .collect();
        self.shares(&tiers);
        self.counters(&tiers);
        tiers
    }

    fn tier(&mut self, name: &str, raw: &raw::Tier) -> Tier {
        let path = Path::of("tiers").key(name);
        self.name(&path, name, &TIER_NAMES);
        let shared = self.raw.capacity.shared.0;
        let default = defaults(name);
        let reserved = match (raw.reserved, raw.max) {
            (Some(reserved), _) => reserved.0,
            (None, max) => max.map_or(default.reserved, |max| default.reserved.min(max.0)),
        };
        let max = match (raw.max, raw.reserved, default.max) {
            (Some(max), ..) => max.0,
            (None, None, Some(max)) => max.min(reserved + shared),
            _ => (reserved + shared).min(1.0),
        };
        let pool = match &raw.pool {
            Some(pool) => self.pool_named(&path.key("pool"), pool),
            None => self.only_pool(),
        };
        Tier {
            name: name.into(),
            pool,
            reserved,
            max,
            queue: raw.queue.unwrap_or(default.queue),
            queue_timeout: raw.queue_timeout.unwrap_or(default.queue_timeout).0,
            low_priority: raw.low_priority,
        }
    }

    /// The tiers' counts are fields of one word (`resilience::bulkhead`), each as wide as its tier's maximum.
    fn counters(&mut self, tiers: &[Tier]) {
        let capacity = Capacity { slots: self.raw.capacity.slots, shared: 0.0, burst_pool: None };
        let bits = |tier: &Tier| (u32::BITS - tier.most_slots(&capacity).leading_zeros()).max(1);
        let needed: u32 = tiers.iter().map(bits).sum();
        if needed > u64::BITS {
            let wrong = format!("{} tiers whose maxima need {needed} bits of slot counters together", tiers.len());
            let allowed = "64 bits, such as three tiers of two million slots, four of 65535, eight of 255";
            self.wrong(&Path::of("tiers"), wrong, allowed);
        }
    }

    fn shares(&mut self, tiers: &[Tier]) {
        let shared = self.raw.capacity.shared.0;
        let sum: f64 = tiers.iter().map(|tier| tier.reserved).sum::<f64>() + shared;
        if sum > 1.0 + SLACK {
            let list: Vec<_> = tiers.iter().map(|tier| format!("{} {}", tier.name, rounded(tier.reserved))).collect();
            let wrong = format!("reserved {} and shared {} sum to {}", list.join(" + "), rounded(shared), rounded(sum));
            self.wrong(&Path::of("tiers"), wrong, "at most 1");
        }
        for tier in tiers {
            let path = Path::of("tiers").key(&tier.name);
            let (least, most) = (tier.reserved, tier.reserved + shared);
            if tier.max < least - SLACK || tier.max > most + SLACK {
                let allowed = format!(
                    "from its reserved share ({}) to reserved + capacity.shared ({})",
                    rounded(least),
                    rounded(most.min(1.0))
                );
                self.wrong(&path.key("max"), format_args!("a max of {} cannot be", rounded(tier.max)), allowed);
            } else if tier.max * f64::from(self.raw.capacity.slots) < 1.0 - SLACK {
                let wrong = format!("{} of {} slots is not one slot", rounded(tier.max), self.raw.capacity.slots);
                self.wrong(&path, wrong, "a larger max, or more capacity.slots");
            }
        }
    }

    /// The pool of that name, or a problem.
    pub(super) fn pool_named(&mut self, path: &Path, name: &str) -> Option<PoolId> {
        let names: Vec<_> = self.raw.pools.names().collect();
        self.find(path, "pool", name, names.into_iter()).map(|i| PoolId(index(i)))
    }

    /// Where there is one pool, nobody needs to name it.
    fn only_pool(&self) -> Option<PoolId> {
        (self.raw.pools.names().len() == 1).then_some(PoolId(0))
    }
}

fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}
