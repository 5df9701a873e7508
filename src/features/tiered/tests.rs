//! The layers together, on a real Redis; L3 answers as each test says.

mod budget;
mod hot;
mod invalidate;
mod online;
mod signals;
mod strong;
mod warm;

use std::{
    collections::HashMap,
    slice::from_ref,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::FutureExt;

use super::*;
use crate::features::Row;
use crate::telemetry::{Scrape, scratch};
use crate::{
    config::{Join as JoinConfig, L2 as L2Config, Model, Redis as RedisConfig, Secret, View},
    features::{
        feast::{Layout, encode_time, redis_key},
        l2::Via,
        memory::Fetch,
        tests::{ask, features, int, key, row, servers::Server, view},
    },
    fixture,
    infer::{
        CacheEvent, Datatype, Deadline, Decoded, Degradation, EntityColumn, EntityValue, Level, Method, ModelId,
        Optional, PoolId, Protocol, Reason, RequestId, TierId, Value, ViewId,
        answer::CacheOutcome,
        decoded::{self, Data, Parameter, Present, Span, Tensor, Text},
        plan::Stale,
        request::Caching,
    },
};

/// An L3 of a few rows, which may be slow or broken.
#[derive(Debug, Default)]
pub(super) struct Scripted {
    rows: Mutex<HashMap<(ViewId, crate::infer::EntityKey), (i64, i64)>>,
    broken: AtomicBool,
    /// Until when its breaker is open.
    open: Mutex<Option<Instant>>,
    asked: AtomicUsize,
    /// Reads wait for it while it is there.
    gate: Option<Semaphore>,
}

impl Scripted {
    fn with(rows: &[(&Arc<View>, i64, i64)]) -> Self {
        let rows = rows.iter().map(|(view, user, value)| ((view.id, key(*user)), (100, *value))).collect();
        Self { rows: Mutex::new(rows), ..Self::default() }
    }

    fn gated(mut self) -> Self {
        self.gate = Some(Semaphore::new(0));
        self
    }

    pub(super) async fn get(&self, ask: &Ask) -> Result<Option<Row>, super::Boxed> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err("broken".into());
        }
        if let Some(until) = *self.open.lock().unwrap() {
            return Err(object::Error::Open { until }.into());
        }
        let rows = self.rows.lock().unwrap();
        Ok(rows.get(&(ask.view.id, ask.key.clone())).map(|(time, value)| row(*time, [int(*value)])))
    }
}

/// Long enough on a machine that is busy with everything else; a test that waits for it to pass takes a shorter one.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);
/// What no test waits for.
const NEVER: Duration = Duration::from_secs(3600);

fn redis(server: &Server, timeout: Duration) -> L2Config {
    let urls = vec![Secret(server.url())];
    L2Config::Redis(RedisConfig { timeout, ..fixture::redis(urls) })
}

fn model(views: &[Arc<View>], optional: bool) -> Model {
    let join = |view: &Arc<View>| JoinConfig {
        label: Arc::clone(&view.name),
        view: view.id,
        sources: view.entities.iter().map(|_| "user".into()).collect(),
        select: (0..view.features.len()).collect(),
        optional,
    };
    Model {
        name: "m".into(),
        tier: TierId(0),
        pool: PoolId(0),
        upstream: "m".into(),
        registered: "m".into(),
        timeout: LONG,
        idempotent: true,
        joins: views.iter().map(join).collect(),
        inputs: None,
        explainer: None,
        fallback: None,
        cache: None,
        ensemble: None,
        queue_on_reject: false,
        low_priority: false,
    }
}

/// Model 0 joins all views, model 1 as optional ones, model 2 joins nothing.
async fn open(views: &[Arc<View>], l2: L2Config, l3: Option<Scripted>) -> Store {
    let features = features("p", views, l2, None);
    let models = [model(views, false), model(views, true), model(&[], false)];
    let config = crate::features::tests::config(features, models.to_vec());
    let store = Store::open(&config, Tasks::default()).await.unwrap();
    store.with(|shared| shared.l3 = l3.map(|scripted| L3::new(Source::Scripted(scripted), NEVER)))
}

