//! The gateway itself, as the demo sees it: the only file here that knows how Weir is put together.

use std::{net::SocketAddr, path::Path, sync::mpsc, thread, time::SystemTime};

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
    telemetry,
};

/// The running gateway: its control thread.
pub(super) struct Gateway {
    listen: Listen,
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

/// Writes the lookup files and starts Weir, both from the demo's configuration; `path` is what messages call it. It serves
/// until `shutdown`.
pub(super) fn start(yaml: &str, path: &Path, shutdown: CancellationToken) -> anyhow::Result<Gateway> {
    let config = Config::parse(yaml, &path.display().to_string()).context("the demo's configuration is wrong")?;
    let scrape = telemetry::install()?;
    let (started, listening) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("gateway".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            write_lookup_files(&config).await.context("cannot write the lookup files")?;
            let app = App::start(config, scrape).await?;
            // Whoever started this waits for the addresses, or for the thread's error.
            let _ = started.send(app.addresses());
            app.run_until(shutdown.cancelled_owned()).await;
            Ok(())
        })
    })?;
    let Ok(addresses) = listening.recv() else {
        let ended = thread.join().map_err(|_| anyhow::anyhow!("the gateway's thread ended in a panic"))?;
        return Err(ended.err().unwrap_or_else(|| anyhow::anyhow!("the gateway ended before it began")));
    };
    let grpc: SocketAddr = addresses.grpc.context("the demo's gateway has a gRPC port of its own")?;
    Ok(Gateway { listen: Listen { http: addresses.http, grpc, admin: addresses.admin }, thread })
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
        self.listen
    }

    /// Waits until it has drained.
    pub(super) fn wait(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow::anyhow!("the gateway's thread ended in a panic"))?
    }
}
