//! The gateway in front of it: tiers of slots, queues, and the policies that are compared. The mechanisms are the gateway's own
//! (`weir::resilience`); only the time they are given is simulated.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use weir::resilience::{
    bulkhead::{Bulkhead, Share},
    gradient::{Gradient, Windows},
    median::Median,
    tally::Tally,
};

use crate::throttle::Throttle;

/// In which order those who wait get a slot.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Order {
    Fifo,
    EarliestDeadline,
}

/// What becomes of a request over Gradient2's limit.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Over {
    Waits,
    Refused,
}

/// What is compared.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    /// Each tier's slots, highest first, and the shared ones.
    pub(crate) shares: Vec<Share>,
    pub(crate) shared: u32,
    pub(crate) queue: usize,
    pub(crate) order: Order,
    /// Whether a request is refused whose deadline is nearer than the median.
    pub(crate) deadline_aware: bool,
    /// Whether lower tiers may not borrow while a higher one's mean wait is over this.
    pub(crate) overload: Option<f64>,
    pub(crate) gradient: Option<Over>,
    pub(crate) throttle: bool,
}

impl Policy {
    /// One tier of so many slots.
    pub(crate) fn slots(name: &'static str, slots: u32) -> Self {
        Self {
            name,
            shares: vec![Share { reserved: slots, max: slots }],
            shared: 0,
            queue: 128,
            order: Order::Fifo,
            deadline_aware: false,
            overload: None,
            gradient: None,
            throttle: false,
        }
    }
}

/// A request, as the gateway sees it.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) tier: usize,
    pub(crate) arrived: f64,
    pub(crate) deadline: f64,
    pub(crate) work: f64,
}

/// The gateway.
pub(crate) struct Gateway {
    policy: Policy,
    origin: Instant,
    bulkhead: Bulkhead,
    queues: Vec<BTreeMap<(u64, usize), f64>>,
    medians: Vec<Median>,
    waits: Vec<(Tally, Tally)>,
    gradient: Windows,
    throttle: Throttle,
    in_flight: u32,
}

impl Gateway {
    pub(crate) fn new(policy: Policy) -> Self {
        let origin = Instant::now();
        let tiers = policy.shares.len();
        let second = Duration::from_secs(1);
        let most = policy.shares.iter().map(|share| share.reserved).sum::<u32>() + policy.shared;
        Self {
            bulkhead: Bulkhead::new(&policy.shares, policy.shared).expect("few slots"),
            queues: vec![BTreeMap::new(); tiers],
            medians: (0..tiers).map(|_| Median::new(origin)).collect(),
            waits: (0..tiers).map(|_| (Tally::new(second, origin), Tally::new(second, origin))).collect(),
            gradient: Windows::new(Gradient::new(20, 1, most.max(1)), origin),
            throttle: Throttle::new(origin),
            in_flight: 0,
            policy,
            origin,
        }
    }

    /// Takes a slot, or a place in the queue, or refuses.
    pub(crate) fn enter(&mut self, id: usize, request: &Request, now: f64) -> Entered {
        if self.is_late(request, now) {
            return Entered::Shed;
        }
        if self.queues[request.tier].is_empty() && self.acquire(request.tier, now) {
            self.waited(request.tier, 0.0, now);
            return Entered::Slot;
        }
        if self.queues[request.tier].len() >= self.policy.queue {
            return Entered::Shed;
        }
        let key = self.key(id, request);
        self.queues[request.tier].insert(key, now);
        Entered::Queued
    }

    /// Leaves the queue; `false` where it is not in it any more.
    pub(crate) fn leave(&mut self, id: usize, request: &Request) -> bool {
        let key = self.key(id, request);
        self.queues[request.tier].remove(&key).is_some()
    }

    /// The next in turn that has a slot now.
    pub(crate) fn next(&mut self, requests: &[Request], now: f64) -> Option<(usize, Turn)> {
        for tier in 0..self.queues.len() {
            let Some((&(_, id), _)) = self.queues[tier].first_key_value() else { continue };
            if self.is_late(&requests[id], now) {
                self.queues[tier].pop_first();
                return Some((id, Turn::TooLate));
            }
            if self.acquire(tier, now) {
                let (_, since) = self.queues[tier].pop_first()?;
                self.waited(tier, now - since, now);
                return Some((id, Turn::Slot));
            }
        }
        None
    }

    /// Whether the request may be sent; its slot is given back where it may not.
    pub(crate) fn send(&mut self, request: &Request, unit: f64, now: f64) -> bool {
        let over = self.policy.gradient == Some(Over::Refused) && self.in_flight > self.gradient.limit();
        let sent = !over && (!self.policy.throttle || self.throttle.admit(unit, self.at(now)));
        if !sent {
            self.release(request.tier);
        }
        sent
    }

    /// A slot comes back.
    pub(crate) fn end(&mut self, request: &Request, end: End, now: f64) {
        let at = self.at(now);
        match end {
            End::Answered(took) => {
                self.throttle.accepted(at);
                self.medians[request.tier].observe(Duration::from_secs_f64(took), at);
                self.observe(took, now);
            }
            // It would have taken longer.
            End::GivenUp(after) => self.observe(after, now),
            End::Refused => {}
        }
        self.release(request.tier);
    }

    fn release(&mut self, tier: usize) {
        self.in_flight -= 1;
        self.bulkhead.release(tier);
    }

    fn observe(&mut self, took: f64, now: f64) {
        let at = self.at(now);
        self.gradient.observe(Duration::from_secs_f64(took), self.in_flight, at);
    }

    fn acquire(&mut self, tier: usize, now: f64) -> bool {
        let over = self.policy.gradient == Some(Over::Waits) && self.in_flight >= self.gradient.limit();
        let held_back = (0..tier).any(|higher| self.is_overloaded(higher, now));
        let own = self.bulkhead.in_use(tier) < self.policy.shares[tier].reserved;
        let taken = !over && (own || !held_back) && self.bulkhead.acquire(tier);
        self.in_flight += u32::from(taken);
        taken
    }

    fn is_overloaded(&self, tier: usize, now: f64) -> bool {
        let Some(bound) = self.policy.overload else { return false };
        let (micros, count) = &self.waits[tier];
        let at = self.at(now);
        micros.sum(at) as f64 / 1e6 > bound * count.sum(at) as f64
    }

    fn waited(&self, tier: usize, seconds: f64, now: f64) {
        let at = self.at(now);
        self.waits[tier].0.add((seconds * 1e6) as u32, at);
        self.waits[tier].1.add(1, at);
    }

    fn is_late(&self, request: &Request, now: f64) -> bool {
        let median = self.medians[request.tier].estimate(self.at(now)).unwrap_or_default();
        self.policy.deadline_aware && request.deadline - now < median.as_secs_f64()
    }

    fn key(&self, id: usize, request: &Request) -> (u64, usize) {
        match self.policy.order {
            Order::Fifo => (0, id),
            Order::EarliestDeadline => ((request.deadline * 1e9) as u64, id),
        }
    }

    fn at(&self, now: f64) -> Instant {
        self.origin + Duration::from_secs_f64(now)
    }
}

/// How it went at the server, and the seconds that it took.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Answered(f64),
    GivenUp(f64),
    Refused,
}

/// What becomes of a request at the door.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Entered {
    Slot,
    Queued,
    Shed,
}

/// What becomes of one in the queue.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Turn {
    Slot,
    TooLate,
}
