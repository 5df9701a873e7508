//! One run: events in the order of their time, all from one seed.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{
    backend::Backend,
    gateway::{End, Entered, Gateway, Policy, Request, Turn},
};

/// What a refusal costs the model server, of the request's work.
const REFUSING: f64 = 0.1;

/// Longest wait in a queue, in seconds.
const QUEUE_TIMEOUT: f64 = 0.1;

/// What is asked, and of what.
#[derive(Clone)]
pub(crate) struct Load {
    /// Requests that the server can run at full speed.
    pub(crate) servers: f64,
    /// Seconds of work of a mean request, by tier.
    pub(crate) work: Vec<f64>,
    /// Requests a second, by tier.
    pub(crate) rates: Vec<f64>,
    /// Deadlines in seconds, drawn evenly.
    pub(crate) deadlines: Vec<f64>,
    /// From the middle of the run on, the share of the servers that is left.
    pub(crate) left: f64,
    /// Seconds.
    pub(crate) length: f64,
}

/// What came of one tier.
#[derive(Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) offered: u32,
    /// Answered within the deadline.
    pub(crate) good: u32,
    /// Refused by the gateway.
    pub(crate) shed: u32,
    latencies: Vec<f64>,
}

impl Outcome {
    /// Seconds, of answers within the deadline.
    pub(crate) fn p99(&mut self) -> f64 {
        self.latencies.sort_by(f64::total_cmp);
        let last = self.latencies.len() * 99 / 100;
        self.latencies.get(last).copied().unwrap_or_default()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Event {
    Arrival,
    Deadline,
    QueueTimeout,
    Halving,
}

/// Time in nanoseconds, event, request.
type Scheduled = Reverse<(u64, u8, usize)>;

const EVENTS: [Event; 4] = [Event::Arrival, Event::Deadline, Event::QueueTimeout, Event::Halving];

/// A request at the server: when it was sent; `None` once its caller gave up or heard of a refusal.
type Sent = Option<f64>;

pub(crate) struct Run<'a> {
    load: &'a Load,
    gateway: Gateway,
    backend: Backend,
    requests: Vec<Request>,
    sent: Vec<Sent>,
    events: BinaryHeap<Scheduled>,
    outcomes: Vec<Outcome>,
    random: Random,
    now: f64,
}

/// What comes of a load under a policy, by tier; of the second half where servers are lost in the middle.
pub(crate) fn run(load: &Load, policy: &Policy) -> Vec<Outcome> {
    let mut run = Run {
        load,
        gateway: Gateway::new(policy.clone()),
        backend: Backend::new(load.servers, load.servers as usize * 16),
        requests: Vec::new(),
        sent: Vec::new(),
        events: BinaryHeap::new(),
        outcomes: vec![Outcome::default(); load.rates.len()],
        random: Random(0x9e37_79b9_7f4a_7c15),
        now: 0.0,
    };
    run.schedule_all();
    run.walk();
    run.outcomes
}

impl Run<'_> {
    fn schedule_all(&mut self) {
        for (tier, rate) in self.load.rates.iter().enumerate() {
            let mut at = 0.0;
            loop {
                at -= self.random.unit().ln() / rate;
                if at >= self.load.length {
                    break;
                }
                self.arrival(tier, at);
            }
        }
        self.schedule(self.load.length / 2.0, Event::Halving, 0);
    }

    fn arrival(&mut self, tier: usize, at: f64) {
        let deadline = self.load.deadlines[(self.random.unit() * self.load.deadlines.len() as f64) as usize];
        // Half of the work is the same for all, half is exponential.
        let work = self.load.work[tier] * (0.5 - 0.5 * self.random.unit().ln());
        let id = self.requests.len();
        self.requests.push(Request { tier, arrived: at, deadline: at + deadline, work });
        self.sent.push(None);
        self.schedule(at, Event::Arrival, id);
    }

    fn schedule(&mut self, at: f64, event: Event, id: usize) {
        self.events.push(Reverse(((at * 1e9).ceil() as u64, event as u8, id)));
    }

    fn walk(&mut self) {
        loop {
            let next = self.events.peek().map(|Reverse((at, ..))| *at as f64 / 1e9);
            match (self.backend.next(), next) {
                (Some(done), at) if at.is_none_or(|at| done <= at) => {
                    self.now = self.now.max(done);
                    self.finish(self.now);
                }
                (_, Some(at)) => {
                    // Events are rounded to nanoseconds, the server's are not.
                    self.now = self.now.max(at);
                    self.event(self.now);
                }
                (_, None) => return,
            }
        }
    }

    fn event(&mut self, now: f64) {
        let Some(Reverse((_, event, id))) = self.events.pop() else { return };
        match EVENTS[event as usize] {
            Event::Arrival => self.arrive(id, now),
            Event::Deadline => self.give_up(id, now),
            Event::QueueTimeout => self.refuse_queued(id),
            Event::Halving => {
                self.backend.advance(now);
                self.backend.servers *= self.load.left;
            }
        }
        self.hand_out(now);
    }

    fn arrive(&mut self, id: usize, now: f64) {
        let request = self.requests[id];
        self.count(id, |outcome| outcome.offered += 1);
        match self.gateway.enter(id, &request, now) {
            Entered::Slot => self.send(id, now),
            Entered::Queued => {
                self.schedule(now + QUEUE_TIMEOUT, Event::QueueTimeout, id);
                self.schedule(request.deadline, Event::Deadline, id);
            }
            Entered::Shed => self.count(id, |outcome| outcome.shed += 1),
        }
    }

    fn send(&mut self, id: usize, now: f64) {
        let request = self.requests[id];
        let unit = self.random.unit();
        if !self.gateway.send(&request, unit, now) {
            return self.count(id, |outcome| outcome.shed += 1);
        }
        if self.backend.takes() {
            self.sent[id] = Some(now);
            self.schedule(request.deadline, Event::Deadline, id);
            self.backend.begin(id, request.work, now);
        } else {
            self.backend.begin(id, request.work * REFUSING, now);
            self.gateway.end(&request, End::Refused, now);
        }
    }

    fn finish(&mut self, now: f64) {
        let Some(id) = self.backend.finish(now) else { return };
        let Some(sent) = self.sent[id].take() else { return };
        let request = self.requests[id];
        self.gateway.end(&request, End::Answered(now - sent), now);
        self.count(id, |outcome| {
            outcome.good += 1;
            outcome.latencies.push(now - request.arrived);
        });
        self.hand_out(now);
    }

    fn give_up(&mut self, id: usize, now: f64) {
        let request = self.requests[id];
        if let Some(sent) = self.sent[id].take() {
            self.gateway.end(&request, End::GivenUp(now - sent), now);
        } else {
            self.refuse_queued(id);
        }
    }

    fn refuse_queued(&mut self, id: usize) {
        if self.gateway.leave(id, &self.requests[id]) {
            self.count(id, |outcome| outcome.shed += 1);
        }
    }

    fn hand_out(&mut self, now: f64) {
        while let Some((id, turn)) = self.gateway.next(&self.requests, now) {
            match turn {
                Turn::Slot => self.send(id, now),
                Turn::TooLate => self.count(id, |outcome| outcome.shed += 1),
            }
        }
    }

    fn count(&mut self, id: usize, change: impl FnOnce(&mut Outcome)) {
        let request = &self.requests[id];
        // Of a server that is lost, what comes after is what counts.
        if self.load.left >= 1.0 || request.arrived >= self.load.length / 2.0 {
            change(&mut self.outcomes[request.tier]);
        }
    }
}

/// xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    /// In (0, 1).
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}
