//! Copies on a real cluster, and the order of things at one of them.

mod model;

use ::redis::{Cmd, FromRedisValue};

use super::*;
use crate::{
    app::Tasks,
    config::{L2, RedisMode, Secret},
    features::{
        Row,
        feast::{Layout, redis_key},
        invalidate::{KeyCopies, Origin, Scope},
        l2::{Ask, Error, Order, Purpose, Put, Via, Written},
        redis::Redis,
        tests::{
            ask, int, key, row,
            servers::{Cluster, Server},
            view,
        },
    },
    fixture,
    infer::{Value, ViewId, WorkerId},
};

const WORKER: WorkerId = WorkerId(0);
const SECOND: Duration = Duration::from_secs(1);
const LIFE: Duration = Duration::from_secs(60);

fn on<T: FromRedisValue>(server: &Server, cmd: &Cmd) -> T {
    cmd.query(&mut server.client()).unwrap()
}

fn cells(value: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    vec![(b"cell".to_vec(), value.into())]
}

fn held(server: &Server, copy: &[u8]) -> Option<String> {
    server.ask(&[b"HGET", copy, b"cell"])
}

#[test]
fn a_slow_copier_does_not_bring_an_old_row_back() {
    let server = Server::start();
    let copy: &[u8] = b"copy";
    let take = |lease| on::<i64>(&server, &script::take(copy, lease, LIFE / 2));
    let fill = |lease, value| on::<i64>(&server, &script::fill(copy, lease, LIFE, &cells(value)));
    let remove = || on::<i64>(&server, &script::remove(copy));

    // It leases, reads, and is overtaken by a write before it fills.
    assert_eq!(take(1), -1);
    remove();
    assert_eq!((fill(1, "old"), held(&server, copy)), (0, None));

    // The same, and another one leases in between: the old lease is not the new one's.
    assert_eq!(take(1), -1);
    remove();
    assert_eq!(take(2), -1);
    assert_eq!((fill(1, "old"), held(&server, copy)), (0, None));
    assert_eq!((fill(2, "new"), held(&server, copy)), (1, Some("new".into())));

    // A copy that is there is taken as it is, and its lease is used up.
    assert!((0..30_000).contains(&take(3)));
    assert_eq!((fill(2, "again"), held(&server, copy)), (0, Some("new".into())));
    let life: i64 = server.ask(&[b"PTTL", copy]);
    assert!((1..=60_000).contains(&life), "{life}");
}

#[test]
fn one_makes_a_copy_while_the_others_wait_and_it_is_read_meanwhile() {
    let server = Server::start();
    let copy: &[u8] = b"copy";
    let anew = |lease| on::<i64>(&server, &script::take(copy, lease, Duration::ZERO));
    assert_eq!(anew(1), -1);
    assert_eq!(anew(2), -2);
    let life: i64 = server.ask(&[b"PTTL", copy]);
    assert!((1..=10_000).contains(&life), "a lease of nobody's goes by itself: {life}");
    assert_eq!(on::<i64>(&server, &script::fill(copy, 1, LIFE, &cells("first"))), 1);
    assert_eq!(anew(3), -1, "the turn was used");
    assert_eq!(held(&server, copy), Some("first".into()));
    assert_eq!(on::<i64>(&server, &script::fill(copy, 3, Duration::ZERO, &cells("late"))), 0, "past its life");
    assert_eq!(held(&server, copy), None);
}

#[test]
fn a_key_is_marked_in_the_step_in_which_it_is_read_for_its_longest_lived_copy() {
    let server = Server::start();
    let read = |life| on::<Vec<String>>(&server, &script::read(b"key", b"mark", life));
    let marked = || on::<i64>(&server, &script::marked(b"mark"));
    assert!(read(LIFE).is_empty() && marked() < 0, "there is nothing to copy");
    server.ask::<()>(&[b"HSET", b"key", b"cell", b"1"]);
    assert_eq!(read(LIFE), ["cell", "1"]);
    assert!((1..=60_000).contains(&marked()));
    assert_eq!(read(10 * LIFE), ["cell", "1"]);
    assert_eq!(read(LIFE), ["cell", "1"]);
    assert!((60_001..=600_000).contains(&marked()), "another's copy may be there longer");
}

