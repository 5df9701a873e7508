//! Against real servers: one, and a cluster of three masters.

use std::{collections::HashSet, slice::from_ref};

use ::redis::Value as Reply;

use super::*;
use crate::{
    config::{Features, Secret},
    features::{
        feast::{
            Layout,
            tests::{data, entity, unhex},
        },
        tests::{
            ask, int, key, row,
            servers::{self, Server},
            view,
        },
    },
    fixture,
    infer::{EntityKey, EntityType, EntityValue, Value as Stored},
};

mod cluster;
mod reached;

const WORKER: WorkerId = WorkerId(0);

fn open(urls: &[String], mode: RedisMode, project: &str, views: &[Arc<View>]) -> Redis {
    let urls = urls.iter().cloned().map(Secret).collect();
    // Soon probed again, for tests that wait for a server to be back.
    let open_for = Duration::from_millis(100);
    // A timeout long enough for a machine that is busy with everything else; no test waits for it to pass unless it says so.
    let redis = config::Redis { mode, timeout: Duration::from_secs(10), ..fixture::redis(urls) };
    open_as(&redis, open_for, (project, views)).unwrap()
}

fn open_as(
    redis: &config::Redis,
    open_for: Duration,
    (project, views): (&str, &[Arc<View>]),
) -> Result<Redis, RedisError> {
    let mut features = features(project, views, redis.clone());
    features.breaker.open_for = open_for;
    Redis::open(redis, &features, 1, &Tasks::default())
}

fn features(project: &str, views: &[Arc<View>], redis: config::Redis) -> Features {
    crate::features::tests::features(project, views, config::L2::Redis(redis), None)
}

fn single(server: &Server, views: &[Arc<View>]) -> Redis {
    open(&[server.url()], RedisMode::Single, "p", views)
}

impl Redis {
    /// Whether the key's rows are read at masters for now, since they changed.
    pub(crate) fn is_fenced(&self, key: &EntityKey) -> bool {
        self.fence.as_ref().is_some_and(|fence| fence.holds(key, Instant::now()))
    }
}

impl SlotSet {
    /// The slots of some keys.
    pub(crate) fn of_keys<'a>(keys: impl Iterator<Item = &'a EntityKey>, project: &str) -> Self {
        Self::of(keys.map(|key| slots::Slot::of(&redis_key(key, project))))
    }
}

async fn read_one(redis: &Redis, ask: Ask) -> Result<Option<Row>, Error> {
    redis.read(WORKER, &[ask]).await.pop().unwrap()
}

/// Copies the database that Feast wrote.
fn load(server: &Server) {
    let mut client = server.client();
    for key in data("redis_dump")["keys"].as_array().unwrap() {
        let mut hset = ::redis::cmd("HSET");
        hset.arg(unhex(key["key_hex"].as_str().unwrap()));
        for (field, value) in key["hash"].as_object().unwrap() {
            hset.arg(unhex(field)).arg(unhex(value.as_str().unwrap()));
        }
        hset.exec(&mut client).unwrap();
    }
}

impl Redis {
    async fn write_back(&self, worker: WorkerId, ask: &Ask, row: &Row) -> Result<Written, Error> {
        let row = Arc::new(Row::new(row.event_time, row.values.clone()));
        self.write(worker, &[Put { ask: ask.clone(), row }], Purpose::WriteBack).await.pop().unwrap()
    }
}

