//! What part of the work stays in one's own zone: all of it while enough there are well, else as much as they can take.
//!
//! A zone takes its healthy share times 1.4 of the work that is meant for it, so that a third may be ill before anything spills;
//! when neither it nor the others can take their part, both get theirs in proportion.
//!
//! **Source:** Envoy's overprovisioning factor of priority levels.

const OVERPROVISIONED: f64 = 1.4;

/// Hosts here or elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// All of them.
    pub all: usize,
    /// Those that are well.
    pub healthy: usize,
}

impl Hosts {
    /// Counts one.
    pub fn count(&mut self, healthy: bool) {
        self.all += 1;
        self.healthy += usize::from(healthy);
    }

    /// The share that is well; `None` where there is none.
    #[must_use]
    pub fn share(self) -> Option<f64> {
        (self.all > 0).then(|| self.healthy as f64 / self.all as f64)
    }

    fn takes(self) -> f64 {
        self.share().map_or(0.0, |share| (share * OVERPROVISIONED).min(1.0))
    }
}

/// The part of the work that stays with `own`; the rest goes to the `others`.
#[must_use]
pub fn own_part(own: Hosts, others: Hosts) -> f64 {
    let (here, there) = (own.takes(), others.takes());
    if here + there <= 0.0 { f64::from(u8::from(own.all > 0)) } else { here / (here + there).min(1.0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn work_spills_as_far_as_it_must() {
        for ((all, healthy), (other, well), expected) in [
            ((4, 4), (4, 4), 1.0),
            ((4, 3), (4, 4), 1.0),
            ((4, 2), (4, 4), 0.7),
            ((4, 0), (4, 4), 0.0),
            ((0, 0), (4, 4), 0.0),
            ((4, 2), (0, 0), 1.0),
            ((10, 2), (10, 2), 0.5),
            ((4, 0), (4, 0), 1.0),
        ] {
            let part = own_part(Hosts { all, healthy }, Hosts { all: other, healthy: well });
            assert!((part - expected).abs() < 1e-9, "{healthy} of {all}, {well} of {other}: {part}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_a_part_and_grows_with_health(all in 1usize..20, healthy in 0usize..20, other in 0usize..20, well in 0usize..20) {
            let others = Hosts { all: other, healthy: well.min(other) };
            let part = |healthy: usize| own_part(Hosts { all, healthy: healthy.min(all) }, others);
            prop_assert!((0.0..=1.0).contains(&part(healthy)));
            prop_assert!(others.healthy == 0 || part(healthy + 1) >= part(healthy) - 1e-9);
        }
    }
}
