//! Failover: work goes from a primary to a backup and back.
//!
//! ```text
//!             primary's share < threshold, and the backup's is larger
//!   primary ──────────────────────────────────────────────────────────► backup
//!      ▲                                                                  │
//!      ├── primary's share ≥ threshold for `back_after` without a break ──┤
//!      └── the backup has nobody, the primary has somebody ───────────────┘
//! ```
//!
//! It goes over at once and comes back late, so that one that comes and goes does not take the work along. It is looked at now
//! and then with both sides' healthy shares; what is not known yet is taken for well.

use std::time::Duration;

use tokio::time::Instant;

/// Where the work goes.
#[derive(Debug)]
pub struct Failover {
    threshold: f64,
    back_after: Duration,
    over: bool,
    /// Since when the primary is well without a break.
    well_since: Option<Instant>,
}

impl Failover {
    /// With the primary.
    #[must_use]
    pub const fn new(threshold: f64, back_after: Duration) -> Self {
        Self { threshold, back_after, over: false, well_since: None }
    }

    /// Whether the work goes to the backup, given both healthy shares.
    pub fn look(&mut self, primary: Option<f64>, backup: Option<f64>, now: Instant) -> bool {
        let (primary, backup) = (primary.unwrap_or(1.0), backup.unwrap_or(1.0));
        let well = primary >= self.threshold;
        self.well_since = if well { self.well_since.or(Some(now)) } else { None };
        let long = self.well_since.is_some_and(|since| now.saturating_duration_since(since) >= self.back_after);
        let deserted = backup <= 0.0 && primary > 0.0;
        self.over = if self.over { !long && !deserted } else { !well && backup > primary };
        self.over
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn over_at_once_and_back_late() {
        let (now, mut failover) = (Instant::now(), Failover::new(0.5, 10 * SECOND));
        for (seconds, primary, over) in [
            (0, 1.0, false),
            (1, 0.5, false),
            (2, 0.4, true),
            (3, 1.0, true),
            (9, 0.0, true),
            (10, 0.5, true),
            (19, 0.5, true),
            (20, 0.5, false),
            (21, 0.0, true),
        ] {
            assert_eq!(failover.look(Some(primary), Some(1.0), now + seconds * SECOND), over, "{seconds}");
        }
    }

    #[test]
    fn a_backup_that_is_no_better_is_no_help_and_what_is_unknown_is_taken_for_well() {
        let (now, mut failover) = (Instant::now(), Failover::new(0.5, SECOND));
        assert!(!failover.look(Some(0.0), Some(0.0), now));
        assert!(!failover.look(None, Some(1.0), now));
        assert!(failover.look(Some(0.0), None, now));
    }

    #[test]
    fn a_backup_that_is_gone_keeps_no_work() {
        let (now, mut failover) = (Instant::now(), Failover::new(0.5, 10 * SECOND));
        assert!(failover.look(Some(0.4), Some(1.0), now));
        assert!(!failover.look(Some(0.4), Some(0.0), now + SECOND), "a part of the primary is better than nobody");
        assert!(failover.look(Some(0.0), Some(1.0), now + 2 * SECOND));
        assert!(failover.look(Some(0.0), Some(0.0), now + 3 * SECOND), "neither is better");
    }

    proptest! {
        #[test]
        fn it_comes_back_only_after_a_whole_time_of_being_well(shares in prop::collection::vec(0.0f64..1.0, 1..100)) {
            let (mut now, mut failover) = (Instant::now(), Failover::new(0.5, 3 * SECOND));
            let (mut over, mut well) = (false, 0);
            for share in shares {
                well = if share >= 0.5 { well + 1 } else { 0 };
                let expected = if over { well < 4 } else { share < 0.5 };
                over = failover.look(Some(share), Some(1.0), now);
                prop_assert_eq!(over, expected);
                now += SECOND;
            }
        }
    }
}
