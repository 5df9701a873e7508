//! Invalidation: who begins to look after it gets nothing that was fetched before, wherever the fetch was.

use super::*;
use crate::features::{
    invalidate::{Dropped, Origin, Scope},
    online::{Found, Terms, Wish},
    redis::{SlotSet, Standing},
    tests::servers::Sentinels,
};

fn terms() -> Terms {
    Terms { worker: WorkerId(0), caching: Caching::Allowed, by: Deadline::after(Instant::now(), LONG) }
}

fn rows(of: &[(u32, i64)]) -> Scope {
    Scope::Rows(of.iter().map(|(view, user)| (ViewId(*view), key(*user))).collect())
}

impl Store {
    async fn sees(&self, view: u32, user: i64) -> Option<Value> {
        let column = EntityColumn::Same(EntityValue::Int64(user));
        let reading = self.read(1, &[Wish { view: ViewId(view), columns: &[&column] }], terms()).await;
        match &reading.views[0].found[0] {
            Found::Row(row, _) => row.values[0].clone(),
            found => panic!("{found:?}"),
        }
    }

    async fn drops(&self, scope: &Scope) -> u64 {
        self.invalidate(scope, Origin::Admin, None).await.rows
    }
}

#[tokio::test]
async fn what_is_dropped_is_read_again_and_the_rest_is_not() {
    let server = Server::start();
    let views = [view("v").build(), view("w").id(1).build()];
    let store = open(&views, redis(&server, LONG), None).await;
    let set = |value: i64| {
        for (v, user) in views.iter().flat_map(|v| [(v, 1), (v, 2)]) {
            put(&server, v, user, &row(100 + value, [int(value)]));
        }
    };
    let values = async || {
        let mut values = Vec::new();
        for (view, user) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
            values.push(store.sees(view, user).await);
        }
        values
    };
    set(1);
    assert_eq!(values().await, [int(1), int(1), int(1), int(1)]);
    set(2);
    assert_eq!(values().await, [int(1), int(1), int(1), int(1)], "L1 has them");
    assert_eq!(store.drops(&rows(&[(0, 1), (0, 1), (1, 7)])).await, 1);
    assert_eq!(values().await, [int(2), int(1), int(1), int(1)]);
    assert_eq!(store.drops(&Scope::View(ViewId(1))).await, 2);
    assert_eq!(values().await, [int(2), int(1), int(2), int(2)]);
    set(3);
    assert_eq!(store.drops(&Scope::All).await, 4);
    assert_eq!(values().await, [int(3), int(3), int(3), int(3)]);
}

#[tokio::test]
async fn a_prefix_is_of_the_first_join_keys_text() {
    let server = Server::start();
    let v = view("v").entities(&[("name", crate::infer::EntityType::String)]).build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    let names = ["ann", "anton", "bob", "a"];
    let read = async || {
        let column = EntityColumn::Rows(names.iter().map(|name| EntityValue::String((*name).into())).collect());
        store.read(names.len(), &[Wish { view: ViewId(0), columns: &[&column] }], terms()).await
    };
    read().await;
    assert_eq!(store.sizes().rows, 4, "that there are none");
    assert_eq!(store.drops(&Scope::Prefix(ViewId(0), (*b"an").into())).await, 2);
    assert_eq!(store.drops(&Scope::Prefix(ViewId(0), (*b"").into())).await, 2);
    assert_eq!(store.drops(&Scope::Prefix(ViewId(0), (*b"").into())).await, 0);
}

#[tokio::test]
async fn nobody_who_asks_after_it_gets_what_a_fetch_from_before_it_finds() {
    let v = view("v").build();
    for scope in [rows(&[(0, 1)]), Scope::View(ViewId(0)), Scope::Prefix(ViewId(0), [1].into()), Scope::All] {
        let server = Server::start();
        let scripted = Scripted::with(&[(&v, 1, 100)]).gated();
        let store = open(from_ref(&v), redis(&server, LONG), Some(scripted)).await;
        let asked = |times: usize| {
            let store = &store;
            async move { eventually("L3 is asked", async || store.l3().asked.load(Ordering::Relaxed) == times).await }
        };
        let invalidate = async {
            asked(1).await;
            store.l3().rows.lock().unwrap().insert((ViewId(0), key(1)), (200, 200));
            store.invalidate(&scope, Origin::Admin, Some(SystemTime::now())).await;
            let later = store.sees(0, 1);
            let both = async {
                // It does not wait for the first.
                asked(2).await;
                store.l3().gate.as_ref().unwrap().add_permits(2);
            };
            let (later, ()) = tokio::join!(later, both);
            assert_eq!(later, int(200), "{scope:?}");
        };
        let (_, ()) = soon(async { tokio::join!(store.sees(0, 1), invalidate) }).await;
        assert_eq!(store.sees(0, 1).await, int(200), "{scope:?}");
    }
}

