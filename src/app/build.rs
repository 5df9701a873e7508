//! Puts the stages together.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Tasks, hot, invalidate, levels, pools, readiness::Readiness, rows::Rows};
use crate::{
    admin,
    admission::{self, Door},
    config::Config,
    enrich::Enricher,
    features,
    ingress::{decode, feast, hold::Holds, later, record::Records, service::Gateway},
    ladder::Ladder,
    pipeline::{Pipeline, ensemble::Ensembles},
    predict::Predict,
    predictions::Predictions,
    promotions::Promotions,
    proto,
    spool::Spool,
    telemetry::{Scrape, access, handles::path::PathHandles},
};

/// The gateway for one config snapshot.
pub(super) async fn gateway<H>(
    config: Arc<Config>,
    tasks: &Tasks,
    readiness: Readiness,
    health: tonic_health::pb::health_server::HealthServer<H>,
) -> anyhow::Result<Gateway>
where
    H: tonic_health::pb::health_server::Health,
{
    let store = features::Store::open(&config, tasks.clone()).await.context("cannot open the feature store")?;
    let spool = Arc::new(Spool::open(&config.spool).with_context(|| unopened(config.spool.store.file()))?);
    let handles = Arc::new(PathHandles::new(config.models.iter().map(|model| &*model.name)));
    let pipeline = Pipeline {
        ladder: Ladder::new(&config),
        admission: Door::new(&config).context("tiers")?,
        features: Arc::new(store),
        enricher: Enricher::new(&config),
        predictions: Arc::new(
            Predictions::new(&config, tasks.clone(), Instant::now()).context("cannot share predictions")?,
        ),
        ensembles: Ensembles::new(&config, Instant::now()),
        predict: Arc::new(Predict::new(&config, tasks.clone(), Instant::now())),
        decode: decode::held,
        log: Arc::new(later::logging(&spool)),
        handles: handles.clone(),
        config: config.clone(),
    };
    Ok(Gateway {
        pipeline,
        spool,
        holds: Arc::new(Holds::new(config.listen.hold_bodies)),
        records: Records::new(&config, handles, access::Log::from_env().context("cannot open the access log")?),
        feast: feast::Server::new(&config),
        services: services(health)?,
        readiness: Arc::new(move || readiness.is_ready()),
    })
}

/// The gateway for what Feast's registry has made of the config. Only views and what refers to them differ: the door, the pools with
/// their breakers and connections, the stores' connections and the logs are those of `gateway`.
pub(super) async fn next(gateway: &Gateway, config: Arc<Config>) -> Gateway {
    let pipeline = &gateway.pipeline;
    let pipeline = Pipeline {
        ladder: pipeline.ladder.next(&config),
        admission: pipeline.admission.clone(),
        features: Arc::new(pipeline.features.next(&config).await),
        enricher: Enricher::new(&config),
        predictions: Arc::clone(&pipeline.predictions),
        ensembles: Ensembles::new(&config, Instant::now()),
        predict: Arc::clone(&pipeline.predict),
        decode: pipeline.decode,
        log: Arc::clone(&pipeline.log),
        handles: Arc::clone(&pipeline.handles),
        config: config.clone(),
    };
    Gateway {
        pipeline,
        holds: Arc::clone(&gateway.holds),
        records: gateway.records.next(&config),
        feast: gateway.feast.next(&config),
        spool: Arc::clone(&gateway.spool),
        services: gateway.services.clone(),
        readiness: Arc::clone(&gateway.readiness),
    }
}

/// gRPC health and reflection, both versions of the latter.
fn services<H>(health: tonic_health::pb::health_server::HealthServer<H>) -> anyhow::Result<tonic::service::Routes>
where
    H: tonic_health::pb::health_server::Health,
{
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::inference::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = tonic::service::Routes::new(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.prepare())
}

/// What the admin port shows.
pub(super) fn admin(
    readiness: Readiness,
    scrape: Scrape,
    drain: CancellationToken,
    gateway: &Arc<ArcSwap<Gateway>>,
    (rows, promotions): (Rows, Arc<Promotions>),
) -> axum::Router {
    let (config, tiers) = (gateway.clone(), gateway.clone());
    let (shown, regions) = (gateway.clone(), gateway.clone());
    let (levels, drilled, models) = (gateway.clone(), gateway.clone(), gateway.clone());
    let (kept, stored, heeded) = (gateway.clone(), gateway.clone(), gateway.clone());
    let rows = Arc::new(rows);
    admin::router(admin::Sources {
        config: Box::new(move || config.load_full().pipeline.config.clone()),
        scrape,
        readiness: Box::new(readiness),
        models: Box::new(move || levels::states(&models.load_full().pipeline)),
        pools: Box::new(move || pools::states(&shown.load_full().pipeline.predict)),
        region: Box::new(move |name| pools::region(&regions.load_full().pipeline.predict, name)),
        tiers: Box::new(move || tier_states(&tiers.load_full().pipeline.admission)),
        promotions,
        features: Box::new(move || {
            let (rows, gateway) = (Arc::clone(&rows), stored.load_full());
            Box::pin(async move { rows.states(&gateway).await })
        }),
        hot_keys: Box::new(move || hot::states(&heeded.load_full().pipeline.features)),
        spool: Arc::clone(&gateway.load_full().spool),
        levels: Box::new(move || levels::states(&levels.load_full().pipeline)),
        drill: Box::new(move |model, level, time| levels::drill(&drilled.load_full().pipeline, model, level, time)),
        invalidate: Box::new(move |said| {
            let gateway = kept.load_full();
            Box::pin(async move { invalidate::invalidate(&gateway.pipeline, said).await })
        }),
        drain: Box::new(move || drain.cancel()),
    })
}

/// The key that says where the spool is.
fn unopened(file: Option<&Path>) -> String {
    file.map_or_else(
        || "cannot open the spool".to_owned(),
        |file| format!("spool.path: {} cannot be opened", file.display()),
    )
}

fn tier_states(door: &Door) -> serde_json::Value {
    let state = |tier: admission::TierState<'_>| {
        let now = serde_json::json!({
            "slots": tier.slots,
            "reserved": tier.reserved,
            "in_use": tier.in_use,
            "borrowed": tier.borrowed,
            "waiting": tier.waiting,
            "mean_wait_seconds": tier.mean_wait.map(|wait| wait.as_secs_f64()),
        });
        (tier.name.to_owned(), now)
    };
    door.tiers().map(state).collect::<serde_json::Map<_, _>>().into()
}