#[tokio::test]
async fn rows_that_feast_wrote_are_read_in_one_round_trip() {
    let server = Server::start();
    load(&server);
    let driver = view("driver_stats")
        .entities(&[("driver_id", EntityType::Int64)])
        .features(&["conv_rate", "acc_rate", "nonsense"])
        .build();
    let user = view("user_profile")
        .id(1)
        .entities(&[("user_id", EntityType::String)])
        .features(&["age", "country", "vip", "emb"])
        .build();
    let redis = open(&[server.url()], RedisMode::Single, "weir_demo", &[driver.clone(), user.clone()]);
    let driver_key = |id| EntityKey::new([("driver_id", &EntityValue::Int64(id))].into_iter());
    let user_key = |id: &str| EntityKey::new([("user_id", &EntityValue::String(id.into()))].into_iter());
    let asks = [
        Ask { view: driver.clone(), key: driver_key(1001) },
        Ask { view: user.clone(), key: user_key("u1") },
        Ask { view: user.clone(), key: user_key("nobody") },
        Ask { view: user.clone(), key: user_key("{}x") },
    ];
    let rows: Vec<_> = redis.read(WORKER, &asks).await.into_iter().map(Result::unwrap).collect();
    let driver = rows[0].as_ref().unwrap();
    assert_eq!(driver.values[0], Some(Stored::Float(0.51)));
    assert_eq!(driver.values[1], Some(Stored::Double(0.71)));
    assert_eq!(driver.values[2], None, "never written");
    assert_eq!(driver.event_time, Some(1_795_341_600_000_000_000));
    let user = rows[1].as_ref().unwrap();
    assert_eq!(
        user.values[..3],
        [Some(Stored::Int32(20)), Some(Stored::String("US".into())), Some(Stored::Bool(true))]
    );
    assert_eq!(rows[2], None);
    assert_eq!(rows[3].as_ref().unwrap().values[0], Some(Stored::Int32(28)));
    assert_eq!(server.calls("hmget"), 4);
}

#[tokio::test]
async fn what_is_written_back_is_read_back_and_its_life_is_set_once() {
    let server = Server::start();
    let (v, w) = (view("v").ttl(Duration::from_secs(3600)).build(), view("w").id(1).features(&["f", "g"]).build());
    let redis = single(&server, &[v.clone(), w.clone()]);
    let stored = redis_key(&key(1), "p");

    let first = row(100, [int(5)]);
    assert_eq!(redis.write_back(WORKER, &ask(&v, 1), &first).await.unwrap(), Written::Written);
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), Some(first));
    let life: i64 = server.ask(&[b"PTTL", &stored]);
    assert!((86_300_000..=86_400_000).contains(&life), "{life}: L2's, for the hash is other views' too");

    // Another view's row in the same hash: nulls and never written values come back as such, the life stays.
    server.ask::<()>(&[b"PEXPIRE", &stored, b"7000000"]);
    let second = row(100, [Some(Stored::Null), None]);
    assert_eq!(redis.write_back(WORKER, &ask(&w, 1), &second).await.unwrap(), Written::Written);
    assert_eq!(read_one(&redis, ask(&w, 1)).await.unwrap(), Some(second));
    let life: i64 = server.ask(&[b"PTTL", &stored]);
    assert!(life > 6_900_000, "{life}");
    assert_eq!(server.calls("eval"), 1, "then the server knows the script");
}

#[tokio::test]
async fn a_hash_without_a_life_stays_without_one() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    let stored = redis_key(&key(1), "p");
    server.ask::<()>(&[b"HSET", &stored, b"_ts:other", b"\x08\x01"]);
    redis.write_back(WORKER, &ask(&v, 1), &row(100, [int(5)])).await.unwrap();
    assert_eq!(server.ask::<i64>(&[b"PTTL", &stored]), -1);
}

#[tokio::test]
async fn only_newer_rows_replace_stored_ones() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    let time = |seconds: i64, nanos: i64| Some(seconds * 1_000_000_000 + nanos);
    // Stored, offered, whether it is newer.
    let cases = [
        (time(100, 0), time(100, 0), false),
        (time(100, 0), time(99, 999_999_999), false),
        (time(100, 0), time(100, 1), true),
        (time(100, 500), time(101, 0), true),
        (time(1_795_341_600, 123), time(1_795_341_600, 122), false),
        (time(1_795_341_600, 123), time(1_795_341_600, 124), true),
        (time(-1, 0), time(-2, 0), false),
        (time(-2, 500), time(-2, 501), true),
        (time(-2, 0), time(-1, 0), true),
        (time(-1, 0), time(0, 0), true),
        (time(0, 0), time(-1, 0), false),
        (time(0, 0), time(0, 0), false),
        (time(0, 5), None, false),
        (None, time(-9_000_000_000, 0), true),
    ];
    for (at, (stored, offered, newer)) in cases.into_iter().enumerate() {
        let ask = ask(&v, i64::try_from(at).unwrap());
        let (old, new) = (Row::new(stored, [int(1)].into()), Row::new(offered, [int(2)].into()));
        assert_eq!(redis.write_back(WORKER, &ask, &old).await.unwrap(), Written::Written);
        let expected = if newer { Written::Written } else { Written::Older };
        assert_eq!(redis.write_back(WORKER, &ask, &new).await.unwrap(), expected, "{stored:?} then {offered:?}");
        let kept = if newer { new } else { old };
        assert_eq!(read_one(&redis, ask).await.unwrap(), Some(kept), "{stored:?} then {offered:?}");
    }
}