#[tokio::test]
async fn a_fetch_from_before_it_is_not_kept() {
    let v = view("v").build();
    for scope in [rows(&[(0, 1)]), Scope::View(ViewId(0)), Scope::Prefix(ViewId(0), [1].into()), Scope::All] {
        let server = Server::start();
        let scripted = Scripted::with(&[(&v, 1, 100)]).gated();
        let store = open(from_ref(&v), redis(&server, LONG), Some(scripted)).await;
        let invalidate = async {
            eventually("L3 is asked", async || store.l3().asked.load(Ordering::Relaxed) == 1).await;
            assert_eq!(store.invalidate(&scope, Origin::Admin, None).await, Dropped::default());
            store.l3().gate.as_ref().unwrap().add_permits(1);
        };
        let (first, ()) = soon(async { tokio::join!(store.sees(0, 1), invalidate) }).await;
        assert_eq!(first, int(100), "who asked before it may get what was there before it");
        assert_eq!(store.sizes().rows, 0, "{scope:?}");
    }
}

#[tokio::test]
async fn slots_that_move_send_reads_to_masters_as_every_invalidation_does() {
    let server = Server::start();
    let v = view("v").build();
    // It counts for as long as a replica may be behind: to the end of this test.
    let replicas =
        config::Replicas { from: config::ReadFrom::Replicas, max_lag: NEVER, own_zone: None, zones: Vec::new() };
    let store = async || {
        let L2Config::Redis(redis) = redis(&server, LONG) else { unreachable!("it is") };
        open(from_ref(&v), L2Config::Redis(RedisConfig { replicas: Some(Box::new(replicas.clone())), ..redis }), None)
            .await
    };
    put(&server, &v, 1, &row(100, [int(1)]));
    let fenced = |store: &Store, user| store.shared.l2.redis().unwrap().is_fenced(&key(user));

    let moved = store().await;
    assert_eq!(moved.sees(0, 1).await, Some(int(1).unwrap()));
    assert!(!fenced(&moved, 1));
    put(&server, &v, 1, &row(101, [int(2)]));
    let slots = SlotSet::of_keys([key(1)].iter(), "p");
    assert_eq!(moved.shared.drop_slots(Arc::new(slots), Origin::Tracking).await.rows, 1);
    assert!(fenced(&moved, 1), "a replica of the slot's new master may lack what the old one had");
    assert!(fenced(&moved, 2), "all are: nobody looks up a slot for each read");
    assert_eq!(moved.sees(0, 1).await, Some(int(2).unwrap()));

    let named = store().await;
    named.drops(&rows(&[(0, 1)])).await;
    assert_eq!([fenced(&named, 1), fenced(&named, 2)], [true, false]);
    for scope in [Scope::View(ViewId(0)), Scope::Prefix(ViewId(0), [1_u8].into()), Scope::All] {
        let whole = store().await;
        whole.drops(&scope).await;
        assert!(fenced(&whole, 1) && fenced(&whole, 2), "{scope:?}");
    }
}

/// What the store sees while it listens to Redis.
async fn listening(store: &Store, test: impl Future<Output = ()>) {
    let current = Arc::new(store.clone());
    tokio::select! {
        () = Store::listen(|| Arc::clone(&current)) => panic!("it listens no longer"),
        () = test => {}
    }
}

#[tokio::test]
async fn behind_sentinels_what_was_cached_of_a_lost_master_is_dropped_and_the_promoted_one_is_heard() {
    let mut master = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let sentinels = Sentinels::of(&master);
    let v = view("v").build();
    let urls = sentinels.ports.iter().map(|port| Secret(format!("redis://127.0.0.1:{port}"))).collect();
    let mode = config::RedisMode::Sentinel { master: "mymaster".into() };
    let redis = RedisConfig { timeout: LONG, mode, ..fixture::redis(urls) };
    let mut features = features("p", from_ref(&v), L2Config::Redis(redis), None);
    features.invalidate.tracking = true;
    features.breaker.open_for = SHORT;
    let config = crate::features::tests::config(features, vec![model(from_ref(&v), false)]);
    let store = Store::open(&config, Tasks::default()).await.unwrap();
    let (tracking, sees) = (store.tracking().unwrap(), async |value: i64| {
        eventually("the row is read anew", async || store.sees(0, 1).await == int(value)).await;
    });
    put(&master, &v, 1, &row(100, [int(1)]));
    listening(&store, async {
        tracking.up().await;
        sees(1).await;
        put(&master, &v, 1, &row(101, [int(2)]));
        sees(2).await;
        eventually("the replica has it", async || replica.ask::<u64>(&[b"DBSIZE"]) == 1).await;

        // While nobody is heard, somebody writes at who takes over: that is never told, and yet not missed.
        master.kill();
        eventually("it is promoted", async || is_master(&replica)).await;
        put(&replica, &v, 1, &row(102, [int(3)]));
        sees(3).await;
        tracking.up().await;
        put(&replica, &v, 1, &row(103, [int(4)]));
        sees(4).await;
        assert!(
            matches!(&tracking.standings()[..], [(at, Standing::Heard)] if at.ends_with(&replica.port.to_string()))
        );
    })
    .await;
}

/// Whether the server says that it is a master: one that is promoted closes all connections in that moment.
fn is_master(server: &Server) -> bool {
    let client = ::redis::Client::open(server.url()).unwrap();
    let role: Option<Vec<::redis::Value>> =
        client.get_connection().ok().and_then(|mut connection| ::redis::cmd("ROLE").query(&mut connection).ok());
    role.is_some_and(|role| role[0] == ::redis::Value::BulkString(b"master".to_vec()))
}
