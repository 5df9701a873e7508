//! How service is lowered: when the ladder moves, and what a model has below its full answer.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::{Breaker, Redis, Upstream};
use crate::infer::{ModelId, Output, Rule, outputs::Combine};

/// When and how standing levels move.
#[derive(Clone, Debug)]
pub(crate) struct Ladder {
    pub(crate) mode: LadderMode,
    /// P99 of feature lookups over which stale rows are allowed.
    pub(crate) feature_p99: Duration,
    /// Share of GPU memory over which low-priority models fall back.
    pub(crate) gpu_memory: f64,
    /// How long a trigger lasts before it acts.
    pub(crate) enter_after: Duration,
    /// How long it is quiet before it stops acting.
    pub(crate) exit_after: Duration,
}

/// Whether the ladder acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LadderMode {
    /// It does.
    Act,
    /// It tells what it would do.
    Observe,
}

/// What answers when the model does not, in this order.
#[derive(Clone, Debug)]
pub(crate) struct Fallback {
    /// A simpler model. Validated: going from one to the next leads to an end.
    pub(crate) model: Option<ModelId>,
    /// A CEL expression, evaluated once a row; it fills the first output of `default`.
    pub(crate) rule: Option<Rule>,
    /// Share of the deadline kept for the fallback.
    pub(crate) reserve: f64,
    /// What is answered for one row when nothing else can; empty: nothing is.
    pub(crate) default: Vec<Output>,
}

/// How a model's predictions are kept.
#[derive(Clone, Debug)]
pub(crate) struct PredictionCache {
    /// How long one answers the same request.
    pub(crate) ttl: Duration,
    /// How long it may answer at level 3; at least `ttl`.
    pub(crate) keep_for: Duration,
    /// Which input names the entity.
    pub(crate) entity: Option<Arc<str>>,
    /// Request headers that answers depend on, beside those that are always told apart.
    pub(crate) headers: Vec<HeaderName>,
}

/// Where predictions are kept.
#[derive(Clone, Debug)]
pub(crate) struct Predictions {
    /// Bytes in this process.
    pub(crate) capacity: u64,
    /// Where gateways share them; `None`: each keeps its own.
    pub(crate) l2: Option<SharedPredictions>,
}

/// The Redis of the features, for predictions.
#[derive(Clone, Debug)]
pub(crate) struct SharedPredictions {
    pub(crate) redis: Redis,
    /// When it is not asked for a while.
    pub(crate) breaker: Breaker,
    /// The Feast project.
    pub(crate) project: Arc<str>,
}

/// Models that answer together.
#[derive(Clone, Debug)]
pub(crate) struct Ensemble {
    /// At least one, none an ensemble itself.
    pub(crate) members: Vec<ModelId>,
    /// A weight a member, all positive; equal ones where the file has none.
    pub(crate) weights: Vec<f64>,
    pub(crate) combine: Combine,
}

/// Where a pool's GPU memory is read.
#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    /// The metrics page's server.
    pub(crate) server: Upstream,
    /// Its path.
    pub(crate) path: Arc<str>,
    /// How often it is read.
    pub(crate) interval: Duration,
}
