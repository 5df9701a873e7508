//! Stage 4 on the path: a request of a model whose predictions are kept, and what stands in for one at level 3.

use std::ops::ControlFlow;

use http::StatusCode;
use tokio::time::Instant;

use super::{Pipeline, Reach, Walked};
use crate::{
    enrich::Enriched,
    features::FeatureSet,
    infer::{
        Answer, AnswerBody, CacheEvent, Cause, Degradation, Error, InferRequest, Kind, Level, Payload, Plan, RawKey,
        RawRequest, Timings, Verdict,
    },
    predictions::{COLLAPSED, HIT, Lead, Look, OtherKeys, Question, StandIn, Told, Waited},
};

/// The body as it came, where a prediction is found by that too.
pub(super) type Original = Option<Payload>;

/// What became of looking for a prediction.
enum Recalled {
    /// There is one.
    Told(Told, CacheEvent, Timings),
    /// The model is to be asked.
    Miss(Reach, Lead),
}

impl Pipeline {
    /// What a request that came before byte for byte was told, where its model answers in full; else what this one can be known by later.
    pub(crate) fn told_before(&self, came: &RawRequest<'_>, began: Instant) -> ControlFlow<Told, Option<RawKey>> {
        let Some(verbatim) = self.predictions.verbatim(came) else { return ControlFlow::Continue(None) };
        let is_full = self.ladder.stands_in_full(came.model);
        let told = if is_full { self.predictions.told_before(came.model, &verbatim, began) } else { None };
        match told {
            Some(told) => ControlFlow::Break(told),
            None => ControlFlow::Continue(Some(verbatim.kept())),
        }
    }

    pub(super) fn original(&self, request: &InferRequest, plan: &Plan) -> Original {
        if self.predictions.has_other_keys(plan.model) { request.payload.again() } else { None }
    }

    /// Answers with what was asked before, else asks the model and keeps what it says.
    pub(super) async fn reach_or_recall(
        &self,
        reach: Reach,
        (question, original): (Question, Original),
        features: &mut FeatureSet,
        plan: &Plan,
    ) -> Result<Answer, Error> {
        let (mut reach, lead) = match self.recalled(reach, &question, plan).await? {
            Recalled::Told(told, event, timings) => return Ok(recalled(told, event, features, timings)),
            Recalled::Miss(reach, lead) => (reach, lead),
        };
        let others = original.and_then(|payload| self.other_keys(&mut reach.enriched, payload, plan));
        let mut outcome = self.reach(reach, features, plan).await;
        self.predictions.keep(lead, &question, &outcome, &others.unwrap_or_default());
        if let Ok(answer) = &mut outcome {
            answer.caches.push(question.missed());
        }
        outcome
    }

    /// Looks for a prediction, also for one that somebody else is about to get: the slot that the other one has serves both.
    async fn recalled(&self, mut reach: Reach, question: &Question, plan: &Plan) -> Result<Recalled, Error> {
        loop {
            let asked = match self.predictions.look(question) {
                Look::Told(told) => return Ok(Recalled::Told(told, HIT, reach.timings)),
                Look::Miss(lead) => return Ok(self.fetched(reach, lead, question, plan).await),
                Look::Asked(asked) => asked,
            };
            let waited = self.predictions.wait(asked, question, plan.model_by.instant()).await;
            reach.enriched_at = Instant::now();
            match waited {
                Some(Waited::Told(told)) => return Ok(Recalled::Told(told, COLLAPSED, reach.timings)),
                Some(Waited::Alone(lead)) => return Ok(Recalled::Miss(reach, lead)),
                Some(Waited::Gone) => {}
                None => {
                    let what = "the model had not answered another request for the same in time";
                    return Err(Error::new(Kind::DeadlineExceeded, what));
                }
            }
        }
    }

    /// Looks in L2 before the model is asked.
    async fn fetched(&self, mut reach: Reach, lead: Lead, question: &Question, plan: &Plan) -> Recalled {
        match self.predictions.fetch(lead, question, plan).await {
            Ok(told) => Recalled::Told(told, HIT, reach.timings),
            Err(lead) => {
                reach.enriched_at = Instant::now();
                Recalled::Miss(reach, lead)
            }
        }
    }

    /// What a request's prediction is kept under beside its exact key.
    fn other_keys(&self, enriched: &mut Enriched, original: Payload, plan: &Plan) -> Option<OtherKeys> {
        let request = &mut enriched.request;
        request.payload = original;
        let decoded = self.decoded(request).ok()?;
        Some(self.predictions.other_keys(plan.model, request, &decoded))
    }

    /// Level 3: a prediction that is kept, the same request's or one about the same entities.
    pub(super) async fn recall(&self, request: &InferRequest, features: Option<FeatureSet>, plan: &Plan) -> Walked {
        let mut features = match features {
            Some(features) => features,
            // Nobody looked yet, as in a drill.
            None => self.features.fetch(request, plan).await.unwrap_or_default(),
        };
        let enriched = request.again().and_then(|again| self.enricher.enrich(again, &features, plan).ok());
        let decoded = if self.predictions.has_other_keys(plan.model) { self.decoded(request).ok() } else { None };
        let bodies = (enriched.as_ref(), decoded.as_deref());
        let found = self.predictions.kept(request, bodies, features.degraded(), plan).await;
        let outcome = match found {
            Some(StandIn { told, age, of }) => {
                let mut answer = recalled(told, HIT, &mut features, Timings::default());
                let cause = plan.cause.unwrap_or(Cause::Unavailable);
                answer.degraded.push(Degradation::Cached { age, of, cause });
                answer.level = Level::DefaultResponse;
                Ok(answer)
            }
            None => Err(Error::new(Kind::Unavailable, "no prediction is kept")),
        };
        Walked { outcome, features: Some(features) }
    }
}

/// An answer made of a kept one, and of what is true of this request's features.
pub(super) fn recalled(told: Told, event: CacheEvent, features: &mut FeatureSet, timings: Timings) -> Answer {
    let mut caches = Vec::with_capacity(features.caches().len() + 1);
    caches.extend_from_slice(features.caches());
    caches.push(event);
    Answer {
        status: StatusCode::OK,
        headers: told.headers,
        body: AnswerBody::Whole(told.body),
        trailers: told.trailers,
        verdict: Verdict::Good,
        level: features.level(),
        degraded: features.take_degraded(),
        caches,
        timings,
    }
}
