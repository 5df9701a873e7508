//! The protocol against a model of everything around it: a register, a table of leases, messages that take their time, gateways that
//! stop and lose their connections. Whatever the order, no read returns less than a push that was acknowledged before it was asked, or
//! than a read before it.
//!
//! Terms, fences and rounds are those that gateways use; Redis is twenty lines here. Time goes on in steps, and a seed says in what order
//! things happen.

use std::{cell::Cell, collections::VecDeque};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::resilience::round::{Round, Step};

const STEP: Duration = Duration::from_millis(10);
const LENGTH: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_millis(50);
const ROW: RowId = RowId(1);

/// What a gateway does that the protocol is there for; one of them left out, the model must find what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Omitted {
    Nothing,
    /// Rows are written first, and let go of then.
    HoldingBefore,
    /// Nobody is waited for.
    Acknowledgements,
    /// Those who do not answer are not waited for.
    SilentOnes,
    /// Who enters does not hear of what is held.
    HoldsOnEntry,
    /// Fills are kept whenever they come.
    Fences,
    /// Rows of an earlier term are served.
    Terms,
}

/// A gateway's part of the table.
#[derive(Clone, Copy)]
struct Granted {
    until: Instant,
    revoked: bool,
}

#[derive(Clone, Copy)]
enum Message {
    Hold(RoundId),
    Release(RoundId),
    Heard { round: RoundId, by: usize },
}

struct Gateway {
    lease: Lease,
    fences: Fences,
    cached: Cell<Option<(u64, Instant)>>,
    inbox: VecDeque<(Instant, Message)>,
    stopped_until: Instant,
    /// A fetch on its way: when it was asked, what it found, when it is there.
    fill: Option<(Instant, u64, Instant)>,
    push: Option<Push>,
    renewed: Instant,
}

enum Push {
    Waiting { version: u64, id: RoundId, round: Round },
    Writing { version: u64, id: RoundId, at: Instant },
    WrittenFirst { id: RoundId, version: u64, round: Round },
}

struct World {
    now: Instant,
    rng: SmallRng,
    omitted: Omitted,
    stored: u64,
    next: u64,
    table: Vec<Option<Granted>>,
    holds: Vec<RoundId>,
    gateways: Vec<Gateway>,
    /// The greatest version that was acknowledged, or read.
    floor: u64,
    violations: usize,
    acknowledged: usize,
    hits: usize,
}

impl World {
    fn new(seed: u64, omitted: Omitted) -> Self {
        let now = Instant::now();
        let gateway = || Gateway {
            lease: Lease::none(),
            fences: Fences::new(1000 * LENGTH),
            cached: Cell::new(None),
            inbox: VecDeque::new(),
            stopped_until: now,
            fill: None,
            push: None,
            renewed: now,
        };
        Self {
            now,
            rng: SmallRng::seed_from_u64(seed),
            omitted,
            stored: 0,
            next: 0,
            table: vec![None; 3],
            holds: Vec::new(),
            gateways: (0..3).map(|_| gateway()).collect(),
            floor: 0,
            violations: 0,
            acknowledged: 0,
            hits: 0,
        }
    }

    fn run(mut self) -> (usize, usize, usize) {
        for _ in 0..3000 {
            self.now += STEP;
            let at = self.rng.random_range(0..3);
            if self.rng.random_bool(0.006) {
                self.gateways[at].stopped_until = self.now + self.rng.random_range(1..100) * STEP;
            }
            if self.rng.random_bool(0.006) {
                self.disconnect(at);
            }
            for at in 0..3 {
                if self.gateways[at].stopped_until <= self.now {
                    self.act(at);
                }
            }
        }
        (self.violations, self.acknowledged, self.hits)
    }

    fn disconnect(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        gateway.inbox.clear();
        gateway.lease.end();
        // Nothing of it was written: it is released once the connection is there again.
        if let Some(Push::Waiting { id, .. } | Push::Writing { id, .. }) = gateway.push.take() {
            self.holds.retain(|hold| *hold != id);
            self.tell(Message::Release(id), None);
        }
    }

