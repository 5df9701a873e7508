//! Waiting until each of those who hold a lease has acknowledged something, or cannot hold it any more.
//!
//! ```text
//!              ┌── acknowledges ────────────────────────► settled
//! listed ──────┤
//!              └── patience is up ─► revoke ─► its lease is out ─► settled
//! ```
//!
//! A holder that is revoked cannot renew: it settles when what is left of its lease is out, whatever becomes of it. So a round
//! takes no longer than the patience and a lease.

use std::time::Duration;

use tokio::time::Instant;

/// A round that waits.
#[derive(Debug)]
pub(crate) struct Round {
    unsettled: Vec<Holder>,
    /// Not over before this, whoever acknowledges: somebody may hold a lease that nobody knows of.
    at_least: Option<Instant>,
    /// When those who are not heard of are revoked.
    patient_until: Instant,
    /// Whether one's lease had to run out.
    ran_out: bool,
}

#[derive(Debug)]
struct Holder {
    id: u64,
    until: Instant,
    revoked: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All are settled.
    Done,
    /// Nothing before then, unless somebody acknowledges.
    Wait(Instant),
    /// These are to be revoked.
    Revoke(Vec<u64>),
}

impl Round {
    /// One that waits for those listed: who, how much of its lease is left, whether it is revoked already; at `now`, when the list was
    /// there.
    pub(crate) fn new(
        listed: impl IntoIterator<Item = (u64, Duration, bool)>,
        now: Instant,
        patience: Duration,
    ) -> Self {
        let holder = |(id, left, revoked)| Holder { id, until: now + left, revoked };
        Self {
            unsettled: listed.into_iter().map(holder).collect(),
            at_least: None,
            patient_until: now + patience,
            ran_out: false,
        }
    }

    /// The list may lack somebody, whose lease is out by `until`.
    pub(crate) fn not_before(&mut self, until: Instant) {
        self.at_least = Some(until);
    }

    /// One acknowledged.
    pub(crate) fn acknowledged(&mut self, id: u64) {
        self.unsettled.retain(|holder| holder.id != id);
    }

    /// One was revoked when so much of its lease was left, as told at `now`.
    pub(crate) fn revoked(&mut self, id: u64, left: Duration, now: Instant) {
        for holder in self.unsettled.iter_mut().filter(|holder| holder.id == id) {
            (holder.until, holder.revoked) = (now + left, true);
        }
    }

    /// What to do at `now`.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        // One that is not revoked may have renewed: that its lease is out by the list says nothing.
        let before = self.unsettled.len();
        self.unsettled.retain(|holder| !holder.revoked || now < holder.until);
        self.ran_out |= self.unsettled.len() < before;
        let to_revoke: Vec<_> =
            self.unsettled.iter().filter(|holder| !holder.revoked).map(|holder| holder.id).collect();
        if !to_revoke.is_empty() && now >= self.patient_until {
            return Step::Revoke(to_revoke);
        }
        let ends = self.unsettled.iter().filter(|holder| holder.revoked).map(|holder| holder.until);
        let patience = (!to_revoke.is_empty()).then_some(self.patient_until);
        let waits = self.at_least.filter(|at_least| now < *at_least);
        ends.chain(patience).chain(waits).min().map_or(Step::Done, Step::Wait)
    }

    /// Whether somebody's lease had to run out.
    pub(crate) const fn ran_out(&self) -> bool {
        self.ran_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_millis(250);
    const LEFT: Duration = Duration::from_millis(1500);

    #[test]
    fn it_is_done_when_all_acknowledged() {
        let now = Instant::now();
        assert_eq!(Round::new([], now, PATIENCE).step(now), Step::Done);
        let mut round = Round::new([(1, LEFT, false), (2, LEFT, false)], now, PATIENCE);
        assert_eq!(round.step(now), Step::Wait(now + PATIENCE));
        round.acknowledged(1);
        assert_eq!(round.step(now + MS), Step::Wait(now + PATIENCE));
        round.acknowledged(7);
        round.acknowledged(2);
        assert_eq!(round.step(now + MS), Step::Done);
        assert!(!round.ran_out());
    }

    #[test]
    fn who_is_silent_is_revoked_and_its_lease_waited_out() {
        let now = Instant::now();
        let mut round = Round::new([(1, LEFT, false), (2, LEFT, false)], now, PATIENCE);
        round.acknowledged(2);
        let late = now + PATIENCE;
        assert_eq!(round.step(late), Step::Revoke(vec![1]));
        // It had renewed meanwhile.
        round.revoked(1, 2 * LEFT, late);
        assert_eq!(round.step(late), Step::Wait(late + 2 * LEFT));
        assert_eq!(round.step(late + 2 * LEFT), Step::Done);
        assert!(round.ran_out());
    }

    #[test]
    fn a_list_that_may_lack_somebody_is_not_enough() {
        let now = Instant::now();
        let mut round = Round::new([(1, LEFT, true)], now, PATIENCE);
        round.not_before(now + 2 * LEFT);
        assert_eq!(round.step(now), Step::Wait(now + LEFT));
        round.acknowledged(1);
        assert_eq!(round.step(now), Step::Wait(now + 2 * LEFT));
        assert_eq!(round.step(now + 2 * LEFT), Step::Done);
    }

    #[test]
    fn one_that_is_revoked_already_is_not_waited_for_with_patience() {
        let now = Instant::now();
        let mut round = Round::new([(1, MS, true)], now, PATIENCE);
        assert_eq!(round.step(now), Step::Wait(now + MS));
        assert_eq!(round.step(now + MS), Step::Done);
    }
}
