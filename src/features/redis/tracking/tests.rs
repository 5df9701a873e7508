//! Against real servers that are flushed, killed, frozen, and handed slots.

use std::{
    slice::from_ref,
    sync::{Mutex, PoisonError},
};

use ::redis::FromRedisValue;
use tokio::time::{Instant, timeout};

use super::*;
use crate::{
    app::Tasks,
    config::{self, L2, RedisMode, Secret},
    features::{
        invalidate::keys::Keys,
        redis::ear::NAME,
        tests::{
            features, key,
            servers::{self, Server},
            view,
        },
    },
    fixture,
};

#[test]
fn why_nothing_is_heard_is_told_once() {
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let unreachable = chain(&Deaf::Unreachable(refused().into()));
    assert_eq!(unreachable, format!("cannot be reached: {}", ::redis::RedisError::from(refused())));
    assert_eq!(unreachable.matches(&refused().to_string()).count(), 1, "{unreachable}");
    assert_eq!(chain(&Deaf::Broken(refused())), format!("the connection broke: {}", refused()));
}

/// Notes what it is told.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn note(&self, what: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Waits until it was told that, and forgets what came before.
    async fn told(&self, what: &str) -> Vec<String> {
        let mut all = Vec::new();
        let told = async {
            loop {
                all.extend(self.taken());
                if all.iter().any(|told| told == what) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(60), told).await.is_ok();
        assert!(in_time, "not told: {what}; but {all:?}");
        all
    }
}

impl Hearer for Notes {
    fn prefixes(&self) -> Vec<Box<[u8]>> {
        Keys::of(&"p".into(), from_ref(&view("v").build())).prefixes()
    }

    async fn changed(&self, keys: &[Box<[u8]>]) {
        keys.iter().for_each(|key| self.note(String::from_utf8_lossy(&key[key.len() - 3..]).into_owned()));
    }

    async fn missed(&self, slots: Option<Arc<SlotSet>>) {
        self.note(slots.map_or_else(|| "missed all".to_owned(), |slots| format!("missed {slots:?}")));
    }

    async fn flushed(&self) {
        self.note("flushed".to_owned());
    }
}

fn open(urls: &[String], mode: RedisMode) -> Redis {
    let urls = urls.iter().cloned().map(Secret).collect();
    let redis = config::Redis { mode, timeout: Duration::from_secs(10), ..fixture::redis(urls) };
    let mut features = features("p", from_ref(&view("v").build()), L2::Redis(redis.clone()), None);
    features.invalidate.tracking = true;
    Redis::open(&redis, &features, 1, &Tasks::default()).unwrap()
}

/// Listens while the test goes on.
async fn listening(redis: &Redis, notes: &Notes, test: impl Future<Output = ()>) {
    tokio::select! {
        () = redis.listener().unwrap().run(notes) => panic!("it listens no longer"),
        () = test => {}
    }
}

/// A key of that many bytes that ends as `end`.
fn keyed(user: i64, end: &str) -> Vec<u8> {
    [key(user).as_bytes(), end.as_bytes()].concat()
}

fn set<T: FromRedisValue>(server: &Server, key: &[u8]) -> T {
    server.ask(&[b"HSET", key, b"f", b"1"])
}

