//! Warm start: rows are read in batches from where they are, within its time.

use super::*;
use crate::{
    config::{SaveTo, WarmStart},
    features::{tiered::warm::Warmed, warm::Error},
};

fn config(save_to: SaveTo) -> WarmStart {
    WarmStart { save_to, max_keys: 1000, save_every: NEVER, timeout: LONG }
}

fn keys(users: std::ops::Range<i64>) -> Vec<(ViewId, crate::infer::EntityKey)> {
    users.map(|user| (ViewId(0), key(user))).collect()
}

fn by(timeout: Duration) -> Deadline {
    Deadline::after(Instant::now(), timeout)
}

#[tokio::test]
async fn rows_are_read_in_batches_and_then_served_from_memory() {
    let server = Server::start();
    let (v, w) = (view("v").build(), view("w").id(1).build());
    for user in 0..300 {
        put(&server, &v, user, &row(100, [int(user)]));
    }
    put(&server, &w, 7, &row(100, [int(70)]));
    let store = open(&[v, w], redis(&server, LONG), None).await;
    let told = Mutex::new(Vec::new());
    let all = [keys(0..310), vec![(ViewId(1), key(7))]].concat();
    let warmed = store.warm(WorkerId(1), &all, by(LONG), |warmed| told.lock().unwrap().push(warmed.asked())).await;
    assert_eq!(warmed, Warmed { read: 301, absent: 10, failed: 0 });
    assert_eq!(*told.lock().unwrap(), [128, 256, 311]);
    assert_eq!(server.calls("hmget"), 311);
    let set = store.users(&[0, 150, 299]).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![0, 150, 299], "l1 miss, l2 miss"), "w has none of them");
    assert_eq!(server.calls("hmget"), 311 + 3);
    // What is there already is not read again.
    assert_eq!(store.warm(WorkerId(1), &keys(0..300), by(LONG), |_| {}).await.read, 300);
    assert_eq!(server.calls("hmget"), 311 + 3);
}

#[tokio::test]
async fn what_l2_has_lost_comes_from_l3() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(10)]));
    let l3 = Scripted::with(&[(&v, 2, 20)]);
    let store = open(from_ref(&v), redis(&server, LONG), Some(l3)).await;
    let warmed = store.warm(WorkerId(1), &keys(1..4), by(LONG), |_| {}).await;
    assert_eq!(warmed, Warmed { read: 2, absent: 1, failed: 0 });
    let set = store.users(&[1, 2]).await;
    assert_eq!((values(&set), &*caches(&set)), (vec![10, 20], "l1 hit"));
}

#[tokio::test]
async fn it_ends_when_its_time_is_up() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), Some(Scripted::default().gated())).await;
    let warmed = soon(store.warm(WorkerId(1), &keys(0..300), by(SHORT), |_| {})).await;
    assert_eq!(warmed, Warmed { read: 0, absent: 0, failed: 128 }, "the first batch waits for L3, the others are left");
    server.freeze();
    let warmed = soon(store.warm(WorkerId(1), &keys(300..301), by(SHORT), |_| {})).await;
    assert_eq!(warmed, Warmed { read: 0, absent: 0, failed: 1 });
}

#[tokio::test]
async fn keys_are_saved_and_read_back() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(10)]));
    let folder = tempfile::tempdir().unwrap();
    for save_to in [SaveTo::L2, SaveTo::File(folder.path().join("keys"))] {
        let (config, store) = (config(save_to), open(from_ref(&v), redis(&server, LONG), None).await);
        assert!(matches!(store.saved_keys(&config, by(LONG)).await, Err(Error::Missing)));
        assert_eq!(store.save_keys(&config).await.unwrap(), 0, "nothing is saved of nothing");
        assert!(matches!(store.saved_keys(&config, by(LONG)).await, Err(Error::Missing)));
        // An absence is no row.
        store.users(&[1, 2]).await;
        assert_eq!(store.save_keys(&config).await.unwrap(), 1);
        let other = open(from_ref(&v), redis(&server, LONG), None).await;
        assert_eq!(other.saved_keys(&config, by(LONG)).await.unwrap().known, keys(1..2));
        assert_eq!(other.save_keys(&config).await.unwrap(), 0);
        assert_eq!(other.saved_keys(&config, by(LONG)).await.unwrap().known, keys(1..2), "what was saved stays");
    }
}

#[tokio::test]
async fn what_redis_refuses_is_told_at_once() {
    let server = Server::start();
    let v = view("v").build();
    let store = open(from_ref(&v), redis(&server, LONG), None).await;
    server.ask::<()>(&[b"RPUSH", b"weir:p:hot-keys-v1", b"not ours"]);
    let error = soon(store.saved_keys(&config(SaveTo::L2), by(NEVER))).await.unwrap_err().to_string();
    assert!(error.contains("WRONGTYPE"), "{error}");
    server.ask::<()>(&[b"SET", b"weir:p:hot-keys-v1", b"not ours"]);
    let error = soon(store.saved_keys(&config(SaveTo::L2), by(NEVER))).await.unwrap_err().to_string();
    assert_eq!(error, "damaged: not a list of keys");
    server.freeze();
    let error = soon(store.saved_keys(&config(SaveTo::L2), by(SHORT))).await.unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error}");
}
