//! Reads and pushes of the feature server: what is told of each row, and that nobody reads what a push replaced.

use super::*;
use crate::features::{
    online::{Age, Found, Offer, PushError, Pushed, Reading, Terms, Wish},
    tests::features as features_of,
};

fn terms() -> Terms {
    Terms { worker: WorkerId(0), caching: Caching::Allowed, by: Deadline::after(Instant::now(), LONG) }
}

fn offer(user: i64, second: i64, value: Option<Value>) -> Offer {
    Offer { key: key(user), event_time: second * 1_000_000_000, values: [value].into() }
}

impl Store {
    async fn found(&self, users: &[i64]) -> Reading {
        let column = EntityColumn::Rows(users.iter().copied().map(EntityValue::Int64).collect());
        self.read(users.len(), &[Wish { view: ViewId(0), columns: &[&column] }], terms()).await
    }

    /// The one value under a key.
    async fn value(&self, user: i64) -> Option<Value> {
        match &self.found(&[user]).await.views[0].found[0] {
            Found::Row(row, _) => row.values[0].clone(),
            Found::Absent => None,
            Found::Unavailable(_) | Found::Unreadable => panic!("unavailable"),
        }
    }

    async fn offers(&self, rows: Vec<Offer>) -> Result<Pushed, PushError> {
        self.push(WorkerId(0), ViewId(0), rows, terms().by).await
    }
}

