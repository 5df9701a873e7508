//! `write_through` rows at several gateways over one Redis: who pushes one is told so when nobody serves the row from before.

mod bus;

use super::*;
use crate::features::{
    invalidate::{Origin, Scope},
    l2, lease,
    online::{Found, Offer, PushError, Pushed, Terms, Wish},
    tests::servers::Cluster,
};
use crate::resilience::standby::Side;

fn terms() -> Terms {
    Terms { worker: WorkerId(0), caching: Caching::Allowed, by: Deadline::after(Instant::now(), LONG) }
}

fn offer(user: i64, second: i64, value: i64) -> Offer {
    Offer { key: key(user), event_time: second * 1_000_000_000, values: [int(value)].into() }
}

fn strong() -> Arc<View> {
    view("v").consistency(config::Consistency::WriteThrough).build()
}

/// A gateway that holds its lease, where one is to be had.
async fn gateway(server: &Server, v: &Arc<View>) -> Store {
    let store = open(from_ref(v), redis(server, LONG), None).await;
    let is_ready = async || store.lease().connected && (store.lease().left.is_some() || !v.reads_primary_only());
    eventually("a gateway hears the others", is_ready).await;
    store
}

impl Store {
    async fn reads(&self, user: i64) -> Option<Value> {
        let column = EntityColumn::Same(EntityValue::Int64(user));
        let reading = self.read(1, &[Wish { view: ViewId(0), columns: &[&column] }], terms()).await;
        match &reading.views[0].found[0] {
            Found::Row(row, _) => row.values[0].clone(),
            Found::Absent => None,
            found => panic!("{found:?}"),
        }
    }

    async fn pushes(&self, rows: Vec<Offer>) -> Result<Pushed, PushError> {
        self.push(WorkerId(0), ViewId(0), rows, terms().by).await
    }

    /// Reads until what is read is kept.
    async fn settles(&self, server: &Server, user: i64) {
        eventually("a row is kept", async || {
            self.reads(user).await;
            let before = server.calls("hmget");
            self.reads(user).await;
            server.calls("hmget") == before
        })
        .await;
    }
}

#[tokio::test]
async fn a_row_is_kept_under_the_lease_and_read_anew_after_a_push_through_another_gateway() {
    let (server, v) = (Server::start(), strong());
    put(&server, &v, 1, &row(100, [int(1)]));
    let [a, b] = [gateway(&server, &v).await, gateway(&server, &v).await];
    b.settles(&server, 1).await;
    // Who writes past the gateways is not heard of: that is how one sees that the row is kept.
    put(&server, &v, 1, &row(200, [int(2)]));
    assert_eq!(b.reads(1).await, int(1));
    for second in 300..310 {
        b.settles(&server, 1).await;
        let pushed = a.pushes(vec![offer(1, second, second)]).await.unwrap();
        assert_eq!(pushed, Pushed { written: 1, ..Pushed::default() });
        assert_eq!(b.reads(1).await, int(second), "as soon as it is acknowledged");
        let asked = server.calls("hmget");
        assert_eq!(a.reads(1).await, int(second));
        assert_eq!(server.calls("hmget"), asked, "who took the push has the row");
    }
    assert_eq!(a.pushes(vec![offer(1, 200, 7)]).await.unwrap(), Pushed { older: 1, ..Pushed::default() });
    assert_eq!((a.reads(1).await, b.reads(1).await), (int(309), int(309)));
    assert_eq!(server.ask::<u64>(&[b"HLEN", b"{weir:p}:holds"]), 0, "nothing stays held");
    assert_eq!(
        (a.lease().rows_held, server.ask::<u64>(&[b"HLEN", b"{weir:p}:leases"])),
        (0, 3),
        "since when it is there, and two leases"
    );
}

