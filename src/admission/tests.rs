//! The door and the queue on a paused clock.

mod queue;

use std::{future::Future, pin::pin, time::Duration};

use futures_util::{FutureExt, future::join_all, poll};

use super::*;
use crate::{
    fixture,
    infer::Kind,
    telemetry::{Scrape, scratch},
};

const MS: Duration = Duration::from_millis(1);
const HIGH: u32 = 0;
const STANDARD: u32 = 1;

fn door() -> (Door, Scrape) {
    scratch(|| Door::new(&fixture::config()).unwrap())
}

fn enter(door: &Door, tier: u32, timeout: Duration) -> Result<Ticket, Error> {
    let request = fixture::request(0, tier, timeout);
    door.enter(&request, &plan(&request), Instant::now())
}

fn plan(request: &InferRequest) -> Plan {
    Plan::full(request.model, crate::infer::PoolId(0), request.tier, request.deadline)
}

/// Asks for the ticket's slot now.
fn slot(ticket: Ticket) -> impl Future<Output = Result<Permit, Error>> {
    ticket.slot(Instant::now())
}

/// Tells the door of as many answers as it takes to believe them.
fn answered(door: &Door, took: Duration) {
    let request = fixture::request(0, HIGH, took);
    (0..8).for_each(|_| door.answered(&plan(&request), Method::Predict, took, Instant::now()));
}

fn ticket(door: &Door, tier: u32) -> Ticket {
    enter(door, tier, Duration::from_secs(5)).unwrap()
}

/// Takes slots until none is free, without waiting.
fn fill(door: &Door, tier: u32) -> Vec<Permit> {
    std::iter::from_fn(|| slot(enter(door, tier, Duration::from_secs(5)).ok()?).now_or_never()?.ok()).collect()
}

fn waiting(door: &Door) -> Vec<u32> {
    door.tiers().map(|tier| tier.waiting).collect()
}

fn in_use(door: &Door) -> Vec<u32> {
    door.tiers().map(|tier| tier.in_use).collect()
}

#[tokio::test(start_paused = true)]
async fn slots_are_the_tiers_own_and_the_shared_ones() {
    let (door, _) = door();
    let standard = fill(&door, STANDARD);
    let high = fill(&door, HIGH);
    assert_eq!((standard.len(), high.len()), (6, 4), "3 reserved + 3 shared, then the reserved 4");
    drop((standard, high));
    assert_eq!(in_use(&door), [0, 0]);
    assert_eq!(fill(&door, HIGH).len(), 6, "at most 6, though 3 + 4 could be had");
}

