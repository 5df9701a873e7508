//! A store and its standby: when the standby takes over, and when the first may have the work back without anybody being served less
//! than was acknowledged.
//!
//! ```text
//!              gone for `over_after` without a break, and the standby answers
//!   primary ───────────────────────────────────────────────────────────────────► standby
//!     ▲ └──── the standby has acknowledged what the primary lacks ────────────────┘ │
//!     │                                                                             │
//!     └── the primary is well for `back_after` without a break, takes writes, and has all that the standby acknowledged; the
//!         standby is *closed* for exactly that: from then on it acknowledges nothing
//! ```
//!
//! A standby that took writes and takes none any more has **handed over**: then the primary is not waited for, since nobody takes any
//! meanwhile.
//!
//! Every store keeps a **count** of what was acknowledged at a standby. It rises there with each acknowledgement, after what is
//! acknowledged, in the same stream of writes: a primary that was fed from that stream and has a count as high has all of it. Where a
//! stream keeps no such order the count proves nothing; then, and wherever an operator knows better, the primary's **vouched** count
//! does. A count never falls: a standby goes on from the highest that who counts has seen anywhere, and a primary that gets the work back is
//! told what it has.
//!
//! Everybody who uses the stores runs one of these and agrees with nobody. What keeps them together: a standby that follows its primary
//! takes no writes, so that going over alone splits nothing; once it takes some, whoever is with the primary sees a count there that
//! the primary lacks and comes over at its next look; and whoever goes back closes the standby first, in one step that fails if the
//! count has moved, so that whoever is left there acknowledges nothing.
//!
//! Invariants: nobody goes back while the standby has acknowledged what the primary is not known to have; a primary that comes and goes
//! faster than `over_after` moves nobody. What the standby lacked when the primary was lost is nobody's to know here.

use std::time::Duration;

use tokio::time::Instant;

/// Where the work goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Primary,
    /// The one that stands by.
    Standby,
}

/// What a look at a store found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It does not answer.
    Gone,
    /// It does.
    Here {
        /// Whether it takes writes, as far as it says.
        writable: bool,
        /// What it knows of acknowledgements.
        counts: Counts,
    },
}

/// How many acknowledgements of a standby's a store knows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// That it was told in the stream of writes.
    pub acknowledged: u64,
    /// That an operator says it has.
    pub vouched: u64,
}

/// Whether a count in a store proves that what was counted is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One stream of writes.
    Kept,
    /// Several.
    Unknown,
}

/// Why the work is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The primary is well.
    Well,
    /// The primary is gone: for a while yet that is waited through, or it is with the standby for that.
    PrimaryGone,
    /// The primary is gone for long, and the standby does not answer.
    StandbyGone,
    /// The primary answers and takes no writes.
    ReadOnly,
    /// The primary knows of so many acknowledgements, of so many.
    Lacks {
        /// What it has.
        has: u64,
        /// What it is to have.
        of: u64,
    },
    /// The primary is well, but not for long enough.
    Settling,
    /// The standby cannot be closed, or cannot be asked whether it has acknowledged more.
    NotClosed,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Stay(Why),
    /// The work goes to the standby from now on.
    Over(Why),
    /// The work may go back once the standby is closed at that count (`None`: it takes no writes), which the caller does, and says with
    /// [`Standby::is_back`].
    Back {
        /// At which the standby is to be closed.
        close_at: Option<u64>,
        /// What the primary is to count from then on, at least.
        count: u64,
    },
}

/// One user's view of both.
#[derive(Debug)]
pub struct Standby {
    over_after: Duration,
    back_after: Duration,
    order: Order,
    side: Side,
    primary_gone: Option<Instant>,
    standby_gone: Option<Instant>,
    primary_well: Option<Instant>,
    /// Whether the standby took writes when it was seen last, or since the work is there.
    led: bool,
    /// The highest count that the standby was known to have.
    acknowledged: u64,
    /// The highest seen anywhere.
    highest: u64,
}

impl Standby {
    /// With the primary.
    #[must_use]
    pub const fn new(over_after: Duration, back_after: Duration, order: Order) -> Self {
        Self {
            over_after,
            back_after,
            order,
            side: Side::Primary,
            primary_gone: None,
            standby_gone: None,
            primary_well: None,
            led: false,
            acknowledged: 0,
            highest: 0,
        }
    }

