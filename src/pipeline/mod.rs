//! The one path: every inference request walks the stages in this order and no other.
//!
//! Decisions go down in the [`Plan`], facts come up as return values; no stage calls an earlier one. Each stage takes the type
//! that the one before it hands on, so the compiler keeps the order.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;

use crate::{
    admission::{Door, Permit, Slot, Ticket},
    config::Config,
    enrich::{self, Enricher},
    features,
    infer::{
        Answer, AnswerBody, Cause, Decoded, Degradation, Error, InferRequest, Kind, Level, Method, Plan, PoolId,
        Protocol, Source, Timings, Verdict, headers::JSON_LENGTH,
    },
    ladder::{Ladder, Settled},
    predict::{Predict, Prediction},
    telemetry::handles::path::{PathHandles, Stage},
};

mod stand_in;

/// How a held body is decoded: the decoders are the wire's.
pub(crate) type Decode = fn(&InferRequest, u64) -> Result<Decoded, Error>;

/// How a walk went, and what it found on the way.
struct Walked {
    outcome: Result<Answer, Error>,
    /// For a way down that asks no model.
    features: features::FeatureSet,
}

impl Walked {
    fn without_features(error: Error) -> Self {
        Self { outcome: Err(error), features: features::FeatureSet::default() }
    }
}

/// A request that may have to walk more than once.
struct Descent {
    request: Box<InferRequest>,
    again: Box<InferRequest>,
}

/// The stages, built from one config snapshot.
pub struct Pipeline {
    /// The snapshot.
    pub(crate) config: Arc<Config>,
    /// 0: decides.
    pub(crate) ladder: Ladder,
    /// 1 and 5: the door, and the slots behind it.
    pub(crate) admission: Door,
    /// 2: rows.
    pub(crate) features: Arc<features::Store>,
    /// 3: rows into tensors.
    pub(crate) enricher: Enricher,
    /// 6: asks the model.
    pub(crate) predict: Arc<Predict>,
    /// Reads a held body as far as joins, rules and defaults need.
    pub(crate) decode: Decode,
    /// What each stage takes.
    pub(crate) handles: Arc<PathHandles>,
}

impl Pipeline {
    /// Answers an inference request.
    ///
    /// # Errors
    ///
    /// What the caller is told when no level could answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives back its slot and cancels upstream.
    pub async fn infer(&self, request: Box<InferRequest>) -> Result<Answer, Error> {
        let (model, method) = (request.model, request.method);
        let outcome = self.walk(request).await;
        if method == Method::Predict && passed_over(&outcome) {
            self.admission.passed_over(model, Instant::now());
        }
        outcome
    }

    async fn walk(&self, request: Box<InferRequest>) -> Result<Answer, Error> {
        let now = Instant::now();
        let plan = self.ladder.plan(&request, now)?;
        if self.ladder.has_ways_down(&plan, request.method)
            && let Some(again) = request.again()
        {
            // Boxed: who has nothing below the model does not carry the room for it.
            return Box::pin(self.descend(Descent { request, again }, plan, now)).await;
        }
        let Walked { outcome, .. } = self.compute(request, &plan, now).await;
        self.ladder.conclude(&plan, outcome)
    }

    /// Walks, and as long as nobody answers walks again one way down.
    async fn descend(&self, descent: Descent, mut plan: Plan, began: Instant) -> Result<Answer, Error> {
        let Descent { request, again } = descent;
        let (mut next, mut found) = (Some(request), None);
        let mut now = began;
        loop {
            let walked = match (plan.source, next.take().or_else(|| again.again())) {
                (Source::Model, Some(request)) => self.compute(request, &plan, now).await,
                _ => self.stand_in(&again, found.take(), &plan).await,
            };
            now = Instant::now();
            let walked_of = plan.model;
            plan = match self.ladder.settle(&plan, walked.outcome, now) {
                Settled::Answer(answer) => return Ok(answer),
                Settled::Error(error) => return Err(error),
                Settled::Next(next) => next,
            };
            if walked_of == plan.named {
                found = Some(walked.features);
            }
        }
    }

    async fn compute(&self, request: Box<InferRequest>, plan: &Plan, began: Instant) -> Walked {
        let ticket = match self.admission.enter(&request, plan, began) {
            Ok(ticket) => ticket,
            Err(error) => return Walked::without_features(error),
        };
        let mut features = match self.features.fetch(&request, plan).await {
            Ok(features) => features,
            Err(error) => return Walked::without_features(error),
        };
        let outcome = self.ask(request, &mut features, (ticket, plan), began).await;
        Walked { outcome, features }
    }

