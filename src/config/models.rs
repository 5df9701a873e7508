//! Models: where they run, what is joined to their requests, what they are sent.

use std::{sync::Arc, time::Duration};

use super::{Ensemble, Fallback, PredictionCache};
use crate::infer::{Datatype, ModelId, PoolId, TierId, ViewId};

/// A model: what it is called, where it runs, what it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: Arc<str>,
    pub(crate) tier: TierId,
    /// An ensemble's is its first member's.
    pub(crate) pool: PoolId,
    /// The name at the pool.
    pub(crate) upstream: Arc<str>,
    /// The name in MLflow's registry.
    pub(crate) registered: Arc<str>,
    /// The deadline where the caller gives none (default 5 s), and the longest a caller may ask for.
    pub(crate) timeout: Duration,
    /// Whether asking twice changes nothing.
    pub(crate) idempotent: bool,
    /// Joined views; empty: the body is forwarded byte for byte.
    pub(crate) joins: Vec<Join>,
    /// What the model receives; `None` where nothing is joined.
    pub(crate) inputs: Option<Inputs>,
    pub(crate) explainer: Option<PoolId>,
    pub(crate) fallback: Option<Fallback>,
    pub(crate) cache: Option<PredictionCache>,
    pub(crate) ensemble: Option<Ensemble>,
    /// Whether what cannot be answered is queued although the caller did not ask for it.
    pub(crate) queue_on_reject: bool,
    /// Whether it makes room for others where its pool's GPU memory is short.
    pub(crate) low_priority: bool,
}

/// One view joined to a model's requests.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) view: ViewId,
    /// What `inputs.columns` calls the view: its name, or its alias in a service.
    pub(crate) label: Arc<str>,
    /// For each of the view's join keys, in the view's (sorted) order: the tensor, instance key or parameter that carries it. A
    /// view without entities may have none.
    pub(crate) sources: Vec<Arc<str>>,
    /// Positions in the view's features, in the order selected.
    pub(crate) select: Vec<usize>,
    /// Left out at level 1.
    pub(crate) optional: bool,
}

/// What a model with joins receives.
#[derive(Clone, Debug)]
pub(crate) enum Inputs {
    /// One tensor, a row an instance; list features take as many columns as they are long.
    Matrix {
        /// The tensor's name.
        name: Arc<str>,
        /// Its element type; every column is converted to it.
        datatype: Datatype,
        /// What each column holds.
        columns: Vec<Column>,
    },
    /// One tensor a feature, beside the request's own tensors.
    Columns {
        /// In the order they are appended. Request columns in it are entity tensors to keep.
        columns: Vec<NamedColumn>,
    },
}

/// Where a column's values come from.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// A tensor (V2), instance key (V1) or parameter of the request.
    Request(Arc<str>),
    /// A joined feature.
    Feature {
        /// Position in the model's `joins`.
        join: usize,
        /// Position in that join's `select`.
        select: usize,
    },
}

/// A column and the tensor name it is sent under.
#[derive(Clone, Debug)]
pub(crate) struct NamedColumn {
    pub(crate) name: Arc<str>,
    pub(crate) column: Column,
}

impl Model {
    /// Whether its requests are read as far as joins need; an ensemble's, because its answer is written here.
    pub(crate) const fn is_decoded(&self) -> bool {
        !self.joins.is_empty() || self.ensemble.is_some()
    }

    /// The models that answer together for it; empty: it answers by itself.
    pub(crate) fn members(&self) -> &[ModelId] {
        self.ensemble.as_ref().map_or(&[], |ensemble| &ensemble.members)
    }

    /// Whether its requests are held whole, so that something else can answer them.
    pub(crate) const fn is_held_whole(&self) -> bool {
        self.fallback.is_some() || self.cache.is_some() || self.ensemble.is_some()
    }
}