fn copies() -> Copies {
    Copies::new(config::Copies::Auto, Arc::new(Handles::new()))
}

#[tokio::test]
async fn whoever_looked_lately_knows_which_keys_are_copied_and_others_suspect_all() {
    let (copies, now) = (copies(), Instant::now());
    let suspicions = |at| copies.suspicions([key(1), key(2)].iter(), at).collect::<Vec<_>>();
    assert_eq!(suspicions(now), [Suspicion::Unknown, Suspicion::Unknown], "it has not looked yet");
    copies.take_list((now, now), vec![(key(1), 10 * SECOND)], &[]);
    assert_eq!(suspicions(now + 2 * SECOND), [Suspicion::Listed, Suspicion::None]);
    assert_eq!(suspicions(now + NOTICE), [Suspicion::Listed, Suspicion::Unknown], "too long ago");
    // A list that lost what it had: what is known stays known for its time.
    copies.take_list((now + SECOND, now + SECOND), Vec::new(), &[]);
    assert_eq!(suspicions(now + 2 * SECOND), [Suspicion::Listed, Suspicion::None]);
    let later = now + 9 * SECOND;
    copies.take_list((later, later), Vec::new(), &[]);
    assert_eq!(suspicions(later + 2 * SECOND), [Suspicion::None, Suspicion::None]);
}

#[tokio::test]
async fn no_copy_is_made_before_its_notice_or_without_a_renewed_one() {
    let (copies, now) = (copies(), Instant::now());
    let announced = [(key(1), LIFE + GRACE)];
    assert!(!copies.may_be_made(&key(1), now));
    copies.take_list((now, now), Vec::new(), &announced);
    let at = |seconds| copies.may_be_made(&key(1), now + SECOND * seconds);
    assert_eq!([2, 3, 19, 20].map(at), [false, true, true, false]);
    let later = now + 15 * SECOND;
    copies.take_list((later, later), Vec::new(), &announced);
    assert!(copies.may_be_made(&key(1), now + 30 * SECOND), "it keeps its notice");
    copies.doubt(&key(1));
    assert!(!copies.may_be_made(&key(1), now + 30 * SECOND));
    // Cold in between: noticed anew.
    copies.take_list((later, later), Vec::new(), &[]);
    copies.take_list((later, later), Vec::new(), &announced);
    assert!(!copies.may_be_made(&key(1), later + SECOND));
}

/// A gateway on a cluster.
fn gateway(cluster: &Cluster, views: &[Arc<View>]) -> Redis {
    patient(cluster, views, 10 * SECOND)
}

/// One that waits so long for an answer.
fn patient(cluster: &Cluster, views: &[Arc<View>], timeout: Duration) -> Redis {
    let urls = cluster.urls().into_iter().map(Secret).collect();
    let redis = config::Redis { mode: RedisMode::Cluster, timeout, ..fixture::redis(urls) };
    let features = crate::features::tests::features("p", views, L2::Redis(redis.clone()), None);
    let hot = config::HotKeys { share: 0.01, min_rate: 1.0, copies: config::Copies::Auto };
    Redis::open(&redis, &features, 1, &Tasks::default()).unwrap().with_copies(&hot, &Arc::new(Handles::new()))
}

impl Redis {
    async fn push(&self, ask: &Ask, second: i64, value: i64) {
        self.try_push(ask, second, value).await.unwrap();
    }

    async fn try_push(&self, ask: &Ask, second: i64, value: i64) -> Result<Written, Error> {
        let row = Arc::new(row(second, [int(value)]));
        self.write(WORKER, &[Put { ask: ask.clone(), row }], Purpose::Push(Order::ByTime)).await.remove(0)
    }

