//! Whether this gateway can do its work: L2 answered once, and an endpoint of every pool that models run on, and L1 is warm where
//! it is to be. Which pools those are says `predict::failover`.
//!
//! ```text
//!   starting ──(L2 and an endpoint of every such pool answered, L1 is warm)──► ready ──(drain)──► draining
//! ```
//!
//! What answered once counts for good: a Redis or a pool that fails later fails for every gateway at once, and were they all
//! taken out of service for it, nobody would be left to answer with cached rows, defaults or another pool. Only a drain takes
//! readiness back. A task asks, so that probes cost nothing and cannot pile up on a slow store.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::warm;
use crate::{
    admin,
    ingress::{rpc, service::Gateway},
};

/// How often what is missing is looked for.
pub(super) const WHILE_MISSING: Duration = Duration::from_millis(100);

/// What is missing, as of the last look.
#[derive(Clone)]
pub(crate) struct Readiness(Arc<State>);

struct State {
    missing: ArcSwap<Vec<String>>,
    ready: AtomicBool,
    draining: CancellationToken,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        let missing = vec!["starting".to_owned()];
        Self(Arc::new(State {
            missing: ArcSwap::from_pointee(missing),
            ready: AtomicBool::new(false),
            draining: CancellationToken::new(),
        }))
    }

    /// Whether nothing is missing.
    pub(crate) fn is_ready(&self) -> bool {
        // Asked here and not only where it is set: no look that is under way can undo a drain.
        self.0.ready.load(Ordering::Relaxed) && !self.0.draining.is_cancelled()
    }

    /// What is missing, in words.
    pub(crate) fn missing(&self) -> Vec<String> {
        if self.0.draining.is_cancelled() {
            return vec!["draining".to_owned()];
        }
        self.0.missing.load_full().to_vec()
    }

    /// Cancelled when the process is to end.
    pub(super) fn draining(&self) -> CancellationToken {
        self.0.draining.clone()
    }

    /// From now on not ready: the process is to end.
    pub(crate) fn drain(&self) {
        self.0.draining.cancel();
    }

    /// Looks until nothing is missing, then waits for a drain; tells `grpc.health.v1` and the log when it changes.
    pub(super) async fn watch(self, gateway: Arc<ArcSwap<Gateway>>, health: HealthReporter, warm: warm::Missing) {
        tell(&health, ServingStatus::NotServing).await;
        let looking = async {
            self.look(&gateway, &warm).await;
            tell(&health, ServingStatus::Serving).await;
            tracing::info!("ready");
        };
        if self.0.draining.run_until_cancelled(looking).await.is_some() {
            self.0.draining.cancelled().await;
        }
        tell(&health, ServingStatus::NotServing).await;
    }

    async fn look(&self, gateway: &ArcSwap<Gateway>, warm: &warm::Missing) {
        let mut awaited = Awaited::default();
        let mut told = false;
        loop {
            let gateway = gateway.load_full();
            let store = if awaited.store() { gateway.pipeline.features.ready().await } else { Ok(()) };
            let mut missing = awaited.look(gateway.pipeline.predict.missing(), store);
            missing.extend(warm.words());
            let ready = missing.is_empty();
            if !ready && !told {
                told = true;
                tracing::warn!(missing = missing.join("; "), "not ready");
            }
            self.set(missing);
            if ready {
                return;
            }
            tokio::time::sleep(WHILE_MISSING).await;
        }
    }

    fn set(&self, missing: Vec<String>) {
        self.0.ready.store(missing.is_empty(), Ordering::Relaxed);
        self.0.missing.store(Arc::new(missing));
    }
}

/// What never answered yet.
#[derive(Default)]
struct Awaited {
    store_answered: bool,
    /// In the words of [`Predict::missing`](crate::predict::Predict), one a pool and always the same; `None`: not looked yet.
    pools: Option<HashSet<String>>,
}

impl Awaited {
    const fn store(&self) -> bool {
        !self.store_answered
    }

    /// What is still awaited, given what does not answer now.
    fn look(&mut self, silent: Vec<String>, store: Result<(), String>) -> Vec<String> {
        let before = self.pools.take();
        let awaited = |pool: &String| before.as_ref().is_none_or(|before| before.contains(pool));
        let mut missing: Vec<String> = silent.into_iter().filter(awaited).collect();
        self.pools = Some(missing.iter().cloned().collect());
        match store {
            Ok(()) => self.store_answered = true,
            Err(reason) if !self.store_answered => missing.push(reason),
            Err(_) => {}
        }
        missing
    }
}

impl admin::Readiness for Readiness {
    fn missing(&self) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>> {
        Box::pin(std::future::ready(Self::missing(self)))
    }
}

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for service in ["", rpc::SERVICE] {
        health.set_service_status(service, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_answered_once_is_not_awaited_again() {
        let mut awaited = Awaited::default();
        let down = || Err("redis".to_owned());
        assert_eq!(awaited.look(words(&["a", "b"]), down()), words(&["a", "b", "redis"]));
        assert_eq!(awaited.look(words(&["b"]), Ok(())), words(&["b"]));
        assert!(!awaited.store());
        // "a" and the store fail again while "b" was never there.
        assert_eq!(awaited.look(words(&["a", "b"]), down()), words(&["b"]));
        assert!(awaited.look(words(&["a"]), Ok(())).is_empty());
    }

    #[test]
    fn nothing_undoes_a_drain() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready());
        readiness.set(Vec::new());
        assert!(readiness.is_ready() && readiness.missing().is_empty());
        readiness.drain();
        readiness.set(Vec::new());
        assert!(!readiness.is_ready());
        assert_eq!(readiness.missing(), words(&["draining"]));
    }
}
