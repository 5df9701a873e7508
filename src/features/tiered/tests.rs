//! The layers together, on a real Redis; L3 answers as each test says.

mod budget;
mod flights;
mod hot;
mod invalidate;
mod l3;
mod online;
mod outage;
mod requests;
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
