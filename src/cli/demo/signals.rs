//! SIGTERM and Ctrl-C as a token, from the moment that [`watch`] returns: an early Ctrl-C cleans up too.
//!
//! A thread of its own waits for them, so that the token works whatever runtime, or none, is running elsewhere.

use std::{io, sync::mpsc};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels.
pub(super) fn watch() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (report, registered) = mpsc::channel();
    let cancelled = token.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-signals".into()).spawn(move || {
        runtime.block_on(async {
            let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
            let (mut term, mut interrupt) = match signals {
                Ok(signals) => signals,
                Err(error) => return drop(report.send(Err(error))),
            };
            drop(report.send(Ok(())));
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            cancelled.cancel();
        });
    })?;
    registered.recv().map_err(io::Error::other)??;
    Ok(token)
}