#[tokio::test]
async fn every_stored_time_of_feasts_is_compared_in_the_script_as_here() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    for (at, vector) in data("values")["timestamps"].as_array().unwrap().iter().enumerate() {
        let at = i64::try_from(at).unwrap();
        let time = vector["seconds"].as_i64().unwrap() * 1_000_000_000 + vector["nanos"].as_i64().unwrap();
        let stored = unhex(vector["hex"].as_str().unwrap());
        server.ask::<()>(&[b"HSET", &redis_key(&key(at), "p"), b"_ts:v", &stored]);
        for (later, expected) in [(0, Written::Older), (1, Written::Written)] {
            let row = Row::new(Some(time + later), [int(2)].into());
            assert_eq!(redis.write_back(WORKER, &ask(&v, at), &row).await.unwrap(), expected, "{vector}");
        }
    }
}

#[tokio::test]
async fn a_stored_time_that_is_none_holds_nothing_up() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    for (at, time) in [&b"\xff"[..], b"\x08", b"\x08\xff", b"yesterday", b"\x0a\x01x"].into_iter().enumerate() {
        let at = i64::try_from(at).unwrap();
        server.ask::<()>(&[b"HSET", &redis_key(&key(at), "p"), b"_ts:v", time]);
        let row = row(-100, [int(2)]);
        assert_eq!(redis.write_back(WORKER, &ask(&v, at), &row).await.unwrap(), Written::Mended, "{time:?}");
        assert_eq!(read_one(&redis, ask(&v, at)).await.unwrap(), Some(row));
    }
}

#[tokio::test]
async fn what_is_stored_but_is_no_row_is_an_error_of_that_row_alone() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    redis.write_back(WORKER, &ask(&v, 1), &row(100, [int(5)])).await.unwrap();
    server.ask::<()>(&[b"SET", &redis_key(&key(2), "p"), b"text"]);
    let field = Layout::of(&v).fields().next().unwrap().to_vec();
    server.ask::<()>(&[b"HSET", &redis_key(&key(3), "p"), &field, b"\xff\xff"]);
    let rows = redis.read(WORKER, &[ask(&v, 1), ask(&v, 2), ask(&v, 3)]).await;
    assert!(matches!(rows[0], Ok(Some(_))));
    assert!(matches!(&rows[1], Err(Error::Refused { why, .. }) if why.starts_with("WRONGTYPE")), "{:?}", rows[1]);
    assert!(rows[1..].iter().all(|row| row.as_ref().is_err_and(Error::is_about_the_row)));
    assert!(matches!(rows[2], Err(Error::Malformed { .. })));
}

#[tokio::test]
async fn rows_of_any_size_are_read_whole_in_both_protocols() {
    let server = Server::start();
    let names: Vec<String> = (0..300).map(|at| format!("f{at}")).collect();
    let v = view("v").features(&names.iter().map(String::as_str).collect::<Vec<_>>()).build();
    // Longer than what is read at once, in one cell and in many; with a cell of each kind that needs no length.
    let value = |at: usize, entity: i64| match at {
        0 => Some(Stored::String("x".repeat(100_000 * usize::try_from(entity).unwrap()).into())),
        1 => Some(Stored::Null),
        2 => None,
        _ => int(i64::try_from(at).unwrap() * entity),
    };
    let rows: Vec<Row> = (0..40).map(|entity| row(100, (0..300).map(|at| value(at, entity)))).collect();
    let asks: Vec<Ask> = (0..40).map(|entity| ask(&v, entity)).collect();
    for protocol in ["resp2", "resp3"] {
        let url = format!("{}/?protocol={protocol}", server.url());
        let redis = open(&[url], RedisMode::Single, protocol, from_ref(&v));
        for (ask, row) in asks.iter().zip(&rows) {
            assert_eq!(redis.write_back(WORKER, ask, row).await.unwrap(), Written::Written);
        }
        let read: Vec<_> = redis.read(WORKER, &asks).await.into_iter().map(|row| row.unwrap().unwrap()).collect();
        assert!(read == rows, "{protocol}: not the rows that were written");
        assert_eq!(read_one(&redis, ask(&v, 1000)).await.unwrap(), None);
        assert_eq!(redis.ready().await, Ok(()));
    }
}