async fn until_deaf(tracking: &Tracking) {
    let began = Instant::now();
    while tracking.is_up() {
        assert!(began.elapsed() < Duration::from_secs(60), "it is heard");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn of_one_server_every_change_of_a_views_keys_is_heard_and_whatever_was_missed_is_told() {
    let server = Server::start();
    let redis = open(&[server.url()], RedisMode::Single);
    let (notes, tracking) = (Notes::default(), redis.tracking().unwrap());
    listening(&redis, &notes, async {
        tracking.up().await;
        assert_eq!(notes.told("missed all").await, ["missed all"], "once, at the start");
        set::<()>(&server, b"of no view");
        set::<()>(&server, &keyed(1, "-p1"));
        set::<()>(&server, &keyed(1, "-p2"));
        server.ask::<()>(&[b"DEL", &keyed(1, "-p1")]);
        server.ask::<()>(&[b"PEXPIRE", &keyed(1, "-p2"), b"600000"]);
        set::<()>(&server, &keyed(2, "end"));
        assert_eq!(notes.told("end").await, ["-p1", "-p2", "-p1", "-p2", "end"]);
        server.ask::<()>(&[b"FLUSHALL"]);
        assert_eq!(notes.told("flushed").await, ["flushed"]);

        let clients: String = server.ask(&[b"CLIENT", b"LIST"]);
        let ours = clients.lines().find(|line| line.contains(&format!("name={NAME}"))).expect("it is connected");
        let id = ours.split_whitespace().find_map(|word| word.strip_prefix("id=")).unwrap();
        server.ask::<()>(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]);
        notes.told("missed all").await;
        set::<()>(&server, &keyed(1, "-p3"));
        notes.told("-p3").await;
        assert!(tracking.is_up());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_or_dies_is_not_believed_to_be_heard() {
    let mut server = Server::start();
    let redis = open(&[server.url()], RedisMode::Single);
    let (notes, tracking) = (Notes::default(), redis.tracking().unwrap());
    listening(&redis, &notes, async {
        tracking.up().await;
        notes.taken();
        server.freeze();
        until_deaf(tracking).await;
        assert!(matches!(&tracking.standings()[..], [(_, Standing::Deaf(why))] if why.contains("said nothing")));
        assert_eq!(notes.taken(), Vec::<String>::new(), "nothing is known to have been missed yet");
        server.thaw();
        tracking.up().await;
        notes.told("missed all").await;
        server.kill();
        until_deaf(tracking).await;
        server.restart();
        notes.told("missed all").await;
        set::<()>(&server, &keyed(1, "-p4"));
        notes.told("-p4").await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_may_not_be_listened_to_says_why() {
    let server = Server::start();
    let user: &[&[u8]] = &[b"ACL", b"SETUSER", b"reader", b"on", b">pw", b"~*", b"+hmget", b"+ping"];
    server.ask::<()>(user);
    let redis = open(&[format!("redis://reader:pw@127.0.0.1:{}", server.port)], RedisMode::Single);
    let (notes, tracking) = (Notes::default(), redis.tracking().unwrap());
    listening(&redis, &notes, async {
        let refused = |standing: &Standing| matches!(standing, Standing::Deaf(why) if why.contains("CLIENT TRACKING"));
        let began = Instant::now();
        while !tracking.standings().iter().any(|(_, standing)| refused(standing)) {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", tracking.standings());
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(notes.taken(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn of_a_cluster_all_masters_are_heard_and_a_slot_that_moves_is_vouched_for_anew() {
    let cluster = servers::Cluster::start();
    let redis = open(&cluster.urls(), RedisMode::Cluster);
    let (notes, tracking) = (Notes::default(), redis.tracking().unwrap());
    listening(&redis, &notes, async {
        tracking.up().await;
        // Each is up once what was missed of it was told.
        while tracking.standings().len() < 3 || !tracking.is_up() {
            sleep(Duration::from_millis(5)).await;
        }
        let mut missed = notes.taken();
        missed.sort();
        assert_eq!(missed, ["missed 5461 slots", "missed 5461 slots", "missed 5462 slots"]);
        for user in 0..30 {
            let key = keyed(user, &format!("p{user:02}"));
            set::<()>(cluster.holder(&key), &key);
            notes.told(&format!("p{user:02}")).await;
        }
        let [from, to, other] = &cluster.masters;
        let id: String = to.ask(&[b"CLUSTER", b"MYID"]);
        for server in [to, from, other] {
            server.ask::<()>(&[b"CLUSTER", b"SETSLOT", b"0", b"NODE", id.as_bytes()]);
        }
        assert_eq!(notes.told("missed 1 slots").await, ["missed 1 slots"]);
        assert!(tracking.is_up());
    })
    .await;
}

#[tokio::test]
async fn where_a_replica_takes_over_its_slots_are_vouched_for_anew_and_no_others() {
    let mut cluster = servers::Cluster::with(Duration::from_secs(2));
    let replicas = cluster.replicas();
    let redis = open(&cluster.urls(), RedisMode::Cluster);
    let (notes, tracking) = (Notes::default(), redis.tracking().unwrap());
    listening(&redis, &notes, async {
        while tracking.standings().len() < 3 || !tracking.is_up() {
            sleep(Duration::from_millis(5)).await;
        }
        notes.taken();
        cluster.masters[1].kill();
        let told = notes.told("missed 5462 slots").await;
        assert_eq!(told, ["missed 5462 slots"]);
        let key = (0..).map(|user| keyed(user, "-pf")).find(|key| {
            let slot: u16 = replicas[1].ask(&[b"CLUSTER", b"KEYSLOT", key]);
            (5461..=10922).contains(&slot)
        });
        set::<()>(&replicas[1], &key.unwrap());
        notes.told("-pf").await;
        // The one that was lost is none of them any more.
        while !tracking.is_up() {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(tracking.standings().len(), 3);
    })
    .await;
}
