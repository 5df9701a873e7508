//! The breaker before the object store, for all views together: one that fails is left alone for a while, and lookups that would
//! wait for it fail at once.
//!
//! Only reads of rows pass it. Manifests are read in the background, seldom, and hold nobody up.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{
    features::{circuit::Circuit, lookup},
    resilience::breaker::{Outcome, Permit, Policy},
};

/// What the breaker's metrics call it.
const TARGET: &str = "l3";

/// The object store's.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Circuit>);

impl Guard {
    pub(super) fn new(policy: Policy) -> Self {
        Self(Arc::new(Circuit::new(TARGET, policy)))
    }

    /// Asks to read.
    ///
    /// # Errors
    ///
    /// When one may be asked for again: the breaker is open, or a probe is under way.
    pub(super) fn admit(&self) -> Result<Pass, Instant> {
        self.0.admit(Instant::now()).map(Pass)
    }

    /// Writes how long the breaker stays open.
    pub(super) fn show(&self, now: Instant) {
        self.0.show(now);
    }
}

/// An admitted read. Dropped before its end it says nothing about the store.
pub(super) struct Pass(Permit);

impl Pass {
    /// Waits for the read, no longer than `longest`; `None`: it took longer.
    pub(super) async fn watch<T, E>(
        self,
        read: impl Future<Output = Result<Result<T, lookup::Error>, E>>,
        longest: Duration,
    ) -> Option<Result<Result<T, lookup::Error>, E>> {
        let read = timeout(longest, read).await.ok();
        let outcome = match &read {
            Some(Ok(Err(error))) if !has_answered(error) => Outcome::Failure,
            Some(Ok(_)) => Outcome::Success,
            Some(Err(_)) => Outcome::Neutral,
            None => Outcome::Failure,
        };
        self.0.record(outcome, Instant::now());
        read
    }
}

/// Whether the store did what it could, and the fault lies with a file or the config.
fn has_answered(error: &lookup::Error) -> bool {
    use object_store::Error::{NotFound, PermissionDenied, Precondition, Unauthenticated};
    match error {
        lookup::Error::Store(
            NotFound { .. } | PermissionDenied { .. } | Unauthenticated { .. } | Precondition { .. },
        ) => true,
        lookup::Error::Store(_) | lookup::Error::Cut { .. } => false,
        lookup::Error::Temporary(_) | lookup::Error::Damaged { .. } | lookup::Error::Mismatch(_) => true,
    }
}
