//! Two attempts at once: who wins, who pays, and who never gets a second.

use tokio::sync::Notify;

use super::*;
use crate::config::{Hedge, HedgeAfter};

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// A pool that hedges after a millisecond, as often as its share allows.
fn hedged(authorities: &[&str], share: f64) -> config::Pool {
    let after = HedgeAfter::Fixed(Duration::from_millis(1));
    config::Pool { hedge: Some(Hedge { after, share }), retry_budget: 1.0, ..pool(authorities) }
}

/// A server that answers the first request once it is told to.
async fn held(told: Arc<Notify>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let arrivals = Arc::new(AtomicUsize::new(0));
    let counted = arrivals.clone();
    Tasks::default().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (told, counted) = (told.clone(), counted.clone());
            Tasks::default().spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    told.notified().await;
                    drop(stream.write_all(OK.as_bytes()).await);
                }
            });
        }
    });
    (authority, arrivals)
}

async fn once(predict: &Predict, timeout: Duration) -> Result<u16, Error> {
    let plan = Plan { attempts: 1, ..plan(timeout) };
    Ok(predict.run(request(), None, &plan, PoolId(0), Instant::now()).await?.status.as_u16())
}

#[tokio::test]
async fn a_silent_endpoint_costs_no_answer_and_is_let_go_of() {
    let (silent, alive) = (Server::start(&[""]).await, Server::start(&[OK]).await);
    let (predict, scrape) = scratch(|| predict(hedged(&[&silent.authority, &alive.authority], 1.0)));
    let won = "weir_hedges_total{pool=\"p\",outcome=\"won\"} 1\n";
    let mut asked = 0;
    // On a busy machine the other one may be slow as well, and the hedge goes to the silent one.
    while !scrape.render().contains(won) {
        assert_eq!(once(&predict, Duration::from_secs(20)).await.unwrap(), 200);
        asked += 1;
        assert!(asked < 1_000, "the silent endpoint is never asked first");
    }
    assert_eq!(predict.pools[0].members()[0].enter().map(drop), Some(()));
    assert!(predict.pools[0].members().iter().all(|endpoint| endpoint.breaker.is_closed()));
    let text = scrape.render();
    assert!(!text.contains("weir_attempts_total{pool=\"p\",outcome=\"cancelled\"} 0\n"), "{text}");
    let now = Instant::now();
    let cost = |index: usize| predict.pools[0].members()[index].cost(now);
    assert!(cost(0) > 0.0, "it took at least as long as it was waited for");
}

#[tokio::test]
async fn what_says_nothing_of_the_request_waits_for_the_other_attempt() {
    const EARLY: &str = "HTTP/1.1 425 Too Early\r\ncontent-length: 0\r\n\r\n";
    const LATE: &str = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
    const MANY: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
    for (answer, status) in [(BUSY, 503), (MANY, 429), (EARLY, 425), (LATE, 408)] {
        waits_for_the_other(answer, status).await;
    }
}

async fn waits_for_the_other(answer: &'static str, failed: u16) {
    let told = Arc::new(Notify::new());
    let (slow, arrivals) = held(told.clone()).await;
    let busy = Server::start(Box::leak(Box::new([answer]))).await;
    let (predict, scrape) = scratch(|| predict(hedged(&[&slow, &busy.authority], 1.0)));
    loop {
        let before = busy.arrivals().1;
        let answer = once(&predict, Duration::from_secs(20));
        let telling = async {
            // The second attempt has failed, or there is none.
            while busy.arrivals().1 == before {
                tokio::task::yield_now().await;
            }
            // Where the busy one took its time, the slow one is the second, and may be asked later still.
            loop {
                told.notify_waiters();
                tokio::task::yield_now().await;
            }
        };
        let status = tokio::select! { answer = answer => answer.unwrap(), () = telling => unreachable!() };
        if arrivals.load(Ordering::SeqCst) > 0 {
            assert_eq!(status, 200, "the failure came first");
            break;
        }
        assert_eq!(status, failed, "the busy one was asked first and failed before the moment");
    }
    let ended = |outcome: &str| format!("weir_hedges_total{{pool=\"p\",outcome=\"{outcome}\"}} 1\n");
    let text = scrape.render();
    assert!(["lost", "won"].iter().any(|outcome| text.contains(&ended(outcome))), "{text}");
}

