//! A cluster: shards, masters that die or hang, redirects, and replicas that take over.

use super::*;

#[tokio::test]
async fn a_cluster_is_read_and_written_shard_by_shard() {
    let cluster = servers::Cluster::start();
    let vectors = data("cluster_slots");
    let join_keys: HashSet<&str> =
        vectors.as_array().unwrap().iter().map(|v| v["join_key"].as_str().unwrap()).collect();
    let mut asks = Vec::new();
    let mut views = Vec::new();
    for (id, join_key) in join_keys.into_iter().enumerate() {
        let of_key = || vectors.as_array().unwrap().iter().filter(|vector| vector["join_key"] == join_key);
        let kind = of_key().next().unwrap()["type"].as_str().unwrap().to_uppercase().parse().unwrap();
        let view = view(&format!("v{id}")).id(u32::try_from(id).unwrap()).entities(&[(join_key, kind)]).build();
        views.push(Arc::clone(&view));
        for vector in of_key() {
            let value = entity(vector["type"].as_str().unwrap(), &vector["value"]);
            let key = EntityKey::new([(join_key, &value)].into_iter());
            asks.push((Ask { view: Arc::clone(&view), key }, unhex(vector["key_hex"].as_str().unwrap())));
        }
    }
    // One seed is enough.
    let redis = open(&cluster.urls()[..1], RedisMode::Cluster, "clu", &views);
    for (at, (ask, _)) in asks.iter().enumerate() {
        let row = row(100, [int(i64::try_from(at).unwrap())]);
        assert_eq!(redis.write_back(WORKER, ask, &row).await.unwrap(), Written::Written);
    }
    for (_, key) in &asks {
        let stored: bool = cluster.holder(key).ask(&[b"EXISTS", key]);
        assert!(stored, "{key:?} is where the cluster looks for it");
    }
    let wanted: Vec<Ask> = asks.iter().map(|(ask, _)| ask.clone()).collect();
    let rows = redis.read(WORKER, &wanted).await;
    for (at, read) in rows.into_iter().enumerate() {
        assert_eq!(read.unwrap(), Some(row(100, [int(i64::try_from(at).unwrap())])));
    }
    assert_eq!(redis.ready().await, Ok(()));
}

#[tokio::test]
async fn a_dead_master_takes_only_its_own_rows() {
    let mut cluster = servers::Cluster::start();
    let v = view("v").build();
    let redis = open(&cluster.urls(), RedisMode::Cluster, "p", from_ref(&v));
    let dead = cluster.masters[1].port;
    let users: Vec<i64> = (0..20).collect();
    let asks: Vec<Ask> = users.iter().map(|user| ask(&v, *user)).collect();
    let on_dead: Vec<bool> =
        users.iter().map(|user| cluster.holder(&redis_key(&key(*user), "p")).port == dead).collect();
    assert!(on_dead.contains(&true) && on_dead.contains(&false));
    assert!(redis.read(WORKER, &asks).await.iter().all(Result::is_ok));
    // The others are to go on answering for their part.
    for at in [0, 2] {
        cluster.masters[at].ask::<()>(&[b"CONFIG", b"SET", b"cluster-require-full-coverage", b"no"]);
    }
    cluster.masters[1].kill();
    for (row, dead) in redis.read(WORKER, &asks).await.iter().zip(on_dead) {
        assert_eq!(row.is_err(), dead, "{row:?}");
    }
    let why = redis.ready().await.unwrap_err();
    assert!(why.contains(&dead.to_string()), "{why}");
}

#[tokio::test]
async fn a_master_that_hangs_costs_others_nothing_and_itself_no_more_than_its_breaker_lets_it() {
    let cluster = servers::Cluster::start();
    let v = view("v").build();
    let urls = cluster.urls().into_iter().map(Secret).collect();
    let config = config::Redis { mode: RedisMode::Cluster, timeout: Duration::from_secs(3), ..fixture::redis(urls) };
    let mut redis = open_as(&config, Duration::from_secs(3), ("p", from_ref(&v))).unwrap();
    let hung = &cluster.masters[1];
    let asks: Vec<Ask> = (0..20).map(|user| ask(&v, user)).collect();
    let on_hung = |ask: &Ask| cluster.holder(&redis_key(&ask.key, "p")).port == hung.port;
    let (on_hung, on_others): (Vec<Ask>, Vec<Ask>) = asks.iter().cloned().partition(on_hung);
    for (user, ask) in on_hung.iter().chain(&on_others).enumerate() {
        redis.write_back(WORKER, ask, &row(100, [int(user.try_into().unwrap())])).await.unwrap();
    }
    hung.freeze();
    // Long enough for the others on a busy machine.
    redis.timeout = Duration::from_secs(2);
    let mut timed_out = 0;
    loop {
        let mut rows = redis.read(WORKER, &asks).await;
        let answered = rows.iter().filter(|row| matches!(row, Ok(Some(_)))).count();
        assert_eq!(answered, on_others.len());
        rows.retain(Result::is_err);
        match &rows[0] {
            Err(Error::TimedOut(_)) => timed_out += 1,
            Err(Error::Open { address, .. }) => break assert!(address.ends_with(&hung.port.to_string())),
            other => panic!("{other:?}"),
        }
    }
    assert!(timed_out >= crate::features::tests::breaker().failure_threshold, "{timed_out}");
    assert!(!redis.is_unavailable(Instant::now()), "others answer");
    hung.thaw();
    let back = async {
        while redis.read(WORKER, &asks).await.iter().any(|row| !matches!(row, Ok(Some(_)))) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.unwrap();
}

/// A key's slot that is being moved, as resharding does it; the key is at the new master, the slot at the old one.
struct Moving<'a> {
    slot: String,
    from: &'a Server,
    to: &'a Server,
    to_id: String,
}