impl Store {
    /// The same, but for something.
    fn with(self, change: impl FnOnce(&mut Shared)) -> Self {
        let mut shared = Arc::into_inner(self.shared).expect("it is not in use yet");
        change(&mut shared);
        Self::of(shared)
    }

    fn l3(&self) -> &Scripted {
        match self.shared.l3.as_ref().map(|l3| &l3.source) {
            Some(Source::Scripted(scripted)) => scripted,
            _ => panic!("no scripted L3"),
        }
    }

    async fn users(&self, users: &[i64]) -> FeatureSet {
        self.ask(users, |_| {}).await
    }

    async fn ask(&self, users: &[i64], change: impl FnOnce(&mut How)) -> FeatureSet {
        self.ask_model(0, users, change).await
    }

    async fn ask_model(&self, model: usize, users: &[i64], change: impl FnOnce(&mut How)) -> FeatureSet {
        let mut how = how();
        change(&mut how);
        let column = EntityColumn::Rows(users.iter().copied().map(EntityValue::Int64).collect());
        let lookup = Lookup::new(&self.shared.joins[model], |_| Ok(users.len()), |_, _| Ok(column.clone())).unwrap();
        self.look_up(lookup, how).await
    }
}

fn how() -> How {
    How {
        worker: WorkerId(0),
        caching: Caching::Allowed,
        optional: Optional::Joined,
        stale: Stale::Refused,
        by: Deadline::after(Instant::now(), LONG),
        via: Via::Copies,
    }
}

fn values(set: &FeatureSet) -> Vec<i64> {
    let value = |row| if let Value::Int64(value) = set.value(0, 0, row) { *value } else { panic!("not an INT64") };
    (0..set.rows().unwrap()).map(value).collect()
}

fn caches(set: &FeatureSet) -> String {
    let said = |event: &CacheEvent| {
        let outcome = match event.outcome {
            CacheOutcome::Hit => "hit",
            CacheOutcome::Miss => "miss",
            CacheOutcome::Unavailable => "unavailable",
            CacheOutcome::Bypass => "bypass",
            CacheOutcome::Collapsed => "collapsed",
        };
        format!("{} {outcome}", event.cache.trim_start_matches("weir-"))
    };
    set.caches().iter().map(said).collect::<Vec<_>>().join(", ")
}

fn reasons(set: &FeatureSet) -> Vec<Reason> {
    let reason = |degradation: &Degradation| match degradation {
        Degradation::Default { reason, .. } => Some(*reason),
        _ => None,
    };
    set.degraded.iter().filter_map(reason).collect()
}

fn is_stale(set: &FeatureSet) -> bool {
    set.degraded.iter().any(|degradation| matches!(degradation, Degradation::Stale { .. }))
}

/// Stores a row as Feast does.
fn put(server: &Server, view: &View, user: i64, row: &Row) {
    let (layout, key) = (Layout::of(view), redis_key(&key(user), "p"));
    for (field, value) in layout.cells(row) {
        server.ask::<()>(&[b"HSET", &key, field, &value]);
    }
    if let Some(time) = row.event_time {
        server.ask::<()>(&[b"HSET", &key, layout.event_time(), &encode_time(time)]);
    }
}

/// Bounds what would otherwise hang.
async fn soon<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), awaited).await.unwrap()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_ok(), "never: {what}");
}

fn assert_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test]
async fn rows_come_from_redis_and_then_from_memory() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let set = assert_send(store.users(&[1])).await;
    assert_eq!((values(&set), &*caches(&set), set.level()), (vec![7], "l1 miss, l2 hit", Level::Full));
    assert_eq!(set.degraded, []);
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![7], "l1 hit"));
    assert_eq!(server.calls("hmget"), 1);
    store.shared.l1.tidy(Instant::now());
    assert_eq!(store.sizes().rows, 1);
    assert!(store.sizes().bytes > 300, "{}", store.sizes().bytes);
}

