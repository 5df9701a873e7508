//! Fetches, pushes, invalidations and reads in any order, against what they promise.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{super::Cached, *};
use crate::{
    config::{L1, L1Mode},
    features::{
        Row,
        memory::Fetch,
        tests::{int, key, row, view},
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const VIEWS: u32 = 2;
const USERS: i64 = 3;

fn memory() -> Memory {
    let l1 =
        L1 { mode: L1Mode::Serve, capacity: 1 << 20, ttl: HOUR, stale_for: HOUR, negative_ttl: HOUR, warm_start: None };
    let views: Vec<_> = (0..VIEWS).map(|id| view(&format!("v{id}")).id(id).build()).collect();
    Memory::new(&l1, &views)
}

fn rows_of(memory: &Memory, at: Instant) -> Vec<Option<Arc<Row>>> {
    let keys = (0..VIEWS).flat_map(|view| (0..USERS).map(move |user| (view, user)));
    keys.map(|(view, user)| match memory.get(ViewId(view), &key(user), at) {
        Cached::Fresh(row) => row,
        Cached::Early(row) | Cached::Stale { row, .. } => Some(row),
        Cached::Miss => None,
    })
    .collect()
}

#[derive(Clone, Copy, Debug)]
enum Scope {
    Row(u32, i64),
    View(u32),
    Prefix(u32, i64),
    Slots(i64),
    All,
}

impl Scope {
    fn covers(self, view: u32, user: i64) -> bool {
        match self {
            Self::Row(of, whose) | Self::Prefix(of, whose) => (of, whose) == (view, user),
            Self::View(of) => of == view,
            Self::Slots(whose) => whose == user,
            Self::All => true,
        }
    }

    fn drop_from(self, memory: &Memory, at: Instant) {
        let is = |whose: i64| move |entity: &[u8]| entity == key(whose).as_bytes();
        match self {
            Self::Row(view, user) => _ = memory.drop_row(ViewId(view), &key(user), at),
            Self::View(view) => memory.drop_view(ViewId(view), at),
            Self::Prefix(view, user) => _ = memory.sweep_out(Swept::Some(ViewId(view), &is(user)), at),
            Self::Slots(user) => _ = memory.sweep_out(Swept::Any(&is(user)), at),
            Self::All => memory.drop_all(at),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(u32, i64),
    /// One of those under way ends, and finds something, or nothing.
    End(prop::sample::Index),
    /// The same, of L3 while L2 cannot be asked.
    EndInDoubt(prop::sample::Index),
    /// One of those under way was a push.
    Stored(prop::sample::Index),
    Invalidate(Scope),
    /// Frees memory; changes nothing that is seen.
    Sweep,
    /// Time passes.
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let of = || (0..VIEWS, 0..USERS);
    let scope = prop_oneof![
        4 => of().prop_map(|(view, user)| Scope::Row(view, user)),
        1 => (0..VIEWS).prop_map(Scope::View),
        1 => of().prop_map(|(view, user)| Scope::Prefix(view, user)),
        1 => (0..USERS).prop_map(Scope::Slots),
        1 => Just(Scope::All),
    ];
    let step = prop_oneof![
        4 => of().prop_map(|(view, user)| Step::Begin(view, user)),
        4 => any::<prop::sample::Index>().prop_map(Step::End),
        1 => any::<prop::sample::Index>().prop_map(Step::EndInDoubt),
        2 => any::<prop::sample::Index>().prop_map(Step::Stored),
        2 => scope.prop_map(Step::Invalidate),
        1 => Just(Step::Sweep),
        4 => Just(Step::Tick),
    ];
    prop::collection::vec(step, 1..80)
}

/// A fetch or a push under way.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    view: u32,
    user: i64,
    began: Instant,
    /// What it finds tells when it began, in the model's own count of ticks.
    tick: i64,
}

/// What happened, by the count of ticks.
#[derive(Default)]
struct Model {
    tick: i64,
    invalidations: Vec<(i64, Scope)>,
    pushes: Vec<(i64, u32, i64)>,
}

impl Model {
    /// Whether a row of what began then may be seen.
    fn allows(&self, view: u32, user: i64, began: i64) -> bool {
        self.invalidations.iter().all(|(at, scope)| !scope.covers(view, user) || began > *at)
    }

    /// Whether it must be: nothing happened since that could concern it.
    fn demands(&self, began: i64) -> bool {
        self.invalidations.iter().all(|(at, _)| began > *at) && self.pushes.iter().all(|(at, ..)| began > *at)
    }
}

fn told(row: &Row) -> i64 {
    match row.values[0] {
        Some(crate::infer::Value::Int64(tick)) => tick,
        _ => panic!("{row:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn model(steps in steps()) {
        let (memory, mut model) = (memory(), Model::default());
        let (mut now, mut under_way) = (Instant::now(), Vec::<UnderWay>::new());
        for step in steps {
            let take = |index: prop::sample::Index, under_way: &mut Vec<UnderWay>| {
                (!under_way.is_empty()).then(|| under_way.swap_remove(index.index(under_way.len())))
            };
            match step {
                Step::Begin(view, user) => under_way.push(UnderWay { view, user, began: now, tick: model.tick }),
                Step::End(index) => if let Some(UnderWay { view, user, began, tick }) = take(index, &mut under_way) {
                    let found = Arc::new(row(tick, [int(tick)]));
                    memory.put(ViewId(view), &key(user), Some(found), Fetch { began, took: now - began });
                    if model.demands(tick) {
                        let held = rows_of(&memory, now)[(i64::from(view) * USERS + user) as usize].clone();
                        prop_assert!(held.is_some_and(|held| told(&held) >= tick), "it was not kept");
                    }
                },
                Step::EndInDoubt(index) => if let Some(UnderWay { view, user, began, tick }) = take(index, &mut under_way) {
                    memory.put_doubtful(ViewId(view), &key(user), &Arc::new(row(tick, [int(tick)])), began);
                },
                Step::Stored(index) => if let Some(UnderWay { view, user, began, tick }) = take(index, &mut under_way) {
                    let pushed = row(tick, [int(tick)]);
                    let event = pushed.event_time;
                    memory.renew(ViewId(view), &key(user), (Some(Arc::new(pushed)), event), Fetch { began, took: now - began });
                    model.pushes.push((model.tick, view, user));
                },
                Step::Invalidate(scope) => {
                    scope.drop_from(&memory, now);
                    model.invalidations.push((model.tick, scope));
                }
                Step::Sweep => _ = memory.rows.remove_all(|_, entry| entry.is_dead(now)),
                Step::Tick => {
                    now += Duration::from_nanos(1);
                    model.tick += 1;
                }
            }
            for (at, held) in rows_of(&memory, now).into_iter().enumerate() {
                let (view, user) = ((at as i64 / USERS) as u32, at as i64 % USERS);
                if let Some(held) = held {
                    prop_assert!(model.allows(view, user, told(&held)), "view {} user {}: {:?}", view, user, held);
                }
            }
        }
    }
}

/// One thread writes and invalidates, others fetch, and read what is kept: as soon as an invalidation has returned nobody sees
/// what was before.
fn on_threads(invalidate: impl Fn(&Memory)) {
    const ROUNDS: i64 = 400;
    let memory = &memory();
    // What the store has, and what was invalidated last.
    let (store, least, ended) = (&AtomicU64::new(0), &AtomicU64::new(0), &AtomicBool::new(false));
    let entity = &key(1);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    let found = i64::try_from(store.load(Ordering::SeqCst)).unwrap();
                    memory.put(ViewId(0), entity, Some(Arc::new(row(1, [int(found)]))), began);
                    let least = least.load(Ordering::SeqCst);
                    let Cached::Fresh(Some(row)) = memory.get(ViewId(0), entity, Instant::now()) else { continue };
                    assert!(told(&row) >= i64::try_from(least).unwrap(), "{row:?} after {least}");
                }
            });
        }
        for round in 1..=ROUNDS {
            store.store(round.unsigned_abs(), Ordering::SeqCst);
            invalidate(memory);
            least.store(round.unsigned_abs(), Ordering::SeqCst);
            std::thread::yield_now();
        }
        ended.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_row_that_was_dropped_is_not_seen_again_on_any_thread() {
    on_threads(|memory| _ = memory.drop_row(ViewId(0), &key(1), Instant::now()));
}

#[test]
fn a_view_that_was_dropped_is_not_seen_again_on_any_thread() {
    on_threads(|memory| memory.drop_view(ViewId(0), Instant::now()));
}

#[test]
fn what_was_swept_out_is_not_seen_again_on_any_thread() {
    on_threads(|memory| _ = memory.sweep_out(Swept::Some(ViewId(0), &|_| true), Instant::now()));
}

#[test]
fn a_sweep_counts_what_it_drops_and_drops_nothing_else() {
    let memory = memory();
    let now = Instant::now();
    let fill = || {
        for view in 0..VIEWS {
            (0..USERS).for_each(|user| memory.put(ViewId(view), &key(user), Some(Arc::new(row(1, [int(1)]))), now));
        }
    };
    fill();
    let second = key(1);
    let is_second = |entity: &[u8]| entity == second.as_bytes();
    assert_eq!(memory.sweep_out(Swept::Any(&is_second), now), 2);
    assert_eq!(memory.sweep_out(Swept::Some(ViewId(1), &is_second), now), 0);
    assert_eq!(memory.rows(), 4);
    assert_eq!(memory.sweep_out(Swept::Of(ViewId(1)), now), 2);
    fill();
    assert_eq!(memory.rows(), 2, "what was fetched by then is not kept again");
    assert_eq!(memory.sweep_out(Swept::All, now - TICK), 0, "what was fetched since stays");
    assert_eq!(memory.sweep_out(Swept::All, now), 2);
}

#[test]
fn what_is_dropped_of_one_snapshot_is_dropped_of_the_next() {
    let memory = memory();
    let (now, row) = (Instant::now(), Arc::new(row(1, [int(1)])));
    memory.put(ViewId(0), &key(1), Some(Arc::clone(&row)), now);
    let l1 = L1 { mode: L1Mode::Serve, capacity: 1, ttl: HOUR, stale_for: HOUR, negative_ttl: HOUR, warm_start: None };
    // The second view is gone, and the first is one of them still.
    let next = memory.next(&l1, &[view("v0").id(0).build()]);
    memory.put(ViewId(1), &key(1), Some(row), now);
    next.drop_all(now);
    assert_eq!(memory.get(ViewId(0), &key(1), now), Cached::Miss);
    assert_eq!(memory.get(ViewId(1), &key(1), now), Cached::Miss);
}
