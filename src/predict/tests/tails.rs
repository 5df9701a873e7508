//! Models that are slow now and then, beside endpoints that never answer, on a clock that is moved by hand: what always answers in
//! its time is always waited for, and what hangs is found.

use super::*;

const MS: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_millis(200);

/// Which of all requests are answered late.
type Tail = fn(usize) -> bool;

/// A server that answers at once, and 60 ms later those of the tail. `number`: of the next request, at whichever server.
async fn tailed(tail: Tail, number: Arc<AtomicUsize>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (c, r) = (connections.clone(), requests.clone());
    Tasks::default().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            c.fetch_add(1, Ordering::SeqCst);
            let (r, number) = (r.clone(), number.clone());
            Tasks::default().spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    r.fetch_add(1, Ordering::SeqCst);
                    if tail(number.fetch_add(1, Ordering::SeqCst)) {
                        tokio::time::sleep(60 * MS).await;
                    }
                    drop(stream.write_all(OK.as_bytes()).await);
                }
            });
        }
    });
    Server { authority, connections, requests }
}

/// Plays it to its end, a millisecond of the paused clock at a time. In each, what sockets bring is looked for often enough.
async fn played<T>(future: impl Future<Output = T>) -> T {
    let clock = async {
        loop {
            for _ in 0..30 {
                tokio::task::yield_now().await;
            }
            tokio::time::advance(MS).await;
        }
    };
    tokio::select! { biased; ended = future => ended, () = clock => unreachable!() }
}

/// With the retries that a pool has by default: 200 ms are two attempts of 50 and the wait between them.
fn documented(authorities: &[&str]) -> Predict {
    let mut pool = pool(authorities);
    (pool.retry.initial_delay, pool.retry.max_delay) = (100 * MS, Duration::from_secs(1));
    asking(pool, |model| model.timeout = DEADLINE)
}

async fn status(predict: &Predict, timeout: Duration) -> u16 {
    let answer = predict.run(request(), None, &plan(timeout), PoolId(0), Instant::now()).await;
    answer.map_or_else(|error| panic!("{error}"), |answer| answer.status.as_u16())
}

fn all_closed(predict: &Predict) -> bool {
    predict.pools[0].members().iter().all(|endpoint| endpoint.breaker.is_closed())
}

const TAILS: [Tail; 4] =
    [|number| number % 10 < 3, |number| number % 10 == 9, |number| number % 33 == 5, |number| number % 2 == 0];