#[tokio::test]
async fn a_batch_asks_for_each_entity_once_and_answers_in_order() {
    let server = Server::start();
    let v = view("v").build();
    for user in 0..10 {
        put(&server, &v, user, &row(100, [int(user * 10)]));
    }
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let set = store.users(&[3, 1, 3, 3, 9]).await;
    assert_eq!(values(&set), [30, 10, 30, 30, 90]);
    assert_eq!(server.calls("hmget"), 3);
    let many: Vec<i64> = (0..200).map(|at| at % 10).collect();
    let set = store.users(&many).await;
    assert_eq!(values(&set), many.iter().map(|user| user * 10).collect::<Vec<_>>());
    assert_eq!(server.calls("hmget"), 10);
    let set = store.users(&[]).await;
    assert_eq!((set.rows(), &*caches(&set), set.level()), (Some(0), "", Level::Full));
}

#[tokio::test]
async fn what_the_store_does_not_have_is_told_apart_and_costs_no_level() {
    let server = Server::start();
    let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let v = view("v").features(&["f", "g"]).max_age(Duration::from_secs(3600)).build();
    put(&server, &v, 1, &row(now - 10, [int(1), None]));
    put(&server, &v, 2, &row(now - 10, [Some(Value::Null), int(2)]));
    put(&server, &v, 3, &row(now - 7200, [int(3), int(3)]));
    put(&server, &v, 4, &Row::new(None, [int(4), int(4)].into()));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    // Twice: from Redis and from memory.
    for _ in 0..2 {
        for (user, value, reason) in [
            (1, 1, Reason::NotFound),
            (2, -1, Reason::Null),
            (3, -1, Reason::OutsideMaxAge),
            (4, -1, Reason::OutsideMaxAge),
            (5, -1, Reason::NotFound),
        ] {
            let set = store.users(&[user]).await;
            assert_eq!((values(&set), reasons(&set), set.level()), (vec![value], vec![reason], Level::Full), "{user}");
        }
    }
    let mut all = store.users(&[1, 2, 3, 4, 5]).await;
    assert_eq!(reasons(&all), [Reason::NotFound, Reason::Null, Reason::OutsideMaxAge], "one a view and reason");
    assert_eq!(all.take_degraded().len(), 3);
    assert_eq!(all.take_degraded(), []);
    assert_eq!(server.calls("hmget"), 5, "an absence is remembered too");
}

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

#[test]
fn an_l1_that_is_observed_answers_nothing_and_is_compared_with_what_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ((), scrape) = scratch(|| {
        runtime.block_on(async {
            let server = Server::start();
            let v = view("v").build();
            let store = open(from_ref(&v), redis(&server, LONG), None).await;
            let store = store.with(|shared| shared.l1_mode = L1Mode::Observe);
            put(&server, &v, 1, &row(100, [int(7)]));
            for value in [7, 7] {
                let set = store.users(&[1]).await;
                assert_eq!((values(&set), &*caches(&set)), (vec![value], "l2 hit"));
            }
            put(&server, &v, 1, &row(200, [int(8)]));
            for _ in 0..2 {
                assert_eq!(values(&store.users(&[1]).await), [8], "the row that L2 has, not the one that L1 has");
            }
            assert_eq!(server.calls("hmget"), 4);
            store.maintain();
        });
    });
    let text = scrape.render();
    for (outcome, count) in [("miss", 1), ("match", 1), ("mismatch", 2)] {
        assert!(
            text.contains(&format!("weir_l1_observed_total{{outcome=\"{outcome}\"}} {count}\n")),
            "{outcome}\n{text}"
        );
    }
    assert!(text.contains("weir_l1_observed_hit_ratio 0.75"), "{text}");
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

#[tokio::test]
async fn who_bypasses_the_caches_reads_the_store_and_refreshes_them() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    store.users(&[1]).await;
    put(&server, &v, 1, &row(200, [int(8)]));
    assert_eq!(values(&store.users(&[1]).await), [7]);
    let set = store.ask(&[1], |how| how.caching = Caching::Bypassed).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![8], "l1 bypass, l2 hit"));
    let set = store.users(&[1]).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![8], "l1 hit"));
}

#[tokio::test]
async fn optional_views_are_left_out_from_level_one_on() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let set = store.ask_model(1, &[1], |how| how.optional = Optional::Skipped).await;
    assert_eq!((values(&set), &*caches(&set), set.level()), (vec![-1], "", Level::ReducedFeatures));
    assert_eq!(server.calls("hmget"), 0);
    let set = store.ask_model(0, &[1], |how| how.optional = Optional::Skipped).await;
    assert_eq!(values(&set), [7]);
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

