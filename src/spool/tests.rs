//! One contract, over every store: each test runs on all of them, and random histories are held to a model of twenty lines.

mod histories;

use std::{
    cell::OnceCell,
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use http::{HeaderMap, Method as Verb, StatusCode};
use proptest::{prelude::*, test_runner::TestRunner};

use super::{entry::ABANDONED, *};
use crate::{
    config::{Redis, RedisMode, Secret},
    features::tests::servers::{Certificates, Cluster, Sentinels, Server},
    infer::{Method, Protocol},
    telemetry::scratch,
};

const KEEP: Millis = 10_000;

fn terms() -> Terms {
    let (initial_delay, max_delay) = (Duration::from_secs(60), Duration::from_secs(3600));
    let retry = Retry { max_retries: 2, initial_delay, max_delay, multiplier: 2.0, jitter: 0.3 };
    Terms { max_entries: 6, max_bytes: 1 << 20, keep_for: Duration::from_millis(KEEP), retry }
}

fn redis(urls: &[String], mode: RedisMode) -> Redis {
    Redis {
        urls: urls.iter().cloned().map(Secret).collect(),
        mode,
        ttl: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        ca: None,
        connections: 1,
        max_in_flight: 1,
        replicas: None,
        dr: None,
    }
}

/// The servers that tests share, for as long as one of them runs: nobody drops a static, and servers that nobody ends outlive the
/// run that started them.
struct Servers {
    single: Server,
    cluster: Cluster,
}

static RUNNING: Mutex<Weak<Servers>> = Mutex::new(Weak::new());

thread_local! {
    /// A test has a thread of its own; what it holds goes with that.
    static HELD: OnceCell<Arc<Servers>> = const { OnceCell::new() };
}

fn servers() -> Arc<Servers> {
    HELD.with(|held| Arc::clone(held.get_or_init(running)))
}

fn running() -> Arc<Servers> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Servers { single: Server::start(), cluster: Cluster::start() });
        *running = Arc::downgrade(&started);
        started
    })
}

/// A spool of the test's own in a Redis that all share.
fn shared(redis: &Redis, terms: Terms) -> Spool {
    // A project's name may hold anything, braces too.
    let project = format!("p}}{{{}", new_id());
    Spool::over(Store::Redis(Box::new(redis::Shared::open(redis, &project, terms).unwrap())), terms)
}

fn single() -> Redis {
    redis(&[servers().single.url()], RedisMode::Single)
}

/// An empty spool of each kind.
fn all(terms: Terms) -> Vec<(&'static str, Spool)> {
    vec![
        ("embedded", Spool::over(Store::Embedded(embedded::Embedded::open(None, terms).unwrap()), terms)),
        ("redis", shared(&single(), terms)),
        ("cluster", shared(&redis(&servers().cluster.urls(), RedisMode::Cluster), terms)),
    ]
}

