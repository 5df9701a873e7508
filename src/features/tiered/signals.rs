//! What the store tells of itself, for those who decide how much is asked of it: whether joined lookups are slow, and whether
//! anybody can be asked at all.
//!
//! A lookup's time is L1's and L2's; what L3 takes after them is apart, and what the feature server's API reads is not counted. One
//! that its deadline cut off was slow as well, however short that was, unless it left no time for any lookup: what a caller does not
//! wait for says nothing of the store.
//! Both facts clear without traffic: slowness a second after the last slow lookup, and a store that cannot be asked once the
//! first of its breakers may be probed.

use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use crate::resilience::ratio::{BadRatio, Bound, Event, Limit};

/// More than one in a hundred is above the 99th percentile.
const SLOW: Limit = Limit { bound: Bound::Above(0.01), least: 20 };

/// Less than this is no time for a lookup.
const PATIENT: Duration = Duration::from_millis(5);

/// How the store is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    /// The 99th percentile of the last ten seconds' lookups is too long.
    pub slow: bool,
    /// Every server of L2 failed so often that none is asked.
    pub unavailable: bool,
}

/// How long joined lookups take.
#[derive(Debug)]
pub(super) struct Lookups {
    slow: BadRatio,
    p99: Duration,
}

impl Lookups {
    /// `p99`: what the 99th percentile may take.
    pub(super) fn new(p99: Duration, now: Instant) -> Self {
        Self { slow: BadRatio::new(now), p99 }
    }

    /// Counts one that went on in L1 and L2 from the one point in time until the other, and had to end `by` then.
    pub(super) fn note(&self, (began, until): (Instant, Instant), by: Instant) {
        let (is_cut_off, had) = (until >= by, by.saturating_duration_since(began));
        if until - began > self.p99 || (is_cut_off && had >= PATIENT) {
            self.slow.note(Event::Bad, until);
        } else if !is_cut_off {
            self.slow.note(Event::Good, until);
        }
    }
}

impl Store {
    /// How the store is at `now`.
    #[must_use]
    pub fn signals(&self, now: Instant) -> Signals {
        Signals { slow: self.shared.lookups.slow.is_over(&SLOW, now), unavailable: self.shared.l2.is_unavailable(now) }
    }
}