#[tokio::test(start_paused = true)]
async fn a_model_that_always_answers_in_time_is_always_waited_for() {
    for tail in TAILS {
        let server = tailed(tail, Arc::default()).await;
        let (predict, scrape) = scratch(|| documented(&[&server.authority]));
        for _ in 0..300 {
            assert_eq!(played(status(&predict, DEADLINE)).await, 200);
        }
        assert_eq!(server.arrivals().1, 300, "there is nobody else to ask");
        assert!(all_closed(&predict), "{}", scrape.render());
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_pool_of_three_as_well() {
    for tail in TAILS {
        let number = Arc::<AtomicUsize>::default();
        let servers =
            [tailed(tail, number.clone()).await, tailed(tail, number.clone()).await, tailed(tail, number).await];
        let (predict, scrape) = scratch(|| documented(&servers.each_ref().map(|server| &*server.authority)));
        for _ in 0..300 {
            assert_eq!(played(status(&predict, DEADLINE)).await, 200);
        }
        assert!(all_closed(&predict), "{}", scrape.render());
        assert_eq!(predict.timeouts(ModelId(0), Instant::now()), Excess::None);
    }
}

/// Nothing else would find it: it passes its health checks.
#[tokio::test(start_paused = true)]
async fn one_of_three_that_hangs_costs_no_answer_and_is_taken_out() {
    let [a, b] = [tailed(|_| false, Arc::default()).await, tailed(|_| false, Arc::default()).await];
    let silent = Server::start(&[""]).await;
    let mut pool = pool(&[&a.authority, &b.authority, &silent.authority]);
    (pool.retry.initial_delay, pool.retry.max_delay) = (100 * MS, Duration::from_secs(1));
    pool.retry_budget = 1.0;
    let (predict, scrape) = scratch(|| asking(pool, |model| model.timeout = DEADLINE));
    (0..20).for_each(|_| predict.models[0].answered(MS, Instant::now()));
    // So many at once that it is asked often before anything is known of it.
    let deadline = || status(&predict, DEADLINE);
    let all = futures_util::future::join_all((0..60).map(|_| deadline()));
    assert!(played(all).await.iter().all(|status| *status == 200));
    let arrivals = silent.arrivals().1;
    assert!(arrivals >= 5, "{arrivals}");
    assert_eq!(predict.pools[0].members().iter().filter(|endpoint| !endpoint.breaker.is_closed()).count(), 1);
    for _ in 0..50 {
        assert_eq!(played(status(&predict, DEADLINE)).await, 200);
    }
    assert_eq!(silent.arrivals().1, arrivals, "{}", scrape.render());
}

/// The second attempt is cut off for the third; the first never is.
#[tokio::test(start_paused = true)]
async fn two_of_three_that_hang_leave_the_third() {
    let silent = [Server::start(&[""]).await, Server::start(&[""]).await];
    let alive = tailed(|_| false, Arc::default()).await;
    let (predict, scrape) = scratch(|| documented(&[&silent[0].authority, &silent[1].authority, &alive.authority]));
    (0..20).for_each(|_| predict.models[0].answered(MS, Instant::now()));
    // It looks slower than what was never asked, and faster than what failed.
    predict.pools[0].members()[2].gave_up(Duration::from_secs(2), Instant::now());
    assert_eq!(played(status(&predict, 900 * MS)).await, 200);
    let text = scrape.render();
    assert_eq!([&silent[0], &silent[1], &alive].map(|server| server.arrivals().1), [1, 1, 1], "{text}");
    for line in [
        "weir_retries_total{pool=\"p\"} 2\n",
        "weir_attempts_total{pool=\"p\",outcome=\"timeout\"} 1\n",
        "weir_attempts_total{pool=\"p\",outcome=\"cancelled\"} 1\n",
        "weir_attempts_total{pool=\"p\",outcome=\"success\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

/// What is given up counts, so that what others are made beside grows to where answers are seen.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_makes_the_next_one_wait_longer() {
    let now = Instant::now();
    let predict = documented(&["127.0.0.1:1", "127.0.0.1:2"]);
    let model = &predict.models[0];
    (0..14).for_each(|_| model.answered(MS, now));
    (0..6).for_each(|_| model.outlasted(51 * MS, now));
    let plan = plan(DEADLINE);
    let (worker, started) = (WorkerId(0), now);
    let run = Run { predict: &predict, pool: &predict.pools[0], home: PoolId(0), model, worker, plan: &plan, started };
    let attempt = run.begin(&Outgoing::new(request(), "m", "m"), (0, None), now).ok().unwrap();
    assert!(attempt.part > 102 * MS && attempt.part < 110 * MS, "{:?}", attempt.part);
    assert_eq!(attempt.limit, plan.model_by.remaining(now), "it is not cut off");
}

/// Callers that wait for less than a model may take, at a pool of which one server hangs and nothing is known. Whether they wait
/// long enough to say anything is told over many of them.
#[tokio::test(start_paused = true)]
async fn what_hangs_is_found_though_every_caller_is_impatient() {
    for (patience, calls, is_found) in [(120, 10, true), (120, 9, false), (20, 500, false)] {
        let silent = Server::start(&[""]).await;
        let predict = asking(pool(&[&silent.authority]), |model| model.timeout = Duration::from_secs(5));
        for _ in 0..calls {
            ask_for(&predict, ModelId(0), Deadline::asked(Instant::now(), patience * MS)).await;
        }
        assert_eq!(all_closed(&predict), !is_found, "{calls} of {patience} ms");
    }
}

/// Half of its answers take 10 ms, and one in ten takes 200: who waits for 50 cannot tell the second kind from a server that hangs but by
/// how long it goes on.
#[tokio::test(start_paused = true)]
async fn what_hangs_is_found_though_every_caller_waits_for_less_than_nearly_all_answers_take() {
    for (calls, is_found) in [(20, false), (21, true)] {
        let silent = Server::start(&[""]).await;
        let predict = asking(pool(&[&silent.authority]), |model| model.timeout = Duration::from_secs(5));
        (0..40).for_each(|of| predict.models[0].answered(MS * if of % 10 == 9 { 200 } else { 10 }, Instant::now()));
        for _ in 0..calls {
            ask_for(&predict, ModelId(0), Deadline::asked(Instant::now(), 50 * MS)).await;
        }
        assert_eq!(all_closed(&predict), !is_found, "{calls}");
    }
}

/// All that were under way at the last endpoint time out at once where it stands still for a moment; where it goes on, it hangs, and so
/// do the probes of both.
#[tokio::test(start_paused = true)]
async fn the_last_endpoint_is_not_taken_out_for_one_moment() {
    let silent = [Server::start(&[""]).await, Server::start(&[""]).await];
    let predict = asking(pool(&[&silent[0].authority, &silent[1].authority]), |model| model.timeout = DEADLINE);
    let many = async |count| {
        let deadline = Deadline::after(Instant::now(), DEADLINE);
        let all = (0..count).map(|_| ask_for(&predict, ModelId(0), deadline));
        futures_util::future::join_all(all).await;
        predict.pools[0].members().iter().filter(|endpoint| endpoint.breaker.is_closed()).count()
    };
    assert_eq!(many(16).await, 1, "one of them is well enough to be asked");
    tokio::time::advance(700 * MS).await;
    assert_eq!(many(4).await, 1);
    assert_eq!(many(2).await, 0, "no answer in more than a second");
    tokio::time::advance(Duration::from_secs(40)).await;
    many(4).await;
    let open = |endpoint: &Arc<Endpoint>| endpoint.breaker.state() == crate::resilience::breaker::State::Open;
    assert!(predict.pools[0].members().iter().all(open), "their probes hang, too");
}

/// A model with five seconds of its own that stands in for one that has 200 ms.
#[tokio::test(start_paused = true)]
async fn who_stands_in_has_what_the_model_named_leaves() {
    for (left, is_found) in [(60, true), (30, false)] {
        let silent = Server::start(&[""]).await;
        let mut predict = asking(pool(&[&silent.authority]), |model| model.timeout = Duration::from_secs(5));
        let named = asking(pool(&[&silent.authority]), |model| model.timeout = DEADLINE);
        predict.models.extend(named.models);
        for _ in 0..5 {
            ask_for(&predict, ModelId(1), Deadline::after(Instant::now(), left * MS)).await;
        }
        assert_eq!(all_closed(&predict), !is_found, "{left} ms");
    }
}

/// Asks model 0 once in the name of another.
async fn ask_for(predict: &Predict, named: ModelId, deadline: Deadline) {
    let now = Instant::now();
    let plan = Plan { attempts: 1, named, model: ModelId(0), deadline, model_by: deadline, ..plan(DEADLINE) };
    drop(predict.run(request(), None, &plan, PoolId(0), now).await);
}