#[tokio::test]
async fn of_two_failures_the_one_that_tells_more_counts() {
    let silent = Server::start(&[""]).await;
    let broken = Server::start(&["garbage\r\n\r\n!"]).await;
    let predict = predict(hedged(&[&silent.authority, &broken.authority], 1.0));
    while silent.arrivals().1 == 0 {
        assert_eq!(once(&predict, Duration::from_millis(300)).await.unwrap_err().kind(), Kind::BackendFailed);
    }
}

#[tokio::test]
async fn the_share_bounds_them() {
    let silent = [Server::start(&[""]).await, Server::start(&[""]).await];
    let pool = hedged(&[&silent[0].authority, &silent[1].authority], 0.25);
    let (predict, scrape) = scratch(|| predict(pool));
    for _ in 0..8 {
        once(&predict, Duration::from_millis(200)).await.unwrap_err();
    }
    let arrivals = silent[0].arrivals().1 + silent[1].arrivals().1;
    assert!(arrivals <= 10, "a quarter of eight: {arrivals}");
    let text = scrape.render();
    assert!(!text.contains("weir_hedges_denied_total{pool=\"p\",reason=\"share\"} 0\n"), "{text}");
}

#[tokio::test]
async fn the_pools_budget_bounds_them_too() {
    let silent = [Server::start(&[""]).await, Server::start(&[""]).await];
    let pool = config::Pool { retry_budget: 0.0, ..hedged(&[&silent[0].authority, &silent[1].authority], 1.0) };
    let (predict, scrape) = scratch(|| predict(pool));
    let now = Instant::now();
    while predict.pools[0].budget.withdraw(now) {}
    once(&predict, Duration::from_millis(200)).await.unwrap_err();
    let text = scrape.render();
    assert!(text.contains("weir_hedges_denied_total{pool=\"p\",reason=\"budget\"} 1\n"), "{text}");
}