#[tokio::test]
async fn when_the_connection_breaks_every_row_is_read_anew_and_pushes_fail_before_they_write() {
    let (mut server, v) = (Server::start(), strong());
    put(&server, &v, 1, &row(100, [int(1)]));
    let store = gateway(&server, &v).await;
    store.settles(&server, 1).await;
    put(&server, &v, 1, &row(200, [int(2)]));
    assert_eq!(store.reads(1).await, int(1), "it is kept");
    server.ask::<u64>(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
    eventually("the break is found", async || store.reads(1).await == int(2)).await;
    eventually("it comes back", async || store.lease().left.is_some()).await;
    store.settles(&server, 1).await;
    server.kill();
    eventually("the end is found", async || !store.lease().connected).await;
    let failed = store.pushes(vec![offer(1, 300, 3)]).await.unwrap_err();
    assert!(matches!(failed, PushError::Lease(lease::Error::Disconnected)), "{failed:?}");
}

#[tokio::test]
async fn a_silent_gateway_is_revoked_and_its_lease_waited_out() {
    let (server, v) = (Server::start(), strong());
    let store = gateway(&server, &v).await;
    // One that never answers, by the server's clock.
    let now: (u64, u64) = server.ask(&[b"TIME"]);
    let until = now.0 * 1000 + now.1 / 1000 + 900;
    server.ask::<()>(&[b"HSET", b"{weir:p}:leases", b"g:00000000000000ff", format!("{until} 0").as_bytes()]);
    store.pushes(vec![offer(1, 100, 1)]).await.unwrap();
    let now: (u64, u64) = server.ask(&[b"TIME"]);
    assert!(now.0 * 1000 + now.1 / 1000 >= until, "acknowledged before its lease was out");
    let left: Option<String> = server.ask(&[b"HGET", b"{weir:p}:leases", b"g:00000000000000ff"]);
    assert!(left.is_none_or(|left| left.ends_with(" 1")), "it could have renewed");
    assert_eq!(store.reads(1).await, int(1));
}

#[tokio::test]
async fn a_gateway_that_is_revoked_takes_a_new_term_and_serves_nothing_of_the_old_one() {
    let (server, v) = (Server::start(), strong());
    put(&server, &v, 1, &row(100, [int(1)]));
    let store = gateway(&server, &v).await;
    store.settles(&server, 1).await;
    put(&server, &v, 1, &row(200, [int(2)]));
    assert_eq!(store.reads(1).await, int(1), "it is kept");
    let name = format!("g:{}", store.lease().gateway.unwrap());
    let lease: String = server.ask(&[b"HGET", b"{weir:p}:leases", name.as_bytes()]);
    server.ask::<()>(&[b"HSET", b"{weir:p}:leases", name.as_bytes(), lease.replace(" 0", " 1").as_bytes()]);
    eventually("its renewal is refused", async || store.reads(1).await == int(2)).await;
    store.settles(&server, 1).await;
}

#[tokio::test]
async fn a_lost_table_is_waited_for_as_long_as_a_lease_is() {
    let (server, v) = (Server::start(), strong());
    put(&server, &v, 1, &row(100, [int(1)]));
    let [a, b] = [gateway(&server, &v).await, gateway(&server, &v).await];
    b.settles(&server, 1).await;
    a.pushes(vec![offer(2, 100, 1)]).await.unwrap();
    server.ask::<()>(&[b"DEL", b"{weir:p}:leases", b"{weir:p}:holds"]);
    a.pushes(vec![offer(1, 200, 2)]).await.unwrap();
    assert_eq!(b.reads(1).await, int(2));
    let since: String = server.ask(&[b"HGET", b"{weir:p}:leases", b"since"]);
    let since: u64 = since.split_once(' ').unwrap().0.parse().unwrap();
    let [seconds, micros]: [u64; 2] = server.ask::<Vec<u64>>(&[b"TIME"]).try_into().unwrap();
    assert!(seconds * 1000 + micros / 1000 >= since + 2000, "it is acknowledged when nobody can hold a lease any more");
}

#[tokio::test]
async fn a_hold_that_is_lost_before_its_end_is_not_acknowledged() {
    let (server, v) = (Server::start(), strong());
    let store = gateway(&server, &v).await;
    let mut held = store.shared.leases.hold_rows(&v, [&key(1)].into_iter(), terms().by).await.unwrap();
    held.writing().unwrap();
    server.ask::<()>(&[b"DEL", b"{weir:p}:holds"]);
    let ended = held.release(terms().by, |_| panic!("nothing is kept")).await;
    assert!(matches!(ended, Err(lease::Error::Unconfirmed(None))), "{ended:?}");
    assert_eq!(store.lease().rows_held, 1, "what was sent may be carried out yet");
}

#[tokio::test]
async fn pushes_that_are_never_answered_do_not_fill_redis() {
    let (server, v) = (Server::start(), strong());
    let store = gateway(&server, &v).await;
    let mut refused = 0;
    for user in 0..1030 {
        match store.shared.leases.hold_rows(&v, [&key(user)].into_iter(), terms().by).await {
            // Given up in the middle of the write.
            Ok(mut held) => held.writing().unwrap(),
            Err(error) => {
                assert!(matches!(error, lease::Error::Crowded), "{error:?}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, server.ask::<u64>(&[b"HLEN", b"{weir:p}:holds"])), (6, 1024));
    eventually("those that were refused are free", async || store.lease().rows_held == 1024).await;
}

#[tokio::test]
async fn pushes_that_were_not_sent_keep_nobody_from_pushing() {
    let (server, v) = (Server::start(), strong());
    let L2Config::Redis(full) = redis(&server, LONG) else { unreachable!("it is") };
    let full = L2Config::Redis(RedisConfig { max_in_flight: 0, ..full });
    let store = open(from_ref(&v), full, None).await;
    eventually("it hears the others", async || store.lease().left.is_some()).await;
    for user in 0..1030 {
        let refused = store.pushes(vec![offer(user, 100, 1)]).await.unwrap_err();
        assert!(matches!(refused, PushError::Store(l2::Error::Full { .. })), "{refused:?}");
    }
    assert_eq!(store.lease().rows_held, 0);
    let is_free = async || server.ask::<u64>(&[b"HLEN", b"{weir:p}:holds"]) == 0;
    eventually("no other gateway holds them", is_free).await;
}

#[tokio::test]
async fn a_shard_that_is_gone_keeps_nobody_from_pushing_rows_of_others() {
    // It is not to be given up, with all of the cluster, while the test runs.
    let (mut cluster, v) = (Cluster::with(NEVER), strong());
    let urls = cluster.urls().into_iter().map(Secret).collect();
    let redis = RedisConfig { mode: config::RedisMode::Cluster, timeout: LONG, ..fixture::redis(urls) };
    let store = open(from_ref(&v), L2Config::Redis(redis), None).await;
    eventually("a gateway has its lease", async || store.lease().left.is_some()).await;
    let of = |user| cluster.holder(&redis_key(&key(user), "p")).port;
    let meeting = cluster.holder(b"{weir:p}:leases").port;
    let gone = (0..).find(|user| of(*user) != meeting).unwrap();
    let well = (0..).find(|user| of(*user) == meeting).unwrap();
    for user in [gone, well] {
        store.pushes(vec![offer(user, 100, 1)]).await.unwrap();
    }
    let port = of(gone);
    cluster.masters.iter_mut().find(|master| master.port == port).unwrap().kill();
    for _ in 0..1100 {
        let failed = store.pushes(vec![offer(gone, 200, 2)]).await.unwrap_err();
        assert!(matches!(failed, PushError::Store(_)), "{failed:?}");
    }
    store.pushes(vec![offer(well, 200, 2)]).await.unwrap();
}

#[tokio::test]
async fn who_comes_while_a_row_is_held_does_not_keep_it() {
    let (server, v) = (Server::start(), strong());
    put(&server, &v, 1, &row(100, [int(1)]));
    let a = gateway(&server, &v).await;
    let held = a.shared.leases.hold_rows(&v, [&key(1)].into_iter(), terms().by).await.unwrap();
    let b = gateway(&server, &v).await;
    assert_eq!(b.lease().rows_held, 1);
    for value in 2..5 {
        assert_eq!(b.reads(1).await, int(value - 1));
        put(&server, &v, 1, &row(100 + value, [int(value)]));
    }
    // Given up before anything was written, it is released everywhere.
    drop(held);
    b.settles(&server, 1).await;
    eventually("it is released", async || a.lease().rows_held + b.lease().rows_held == 0).await;
}

#[tokio::test]
async fn what_was_asked_for_while_a_row_was_held_is_not_kept_however_late_it_lands() {
    let (server, v) = (Server::start(), strong());
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[]).gated())).await;
    eventually("it holds its lease", async || store.lease().left.is_some()).await;
    let held = store.shared.leases.hold_rows(&v, [&key(1)].into_iter(), terms().by).await.unwrap();
    let first = Box::pin(store.reads(1));
    let until_asked = eventually("L3 is asked", async || store.l3().asked.load(Ordering::Relaxed) == 1);
    let futures_util::future::Either::Right(((), first)) =
        futures_util::future::select(first, Box::pin(until_asked)).await
    else {
        panic!("the gate is shut")
    };
    // The push writes, and is over before that read is.
    put(&server, &v, 1, &row(100, [int(7)]));
    drop(held);
    eventually("it is released", async || store.lease().rows_held == 0).await;
    store.l3().gate.as_ref().unwrap().add_permits(1);
    assert_eq!(first.await, None);
    assert_eq!(store.reads(1).await, int(7));
}

#[tokio::test]
async fn without_a_lease_nothing_is_kept_nor_shared() {
    let (server, v) = (Server::start(), strong());
    let mut features = features("p", from_ref(&v), redis(&server, LONG), None);
    features.l1.capacity = 0;
    let store = Store::open(&crate::features::tests::config(features, Vec::new()), Tasks::default()).await.unwrap();
    eventually("it hears the others", async || store.lease().connected).await;
    for value in 0..3 {
        put(&server, &v, 1, &row(100, [int(value)]));
        assert_eq!(store.reads(1).await, int(value));
    }
    tokio::join!(store.reads(1), store.reads(1));
    assert_eq!(server.calls("hmget"), 5, "each reads for itself");
    assert!(store.lease().left.is_none());
    store.pushes(vec![offer(1, 200, 7)]).await.unwrap();
    assert_eq!(store.reads(1).await, int(7));
}

/// A gateway that takes pushes and keeps no row of theirs.
async fn without_a_lease(server: &Server, v: &Arc<View>) -> Store {
    let mut features = features("p", from_ref(v), redis(server, LONG), None);
    (features.l1.capacity, features.lease) = (0, Duration::from_millis(500));
    let store = Store::open(&crate::features::tests::config(features, Vec::new()), Tasks::default()).await.unwrap();
    eventually("it hears the others", async || store.lease().connected).await;
    store
}

fn is_there(server: &Server) -> bool {
    server.ask::<bool>(&[b"HEXISTS", b"{weir:p}:leases", b"since"])
}

#[tokio::test]
async fn a_table_is_settled_although_nobody_takes_a_lease_and_no_push_waits_for_one() {
    let (server, v) = (Server::start(), strong());
    let store = without_a_lease(&server, &v).await;
    eventually("a table is there", async || is_there(&server)).await;

    server.ask::<()>(&[b"DEL", b"{weir:p}:leases"]);
    let hurried = async || {
        let by = Deadline::after(Instant::now(), SHORT);
        store.push(WorkerId(0), ViewId(0), vec![offer(1, 100, 1)], by).await
    };
    let late = hurried().await.unwrap_err();
    assert!(late.is_late(), "{late:?}");
    eventually("it is whole again, though no push waited for it", async || hurried().await.is_ok()).await;
    store.pushes(vec![offer(1, 200, 2)]).await.unwrap();
    assert_eq!(store.reads(1).await, int(2));
}

#[tokio::test]
async fn a_table_of_no_leases_outlives_what_it_is_kept_for_while_there_is_a_gateway() {
    let (server, v) = (Server::start(), strong());
    let _store = without_a_lease(&server, &v).await;
    eventually("a table is there", async || is_there(&server)).await;
    server.ask::<()>(&[b"PEXPIRE", b"{weir:p}:leases", b"60000"]);
    let is_kept = async || server.ask::<i64>(&[b"PTTL", b"{weir:p}:leases"]) > 60_000;
    eventually("it is kept on", is_kept).await;
}

#[tokio::test]
async fn what_l3_has_does_not_stand_in_for_a_redis_that_does_not_answer() {
    let (mut server, v) = (Server::start(), strong());
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]))).await;
    assert_eq!(store.reads(1).await, int(7), "L2 says that it has none");
    server.kill();
    let column = EntityColumn::Same(EntityValue::Int64(1));
    eventually("its lease is gone", async || store.lease().left.is_none()).await;
    let reading = store.read(1, &[Wish { view: ViewId(0), columns: &[&column] }], terms()).await;
    assert!(matches!(reading.views[0].found[0], Found::Unavailable(_)), "{:?}", reading.views[0].found[0]);
}

