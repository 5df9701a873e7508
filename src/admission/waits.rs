//! How a tier's queue moves: who left it in the last second, how long they waited, and how many of them got a slot.
//!
//! Written under the queue's lock by those who leave; whoever finds a slot free does not come here.

use std::time::Duration;

use tokio::time::Instant;

use crate::resilience::tally::Tally;

/// What counts as of late.
const WINDOW: Duration = Duration::from_secs(1);

pub(super) struct Waits {
    left: Tally,
    micros: Tally,
    served: Tally,
}

/// How somebody left the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Served,
    InVain,
}

impl Waits {
    pub(super) fn new(now: Instant) -> Self {
        let tally = || Tally::new(WINDOW, now);
        Self { left: tally(), micros: tally(), served: tally() }
    }

    pub(super) fn note(&self, left: Left, waited: Duration, now: Instant) {
        self.left.add(1, now);
        self.micros.add(u32::try_from(waited.as_micros()).unwrap_or(u32::MAX), now);
        self.served.add(u32::from(left == Left::Served), now);
    }

    /// The mean wait of those who left; `None`: nobody did.
    pub(super) fn mean(&self, now: Instant) -> Option<Duration> {
        self.micros.sum(now).checked_div(self.left.sum(now)).map(Duration::from_micros)
    }

    /// How long it will be until `waiting` have been served, if it goes on as it went; `None`: nobody was.
    pub(super) fn serves_in(&self, waiting: u32, now: Instant) -> Option<Duration> {
        let served = u32::try_from(self.served.sum(now)).unwrap_or(u32::MAX);
        (served > 0).then(|| WINDOW * waiting / served)
    }
}
