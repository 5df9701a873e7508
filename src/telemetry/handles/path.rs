//! What one walk of the path counts: requests, answers by level, durations by model and by stage.

use std::{sync::OnceLock, time::Duration};

use http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};

use crate::{
    infer::{Level, ModelId, Protocol},
    telemetry::names,
};

/// The label of a model that the config does not have.
pub const OTHER: &str = "other";

/// Statuses whose counters are kept once they were used; another one costs a lookup.
const COMMON: [u16; 15] = [200, 202, 400, 401, 403, 404, 405, 413, 429, 499, 500, 501, 502, 503, 504];

const PROTOCOLS: [Protocol; 4] = [Protocol::V1, Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc];

/// A part of the path whose duration is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for a slot.
    Admission,
    /// Looking features up.
    Features,
    /// Rows into tensors.
    Enrich,
    /// All attempts.
    Predict,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Admission, Self::Features, Self::Enrich, Self::Predict];

    const fn name(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Features => "features",
            Self::Enrich => "enrich",
            Self::Predict => "predict",
        }
    }
}

/// The handles of the whole path.
pub struct PathHandles {
    models: Box<[ModelHandles]>,
    other: ModelHandles,
    stages: [Histogram; 4],
}

impl PathHandles {
    /// Handles for the models of a snapshot, in its order.
    pub fn new<'a>(models: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            models: models.into_iter().map(ModelHandles::new).collect(),
            other: ModelHandles::new(OTHER),
            stages: Stage::ALL.map(|stage| histogram!(names::STAGE_DURATION, "stage" => stage.name())),
        }
    }

    /// A model's handles; `None`: the request named a model that the config does not have.
    #[must_use]
    pub fn model(&self, model: Option<ModelId>) -> &ModelHandles {
        model.and_then(|model| self.models.get(model.index())).unwrap_or(&self.other)
    }

    /// Records what one stage took.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages[stage as usize].record(took);
    }
}

/// One model's handles.
pub struct ModelHandles {
    name: String,
    requests: [[OnceLock<Counter>; COMMON.len()]; PROTOCOLS.len()],
    answers: [Counter; Level::ALL.len()],
    duration: Histogram,
    added: Histogram,
}

impl ModelHandles {
    fn new(model: &str) -> Self {
        let name = model.to_owned();
        Self {
            requests: Default::default(),
            answers: Level::ALL.map(|level| counter!(names::ANSWERS, "model" => name.clone(), "level" => level.name())),
            duration: histogram!(names::REQUEST_DURATION, "model" => name.clone()),
            added: histogram!(names::ADDED_LATENCY, "model" => name.clone()),
            name,
        }
    }

    /// Counts a request that ended with `status`.
    pub fn request(&self, protocol: Protocol, status: StatusCode) {
        match COMMON.iter().position(|common| *common == status.as_u16()) {
            Some(common) => self.requests[protocol as usize][common]
                .get_or_init(|| self.request_counter(protocol, status))
                .increment(1),
            None => self.request_counter(protocol, status).increment(1),
        }
    }

    /// Counts an answer at `level`.
    pub fn answered(&self, level: Level) {
        self.answers[level as usize].increment(1);
    }

    /// Records what the request took, however it ended.
    pub fn took(&self, whole: Duration) {
        self.duration.record(whole);
    }

    /// Records what of an answered request was not the model's.
    pub fn added(&self, whole: Duration, at_the_model: Duration) {
        self.added.record(whole.saturating_sub(at_the_model));
    }

    fn request_counter(&self, protocol: Protocol, status: StatusCode) -> Counter {
        counter!(
            names::REQUESTS,
            "model" => self.name.clone(),
            "protocol" => protocol.name(),
            "status" => status.as_u16().to_string()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn requests_are_told_apart_by_model_protocol_and_status() {
        // Rare statuses resolve their counter at the update, so updates happen under the recorder as well.
        let ((), scrape) = scratch(|| {
            let handles = PathHandles::new(["fraud"]);
            handles.model(Some(ModelId(0))).request(Protocol::V2Json, StatusCode::OK);
            handles.model(Some(ModelId(0))).request(Protocol::V2Json, StatusCode::OK);
            handles.model(Some(ModelId(0))).request(Protocol::Grpc, StatusCode::IM_A_TEAPOT);
            handles.model(None).request(Protocol::V1, StatusCode::NOT_FOUND);
            handles.model(Some(ModelId(7))).answered(Level::ReducedFeatures);
            handles.model(Some(ModelId(0))).took(Duration::from_millis(3));
            handles.model(Some(ModelId(0))).added(Duration::from_millis(3), Duration::from_millis(2));
            handles.stage(Stage::Enrich, Duration::from_micros(4));
        });
        let text = scrape.render();
        for expected in [
            r#"weir_requests_total{model="fraud",protocol="v2_json",status="200"} 2"#,
            r#"weir_requests_total{model="fraud",protocol="grpc",status="418"} 1"#,
            r#"weir_requests_total{model="other",protocol="v1",status="404"} 1"#,
            r#"weir_answers_total{model="other",level="reduced_features"} 1"#,
            r#"weir_answers_total{model="fraud",level="full"} 0"#,
            r#"weir_request_duration_seconds_sum{model="fraud"} 0.003"#,
            r#"weir_added_latency_seconds_sum{model="fraud"} 0.001"#,
            r#"weir_stage_duration_seconds_bucket{stage="enrich",le="0.000005"} 1"#,
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\nin\n{text}");
        }
    }

    #[test]
    fn arrays_are_in_the_order_of_their_enums() {
        for (position, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, position);
        }
        for (position, protocol) in PROTOCOLS.into_iter().enumerate() {
            assert_eq!(protocol as usize, position);
        }
        for (position, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(level as usize, position);
        }
    }
}
