//! L3: rows that only it has, and one that is slow, broken, or stands in for Redis.

use super::*;

#[tokio::test]
async fn rows_only_in_l3_are_found_and_written_back() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]))).await;
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), &*caches(&set), set.level()), (vec![7], "l1 miss, l2 miss, l3 hit", Level::Full));
    assert_eq!(caches(&store.users(&[1]).await), "l1 hit");
    eventually("the row is in Redis", async || {
        let rows = store.shared.l2.fetch(WorkerId(0), &[ask(&v, 1)], Via::Key).await.rows;
        matches!(&rows[..], [Ok(Some(stored))] if *stored == row(100, [int(7)]))
    })
    .await;
    let set = store.users(&[2]).await;
    assert_eq!((reasons(&set), &*caches(&set)), (vec![Reason::NotFound], "l1 miss, l2 miss, l3 miss"));
    store.users(&[2]).await;
    assert_eq!(store.l3().asked.load(Ordering::Relaxed), 2, "an absence is remembered");
    assert_eq!(set.level(), Level::Full);
}

#[tokio::test]
async fn l3_answers_while_redis_is_down() {
    let mut server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]))).await;
    server.kill();
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![7], "l1 miss, l2 unavailable, l3 hit"));
    assert_eq!(caches(&store.users(&[1]).await), "l1 hit", "for a moment");
    let set = store.users(&[2]).await;
    assert_eq!(reasons(&set), [Reason::Unavailable], "L2 might have had it");
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_filled_again_from_l3() {
    let mut server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]))).await;
    let in_redis = async || {
        let rows = store.shared.l2.fetch(WorkerId(0), &[ask(&v, 1)], Via::Key).await.rows;
        matches!(&rows[..], [Ok(Some(stored))] if *stored == row(100, [int(7)]))
    };
    assert_eq!(caches(&store.users(&[1]).await), "l1 miss, l2 miss, l3 hit");
    // A write that was not acknowledged is sent again to the server that comes back.
    eventually("the row is written", async || in_redis().await && store.shared.tasks.is_empty()).await;
    server.restart();
    let bypass = |how: &mut How| how.caching = Caching::Bypassed;
    assert!(!in_redis().await);
    eventually("the row is in Redis again", async || {
        assert_eq!(values(&store.ask(&[1], bypass).await), [7], "whatever layer answers, it is the row");
        in_redis().await
    })
    .await;
    assert_eq!(caches(&store.ask(&[1], bypass).await), "l1 bypass, l2 hit");
}

#[tokio::test]
async fn what_redis_could_not_say_is_not_written_back_to_it() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7), (&v, 2, 8)]))).await;
    // Not a hash: the read fails, a write would too.
    server.ask::<()>(&[b"SET", &redis_key(&key(1), "p"), b"text"]);
    assert_eq!(values(&store.users(&[1, 2]).await), [7, 8]);
    store.shared.tasks.finish().await;
    assert_eq!(server.calls("eval"), 1, "of the other row");
}

#[tokio::test]
async fn a_stale_row_is_preferred_to_waiting_for_l3_while_redis_is_down() {
    let mut server = Server::start();
    let v = view("v").ttl(Duration::ZERO).build();
    put(&server, &v, 1, &row(200, [int(8)]));
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]).gated())).await;
    assert_eq!(values(&store.users(&[1]).await), [8]);
    server.kill();
    let set = soon(store.ask(&[1], |how| how.by = Deadline::after(Instant::now(), NEVER))).await;
    assert_eq!((values(&set), set.level()), (vec![8], Level::ReducedFeatures));
    assert!(is_stale(&set));
}

#[tokio::test]
async fn l3_that_takes_too_long_leaves_defaults_now_and_the_row_later() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]).gated())).await;
    // Redis' own answer takes a moment too: without it the request would not get as far as L3.
    store.connect(WorkerId(0)).await;
    let set = store.ask(&[1], |how| how.by = Deadline::after(Instant::now(), SHORT)).await;
    assert_eq!((values(&set), reasons(&set)), (vec![-1], vec![Reason::Unavailable]));
    assert_eq!(set.level(), Level::SimplifiedModel);
    store.l3().gate.as_ref().unwrap().add_permits(1);
    eventually("the row lands in L1", async || {
        let set = store.users(&[1]).await;
        values(&set) == [7] && caches(&set) == "l1 hit"
    })
    .await;
    assert_eq!(store.l3().asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_has_less_time_than_l3_takes_does_not_wait_for_it() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]).gated())).await;
    let l3 = store.shared.l3.as_ref().unwrap();
    for _ in 0..100 {
        l3.pace.took(10 * NEVER, Instant::now());
    }
    let set = soon(store.ask(&[1], |how| how.by = Deadline::after(Instant::now(), NEVER))).await;
    assert_eq!(reasons(&set), [Reason::Unavailable]);
    store.l3().gate.as_ref().unwrap().add_permits(1);
    eventually("it is filled in all the same", async || caches(&store.users(&[1]).await) == "l1 hit").await;
}

#[tokio::test]
async fn a_broken_l3_is_unavailable_and_is_asked_again() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]))).await;
    store.l3().broken.store(true, Ordering::Relaxed);
    let set = store.users(&[1]).await;
    assert_eq!((reasons(&set), &*caches(&set)), (vec![Reason::Unavailable], "l1 miss, l2 miss, l3 unavailable"));
    store.l3().broken.store(false, Ordering::Relaxed);
    assert_eq!(values(&store.users(&[1]).await), [7]);
}

#[tokio::test]
async fn the_embedded_store_keeps_what_came_from_l3() {
    let v = view("v").build();
    let l2 = L2Config::Embedded { path: None, ttl: Duration::from_secs(3600) };
    let store = open(from_ref(&v), l2, Some(Scripted::with(&[(&v, 1, 7)]))).await;
    assert_eq!(caches(&store.users(&[1]).await), "l1 miss, l2 miss, l3 hit");
    eventually("it is written back", async || {
        let set = store.ask(&[1], |how| how.caching = Caching::Bypassed).await;
        values(&set) == [7] && caches(&set) == "l1 bypass, l2 hit"
    })
    .await;
    assert_eq!(store.ready().await, Ok(()));
}
