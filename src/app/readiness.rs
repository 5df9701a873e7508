//! Whether this gateway can do its work: L2 answered, and an endpoint of every pool.
//!
//! Asked once in a while by a task, so that probes cost nothing and cannot pile up on a slow store.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    admin,
    ingress::{rpc, service::Gateway},
};

/// How often it is looked at while something is missing, and while nothing is.
const WHILE_MISSING: Duration = Duration::from_millis(100);
const WHILE_READY: Duration = Duration::from_secs(1);

/// What is missing, as of the last look.
#[derive(Clone)]
pub(crate) struct Readiness(Arc<State>);

struct State {
    missing: ArcSwap<Vec<String>>,
    ready: AtomicBool,
    draining: AtomicBool,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        let missing = vec!["starting".to_owned()];
        Self(Arc::new(State {
            missing: ArcSwap::from_pointee(missing),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }))
    }

    /// Whether nothing is missing.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// What is missing, in words.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.0.missing.load_full().to_vec()
    }

    /// From now on not ready: the process is to end.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.set(vec!["draining".to_owned()]);
    }

    /// Looks for ever; tells `grpc.health.v1` and the log when it changes.
    pub(crate) async fn watch(self, gateway: Arc<ArcSwap<Gateway>>, health: HealthReporter) {
        let mut before = None;
        loop {
            let gateway = gateway.load_full();
            let mut missing = gateway.pipeline.predict.missing();
            if let Err(reason) = gateway.pipeline.features.ready().await {
                missing.push(reason);
            }
            if self.0.draining.load(Ordering::Relaxed) {
                missing = vec!["draining".to_owned()];
            }
            let ready = missing.is_empty();
            self.set(missing);
            if before != Some(ready) {
                before = Some(ready);
                tell(&health, ready, &self.missing()).await;
            }
            tokio::time::sleep(if ready { WHILE_READY } else { WHILE_MISSING }).await;
        }
    }

    fn set(&self, missing: Vec<String>) {
        self.0.ready.store(missing.is_empty(), Ordering::Relaxed);
        self.0.missing.store(Arc::new(missing));
    }
}

impl admin::Readiness for Readiness {
    fn missing(&self) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>> {
        Box::pin(std::future::ready(Self::missing(self)))
    }
}

async fn tell(health: &HealthReporter, ready: bool, missing: &[String]) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", rpc::SERVICE] {
        health.set_service_status(service, status).await;
    }
    if ready {
        tracing::info!("ready");
    } else {
        tracing::warn!(missing = missing.join("; "), "not ready");
    }
}
