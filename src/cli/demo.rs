//! `weir demo`: the gateway with everything it needs in one process, and commands to paste.
//!
//! Sample models answer on loopback ports of their own, lookup files and the configuration are made in a temporary folder,
//! and the gateway is started from that configuration as `weir serve` would start it. What it leaves behind is nothing. It
//! is not a way to run Weir: its rows are made up.

mod data;
mod folder;
mod gateway;
mod grpc;
mod guide;
mod http;
mod model;
mod place;
mod server;
mod settings;
mod v2;

#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
};

use anyhow::Context;

use self::{folder::Folder, guide::Guide, server::Server, settings::Listen};
use crate::{cli::serve, telemetry};

/// What `weir demo` takes.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Args {
    /// Where to serve HTTP and gRPC [default: 127.0.0.1:8080, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Where to serve gRPC besides [default: 127.0.0.1:8081, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Where to serve metrics, probes and state [default: 127.0.0.1:9090, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// Runs the demo until SIGTERM or Ctrl-C.
///
/// # Errors
/// When a port or the temporary folder cannot be had, or the gateway does not become ready.
pub fn run(args: Args) -> anyhow::Result<()> {
    telemetry::log::init();
    serve::block_on(async {
        let place::Place { listen, sockets, moved } = place::choose(&args)?;
        // Before anything is made that an early Ctrl-C would leave behind.
        let mut stop = pin!(serve::stop_signal()?);
        let folder = Folder::create().context("cannot make a temporary folder")?;
        let models = Server::start().context("cannot start the sample models")?;
        let models_at = (models.http, models.grpc);
        let config = write_config(&folder, &listen, models_at)?;

        let gateway = gateway::start(&config, sockets).await?;
        let listen = gateway.addresses()?;
        tokio::select! {
            ready = place::wait_until_ready(guide::reachable(listen.admin)) => ready?,
            () = &mut stop => return Ok(()),
        }
        let guide = Guide { listen, models: models_at, folder: folder.path(), config: &config, moved };
        // A closed stdout is no reason to stop serving.
        let _ = write!(io::stdout(), "{guide}").and_then(|()| io::stdout().flush());
        gateway.run_until(stop).await;
        Ok(())
    })
}

/// Writes the configuration into the folder; returns where it is.
fn write_config(folder: &Folder, listen: &Listen, models: (SocketAddr, SocketAddr)) -> anyhow::Result<PathBuf> {
    let lookup = folder.path().join("lookup");
    let lookup = lookup.to_str().context("the temporary folder's path is not UTF-8")?;
    let config = folder.path().join("weir.yaml");
    fs::write(&config, settings::yaml(listen, models, lookup))
        .with_context(|| format!("cannot write {}", config.display()))?;
    Ok(config)
}
