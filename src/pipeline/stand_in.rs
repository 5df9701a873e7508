//! Answers that no model gives: a rule's, one that was kept, the model's default outputs.
//!
//! Nothing here is asked of anybody else: it costs no slot and takes no time that a model would miss. A body that was only held
//! is decoded now, since its rows give the answer its shape.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{Pipeline, Walked};
use crate::{
    features::FeatureSet,
    infer::{
        Answer, Cause, Decoded, Degradation, Error, InferRequest, Kind, Level, Output, Payload, Plan, Protocol, Source,
        headers::JSON_LENGTH,
        outputs::{self, Head, RequestedOutputs, Written},
    },
};

impl Pipeline {
    /// The plan's answer, from `found`, what an earlier walk joined for the model named.
    pub(super) async fn stand_in(&self, request: &InferRequest, found: Option<FeatureSet>, plan: &Plan) -> Walked {
        match plan.source {
            Source::Rule => self.by_rule(request, found, plan).await,
            Source::Cached => self.recall(request, found, plan).await,
            Source::Default => {
                let outcome = self.default_outputs(request, plan);
                Walked { outcome, features: found }
            }
            Source::Model => {
                Walked::without_features(Error::new(Kind::Internal, "a model does not stand in for itself"))
            }
        }
    }

    /// Evaluates the rule. Where no walk joined anything for the model named, its features are looked up now.
    async fn by_rule(&self, request: &InferRequest, found: Option<FeatureSet>, plan: &Plan) -> Walked {
        let fetched = match found {
            Some(features) => Ok(features),
            None => self.features.fetch(request, plan).await,
        };
        let mut features = match fetched {
            Ok(features) => features,
            Err(error) => return Walked::without_features(error),
        };
        let outcome = self.ruled(request, &mut features, plan);
        Walked { outcome, features: Some(features) }
    }

    fn ruled(&self, request: &InferRequest, features: &mut FeatureSet, plan: &Plan) -> Result<Answer, Error> {
        let none = || Error::new(Kind::Unavailable, "there is no rule");
        let rule = self.enricher.rule(plan.named).ok_or_else(none)?;
        let fallback = self.config.model(plan.named).fallback.as_ref();
        let (first, others) = fallback.and_then(|fallback| fallback.default.split_first()).ok_or_else(none)?;
        let decoded = self.decoded(request)?;
        let rows = self.rows(&decoded, plan)?;
        let mut outputs = vec![rule.fill(&decoded, features, rows, first)?];
        for other in others {
            outputs.push(other.batched(rows)?);
        }
        let mut answer = self.written((request, &decoded), &outputs, plan)?;
        answer.level = answer.level.max(features.level());
        answer.degraded = features.take_degraded();
        answer.degraded.push(Degradation::Rule { cause: plan.cause.unwrap_or(Cause::Failed) });
        answer.caches = features.caches().to_vec();
        Ok(answer)
    }

    fn default_outputs(&self, request: &InferRequest, plan: &Plan) -> Result<Answer, Error> {
        let decoded = self.decoded(request)?;
        let rows = self.rows(&decoded, plan)?;
        let fallback = self.config.model(plan.named).fallback.as_ref();
        let configured = fallback.map_or(&[][..], |fallback| &fallback.default);
        let outputs = configured.iter().map(|output| output.batched(rows)).collect::<Result<Vec<_>, _>>()?;
        let mut answer = self.written((request, &decoded), &outputs, plan)?;
        let cause = plan.cause.unwrap_or(Cause::Unavailable);
        answer.degraded.push(Degradation::Outputs { cause });
        Ok(answer)
    }

    /// The body as far as rows and rules need it.
    pub(super) fn decoded(&self, request: &InferRequest) -> Result<Arc<Decoded>, Error> {
        match &request.payload {
            Payload::Decoded(decoded) => Ok(Arc::clone(decoded)),
            Payload::Retained(_) | Payload::Stream { .. } => {
                (self.decode)(request, self.config.listen.max_body).map(Arc::new)
            }
        }
    }

    /// How many rows the answer has.
    fn rows(&self, decoded: &Decoded, plan: &Plan) -> Result<usize, Error> {
        let joins = &self.config.model(plan.named).joins;
        let sources: Vec<&str> = joins.iter().flat_map(|join| &join.sources).map(|source| &**source).collect();
        decoded.rows(&sources)
    }

    /// Outputs as the answer to a request.
    pub(super) fn written(
        &self,
        (request, decoded): (&InferRequest, &Decoded),
        outputs: &[Output],
        plan: &Plan,
    ) -> Result<Answer, Error> {
        let asked = RequestedOutputs::of(decoded);
        let model = &*self.config.model(plan.named).name;
        let head = Head { model, version: request.version.as_deref(), asked: &asked };
        let written = outputs::write(request.protocol, &asked.select(outputs)?, &head)?;
        Ok(answer(written, request.protocol, plan.answered_at()))
    }
}

fn answer(written: Written, protocol: Protocol, level: Level) -> Answer {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(written.content_type));
    if let Some(length) = written.json_length {
        headers.insert(JSON_LENGTH, HeaderValue::from(length as u64));
    }
    let status =
        || HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    Answer {
        trailers: (protocol == Protocol::Grpc).then(status),
        level,
        ..Answer::whole(StatusCode::OK, headers, written.body)
    }
}
