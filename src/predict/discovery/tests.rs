//! What is found, and what is kept when nothing is.

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
    let found = resolve(&dns, async |host, port| {
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
    let failed = resolve(&dns, async |_, _| Err(io::Error::other("no such host"))).await;
    assert_eq!(failed.unwrap_err(), "fraud:8080: no such host");
    let empty = resolve(&dns, async |_, _| Ok(Vec::new())).await;
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
    let mut follower = Follower { pool: &pool, source: 1, failing: false, known: None };
    let mut look = async |answer: io::Result<Vec<SocketAddr>>| {
        let answer = std::sync::Mutex::new(Some(answer));
        let found = resolve(&dns("fraud:8080", None), async |_, _| answer.lock().unwrap().take().unwrap()).await;
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
