//! Answers that no model gives: a rule's, one that was kept, the model's default outputs.

use super::{Pipeline, Walked};
use crate::{
    features::FeatureSet,
    infer::{Error, InferRequest, Kind, Plan, Source},
};

impl Pipeline {
    pub(super) async fn stand_in(&self, request: &InferRequest, features: Option<FeatureSet>, plan: &Plan) -> Walked {
        match plan.source {
            Source::Cached => self.recall(request, features, plan).await,
            Source::Model | Source::Rule | Source::Default => {
                Walked::without_features(Error::new(Kind::Unavailable, "nothing stands in"))
            }
        }
    }
}
