//! From configured shares to whole slots.
//!
//! No slot is handed out twice, and none is lost to rounding: what rounding leaves over can be borrowed.

use crate::{
    config::{Capacity, Tier},
    resilience::bulkhead::Share,
};

/// Each tier's slots, and the slots that all may borrow.
pub(super) fn shares(capacity: &Capacity, tiers: &[Tier]) -> (Vec<Share>, u32) {
    let share = |tier: &Tier| Share { reserved: capacity.slots_in(tier.reserved), max: tier.most_slots(capacity) };
    let shares: Vec<Share> = tiers.iter().map(share).collect();
    let assigned: f64 = tiers.iter().map(|tier| tier.reserved).sum::<f64>() + capacity.shared;
    let reserved: u32 = shares.iter().map(|share| share.reserved).sum();
    let unassigned = capacity.slots_in((1.0 - assigned).max(0.0));
    (shares, capacity.slots.saturating_sub(reserved).saturating_sub(unassigned))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn tier(reserved: f64, max: f64) -> Tier {
        Tier {
            name: "t".into(),
            pool: None,
            reserved,
            max,
            queue: 0,
            queue_timeout: Duration::ZERO,
            low_priority: false,
        }
    }

    fn divide(slots: u32, shared: f64, tiers: &[(f64, f64)]) -> (Vec<(u32, u32)>, u32) {
        let tiers: Vec<Tier> = tiers.iter().map(|(reserved, max)| tier(*reserved, *max)).collect();
        let (shares, shared) = shares(&Capacity { slots, shared, burst_pool: None }, &tiers);
        (shares.into_iter().map(|share| (share.reserved, share.max)).collect(), shared)
    }

    const DEFAULTS: [(f64, f64); 3] = [(0.4, 0.5), (0.3, 0.4), (0.1, 0.3)];

    #[test]
    fn the_defaults_are_as_documented() {
        assert_eq!(divide(200, 0.2, &DEFAULTS), (vec![(80, 100), (60, 80), (20, 60)], 40));
    }

    #[test]
    fn one_slot_can_be_borrowed_by_anybody() {
        assert_eq!(divide(1, 0.2, &DEFAULTS), (vec![(0, 1), (0, 1), (0, 1)], 1));
    }

    #[test]
    fn a_share_that_nobody_was_given_stays_unused() {
        assert_eq!(divide(100, 0.2, &[(0.29, 0.5)]), (vec![(29, 50)], 20));
    }

    proptest! {
        #[test]
        fn slots_are_neither_lost_nor_doubled(slots in 1..10_000u32, parts in prop::collection::vec(1..100u32, 2..7)) {
            let whole: u32 = parts.iter().sum();
            let share = |part: u32| f64::from(part) / f64::from(whole);
            let tiers: Vec<_> = parts[1..].iter().map(|part| (share(*part), 1.0)).collect();
            let (tiers, shared) = divide(slots, share(parts[0]), &tiers);
            prop_assert_eq!(tiers.iter().map(|(reserved, _)| reserved).sum::<u32>() + shared, slots);
        }
    }
}
