//! What is known of a pool's GPU memory: with the time passed in, and against a real exporter.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::telemetry::scratch;

const SECOND: Duration = Duration::from_secs(1);

fn gpu(address: std::net::SocketAddr, interval: Duration) -> Gpu {
    let server = config::Upstream {
        authority: address.to_string().into(),
        host: address.ip().to_string().into(),
        port: address.port(),
    };
    Gpu::new(&"p".into(), &config::Gpu { server, path: "/metrics".into(), interval })
}

fn nowhere(interval: Duration) -> Gpu {
    gpu(([127, 0, 0, 1], 9).into(), interval)
}

fn failed() -> Result<f64, String> {
    Err("no answer".into())
}

#[test]
fn what_was_found_is_known_for_three_intervals() {
    let (gpu, scrape) = scratch(|| nowhere(5 * SECOND));
    let now = Instant::now();
    assert_eq!(gpu.memory(now), None, "nothing was found yet");
    assert!(scrape.render().contains("weir_gpu_scrape_stale{pool=\"p\"} 1\n"), "{}", scrape.render());
    assert!(!scrape.render().contains("weir_gpu_memory_ratio{"), "{}", scrape.render());
    gpu.take(Ok(0.5), now);
    gpu.take(failed(), now + 15 * SECOND);
    assert_eq!(gpu.memory(now + 15 * SECOND), Some(0.5), "a failed scrape or two change nothing");
    assert!(scrape.render().contains("weir_gpu_scrape_stale{pool=\"p\"} 0\n"), "{}", scrape.render());
    assert!(scrape.render().contains("weir_gpu_memory_ratio{pool=\"p\"} 0.5\n"), "{}", scrape.render());
    let later = now + 15 * SECOND + Duration::from_nanos(1);
    assert_eq!(gpu.memory(later), None);
    gpu.take(failed(), later);
    assert!(scrape.render().contains("weir_gpu_scrape_stale{pool=\"p\"} 1\n"), "{}", scrape.render());
    assert!(!scrape.render().contains("weir_gpu_memory_ratio{"), "{}", scrape.render());
    gpu.take(Ok(0.25), later);
    assert_eq!(gpu.memory(later), Some(0.25));
}

#[test]
fn it_is_told_once_when_that_changes() {
    let gpu = nowhere(SECOND);
    let now = Instant::now();
    let told = |scraped, at| {
        let before = gpu.seen().told;
        gpu.take(scraped, now + at * SECOND);
        gpu.seen().told != before
    };
    let steps = [(failed(), 0), (failed(), 1), (Ok(0.5), 2), (Ok(0.6), 3), (failed(), 6), (failed(), 7), (failed(), 8)];
    let told: Vec<bool> = steps.into_iter().map(|(scraped, at)| told(scraped, at)).collect();
    assert_eq!(told, [true, false, true, false, false, true, false]);
}

/// An exporter that answers each request with the next of some answers, the last for ever.
async fn exporter(listener: TcpListener, answers: Vec<String>, asked: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut buffer = [0; 4096];
        while let Ok(1..) = stream.read(&mut buffer).await {
            assert!(buffer.starts_with(b"GET /metrics HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&buffer));
            let answer = &answers[asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
            if stream.write_all(answer.as_bytes()).await.is_err() {
                break;
            }
        }
    }
}

fn answer(status: &str, page: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{page}", page.len())
}

/// What scrapes of an exporter come to that answers so.
async fn scraped<const N: usize>(answers: [String; N]) -> Vec<Result<f64, String>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gpu = gpu(listener.local_addr().unwrap(), SECOND);
    let scrapes = async {
        let mut scraped = Vec::new();
        for _ in 0..N {
            scraped.push(scrape::scrape(&gpu.source, &gpu.idle).await);
        }
        scraped
    };
    tokio::select! {
        scraped = scrapes => scraped,
        () = exporter(listener, answers.to_vec(), Arc::default()) => unreachable!("it goes on"),
    }
}

#[tokio::test]
async fn a_page_is_read_whatever_came_before() {
    let full = answer("200 OK", "vllm:kv_cache_usage_perc{engine=\"0\"} 0.75\n");
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        1e\r\nnv_gpu_memory_used_bytes 90\nnv\r\n1e\r\n_gpu_memory_total_bytes 100\n#\n\r\n0\r\n\r\n";
    let long = answer("200 OK", &"# nothing\n".repeat(120_000));
    let broken = "HTTP/1.1 200 OK\r\n\0".to_owned();
    let answers =
        [full.clone(), answer("404 Not Found", "no"), answer("200 OK", "up 1\n"), long, broken, chunked.into()];
    let [found, missing, silent, long, broken, again] = scraped(answers).await.try_into().unwrap();
    assert_eq!((found, again), (Ok(0.75), Ok(0.9)));
    assert_eq!(missing.unwrap_err(), "/metrics answered 404 Not Found");
    let silent = silent.unwrap_err();
    assert!(silent.starts_with("/metrics tells of no GPU memory"), "{silent}");
    assert_eq!(long.unwrap_err(), "the page is longer than 1048576 bytes");
    assert!(broken.is_err());
}

#[tokio::test]
async fn it_is_looked_at_again_and_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gpu = gpu(listener.local_addr().unwrap(), Duration::from_millis(50));
    let asked = Arc::new(AtomicUsize::new(0));
    let answers = [answer("503 Service Unavailable", ""), answer("200 OK", "vllm:kv_cache_usage_perc 0.5\n")];
    let found = async {
        // How long it is known depends on the interval; that it was found does not.
        while gpu.seen().last.is_none_or(|(share, _)| share != 0.5) || asked.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
    };
    let bounded = tokio::time::timeout(60 * SECOND, found);
    tokio::select! {
        found = bounded => found.unwrap(),
        () = gpu.watch() => unreachable!("it goes on"),
        () = exporter(listener, answers.to_vec(), Arc::clone(&asked)) => unreachable!("it goes on"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_exporter_that_does_not_answer_is_given_up() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gpu = gpu(silent.local_addr().unwrap(), 60 * SECOND);
    let told = async {
        while gpu.seen().told.is_none() {
            tokio::time::sleep(SECOND).await;
        }
    };
    let began = Instant::now();
    tokio::select! { () = told => {}, () = gpu.watch() => unreachable!("it goes on") }
    assert_eq!(gpu.seen().told, Some(false));
    assert!(began.elapsed() <= PATIENCE + SECOND, "{:?}", began.elapsed());
}