#[tokio::test]
async fn each_row_is_told_for_what_it_is() {
    let mut server = Server::start();
    let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let v = view("v").max_age(Duration::from_secs(3600)).build();
    put(&server, &v, 1, &row(now, [int(1)]));
    put(&server, &v, 2, &row(now - 7200, [int(2)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let reading = store.found(&[1, 2, 3, 1]).await;
    let rows = &reading.views[0];
    let told: Vec<&Found> = (0..4).map(|row| &rows.found[rows.at(row)]).collect();
    assert!(matches!(told[0], Found::Row(row, Age::Within) if row.values[0] == int(1)), "{:?}", told[0]);
    assert!(matches!(told[1], Found::Row(row, Age::Outside) if row.values[0] == int(2)), "{:?}", told[1]);
    assert!(matches!(told[2], Found::Absent));
    assert_eq!(rows.at(3), rows.at(0));
    assert!(!rows.is_incomplete());
    server.kill();
    let reading = store.found(&[1, 4]).await;
    assert!(reading.views[0].is_incomplete());
    assert!(matches!(reading.views[0].found[0], Found::Row(..)), "L1 has it");
    assert!(matches!(reading.views[0].found[1], Found::Unavailable(None)), "it was asked, and did not answer");
    assert_eq!(reading.until(), None);
}

#[tokio::test]
async fn a_push_is_read_by_the_next_request_and_no_fetch_undoes_it() {
    let server = Server::start();
    let v = view("v").build();
    let scripted = Scripted::with(&[(&v, 1, 100)]).gated();
    let store = open(from_ref(&v), redis(&server, LONG), Some(scripted)).await;
    // A fetch that found nothing in Redis and waits for an old row of L3's.
    let push = async {
        eventually("L3 is asked", async || store.l3().asked.load(Ordering::Relaxed) == 1).await;
        let pushed = store.offers(vec![offer(1, 200, int(7))]).await.unwrap();
        assert_eq!(pushed, Pushed { written: 1, ..Pushed::default() });
        assert_eq!(store.value(1).await, int(7));
        store.l3().gate.as_ref().unwrap().add_permits(1);
    };
    let (slow, ()) = soon(async { tokio::join!(store.value(1), push) }).await;
    assert_eq!(slow, int(100), "who asked before the push may get what was there before it");
    eventually("the old row was offered to Redis", async || server.calls("evalsha") + server.calls("eval") >= 3).await;
    assert_eq!(store.value(1).await, int(7));
    store.shared.l1.renew(ViewId(0), &key(1), (None, Some(i64::MAX)), Instant::now());
    assert_eq!(store.value(1).await, int(7), "and Redis kept it");
}

#[tokio::test]
async fn only_what_a_row_has_is_set_and_then_the_row_is_read_again() {
    let server = Server::start();
    let v = view("v").features(&["f", "g"]).build();
    put(&server, &v, 1, &row(100, [int(1), int(2)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    assert_eq!(store.value(1).await, int(1));
    let part = Offer { key: key(1), event_time: 200_000_000_000, values: [int(9), None].into() };
    assert_eq!(soon(store.offers(vec![part])).await.unwrap().written, 1);
    let reading = store.found(&[1]).await;
    let Found::Row(row, _) = &reading.views[0].found[0] else { panic!("a row") };
    assert_eq!((&row.values[..], row.event_time), (&[int(9), int(2)][..], Some(200_000_000_000)));
}

#[tokio::test]
async fn of_a_batch_each_key_ends_with_what_the_order_leaves() {
    for (compat, stays) in [(Compat::Truthful, 3), (Compat::FeastPython, 4)] {
        let v = view("v").build();
        let l2 = L2Config::Embedded { path: None, ttl: Duration::from_secs(1) };
        let mut features = features_of("p", from_ref(&v), l2, None);
        features.compat = compat;
        let config = crate::features::tests::config(features, Vec::new());
        let store = Store::open(&config, Tasks::default()).await.unwrap();
        let batch = vec![
            offer(1, 100, int(1)),
            offer(1, 300, int(3)),
            offer(1, 200, int(2)),
            offer(2, -5, int(3)),
            offer(2, -9, int(4)),
        ];
        assert_eq!(store.offers(batch).await.unwrap().written, 2);
        assert_eq!(store.value(1).await, int(3));
        assert_eq!(store.value(2).await, int(stays), "an event before 1970 holds up nothing of Feast's");
        let again = store.offers(vec![offer(1, 300, int(9)), offer(1, 299, int(9))]).await.unwrap();
        assert_eq!(again, Pushed { older: 2, ..Pushed::default() });
        assert_eq!(store.value(1).await, int(3));
    }
}

#[tokio::test]
async fn a_push_that_the_store_does_not_take_is_not_acknowledged() {
    let mut server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    store.connect(WorkerId(0)).await;
    server.freeze();
    let short = Deadline::after(Instant::now(), SHORT);
    let late = store.push(WorkerId(0), ViewId(0), vec![offer(1, 100, int(1))], short).await;
    assert!(matches!(late, Err(PushError::Late)), "{late:?}");
    server.thaw();
    server.kill();
    let failed = soon(store.offers(vec![offer(1, 100, int(1))])).await;
    assert!(matches!(failed, Err(PushError::Store(_))), "{failed:?}");
}

#[tokio::test]
async fn a_stored_row_whose_time_cannot_be_read_holds_up_no_push() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(1)]));
    let layout = Layout::of(&v);
    server.ask::<()>(&[b"HSET", &redis_key(&key(1), "p"), layout.event_time(), b"\xff\xff"]);
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    assert!(matches!(store.found(&[1]).await.views[0].found[0], Found::Unreadable));
    let pushed = store.offers(vec![offer(1, 50, int(5)), offer(2, 50, int(5))]).await.unwrap();
    assert_eq!(pushed, Pushed { written: 1, mended: 1, older: 0 });
    assert_eq!(store.value(1).await, int(5));
    store.shared.l1.renew(ViewId(0), &key(1), (None, Some(i64::MAX)), Instant::now());
    assert_eq!(store.value(1).await, int(5), "and Redis has it");
    assert_eq!(store.offers(vec![offer(1, 49, int(6))]).await.unwrap().older, 1, "from then on it is compared");
}

#[tokio::test]
async fn every_pushed_row_is_counted_once() {
    let (metrics, scrape) = scratch(|| Handles::new(&[]));
    let mut server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await.with(|shared| shared.metrics = metrics);
    store.connect(WorkerId(0)).await;
    let counts = || {
        let text = scrape.render();
        ["written", "older", "error"].map(|outcome| {
            let mark = format!("weir_feature_pushes_total{{outcome=\"{outcome}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&mark)).unwrap().parse::<u64>().unwrap()
        })
    };
    let rows = |users: std::ops::Range<i64>| users.map(|user| offer(user, 100, int(1))).collect::<Vec<_>>();
    store.offers(rows(0..300).into_iter().chain(rows(299..300)).collect()).await.unwrap();
    assert_eq!(counts(), [300, 1, 0]);
    // The deadline passes in the first of three batches.
    server.freeze();
    let late = store.push(WorkerId(0), ViewId(0), rows(0..300), Deadline::after(Instant::now(), SHORT)).await;
    assert!(matches!(late, Err(PushError::Late)), "{late:?}");
    assert_eq!(counts(), [300, 1, 300]);
    // The caller leaves.
    assert!(tokio::time::timeout(SHORT, store.offers(rows(0..7))).await.is_err());
    assert_eq!(counts(), [300, 1, 307]);
    server.thaw();
    server.kill();
    soon(store.offers(rows(0..130))).await.unwrap_err();
    assert_eq!(counts(), [300, 1, 437]);
}

#[tokio::test]
async fn what_is_stored_but_is_no_row_is_looked_for_in_l3_and_costs_no_other_row_anything() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::with(&[(&v, 1, 7)]))).await;
    put(&server, &v, 3, &row(100, [int(9)]));
    let spoil = || {
        server.ask::<()>(&[b"SET", &redis_key(&key(1), "p"), b"text"]);
        server.ask::<()>(&[b"HSET", &redis_key(&key(2), "p"), b"_ts:v", b"\xff"]);
    };
    spoil();
    let set = store.users(&[3, 1]).await;
    assert_eq!(
        (values(&set), set.level(), &*caches(&set)),
        (vec![9, 7], Level::Full, "l1 miss, l2 unavailable, l3 hit")
    );
    let set = store.users(&[3, 2]).await;
    assert_eq!(
        (values(&set), reasons(&set), set.level()),
        (vec![9, -1], vec![Reason::Unavailable], Level::SimplifiedModel)
    );
    let reading = store.found(&[2, 3]).await;
    assert!(!reading.views[0].is_incomplete());
    assert!(matches!(&reading.views[0].found[..], [Found::Unreadable, Found::Row(..)]), "{:?}", reading.views[0].found);
    // A row at hand from before stands in, as when the store is down.
    let w = view("v").ttl(Duration::ZERO).build();
    put(&server, &w, 4, &row(100, [int(5)]));
    let store = open(from_ref(&w), redis(&server, LONG), None).await;
    store.users(&[4]).await;
    server.ask::<()>(&[b"HSET", &redis_key(&key(4), "p"), b"_ts:v", b"\xff"]);
    let set = store.users(&[4]).await;
    assert_eq!((values(&set), is_stale(&set), set.level()), (vec![5], true, Level::ReducedFeatures));
}