    /// Makes copies of a key as if it had been announced long enough ago.
    async fn copy(&self, key: &EntityKey) {
        // Where copies lie is known once the map of the cluster is.
        self.connect(WORKER).await;
        self.spread(&[Hot { key: key.clone(), share: 0.5, life: LIFE }]);
        let copies = self.copies().unwrap();
        let (now, before) = (Instant::now(), Instant::now() - NOTICE);
        copies.take_list((before, before), Vec::new(), &copies.announcements());
        copies.take_list((now, now), vec![(key.clone(), LIFE)], &copies.announcements());
        self.tend_copies(Instant::now()).await;
    }

    /// What a number of reads find, each the key or a copy.
    async fn read_often(&self, ask: &Ask) -> HashSet<Option<i64>> {
        let mut found = HashSet::new();
        for _ in 0..40 {
            let rows = self.fetch(WORKER, std::slice::from_ref(ask), Via::Copies).await.rows;
            let value = |row: Row| if let Some(Value::Int64(value)) = row.values[0] { value } else { -1 };
            found.extend(rows.into_iter().map(|row| row.unwrap().map(value)));
        }
        found
    }
}

fn reads(cluster: &Cluster) -> Vec<u64> {
    cluster.masters.iter().map(|master| master.calls("hmget")).collect()
}

#[tokio::test]
async fn a_hot_key_is_read_from_every_master_and_a_push_leaves_no_old_copy() {
    let cluster = Cluster::start();
    // Both are hot; the second one's rows are never copied.
    let views = [view("v").build(), view("w").id(1).consistency(Consistency::WriteThrough).build()];
    let redis = gateway(&cluster, &views);
    redis.connect(WORKER).await;
    // Its eight bytes are `{a}` and more: an accidental hash tag.
    let user = i64::from_le_bytes(*b"{a}12345");
    let (ask, guarded) = (ask(&views[0], user), ask(&views[1], user));
    redis.push(&ask, 10, 1).await;
    redis.push(&guarded, 10, 7).await;
    redis.copy(&ask.key).await;
    assert_eq!(redis.copies().unwrap().count(&ask.key, Instant::now()), 2);
    let before = reads(&cluster);
    assert_eq!(redis.read_often(&ask).await, [Some(1)].into());
    assert!(reads(&cluster).iter().zip(&before).all(|(after, before)| after > before), "each master is read");

    // A copy has the cells of the key's hash, but for those that are guarded.
    let name = cluster
        .masters
        .iter()
        .find_map(|master| master.ask::<Vec<Vec<u8>>>(&[b"KEYS", b"weir:{*:shard_*"]).pop().map(|name| (master, name)));
    let (master, name) = name.unwrap();
    let fields: HashSet<Vec<u8>> = master.ask(&[b"HKEYS", &name]);
    assert!(Layout::of(&views[0]).fields().all(|field| fields.contains(field)));
    assert!(Layout::of(&views[1]).fields().all(|field| !fields.contains(field)));
    assert_eq!(redis.read_often(&guarded).await, [Some(7)].into());

    // What another gateway pushes, which has just started and knows of nothing.
    let other = gateway(&cluster, &views);
    other.push(&ask, 11, 2).await;
    assert_eq!(redis.read_often(&ask).await, [Some(2)].into());
    assert!(redis.copies().unwrap().count(&ask.key, Instant::now()) < 2, "they are found missing");
    redis.tend_copies(Instant::now()).await;
    assert_eq!(redis.copies().unwrap().count(&ask.key, Instant::now()), 2, "and made anew");
    assert_eq!(redis.read_often(&ask).await, [Some(2)].into());
}