    /// The highest count seen anywhere.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Where the work goes.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// The standby has acknowledged that much, as who did it knows.
    pub fn has_acknowledged(&mut self, count: u64) {
        self.acknowledged = self.acknowledged.max(count);
        self.highest = self.highest.max(count);
    }

    /// Takes in what looks at both found that began at `now`; times must not run backwards.
    pub fn look(&mut self, (primary, standby): (ProbeResult, ProbeResult), now: Instant) -> Verdict {
        let is_well = matches!(primary, ProbeResult::Here { writable: true, .. });
        since(&mut self.primary_well, is_well, now);
        since(&mut self.primary_gone, !is_well, now);
        since(&mut self.standby_gone, standby == ProbeResult::Gone, now);
        let leads = matches!(standby, ProbeResult::Here { writable: true, .. });
        self.led = leads || (self.led && self.side == Side::Standby);
        if let ProbeResult::Here { counts, .. } = standby {
            self.has_acknowledged(counts.acknowledged);
        }
        if let ProbeResult::Here { counts, .. } = primary {
            self.highest = self.highest.max(counts.acknowledged).max(counts.vouched);
        }
        match self.side {
            Side::Primary => self.with_primary(primary, standby, now),
            Side::Standby => self.with_standby(primary, standby, now),
        }
    }

    /// The standby is closed: the work goes to the primary from now on.
    pub const fn is_back(&mut self) {
        self.side = Side::Primary;
    }

    fn with_primary(&mut self, primary: ProbeResult, standby: ProbeResult, now: Instant) -> Verdict {
        // What takes no writes is no primary, and yet answers.
        let away = if primary == ProbeResult::Gone { Why::PrimaryGone } else { Why::ReadOnly };
        let why = match (primary, standby) {
            (ProbeResult::Here { counts, .. }, ProbeResult::Here { .. }) if self.lacks(counts).is_some() => {
                self.lacks(counts).unwrap_or(Why::Well)
            }
            (ProbeResult::Here { writable: true, .. }, _) => return Verdict::Stay(Why::Well),
            _ if !lasts(self.primary_gone, self.over_after, now) => return Verdict::Stay(away),
            (_, ProbeResult::Gone) => return Verdict::Stay(Why::StandbyGone),
            // Neither takes writes: the one is as good as the other.
            (ProbeResult::Here { .. }, ProbeResult::Here { writable: false, .. }) => {
                return Verdict::Stay(Why::ReadOnly);
            }
            _ => away,
        };
        self.side = Side::Standby;
        Verdict::Over(why)
    }

    fn with_standby(&self, primary: ProbeResult, standby: ProbeResult, now: Instant) -> Verdict {
        let ProbeResult::Here { writable, counts } = primary else { return Verdict::Stay(Why::PrimaryGone) };
        if !writable {
            return Verdict::Stay(Why::ReadOnly);
        }
        if let Some(why) = self.lacks(counts) {
            return Verdict::Stay(why);
        }
        if !self.has_handed_over(standby) && !lasts(self.primary_well, self.back_after, now) {
            return Verdict::Stay(Why::Settling);
        }
        let close_at = match standby {
            ProbeResult::Here { writable: true, .. } => Some(self.acknowledged),
            ProbeResult::Here { writable: false, .. } => None,
            // Others may be at work there; if it is gone for long, nobody is.
            ProbeResult::Gone if !lasts(self.standby_gone, self.over_after, now) => {
                return Verdict::Stay(Why::NotClosed);
            }
            ProbeResult::Gone => None,
        };
        Verdict::Back { close_at, count: self.acknowledged }
    }

    /// Whether the standby was at work and follows now. Of several streams one may be lost to it for a moment.
    fn has_handed_over(&self, standby: ProbeResult) -> bool {
        self.led && self.order == Order::Kept && matches!(standby, ProbeResult::Here { writable: false, .. })
    }

    /// What the primary is not known to have of what the standby acknowledged.
    fn lacks(&self, primary: Counts) -> Option<Why> {
        let told = if self.order == Order::Kept { primary.acknowledged } else { 0 };
        let has = told.max(primary.vouched);
        (has < self.acknowledged).then_some(Why::Lacks { has, of: self.acknowledged })
    }
}

/// Notes since when something is so without a break.
fn since(what: &mut Option<Instant>, is_so: bool, now: Instant) {
    *what = if is_so { what.or(Some(now)) } else { None };
}

fn lasts(since: Option<Instant>, long: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= long)
}

#[cfg(test)]
mod tests;