#[tokio::test]
async fn a_row_of_l3_is_not_written_back_past_the_lease() {
    let server = Server::start();
    let views = [strong(), view("w").id(1).build()];
    let l3 = Scripted::with(&[(&views[0], 1, 7), (&views[1], 2, 8)]);
    let store = open(&views, redis(&server, LONG), Some(l3)).await;
    eventually("a gateway has its lease", async || store.lease().left.is_some()).await;
    assert_eq!(store.reads(1).await, int(7));
    let column = EntityColumn::Same(EntityValue::Int64(2));
    store.read(1, &[Wish { view: ViewId(1), columns: &[&column] }], terms()).await;
    let is_written = |user| server.ask::<bool>(&[b"EXISTS", &redis_key(&key(user), "p")]);
    // The one that is written back is so after the other would have been.
    eventually("the other view's row is written back", async || is_written(2)).await;
    assert!(!is_written(1));
    // A push of an event before L3's is what there is from then on, and nothing comes back over it.
    store.pushes(vec![offer(1, 50, 5)]).await.unwrap();
    assert_eq!(store.reads(1).await, int(5));
}

#[tokio::test]
async fn a_pushed_row_does_not_go_with_a_hash_that_had_an_end() {
    let server = Server::start();
    let views = [strong(), view("w").id(1).build()];
    let store = open(&views, redis(&server, LONG), None).await;
    eventually("it hears the others", async || store.lease().connected).await;
    for (user, view, left) in [(1, 0, -1), (2, 1, 100)] {
        put(&server, &views[view], user, &row(100, [int(1)]));
        let hash = redis_key(&key(user), "p");
        server.ask::<()>(&[b"EXPIRE", &hash, b"100"]);
        let id = ViewId(u32::try_from(view).unwrap());
        // One that the store has as new counts as pushed too.
        for second in [100, 200] {
            store.push(WorkerId(0), id, vec![offer(user, second, 2)], terms().by).await.unwrap();
            assert_eq!(server.ask::<i64>(&[b"TTL", &hash]).signum(), i64::from(left).signum(), "{user} {second}");
        }
    }
}