#[tokio::test]
async fn an_invalidation_removes_copies_whoever_wrote_the_row() {
    let cluster = Cluster::start();
    let views = [view("v").build()];
    let redis = gateway(&cluster, &views);
    let ask = ask(&views[0], 1);
    let stored = redis_key(&ask.key, "p");
    let write = |value: i64| {
        let layout = Layout::of(&views[0]);
        let row = row(10, [int(value)]);
        let cell = layout.cells(&row).next().unwrap().1;
        let field = layout.fields().next().unwrap().to_vec();
        cluster.holder(&stored).ask::<()>(&[b"HSET", &stored, &field, &cell]);
    };
    write(1);
    let scopes = [
        Scope::Rows(vec![(ViewId(0), ask.key.clone())]),
        Scope::View(ViewId(0)),
        Scope::Prefix(ViewId(0), [1_u8].into()),
        Scope::All,
    ];
    for (value, scope) in (2..).zip(&scopes) {
        redis.copy(&ask.key).await;
        assert_eq!(redis.copies().unwrap().count(&ask.key, Instant::now()), 2, "{scope:?}");
        write(value);
        let owed = redis.doubt_copies(scope, Origin::Admin);
        assert_eq!(redis.read_often(&ask).await, [Some(value)].into(), "from the key alone: {scope:?}");
        assert_eq!(redis.remove_owed(owed).await, KeyCopies::Removed);
        let left: usize =
            cluster.masters.iter().map(|master| master.ask::<Vec<Vec<u8>>>(&[b"KEYS", b"weir:{*:shard_*"]).len()).sum();
        assert_eq!(left, 0, "{scope:?}");
    }
    // Redis told of it: removed by the next who tends.
    redis.copy(&ask.key).await;
    write(9);
    let _ = redis.doubt_copies(&scopes[0], Origin::Tracking);
    assert_eq!(redis.read_often(&ask).await, [Some(9)].into());
    redis.tend_copies(Instant::now()).await;
    assert_eq!(redis.read_often(&ask).await, [Some(9)].into());
    assert_eq!(redis.copies().unwrap().count(&ask.key, Instant::now()), 2);
}

#[tokio::test]
async fn a_server_that_is_gone_costs_no_read_of_a_copy_and_a_push_says_what_it_could_not_remove() {
    let mut cluster = Cluster::start();
    let views = [view("v").build()];
    let redis = gateway(&cluster, &views);
    let ask = ask(&views[0], 1);
    redis.push(&ask, 10, 1).await;
    redis.copy(&ask.key).await;
    let stored = redis_key(&ask.key, "p");
    let own = cluster.holder(&stored).port;
    let gone = cluster.masters.iter().position(|master| master.port != own).unwrap();
    cluster.masters[gone].kill();
    assert_eq!(redis.read_often(&ask).await, [Some(1)].into());
    let written = redis.try_push(&ask, 11, 2).await;
    assert!(written.is_err(), "its copy there may come back: {written:?}");
    assert_eq!(redis.read_often(&ask).await, [Some(2)].into(), "it is written all the same");
}

#[tokio::test]
async fn whoever_has_not_looked_yet_acknowledges_no_push_whose_copy_is_on_a_server_that_hangs() {
    let cluster = Cluster::start();
    let views = [view("v").build()];
    let (reader, young) = (gateway(&cluster, &views), patient(&cluster, &views, 2 * SECOND));
    let copied = ask(&views[0], 1);
    reader.push(&copied, 10, 1).await;
    reader.copy(&copied.key).await;
    assert_eq!(reader.copies().unwrap().count(&copied.key, Instant::now()), 2);
    // One that has no copies, and whose names are on the server that hangs all the same.
    let stored = |ask: &Ask| redis_key(&ask.key, "p");
    let home = cluster.holder(&stored(&copied));
    let plain =
        (2..).map(|user| ask(&views[0], user)).find(|ask| cluster.holder(&stored(ask)).port == home.port).unwrap();
    young.connect(WORKER).await;
    let hung = cluster.masters.iter().find(|master| master.port != home.port).unwrap();
    hung.freeze();

    let knows = |ask: &Ask| young.copies().unwrap().suspicions([&ask.key].into_iter(), Instant::now()).next().unwrap();
    assert_eq!([knows(&copied), knows(&plain)], [Suspicion::Unknown, Suspicion::Unknown]);
    let refused = young.try_push(&copied, 11, 2).await;
    assert!(refused.is_err(), "its copy there comes back: {refused:?}");
    assert_eq!([knows(&copied), knows(&plain)], [Suspicion::Listed, Suspicion::Unknown], "it has learned it");
    assert_eq!(young.try_push(&plain, 11, 2).await.unwrap(), Written::Written, "which does not depend on who hangs");

    // Sent again once it goes on, the push is acknowledged, and nobody reads what was there before.
    hung.thaw();
    assert_eq!(young.try_push(&copied, 11, 2).await.unwrap(), Written::Older);
    assert_eq!(reader.read_often(&copied).await, [Some(2)].into());
}