    fn act(&mut self, at: usize) {
        self.renew(at);
        // What is heard is not heard at once.
        if self.rng.random_bool(0.5) {
            self.hear(at);
        }
        self.land(at);
        self.go_on_pushing(at);
        match self.rng.random_range(0..60) {
            0 if self.gateways[at].push.is_none() => self.push(at),
            1..22 => self.read(at),
            _ => {}
        }
    }

    fn renew(&mut self, at: usize) {
        let (now, gateway) = (self.now, &mut self.gateways[at]);
        if gateway.lease.term(now).is_some() && now < gateway.renewed + LENGTH / 3 {
            return;
        }
        gateway.renewed = now;
        let granted = self.table[at].filter(|granted| !granted.revoked && now < granted.until);
        if gateway.lease.term(now).is_some() && granted.is_some() {
            gateway.lease.renew(LENGTH, now, now);
        } else {
            gateway.lease.end();
            if self.omitted != Omitted::HoldsOnEntry {
                self.holds.iter().for_each(|round| gateway.hold(*round, now));
            }
            gateway.lease.begin(LENGTH, now, now);
        }
        self.table[at] = Some(Granted { until: now + LENGTH, revoked: false });
    }

    fn tell(&mut self, message: Message, to: Option<usize>) {
        for (at, gateway) in self.gateways.iter_mut().enumerate() {
            if to.is_none_or(|to| to == at) {
                let last = gateway.inbox.back().map_or(self.now, |(due, _)| *due);
                let due = last.max(self.now + self.rng.random_range(0..3) * STEP);
                gateway.inbox.push_back((due, message));
            }
        }
    }

    fn hear(&mut self, at: usize) {
        loop {
            let gateway = &mut self.gateways[at];
            let Some((_, message)) = gateway.inbox.front().copied().filter(|(due, _)| *due <= self.now) else { return };
            gateway.inbox.pop_front();
            match message {
                Message::Hold(round) if round.by != at as u64 => {
                    gateway.hold(round, self.now);
                    self.tell(Message::Heard { round, by: at }, Some(round.by as usize));
                }
                Message::Release(round) => gateway.fences.release(ROW, round, self.now, || ()),
                Message::Heard { round, by } => match &mut gateway.push {
                    Some(Push::Waiting { id, round: waits, .. } | Push::WrittenFirst { id, round: waits, .. })
                        if *id == round =>
                    {
                        waits.acknowledged(by as u64);
                    }
                    _ => {}
                },
                Message::Hold(_) => {}
            }
        }
    }

    /// Notes the round, tells all, and lists who has a lease.
    fn begin_round(&mut self, at: usize, id: RoundId) -> Round {
        let now = self.now;
        self.gateways[at].hold(id, now);
        self.holds.push(id);
        self.tell(Message::Hold(id), None);
        let is_other = |gateway: &usize| *gateway != at && self.omitted != Omitted::Acknowledgements;
        let listed = (0..3).filter(is_other).filter_map(|gateway| {
            let Granted { until, revoked } = self.table[gateway].filter(|granted| now < granted.until)?;
            Some((gateway as u64, until - now, revoked))
        });
        Round::new(listed.collect::<Vec<_>>(), now, PATIENCE)
    }

    fn push(&mut self, at: usize) {
        self.next += 1;
        let (version, id) = (self.next, RoundId { by: at as u64, number: self.next });
        if self.omitted == Omitted::HoldingBefore {
            self.stored = self.stored.max(version);
            let round = self.begin_round(at, id);
            self.gateways[at].push = Some(Push::WrittenFirst { id, version, round });
        } else {
            let round = self.begin_round(at, id);
            self.gateways[at].push = Some(Push::Waiting { version, id, round });
        }
    }