fn request(model: &str, body: &str) -> Request {
    Request {
        model: model.into(),
        version: None,
        protocol: Protocol::V2Json,
        method: Method::Predict,
        verb: Verb::POST,
        path: "/v2/models/m/infer".parse().unwrap(),
        tier: "standard".into(),
        headers: HeaderMap::new(),
        asker: Asker::default(),
        json_length: None,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn new(model: &str, key: &str, body: &str) -> New {
    New { id: new_id(), key: key.into(), why: Why::Queued, once: false, request: request(model, body) }
}

fn reply(body: &str) -> Reply {
    let body = Bytes::copy_from_slice(body.as_bytes());
    Reply { status: StatusCode::OK, headers: HeaderMap::new(), body, trailers: None }
}

fn gateway() -> Arc<str> {
    "gateway-1".into()
}

async fn claim(spool: &Spool, model: &str, most: usize, now: Millis) -> Vec<Claimed> {
    spool.claim((&[model.into()], most), &gateway(), (now, now + 100)).await.unwrap()
}

#[tokio::test]
async fn a_request_is_kept_tried_and_answered() {
    for (kind, spool) in all(terms()) {
        let new = new("m", "k", "{}");
        assert_eq!(spool.put(&new, 1000).await.unwrap(), Put::Kept, "{kind}");
        assert!(claim(&spool, "other", 9, 1000).await.is_empty(), "{kind}: another model's");
        let claimed = claim(&spool, "m", 9, 1000).await;
        assert_eq!(claimed.len(), 1, "{kind}");
        assert_eq!((&claimed[0].id, claimed[0].attempts), (&new.id, 1), "{kind}");
        assert_eq!(claimed[0].request.as_ref().unwrap(), &new.request, "{kind}");
        assert!(claim(&spool, "m", 9, 1000).await.is_empty(), "{kind}: it is being tried");
        assert_eq!(spool.depth().await.unwrap().entries, [0, 1, 0, 0], "{kind}");
        assert_eq!(spool.finish(&new.id, &reply("first"), 1050).await.unwrap(), Finished::Stored, "{kind}");
        assert_eq!(spool.finish(&new.id, &reply("second"), 1060).await.unwrap(), Finished::Already, "{kind}");
        let kept = spool.under("m", "k", 1070).await.unwrap().expect(kind);
        assert_eq!((kept.reply, kept.request), (Some(reply("first")), new.request.clone()), "{kind}");
        assert_eq!(kept.entry.state, State::Done { at: 1050 }, "{kind}");
        assert_eq!(kept.entry.expires, 1050 + KEEP, "{kind}: its result has its own time");
        assert!(spool.get(&new.id, 1050 + KEEP).await.unwrap().is_none(), "{kind}: and then is gone");
    }
}

#[tokio::test]
async fn a_key_is_one_request_of_a_model() {
    for (kind, spool) in all(terms()) {
        let (first, again, other) = (new("m", "k", "a"), new("m", "k", "a"), new("m", "k", "b"));
        assert_eq!(spool.put(&first, 1).await.unwrap(), Put::Kept, "{kind}");
        assert_eq!(spool.put(&first, 1).await.unwrap(), Put::Kept, "{kind}: as after a lost answer");
        assert_eq!(spool.put(&again, 1).await.unwrap(), Put::Known(first.id.clone()), "{kind}");
        assert!(matches!(spool.put(&other, 1).await, Err(Error::OtherRequest(_))), "{kind}");
        assert_eq!(spool.put(&new("n", "k", "b"), 1).await.unwrap(), Put::Kept, "{kind}: another model's key");
        assert_eq!(spool.depth().await.unwrap().entries, [2, 0, 0, 0], "{kind}");
        // A key that is forgotten is free.
        assert_eq!(spool.put(&other, 1 + KEEP).await.unwrap(), Put::Kept, "{kind}");
        assert_eq!(spool.depth().await.unwrap().entries, [1, 0, 0, 0], "{kind}");
    }
}

#[tokio::test]
async fn no_more_are_kept_than_may_be() {
    for (kind, spool) in all(terms()) {
        for key in 0..6 {
            spool.put(&new("m", &key.to_string(), ""), 5).await.unwrap();
        }
        let done = claim(&spool, "m", 1, 5).await.remove(0);
        spool.finish(&done.id, &reply(""), 5).await.unwrap();
        let refused = spool.put(&new("m", "more", ""), 6).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the spool is full: it keeps 6 entries (spool.max_entries), results among them",
            "{kind}"
        );
        assert!(spool.forget(&done.id).await.unwrap() && !spool.forget(&done.id).await.unwrap(), "{kind}");
        assert_eq!(spool.put(&new("m", "more", ""), 6).await.unwrap(), Put::Kept, "{kind}");
    }
}

#[tokio::test]
async fn no_more_bytes_are_kept_than_may_be() {
    let long = "x".repeat(1000);
    let each = new("m", "0", &long).request.encode().len() as u64;
    let terms = Terms { max_bytes: 2 * each + 10, ..terms() };
    for (kind, spool) in all(terms) {
        let first = new("m", "0", &long);
        spool.put(&first, 5).await.unwrap();
        spool.put(&new("m", "1", &long), 5).await.unwrap();
        let refused = spool.put(&new("m", "2", &long), 5).await.unwrap_err().to_string();
        let told = format!("it keeps {} bytes of requests and results, and this one has {each}", 2 * each);
        assert!(refused.contains(&told), "{kind}: {refused}");
        // A result is never refused, and counts.
        spool.finish(&first.id, &reply(&long), 6).await.unwrap();
        let result = reply(&long).encode().len() as u64;
        assert_eq!(spool.depth().await.unwrap().bytes, 2 * each + result, "{kind}");
        spool.forget(&first.id).await.unwrap();
        assert_eq!(spool.put(&new("m", "2", &long), 6).await.unwrap(), Put::Kept, "{kind}");
        // All of it is forgotten in time.
        assert!(claim(&spool, "m", 9, 6 + KEEP).await.is_empty(), "{kind}");
        assert_eq!(spool.depth().await.unwrap(), Depth::default(), "{kind}");
    }
}

#[tokio::test]
async fn the_oldest_come_first_and_no_more_than_wanted() {
    for (kind, spool) in all(terms()) {
        spool.put(&new("n", "k", ""), 4).await.unwrap();
        let all: Vec<New> = (0..5).map(|key| new("m", &key.to_string(), "")).collect();
        for new in &all {
            spool.put(new, 5).await.unwrap();
        }
        assert_eq!(spool.depth().await.unwrap().oldest_waiting, Some(4), "{kind}");
        let ids: Vec<_> = all.iter().map(|new| new.id.clone()).collect();
        let claimed: Vec<_> = claim(&spool, "m", 2, 5).await.into_iter().map(|claimed| claimed.id).collect();
        assert_eq!(claimed, ids[..2], "{kind}");
        let models = ["n".into(), "m".into()];
        let both = spool.claim((&models, 3), &gateway(), (5, 105)).await.unwrap();
        let claimed: Vec<_> = both.into_iter().map(|claimed| claimed.id).collect();
        assert_eq!(claimed[1..], ids[2..4], "{kind}: behind the other model's one");
        let claimed: Vec<_> = claim(&spool, "m", 9, 5).await.into_iter().map(|claimed| claimed.id).collect();
        assert_eq!(claimed, ids[4..], "{kind}");
    }
}

#[tokio::test]
async fn one_whose_gateway_went_away_goes_to_another_and_in_the_end_is_parked() {
    for (kind, spool) in all(terms()) {
        let new = new("m", "k", "");
        spool.put(&new, 0).await.unwrap();
        let mut now = 0;
        for attempt in 1..=3 {
            let claimed = claim(&spool, "m", 1, now).await;
            assert_eq!(claimed.iter().map(|claimed| claimed.attempts).collect::<Vec<_>>(), [attempt], "{kind}");
            assert!(claim(&spool, "m", 1, now + 99).await.is_empty(), "{kind}: not before its time");
            now += 100;
        }
        assert!(claim(&spool, "m", 1, now).await.is_empty(), "{kind}");
        let parked = &spool.list(Some(Standing::Parked), 9).await.unwrap()[0];
        assert_eq!(parked.state, State::Parked { at: now, reason: ABANDONED.into() }, "{kind}");
        assert_eq!(spool.replay(&new.id, now).await.unwrap(), Replayed::Due, "{kind}");
        assert_eq!(claim(&spool, "m", 1, now).await[0].attempts, 1, "{kind}");
        assert_eq!(spool.replay(&new.id, now).await.unwrap(), Replayed::Not(Standing::Running), "{kind}");
        assert_eq!(spool.replay(&new_id(), now).await.unwrap(), Replayed::Gone, "{kind}");
    }
}

#[tokio::test]
async fn one_that_must_not_be_tried_twice_is_parked_where_nobody_says_how_its_try_went() {
    for (kind, spool) in all(terms()) {
        let new = New { once: true, ..new("m", "k", "") };
        spool.put(&new, 0).await.unwrap();
        let claimed = claim(&spool, "m", 1, 0).await.remove(0);
        assert!(claimed.once, "{kind}");
        assert_eq!(spool.give_back(&claimed, 10, 10).await.unwrap(), Held::Yes, "{kind}: it was not made");
        assert_eq!(claim(&spool, "m", 1, 10).await[0].attempts, 1, "{kind}");
        assert!(claim(&spool, "m", 1, 110).await.is_empty(), "{kind}: overdue");
        let parked = &spool.list(None, 9).await.unwrap()[0];
        let state = State::Parked { at: 110, reason: ABANDONED.into() };
        assert_eq!((&parked.state, parked.once, parked.attempts), (&state, true, 1), "{kind}");
        assert_eq!(spool.replay(&new.id, 120).await.unwrap(), Replayed::Due, "{kind}: an operator may know better");
        assert!(claim(&spool, "m", 1, 120).await[0].once, "{kind}");
    }
}

#[tokio::test]
async fn many_at_once_share_the_entries_and_none_is_tried_twice() {
    let terms = Terms { max_entries: 1000, ..terms() };
    for (kind, spool) in all(terms) {
        let spool = &spool;
        let put = |key: usize| async move { spool.put(&new("m", &key.to_string(), ""), 0).await.unwrap() };
        futures_util::future::join_all((0..200).map(put)).await;
        let claims = futures_util::future::join_all((0..40).map(|_| claim(spool, "m", 10, 0))).await;
        let ids: Vec<_> = claims.into_iter().flatten().map(|claimed| claimed.id).collect();
        assert_eq!(ids.len(), 200, "{kind}");
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 200, "{kind}");
    }
}

