//! The admin port over real sockets.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use reqwest::{Client, Method, RequestBuilder};
use tokio::task::JoinSet;

use super::*;
use crate::{fixture, telemetry::scratch};

#[derive(Clone, Default)]
struct Gaps(Arc<Mutex<Vec<String>>>);

impl Readiness for Gaps {
    fn missing(&self) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>> {
        Box::pin(async { self.0.lock().unwrap().clone() })
    }
}

/// The fixture's models, with a secret for MLflow's webhook.
fn registered() -> Config {
    let mlflow = crate::config::Mlflow {
        secret: Some(crate::config::Secret("s3cret".into())),
        tolerance: Duration::from_secs(300),
        server: None,
        aliases: None,
    };
    Config { mlflow: Some(mlflow), ..fixture::config() }
}

fn promotions(config: &Config) -> Promotions {
    use crate::{app::Tasks, predictions::Predictions};
    let predictions = Predictions::new(config, Tasks::default(), tokio::time::Instant::now()).unwrap();
    Promotions::new(config, Arc::new(predictions))
}

struct Admin {
    address: SocketAddr,
    client: Client,
    gaps: Gaps,
    drains: Arc<AtomicU32>,
    stop: tokio::sync::oneshot::Sender<()>,
    served: JoinSet<io::Result<()>>,
}

