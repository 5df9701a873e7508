//! Hot rows stay in L1: each is fetched once, before it would expire.

use super::*;
use crate::{
    config::{Copies, HotKeys},
    features::hot_keys::{Key, Turn},
};

const CONTROL: WorkerId = WorkerId(2);
const SECOND: Duration = Duration::from_secs(1);

/// As `open`, looking for hot keys.
async fn heeding(server: &Server, v: &Arc<View>, change: impl FnOnce(&mut crate::config::L1)) -> Store {
    let mut features = features("p", from_ref(v), redis(server, LONG), None);
    features.hot_keys = Some(HotKeys { share: 0.1, min_rate: 100.0, copies: Copies::Auto });
    change(&mut features.l1);
    let config = crate::features::tests::config(features, vec![model(from_ref(v), false)]);
    Store::open(&config, Tasks::default()).await.unwrap()
}

fn heat(turn: &mut Turn, users: &[i64]) {
    let rates: HashMap<Key, f64> = users.iter().map(|user| (("v".into(), key(*user)), 1000.0)).collect();
    turn.standings.judge(&rates, 2000.0, (Instant::now(), SystemTime::now()));
}

#[tokio::test]
async fn a_hot_row_is_fetched_once_before_it_expires() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(10)]));
    let store = heeding(&server, &v, |_| {}).await;
    let began = Instant::now();
    assert_eq!(values(&store.users(&[1]).await), [10]);
    let hot = store.shared.hot.as_ref().unwrap();
    let mut turn = hot.keys.turn.lock().await;
    heat(&mut turn, &[1]);
    // It is good for a minute.
    let next = store.refresh_hot(CONTROL, (hot, &turn), began + 57 * SECOND).await;
    assert!(next.is_some_and(|next| next >= began + 58 * SECOND && next < began + 59 * SECOND), "{:?}", next);
    assert_eq!(server.calls("hmget"), 1);
    put(&server, &v, 1, &row(200, [int(11)]));
    store.refresh_hot(CONTROL, (hot, &turn), Instant::now() + 59 * SECOND).await;
    let mut set = store.users(&[1]).await;
    while values(&set) != [11] {
        assert_eq!(&*caches(&set), "l1 hit", "nobody has to wait for it");
        tokio::task::yield_now().await;
        set = store.users(&[1]).await;
    }
    assert_eq!(server.calls("hmget"), 2, "once");
    // It is as good as any fetched now.
    assert!(store.refresh_hot(CONTROL, (hot, &turn), Instant::now()).await.is_some());
    assert_eq!(server.calls("hmget"), 2);
}

#[tokio::test]
async fn what_l1_lacks_is_put_there_and_what_there_is_none_of_is_left() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(10)]));
    let store = heeding(&server, &v, |_| {}).await;
    let hot = store.shared.hot.as_ref().unwrap();
    let mut turn = hot.keys.turn.lock().await;
    heat(&mut turn, &[1, 2]);
    for _ in 0..3 {
        store.refresh_hot(CONTROL, (hot, &turn), Instant::now()).await;
    }
    assert_eq!(server.calls("hmget"), 2, "a row, and an absence that is known for some seconds");
    assert_eq!(&*caches(&store.users(&[1]).await), "l1 hit");
    // Dropped, it is fetched again.
    store.shared.l1.drop_row(ViewId(0), &key(1), Instant::now());
    store.refresh_hot(CONTROL, (hot, &turn), Instant::now()).await;
    assert_eq!(server.calls("hmget"), 3);
}

#[tokio::test]
async fn nothing_is_kept_where_l1_serves_nothing() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(10)]));
    for off in [true, false] {
        let change = |l1: &mut crate::config::L1| if off { l1.capacity = 0 } else { l1.mode = L1Mode::Observe };
        let store = heeding(&server, &v, change).await;
        let hot = store.shared.hot.as_ref().unwrap();
        let mut turn = hot.keys.turn.lock().await;
        heat(&mut turn, &[1]);
        assert_eq!(store.refresh_hot(CONTROL, (hot, &turn), Instant::now()).await, None);
    }
    assert_eq!(server.calls("hmget"), 0);
}

#[tokio::test]
async fn what_is_asked_for_most_is_found_and_shown() {
    let server = Server::start();
    let v = view("v").build();
    put(&server, &v, 1, &row(100, [int(10)]));
    let store = heeding(&server, &v, |_| {}).await;
    assert!(store.hot_keys().is_some_and(|shown| shown.keys.is_empty()));
    for user in 0..3000 {
        let user = if user % 2 == 0 { 1 } else { user };
        store.users(&[user]).await;
    }
    assert!(store.tend_hot_keys(CONTROL).await.is_some());
    let shown = store.hot_keys().unwrap();
    let [hot] = &shown.keys[..] else { panic!("{shown:?}") };
    assert_eq!((&*hot.key.0, hot.key.1.to_string(), hot.copies), ("v", "user=1".to_owned(), 0));
    assert!((0.3..=0.7).contains(&hot.share), "{shown:?}");
    assert_eq!((shown.gateways, &*caches(&store.users(&[1]).await)), (1, "l1 hit"));
    // The next snapshot goes on with what is hot.
    let config = {
        let mut features = features("p", from_ref(&v), redis(&server, LONG), None);
        features.hot_keys = Some(HotKeys { share: 0.1, min_rate: 100.0, copies: Copies::Auto });
        crate::features::tests::config(features, vec![model(from_ref(&v), false)])
    };
    assert_eq!(store.next(&config).await.hot_keys().unwrap().keys.len(), 1);
}

#[tokio::test]
async fn who_does_not_look_for_hot_keys_does_nothing() {
    let server = Server::start();
    let store = open(&[view("v").build()], redis(&server, LONG), None).await;
    assert_eq!(store.tend_hot_keys(CONTROL).await, None);
    assert!(store.hot_keys().is_none());
    assert_eq!(server.calls("eval"), 0);
}
