//! What is heard of promotions in MLflow's registry.

use metrics::{Counter, counter};

use crate::telemetry::names;

/// What became of a webhook's delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Predictions were dropped.
    Dropped,
    /// It came before.
    Duplicate,
    /// It tells of nothing that matters here: a test, another event, another alias, a model that no model here is.
    Ignored,
    /// It is not signed with the secret.
    Unsigned,
    /// Its time is too far from now.
    Late,
    /// It is signed, and not MLflow's.
    Malformed,
}

/// What a look at a registered model came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    Unchanged,
    Changed,
    Failed,
}

const DELIVERED: [&str; 6] = ["dropped", "duplicate", "ignored", "unsigned", "late", "malformed"];
const LOOKED: [&str; 3] = ["unchanged", "changed", "failed"];

/// The counters, by outcome.
pub(crate) struct PromotionsHandles {
    deliveries: [Counter; 6],
    looks: [Counter; 3],
}

impl PromotionsHandles {
    pub(crate) fn new() -> Self {
        Self {
            deliveries: DELIVERED.map(|outcome| counter!(names::MLFLOW_DELIVERIES, "outcome" => outcome)),
            looks: LOOKED.map(|outcome| counter!(names::MLFLOW_LOOKS, "outcome" => outcome)),
        }
    }

    pub(crate) fn delivered(&self, outcome: Delivered) {
        self.deliveries[outcome as usize].increment(1);
    }

    pub(crate) fn looked(&self, outcome: Looked) {
        self.looks[outcome as usize].increment(1);
    }
}
