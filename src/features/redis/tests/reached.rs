//! How a server is reached: as a user, over TLS, through sentinels.

use super::*;
use crate::features::tests::servers::{Certificates, Sentinels};

const SOON: Duration = Duration::from_millis(100);

fn config(url: String) -> config::Redis {
    config::Redis { timeout: Duration::from_secs(10), ..fixture::redis(vec![Secret(url)]) }
}

#[tokio::test]
async fn a_user_may_do_what_its_acl_says_and_is_refused_in_words() {
    let server = Server::start();
    let v = view("v").build();
    let user: &[&[u8]] = &[b"ACL", b"SETUSER", b"reader", b"on", b">hunter2", b"~*", b"+hmget", b"+ping"];
    server.ask::<()>(user);
    let as_user = |user: &str| {
        let redis = config(format!("redis://{user}@127.0.0.1:{}", server.port));
        open_as(&redis, SOON, ("p", from_ref(&v))).unwrap()
    };
    let reader = as_user("reader:hunter2");
    assert_eq!(read_one(&reader, ask(&v, 1)).await.unwrap(), None);
    assert_eq!(reader.ready().await, Ok(()));
    let refused = reader.write_back(WORKER, &ask(&v, 1), &row(100, [int(5)])).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { why, .. } if why.contains("NOPERM")), "{refused}");
    // A command that is not allowed is no failure of the server.
    for _ in 0..10 {
        let _ = reader.write_back(WORKER, &ask(&v, 1), &row(100, [int(5)])).await;
    }
    assert_eq!(read_one(&reader, ask(&v, 1)).await.unwrap(), None);

    // What the documentation asks for is enough to write.
    let allowed = "+hmget +evalsha +eval +hget +exists +hset +pexpire";
    let user =
        [&["ACL", "SETUSER", "writer", "on", ">hunter2", "~*"], &*allowed.split(' ').collect::<Vec<_>>()].concat();
    server.ask::<()>(&user.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    let writer = as_user("writer:hunter2");
    assert_eq!(writer.write_back(WORKER, &ask(&v, 1), &row(100, [int(5)])).await.unwrap(), Written::Written);
    assert_eq!(writer.write_back(WORKER, &ask(&v, 1), &row(200, [int(6)])).await.unwrap(), Written::Written);
    assert_eq!(read_one(&writer, ask(&v, 1)).await.unwrap(), Some(row(200, [int(6)])));

    let stranger = as_user("reader:wrong-guess");
    let error = read_one(&stranger, ask(&v, 1)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }));
    for said in [error.to_string(), stranger.ready().await.unwrap_err()] {
        assert!(said.contains("Password authentication failed"), "{said}");
        assert!(!said.contains("wrong-guess"), "{said}");
    }
}

#[tokio::test]
async fn a_server_is_reached_over_tls_if_its_authority_is_trusted() {
    let certificates = Certificates::new();
    let (_server, port) = certificates.server();
    let v = view("v").build();
    let url = format!("rediss://127.0.0.1:{port}");
    let trusting = |ca: Option<&str>| {
        let redis = config::Redis { ca: ca.map(|name| certificates.path(name)), ..config(url.clone()) };
        open_as(&redis, SOON, ("p", from_ref(&v)))
    };
    let redis = trusting(Some("ca.pem")).unwrap();
    let first = row(100, [int(5)]);
    assert_eq!(redis.write_back(WORKER, &ask(&v, 1), &first).await.unwrap(), Written::Written);
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), Some(first));
    assert_eq!(redis.ready().await, Ok(()));

    let error = read_one(&trusting(None).unwrap(), ask(&v, 1)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "the system does not know the authority: {error}");
    for (name, why) in [("nowhere.pem", "No such file"), ("key.pem", "no certificate in it")] {
        let said = trusting(Some(name)).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains(name), "{said}");
    }
}

#[tokio::test]
async fn the_replica_that_sentinels_promote_is_followed() {
    let mut master = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    for server in [&master, &replica] {
        server.ask::<()>(&[b"ACL", b"SETUSER", b"weir", b"on", b">hunter2", b"~*", b"+@all"]);
    }
    let sentinels = Sentinels::of(&master);
    let v = view("v").build();
    // The user is the master's; the sentinels know none.
    let urls = sentinels.ports.iter().map(|port| Secret(format!("redis://weir:hunter2@127.0.0.1:{port}"))).collect();
    let mode = |name: &str| RedisMode::Sentinel { master: name.into() };
    let redis = config::Redis { mode: mode("mymaster"), timeout: Duration::from_secs(10), ..fixture::redis(urls) };
    let unknown = open_as(&config::Redis { mode: mode("nobody"), ..redis.clone() }, SOON, ("p", from_ref(&v))).unwrap();
    let said = read_one(&unknown, ask(&v, 1)).await.unwrap_err().to_string();
    assert!(said.contains("knows no master \"nobody\""), "{said}");

    let clients = client::of_all(&redis.urls, None).unwrap();
    let redis = open_as(&redis, SOON, ("p", from_ref(&v))).unwrap();
    let (first, second) = (row(100, [int(5)]), row(200, [int(6)]));
    assert_eq!(redis.write_back(WORKER, &ask(&v, 1), &first).await.unwrap(), Written::Written);
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap().as_ref(), Some(&first));
    assert_eq!(redis.ready().await, Ok(()));
    assert_eq!(master.calls("hmget"), 1);
    while replica.ask::<u64>(&[b"DBSIZE"]) == 0 {
        tokio::task::yield_now().await;
    }

    master.kill();
    let killed = Instant::now();
    let resumed = async {
        // No answer, or the row.
        loop {
            if let Ok(read) = read_one(&redis, ask(&v, 1)).await {
                break assert_eq!(read.as_ref(), Some(&first));
            }
            tokio::task::yield_now().await;
        }
        while redis.write_back(WORKER, &ask(&v, 1), &second).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), resumed).await.unwrap();
    println!("reads and writes resumed at the promoted replica {:?} after the master was killed", killed.elapsed());
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap(), Some(second));
    assert!(replica.calls("hmget") > 0);
    assert_eq!(redis.ready().await, Ok(()));

    // A sentinel that wants to know who asks is told the master's user.
    let own = ::redis::Client::open(format!("redis://127.0.0.1:{}", sentinels.ports[0])).unwrap();
    let mut connection = own.get_connection().unwrap();
    let users: [&[&[u8]]; 2] = [
        &[b"ACL", b"SETUSER", b"weir", b"on", b">hunter2", b"+@all"],
        &[b"ACL", b"SETUSER", b"default", b"resetpass", b">another"],
    ];
    for user in users {
        servers::command(user).exec(&mut connection).unwrap();
    }
    assert!(sentinel::named(&own, "mymaster").await.is_err());
    let named = sentinel::named(&clients[0], "mymaster").await.unwrap();
    assert_eq!(*named, *format!("127.0.0.1:{}", replica.port));
}

