//! Which keys are hot.
//!
//! ```text
//! cold ──(share and min_rate)──► hot ──(half of either, for 10 s)──► cold
//! ```
//!
//! The gap and the wait keep a key on the edge from coming and going: each time its copies would be made in vain.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::Key;

/// What of `share` and `min_rate` keeps a hot key hot.
const ENOUGH: f64 = 0.5;

/// How long a hot key has less before it is cold.
const COOLING: Duration = Duration::from_secs(10);

/// The hot keys.
#[derive(Debug)]
pub(crate) struct Standings {
    share: f64,
    min_rate: f64,
    hot: HashMap<Key, Standing>,
}

/// A hot key's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    /// Of all reads.
    pub(crate) share: f64,
    /// Reads a second.
    pub(crate) rate: f64,
    pub(crate) since: SystemTime,
    /// Since when it has less than enough.
    lacking: Option<Instant>,
}

/// A key that is hot now, or no more.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Hot(Key),
    Cold(Key),
}

impl Standings {
    pub(crate) fn new(share: f64, min_rate: f64) -> Self {
        Self { share, min_rate, hot: HashMap::new() }
    }

    /// Judges all keys by their reads a second, and those of all keys.
    pub(crate) fn judge(
        &mut self,
        rates: &HashMap<Key, f64>,
        total: f64,
        (now, clock): (Instant, SystemTime),
    ) -> Vec<Change> {
        let share = |rate: f64| if total > 0.0 { (rate / total).min(1.0) } else { 0.0 };
        let mut changes = Vec::new();
        let (least_share, least_rate) = (self.share, self.min_rate);
        self.hot.retain(|key, standing| {
            let rate = rates.get(key).copied().unwrap_or(0.0);
            (standing.share, standing.rate) = (share(rate), rate);
            let has_enough = standing.share >= least_share * ENOUGH && rate >= least_rate * ENOUGH;
            standing.lacking = if has_enough { None } else { standing.lacking.or(Some(now)) };
            let is_hot = standing.lacking.is_none_or(|since| now.saturating_duration_since(since) < COOLING);
            if !is_hot {
                changes.push(Change::Cold(key.clone()));
            }
            is_hot
        });
        for (key, &rate) in rates {
            if rate >= least_rate && share(rate) >= least_share && !self.hot.contains_key(key) {
                let standing = Standing { share: share(rate), rate, since: clock, lacking: None };
                self.hot.insert(key.clone(), standing);
                changes.push(Change::Hot(key.clone()));
            }
        }
        changes
    }

    /// The hot keys, in no order.
    pub(crate) fn hot(&self) -> impl Iterator<Item = (&Key, &Standing)> {
        self.hot.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::key;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(user: i64) -> Key {
        ("v".into(), key(user))
    }

    #[test]
    fn a_key_needs_its_share_and_its_rate() {
        let mut standings = Standings::new(0.01, 100.0);
        let rates = [(1, 99.0), (2, 100.0), (3, 250.0)].map(|(user, rate)| (of(user), rate)).into();
        let now = (Instant::now(), SystemTime::UNIX_EPOCH);
        assert_eq!(standings.judge(&rates, 20_000.0, now), [Change::Hot(of(3))], "100 are under 1 % of 20,000");
        assert_eq!(standings.judge(&rates, 9_000.0, now), [Change::Hot(of(2))]);
        assert!(standings.judge(&rates, 9_000.0, now).is_empty());
        let shares: HashMap<_, _> = standings.hot().map(|(key, standing)| (key.clone(), standing.share)).collect();
        assert_eq!(shares, [(of(2), 100.0 / 9_000.0), (of(3), 250.0 / 9_000.0)].into());
    }

    #[test]
    fn a_key_on_the_edge_stays_and_a_cold_one_goes_after_a_while() {
        let mut standings = Standings::new(0.01, 100.0);
        let begin = Instant::now();
        let mut judge = |second: u32, rate: f64| {
            let rates = HashMap::from([(of(1), rate)]);
            standings.judge(&rates, 1000.0, (begin + SECOND * second, SystemTime::UNIX_EPOCH))
        };
        assert_eq!(judge(0, 100.0), [Change::Hot(of(1))]);
        assert!((1..30).all(|second| judge(second, 51.0).is_empty()), "half is enough to stay");
        assert!((30..40).all(|second| judge(second, 49.0).is_empty()));
        assert!(judge(41, 50.0).is_empty(), "enough again: the time begins anew");
        assert!((42..52).all(|second| judge(second, 49.0).is_empty()));
        assert_eq!(judge(52, 0.0), [Change::Cold(of(1))]);
    }

    #[test]
    fn without_any_reads_all_goes_cold() {
        let mut standings = Standings::new(0.01, 100.0);
        let begin = Instant::now();
        let rates = HashMap::from([(of(1), 500.0)]);
        standings.judge(&rates, 500.0, (begin, SystemTime::UNIX_EPOCH));
        let none = HashMap::new();
        assert!(standings.judge(&none, 0.0, (begin + SECOND, SystemTime::UNIX_EPOCH)).is_empty());
        let changes = standings.judge(&none, 0.0, (begin + 11 * SECOND, SystemTime::UNIX_EPOCH));
        assert_eq!((changes, standings.hot().count()), (vec![Change::Cold(of(1))], 0));
    }
}
