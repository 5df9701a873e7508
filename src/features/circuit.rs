//! The breaker before one of the store's servers, with what is shown of it: transitions logged and counted, its state, the time left.
//!
//! One that refuses says until when, so that a caller who gets no rows is told when it is worth coming back. Dropped, its target is
//! none any more, and its series say so.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{
    resilience::breaker::{Breaker, Permit, Policy},
    telemetry::handles::breaker::BreakerHandles,
};

/// A server's, or the object store's.
pub(super) struct Circuit {
    breaker: Arc<Breaker>,
    metrics: Arc<BreakerHandles>,
}

impl Circuit {
    /// Closed; `target` is what its metrics and the log call it.
    pub(super) fn new(target: &str, policy: Policy) -> Self {
        let metrics = Arc::new(BreakerHandles::new(target));
        let told = Arc::clone(&metrics);
        let breaker = Breaker::new(policy, move |transition| told.tell(transition));
        Self { breaker, metrics }
    }

    /// Asks to make a call.
    ///
    /// # Errors
    ///
    /// When the next one may be made: at once, if that is up to a probe that is under way.
    pub(super) fn admit(&self, now: Instant) -> Result<Permit, Instant> {
        self.breaker.admit(now).map_err(|refused| refused.until.unwrap_or(now))
    }

    /// Whether a call would be admitted now.
    pub(super) fn would_admit(&self, now: Instant) -> bool {
        self.breaker.would_admit(now)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Something else found the target well: if it is open, the next call is its probe.
    pub(super) fn probe_from(&self, now: Instant) {
        self.breaker.probe_from(now);
    }

    /// Whether it is open, and not yet to be probed.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        !self.breaker.time_left(now).is_zero()
    }

    /// Writes how long it stays open; to be called before each scrape.
    pub(super) fn show(&self, now: Instant) {
        self.metrics.time_left(self.breaker.time_left(now));
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Circuit").field(&self.breaker.state()).finish()
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.metrics.gone();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{resilience::breaker::Outcome, telemetry::scratch};

    #[test]
    fn an_open_one_says_how_long_it_is_and_one_that_is_gone_nothing() {
        let (policy, now) = (Policy::default(), Instant::now());
        let (circuit, scrape) = scratch(|| Circuit::new("l3", policy));
        let shows = |seconds: u32| {
            let line = format!("weir_breaker_open_seconds{{target=\"l3\"}} {seconds}\n");
            assert!(scrape.render().contains(&line), "{line}: {}", scrape.render());
        };
        shows(0);
        (0..policy.failure_threshold).for_each(|_| circuit.admit(now).ok().unwrap().record(Outcome::Failure, now));
        shows(30);
        circuit.show(now + Duration::from_secs(10));
        shows(20);
        let until = now + policy.open_for;
        assert_eq!(circuit.admit(now).err(), Some(until), "it says when to come back");
        let probe = circuit.admit(until).ok().unwrap();
        shows(0);
        assert_eq!(circuit.admit(until).err(), Some(until), "a probe is under way: nobody knows until when");
        probe.record(Outcome::Failure, until);
        shows(30);
        drop(circuit);
        assert!(!scrape.render().contains("weir_breaker_open_seconds{"), "{}", scrape.render());
    }
}