#[tokio::test]
async fn two_joins_of_one_view_are_read_once_and_told_once() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(7)]));
    let store = open(&[v.clone(), v.clone()], redis(&server, LONG), None).await;
    let mut set = store.users(&[1]).await;
    assert_eq!((values(&set), set.value(1, 0, 0)), (vec![7], &Value::Int64(7)));
    assert_eq!(server.calls("hmget"), 1);
    assert_eq!(set.take_degraded(), []);
    let mut set = store.users(&[2]).await;
    assert_eq!(set.take_degraded().len(), 1);
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

#[tokio::test]
async fn what_can_never_work_is_said_when_it_is_opened() {
    let v = view("v").build();
    let bad = async |l2| {
        let config = crate::features::tests::config(features("p", from_ref(&v), l2, None), Vec::new());
        Store::open(&config, Tasks::default()).now_or_never().unwrap().unwrap_err()
    };
    let urls = vec![Secret("redis://:hunter2@nowhere:notaport".into())];
    let ttl = Duration::from_secs(1);
    let error = bad(L2Config::Redis(RedisConfig { ttl, timeout: LONG, ..fixture::redis(urls) })).await;
    assert!(matches!(error, OpenError::Redis(_)) && !format!("{error:?}").contains("hunter2"), "{error:?}");
    let error = bad(L2Config::Embedded { path: Some("/nowhere/rows.redb".into()), ttl }).await;
    assert!(error.to_string().contains("/nowhere/rows.redb"), "{error}");
}

fn request(model: u32) -> (InferRequest, Plan) {
    let deadline = Deadline::after(Instant::now(), LONG);
    let request = InferRequest {
        id: RequestId(http::HeaderValue::from_static("r")),
        worker: WorkerId(0),
        protocol: Protocol::V2Json,
        method: Method::Predict,
        verb: http::Method::POST,
        path: http::uri::PathAndQuery::from_static("/"),
        model: ModelId(model),
        version: None,
        tier: TierId(0),
        deadline,
        caching: Caching::Allowed,
        headers: Arc::default(),
        json_length: None,
        payload: Payload::Retained(bytes::Bytes::from_static(b"{}")),
        as_came: None,
    };
    let plan = Plan::full(ModelId(model), PoolId(0), TierId(0), deadline);
    (request, plan)
}

