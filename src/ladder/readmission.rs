//! Readmission: what was kept from a resource because it was full comes back bit by bit.
//!
//! Keeping work away empties it, so that it is quiet says nothing of how it is with the work. Invariants: the share grows by a
//! twentieth at a time and from nothing to all in no less than the time it is given; it does not grow while the resource is full,
//! and is nothing again once that has lasted.

use std::time::Duration;

use tokio::time::Instant;

/// What the share is counted in.
pub(super) const PARTS: u32 = 20;

/// How it is with the resource, of which work may be kept away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// Work is kept away from it, full or not.
    KeptFrom,
    /// It is full, and work goes to it.
    Full,
    /// There is room.
    Roomy,
}

/// How much is let back.
#[derive(Debug)]
pub(super) struct Readmission {
    /// How long a part takes.
    step: Duration,
    share: u32,
    /// When the share last changed, or could not.
    since: Option<Instant>,
}

impl Readmission {
    /// All is let in; once it was not, it takes `over` until it is again.
    pub(super) fn new(over: Duration) -> Self {
        Self { step: over / PARTS, share: PARTS, since: None }
    }

    /// Takes in how the resource is at `now`.
    pub(super) fn look(&mut self, resource: Resource, now: Instant) {
        let is_time = self.since.is_none_or(|since| now.saturating_duration_since(since) >= self.step);
        match resource {
            Resource::KeptFrom => (self.share, self.since) = (0, Some(now)),
            Resource::Full => self.since = Some(now),
            Resource::Roomy if !self.is_over() && is_time => (self.share, self.since) = (self.share + 1, Some(now)),
            Resource::Roomy => {}
        }
    }

    /// Of [`PARTS`], how many are let in.
    pub(super) const fn share(&self) -> u32 {
        self.share
    }

    /// The same, of 1.
    pub(super) fn part(&self) -> f64 {
        f64::from(self.share) / f64::from(PARTS)
    }

    /// Whether all is.
    pub(super) const fn is_over(&self) -> bool {
        self.share == PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::{Resource::*, *};

    const STEP: Duration = Duration::from_millis(500);

    #[test]
    fn what_was_kept_away_comes_back_bit_by_bit_and_no_further_than_it_fits() {
        let (mut readmission, mut now) = (Readmission::new(STEP * PARTS), Instant::now());
        let mut look = |resource| {
            now += STEP;
            readmission.look(resource, now);
            readmission.share()
        };
        assert_eq!(look(Full), PARTS, "full is not yet kept away");
        assert_eq!(look(KeptFrom), 0);
        assert_eq!((1..=5).map(|_| look(Roomy)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!([look(Full), look(Full), look(Roomy)], [5, 5, 6], "full again: no more for now");
        assert_eq!(look(KeptFrom), 0, "and that has lasted");
        assert_eq!((0..2 * PARTS).map(|_| look(Roomy)).last(), Some(PARTS));
    }
}
