//! Which of two Redises has the rows.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// As labels; the first and the one that takes over.
const STORES: [&str; 2] = ["primary", "dr"];

/// Why rows are where they are, in the order of `features::redis::dr::reason`.
pub(crate) const REASONS: [&str; 7] =
    ["well", "primary_gone", "dr_gone", "primary_read_only", "primary_lacks_writes", "settling", "dr_not_closed"];

/// Everything shown of them.
#[derive(Debug)]
pub(crate) struct Dr {
    active: [Gauge; 2],
    moves: [Counter; 2],
    reasons: [Gauge; 7],
    ready: Gauge,
}

impl Dr {
    pub(crate) fn new() -> Self {
        let handles = Self {
            active: STORES.map(|store| gauge!(names::L2_ACTIVE, "store" => store)),
            moves: STORES.map(|store| counter!(names::L2_MOVES, "to" => store)),
            reasons: REASONS.map(|reason| gauge!(names::L2_REASON, "reason" => reason)),
            ready: gauge!(names::L2_DR_READY),
        };
        handles.at(false);
        handles.show(0);
        handles
    }

    /// The rows are at the DR now, or no longer.
    pub(crate) fn moved(&self, over: bool) {
        self.moves[usize::from(over)].increment(1);
        self.at(over);
    }

    /// Why that is so, as the place among the reasons.
    pub(crate) fn show(&self, reason: usize) {
        self.reasons.iter().enumerate().for_each(|(at, gauge)| gauge.set(u32::from(at == reason)));
    }

    /// Whether the DR could take over now, or has.
    pub(crate) fn ready(&self, is_ready: bool) {
        self.ready.set(u32::from(is_ready));
    }

    fn at(&self, over: bool) {
        self.active[0].set(u32::from(!over));
        self.active[1].set(u32::from(over));
    }
}