#[tokio::test]
async fn what_is_on_disk_outlives_the_process_and_what_was_being_tried_waits_again() {
    let folder = tempfile::tempdir().unwrap();
    let open = || embedded::Embedded::open(Some(&folder.path().join("spool.redb")), terms());
    let spool = |store| Spool::over(Store::Embedded(store), terms());
    let (tried, waits, done) = (new("m", "1", "a"), new("m", "2", "b"), new("m", "3", "c"));
    let first = spool(open().unwrap());
    for new in [&done, &tried, &waits] {
        first.put(new, 7).await.unwrap();
    }
    assert!(open().unwrap_err().to_string().contains("another process has it open"));
    assert_eq!(claim(&first, "m", 2, 7).await.len(), 2);
    first.finish(&done.id, &reply("c"), 8).await.unwrap();
    drop(first);
    let second = spool(open().unwrap());
    let bytes = [&tried, &waits, &done].map(|new| new.request.encode().len() as u64).iter().sum::<u64>();
    let bytes = bytes + reply("c").encode().len() as u64;
    assert_eq!(second.depth().await.unwrap(), Depth { entries: [2, 0, 1, 0], bytes, oldest_waiting: Some(7) });
    assert_eq!(second.get(&done.id, 9).await.unwrap().unwrap().reply, Some(reply("c")));
    let claimed = claim(&second, "m", 9, now()).await;
    let ids: HashSet<_> = claimed.iter().map(|claimed| (claimed.id.clone(), claimed.attempts)).collect();
    assert!(ids.is_empty(), "all expired long ago");
}

