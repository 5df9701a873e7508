//! The same contract as Redis', with `now` passed in.

use std::slice::from_ref;

use super::*;
use crate::{
    config,
    features::tests::{ask, features, int, key, row, view},
    infer::Value,
};

const SECOND: u64 = 1000;

fn open(path: Option<&Path>, views: &[Arc<View>]) -> Embedded {
    let ttl = Duration::from_secs(3600);
    let l2 = config::L2::Embedded { path: path.map(Into::into), ttl };
    Embedded::open(path, ttl, &features("p", views, l2, None)).unwrap()
}

impl Embedded {
    async fn put_at(&self, ask: &Ask, row: &Row, now: u64) -> Result<Written, Error> {
        let row = Arc::new(Row::new(row.event_time, row.values.clone()));
        self.write_at(&[Put { ask: ask.clone(), row }], Purpose::WriteBack, now).await.pop().unwrap()
    }
}

fn read_at(store: &Embedded, ask: &Ask, now: u64) -> Option<Row> {
    store.read_at(std::slice::from_ref(ask), now).pop().unwrap().unwrap()
}

#[tokio::test]
async fn rows_of_several_views_share_a_hash_and_its_first_life() {
    let (v, w) = (view("v").build(), view("w").id(1).features(&["f", "g"]).build());
    let store = open(None, &[v.clone(), w.clone()]);
    assert_eq!(read_at(&store, &ask(&v, 1), 0), None);
    let first = row(100, [int(5)]);
    assert_eq!(store.put_at(&ask(&v, 1), &first, 0).await.unwrap(), Written::Written);
    let second = row(-7, [Some(Value::Null), None]);
    assert_eq!(store.put_at(&ask(&w, 1), &second, 100 * SECOND).await.unwrap(), Written::Written);

    // The view's ttl, 300 s, is shorter than the store's.
    assert_eq!(read_at(&store, &ask(&v, 1), 300 * SECOND - 1), Some(row(100, [int(5)])));
    assert_eq!(read_at(&store, &ask(&w, 1), 300 * SECOND - 1), Some(second));
    assert_eq!(read_at(&store, &ask(&v, 1), 300 * SECOND), None);
    assert_eq!(read_at(&store, &ask(&w, 1), 300 * SECOND), None, "one life a hash");
    assert_eq!(read_at(&store, &ask(&v, 2), 0), None, "another entity");

    // What expired is gone also for the next write: an older row is new again.
    let older = row(50, [int(1)]);
    assert_eq!(store.put_at(&ask(&v, 1), &older, 300 * SECOND).await.unwrap(), Written::Written);
    assert_eq!(read_at(&store, &ask(&v, 1), 300 * SECOND), Some(older));
    assert_eq!(read_at(&store, &ask(&w, 1), 300 * SECOND), None);
}

#[tokio::test]
async fn only_newer_rows_replace_stored_ones() {
    let v = view("v").build();
    let store = open(None, from_ref(&v));
    let at = |time| Row::new(time, [int(1)].into());
    for (user, (stored, offered, expected)) in [
        (Some(100), Some(100), Written::Older),
        (Some(100), Some(99), Written::Older),
        (Some(100), Some(101), Written::Written),
        (Some(-100), Some(-99), Written::Written),
        (Some(100), None, Written::Older),
        (None, Some(i64::MIN), Written::Written),
    ]
    .into_iter()
    .enumerate()
    {
        let ask = ask(&v, i64::try_from(user).unwrap());
        assert_eq!(store.put_at(&ask, &at(stored), 0).await.unwrap(), Written::Written);
        assert_eq!(store.put_at(&ask, &at(offered), 0).await.unwrap(), expected, "{stored:?} then {offered:?}");
    }
}

#[tokio::test]
async fn a_time_that_cannot_be_read_holds_nothing_up() {
    let v = view("v").build();
    let store = open(None, from_ref(&v));
    let mut hash = Hash::until(u64::MAX);
    hash.set(b"_ts:v", b"\xff\xff");
    let writing = store.opened.database.begin_write().unwrap();
    let stored = hash.record().unwrap();
    writing.open_table(ROWS).unwrap().insert(&*redis_key(&key(1), "p"), &*stored).unwrap();
    writing.commit().unwrap();
    let timeless = Row::new(None, [int(1)].into());
    assert_eq!(store.put_at(&ask(&v, 1), &timeless, 0).await.unwrap(), Written::Older, "nobody knows which is newer");
    assert_eq!(store.put_at(&ask(&v, 1), &row(5, [int(2)]), 0).await.unwrap(), Written::Mended);
    assert_eq!(read_at(&store, &ask(&v, 1), 0), Some(row(5, [int(2)])));
    assert_eq!(store.put_at(&ask(&v, 1), &row(4, [int(3)]), 0).await.unwrap(), Written::Older);
}

#[tokio::test]
async fn a_file_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    let v = view("v").build();
    let store = open(Some(&path), from_ref(&v));
    for user in 0..1000 {
        store.put_at(&ask(&v, user), &row(100, [int(user)]), 0).await.unwrap();
    }
    drop(store);
    // By then the writer has flushed and let go of the file.
    let store = open(Some(&path), from_ref(&v));
    for user in 0..1000 {
        assert_eq!(read_at(&store, &ask(&v, user), 0), Some(row(100, [int(user)])));
    }
}

#[tokio::test]
async fn the_sweep_removes_what_expired_and_nothing_else() {
    let v = view("v").build();
    let store = open(None, from_ref(&v));
    store.put_at(&ask(&v, 1), &row(100, [int(1)]), 0).await.unwrap();
    store.put_at(&ask(&v, 2), &row(100, [int(2)]), 200 * SECOND).await.unwrap();
    Writer::new(Arc::clone(&store.opened.database)).unwrap().sweep(300 * SECOND).unwrap();
    let table = store.opened.database.begin_read().unwrap().open_table(ROWS).unwrap();
    assert!(table.get(&*redis_key(&key(1), "p")).unwrap().is_none());
    assert!(table.get(&*redis_key(&key(2), "p")).unwrap().is_some());
}

#[test]
fn a_record_that_is_none_is_as_good_as_absent() {
    for record in [&b""[..], &[0; 7], &[0, 0, 0, 0, 0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 7, 9]] {
        assert!(Hash::read(record).is_none(), "{record:?}");
    }
    let mut hash = Hash::until(7);
    hash.set(b"a", b"1");
    hash.set(b"a", b"22");
    hash.set(b"", b"");
    let record = hash.record().unwrap();
    let read = Hash::read(&record).unwrap();
    assert_eq!((read.get(b"a"), read.get(b""), read.get(b"b")), (Some(&b"22"[..]), Some(&b""[..]), None));
    assert!(read.lives(6) && !read.lives(7));
}
