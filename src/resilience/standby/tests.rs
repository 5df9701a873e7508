//! The sentences one by one, then a world in which anything happens to both stores.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn standby(order: Order) -> Standby {
    Standby::new(15 * SECOND, 10 * SECOND, order)
}

const fn here(writable: bool, acknowledged: u64) -> ProbeResult {
    ProbeResult::Here { writable, counts: Counts { acknowledged, vouched: 0 } }
}

const fn vouched(vouched: u64) -> ProbeResult {
    ProbeResult::Here { writable: true, counts: Counts { acknowledged: 0, vouched } }
}

const WELL: ProbeResult = here(true, 0);
const REPLICA: ProbeResult = here(false, 0);

#[track_caller]
fn walk(machine: &mut Standby, steps: &[(u32, ProbeResult, ProbeResult, Verdict)]) {
    let origin = Instant::now();
    for (second, primary, standby, expected) in steps {
        let verdict = machine.look((*primary, *standby), origin + *second * SECOND);
        assert_eq!(verdict, *expected, "at second {second}");
        if matches!(verdict, Verdict::Back { .. }) {
            machine.is_back();
        }
    }
}

#[test]
fn over_once_the_primary_is_gone_for_long_and_back_once_it_is_well_for_long() {
    use Verdict::{Back, Over, Stay};
    walk(
        &mut standby(Order::Kept),
        &[
            (0, WELL, REPLICA, Stay(Why::Well)),
            (1, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            (15, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            // A success begins the wait anew.
            (16, WELL, REPLICA, Stay(Why::Well)),
            (17, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            (31, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            (32, ProbeResult::Gone, REPLICA, Over(Why::PrimaryGone)),
            (33, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            (40, WELL, REPLICA, Stay(Why::Settling)),
            (49, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            (50, WELL, REPLICA, Stay(Why::Settling)),
            (59, WELL, REPLICA, Stay(Why::Settling)),
            (60, WELL, REPLICA, Back { close_at: None, count: 0 }),
            (61, WELL, REPLICA, Stay(Why::Well)),
        ],
    );
}

#[test]
fn nobody_goes_to_a_standby_that_is_gone_or_no_better() {
    use Verdict::{Over, Stay};
    walk(
        &mut standby(Order::Kept),
        &[
            (0, ProbeResult::Gone, ProbeResult::Gone, Stay(Why::PrimaryGone)),
            (15, ProbeResult::Gone, ProbeResult::Gone, Stay(Why::StandbyGone)),
            (16, REPLICA, REPLICA, Stay(Why::ReadOnly)),
            (17, REPLICA, WELL, Over(Why::ReadOnly)),
        ],
    );
}

#[test]
fn the_primary_must_have_what_was_acknowledged_and_the_standby_is_closed() {
    use Verdict::{Back, Over, Stay};
    let mut machine = standby(Order::Kept);
    walk(
        &mut machine,
        &[
            (0, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            (15, ProbeResult::Gone, WELL, Over(Why::PrimaryGone)),
            (16, ProbeResult::Gone, here(true, 3), Stay(Why::PrimaryGone)),
            (20, here(true, 0), here(true, 3), Stay(Why::Lacks { has: 0, of: 3 })),
            (21, here(false, 2), here(true, 3), Stay(Why::ReadOnly)),
            (22, here(true, 3), here(true, 3), Stay(Why::Settling)),
            (32, here(true, 3), here(true, 3), Back { close_at: Some(3), count: 3 }),
        ],
    );
    // It is not forgotten with the standby that knew it.
    machine.has_acknowledged(4);
    assert_eq!(
        machine.look((here(true, 3), WELL), Instant::now() + 60 * SECOND),
        Over(Why::Lacks { has: 3, of: 4 }),
        "others acknowledged more"
    );
}

#[test]
fn a_primary_that_was_handed_the_work_is_not_waited_for() {
    use Verdict::{Back, Over, Stay};
    let until_handed_over = |order, last| {
        walk(
            &mut standby(order),
            &[
                (0, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
                (15, ProbeResult::Gone, REPLICA, Over(Why::PrimaryGone)),
                (16, ProbeResult::Gone, here(true, 0), Stay(Why::PrimaryGone)),
                (18, REPLICA, here(true, 3), Stay(Why::ReadOnly)),
                last,
            ],
        );
    };
    until_handed_over(Order::Kept, (19, here(true, 3), here(false, 3), Back { close_at: None, count: 3 }));
    // Not so if it lacks anything, or if both lead: the standby takes writes for as long.
    until_handed_over(Order::Kept, (19, here(true, 2), here(false, 3), Stay(Why::Lacks { has: 2, of: 3 })));
    until_handed_over(Order::Kept, (19, here(true, 3), here(true, 3), Stay(Why::Settling)));
    until_handed_over(Order::Unknown, (19, vouched(3), here(false, 3), Stay(Why::Settling)));
    // Nobody led it when it was left: it handed nothing over the next time.
    let mut machine = standby(Order::Kept);
    walk(
        &mut machine,
        &[
            (0, ProbeResult::Gone, WELL, Stay(Why::PrimaryGone)),
            (15, ProbeResult::Gone, WELL, Over(Why::PrimaryGone)),
            (16, WELL, REPLICA, Back { close_at: None, count: 0 }),
            (17, ProbeResult::Gone, REPLICA, Stay(Why::PrimaryGone)),
            (32, ProbeResult::Gone, REPLICA, Over(Why::PrimaryGone)),
            (33, WELL, REPLICA, Stay(Why::Settling)),
        ],
    );
}

#[test]
fn where_counts_prove_nothing_an_operator_does() {
    use Verdict::{Back, Over, Stay};
    walk(
        &mut standby(Order::Unknown),
        &[
            (0, here(true, 0), here(true, 5), Over(Why::Lacks { has: 0, of: 5 })),
            (20, here(true, 5), here(true, 5), Stay(Why::Lacks { has: 0, of: 5 })),
            (21, vouched(5), here(true, 5), Back { close_at: Some(5), count: 5 }),
        ],
    );
}

#[test]
fn a_standby_that_is_gone_as_well_is_not_waited_for_longer_than_a_primary() {
    use Verdict::{Back, Over, Stay};
    walk(
        &mut standby(Order::Kept),
        &[
            (0, ProbeResult::Gone, WELL, Stay(Why::PrimaryGone)),
            (15, ProbeResult::Gone, WELL, Over(Why::PrimaryGone)),
            (20, WELL, ProbeResult::Gone, Stay(Why::Settling)),
            (30, WELL, ProbeResult::Gone, Stay(Why::NotClosed)),
            (35, WELL, ProbeResult::Gone, Back { close_at: None, count: 0 }),
        ],
    );
}

/// A store of the world: what it holds is the writes that were made in it or that it was sent, in order.
#[derive(Clone, Debug, Default)]
struct Store {
    up: bool,
    follows: bool,
    /// Each write, and whether it was acknowledged at the standby; its count stands with it.
    log: Vec<(u32, u64)>,
    count: u64,
    vouched: u64,
    closed: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The primary crashes, keeping what it has, or comes back: as a primary, or following the standby.
    Crash,
    Return {
        follows: bool,
    },
    /// Whoever follows becomes a primary.
    Promote(Side),
    Follow(Side),
    /// Whoever follows is sent all that the other has.
    Sync,
    Push(usize),
    Look(usize),
    Cut(usize),
    Mend(usize),
    /// An operator says that the primary has all that it is to have.
    Vouch,
    /// The standby is set up anew, and is sent nothing.
    Rebuild,
    Wait,
}

fn event() -> impl Strategy<Value = Event> {
    let side = || prop_oneof![Just(Side::Primary), Just(Side::Standby)];
    prop_oneof![
        1 => Just(Event::Crash),
        2 => any::<bool>().prop_map(|follows| Event::Return { follows }),
        2 => side().prop_map(Event::Promote),
        1 => side().prop_map(Event::Follow),
        4 => Just(Event::Sync),
        6 => (0..2usize).prop_map(Event::Push),
        8 => (0..2usize).prop_map(Event::Look),
        1 => (0..2usize).prop_map(Event::Cut),
        1 => (0..2usize).prop_map(Event::Mend),
        1 => Just(Event::Vouch),
        1 => Just(Event::Rebuild),
        4 => Just(Event::Wait),
    ]
}

struct User {
    machine: Standby,
    reaches_primary: bool,
    token: Option<u32>,
}

struct World {
    stores: [Store; 2],
    users: [User; 2],
    now: Instant,
    next: u32,
    /// Acknowledged at the standby, by which count.
    acknowledged: Vec<(u32, u64)>,
}

const P: usize = 0;
const S: usize = 1;

impl World {
    fn new() -> Self {
        let user =
            || User { machine: Standby::new(3 * SECOND, 2 * SECOND, Order::Kept), reaches_primary: true, token: None };
        let store = |follows| Store { up: true, follows, ..Store::default() };
        Self {
            stores: [store(false), store(true)],
            users: [user(), user()],
            now: Instant::now(),
            next: 0,
            acknowledged: Vec::new(),
        }
    }

    fn seen(&self, user: usize, at: usize) -> ProbeResult {
        let store = &self.stores[at];
        if !store.up || (at == P && !self.users[user].reaches_primary) {
            return ProbeResult::Gone;
        }
        let counts = Counts { acknowledged: store.count, vouched: store.vouched };
        ProbeResult::Here { writable: !store.follows, counts }
    }

    fn push(&mut self, user: usize) {
        let at = if self.users[user].machine.side() == Side::Primary { P } else { S };
        let ProbeResult::Here { writable: true, .. } = self.seen(user, at) else { return };
        self.next += 1;
        self.stores[at].log.push((self.next, 0));
        if at == P {
            return;
        }
        let (token, highest) = (self.users[user].token, self.users[user].machine.highest());
        let store = &mut self.stores[S];
        if store.closed.is_some() && store.closed != token {
            return;
        }
        store.closed = None;
        store.count = store.count.max(highest) + 1;
        self.acknowledged.push((self.next, store.count));
        self.users[user].machine.has_acknowledged(store.count);
    }

    fn look(&mut self, user: usize) {
        let seen = (self.seen(user, P), self.seen(user, S));
        let verdict = self.users[user].machine.look(seen, self.now);
        match verdict {
            Verdict::Over(Why::PrimaryGone | Why::ReadOnly) => self.users[user].token = self.stores[S].closed,
            Verdict::Over(_) => self.users[user].token = None,
            Verdict::Stay(_) => {}
            Verdict::Back { close_at, count } => {
                self.stores[P].count = self.stores[P].count.max(count);
                if let Some(count) = close_at {
                    let store = &mut self.stores[S];
                    if store.count > count {
                        return;
                    }
                    self.next += 1;
                    store.closed.get_or_insert(self.next);
                }
                self.users[user].machine.is_back();
                self.has_all(user);
            }
        }
    }

    /// Whoever goes back finds all that was acknowledged at the standby in the primary.
    fn has_all(&self, user: usize) {
        for (write, count) in &self.acknowledged {
            assert!(
                self.stores[P].log.iter().any(|(has, _)| has == write),
                "user {user} went back to a primary without write {write} of count {count}"
            );
        }
    }

    fn happen(&mut self, event: Event) {
        self.now += SECOND / 2;
        match event {
            Event::Crash => self.stores[P].up = false,
            Event::Return { follows } => {
                // Of two that follow each other neither would ever take a write.
                self.stores[P].follows = follows && !self.stores[S].follows;
                self.stores[P].up = true;
            }
            Event::Promote(side) => self.stores[side as usize].follows = false,
            Event::Follow(side) => {
                let other = 1 - side as usize;
                self.stores[side as usize].follows |= !self.stores[other].follows;
            }
            Event::Sync if self.stores[P].up => {
                for (from, to) in [(P, S), (S, P)] {
                    if self.stores[to].follows && !self.stores[from].follows {
                        let Store { up, follows, .. } = self.stores[to];
                        self.stores[to] = Store { up, follows, ..self.stores[from].clone() };
                    }
                }
            }
            Event::Push(user) => self.push(user),
            Event::Look(user) => self.look(user),
            Event::Cut(user) => self.users[user].reaches_primary = false,
            Event::Mend(user) => self.users[user].reaches_primary = true,
            Event::Vouch if self.stores[P].up => {
                // For no less than before: a standby that follows again may have forgotten what it counted.
                self.stores[P].vouched = self.stores[P].vouched.max(self.stores[S].count);
                self.acknowledged.clear();
            }
            Event::Sync | Event::Vouch => {}
            Event::Rebuild => {
                self.stores[S] = Store { up: true, ..Store::default() };
                self.acknowledged.clear();
            }
            Event::Wait => self.now += 5 * SECOND,
        }
    }
}

/// An operator's mistake that loses acknowledged rows, whatever is done here: the standby is made to follow a primary that lacks them, or
/// is set up anew while somebody is with it, or before everybody has seen how far it had counted.
fn loses(world: &World, event: Event) -> bool {
    let [primary, standby] = &world.stores;
    let lacks = primary.count.max(primary.vouched) < standby.count;
    match event {
        Event::Follow(Side::Standby) => lacks,
        Event::Sync => standby.follows && lacks,
        Event::Rebuild => {
            let knows = |user: &User| user.machine.side() == Side::Primary && user.machine.highest() >= standby.count;
            lacks || !world.users.iter().all(knows)
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn nobody_goes_back_to_less_than_was_acknowledged(events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        for event in events {
            if !loses(&world, event) {
                world.happen(event);
            }
        }
    }

    /// Once both see both stores and nothing else happens, both are with the same one.
    #[test]
    fn users_that_see_the_same_come_together(events in prop::collection::vec(event(), 0..100)) {
        let mut world = World::new();
        events.into_iter().for_each(|event| if !loses(&world, event) { world.happen(event) });
        [Event::Mend(0), Event::Mend(1), Event::Return { follows: false }].into_iter().for_each(|event| world.happen(event));
        for _ in 0..3 {
            [Event::Wait, Event::Look(0), Event::Look(1)].into_iter().for_each(|event| world.happen(event));
        }
        prop_assert_eq!(world.users[0].machine.side(), world.users[1].machine.side());
    }
}
