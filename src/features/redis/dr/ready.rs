//! Whether the DR Redis could take over now: told while it is not needed, for when it is, it is too late.
//!
//! It is known of one that is at work that it answers, and no more is asked of it. The same goes for a cluster, whose masters are masters
//! whoever brings them the rows. What it lacks of the first one's rows is not known here.

use ::redis::Value;

use crate::resilience::standby::{Order, ProbeResult, Side};

/// How a Redis gets its rows, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It is a master.
    Leads,
    /// It follows another, and is connected to it.
    Up,
    /// It follows another, and is not.
    Down,
    /// It does not say.
    Untold,
}

impl Link {
    /// What `ROLE` says: `master`, or `slave`, a host, a port and how the connection to that stands.
    pub(super) fn of(role: &[Value]) -> Self {
        let is = |at: usize, text: &[u8]| matches!(role.get(at), Some(Value::BulkString(part)) if part == text);
        match (is(0, b"master"), is(3, b"connected")) {
            (true, _) => Self::Leads,
            (false, true) => Self::Up,
            (false, false) => Self::Down,
        }
    }
}

/// What a look at both came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nobody has looked yet.
    Unknown,
    Ready,
    /// It does not answer, or has no rows.
    Gone,
    /// It is not told what the first is.
    FollowsNobody,
    /// It was, and is not now.
    CutOff,
}

impl Readiness {
    pub(super) fn of((side, order): (Side, Order), primary: ProbeResult, (dr, link): (ProbeResult, Link)) -> Self {
        match (side, link) {
            _ if dr == ProbeResult::Gone => Self::Gone,
            (Side::Standby, _) => Self::Ready,
            (Side::Primary, _) if order == Order::Unknown => Self::Ready,
            (Side::Primary, Link::Leads) => Self::FollowsNobody,
            // With the first gone there is nobody that it could be connected to.
            (Side::Primary, Link::Down) if primary != ProbeResult::Gone => Self::CutOff,
            (Side::Primary, Link::Up | Link::Down | Link::Untold) => Self::Ready,
        }
    }

    /// Whether it could.
    pub(crate) fn is_ready(self) -> bool {
        self == Self::Ready
    }

    /// Why it could not, for an operator.
    pub(crate) const fn why(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::Unknown => Some("it was not looked at yet"),
            Self::Gone => Some("it does not answer, or never had the rows of whom it follows whole"),
            Self::FollowsNobody => {
                Some("it follows nobody: it has what it had when it was promoted, unless something else brings it rows")
            }
            Self::CutOff => Some("it is not connected to whom it follows, and falls behind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::standby::Counts;

    const fn here(writable: bool) -> ProbeResult {
        ProbeResult::Here { writable, counts: Counts { acknowledged: 0, vouched: 0 } }
    }

    #[test]
    fn one_that_is_gone_or_is_not_told_of_writes_could_not_take_over() {
        let with_primary = |primary, dr| Readiness::of((Side::Primary, Order::Kept), primary, dr);
        assert_eq!(with_primary(here(true), (here(false), Link::Up)), Readiness::Ready);
        assert_eq!(with_primary(here(true), (here(false), Link::Down)), Readiness::CutOff);
        assert_eq!(with_primary(here(true), (here(true), Link::Leads)), Readiness::FollowsNobody);
        assert_eq!(with_primary(here(true), (here(true), Link::Untold)), Readiness::Ready);
        assert_eq!(with_primary(here(true), (ProbeResult::Gone, Link::Untold)), Readiness::Gone);
        assert_eq!(with_primary(ProbeResult::Gone, (here(false), Link::Down)), Readiness::Ready, "it is about to");
        assert_eq!(with_primary(ProbeResult::Gone, (ProbeResult::Gone, Link::Untold)), Readiness::Gone);
    }

    #[test]
    fn of_one_at_work_and_of_a_cluster_it_is_asked_that_they_answer() {
        for (side, order) in [(Side::Standby, Order::Kept), (Side::Primary, Order::Unknown)] {
            let of = |dr| Readiness::of((side, order), here(true), dr);
            assert_eq!(of((here(true), Link::Leads)), Readiness::Ready);
            assert_eq!(of((here(false), Link::Down)), Readiness::Ready);
            assert_eq!(of((ProbeResult::Gone, Link::Untold)), Readiness::Gone);
        }
    }

    #[test]
    fn whoever_is_not_ready_says_why() {
        use Readiness::{CutOff, FollowsNobody, Gone, Ready, Unknown};
        for readiness in [Unknown, Ready, Gone, FollowsNobody, CutOff] {
            assert_eq!(readiness.is_ready(), readiness.why().is_none());
        }
    }
}