#[tokio::test]
async fn without_another_endpoint_nothing_is_paid() {
    let silent = Server::start(&[""]).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (predict, scrape) = scratch(|| predict(hedged(&[&silent.authority, &nobody], 1.0)));
    let now = Instant::now();
    let breaker = predict.pools[0].members()[1].breaker.clone();
    (0..5).for_each(|_| breaker.admit(now).ok().unwrap().record(Outcome::Failure, now));
    once(&predict, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(silent.arrivals().1, 1, "not a second time at the same one");
    assert!(scrape.render().contains("weir_hedges_denied_total{pool=\"p\",reason=\"no_endpoint\"} 1\n"));
    assert_eq!(predict.pools[0].hedges.as_ref().unwrap().available(now), 1);
}

#[tokio::test]
async fn a_probe_is_waited_for() {
    let [silent, full] = [Server::start(&[""]).await, Server::start(&[""]).await];
    let mut pool = config::Pool { max_in_flight: Some(1), ..hedged(&[&silent.authority, &full.authority], 1.0) };
    pool.breaker.open_for = Duration::from_nanos(1);
    let (predict, scrape) = scratch(|| predict(pool));
    let busy = predict.pools[0].members()[1].clone();
    let Some(_held) = busy.enter() else { panic!("room for one") };
    let (now, breaker) = (Instant::now(), predict.pools[0].members()[0].breaker.clone());
    (0..5).for_each(|_| breaker.admit(now).ok().unwrap().record(Outcome::Failure, now));
    once(&predict, Duration::from_millis(50)).await.unwrap_err();
    let text = scrape.render();
    assert!(text.contains("weir_attempts_total{pool=\"p\",outcome=\"timeout\"} 1\n"), "{text}");
    assert!(text.contains("weir_hedges_denied_total{pool=\"p\",reason=\"no_endpoint\"} 0\n"), "not even tried: {text}");
}

#[tokio::test]
async fn a_model_that_is_not_idempotent_never_gets_a_second() {
    let silent = [Server::start(&[""]).await, Server::start(&[""]).await];
    let pool = hedged(&[&silent[0].authority, &silent[1].authority], 1.0);
    let predict = asking(pool, |model| model.idempotent = false);
    ask_within(&predict, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(silent[0].arrivals().1 + silent[1].arrivals().1, 1);
}

async fn ask_within(predict: &Predict, timeout: Duration) -> Result<Prediction, Error> {
    predict.run(request(), None, &plan(timeout), PoolId(0), Instant::now()).await
}

/// Nothing is known of what answers take, and no attempt is cut short.
#[tokio::test]
async fn where_nothing_is_known_a_silent_endpoint_does_not_have_the_whole_deadline() {
    let (silent, alive) = (Server::start(&[""]).await, Server::start(&[OK]).await);
    // So many attempts that their share of a deadline that no machine misses is short.
    let plan = || Plan { attempts: 1_000, ..plan(Duration::from_secs(20)) };
    while silent.arrivals().1 == 0 {
        let (predict, scrape) = scratch(|| predict(pool(&[&silent.authority, &alive.authority])));
        let answer = predict.run(request(), None, &plan(), PoolId(0), Instant::now()).await.unwrap();
        assert_eq!(answer.status.as_u16(), 200);
        if silent.arrivals().1 > 0 {
            let text = scrape.render();
            for line in [
                "weir_retries_total{pool=\"p\"} 1\n",
                "weir_attempts_total{pool=\"p\",outcome=\"success\"} 1\n",
                "weir_attempts_total{pool=\"p\",outcome=\"cancelled\"} 1\n",
                "weir_attempts_total{pool=\"p\",outcome=\"timeout\"} 0\n",
                "weir_hedges_total{pool=\"p\",outcome=\"won\"} 0\n",
            ] {
                assert!(text.contains(line), "{line}{text}");
            }
            assert_eq!(predict.timeouts(ModelId(0), Instant::now()), Excess::None);
        }
    }
}

/// It is only slow: the second attempt says nothing, and the first goes on.
#[tokio::test]
async fn where_nothing_is_known_a_slow_answer_is_waited_for() {
    let told = Arc::new(Notify::new());
    let (slow, arrivals) = held(told.clone()).await;
    let silent = Server::start(&[""]).await;
    let predict = predict(pool(&[&slow, &silent.authority]));
    let plan = Plan { attempts: 1_000, ..plan(Duration::from_secs(20)) };
    let both = async {
        // Each of them was asked, in whatever order.
        while arrivals.load(Ordering::SeqCst) == 0 || silent.arrivals().1 == 0 {
            tokio::task::yield_now().await;
        }
        told.notify_one();
        std::future::pending::<()>().await;
    };
    let answer = predict.run(request(), None, &plan, PoolId(0), Instant::now());
    let answer = tokio::select! { answer = answer => answer.unwrap(), () = both => unreachable!() };
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!((arrivals.load(Ordering::SeqCst), silent.arrivals().1), (1, 1));
}

#[tokio::test]
async fn nobody_is_asked_beside_another_without_need() {
    let silent = [Server::start(&[""]).await, Server::start(&[""]).await];
    let authorities = [&*silent[0].authority, &*silent[1].authority];
    let arrivals = || silent[0].arrivals().1 + silent[1].arrivals().1;
    let short = || plan(Duration::from_millis(300));
    let ask = async |predict: &Predict, plan: Plan| {
        let before = arrivals();
        let error = predict.run(request(), None, &plan, PoolId(0), Instant::now()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        arrivals() - before
    };
    let alone = predict(pool(&authorities[..1]));
    assert_eq!(ask(&alone, short()).await, 1, "no other endpoint");
    let once = asking(pool(&authorities), |model| model.idempotent = false);
    assert_eq!(ask(&once, short()).await, 1, "not idempotent");
    let single = predict(pool(&authorities));
    assert_eq!(ask(&single, Plan { attempts: 1, ..short() }).await, 1, "no retries");
    let known = predict(pool(&authorities));
    known.models[0].answered(Duration::from_millis(200), Instant::now());
    assert_eq!(ask(&known, short()).await, 1, "what answers take is known");
    let (poor, scrape) = scratch(|| predict(config::Pool { retry_budget: 0.0, ..pool(&authorities) }));
    while poor.pools[0].budget.withdraw(Instant::now()) {}
    assert_eq!(ask(&poor, short()).await, 1, "nothing is left to pay for it");
    assert!(scrape.render().contains("weir_retries_denied_total{pool=\"p\",reason=\"budget\"} 1\n"));
    let two = predict(pool(&authorities));
    assert_eq!(ask(&two, Plan { attempts: 2, ..short() }).await, 2, "it is one of the attempts");
}
