//! The admin port: what a kubelet, a scraper and an operator ask.
//!
//! `/metrics`, `/livez` and `/readyz` are for anyone, since scrapes and probes come from outside the pod, and so is MLflow's webhook, which
//! a signature guards; the rest is for
//! loopback or the bearer of the admin token (`access`). It shows what others keep, through closures that whoever composes
//! the process hands in, so it names no stage. It is not on the path of requests.

mod access;
mod describe;
mod invalidate;
mod levels;
mod spool;
mod webhooks;

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub use self::invalidate::{Invalidate, Invalidation, Refusal, Which};
use crate::{config::Config, infer::Level, promotions::Promotions, spool::Spool, telemetry::Scrape};

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Tells what keeps the gateway from taking requests.
pub trait Readiness: Send + Sync {
    /// One line a thing that is missing; empty: ready. It should answer from what is known, not go and ask.
    fn missing(&self) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>>;
}

/// A part's state as JSON, at the moment of asking.
pub type Section = Box<dyn Fn() -> Value + Send + Sync>;

/// The same, of one that has to ask somebody.
pub type Asking = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync>;

/// Holds a model at a level for a while: how it stands then, or `None` where there is no such model.
pub type Drill = Box<dyn Fn(&str, Level, Duration) -> Option<Value> + Send + Sync>;

/// Whether a region's pools have enough healthy endpoints, as failover by DNS asks.
pub enum Region {
    /// All have.
    Ready,
    /// What is not, a line a pool.
    Missing(Vec<String>),
    /// There is no such region; these there are.
    Unknown(Vec<String>),
}

/// What the admin port shows and sets off.
pub struct Sources {
    /// The config snapshot in force.
    pub config: Box<dyn Fn() -> Arc<Config> + Send + Sync>,
    /// The metrics.
    pub scrape: Scrape,
    /// Whether requests may come.
    pub readiness: Box<dyn Readiness>,
    /// Beside `/admin/v1/models`.
    pub models: Section,
    /// Beside `/admin/v1/pools`.
    pub pools: Section,
    /// Whether a region's pools could do their work.
    pub region: Box<dyn Fn(&str) -> Region + Send + Sync>,
    /// Beside `/admin/v1/tiers`.
    pub tiers: Section,
    /// Beside `/admin/v1/features`.
    pub features: Asking,
    /// Beside `/admin/v1/hot-keys`; `null`: nobody looks for any.
    pub hot_keys: Section,
    /// Where models stand: `/admin/v1/levels`.
    pub levels: Section,
    /// Beside `/admin/v1/levels`.
    pub drill: Drill,
    /// Drops what is kept.
    pub invalidate: Invalidate,
    /// What MLflow's webhook tells of.
    pub(crate) promotions: Arc<Promotions>,
    /// Requests kept for later.
    pub(crate) spool: Arc<Spool>,
    /// Begins to drain the process; returns at once, may be called again.
    pub drain: Box<dyn Fn() + Send + Sync>,
}

/// All routes of the admin port.
pub fn router(sources: Sources) -> Router {
    let sources = Arc::new(sources);
    let operator = Router::new()
        .route("/admin/v1/config", get(config))
        .route("/admin/v1/models", get(models))
        .route("/admin/v1/pools", get(pools))
        .route("/admin/v1/tiers", get(tiers))
        .route("/admin/v1/features", get(features))
        .route("/admin/v1/hot-keys", get(hot_keys))
        .route("/admin/v1/levels", get(levels::shown))
        .route("/admin/v1/levels/{model}", post(levels::drill))
        .route("/admin/v1/invalidate", post(invalidate::invalidate))
        .route("/admin/v1/spool", get(spool::list))
        .route("/admin/v1/spool/{id}", get(spool::show).delete(spool::forget))
        .route("/admin/v1/spool/{id}/replay", post(spool::replay))
        .route("/admin/v1/drain", post(drain))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&sources), access::operators_only));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/admin/v1/webhooks/mlflow", post(webhooks::mlflow))
        .merge(operator)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(sources)
}

/// Serves the admin port until `shutdown`, then finishes what is in flight.
///
/// # Errors
///
/// The listener's own.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown).await
}

type Shared = State<Arc<Sources>>;

async fn metrics(State(sources): Shared) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], sources.scrape.render()).into_response()
}

async fn livez() -> Json<Value> {
    Json(json!({"live": true}))
}

/// What `/readyz` may be asked.
#[derive(serde::Deserialize)]
struct Asked {
    region: Option<String>,
}

async fn readyz(State(sources): Shared, Query(asked): Query<Asked>) -> Response {
    if let Some(name) = asked.region {
        return region(&name, (sources.region)(&name));
    }
    let missing = sources.readiness.missing().await;
    if missing.is_empty() {
        return Json(json!({"ready": true})).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"ready": false, "missing": missing}))).into_response()
}

fn region(name: &str, region: Region) -> Response {
    let (status, ready, missing) = match region {
        Region::Ready => (StatusCode::OK, true, None),
        Region::Missing(missing) => (StatusCode::SERVICE_UNAVAILABLE, false, Some(missing)),
        Region::Unknown(known) => {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return refuse(StatusCode::NOT_FOUND, &format!("no pool is in region {name:?}; regions: {known}"));
        }
    };
    let mut body = json!({"ready": ready, "region": name});
    if let Some(missing) = missing {
        body["missing"] = json!(missing);
    }
    (status, Json(body)).into_response()
}

async fn config(State(sources): Shared) -> Json<Value> {
    Json(describe::config(&(sources.config)()))
}

async fn models(State(sources): Shared) -> Json<Value> {
    beside(describe::models(&(sources.config)()), &sources.models)
}

async fn pools(State(sources): Shared) -> Json<Value> {
    beside(describe::pools(&(sources.config)()), &sources.pools)
}

async fn tiers(State(sources): Shared) -> Json<Value> {
    beside(describe::tiers(&(sources.config)()), &sources.tiers)
}

async fn features(State(sources): Shared) -> Json<Value> {
    let configured = describe::features(&(sources.config)());
    Json(json!({"configured": configured, "state": (sources.features)().await}))
}

async fn hot_keys(State(sources): Shared) -> Json<Value> {
    beside(describe::hot_keys(&(sources.config)()), &sources.hot_keys)
}

fn beside(configured: Value, state: &Section) -> Json<Value> {
    Json(json!({"configured": configured, "state": state()}))
}

async fn drain(State(sources): Shared) -> Response {
    (sources.drain)();
    (StatusCode::ACCEPTED, Json(json!({"draining": true}))).into_response()
}

async fn not_found() -> Response {
    refuse(
        StatusCode::NOT_FOUND,
        "no such path; there are /metrics, /livez, /readyz, /admin/v1/{config,models,pools,tiers,features,hot-keys,levels,spool,invalidate,drain,webhooks/mlflow}",
    )
}

async fn method_not_allowed() -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method, named in `allow`")
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}

#[cfg(test)]
mod tests;