#[tokio::test]
async fn no_push_is_taken_while_another_redis_has_the_rows() {
    let (mut first, dr) = (Server::start(), Server::start());
    let views = [strong(), view("w").id(1).build()];
    let L2Config::Redis(redis) = redis(&first, LONG) else { unreachable!("it is") };
    let urls = vec![Secret(dr.url())];
    let over = config::Dr { urls, failover_after: Duration::from_secs(1), back_after: NEVER };
    let l2 = L2Config::Redis(RedisConfig { dr: Some(Box::new(over)), ..redis });
    let store = open(&views, l2, None).await;
    eventually("a gateway hears the others", async || store.lease().connected).await;
    store.pushes(vec![offer(1, 100, 1)]).await.unwrap();
    assert_eq!(store.reads(1).await, int(1));

    first.kill();
    let is_over = async || store.whereabouts().is_some_and(|whereabouts| whereabouts.side == Side::Standby);
    eventually("the other has the rows", is_over).await;
    let refused = store.pushes(vec![offer(1, 101, 2)]).await;
    assert!(matches!(refused, Err(PushError::Elsewhere)), "{refused:?}");
    assert_eq!(store.lease().rows_held, 0, "nothing was begun");
    assert_eq!(dr.ask::<u64>(&[b"DBSIZE"]), 0, "nor written");
    // Rows that nobody is promised that of are taken there.
    store.push(WorkerId(0), ViewId(1), vec![offer(1, 101, 2)], terms().by).await.unwrap();
    assert_eq!(store.reads(1).await, None, "what the other has is read");
}

#[tokio::test]
async fn an_embedded_store_needs_no_lease() {
    let v = strong();
    let l2 = L2Config::Embedded { path: None, ttl: NEVER };
    let store = open(from_ref(&v), l2, Some(Scripted::with(&[(&v, 1, 7)]))).await;
    assert_eq!(store.reads(1).await, int(7));
    assert_eq!(store.reads(1).await, int(7));
    assert_eq!(store.l3().asked.load(Ordering::Relaxed), 1, "it is kept");
    for second in 200..205 {
        store.pushes(vec![offer(1, second, second)]).await.unwrap();
        assert_eq!(store.reads(1).await, int(second));
    }
}

#[tokio::test]
async fn who_leaves_is_waited_for_by_nobody() {
    let (server, v) = (Server::start(), strong());
    let [a, b] = [gateway(&server, &v).await, gateway(&server, &v).await];
    let name = format!("g:{}", b.lease().gateway.unwrap());
    b.leave().await;
    assert!(b.lease().left.is_none());
    assert!(!server.ask::<bool>(&[b"HEXISTS", b"{weir:p}:leases", name.as_bytes()]));
    a.pushes(vec![offer(1, 100, 1)]).await.unwrap();
    assert_eq!(b.reads(1).await, int(1));
}
