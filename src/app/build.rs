//! Puts the stages together.

use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Tasks, readiness::Readiness};
use crate::{
    admission::Door,
    config::Config,
    enrich::Enricher,
    features,
    ingress::record::Records,
    ingress::service::Gateway,
    ladder::Ladder,
    pipeline::Pipeline,
    predict::Predict,
    proto,
    telemetry::{access, handles::path::PathHandles},
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
    let handles = Arc::new(PathHandles::new(config.models.iter().map(|model| &*model.name)));
    let pipeline = Pipeline {
        ladder: Ladder::new(&config),
        admission: Door::new(&config).context("tiers")?,
        features: Arc::new(store),
        enricher: Enricher::new(&config),
        predict: Arc::new(Predict::new(&config, tasks.clone(), Instant::now())),
        handles: handles.clone(),
        config: config.clone(),
    };
    Ok(Gateway {
        pipeline,
        records: Records::new(&config, handles, access::Log::from_env().context("cannot open the access log")?),
        services: services(health)?,
        readiness: Arc::new(move || readiness.is_ready()),
    })
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