#[tokio::test]
async fn a_server_that_is_down_fails_at_once_and_is_found_again() {
    let mut server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), None);
    assert_eq!(redis.ready().await, Ok(()));
    server.kill();
    assert!(matches!(read_one(&redis, ask(&v, 1)).await, Err(Error::Unreachable { .. })));
    let why = redis.ready().await.unwrap_err();
    assert!(why.contains(&server.port.to_string()) && why.contains("refused"), "{why}");
    server.restart();
    // The background finds it; nothing here asks it to.
    let connected = async {
        while redis.ready().await.is_err() || read_one(&redis, ask(&v, 1)).await.is_err() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(60), connected).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_costs_nothing() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    read_one(&redis, ask(&v, 1)).await.unwrap();
    server.ask::<()>(&[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]);
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), None);
}

#[tokio::test]
async fn a_small_answer_does_not_wait_behind_a_large_one() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    redis.connect(WORKER).await;
    let Servers::Single(nodes) = &*redis.servers else { panic!("a cluster") };
    // As many as there may be, from the start; those of the test itself may take a moment to go.
    while server.clients() != 2 {
        tokio::task::yield_now().await;
    }
    // An answer that does not come until it is pushed to: the connection it is awaited on is taken.
    let slow = nodes[0].ask(::redis::cmd("BLPOP").arg("list").arg(0).take());
    let quick = async {
        while server.blocked() == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), None);
        }
        server.ask::<()>(&[b"RPUSH", b"list", b"x"]);
    };
    let (popped, ()) =
        tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(slow, quick) }).await.unwrap();
    assert!(popped.is_ok());
}

#[tokio::test]
async fn a_connection_whose_answer_nobody_awaits_any_more_is_not_taken_for_an_idle_one() {
    let server = Server::start();
    let v = view("v").build();
    let redis = single(&server, from_ref(&v));
    redis.connect(WORKER).await;
    let Servers::Single(nodes) = &*redis.servers else { panic!("a cluster") };
    let blocked = async {
        while server.blocked() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        popped = nodes[0].ask(::redis::cmd("BLPOP").arg("list").arg(0).take()) => panic!("{popped:?}"),
        () = blocked => {}
    }
    for _ in 0..10 {
        assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_on() {
    let server = Server::start();
    let v = view("v").build();
    let mut redis = single(&server, from_ref(&v));
    read_one(&redis, ask(&v, 1)).await.unwrap();
    redis.timeout = Duration::from_millis(20);
    server.freeze();
    assert!(matches!(read_one(&redis, ask(&v, 1)).await, Err(Error::TimedOut(_))));
    assert!(redis.ready().await.unwrap_err().contains("no answer"));
    server.thaw();
    redis.timeout = Duration::from_secs(10);
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), None, "late answers are not taken for new ones");
}

#[test]
fn secrets_are_not_shown() {
    let v = view("v").build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = open(&["redis://:hunter2@127.0.0.1:1".into()], RedisMode::Single, "p", from_ref(&v));
    let error = runtime.block_on(read_one(&redis, ask(&v, 1))).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"));
}

#[tokio::test]
async fn an_encrypted_connection_that_fails_is_a_server_that_is_down() {
    let server = Server::start();
    let v = view("v").build();
    // The server speaks no TLS.
    let redis = open(&[format!("rediss://127.0.0.1:{}", server.port)], RedisMode::Single, "p", from_ref(&v));
    assert!(matches!(read_one(&redis, ask(&v, 1)).await, Err(Error::Unreachable { .. })));
}
