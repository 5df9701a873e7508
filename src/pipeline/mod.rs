//! The one path: every inference request walks the stages in this order and no other.
//!
//! Decisions go down in the [`Plan`], facts come up as return values; no stage calls an earlier one. Each stage takes the type
//! that the one before it hands on, so the compiler keeps the order.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, header};
use tokio::time::Instant;

use crate::{
    admission::{Door, Permit, Slot, Ticket},
    config::Config,
    enrich::{self, Enriched, Enricher},
    features,
    infer::{
        Answer, AnswerBody, Asker, Cause, Decoded, Degradation, Error, InferRequest, Kind, Level, Method, Payload,
        Plan, PoolId, Protocol, Reduced, Source, Timings, Verdict, headers::JSON_LENGTH, may_have_acted,
    },
    ladder::{Ladder, Settled},
    predict::{Predict, Prediction},
    predictions::{HIT, Predictions},
    telemetry::handles::path::{PathHandles, Stage},
};

pub(crate) mod ensemble;
mod kept;
mod postpone;
mod stand_in;

use ensemble::Ensembles;
pub(crate) use postpone::may_wait;

pub(crate) use crate::predictions::Told;

/// How a held body is decoded: the decoders are the wire's.
pub(crate) type Decode = fn(&InferRequest, u64) -> Result<Decoded, Error>;

/// What is told of a request that was answered at level 3, by no drill, so that it can be asked again when its model is well. Of a model that must
/// not act twice only of those on which it cannot have acted.
pub(crate) type Log = Box<dyn Fn(&Config, &InferRequest) + Send + Sync>;

/// When to come back to a gateway that holds as many bytes as it may.
const NO_ROOM: Duration = Duration::from_secs(1);
/// The same for who wants an answer from all features or none, while they cannot be read.
const NO_FEATURES: Duration = Duration::from_secs(5);

/// How a walk went, and what it found on the way.
struct Walked {
    outcome: Result<Answer, Error>,
    /// For a way down that asks no model; `None`: it did not come to look.
    features: Option<features::FeatureSet>,
}

impl Walked {
    fn without_features(error: Error) -> Self {
        Self { outcome: Err(error), features: None }
    }
}