    async fn ask(
        &self,
        request: Box<InferRequest>,
        features: &mut features::FeatureSet,
        (ticket, plan): (Ticket, &Plan),
        began: Instant,
    ) -> Result<Answer, Error> {
        // Where nothing is joined, no time passed.
        let joined = features.rows().is_some();
        let now = || if joined { Instant::now() } else { began };
        let fetched = now();
        let (protocol, method) = (request.protocol, request.method);
        let enriched = self.enricher.enrich(request, features, plan)?;
        let enriched_at = now();
        let mut permit = ticket.slot(enriched_at).await?;
        let queued_until = permit.waited_until().unwrap_or(enriched_at);
        let (home, pool) = self.place(&mut permit, plan, (protocol, queued_until));
        let moved = self.moved(plan, pool);
        let plan = moved.as_ref().unwrap_or(plan);
        permit.count_at(pool, queued_until)?;
        let outcome = self.predict.run(enriched, Some(permit), plan, home, queued_until).await;
        self.learn((plan, method), &outcome, queued_until);
        let mut prediction = outcome?;
        let timings = Timings { queue: queued_until - enriched_at, features: fetched - began, model: prediction.took };
        self.observe(&timings, enriched_at - fetched, features);
        self.rename_back(protocol, &mut prediction, plan);
        let degraded = match prediction.verdict {
            Verdict::Good => features.take_degraded(),
            // A rule may answer instead, from the same rows.
            Verdict::Failed => features.degraded().to_vec(),
        };
        Ok(Answer {
            status: prediction.status,
            headers: prediction.headers,
            body: prediction.body,
            trailers: prediction.trailers,
            verdict: prediction.verdict,
            level: features.level(),
            degraded,
            caches: features.caches().to_vec(),
            timings,
        })
    }

    /// The pool whose work it is, and the one that does it: another where that has failed over. The work is the burst pool's for a
    /// request that is beyond what its tier has reserved, unless nobody can be asked there.
    fn place(&self, permit: &mut Permit, plan: &Plan, (protocol, now): (Protocol, Instant)) -> (PoolId, PoolId) {
        let placed = |home: PoolId| (home, self.predict.able(home, protocol, now));
        let burst = self.ladder.burst(plan).filter(|_| permit.slot() == Slot::Borrowed).map(placed);
        let burst = burst.filter(|(_, pool)| permit.fits(*pool) && self.predict.may_ask(*pool, protocol, now));
        burst.unwrap_or_else(|| placed(plan.pool))
    }

    /// The plan under the policy of the pool that is asked; `None`: it is.
    fn moved(&self, plan: &Plan, pool: PoolId) -> Option<Plan> {
        (pool != plan.pool).then(|| self.ladder.moved(plan, pool))
    }

    /// Tells the door how it went: what the pool took, without the waits between attempts.
    fn learn(&self, (plan, method): (&Plan, Method), outcome: &Result<Prediction, Error>, began: Instant) {
        match outcome {
            Ok(Prediction { answered_in: Some(alone), took, .. }) => {
                self.admission.answered(plan, method, *alone, began + *took);
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(waited) = error.waited() {
                    self.admission.given_up(plan, waited, Instant::now());
                }
                if error.kind() == Kind::Shed {
                    self.admission.limited(plan, Instant::now());
                }
            }
        }
    }

    /// Forwards what is no inference (metadata, readiness, statistics, streams): no slot, no features, the same attempts.
    ///
    /// # Errors
    ///
    /// As [`Predict::run`].
    pub async fn forward(&self, request: Box<InferRequest>) -> Result<Answer, Error> {
        let now = Instant::now();
        let plan = self.ladder.plan(&request, now)?;
        let protocol = request.protocol;
        let enriched = self.enricher.enrich(request, &features::FeatureSet::default(), &plan)?;
        let home = plan.pool;
        let moved = self.moved(&plan, self.predict.able(home, protocol, now));
        let plan = moved.unwrap_or(plan);
        let mut prediction = self.predict.run(enriched, None, &plan, home, now).await?;
        let timings = Timings { model: prediction.took, ..Timings::default() };
        self.rename_back(protocol, &mut prediction, &plan);
        Ok(Answer {
            status: prediction.status,
            headers: prediction.headers,
            body: prediction.body,
            trailers: prediction.trailers,
            verdict: prediction.verdict,
            level: Level::Full,
            degraded: Vec::new(),
            caches: Vec::new(),
            timings,
        })
    }

    fn observe(&self, timings: &Timings, enriching: std::time::Duration, features: &features::FeatureSet) {
        self.handles.stage(Stage::Admission, timings.queue);
        self.handles.stage(Stage::Predict, timings.model);
        if features.rows().is_some() {
            self.handles.stage(Stage::Features, timings.features);
            self.handles.stage(Stage::Enrich, enriching);
        }
    }

    /// Longer bodies than are held pass with the upstream's own name.
    fn rename_back(&self, protocol: Protocol, prediction: &mut Prediction, plan: &Plan) {
        let model = self.config.model(plan.model);
        if model.name == model.upstream {
            return;
        }
        let Prediction { headers, body, .. } = prediction;
        let AnswerBody::Whole(bytes) = body else { return };
        let (named, length) = (std::mem::take(bytes), json_length(headers));
        let (renamed, length) = enrich::rename::answer(protocol, named, &model.upstream, &model.name, length);
        *bytes = renamed;
        if let Some(length) = length {
            headers.insert(JSON_LENGTH, http::HeaderValue::from(length as u64));
        }
    }
}

/// Whether something else than the model answered, or nobody, where neither its door refused the request nor its time was taken:
/// both have been counted.
fn passed_over(outcome: &Result<Answer, Error>) -> bool {
    match outcome {
        Ok(answer) => {
            let mut causes = answer.degraded.iter().filter_map(Degradation::instead_of_model);
            causes.any(|cause| !matches!(cause, Cause::Shed | Cause::Timeout))
        }
        Err(error) => matches!(error.kind(), Kind::Unavailable | Kind::BackendFailed),
    }
}

fn json_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(JSON_LENGTH)?.to_str().ok()?.parse().ok()
}
