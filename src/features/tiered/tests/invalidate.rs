//! Invalidation: who begins to look after it gets nothing that was fetched before, wherever the fetch was.

use super::*;
use crate::features::{
    invalidate::{Dropped, Origin, Scope},
    online::{Found, Terms, Wish},
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
