//! What an endpoint's breaker tells when it moves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    config,
    resilience::breaker::{self, Breaker, Transition},
    telemetry::handles::breaker::BreakerHandles,
};

/// A breaker's transitions, told while the endpoint is its pool's.
pub(super) struct Transitions {
    pub(in crate::predict) metrics: BreakerHandles,
    retired: AtomicBool,
}

impl Transitions {
    pub(super) fn new(endpoint: &Arc<str>, pool: &Arc<str>) -> Self {
        let metrics = BreakerHandles::new(&format!("{pool}/{endpoint}"));
        Self { metrics, retired: AtomicBool::new(false) }
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    fn tell(&self, transition: Transition) {
        if !self.is_retired() {
            self.metrics.tell(transition);
        }
    }
}

/// The endpoint's breaker; its transitions are logged and counted.
pub(super) fn guard(transitions: &Arc<Transitions>, policy: &config::Breaker) -> Arc<Breaker> {
    let transitions = transitions.clone();
    Breaker::new(breaker::Policy::from(policy), move |transition| transitions.tell(transition))
}
