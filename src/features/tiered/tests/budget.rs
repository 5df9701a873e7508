//! No retry storm: what a store that fails everything is asked besides is a share of what it is asked anyway.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, split},
    net::{TcpListener, TcpStream},
};

use super::*;

/// Before a Redis, and refuses every read of a row, in words that promise that it will soon be answered; no breaker heeds those.
struct Refusing {
    url: String,
    reads: Arc<AtomicU64>,
}

impl Refusing {
    async fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = server.url().rsplit_once(':').unwrap().1.trim_end_matches('/').parse::<u16>().unwrap();
        let reads = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&reads);
        Tasks::default().spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let redis = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                Tasks::default().spawn(between(caller, redis, Arc::clone(&counted)));
            }
        });
        Self { url: format!("redis://{address}"), reads }
    }
}

/// Commands here are short, and one at a time: what is read at once is one.
async fn between(caller: TcpStream, redis: TcpStream, reads: Arc<AtomicU64>) {
    let (mut said, mut told) = split(caller);
    let (mut answers, mut commands) = split(redis);
    let (refusals, mut refused) = tokio::sync::mpsc::unbounded_channel::<()>();
    let up = async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = said.read(&mut buffer).await {
            let command = &buffer[..length];
            if command.windows(5).any(|word| word.eq_ignore_ascii_case(b"HMGET")) {
                reads.fetch_add(1, Ordering::SeqCst);
                refusals.send(()).unwrap();
            } else if commands.write_all(command).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                Some(()) = refused.recv() => told.write_all(b"-TRYAGAIN not now\r\n").await.unwrap(),
                Ok(length @ 1..) = answers.read(&mut buffer) => told.write_all(&buffer[..length]).await.unwrap(),
                else => return,
            }
        }
    };
    tokio::join!(up, down);
}

#[tokio::test]
async fn a_store_that_fails_everything_is_asked_little_more_than_once() {
    const LOOKUPS: u64 = 300;
    let server = Server::start();
    let refusing = Refusing::before(&server).await;
    let v = view("v").build();
    let l2 = L2Config::Redis(RedisConfig { timeout: LONG, ..fixture::redis(vec![Secret(refusing.url.clone())]) });
    let mut features = features("p", from_ref(&v), l2, None);
    (features.retry.initial_delay, features.retry.max_delay) = (Duration::from_millis(1), Duration::from_millis(1));
    let config = crate::features::tests::config(features, vec![model(from_ref(&v), false)]);
    let (store, scrape) = scratch(|| Store::open(&config, Tasks::default()).now_or_never().unwrap().unwrap());
    let in_time = |how: &mut How| how.by = Deadline::after(Instant::now(), 3 * LONG);
    eventually("Redis is connected to", async || {
        store.ask(&[0], in_time).await;
        refusing.reads.load(Ordering::SeqCst) > 0
    })
    .await;
    let (before, began) = (refusing.reads.load(Ordering::SeqCst), Instant::now());
    for user in 0..LOOKUPS {
        let set = soon(store.ask(&[user.cast_signed()], in_time)).await;
        assert_eq!(reasons(&set), [Reason::Unavailable]);
    }
    let reads = refusing.reads.load(Ordering::SeqCst) - before;
    // Ten a second are granted to a quiet store.
    let floor = 100 * (1 + began.elapsed().as_secs() / 10);
    let (least, most) = (LOOKUPS, LOOKUPS + LOOKUPS / 5 + floor);
    assert!(least < reads && reads <= most, "{least} < {reads} <= {most}: three retries each would be {}", 4 * LOOKUPS);
    let text = scrape.render();
    assert!(!text.contains("weir_feature_retries_denied_total 0\n"), "{text}");
    assert!(text.contains("weir_breaker_state{target=\"redis/"), "{text}");
    assert!(!text.contains(",state=\"open\"} 1\n"), "no breaker did it: {text}");
}