#[tokio::test(start_paused = true)]
async fn room_is_what_a_tier_could_take_now_and_not_what_others_borrowed() {
    let (door, _) = door();
    let room = |door: &Door| door.tiers().map(|tier| tier.room).collect::<Vec<_>>();
    assert_eq!(room(&door), [6, 6]);
    let high = fill(&door, HIGH);
    assert_eq!((high.len(), room(&door)), (6, vec![0, 4]), "two of the three shared ones are lent");
    assert_eq!(fill(&door, STANDARD).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_higher_tier_that_has_its_most_holds_nobody_up() {
    let mut config = fixture::config();
    config.tiers[1].queue = 0;
    let (door, _) = scratch(|| Door::new(&config).unwrap());
    let _high = fill(&door, HIGH);
    let mut waiter = pin!(slot(ticket(&door, HIGH)));
    assert!(poll!(waiter.as_mut()).is_pending(), "six are its most");
    assert_eq!(fill(&door, STANDARD).len(), 4, "three of its own, and the shared one that is left");
}

#[tokio::test(start_paused = true)]
async fn a_shared_slot_goes_to_the_highest_that_waits() {
    let (door, _) = door();
    let mut standard = fill(&door, STANDARD);
    let _high = fill(&door, HIGH);
    let mut low = pin!(slot(ticket(&door, STANDARD)));
    assert!(poll!(low.as_mut()).is_pending());
    let mut high = pin!(slot(ticket(&door, HIGH)));
    assert!(poll!(high.as_mut()).is_pending());
    drop(standard.pop());
    let _permit = high.now_or_never().unwrap().unwrap();
    assert!(poll!(low.as_mut()).is_pending(), "it asked first, and is not higher");
}

#[tokio::test(start_paused = true)]
async fn a_tiers_own_pool_is_full_before_any_runs_elsewhere() {
    let (door, _) = door();
    let mut held = fill(&door, HIGH);
    let slots: Vec<Slot> = held.iter_mut().map(Permit::slot).collect();
    assert_eq!(slots, [[Slot::Own; 4].as_slice(), &[Slot::Borrowed; 2]].concat());
    let shown = |door: &Door| door.tiers().map(|tier| (tier.in_use, tier.borrowed)).next().unwrap();
    assert_eq!(shown(&door), (6, 2));
    drop(held.remove(0));
    assert_eq!(shown(&door), (5, 1), "the slot that came back is a shared one");
    let mut next = slot(ticket(&door, HIGH)).await.unwrap();
    assert_eq!(next.slot(), Slot::Own, "and the place at the own pool is the tier's again");
    assert_eq!(next.slot(), Slot::Own, "asked twice, taken once");
    let mut another = fill(&door, HIGH).pop();
    assert!(another.is_none());
    drop((held, next));
    another = fill(&door, HIGH).pop();
    assert_eq!(another.map(|mut permit| permit.slot()), Some(Slot::Own), "all places are back");
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_refuses_what_is_over_it_and_learns() {
    let mut config = fixture::config();
    config.capacity.slots = 100;
    config.pools[0].limit = config::Limit::Adaptive;
    let (door, scrape) = scratch(|| Door::new(&config).unwrap());
    scrape.before({
        let door = door.clone();
        move || door.observe()
    });
    let mut held = fill(&door, STANDARD);
    assert_eq!(held.len(), 60);
    let pool = PoolId(0);
    let counted = held.iter_mut().filter_map(|permit| permit.count_at(pool, Instant::now()).ok()).count();
    assert_eq!(counted, 20, "where nothing is known");
    assert!(!held[0].fits(pool) && held[0].fits(PoolId(1)), "the other pool has none");
    let error = held[59].count_at(pool, Instant::now()).err().unwrap();
    assert_eq!(error.kind(), Kind::Shed);
    assert!(scrape.render().contains("weir_requests_shed_total{tier=\"standard\",reason=\"limit\"} 41\n"));
    let request = fixture::request(0, STANDARD, MS);
    for _ in 0..100 {
        tokio::time::advance(20 * MS).await;
        door.answered(&plan(&request), Method::Predict, 10 * MS, Instant::now());
    }
    assert!(scrape.render().contains("weir_pool_limit{pool=\"gpu\"} 28\n"), "{}", scrape.render());
    drop(held.drain(..20));
    assert_eq!(held.iter_mut().filter_map(|permit| permit.count_at(pool, Instant::now()).ok()).count(), 28);
}

#[tokio::test(start_paused = true)]
async fn demand_is_what_is_inside_and_what_was_refused() {
    let (door, scrape) = door();
    scrape.before({
        let door = door.clone();
        move || door.observe()
    });
    answered(&door, 500 * MS);
    let held = fill(&door, HIGH);
    let waiter = ticket(&door, HIGH);
    let demand = |scrape: &Scrape| {
        let text = scrape.render();
        text.lines().find_map(|line| line.strip_prefix("weir_demand{model=\"fraud\"} ")?.parse::<f64>().ok())
    };
    assert_eq!(demand(&scrape), Some(7.0));
    // 20 in ten seconds are 2 a second, of half a second each.
    for _ in 0..20 {
        assert!(enter(&door, HIGH, MS).is_err());
    }
    assert_eq!(demand(&scrape), Some(8.0));
    drop((held, waiter));
    assert_eq!(demand(&scrape), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn what_something_else_answered_is_demand_all_the_same() {
    let (door, scrape) = door();
    answered(&door, 500 * MS);
    let demand = || {
        door.observe();
        let text = scrape.render();
        text.lines().find_map(|line| line.strip_prefix("weir_demand{model=\"fraud\"} ")?.parse::<f64>().ok())
    };
    assert_eq!(demand(), Some(0.0));
    // The model was last asked long ago: what its answers took then still says how much of it would be busy.
    tokio::time::advance(Duration::from_secs(600)).await;
    (0..40).for_each(|_| door.passed_over(crate::infer::ModelId(0), Instant::now()));
    assert_eq!(demand(), Some(2.0), "4 a second, of half a second each");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(demand(), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_freed_shared_slot_goes_to_whichever_tier_waits_for_it() {
    let (door, _) = door();
    let mut standard = fill(&door, STANDARD);
    let _high = fill(&door, HIGH);
    let mut high = pin!(slot(ticket(&door, HIGH)));
    assert!(poll!(high.as_mut()).is_pending());
    drop(standard.pop());
    assert!(high.await.is_ok(), "standard gave back what it had borrowed");
}

#[tokio::test(start_paused = true)]
async fn a_scrape_sees_the_slots() {
    let (door, scrape) = door();
    scrape.before({
        let door = door.clone();
        move || door.observe()
    });
    let _held = [slot(ticket(&door, STANDARD)).await.unwrap(), slot(ticket(&door, STANDARD)).await.unwrap()];
    let text = scrape.render();
    for line in [
        "weir_tier_slots{tier=\"high\"} 6\n",
        "weir_tier_slots{tier=\"standard\"} 10\n",
        "weir_tier_slots_in_use{tier=\"high\"} 0\n",
        "weir_tier_slots_in_use{tier=\"standard\"} 2\n",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_free_slot_is_taken_and_given_back_without_allocating() {
    let (door, _) = door();
    let request = fixture::request(0, HIGH, Duration::from_secs(5));
    let (plan, now) = (plan(&request), Instant::now());
    let allocated = allocation_counter::measure(|| {
        let ticket = door.enter(&request, &plan, now).unwrap();
        let mut permit = ticket.slot(now).now_or_never().unwrap().unwrap();
        assert_eq!(permit.slot(), Slot::Own);
        permit.count_at(PoolId(0), now).unwrap();
        drop(permit);
        door.answered(&plan, Method::Predict, MS, now);
    });
    assert_eq!(allocated.count_total, 0);
}

/// A slot may go with a streamed body to wherever that is polled.
const fn goes_anywhere<T: Send + Sync + 'static>() {}
const _: [(); 3] = [goes_anywhere::<Door>(), goes_anywhere::<Ticket>(), goes_anywhere::<Permit>()];