#[tokio::test]
async fn replicas_that_sentinels_know_are_read_and_what_was_just_written_is_read_at_the_master() {
    let master = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let sentinels = Sentinels::of(&master);
    let v = view("v").build();
    let urls = sentinels.ports.iter().map(|port| Secret(format!("redis://127.0.0.1:{port}"))).collect();
    let replicas = config::Replicas {
        from: config::ReadFrom::Replicas,
        max_lag: Duration::from_secs(2),
        own_zone: None,
        zones: Vec::new(),
    };
    let mode = RedisMode::Sentinel { master: "mymaster".into() };
    let timeout = Duration::from_secs(10);
    let config = config::Redis { mode, timeout, replicas: Some(Box::new(replicas)), ..fixture::redis(urls) };
    let redis = open_as(&config, SOON, ("p", from_ref(&v))).unwrap();
    let written = row(100, [int(5)]);
    assert_eq!(redis.write_back(WORKER, &ask(&v, 1), &written).await.unwrap(), Written::Written);
    assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap().as_ref(), Some(&written));
    assert_eq!((master.calls("hmget"), replica.calls("hmget")), (1, 0), "it may be too new for a replica");
    let at_replica = async {
        while replica.calls("hmget") == 0 {
            assert_eq!(read_one(&redis, ask(&v, 1)).await.unwrap().as_ref(), Some(&written));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), at_replica).await.unwrap();
    let before = (master.calls("hmget"), replica.calls("hmget"));
    let strict = view("v").consistency(config::Consistency::WriteThrough).build();
    assert_eq!(read_one(&redis, ask(&strict, 1)).await.unwrap(), Some(written));
    assert_eq!((master.calls("hmget"), replica.calls("hmget")), (before.0 + 1, before.1));
}

/// A master, its replica, and who watches them.
fn watched() -> (Server, Server, Sentinels) {
    let master = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let sentinels = Sentinels::of(&master);
    (master, replica, sentinels)
}

#[test]
fn how_far_replicas_are_behind_is_shown_of_both_redises() {
    // Sentinels take their time to find each other.
    let (first, dr) = std::thread::scope(|scope| {
        let dr = scope.spawn(watched);
        (watched(), dr.join().unwrap())
    });
    let v = view("v").build();
    let max_lag = Duration::from_secs(60);
    let urls = |sentinels: &Sentinels| sentinels.ports.map(|port| Secret(format!("redis://127.0.0.1:{port}"))).into();
    let replicas = config::Replicas { from: config::ReadFrom::Replicas, max_lag, own_zone: None, zones: Vec::new() };
    let never = Duration::from_secs(3600);
    let config = config::Redis {
        mode: RedisMode::Sentinel { master: "mymaster".into() },
        timeout: Duration::from_secs(10),
        replicas: Some(Box::new(replicas)),
        dr: Some(Box::new(config::Dr { urls: urls(&dr.2), failover_after: never, back_after: never })),
        ..fixture::redis(urls(&first.2))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // A replica that is known no more is not shown.
    let (_redis, scrape) = crate::telemetry::scratch(|| {
        runtime.block_on(async {
            let redis = open_as(&config, SOON, ("p", from_ref(&v))).unwrap();
            redis.connect(WORKER).await;
            let knows_all = || {
                let is_known = |servers: &Servers| match servers {
                    Servers::Cluster(cluster) => {
                        let shards = cluster.shards(WORKER);
                        !shards.is_empty() && shards.iter().all(|shard| shard.has_replica(max_lag, Instant::now()))
                    }
                    Servers::Single(_) => false,
                };
                is_known(&redis.servers) && is_known(&redis.dr.as_ref().unwrap().standby)
            };
            let known = async {
                while !knows_all() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), known).await.unwrap();
            redis.show(Instant::now());
            redis
        })
    });
    let text = scrape.render();
    for replica in [&first.1, &dr.1] {
        let shown = format!("weir_redis_replica_lag_seconds{{target=\"redis/127.0.0.1:{}\"}} ", replica.port);
        let lag = text.lines().find_map(|line| line.strip_prefix(&shown)).unwrap_or_else(|| panic!("{text}"));
        assert!(lag.parse::<f64>().unwrap() <= max_lag.as_secs_f64(), "{lag}");
    }
}