#[tokio::test]
async fn what_is_logged_is_kept_and_at_the_end_all_of_it() {
    let terms = Terms { max_entries: 10_000, ..terms() };
    for (kind, spool) in all(terms) {
        // Nobody takes them yet: those beyond the room there is are dropped.
        for key in 0..LOGGED + 5 {
            spool.log(New { why: Why::Logged, ..new("m", &key.to_string(), "") });
        }
        let end = CancellationToken::new();
        end.cancel();
        spool.log_all(end).await;
        assert_eq!(spool.depth().await.unwrap().entries, [LOGGED as u64, 0, 0, 0], "{kind}");
        assert_eq!(spool.list(None, 1).await.unwrap()[0].why, Why::Logged, "{kind}");
    }
}

#[tokio::test]
async fn what_was_to_be_logged_and_is_not_taken_at_the_end_is_counted() {
    let terms = Terms { max_entries: 2, ..terms() };
    let store = embedded::Embedded::open(None, terms).unwrap();
    let (spool, scrape) = scratch(|| Spool::over(Store::Embedded(store), terms));
    spool.put(&new("m", "queued", ""), now()).await.unwrap();
    for key in 0..5 {
        spool.log(New { why: Why::Logged, ..new("m", &key.to_string(), "") });
    }
    let end = CancellationToken::new();
    end.cancel();
    spool.log_all(end).await;
    spool.log(new("m", "late", ""));
    let text = scrape.render();
    for (outcome, count) in [("queued", 1), ("logged", 1), ("full", 1), ("dropped", 4)] {
        let line = format!("weir_spool_requests_total{{outcome=\"{outcome}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[tokio::test]
async fn a_killed_connection_is_made_again() {
    let spool = shared(&single(), terms());
    spool.put(&new("m", "1", ""), 0).await.unwrap();
    servers().single.ask::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]);
    spool.put(&new("m", "2", ""), 0).await.unwrap();
    assert_eq!(claim(&spool, "m", 9, 0).await.len(), 2);
}

#[tokio::test]
async fn a_consumer_group_that_somebody_destroyed_is_made_again() {
    let project = new_id();
    let spool =
        Spool::over(Store::Redis(Box::new(redis::Shared::open(&single(), &project, terms()).unwrap())), terms());
    spool.put(&new("m", "1", ""), 0).await.unwrap();
    assert_eq!(claim(&spool, "m", 9, 0).await.len(), 1);
    let stream = format!("weir:spool:{{{project}}}:stream:m");
    servers().single.ask::<i64>(&[b"XGROUP", b"DESTROY", stream.as_bytes(), b"gateways"]);
    assert_eq!(claim(&spool, "m", 9, 100).await.len(), 1, "overdue");
    let Store::Redis(store) = &spool.store else { panic!("it is") };
    store.tidy(&["m".into(), "none".into()]).await.unwrap();
    servers().single.ask::<i64>(&[b"DEL", stream.as_bytes()]);
    assert_eq!(claim(&spool, "m", 9, 200).await.len(), 1, "overdue");
}

#[tokio::test]
async fn every_key_in_redis_goes_by_itself_after_the_last_entry_that_it_is_of() {
    const HOUR: i64 = 3_600_000;
    let (project, server) = (new_id(), single());
    let open = |keep_for| {
        let terms = Terms { keep_for, ..terms() };
        Spool::over(Store::Redis(Box::new(redis::Shared::open(&server, &project, terms).unwrap())), terms)
    };
    let spool = open(Duration::from_secs(10 * 3600));
    for key in 0..5 {
        spool.put(&new("gone", &key.to_string(), ""), 5).await.unwrap();
    }
    let [done, again, parked, _running] = claim(&spool, "gone", 4, 5).await.try_into().unwrap();
    spool.finish(&done.id, &reply(""), 6).await.unwrap();
    spool.fail(&again, Failed::Again(1000), 6).await.unwrap();
    spool.fail(&parked, Failed::Park("so".into()), 6).await.unwrap();
    let lives = || {
        let names: Vec<String> = servers().single.ask(&[b"KEYS", format!("weir:spool:{{{project}}}*").as_bytes()]);
        let life = |name: &String| servers().single.ask::<i64>(&[b"PTTL", name.as_bytes()]);
        names.iter().map(|name| (name.clone(), life(name))).collect::<Vec<_>>()
    };
    assert_eq!(lives().len(), 5 + 5 + 9, "entries and keys, and what they share: {:?}", lives());
    lives().iter().for_each(|(name, life)| assert!(*life > 10 * HOUR, "{name}: {life} ms"));
    // What is kept for a shorter time takes nothing from what was kept before.
    open(Duration::from_millis(1)).put(&new("gone", "5", ""), 7).await.unwrap();
    let shorter = lives().iter().filter(|(_, life)| *life < 10 * HOUR).count();
    assert_eq!(shorter, 2, "the new entry and its key: {:?}", lives());
}

#[tokio::test]
async fn sentinels_and_encrypted_servers_are_spoken_to() {
    let certificates = Certificates::new();
    let (server, port) = certificates.server();
    let encrypted = Redis {
        ca: Some(certificates.path("ca.pem")),
        ..redis(&[format!("rediss://127.0.0.1:{port}")], RedisMode::Single)
    };
    shared(&encrypted, terms()).put(&new("m", "k", ""), 0).await.unwrap();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    let sentinels = Sentinels::of(&server);
    let urls: Vec<_> = sentinels.ports.iter().map(|port| format!("redis://127.0.0.1:{port}")).collect();
    let spool = shared(&redis(&urls, RedisMode::Sentinel { master: "mymaster".into() }), terms());
    spool.put(&new("m", "k", ""), 0).await.unwrap();
    assert!(server.calls("evalsha") + server.calls("eval") > 0);
    drop(replica);
}