#[tokio::test]
async fn a_push_whose_own_master_cannot_say_whether_it_has_copies_is_not_acknowledged() {
    let cluster = Cluster::start();
    let views = [view("v").build()];
    let (redis, ask) = (gateway(&cluster, &views), ask(&views[0], 1));
    redis.push(&ask, 10, 1).await;
    let home = cluster.holder(&redis_key(&ask.key, "p"));
    // It takes the write, and no question.
    home.ask::<()>(&[b"ACL", b"SETUSER", b"default", b"-pttl"]);
    let refused = redis.try_push(&ask, 11, 2).await;
    assert!(refused.is_err(), "{refused:?}");
    home.ask::<()>(&[b"ACL", b"SETUSER", b"default", b"+pttl"]);
    assert_eq!(redis.try_push(&ask, 11, 2).await.unwrap(), Written::Older);
}

#[tokio::test]
async fn an_operator_is_told_where_copies_may_be_left() {
    let cluster = Cluster::start();
    let views = [view("v").build()];
    let (redis, young) = (patient(&cluster, &views, 2 * SECOND), patient(&cluster, &views, 2 * SECOND));
    let ask = ask(&views[0], 1);
    redis.push(&ask, 10, 1).await;
    redis.copy(&ask.key).await;
    young.connect(WORKER).await;
    let of = |user| Scope::Rows(vec![(ViewId(0), key(user))]);
    let drops = async |redis: &Redis, scope: &Scope| redis.remove_owed(redis.doubt_copies(scope, Origin::Admin)).await;
    // Whoever has not looked yet cannot name the keys of a view that have copies.
    assert_eq!(drops(&young, &Scope::View(ViewId(0))).await, KeyCopies::Left);
    assert_eq!(drops(&young, &of(2)).await, KeyCopies::Removed);

    let home = cluster.holder(&redis_key(&ask.key, "p"));
    let hung = cluster.masters.iter().find(|master| master.port != home.port).unwrap();
    hung.freeze();
    let now = Instant::now();
    redis.copies().unwrap().take_list((now + 60 * SECOND, now), vec![(key(1), LIFE)], &[]);
    assert_eq!(drops(&redis, &of(1)).await, KeyCopies::Left);
    assert_eq!(drops(&redis, &Scope::All).await, KeyCopies::Left);
    assert_eq!(drops(&redis, &of(2)).await, KeyCopies::Removed, "it has none");
    hung.thaw();
    assert_eq!(drops(&redis, &Scope::All).await, KeyCopies::Removed);
    assert_eq!(redis.remove_owed(redis.doubt_copies(&Scope::All, Origin::Tracking)).await, KeyCopies::NotAsked);
}

#[tokio::test]
async fn gateways_tell_each_other() {
    let cluster = Cluster::start();
    let views = [view("v").build()];
    let (a, b) = (gateway(&cluster, &views), gateway(&cluster, &views));
    a.connect(WORKER).await;
    a.spread(&[Hot { key: key(1), share: 0.5, life: LIFE }]);
    assert!(a.exchange("a", b"of a \0 and more").await.unwrap().is_empty(), "nobody else is there");
    assert_eq!(b.exchange("b", b"of b").await.unwrap(), [b"of a \0 and more".to_vec()]);
    let (now, known) = (Instant::now(), b.copies().unwrap());
    let suspicions: Vec<_> = known.suspicions([key(1), key(2)].iter(), now).collect();
    assert_eq!(suspicions, [Suspicion::Listed, Suspicion::None]);
    let list = b"weir:p:hot-keys-shared-v1";
    let life: i64 = cluster.holder(list).ask(&[b"PTTL", list]);
    assert!((60_000..=90_000).contains(&life), "as long as what may be copied is: {life}");
    cluster.holder(list).ask::<()>(&[b"DEL", list]);
    cluster.holder(list).ask::<()>(&[b"SET", list, b"not ours"]);
    assert!(b.exchange("b", b"").await.is_err());
}