#[tokio::test]
async fn a_model_that_joins_nothing_costs_nothing_and_others_need_a_decoded_body() {
    let v = view("v").build();
    let store = open(from_ref(&v), L2Config::Embedded { path: None, ttl: LONG }, None).await;
    let (undecoded, plan) = request(2);
    let set = assert_send(store.fetch(&undecoded, &plan)).await.unwrap();
    assert!(set.rows().is_none());
    assert_eq!((set.level(), set.caches()), (Level::Full, &[][..]));
    // The plan may ask another model than the one named.
    let error = store.fetch(&undecoded, &request(0).1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

/// A V2 body whose one tensor has `rows` rows, with the user in a parameter.
fn rows_of_one_user(rows: i64) -> Payload {
    let body = br#"{"user": 1}"#;
    let text = |start, end| Text { span: Span::new(start, end), escaped: false };
    let tensor = Tensor {
        span: Span::default(),
        name: text(0, 0),
        datatype: Datatype::Uint8,
        shape: [rows].into_iter().collect(),
        data: Data::Elsewhere,
    };
    let parameter = Parameter { key: text(2, 6), span: Span::new(1, 10), value: Span::new(9, 10) };
    Payload::Decoded(Arc::new(Decoded {
        protocol: Protocol::V2Json,
        body: body.as_slice().into(),
        tensors: vec![tensor],
        parameters: vec![parameter],
        id: decoded::Id::default(),
        outputs: None,
        layout: decoded::Layout::V2 {
            json: body.len(),
            inputs: Span::default(),
            present: Present::Yes,
            parameters: Some(Span::new(0, body.len())),
        },
    }))
}

#[tokio::test]
async fn a_request_of_more_rows_than_allowed_is_refused_before_room_is_made() {
    let v = view("v").build();
    let store = open(from_ref(&v), L2Config::Embedded { path: None, ttl: LONG }, None).await;
    let (mut request, plan) = request(0);
    request.payload = rows_of_one_user(4);
    assert_eq!(store.fetch(&request, &plan).await.unwrap().rows(), Some(4));
    request.payload = rows_of_one_user(i64::MAX);
    let error = store.fetch(&request, &plan).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidRequest);
    assert_eq!(
        error.to_string(),
        "too many rows: the request has 9223372036854775807; allowed: at most 4 (listen.max_rows) for a model that joins features"
    );
}

#[tokio::test]
async fn a_drain_waits_for_what_was_begun_and_ends_what_never_would() {
    let mut server = Server::start();
    server.kill();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    store.users(&[1]).await;
    let maintained = store.clone();
    let tasks = store.shared.tasks.clone();
    tasks.background(async move {
        loop {
            maintained.maintain();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    // Trying to reach the server for ever is over, too.
    tasks.finish().await;
}

/// The registry puts another view first: what was cached is found under its new id, and nothing else is.
#[tokio::test]
async fn the_next_snapshot_keeps_connections_and_the_rows_of_views_that_stayed() {
    let mut server = Server::start();
    let (v, w) = (view("v").build(), view("w").id(1).build());
    put(&server, &v, 1, &row(100, [int(5)]));
    put(&server, &w, 1, &row(100, [int(6)]));
    let before = open(&[v, w], redis(&server, LONG), None).await;
    before.users(&[1]).await;
    let views = [view("new").build(), view("w").id(1).features(&["f", "g"]).build(), view("v").id(2).build()];
    let features = features("p", &views, redis(&server, LONG), None);
    let after = before.next(&crate::features::tests::config(features, vec![model(&views, false)])).await;
    server.kill();
    let set = after.users(&[1]).await;
    let found: Vec<_> = set.joins.iter().map(|join| join.rows[0].as_ref().map(|row| row.values[0].clone())).collect();
    assert_eq!(found, [None, None, Some(int(5))], "w has another definition, and v is still in L1");
    let old = before.users(&[1]).await;
    assert!(old.joins.iter().all(|join| join.rows[0].is_some()), "requests on the snapshot before go on as they were");
}

#[test]
fn everything_is_counted_where_it_happens() {
    let server = Server::start();
    let v = view("v").ttl(Duration::ZERO).build();
    let w = view("w").id(1).build();
    put(&server, &w, 1, &row(100, [int(7)]));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    let l3 = Scripted::with(&[(&v, 1, 7)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = || runtime.block_on(open(&[v, w], redis(&server, LONG), Some(l3)));
    let store = metrics::with_local_recorder(&recorder, opened);
    runtime.block_on(async {
        let idle = || eventually("nothing runs", async || store.shared.tasks.is_empty());
        // v is found in L3, w in L2; then v is past its ttl and w fresh.
        store.users(&[1]).await;
        idle().await;
        store.ask(&[1], |how| how.stale = Stale::Allowed).await;
        idle().await;
        futures_util::future::join(store.users(&[2]), store.users(&[2])).await;
        idle().await;
        eventually("the gauges are set", async || {
            store.maintain();
            scrape.render().contains("\nweir_l1_rows 4\n")
        })
        .await;
    });
    let text = scrape.render();
    for line in [
        r#"weir_feature_lookups_total{layer="l1",outcome="miss"} 6"#,
        r#"weir_feature_lookups_total{layer="l1",outcome="hit"} 1"#,
        r#"weir_feature_lookups_total{layer="l1",outcome="stale_hit"} 1"#,
        r#"weir_feature_lookups_total{layer="l2",outcome="hit"} 2"#,
        r#"weir_feature_lookups_total{layer="l3",outcome="hit"} 1"#,
        r#"weir_feature_lookups_total{layer="l3",outcome="miss"} 2"#,
        r#"weir_feature_write_backs_total{outcome="written"} 1"#,
        "weir_feature_coalesced_total 2",
        r#"weir_feature_defaults_total{view="v",reason="not_found"} 2"#,
        r#"weir_feature_age_seconds_count{view="w"} 2"#,
        r#"weir_feature_hit_ratio{layer="l1"} 0.25"#,
        r#"weir_feature_hit_ratio_target{layer="l2"} 0.95"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
}
