//! `weir serve`: runs the gateway until it is told to stop.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::{Addresses, App, Configured},
    telemetry,
};

/// Serves with the config at `path` until SIGTERM or SIGINT, then drains.
///
/// # Errors
///
/// A config with problems (all of them are told), an address that cannot be bound.
pub fn run(path: &Path) -> anyhow::Result<()> {
    telemetry::log::init();
    block_on(async {
        let stop = stop_signal()?;
        let configured = Configured::load(path).await?;
        for notice in configured.config.notices.iter().chain(&configured.config.warnings) {
            tracing::warn!("{notice}");
        }
        let app = App::start(configured, telemetry::install()?).await?;
        announce(app.addresses())?;
        app.run_until(stop).await;
        Ok(())
    })
}

/// Runs `work` on the control thread's runtime.
///
/// # Errors
///
/// The work's own, or no runtime.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the control runtime")?.block_on(work)
}

/// Ends on SIGTERM or SIGINT. The handlers are in place when this returns.
///
/// # Errors
///
/// The handlers cannot be installed.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Says on stderr where it listens, one line a listener, for people and for scripts that asked for port 0.
fn announce(addresses: Addresses) -> io::Result<()> {
    let mut out = io::stderr().lock();
    writeln!(out, "listening http={}", addresses.http)?;
    if let Some(grpc) = addresses.grpc {
        writeln!(out, "listening grpc={grpc}")?;
    }
    writeln!(out, "listening admin={}", addresses.admin)
}
