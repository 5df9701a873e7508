//! The door and the queue on a paused clock.

use std::{pin::pin, time::Duration};

use futures_util::{FutureExt, future::join_all, poll};

use super::*;
use crate::{
    fixture,
    infer::Level,
    infer::plan::Stale,
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
    let plan = Plan {
        level: Level::Full,
        model: request.model,
        pool: crate::infer::PoolId(0),
        tier: request.tier,
        deadline: request.deadline,
        features_by: request.deadline,
        model_by: request.deadline,
        stale: Stale::Refused,
        attempts: 1,
        attempt_timeout: None,
    };
    door.enter(&request, &plan)
}

fn ticket(door: &Door, tier: u32) -> Ticket {
    enter(door, tier, Duration::from_secs(5)).unwrap()
}

/// Takes slots until none is free, without waiting.
fn fill(door: &Door, tier: u32) -> Vec<Permit> {
    std::iter::from_fn(|| enter(door, tier, Duration::from_secs(5)).ok()?.slot().now_or_never()?.ok()).collect()
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
async fn a_full_queue_is_refused_at_the_door_with_words() {
    let (door, scrape) = door();
    let _held = fill(&door, HIGH);
    let mut waiters = [pin!(ticket(&door, HIGH).slot()), pin!(ticket(&door, HIGH).slot())];
    for waiter in &mut waiters {
        assert!(poll!(waiter.as_mut()).is_pending());
    }
    let error = enter(&door, HIGH, Duration::from_secs(5)).err().unwrap();
    assert_eq!(error.kind(), Kind::Shed);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(error.to_string(), "too many requests: tier high may use 6 slots and a queue of 2, and both are full");
    assert!(enter(&door, STANDARD, Duration::from_secs(5)).is_ok(), "another tier is not concerned");
    let text = scrape.render();
    assert!(text.contains("weir_requests_shed_total{tier=\"high\",reason=\"queue_full\"} 1\n"));
    assert!(text.contains("weir_inference_queue_depth{model=\"fraud\"} 2\n"));
    assert!(text.contains("kserve_inference_queue_depth{model=\"fraud\"} 2\n"));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_for_those_already_inside_too() {
    let (door, _) = door();
    let tickets: Vec<Ticket> = (0..3).map(|_| ticket(&door, HIGH)).collect();
    let _held = fill(&door, HIGH);
    let outcomes = join_all(tickets.into_iter().map(Ticket::slot));
    let mut outcomes = pin!(outcomes);
    assert!(poll!(outcomes.as_mut()).is_pending());
    assert_eq!(waiting(&door), [2, 0]);
    let kinds: Vec<_> =
        outcomes.await.into_iter().map(|outcome| outcome.err().map(|error| error.to_string())).collect();
    assert!(kinds[2].as_ref().unwrap().ends_with("both are full"), "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn slots_are_given_in_the_order_of_asking() {
    let (door, _) = door();
    let mut held = fill(&door, HIGH);
    let mut first = pin!(ticket(&door, HIGH).slot());
    let mut second = pin!(ticket(&door, HIGH).slot());
    assert!(poll!(first.as_mut()).is_pending());
    assert!(poll!(second.as_mut()).is_pending());
    drop(held.pop());
    assert!(poll!(second.as_mut()).is_pending());
    let _first = first.await.unwrap();
    drop(held.pop());
    assert!(second.await.is_ok());
    assert_eq!(waiting(&door), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_overtake_the_queue() {
    let (door, _) = door();
    let mut held = fill(&door, HIGH);
    let mut waiter = pin!(ticket(&door, HIGH).slot());
    assert!(poll!(waiter.as_mut()).is_pending());
    let mut newcomer = pin!(ticket(&door, HIGH).slot());
    drop(held.pop());
    assert!(poll!(newcomer.as_mut()).is_pending());
    assert!(waiter.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_after_the_queue_timeout() {
    let (door, scrape) = door();
    let _held = fill(&door, HIGH);
    let start = Instant::now();
    let error = ticket(&door, HIGH).slot().await.err().unwrap();
    assert_eq!((error.kind(), start.elapsed()), (Kind::Shed, 50 * MS));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    assert!(error.to_string().ends_with("no slot came free within its queue_timeout of 50ms"), "{error}");
    assert_eq!(waiting(&door), [0, 0]);
    let text = scrape.render();
    assert!(text.contains("weir_requests_shed_total{tier=\"high\",reason=\"queue_timeout\"} 1\n"));
    assert!(text.contains("weir_inference_queue_depth{model=\"fraud\"} 0\n"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_the_deadline_where_that_is_earlier() {
    let (door, _) = door();
    let _held = fill(&door, HIGH);
    let start = Instant::now();
    let error = enter(&door, HIGH, 20 * MS).unwrap().slot().await.err().unwrap();
    assert_eq!((error.kind(), start.elapsed()), (Kind::DeadlineExceeded, 20 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_leaves_its_place() {
    let (door, _) = door();
    let mut held = fill(&door, HIGH);
    let mut gone = Box::pin(ticket(&door, HIGH).slot());
    let mut next = pin!(ticket(&door, HIGH).slot());
    assert!(poll!(gone.as_mut()).is_pending());
    assert!(poll!(next.as_mut()).is_pending());
    drop(gone);
    assert_eq!(waiting(&door), [1, 0]);
    drop(held.pop());
    assert!(next.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slot_given_to_a_waiter_that_is_leaving_goes_to_the_next() {
    let (door, _) = door();
    let mut held = fill(&door, HIGH);
    let mut gone = Box::pin(ticket(&door, HIGH).slot());
    let mut next = pin!(ticket(&door, HIGH).slot());
    assert!(poll!(gone.as_mut()).is_pending());
    assert!(poll!(next.as_mut()).is_pending());
    drop(held.pop());
    assert_eq!(waiting(&door), [1, 0], "the slot is the first one's, which has not looked yet");
    drop(gone);
    let _permit = next.now_or_never().unwrap().unwrap();
    assert_eq!(in_use(&door), [6, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_freed_shared_slot_goes_to_whichever_tier_waits_for_it() {
    let (door, _) = door();
    let mut standard = fill(&door, STANDARD);
    let _high = fill(&door, HIGH);
    let mut high = pin!(ticket(&door, HIGH).slot());
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
    let _held = [ticket(&door, STANDARD).slot().await.unwrap(), ticket(&door, STANDARD).slot().await.unwrap()];
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

/// A slot may go with a streamed body to wherever that is polled.
const fn goes_anywhere<T: Send + Sync + 'static>() {}
const _: [(); 3] = [goes_anywhere::<Door>(), goes_anywhere::<Ticket>(), goes_anywhere::<Permit>()];

/// Every thread takes and gives back slots of both tiers as fast as it can; whoever waits must be woken in the end.
#[test]
fn nobody_is_forgotten_under_contention() {
    let mut config = fixture::config();
    for tier in &mut config.tiers {
        (tier.queue, tier.queue_timeout) = (1_000, Duration::from_secs(60));
    }
    config.capacity.slots = 3;
    let door = Door::new(&config).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let door = door.clone();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let walk = |n: u32| {
                        let door = door.clone();
                        async move {
                            let permit = enter(&door, (thread + n) % 2, Duration::from_secs(60)).unwrap().slot().await;
                            tokio::task::yield_now().await;
                            permit.map(drop)
                        }
                    };
                    for round in 0..100 {
                        let outcomes = join_all((0..8).map(|n| walk(round + n))).await;
                        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
                    }
                });
            });
        }
    });
    assert_eq!((in_use(&door), waiting(&door)), (vec![0, 0], vec![0, 0]));
}
