//! The gateway itself, as the demo sees it: the only file here that knows how Weir is put together.

use std::{path::Path, time::SystemTime};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::{
    data,
    settings::{self, Listen},
};
use crate::{
    app::App,
    config::Config,
    features::{
        Row,
        lookup::{self, Location, Patience, Target},
    },
    infer::EntityKey,
};

/// The running gateway.
pub(super) struct Gateway(App);

/// Writes the lookup files and starts Weir, both from the demo's configuration; `path` is what messages call it.
pub(super) fn start(yaml: &str, path: &Path) -> anyhow::Result<Gateway> {
    let config = Config::parse(yaml, &path.display().to_string()).context("the demo's configuration is wrong")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(write_lookup_files(&config)).context("cannot write the lookup files")?;
    Ok(Gateway(App::start(config)?))
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
    pub(super) fn addresses(&self) -> Listen {
        let addresses = self.0.addresses();
        Listen { http: addresses.http, grpc: addresses.grpc, admin: addresses.admin }
    }

    /// Serves until `shutdown`, then drains.
    pub(super) fn run_until(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.0.run_until(shutdown.cancelled_owned())
    }
}