impl Admin {
    async fn start() -> Self {
        let (gaps, drains) = (Gaps::default(), Arc::new(AtomicU32::new(0)));
        let section = |name: &'static str| -> Section { Box::new(move || json!({"about": name})) };
        let config = Arc::new(registered());
        let promotions = Arc::new(promotions(&config));
        let sources = Sources {
            config: Box::new(move || Arc::clone(&config)),
            scrape: scratch(|| ()).1,
            readiness: Box::new(gaps.clone()),
            models: section("models"),
            pools: section("pools"),
            region: Box::new(|name| match name {
                "us-east-1" => Region::Ready,
                "us-west-2" => Region::Missing(vec!["pool gpu: 0 %".into()]),
                _ => Region::Unknown(vec!["us-east-1".into(), "us-west-2".into()]),
            }),
            tiers: section("tiers"),
            levels: section("levels"),
            drill: Box::new(|model, level, time| (model == "m").then(|| json!([level as u8, time.as_secs()]))),
            features: Box::new(|| Box::pin(async { json!({"about": "features"}) })),
            hot_keys: section("hot-keys"),
            invalidate: Box::new(|said| {
                let done = match said {
                    Invalidation::Model(model) if model == "fraud" => Ok(json!({"model": model})),
                    Invalidation::Model(model) => Err(Refusal::Unknown(format!("unknown {model}"))),
                    Invalidation::View(view, Which::All) => Ok(json!({"view": view, "rows": 2})),
                    Invalidation::View(_, which) => Err(Refusal::Wrong(format!("{which:?}"))),
                };
                Box::pin(async { done })
            }),
            promotions,
            spool: Arc::new(crate::spool::Spool::open(&crate::fixture::config().spool).unwrap()),
            drain: Box::new({
                let drains = Arc::clone(&drains);
                move || {
                    drains.fetch_add(1, SeqCst);
                }
            }),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = serve(listener, router(sources), async {
            let _told = stopped.await;
        });
        let mut served = JoinSet::new();
        served.spawn(serving);
        Self { address, client: Client::new(), gaps, drains, stop, served }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.ask(Method::GET, path)).await
    }
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn probes_tell_what_is_missing() {
    let admin = Admin::start().await;
    assert_eq!(admin.get("/livez").await, (200, json!({"live": true})));
    assert_eq!(admin.get("/readyz").await, (200, json!({"ready": true})));
    admin.gaps.0.lock().unwrap().push("pool gpu: no endpoint answered yet".into());
    let expected = json!({"ready": false, "missing": ["pool gpu: no endpoint answered yet"]});
    assert_eq!(admin.get("/readyz").await, (503, expected));
    assert_eq!(admin.get("/livez").await.0, 200, "alive all the same");
}

#[tokio::test]
async fn a_region_is_asked_for_by_name() {
    let admin = Admin::start().await;
    assert_eq!(admin.get("/readyz?region=us-east-1").await, (200, json!({"ready": true, "region": "us-east-1"})));
    let expected = json!({"ready": false, "region": "us-west-2", "missing": ["pool gpu: 0 %"]});
    assert_eq!(admin.get("/readyz?region=us-west-2").await, (503, expected));
    let (status, body) = admin.get("/readyz?region=mars").await;
    assert_eq!(status, 404);
    assert_eq!(body["error"], "no pool is in region \"mars\"; regions: us-east-1, us-west-2");
}

#[tokio::test]
async fn metrics_are_the_text_format() {
    let admin = Admin::start().await;
    let answer = admin.ask(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], METRICS_TYPE);
    assert!(answer.text().await.unwrap().contains("weir_build_info{"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_apart() {
    let admin = Admin::start().await;
    let (status, body) = admin.get("/admin/v2/config").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().unwrap().starts_with("no such path"));
    for (method, path) in
        [(Method::POST, "/metrics"), (Method::GET, "/admin/v1/drain"), (Method::PUT, "/admin/v1/config")]
    {
        let answer = admin.ask(method.clone(), path).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method} {path}");
        assert!(answer.headers().contains_key("allow"));
        assert!(answer.json::<Value>().await.unwrap()["error"].is_string());
    }
}

#[tokio::test]
async fn the_config_shows_everything_but_secrets() {
    let admin = Admin::start().await;
    let (status, config) = admin.get("/admin/v1/config").await;
    assert_eq!(status, 200);
    let text = config.to_string();
    assert!(!text.contains("open-sesame") && !text.contains("hunter2"), "{text}");
    for (pointer, expected) in [
        ("/listen/admin_token", json!("***")),
        ("/listen/http", json!("0.0.0.0:8080")),
        ("/listen/max_body", json!("64MiB")),
        ("/listen/max_connection_age", json!("10m")),
        ("/features/l1/capacity", json!("100MiB")),
        ("/capacity/slots", json!(10)),
        ("/tiers/0/queue_timeout", json!("50ms")),
        ("/pools/0/endpoints/0/grpc", json!("http://gpu:9001")),
        ("/pools/0/retry/budget", json!(0.2)),
        ("/models/0/features/0/join/user_id", json!("user_id")),
        ("/models/0/inputs/columns", json!(["amount", "user_stats:txn_count_1h"])),
        ("/models/0/explainer/pool", json!("explainers")),
        ("/models/1/features", json!([])),
        ("/features/l2/redis/0", json!("redis://***@redis:6379")),
        ("/features/views/0/entities/user_id", json!("INT64")),
        ("/features/views/0/features/0", json!({"name": "txn_count_1h", "type": "INT64", "default": 7})),
        ("/notices/0", json!("pools.gpu.hedge: not acted on yet")),
    ] {
        assert_eq!(config.pointer(pointer), Some(&expected), "{pointer} in {config:#}");
    }
}

#[tokio::test]
async fn sections_show_what_is_configured_beside_what_is() {
    let admin = Admin::start().await;
    for section in ["models", "pools", "tiers", "features"] {
        let (status, body) = admin.get(&format!("/admin/v1/{section}")).await;
        assert_eq!((status, &body["state"]["about"]), (200, &json!(section)));
        assert!(!body["configured"].is_null());
    }
}

#[tokio::test]
async fn draining_is_for_operators() {
    let admin = Admin::start().await;
    let drain = || admin.ask(Method::POST, "/admin/v1/drain");
    assert_eq!(answer(drain()).await, (202, json!({"draining": true})));
    let (status, body) = answer(drain().header("origin", "https://evil.example")).await;
    assert_eq!((status, admin.drains.load(SeqCst)), (403, 1));
    assert!(body["error"].as_str().unwrap().contains("Bearer"), "{body}");
    let with_token = drain().header("origin", "https://evil.example").bearer_auth("open-sesame");
    assert_eq!(answer(with_token).await.0, 202);
    assert_eq!(admin.drains.load(SeqCst), 2);
}

#[tokio::test]
async fn serving_ends_when_it_is_told_to() {
    let mut admin = Admin::start().await;
    assert_eq!(admin.get("/livez").await.0, 200);
    admin.stop.send(()).unwrap();
    assert!(admin.served.join_next().await.unwrap().unwrap().is_ok());
    assert!(admin.client.get(format!("http://{}/livez", admin.address)).send().await.is_err());
}

#[tokio::test]
async fn what_is_kept_is_dropped_by_operators() {
    let admin = Admin::start().await;
    let ask = |body: &'static str| admin.ask(Method::POST, "/admin/v1/invalidate").body(body);
    assert_eq!(answer(ask(r#"{"model":"fraud"}"#)).await, (200, json!({"model": "fraud"})));
    assert_eq!(answer(ask(r#"{"model":"x"}"#)).await, (404, json!({"error": "unknown x"})));
    assert_eq!(answer(ask(r#"{"view":"v"}"#)).await, (200, json!({"view": "v", "rows": 2})));
    let wrong = json!({"error": "Prefix(\"a\")"});
    assert_eq!(answer(ask(r#"{"view":"v","prefix":"a"}"#)).await, (400, wrong));
    for body in ["", "{}", r#"{"model":"fraud","view":"v"}"#] {
        let (status, told) = answer(ask(body)).await;
        assert!(status == 400 && told["error"].as_str().unwrap().contains("allowed: {\"model\""), "{body}: {told}");
    }
    let (status, _) = answer(ask(r#"{"model":"fraud"}"#).header("origin", "https://evil.example")).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn a_listing_of_what_is_kept_says_what_it_may_be_asked() {
    let admin = Admin::start().await;
    for query in ["", "?limit=1", "?limit=10000&state=parked"] {
        assert_eq!(admin.get(&format!("/admin/v1/spool{query}")).await.0, 200, "{query}");
    }
    let allowed = "allowed: a whole number from 1 to 10000";
    for (query, told) in [
        ("limit=x", format!("limit: \"x\"; {allowed}")),
        ("limit=0", format!("limit: \"0\"; {allowed}")),
        ("limit=10001", format!("limit: \"10001\"; {allowed}")),
        ("limit=-1", format!("limit: \"-1\"; {allowed}")),
        ("state=lost", "state: no such state \"lost\"; allowed: waiting, running, done, parked".to_owned()),
    ] {
        assert_eq!(admin.get(&format!("/admin/v1/spool?{query}")).await, (400, json!({"error": told})), "{query}");
    }
    let (status, told) = admin.get("/admin/v1/spool?stat=parked").await;
    let told = told["error"].as_str().unwrap();
    assert!(status == 400 && told.contains("unknown field `stat`, expected `state` or `limit`"), "{told}");
}

#[tokio::test]
async fn the_webhook_is_for_whoever_knows_its_secret() {
    let admin = Admin::start().await;
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    let deliver = |secret: &str, id: &'static str, body: Vec<u8>| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        let signed = [id.as_bytes(), b".", seconds.as_bytes(), b".", &body].concat();
        let tag = aws_lc_rs::hmac::sign(&key, &signed);
        let signature = format!("v1,{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, tag));
        let post = admin.ask(Method::POST, "/admin/v1/webhooks/mlflow").header("origin", "https://evil.example");
        let post = post.header("x-mlflow-delivery-id", id).header("x-mlflow-timestamp", &seconds);
        answer(post.header("x-mlflow-signature", signature).body(body))
    };
    let promotion = || {
        br#"{"entity": "model_version_alias", "action": "created", "data": {"name": "lite", "alias": "a", "version": "2"}}"#.to_vec()
    };
    let told = json!({"registered_model": "lite", "predictions": {"dropped": [], "not kept": ["lite"]}});
    assert_eq!(deliver("s3cret", "a", promotion()).await, (200, told));
    assert_eq!(deliver("s3cret", "a", promotion()).await, (200, json!({"ignored": "this delivery came before"})));
    let (status, told) = deliver("secret", "b", promotion()).await;
    assert!(status == 401 && told["error"].as_str().unwrap().starts_with("not signed with mlflow.secret"), "{told}");
    assert_eq!(deliver("s3cret", "c", b"{}".to_vec()).await.0, 400);
    assert_eq!(deliver("s3cret", "d", vec![b' '; 65 << 10]).await.0, 413);
    assert_eq!(admin.get("/admin/v1/webhooks/mlflow").await.0, 405);
}
