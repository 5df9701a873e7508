//! What the prediction cache counts.

use metrics::{Counter, Gauge, counter, gauge};

use crate::{
    infer::{CachedOf, ModelId},
    telemetry::names,
};

/// Where a prediction was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// This process.
    L1,
    /// Redis.
    L2,
}

/// What a look for a prediction found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Hit,
    Miss,
    /// The layer could not be asked, or did not answer in time.
    Error,
}

/// What became of a model's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Kept,
    Degraded,
    Forbidden,
    Id,
    Malformed,
}

const LAYERS: [&str; 2] = ["l1", "l2"];
const OUTCOMES: [&str; 3] = ["hit", "miss", "error"];
const KEEPINGS: [&str; 5] = ["kept", "degraded", "forbidden", "id", "malformed"];
const OF: [&str; 2] = ["request", "entity"];

/// Everything the stage counts.
pub(crate) struct PredictionsHandles {
    /// `None`: nothing is kept of the model.
    models: Box<[Option<ModelHandles>]>,
    bytes: Gauge,
    entries: Gauge,
}

struct ModelHandles {
    lookups: [[Counter; OUTCOMES.len()]; LAYERS.len()],
    kept: [Counter; KEEPINGS.len()],
    stand_ins: [Counter; OF.len()],
    coalesced: Counter,
    dropped: Counter,
}

impl PredictionsHandles {
    /// For the models of a snapshot, in its order, each with whether its predictions are kept.
    pub(crate) fn new<'a>(models: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        Self {
            models: models.into_iter().map(|(name, kept)| kept.then(|| ModelHandles::new(name))).collect(),
            bytes: gauge!(names::PREDICTIONS_BYTES),
            entries: gauge!(names::PREDICTIONS_ENTRIES),
        }
    }

    fn of(&self, model: ModelId) -> Option<&ModelHandles> {
        self.models[model.index()].as_ref()
    }

    pub(crate) fn looked_up(&self, model: ModelId, layer: Layer, outcome: Outcome) {
        self.of(model).inspect(|model| model.lookups[layer as usize][outcome as usize].increment(1));
    }

    pub(crate) fn kept(&self, model: ModelId, keeping: Keeping) {
        self.of(model).inspect(|model| model.kept[keeping as usize].increment(1));
    }

    pub(crate) fn stood_in(&self, model: ModelId, of: CachedOf) {
        self.of(model).inspect(|model| model.stand_ins[of as usize].increment(1));
    }

    pub(crate) fn coalesced(&self, model: ModelId) {
        self.of(model).inspect(|model| model.coalesced.increment(1));
    }

    pub(crate) fn dropped(&self, model: ModelId) {
        self.of(model).inspect(|model| model.dropped.increment(1));
    }

    /// Sets what is a level rather than a count.
    pub(crate) fn gauge(&self, bytes: u64, entries: u64) {
        self.bytes.set(bytes as f64);
        self.entries.set(entries as f64);
    }
}

impl ModelHandles {
    fn new(model: &str) -> Self {
        let name = model.to_owned();
        let lookup = |layer: &'static str| {
            OUTCOMES.map(|outcome| {
                counter!(names::PREDICTION_LOOKUPS, "model" => name.clone(), "layer" => layer, "outcome" => outcome)
            })
        };
        Self {
            lookups: LAYERS.map(lookup),
            kept: KEEPINGS
                .map(|outcome| counter!(names::PREDICTIONS_KEPT, "model" => name.clone(), "outcome" => outcome)),
            stand_ins: OF.map(|of| counter!(names::PREDICTION_STAND_INS, "model" => name.clone(), "of" => of)),
            coalesced: counter!(names::PREDICTIONS_COALESCED, "model" => name.clone()),
            dropped: counter!(names::PREDICTIONS_DROPPED, "model" => name.clone()),
        }
    }
}
