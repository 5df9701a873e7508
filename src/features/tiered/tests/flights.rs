//! One read for many: of one row at once, from several workers, and of a row near its end.

use super::*;

#[tokio::test]
async fn a_hundred_misses_of_one_row_are_one_read() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let sets = futures_util::future::join_all((0..100).map(|_| store.users(&[1]))).await;
    assert!(sets.iter().all(|set| values(set) == [7]));
    assert_eq!(server.calls("hmget"), 1);
}

#[tokio::test]
async fn also_when_they_come_from_several_workers() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let start = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    store.connect(WorkerId(worker)).await;
                    start.wait();
                    let asked = (0..50).map(|_| store.ask(&[1], |how| how.worker = WorkerId(worker)));
                    let sets = futures_util::future::join_all(asked).await;
                    assert!(sets.iter().all(|set| values(set) == [7]));
                });
            });
        }
    });
    assert_eq!(server.calls("hmget"), 1);
}

#[tokio::test]
async fn a_row_near_its_end_is_served_and_fetched_again_behind_its_readers() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let l1 = &store.shared.l1;
    // So slow a fetch that the end is always near.
    let fetch = Fetch { began: Instant::now(), took: Duration::from_secs(600_000_000) };
    l1.put(v.id, &key(1), Some(Arc::new(row(100, [int(7)]))), fetch);
    put(&server, &v, 1, &row(200, [int(8)]));
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![7], "l1 hit"));
    eventually("L1 has the row of L2", async || values(&store.users(&[1]).await) == [8]).await;
    assert_eq!(server.calls("hmget"), 1, "the row that was fetched is not near its end");
}

#[tokio::test]
async fn a_fetch_that_landed_between_the_look_and_the_lead_is_not_made_again() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let shared = &store.shared;
    let how = how();
    let column = EntityColumn::Rows(vec![EntityValue::Int64(1)]);
    let mut lookup = Lookup::new(&shared.joins[0], |_| Ok(1), |_, _| Ok(column.clone())).unwrap();
    lookup.ask_l1(&shared.l1, &how, Instant::now());
    shared.l1.put(v.id, &key(1), Some(Arc::new(row(100, [int(7)]))), Instant::now());
    Flight::board(shared, &mut lookup, &how).await;
    let set = lookup.settle(&shared.metrics, SystemTime::now());
    assert_eq!((values(&set), &*caches(&set)), (vec![7], "l1 miss"));
    assert_eq!(server.calls("hmget"), 0);
}

#[tokio::test]
async fn who_bypasses_the_caches_joins_no_fetch_that_may_have_read_before() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[]).gated())).await;
    let first = Box::pin(store.users(&[1]));
    let until_asked = eventually("L3 is asked", async || store.l3().asked.load(Ordering::Relaxed) == 1);
    let futures_util::future::Either::Right(((), first)) =
        futures_util::future::select(first, Box::pin(until_asked)).await
    else {
        panic!("the gate is shut")
    };
    put(&server, &v, 1, &row(100, [int(7)]));
    let set = soon(
        store.ask(&[1], |how| (how.caching, how.by) = (Caching::Bypassed, Deadline::after(Instant::now(), NEVER))),
    )
    .await;
    assert_eq!(values(&set), [7]);
    store.l3().gate.as_ref().unwrap().add_permits(1);
    assert_eq!(reasons(&first.await), [Reason::NotFound]);
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![7], "l1 hit"), "nor does that fetch undo the refresh");
}

#[tokio::test]
async fn a_fetch_goes_on_when_its_request_is_gone() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]).gated())).await;
    let request = Box::pin(store.users(&[1]));
    let until_asked = eventually("L3 is asked", async || store.l3().asked.load(Ordering::Relaxed) == 1);
    futures_util::future::select(request, Box::pin(until_asked)).await;
    // The leader is gone; a waiter comes, then the answer.
    let (set, ()) = tokio::join!(store.users(&[1]), async { store.l3().gate.as_ref().unwrap().add_permits(1) });
    assert_eq!(values(&set), [7]);
    assert_eq!(store.l3().asked.load(Ordering::Relaxed), 1);
}