#[tokio::test]
async fn where_breakers_alone_are_in_the_way_it_is_said_until_when() {
    let mut server = Server::start();
    let v = view("v").build();
    let alone = open(from_ref(&v), redis(&server, LONG), None).await;
    let both = open(from_ref(&v), redis(&server, LONG), Some(Scripted::default())).await;
    server.kill();
    let began = Instant::now();
    eventually("L2's breaker to open", async || alone.found(&[1]).await.until().is_some()).await;
    let opened = alone.found(&[1]).await.until().unwrap();
    let open_for = crate::features::tests::breaker().open_for;
    assert!(began + open_for <= opened && opened <= Instant::now() + open_for);

    eventually("L2's breaker to open", async || both.found(&[1]).await.until().is_some()).await;
    let sooner = Instant::now() + Duration::from_secs(2);
    *both.l3().open.lock().unwrap() = Some(sooner);
    assert_eq!(both.found(&[1, 2]).await.until(), Some(sooner), "whichever is first");
    *both.l3().open.lock().unwrap() = Some(sooner + 10 * open_for);
    assert!(both.found(&[1]).await.until().is_some_and(|until| until <= Instant::now() + open_for));
    both.l3().broken.store(true, Ordering::Relaxed);
    let reading = both.found(&[1]).await;
    assert!(reading.views[0].is_incomplete());
    assert_eq!(reading.until(), None, "L3 may be asked at once");
}

#[tokio::test]
async fn an_absence_that_l3_could_not_confirm_waits_for_l3_alone() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::default())).await;
    let until = Instant::now() + LONG;
    *store.l3().open.lock().unwrap() = Some(until);
    assert_eq!(store.found(&[1]).await.until(), Some(until));
}