    fn go_on_pushing(&mut self, at: usize) {
        let now = self.now;
        self.gateways[at].push = match self.gateways[at].push.take() {
            Some(Push::Waiting { version, id, mut round }) => {
                if self.is_through(&mut round) {
                    Some(Push::Writing { version, id, at: now })
                } else {
                    Some(Push::Waiting { version, id, round })
                }
            }
            Some(Push::WrittenFirst { id, version, mut round }) => {
                if self.is_through(&mut round) {
                    self.acknowledge(at, id, version, now);
                    None
                } else {
                    Some(Push::WrittenFirst { id, version, round })
                }
            }
            Some(Push::Writing { version, id, at: began }) => {
                self.stored = self.stored.max(version);
                self.acknowledge(at, id, version, began);
                None
            }
            None => None,
        };
    }

    fn is_through(&mut self, round: &mut Round) -> bool {
        match round.step(self.now) {
            Step::Done => true,
            Step::Wait(_) => false,
            Step::Revoke(_) if self.omitted == Omitted::SilentOnes => true,
            Step::Revoke(gateways) => {
                for gateway in gateways {
                    let granted = self.table[gateway as usize].as_mut().filter(|granted| self.now < granted.until);
                    let left = granted.map_or(Duration::ZERO, |granted| {
                        granted.revoked = true;
                        granted.until - self.now
                    });
                    round.revoked(gateway, left, self.now);
                }
                false
            }
        }
    }

    fn acknowledge(&mut self, at: usize, id: RoundId, version: u64, began: Instant) {
        self.holds.retain(|hold| *hold != id);
        self.tell(Message::Release(id), None);
        let gateway = &self.gateways[at];
        let is_stored = self.stored == version;
        gateway.fences.release(ROW, id, self.now, || {
            if is_stored {
                gateway.cached.set(Some((version, began)));
            }
        });
        self.floor = self.floor.max(version);
        self.acknowledged += 1;
    }

    fn land(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        let Some((asked, found, _)) = gateway.fill.take_if(|(.., due)| *due <= self.now) else { return };
        let put = || gateway.cached.set(Some((found, asked)));
        if self.omitted == Omitted::Fences {
            put();
        } else {
            gateway.fences.keep(ROW, (asked, self.now), put);
        }
    }

    fn read(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        let is_served = |asked: Instant| match self.omitted {
            Omitted::Terms => gateway.lease.term(self.now).is_some(),
            _ => gateway.lease.vouches(asked, self.now),
        };
        let seen = match gateway.cached.get().filter(|(_, asked)| is_served(*asked)) {
            Some((version, _)) => {
                self.hits += 1;
                version
            }
            None => {
                let due = self.now + self.rng.random_range(1..60) * STEP;
                gateway.fill.get_or_insert((self.now, self.stored, due));
                self.stored
            }
        };
        self.violations += usize::from(seen < self.floor);
        self.floor = self.floor.max(seen);
    }
}

impl Gateway {
    fn hold(&self, round: RoundId, now: Instant) {
        self.fences.hold(ROW, round, now, || self.cached.set(None));
    }
}

fn violations(omitted: Omitted) -> (usize, usize, usize) {
    let runs = (0..60).map(|seed| World::new(seed, omitted).run());
    runs.fold((0, 0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1, sum.2 + run.2))
}

#[test]
fn whatever_the_order_no_read_is_stale_or_goes_back() {
    let (violations, acknowledged, hits) = violations(Omitted::Nothing);
    assert_eq!(violations, 0);
    assert!(acknowledged > 5000 && hits > 5000, "{acknowledged} pushes acknowledged, {hits} hits");
}

#[test]
fn each_of_its_parts_is_needed() {
    for omitted in [
        Omitted::HoldingBefore,
        Omitted::Acknowledgements,
        Omitted::SilentOnes,
        Omitted::HoldsOnEntry,
        Omitted::Fences,
        Omitted::Terms,
    ] {
        assert!(violations(omitted).0 > 0, "{omitted:?} is not missed");
    }
}