impl<'a> Moving<'a> {
    fn of(cluster: &'a servers::Cluster, stored: &[u8]) -> Self {
        let slot = cluster.masters[0].ask::<u16>(&[b"CLUSTER", b"KEYSLOT", stored]).to_string();
        let from = cluster.holder(stored);
        let to = cluster.masters.iter().find(|master| master.port != from.port).unwrap();
        let (from_id, to_id): (String, String) = (from.ask(&[b"CLUSTER", b"MYID"]), to.ask(&[b"CLUSTER", b"MYID"]));
        to.ask::<()>(&[b"CLUSTER", b"SETSLOT", slot.as_bytes(), b"IMPORTING", from_id.as_bytes()]);
        from.ask::<()>(&[b"CLUSTER", b"SETSLOT", slot.as_bytes(), b"MIGRATING", to_id.as_bytes()]);
        let port = to.port.to_string();
        from.ask::<Reply>(&[b"MIGRATE", b"127.0.0.1", port.as_bytes(), stored, b"0", b"5000"]);
        Self { slot, from, to, to_id }
    }
}

#[tokio::test]
async fn a_redirect_is_followed_while_another_master_hangs() {
    let cluster = servers::Cluster::start();
    let v = view("v").build();
    let mut redis = open(&cluster.urls(), RedisMode::Cluster, "p", from_ref(&v));
    let first = row(100, [int(5)]);
    redis.write_back(WORKER, &ask(&v, 1), &first).await.unwrap();
    let Moving { from, to, .. } = Moving::of(&cluster, &redis_key(&key(1), "p"));
    let hung = cluster.masters.iter().find(|master| ![from.port, to.port].contains(&master.port)).unwrap();
    let of_hung = |user: &i64| cluster.holder(&redis_key(&key(*user), "p")).port == hung.port;
    let other = (2..).find(of_hung).unwrap();
    assert!(redis.read(WORKER, &[ask(&v, 1), ask(&v, other)]).await.iter().all(Result::is_ok));
    hung.freeze();
    redis.timeout = Duration::from_secs(2);
    let rows = redis.read(WORKER, &[ask(&v, 1), ask(&v, other)]).await;
    assert_eq!(rows[0].as_ref().unwrap().as_ref(), Some(&first));
    assert!(matches!(rows[1], Err(Error::TimedOut(_))), "{:?}", rows[1]);
    hung.thaw();
}

#[tokio::test]
async fn redirects_are_followed_while_a_slot_moves_and_after() {
    let cluster = servers::Cluster::start();
    let v = view("v").build();
    let mut redis = open(&cluster.urls(), RedisMode::Cluster, "p", from_ref(&v));
    let Servers::Cluster(shards) = Arc::get_mut(&mut redis.servers).unwrap() else { panic!("not a cluster") };
    // The redirect alone must make it learn.
    Arc::get_mut(shards).unwrap().relearn_after = Duration::MAX;
    let stored = redis_key(&key(1), "p");
    let first = row(100, [int(5)]);
    redis.write_back(WORKER, &ask(&v, 1), &first).await.unwrap();

    let Moving { slot, from, to, to_id } = Moving::of(&cluster, &stored);
    // ASK: the slot is still the old master's, the key is not.
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), Some(first));
    let second = row(200, [int(6)]);
    assert_eq!(redis.write_back(WORKER, &ask(&v, 1), &second).await.unwrap(), Written::Written);

    for master in [to, from] {
        master.ask::<()>(&[b"CLUSTER", b"SETSLOT", slot.as_bytes(), b"NODE", to_id.as_bytes()]);
    }
    // MOVED.
    let before = from.rejections("hmget");
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), Some(second));
    assert_eq!(from.rejections("hmget"), before + 1);
    // Then the map is learned anew: the old master is not asked any more.
    let learned = async {
        loop {
            let before = from.rejections("hmget");
            read_one(&redis, ask(&v, 1)).await.unwrap();
            if from.rejections("hmget") == before {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), learned).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_takes_over_is_found() {
    let mut cluster = servers::Cluster::with(Duration::from_secs(1));
    let v = view("v").build();
    let mut redis = open(&cluster.urls(), RedisMode::Cluster, "p", from_ref(&v));
    let Servers::Cluster(shards) = Arc::get_mut(&mut redis.servers).unwrap() else { panic!("not a cluster") };
    Arc::get_mut(shards).unwrap().relearn_after = Duration::MAX;
    let replicas = cluster.replicas();
    let asks: Vec<Ask> = (0..20).map(|user| ask(&v, user)).collect();
    for (user, ask) in asks.iter().enumerate() {
        redis.write_back(WORKER, ask, &row(100, [int(user.try_into().unwrap())])).await.unwrap();
    }
    for (master, replica) in cluster.masters.iter().zip(&replicas) {
        let held = master.ask::<u64>(&[b"DBSIZE"]);
        while replica.ask::<u64>(&[b"DBSIZE"]) < held {
            tokio::task::yield_now().await;
        }
    }
    cluster.masters[2].kill();
    let recovered = async {
        while redis.read(WORKER, &asks).await.iter().any(|row| !matches!(row, Ok(Some(_)))) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), recovered).await.unwrap();
    assert!(replicas[2].calls("hmget") > 0);
    let ready = async {
        while redis.ready().await.is_err() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_is_not_there_yet_is_found_when_it_is() {
    let v = view("v").build();
    let mut server = Server::start();
    server.kill();
    let redis = open(&[server.url()], RedisMode::Cluster, "p", from_ref(&v));
    assert!(read_one(&redis, ask(&v, 1)).await.is_err());
    assert!(redis.ready().await.is_err());
}
