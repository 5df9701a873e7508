//! What an endpoint asks for (`retry-after`) holds up no request that another can take.

use super::*;
use crate::predict::endpoint::Health;

const NOT_NOW: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 30\r\ncontent-length: 4\r\n\r\nbusy";
const DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 30\r\ncontent-length: 4\r\n\r\ndown";
const DATED: &str = "HTTP/1.1 503 Service Unavailable\r\ndate: Tue, 15 Nov 1994 12:00:00 GMT\r\n\
                     retry-after: Tue, 15 Nov 1994 12:00:30 GMT\r\ncontent-length: 4\r\n\r\ndown";

async fn serving(answer: &'static str) -> Server {
    Server::start(Box::leak(Box::new([answer]))).await
}

#[tokio::test]
async fn another_endpoint_is_asked_at_once() {
    for answer in [NOT_NOW, DOWN, DATED] {
        let (busy, well) = (serving(answer).await, serving(OK).await);
        let predict = predict(pool(&[&busy.authority, &well.authority]));
        while busy.arrivals().1 == 0 {
            assert_eq!(ask(&predict).await.unwrap().0, 200, "{answer}");
        }
        for _ in 0..5 {
            assert_eq!(ask(&predict).await.unwrap().0, 200, "{answer}");
        }
        assert_eq!(busy.arrivals().1, 1, "left alone for as long as it said");
    }
}

#[tokio::test]
async fn nobody_is_asked_again_before_the_time_it_said() {
    for (answer, status) in [(NOT_NOW, 429), (DOWN, 503)] {
        let servers = [serving(answer).await, serving(answer).await];
        let (predict, scrape) = scratch(|| predict(pool(&[&servers[0].authority, &servers[1].authority])));
        assert_eq!(ask(&predict).await.unwrap().0, status);
        assert_eq!(servers.each_ref().map(|server| server.arrivals().1), [1, 1]);
        assert!(scrape.render().contains("weir_retries_denied_total{pool=\"p\",reason=\"deadline\"} 1\n"));
        assert_eq!(ask(&predict).await.unwrap().0, status, "a first attempt is always made");
        assert_eq!(servers.iter().map(|server| server.arrivals().1).sum::<usize>(), 3, "and no other");
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_is_no_other() {
    let (busy, well) = (serving(NOT_NOW).await, serving(OK).await);
    let predict = predict(pool(&[&busy.authority, &well.authority]));
    let now = Instant::now();
    predict.pools[0].members()[1].checked(Health::Failing, Duration::ZERO, now);
    assert_eq!(ask(&predict).await.unwrap().0, 429);
    assert_eq!((busy.arrivals().1, well.arrivals().1), (1, 0));
    predict.pools[0].panicking.store(true, Ordering::Relaxed);
    assert_eq!(ask(&predict).await.unwrap().0, 200, "in panic all are asked");
}

/// A health check says that it is up again.
#[tokio::test]
async fn what_a_failure_asked_for_ends_with_a_check_that_passes() {
    let server = serving(DOWN).await;
    let predict = predict(pool(&[&server.authority, "127.0.0.1:1"]));
    let endpoint = predict.pools[0].members()[0].clone();
    while endpoint.spared_for(Instant::now()).is_zero() {
        drop(ask(&predict).await);
    }
    endpoint.checked(Health::Passing, Duration::ZERO, Instant::now());
    assert_eq!(endpoint.spared_for(Instant::now()), Duration::ZERO);
}
