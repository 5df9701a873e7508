//! The choice among a pool's endpoints: power of two choices on expected wait.
//!
//! Nothing is allocated and, as long as two drawn at random fit, nothing is gone through: only when they do not, those that fit
//! are counted. Either way each pair of those that fit is as likely as any other.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    endpoint::Endpoint,
    pool::{Choice, Want},
};

/// How often another is drawn when a breaker refuses one that it would have admitted a moment ago.
const DRAWS: usize = 3;

/// The endpoints that an attempt chooses among.
pub(super) struct Crowd<'a> {
    pub(super) members: &'a [Arc<Endpoint>],
    pub(super) want: &'a Want,
    pub(super) now: Instant,
}

/// A part of them.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub(super) place: Place,
    pub(super) state: State,
    /// Whether those are in it that an attempt after another is better not made at: the last one's endpoint, and those that asked
    /// to be left alone.
    pub(super) last: bool,
}

/// Where an endpoint is, seen from the gateway's zone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Own,
    Other,
    Any,
}

/// How an endpoint is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Healthy,
    Any,
}

impl Crowd<'_> {
    /// One whose breaker admits a probe now, with the leave to be it. One that fails its health checks is not worth a request:
    /// once it passes, its breaker waits for one.
    pub(super) fn probe(&self, state: State) -> Option<Choice> {
        let waiting = self.members.iter().filter(|endpoint| {
            !endpoint.breaker.is_closed()
                && (state == State::Any || endpoint.is_healthy())
                && self.is_able(endpoint)
                && endpoint.would_admit(self.want.asker, self.now)
        });
        // Another may have been faster: then it is that one's.
        let mut admitted =
            waiting.filter_map(|endpoint| Some(Choice::new(endpoint, endpoint.admit(self.want.asker, self.now).ok()?)));
        admitted.next()
    }

    /// The cheaper of two.
    pub(super) fn choose(&self, group: Group) -> Option<Choice> {
        for _ in 0..DRAWS {
            let endpoint = match self.two(group)? {
                [first, second] if first == second => &self.members[first],
                [first, second] => self.better(&self.members[first], &self.members[second]),
            };
            if let Ok(permit) = endpoint.admit(self.want.asker, self.now) {
                return Some(Choice::new(endpoint, permit));
            }
        }
        None
    }

    /// Whether none that speaks the protocol is healthy and lets requests by, be it full.
    pub(super) fn is_ill(&self) -> bool {
        let speaks = |endpoint: &Endpoint| endpoint.upstream(self.want.protocol).is_some();
        !self.members.iter().any(|endpoint| endpoint.is_available(self.now) && speaks(endpoint))
    }

    /// Two that fit, at random; twice the same where only one does.
    fn two(&self, group: Group) -> Option<[usize; 2]> {
        let drawn = two_of(self.members.len())?;
        if drawn.iter().all(|index| self.fits(&self.members[*index], group)) {
            return Some(drawn);
        }
        let fitting = || (0..self.members.len()).filter(|index| self.fits(&self.members[*index], group));
        let [first, second] = two_of(fitting().count())?;
        // Counted again, since an endpoint may have changed meanwhile.
        let first = fitting().nth(first)?;
        Some([first, fitting().nth(second).unwrap_or(first)])
    }

    fn fits(&self, endpoint: &Endpoint, group: Group) -> bool {
        self.is_able(endpoint)
            && (group.state == State::Any || endpoint.is_healthy())
            && (group.last || self.is_free(endpoint))
            && (group.place == Place::Any || endpoint.is_own == (group.place == Place::Own))
            && endpoint.would_admit(self.want.asker, self.now)
    }

    /// Where nothing was asked yet, what an endpoint asked for is a matter of its cost.
    fn is_free(&self, endpoint: &Endpoint) -> bool {
        self.want.last.is_none_or(|last| endpoint.number != last && endpoint.spared_for(self.now).is_zero())
    }

    /// How long the first of those other than the last attempt's asked to be left alone; `None`: there is no other.
    pub(super) fn elsewhere(&self, state: State) -> Option<Duration> {
        let group = Group { place: Place::Any, state, last: true };
        let is_other =
            |endpoint: &&Arc<Endpoint>| Some(endpoint.number) != self.want.last && self.fits(endpoint, group);
        self.members.iter().filter(is_other).map(|endpoint| endpoint.spared_for(self.now)).min()
    }

    fn is_able(&self, endpoint: &Endpoint) -> bool {
        endpoint.upstream(self.want.protocol).is_some() && endpoint.has_room()
    }

    /// The one that costs less. One that starts slowly takes its turn only as often as its weight says, next to the other's.
    fn better<'e>(&self, first: &'e Arc<Endpoint>, second: &'e Arc<Endpoint>) -> &'e Arc<Endpoint> {
        let weights = [first.weight(self.now), second.weight(self.now)];
        let passes = |own: f64, other: f64| rand::random::<f64>() * other >= own;
        match weights[0].partial_cmp(&weights[1]) {
            Some(Ordering::Less) if passes(weights[0], weights[1]) => second,
            Some(Ordering::Greater) if passes(weights[1], weights[0]) => first,
            _ if first.cost(self.now) <= second.cost(self.now) => first,
            _ => second,
        }
    }
}

/// Two different numbers under `count`, at random; twice the same where there is one.
fn two_of(count: usize) -> Option<[usize; 2]> {
    match count {
        0 => None,
        1 => Some([0, 0]),
        _ => {
            let first = rand::random_range(0..count);
            Some([first, (first + rand::random_range(1..count)) % count])
        }
    }
}

#[cfg(test)]
mod tests;
