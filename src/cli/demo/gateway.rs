//! The gateway itself, as the demo sees it: the only file here that knows how Weir is put together.

use std::{path::Path, time::SystemTime};

use anyhow::Context;

use super::{
    data,
    settings::{self, Listen},
};
use crate::{
    app::{Addresses, App, Configured, Sockets},
    config::Config,
    features::{
        Row,
        lookup::{self, Location, Patience, Target},
    },
    infer::EntityKey,
    telemetry,
};

/// The running gateway.
pub(super) struct Gateway(App);

/// Writes the lookup files and starts Weir, both as the configuration file says.
pub(super) async fn start(config: &Path, sockets: Sockets) -> anyhow::Result<Gateway> {
    let configured = Configured::load(config).await.context("the demo's configuration is wrong")?;
    write_lookup_files(&configured.config).await.context("cannot write the lookup files")?;
    Ok(Gateway(App::start_on(sockets, configured, telemetry::install()?).await?))
}

async fn write_lookup_files(config: &Config) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = i64::try_from(now.as_nanos()).context("the clock is after the year 2262")?;
    write_view(config, settings::USER_STATS, data::users(now)).await?;
    write_view(config, settings::MERCHANT_STATS, data::merchants(now)).await
}

async fn write_view(config: &Config, name: &str, rows: impl Iterator<Item = (EntityKey, Row)>) -> anyhow::Result<()> {
    let features = &config.features;
    let view = features.views.iter().find(|view| &*view.name == name).context("the view is not configured")?;
    let l3 = features.l3.as_ref().context("no l3 is configured")?;
    let to = Location::open(&l3.url, Patience::COMMAND)?;
    lookup::write(Target { to: &to, project: &features.project, view, source: "weir demo" }, rows).await?;
    Ok(())
}

impl Gateway {
    /// Where it listens, with real ports.
    pub(super) fn addresses(&self) -> anyhow::Result<Listen> {
        let Addresses { http, grpc, admin } = self.0.addresses();
        Ok(Listen { http, grpc: grpc.context("the demo's configuration has a gRPC port")?, admin })
    }

    /// Serves until `stop`, then drains.
    pub(super) async fn run_until(self, stop: impl Future<Output = ()>) {
        self.0.run_until(stop).await;
    }
}