/// A request about to ask its model.
struct Reach {
    enriched: Enriched,
    /// `None`: the door is still to be passed.
    ticket: Option<Ticket>,
    /// What the way took so far.
    timings: Timings,
    enriched_at: Instant,
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
    /// 4: answers what was asked before.
    pub(crate) predictions: Arc<Predictions>,
    /// Models that answer together.
    pub(crate) ensembles: Ensembles,
    /// 6: asks the model.
    pub(crate) predict: Arc<Predict>,
    /// Reads a held body as far as joins, rules and defaults need.
    pub(crate) decode: Decode,
    /// Hears of answers at level 3.
    pub(crate) log: Arc<Log>,
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
        let outcome = self.answer(request).await;
        if method == Method::Predict && passed_over(&outcome) {
            self.admission.passed_over(model, Instant::now());
        }
        outcome
    }

    async fn answer(&self, request: Box<InferRequest>) -> Result<Answer, Error> {
        let now = Instant::now();
        let plan = self.ladder.plan(&request, now)?;
        let has_ways_down = self.ladder.has_ways_down(&plan, request.method);
        let again = if has_ways_down { request.again() } else { None };
        match &again {
            Some(_) if !self.asks_in_person(&plan) => return Box::pin(self.descend(request, plan, None, now)).await,
            Some(_) => {}
            None => self.can_pass(&request, &plan)?,
        }
        let walked = self.compute(request, &plan, now).await;
        match again {
            // Boxed: who need not go down does not carry the room for it.
            Some(again) if !is_good(&walked.outcome) => {
                Box::pin(self.descend(again, plan, Some(walked), Instant::now())).await
            }
            _ => self.ladder.conclude(&plan, walked.outcome),
        }
    }

    /// Whether the first to be asked is the model named, and it alone.
    fn asks_in_person(&self, plan: &Plan) -> bool {
        plan.source == Source::Model && plan.model == plan.named && !self.ensembles.has(plan.model)
    }

    /// Whether a body that passes but once serves the plan: a model that reads none of it is asked.
    fn can_pass(&self, request: &InferRequest, plan: &Plan) -> Result<(), Error> {
        let is_read = plan.source != Source::Model
            || (plan.model != plan.named && !self.config.model(plan.model).joins.is_empty());
        if is_read && matches!(request.payload, Payload::Stream { .. }) {
            let message = "the model stands lower, and what stands in for it must read the body, for which the requests under way \
                           leave no room (listen.hold_bodies); try again";
            return Err(Error::new(Kind::Shed, message).with_retry_after(NO_ROOM));
        }
        Ok(())
    }

    /// Answers an inference request that was kept for later, in full or not at all: nothing stands in for its model, nor for its features.
    ///
    /// # Errors
    ///
    /// What the caller is told; `Unavailable` where its model stands lower or its features cannot be read: neither has asked the model.
    ///
    /// # Cancel safety
    ///
    /// As [`Pipeline::infer`].
    pub(crate) async fn infer_in_full(&self, request: Box<InferRequest>) -> Result<Answer, Error> {
        let now = Instant::now();
        let plan = Plan { reduced: Reduced::Refused, ..self.ladder.plan(&request, now)? };
        if plan.level > Level::Full || plan.source != Source::Model || plan.model != plan.named {
            return Err(Error::new(Kind::Unavailable, "the model stands at a lower level"));
        }
        let plan = Plan { asker: Asker::Spool, ..plan };
        let Walked { outcome, .. } = self.walk(request, &plan, now).await;
        self.ladder.conclude(&plan, outcome)
    }

    /// As long as nobody answers walks again, one way down from the last walk; from the plan's, where none was made.
    async fn descend(
        &self,
        request: Box<InferRequest>,
        mut plan: Plan,
        mut last: Option<Walked>,
        mut now: Instant,
    ) -> Result<Answer, Error> {
        let (mut found, mut first, mut acted) = (None, None, false);
        loop {
            let walked = match (last.take(), plan.source) {
                (Some(walked), _) => walked,
                (None, Source::Model) => self.by_model(request.again(), &plan, now).await,
                (None, Source::Rule | Source::Cached | Source::Default) => {
                    self.stand_in(&request, found.take(), &plan).await
                }
            };
            now = Instant::now();
            acted |= plan.source == Source::Model && plan.model == plan.named && may_have_acted(&walked.outcome);
            let walked_of = plan.model;
            plan = match self.ladder.settle(&plan, walked.outcome, &mut first, now) {
                Settled::Answer(answer) => {
                    // A model that may have acted is not asked by us to act again; nor one that is well for what a drill answered.
                    let may_ask = self.config.model(request.model).idempotent || !acted;
                    if answer.level == Level::DefaultResponse && plan.cause != Some(Cause::Drill) && may_ask {
                        (self.log)(&self.config, &request);
                    }
                    return Ok(answer);
                }
                Settled::Error(error) => return Err(error),
                Settled::Next(next) => next,
            };
            if walked_of == plan.named {
                found = walked.features;
            }
        }
    }

    /// One walk of a request that may be one down: a simpler model may join what the one named does not, which has left the body
    /// unread.
    async fn by_model(&self, request: Option<Box<InferRequest>>, plan: &Plan, began: Instant) -> Walked {
        let Some(mut request) = request else {
            return Walked::without_features(Error::new(
                Kind::Internal,
                "a body that passes but once cannot be sent again",
            ));
        };
        let joins = !self.config.model(plan.model).joins.is_empty();
        if joins && !matches!(request.payload, Payload::Decoded(_)) {
            match self.decoded(&request) {
                Ok(decoded) => request.payload = Payload::Decoded(decoded),
                Err(error) => return Walked::without_features(error),
            }
            // It was read, and is sent as it reads.
            let headers = Arc::make_mut(&mut request.headers);
            headers.remove(header::CONTENT_ENCODING);
            headers.remove("grpc-encoding");
        }
        self.walk(request, plan, began).await
    }

    async fn compute(&self, request: Box<InferRequest>, plan: &Plan, began: Instant) -> Walked {
        // A kept prediction needs no slot: whether its tier has one is asked once there is none.
        let may_be_kept = self.predictions.are_kept(plan.model) && request.method == Method::Predict;
        let ticket = if may_be_kept { Ok(None) } else { self.admission.enter(&request, plan, began).map(Some) };
        let ticket = match ticket {
            Ok(ticket) => ticket,
            Err(error) => return Walked::without_features(error),
        };
        let mut features = match self.features.fetch(&request, plan).await {
            Ok(features) => features,
            Err(error) => return Walked::without_features(error),
        };
        let outcome = self.ask(request, &mut features, (ticket, plan), began).await;
        Walked { outcome, features: Some(features) }
    }

    async fn ask(
        &self,
        request: Box<InferRequest>,
        features: &mut features::FeatureSet,
        (ticket, plan): (Option<Ticket>, &Plan),
        began: Instant,
    ) -> Result<Answer, Error> {
        if plan.reduced == Reduced::Refused && features.level() > Level::Full {
            return Err(lacking(features));
        }
        // Where nothing is joined, no time passed.
        let joined = features.rows().is_some();
        let now = || if joined { Instant::now() } else { began };
        let fetched = now();
        let cached = self.predictions.are_kept(plan.model).then(|| self.original(&request, plan));
        let enriched = self.enricher.enrich(request, features, plan)?;
        let enriched_at = now();
        let timings = Timings { features: fetched - began, ..Timings::default() };
        let reach = Reach { enriched, ticket, timings, enriched_at };
        if features.rows().is_some() {
            self.handles.stage(Stage::Features, timings.features);
            self.handles.stage(Stage::Enrich, enriched_at - fetched);
        }
        let question = if cached.is_some() { self.predictions.question(&reach.enriched, plan) } else { None };
        let Some(question) = question else { return self.reach(reach, features, plan).await };
        if let Some(told) = self.predictions.at_hand(&question) {
            return Ok(kept::recalled(told, HIT, features, timings));
        }
        // Boxed: who has no cache, and who finds it there, does not carry the room for it.
        Box::pin(self.reach_or_recall(reach, (question, cached.flatten()), features, plan)).await
    }

    /// Asks the model, once there is a slot.
    async fn reach(&self, reach: Reach, features: &mut features::FeatureSet, plan: &Plan) -> Result<Answer, Error> {
        let Reach { enriched, ticket, timings, enriched_at } = reach;
        let (protocol, method) = (enriched.request.protocol, enriched.request.method);
        let ticket = match ticket {
            Some(ticket) => ticket,
            None => self.admission.enter(&enriched.request, plan, enriched_at)?,
        };
        let mut permit = ticket.slot(enriched_at).await?;
        let queued_until = permit.waited_until().unwrap_or(enriched_at);
        let (home, pool) = self.place(&mut permit, plan, (protocol, queued_until));
        let moved = self.moved(plan, pool);
        let plan = moved.as_ref().unwrap_or(plan);
        permit.count_at(pool, queued_until)?;
        let outcome = self.predict.run(enriched, Some(permit), plan, home, queued_until).await;
        self.learn((plan, method), &outcome, queued_until);
        let mut prediction = outcome?;
        let timings = Timings { queue: queued_until - enriched_at, model: prediction.took, ..timings };
        self.handles.stage(Stage::Admission, timings.queue);
        self.handles.stage(Stage::Predict, timings.model);
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
        let (model, named) = (self.config.model(plan.model), self.config.model(plan.named));
        rename(protocol, (&mut prediction.headers, &mut prediction.body), (&model.name, &named.name));
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

    /// Who stands in for the model named answers under that one's name. What is kept of its answers was kept before, under its own.
    fn name_as_asked(&self, protocol: Protocol, outcome: &mut Result<Answer, Error>, plan: &Plan) {
        if plan.model != plan.named
            && let Ok(answer) = outcome
        {
            let (model, named) = (self.config.model(plan.model), self.config.model(plan.named));
            rename(protocol, (&mut answer.headers, &mut answer.body), (&model.name, &named.name));
        }
    }

    /// Longer bodies than are held pass with the upstream's own name.
    fn rename_back(&self, protocol: Protocol, prediction: &mut Prediction, plan: &Plan) {
        let model = self.config.model(plan.model);
        rename(protocol, (&mut prediction.headers, &mut prediction.body), (&model.upstream, &model.name));
    }
}

/// That a model which is asked in full or not at all is not asked.
fn lacking(features: &features::FeatureSet) -> Error {
    let level = features.level();
    let message =
        format!("its features are there at level {} ({level}) only, and it is asked with all of them", level.digit());
    Error::new(Kind::Unavailable, message).with_retry_after(NO_FEATURES)
}

/// Gives an answer that is held another model's name.
fn rename(protocol: Protocol, (headers, body): (&mut HeaderMap, &mut AnswerBody), (from, to): (&str, &str)) {
    if from == to {
        return;
    }
    let AnswerBody::Whole(bytes) = body else { return };
    let (named, length) = (std::mem::take(bytes), json_length(headers));
    let (renamed, length) = enrich::rename::answer(protocol, named, from, to, length);
    *bytes = renamed;
    if let Some(length) = length {
        headers.insert(JSON_LENGTH, http::HeaderValue::from(length as u64));
    }
}

const fn is_good(outcome: &Result<Answer, Error>) -> bool {
    matches!(outcome, Ok(Answer { verdict: Verdict::Good, .. }))
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
