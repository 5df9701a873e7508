//! What is found, and what is kept when nothing is.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;
use crate::{fixture, telemetry::scratch};

fn dns(authority: &str, grpc_port: Option<u16>) -> Dns {
    let (host, port) = authority.rsplit_once(':').unwrap();
    let http = Upstream { authority: authority.into(), host: host.into(), port: port.parse().unwrap() };
    Dns { http, grpc_port, zone: Some("a".into()), refresh: Duration::from_secs(5) }
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn names(pool: &Pool) -> String {
    pool.names()
}

#[tokio::test]
async fn each_address_is_an_endpoint_of_its_own() {
    let dns = dns("fraud.ml.svc:8080", Some(8081));
    let answer = || Ok(addresses(&["10.0.0.2:8080", "10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"]));
    let mut question = Question::default();
    let found = question.resolve(&dns, async |host, port| {
        assert_eq!((&*host, port), ("fraud.ml.svc", 8080));
        answer()
    });
    let found = found.await.unwrap().unwrap();
    let names: Vec<_> = found.iter().map(|endpoint| &*endpoint.name).collect();
    assert_eq!(names, ["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"]);
    let (http, grpc) = (found[2].http.as_ref().unwrap(), found[2].grpc.as_ref().unwrap());
    assert_eq!((&*http.host, http.port, &*http.authority), ("fd00::1", 8080, "fraud.ml.svc:8080"));
    assert_eq!((&*grpc.host, grpc.port, &*grpc.authority), ("fd00::1", 8081, "fraud.ml.svc:8081"));
    assert_eq!(found[0].zone.as_deref(), Some("a"));
}

#[tokio::test]
async fn no_answer_is_told_with_the_name() {
    let dns = dns("fraud:8080", None);
    let failed = Question::default().resolve(&dns, async |_, _| Err(io::Error::other("no such host"))).await;
    assert_eq!(failed.unwrap_err(), "fraud:8080: no such host");
    let empty = Question::default().resolve(&dns, async |_, _| Ok(Vec::new())).await;
    assert_eq!(empty.unwrap_err(), "fraud:8080: it has no address");
}

#[tokio::test]
async fn what_was_found_last_is_kept() {
    let (pool, scrape) = scratch(|| {
        let mut config = fixture::config().pools[0].clone();
        config.endpoints.clear();
        config.discovery = vec![Discovery::Dns(dns("fraud:8080", None))];
        Pool::new(&config, 1, Instant::now())
    });
    let mut follower = Follower::new(&pool, 1);
    let mut look = async |answer: io::Result<Vec<SocketAddr>>| {
        let answer = std::sync::Mutex::new(Some(answer));
        let found = Question::default()
            .resolve(&dns("fraud:8080", None), async |_, _| answer.lock().unwrap().take().unwrap())
            .await;
        metrics::with_local_recorder(&metrics::NoopRecorder, || follower.take(found, Instant::now()));
        names(&pool)
    };
    assert_eq!(look(Err(io::Error::other("not yet"))).await, "none was found yet");
    assert_eq!(look(Ok(addresses(&["10.0.0.1:8080", "10.0.0.2:8080"]))).await, "10.0.0.1:8080, 10.0.0.2:8080");
    let stays = pool.members()[1].clone();
    assert_eq!(look(Err(io::Error::other("resolver is away"))).await, "10.0.0.1:8080, 10.0.0.2:8080");
    assert_eq!(look(Ok(addresses(&["10.0.0.2:8080", "10.0.0.1:8080"]))).await, "10.0.0.1:8080, 10.0.0.2:8080");
    assert_eq!(look(Ok(addresses(&["10.0.0.2:8080", "10.0.0.3:8080"]))).await, "10.0.0.2:8080, 10.0.0.3:8080");
    assert!(Arc::ptr_eq(&stays, &pool.members()[0]), "what stays keeps its state");
    let text = scrape.render();
    for line in [
        "weir_discovery_refreshes_total{pool=\"gpu\",outcome=\"failed\"} 2\n",
        "weir_discovery_refreshes_total{pool=\"gpu\",outcome=\"changed\"} 2\n",
        "weir_discovery_refreshes_total{pool=\"gpu\",outcome=\"unchanged\"} 1\n",
        "weir_endpoints{pool=\"gpu\"} 2\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

/// Its own time, and no second question beside the first: threads that wait for a resolver do not pile up.
#[tokio::test(start_paused = true)]
async fn a_resolver_that_hangs_is_not_waited_for_and_not_asked_again() {
    let (dns, began) = (dns("fraud:8080", None), Instant::now());
    let (asked, (answer, answered)) = (AtomicU32::new(0), tokio::sync::oneshot::channel());
    let answered = std::sync::Mutex::new(Some(answered));
    let resolver = async |_, _| {
        asked.fetch_add(1, Relaxed);
        let answered = answered.lock().unwrap().take();
        answered.expect("asked once").await.map_err(io::Error::other)
    };
    let mut question = Question::default();
    for look in 1..=3 {
        let reason = question.resolve(&dns, resolver).await.unwrap_err();
        assert_eq!(reason, "fraud:8080: the resolver did not answer within 5000 ms");
        assert_eq!((began.elapsed(), asked.load(Relaxed)), (look * MOST_PATIENCE, 1));
    }
    answer.send(addresses(&["10.0.0.1:8080"])).unwrap();
    assert_eq!(question.resolve(&dns, resolver).await.unwrap().unwrap().len(), 1);
    assert!(question.0.is_none(), "the next look asks anew");
}

#[test]
fn a_resolver_is_waited_for_until_the_next_look_within_reason() {
    for (refresh, patience) in [(100, 1000), (3000, 3000), (60_000, 5000)] {
        assert_eq!(patience_of(Duration::from_millis(refresh)), Duration::from_millis(patience));
    }
}

/// A second mistake is another than the first; the admin port shows the last one, and none once endpoints are found.
#[test]
fn each_reason_is_kept_until_endpoints_are_found() {
    let mut config = fixture::config().pools[0].clone();
    config.discovery = vec![
        Discovery::Dns(dns("fraud:8080", None)),
        Discovery::File(EndpointsFile { path: "/e.yaml".into(), zone: None }),
    ];
    let pool = Pool::new(&config, 1, Instant::now());
    let mut follower = Follower::new(&pool, 2);
    for reason in ["first", "first", "second"] {
        follower.take(Err(reason.to_owned()), Instant::now());
        assert_eq!((pool.failures(), follower.failing.as_deref()), (vec![None, Some(reason.into())], Some(reason)));
    }
    follower.take(Ok(None), Instant::now());
    assert_eq!(pool.failures(), [None, Some("second".into())], "the file is as it was: wrong");
    follower.take(Ok(Some(Vec::new())), Instant::now());
    assert_eq!((pool.failures(), follower.failing), (vec![None, None], None));
}

#[tokio::test]
async fn a_file_is_read_when_it_changes_and_garbage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = EndpointsFile { path: folder.path().join("endpoints.yaml"), zone: None };
    let mut read = String::new();
    assert!(reread(&file, &mut read).await.is_err(), "there is no file");
    std::fs::write(&file.path, "[http://h:1]").unwrap();
    assert_eq!(reread(&file, &mut read).await.unwrap().unwrap().len(), 1);
    assert!(reread(&file, &mut read).await.unwrap().is_none(), "as it was");
    std::fs::write(&file.path, "[http://h:1, {http: 7}]").unwrap();
    let reason = reread(&file, &mut read).await.unwrap_err();
    assert!(reason.contains("endpoints.yaml"), "{reason}");
    std::fs::write(&file.path, "[http://h:1, http://h:2]").unwrap();
    assert_eq!(reread(&file, &mut read).await.unwrap().unwrap().len(), 2);
}
