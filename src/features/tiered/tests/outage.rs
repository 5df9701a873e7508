//! Redis is down, frozen, or fails now and then: what answers, and what is asked again inside the deadline.

use super::*;

#[tokio::test]
async fn without_redis_cached_rows_answer_and_others_become_defaults() {
    let mut server = Server::start();
    let (v, w) = (view("v").build(), view("w").id(1).ttl(Duration::ZERO).build());
    for view in [&v, &w] {
        put(&server, view, 1, &row(100, [int(7)]));
    }
    let store = open(&[v.clone(), w.clone()], redis(&server, LONG), None).await;
    store.users(&[1]).await;
    server.kill();
    // The first view's row is fresh, the second's is past its ttl.
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), set.level(), reasons(&set)), (vec![7], Level::ReducedFeatures, vec![]));
    assert_eq!(*set.value(1, 0, 0), Value::Int64(7));
    assert!(matches!(&*set.degraded, [Degradation::Stale { view, .. }] if **view == *"w"), "{:?}", set.degraded);
    assert_eq!(caches(&set), "l1 miss, l2 unavailable");
    let set = store.users(&[2]).await;
    assert_eq!((values(&set), set.level()), (vec![-1], Level::SimplifiedModel));
    assert_eq!(reasons(&set), [Reason::Unavailable; 2]);
    let set = store.ask_model(1, &[2], |_| {}).await;
    assert_eq!(set.level(), Level::ReducedFeatures, "optional views cost less");
    assert!(store.ready().await.unwrap_err().contains(&server.port.to_string()));
}

#[tokio::test]
async fn a_redis_that_was_never_there_leaves_a_store_that_answers() {
    let mut server = Server::start();
    server.kill();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    store.connect(WorkerId(0)).await;
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), set.level()), (vec![-1], Level::SimplifiedModel));
    server.restart();
    put(&server, &v, 1, &row(100, [int(7)]));
    eventually("redis is found", async || values(&store.users(&[1]).await) == [7]).await;
}

#[tokio::test]
async fn a_frozen_redis_is_not_waited_for() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(from_ref(&v), redis(&server, SHORT), None).await;
    eventually("redis answers", async || values(&store.users(&[1]).await) == [7]).await;
    server.freeze();
    let set = store.users(&[1, 2]).await;
    assert_eq!((values(&set), set.level()), (vec![7, -1], Level::SimplifiedModel));
    // Nor longer than the plan allows.
    let patient = open(from_ref(&v), redis(&server, LONG), None).await;
    let set = patient.ask(&[1], |how| how.by = Deadline::after(Instant::now(), SHORT)).await;
    assert_eq!((reasons(&set), set.level()), (vec![Reason::Unavailable], Level::SimplifiedModel));
    server.thaw();
    eventually("the late answer lands", async || values(&patient.users(&[1]).await) == [7]).await;
}

#[tokio::test]
async fn stale_rows_are_used_at_once_where_the_plan_allows_and_refreshed_beside() {
    let server = Server::start();
    let v = view("v").ttl(Duration::ZERO).build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    store.users(&[1]).await;
    put(&server, &v, 1, &row(200, [int(8)]));
    let set = store.ask(&[1], |how| how.stale = Stale::Allowed).await;
    assert_eq!((values(&set), set.level(), &*caches(&set)), (vec![7], Level::ReducedFeatures, "l1 hit"));
    assert!(is_stale(&set));
    eventually("the refresh lands", async || values(&store.ask(&[1], |how| how.stale = Stale::Allowed).await) == [8])
        .await;
    let set = store.users(&[1]).await;
    assert_eq!((set.level(), &*caches(&set)), (Level::Full, "l1 miss, l2 hit"), "refused elsewhere");
}

/// A store over Redis alone, whose breaker and retries are as good as unlimited; and its metrics.
fn persistent(view: &Arc<View>, server: &Server, first_wait: Duration) -> (Store, Scrape) {
    let mut features = features("p", from_ref(view), redis(server, SHORT), None);
    features.breaker.failure_threshold = u32::MAX;
    features.retry.max_retries = u32::MAX;
    features.retry.initial_delay = first_wait;
    features.retry.max_delay = features.retry.max_delay.max(first_wait);
    let config = crate::features::tests::config(features, vec![model(from_ref(view), false)]);
    scratch(|| Store::open(&config, Tasks::default()).now_or_never().unwrap().unwrap())
}

fn retried(scrape: &Scrape) -> bool {
    !scrape.render().contains("weir_feature_retries_total 0\n")
}

#[tokio::test]
async fn what_l2_failed_to_say_is_asked_again_inside_the_deadline() {
    let mut server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let (store, scrape) = persistent(&v, &server, SHORT);
    server.freeze();
    let no_time = |how: &mut How| how.by = Deadline::after(Instant::now(), SHORT);
    assert_eq!(reasons(&soon(store.ask(&[2], no_time)).await), [Reason::Unavailable]);
    assert!(!retried(&scrape), "the deadline has no room for it");
    let answered = async {
        let until_retried = eventually("a retry", async || retried(&scrape));
        tokio::join!(store.users(&[1]), async {
            until_retried.await;
            server.thaw();
        })
    };
    assert_eq!(values(&soon(answered).await.0), [7]);
    server.kill();
}

#[tokio::test]
async fn a_stale_row_at_hand_is_not_kept_waiting_by_a_retry() {
    let mut server = Server::start();
    let v = view("v").ttl(Duration::from_millis(1)).build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let (store, _) = persistent(&v, &server, LONG / 2);
    eventually("Redis answers in time", async || values(&store.users(&[1]).await) == [7]).await;
    server.kill();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let began = Instant::now();
    assert!(is_stale(&soon(store.users(&[1])).await));
    assert!(began.elapsed() < LONG / 3, "{:?}", began.elapsed());
}
