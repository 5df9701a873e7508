//! Waiting for a slot: in which order, how long, and for whom not at all.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_refused_at_the_door_with_words() {
    let (door, scrape) = door();
    let _held = fill(&door, HIGH);
    let mut waiters = [pin!(slot(ticket(&door, HIGH))), pin!(slot(ticket(&door, HIGH)))];
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
    let outcomes = join_all(tickets.into_iter().map(slot));
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
    let mut first = pin!(slot(ticket(&door, HIGH)));
    let mut second = pin!(slot(ticket(&door, HIGH)));
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
    let mut waiter = pin!(slot(ticket(&door, HIGH)));
    assert!(poll!(waiter.as_mut()).is_pending());
    let mut newcomer = pin!(slot(ticket(&door, HIGH)));
    drop(held.pop());
    assert!(poll!(newcomer.as_mut()).is_pending());
    assert!(waiter.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_after_the_queue_timeout() {
    let (door, scrape) = door();
    let _held = fill(&door, HIGH);
    let start = Instant::now();
    let error = slot(ticket(&door, HIGH)).await.err().unwrap();
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
    let (door, scrape) = door();
    let _held = fill(&door, HIGH);
    let start = Instant::now();
    let error = slot(enter(&door, HIGH, 20 * MS).unwrap()).await.err().unwrap();
    assert_eq!((error.kind(), start.elapsed()), (Kind::Shed, 20 * MS));
    assert!(scrape.render().contains("weir_requests_shed_total{tier=\"high\",reason=\"deadline\"} 1\n"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_where_the_time_of_the_fallback_begins() {
    let (door, _) = door();
    let _held = fill(&door, HIGH);
    let (request, start) = (fixture::request(0, HIGH, 40 * MS), Instant::now());
    let plan = Plan { model_by: Deadline::after(start, 28 * MS), ..plan(&request) };
    let error = slot(door.enter(&request, &plan, start).unwrap()).await.err().unwrap();
    assert_eq!((error.kind(), start.elapsed()), (Kind::Shed, 28 * MS));
    answered(&door, 20 * MS);
    let plan = Plan { model_by: Deadline::after(Instant::now(), 19 * MS), ..plan };
    assert_eq!(door.enter(&request, &plan, Instant::now()).err().unwrap().kind(), Kind::Shed);
}

#[tokio::test(start_paused = true)]
async fn less_time_than_half_of_the_answers_take_is_refused_at_once() {
    let (door, scrape) = door();
    answered(&door, 100 * MS);
    let error = enter(&door, HIGH, 99 * MS).err().unwrap();
    assert_eq!((error.kind(), error.retry_after()), (Kind::Shed, Some(Duration::from_secs(1))));
    assert_eq!(
        error.to_string(),
        "too little time: 99ms are left of the deadline, and half of this model's answers of late took longer than 100ms \
         (tier high)"
    );
    let explain = InferRequest { method: Method::Explain, ..fixture::request(0, HIGH, 99 * MS) };
    assert!(door.enter(&explain, &plan(&explain), Instant::now()).is_ok(), "nothing is known of explanations");
    let ticket = enter(&door, HIGH, 100 * MS).unwrap();
    tokio::time::advance(MS).await;
    assert!(slot(ticket).await.is_err(), "the lookup of features took what was left");
    assert!(scrape.render().contains("weir_requests_shed_total{tier=\"high\",reason=\"deadline\"} 2\n"));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(enter(&door, HIGH, MS).is_ok(), "nobody answered for ten seconds: what was known is no longer so");
}

#[tokio::test(start_paused = true)]
async fn a_moment_of_slow_answers_keeps_nobody_out_for_long() {
    let (door, _) = door();
    let request = fixture::request(0, HIGH, 40 * MS);
    let take = |took| door.answered(&plan(&request), Method::Predict, took, Instant::now());
    (0..63).for_each(|_| take(50 * MS));
    let (mut let_in, start) = (0, Instant::now());
    // The model is quick again at once, a caller comes each millisecond.
    let waited = loop {
        match enter(&door, HIGH, 40 * MS) {
            Ok(ticket) => {
                drop(slot(ticket).await.expect("who is to find out is not refused for want of time"));
                take(MS);
                let_in += 1;
            }
            Err(error) => assert_eq!(error.kind(), Kind::Shed),
        }
        if enter(&door, HIGH, 40 * MS).is_ok() && enter(&door, HIGH, 40 * MS).is_ok() {
            break start.elapsed();
        }
        tokio::time::advance(MS).await;
    };
    assert!((30..=40).contains(&let_in), "as many as outvote the slow ones: {let_in}");
    assert!(waited < Duration::from_secs(2), "and not the ten seconds after which nothing would be known: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn who_has_too_little_time_is_not_let_in_where_others_find_out() {
    let (door, _) = door();
    for _ in 0..400 {
        answered(&door, 100 * MS);
        assert!(enter(&door, HIGH, 99 * MS).is_err(), "answers come in all the while");
        tokio::time::advance(10 * MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_can_no_longer_make_it_leaves() {
    let (door, scrape) = door();
    let _held = fill(&door, HIGH);
    answered(&door, 100 * MS);
    let start = Instant::now();
    let error = slot(enter(&door, HIGH, 130 * MS).unwrap()).await.err().unwrap();
    assert_eq!((error.kind(), start.elapsed()), (Kind::Shed, 30 * MS));
    assert!(error.to_string().ends_with("while the deadline left time for the model"), "{error}");
    assert!(scrape.render().contains("weir_requests_shed_total{tier=\"high\",reason=\"deadline\"} 1\n"));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_when_the_queue_will_have_moved_on() {
    let mut config = fixture::config();
    (config.tiers[0].queue, config.tiers[0].queue_timeout) = (1_000, Duration::from_secs(5));
    let (door, _) = scratch(|| Door::new(&config).unwrap());
    let mut held = fill(&door, HIGH);
    let mut waiters: Vec<_> = (0..1_000).map(|_| Box::pin(slot(ticket(&door, HIGH)))).collect();
    for waiter in &mut waiters {
        assert!(poll!(waiter.as_mut()).is_pending());
    }
    let retry_after = || enter(&door, HIGH, Duration::from_secs(9)).err().unwrap().retry_after();
    tokio::time::advance(100 * MS).await;
    // One slot goes round: a hundred in the last second.
    for waiter in waiters.drain(..100) {
        drop(held.pop());
        held.push(waiter.now_or_never().unwrap().unwrap());
    }
    let mut more: Vec<_> = (0..100).map(|_| Box::pin(slot(ticket(&door, HIGH)))).collect();
    for waiter in &mut more {
        assert!(poll!(waiter.as_mut()).is_pending());
    }
    assert_eq!(retry_after(), Some(Duration::from_millis(10_010)), "1000 who wait, and this one, at 100 a second");
    // The last one that `fill` asked for left at once.
    assert_eq!(door.tiers().next().unwrap().mean_wait, Some(Duration::from_micros(10_000_000 / 101)));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(retry_after(), Some(Duration::from_secs(5)), "nothing moved: the queue_timeout");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_is_told_and_counted_apart_from_full_queues() {
    let (door, scrape) = door();
    let _held = fill(&door, HIGH);
    let request = fixture::request(0, HIGH, Duration::from_secs(5));
    let skips = Plan { queue: Queue::Skips, ..plan(&request) };
    let refused = slot(door.enter(&request, &skips, Instant::now()).unwrap()).await.err().unwrap();
    assert!(!refused.to_string().contains("both are full") && refused.kind() == Kind::Shed, "{refused}");
    assert!(scrape.render().contains("weir_requests_shed_total{tier=\"high\",reason=\"no_slot\"} 1\n"));
    assert!(scrape.render().contains("weir_requests_shed_total{tier=\"high\",reason=\"queue_full\"} 0\n"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_leaves_its_place() {
    let (door, _) = door();
    let mut held = fill(&door, HIGH);
    let mut gone = Box::pin(slot(ticket(&door, HIGH)));
    let mut next = pin!(slot(ticket(&door, HIGH)));
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
    let mut gone = Box::pin(slot(ticket(&door, HIGH)));
    let mut next = pin!(slot(ticket(&door, HIGH)));
    assert!(poll!(gone.as_mut()).is_pending());
    assert!(poll!(next.as_mut()).is_pending());
    drop(held.pop());
    assert_eq!(waiting(&door), [1, 0], "the slot is the first one's, which has not looked yet");
    drop(gone);
    let _permit = next.now_or_never().unwrap().unwrap();
    assert_eq!(in_use(&door), [6, 0]);
}

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
                            let ticket = enter(&door, (thread + n) % 2, Duration::from_secs(60)).unwrap();
                            let permit = slot(ticket).await;
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
