//! Who is asked for: drawn unevenly, from a fixed seed, so that every setup is asked the same.

use crate::{
    cluster::MASTERS,
    feast,
    pace::{Dice, SEED},
};

/// Entities that have a row, numbered from 1.
pub(super) const USERS: usize = 20_000;
/// Requests that take turns.
const REQUESTS: usize = 20_000;
/// What the three hottest entities of the split get.
const SPLIT: [f64; 3] = [0.5, 0.2, 0.1];
/// The masters that have them.
const OWNERS: [usize; 3] = [0, 0, 1];
const EXPONENT: f64 = 1.1;

/// How unevenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skew {
    /// 50 %, 20 % and 10 % for one entity each, the first two on one master, the third on another; the others share the rest.
    Split,
    /// The n-th entity is asked for as often as `1 / n^1.1` says.
    Zipf,
}

impl Skew {
    pub(super) const ALL: [Self; 2] = [Self::Split, Self::Zipf];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Split => "50/20/10/20",
            Self::Zipf => "Zipf 1.1",
        }
    }

    /// Whole requests for one entity's row each; `owners` are the masters of the entities.
    pub(super) fn requests(self, owners: &[usize]) -> Vec<Vec<u8>> {
        self.draws(owners).into_iter().map(|user| feast::read(user, "")).collect()
    }

    fn draws(self, owners: &[usize]) -> Vec<i64> {
        let order = self.order(owners);
        let sums = self.sums(order.len());
        let mut dice = Dice::new(SEED);
        let place = |chance: f64| sums.partition_point(|sum| *sum < chance).min(sums.len() - 1);
        (0..REQUESTS).map(|_| order[place(dice.uniform())]).collect()
    }

    /// The entities, the hottest first.
    fn order(self, owners: &[usize]) -> Vec<i64> {
        let mut users: Vec<i64> = (1..).take(owners.len()).collect();
        if self == Self::Split {
            for (place, owner) in OWNERS.into_iter().enumerate() {
                let found = (place..users.len()).find(|at| owners[users[*at] as usize - 1] == owner);
                users.swap(place, found.unwrap_or(place));
            }
        }
        users
    }

    /// The parts of the first so many, added up.
    fn sums(self, count: usize) -> Vec<f64> {
        let mut sums: Vec<f64> = (0..count)
            .scan(0.0, |sum, place| {
                *sum += self.weight(place, count);
                Some(*sum)
            })
            .collect();
        let whole = sums.last().copied().unwrap_or(1.0);
        sums.iter_mut().for_each(|sum| *sum /= whole);
        sums
    }

    fn weight(self, place: usize, count: usize) -> f64 {
        let rest = 1.0 - SPLIT.iter().sum::<f64>();
        match self {
            Self::Split => SPLIT.get(place).copied().unwrap_or(rest / (count - SPLIT.len()) as f64),
            Self::Zipf => (place as f64 + 1.0).powf(-EXPONENT),
        }
    }
}

/// The busiest master's part, in times of the mean.
pub(super) fn imbalance(parts: &[f64]) -> f64 {
    let mean = parts.iter().sum::<f64>() / MASTERS as f64;
    parts.iter().copied().fold(0.0, f64::max) / mean
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counts(skew: Skew, owners: &[usize]) -> Vec<(i64, usize)> {
        let mut counts = BTreeMap::new();
        skew.draws(owners).into_iter().for_each(|user| *counts.entry(user).or_insert(0) += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    #[test]
    fn the_split_has_its_hot_entities_on_the_masters_that_it_says() {
        let owners: Vec<usize> = (0..USERS).map(|user| (user + 2) % MASTERS).collect();
        let counts = counts(Skew::Split, &owners);
        for ((user, count), (part, owner)) in counts.iter().zip(SPLIT.into_iter().zip(OWNERS)) {
            let seen = *count as f64 / REQUESTS as f64;
            assert!((seen - part).abs() < 0.01, "{seen} {part}");
            assert_eq!(owners[*user as usize - 1], owner);
        }
        assert!(counts.len() > 2000 && counts[3].1 < 20);
    }

    #[test]
    fn the_tenth_of_zipf_is_asked_for_a_twelfth_as_often_as_the_first() {
        let counts = counts(Skew::Zipf, &vec![0; USERS]);
        let ratio = counts[0].1 as f64 / counts[9].1 as f64;
        assert!((10.0..16.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn one_master_that_has_everything_has_three_times_the_mean() {
        assert!((imbalance(&[9.0, 0.0, 0.0]) - 3.0).abs() < 1e-9);
        assert!((imbalance(&[2.0, 2.0, 2.0]) - 1.0).abs() < 1e-9);
    }
}
