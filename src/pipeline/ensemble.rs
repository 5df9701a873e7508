//! Models that answer together: every member walks on its own, all at once, and their answers become one.
//!
//! ```text
//!             ┌─ member a ─► admission ► features ► enrich ► predict ─┐
//!   request ──┼─ member b ─► …                                        ├─► combine ─► the ensemble's answer
//!             └─ member c ─► …                                        ┘   late, shed, failed, other outputs: left out, level 2
//! ```
//!
//! The walks are polled together in the request's own task: where that ends, for whatever reason, those under way are cancelled
//! upstream. What a member says of the request itself is the answer, because its caller made the mistake. Where no member is left
//! the first one's failure is the outcome, and the ladder goes on from there.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream::FuturesUnordered};
use http::header;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::{Pipeline, Walked, json_length};
use crate::{
    config::{self, Config},
    infer::{
        Answer, AnswerBody, CacheEvent, CacheOutcome, Cause, Decoded, Degradation, Error, InferRequest, Kind, Level,
        Members, ModelId, Output, Payload, Plan, Protocol, Said, Timings, may_have_acted,
        outputs::{self, Ballot, Combine, Combined},
    },
    ladder::cause_of,
    resilience::seldom::Seldom,
    telemetry::handles::ensembles::{LeftOut, MemberHandles},
};

/// By model, those that answer together for it.
pub(crate) struct Ensembles(Box<[Option<Ensemble>]>);

struct Ensemble {
    name: Arc<str>,
    combine: Combine,
    members: Box<[Member]>,
}

struct Member {
    id: ModelId,
    name: Arc<str>,
    weight: f64,
    handles: MemberHandles,
    notice: Seldom,
}

/// What a member's walk came to.
enum Heard {
    /// A part of the answer.
    Part(Part),
    /// Nothing that could be part of it.
    LeftOut(LeftOut, Result<Answer, Error>),
    /// The answer, whatever the others say.
    Last(Result<Answer, Error>),
}

/// What a member has to say.
struct Part {
    outputs: Vec<Output>,
    level: Level,
    degraded: Vec<Degradation>,
    caches: Vec<CacheEvent>,
    timings: Timings,
}

/// A request as its members are asked, and what it says.
type Readable = (Box<InferRequest>, Arc<Decoded>);

impl Ensembles {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        let of = |model: &config::Model| Some(Ensemble::new(&model.name, model.ensemble.as_ref()?, config, now));
        Self(config.models.iter().map(of).collect())
    }

    /// Whether it is several models that answer for this one.
    pub(super) fn has(&self, model: ModelId) -> bool {
        self.of(model).is_some()
    }

    fn of(&self, model: ModelId) -> Option<&Ensemble> {
        self.0[model.index()].as_ref()
    }
}

impl Ensemble {
    fn new(name: &Arc<str>, ensemble: &config::Ensemble, config: &Config, now: Instant) -> Self {
        let member = |(id, weight): (&ModelId, &f64)| {
            let member = &config.model(*id).name;
            let handles = MemberHandles::new(name, member);
            Member { id: *id, name: member.clone(), weight: *weight, handles, notice: Seldom::new(now) }
        };
        let members = ensemble.members.iter().zip(&ensemble.weights).map(member).collect();
        Self { name: name.clone(), combine: ensemble.combine, members }
    }

    /// Notes that a member is not in an answer.
    fn leave_out(&self, index: usize, why: LeftOut, outcome: &Result<Answer, Error>) -> Degradation {
        let member = &self.members[index];
        member.handles.left_out(why);
        if member.notice.is_due(Instant::now()) {
            let (ensemble, member) = (&self.name, &member.name);
            let told = match outcome {
                Ok(answer) => format!("it answered {}", answer.status),
                Err(error) => error.to_string(),
            };
            tracing::warn!(%ensemble, %member, reason = why.name(), "left out of an answer: {told}; further ones are counted only");
        }
        Degradation::Member { model: member.name.clone(), cause: why.cause() }
    }

    /// What is not there in time.
    fn late(&self, index: usize) -> Error {
        let (ensemble, member) = (&self.name, &self.members[index].name);
        let message = format!("model {member:?} did not answer in the time that ensemble {ensemble:?} has");
        Error::new(Kind::DeadlineExceeded, message)
    }
}

impl Pipeline {
    /// A walk of the plan's model, or of those that answer together for it.
    pub(super) async fn walk(&self, request: Box<InferRequest>, plan: &Plan, began: Instant) -> Walked {
        let Some(ensemble) = self.ensembles.of(plan.model) else {
            let protocol = request.protocol;
            let mut walked = self.compute(request, plan, began).await;
            self.name_as_asked(protocol, &mut walked.outcome, plan);
            return walked;
        };
        let outcome = match plan.members {
            // Boxed: who has no members does not carry the room for them.
            Members::All => Box::pin(self.together(request, plan, ensemble, began)).await,
            Members::One(place) => Box::pin(self.one(request, plan, (ensemble, place), began)).await,
        };
        Walked { outcome, features: None }
    }

    /// One member's answer in place of all of them.
    async fn one(
        &self,
        request: Box<InferRequest>,
        plan: &Plan,
        (ensemble, place): (&Ensemble, u32),
        began: Instant,
    ) -> Result<Answer, Error> {
        let member = &ensemble.members[place as usize];
        let alone = self.ladder.alone(plan, member.id, began);
        let (request, _) = self.readable(request)?;
        let protocol = request.protocol;
        let mut outcome = self.compute(request, &alone, began).await.outcome;
        self.name_as_asked(protocol, &mut outcome, &alone);
        let mut answer = outcome?;
        let cause = plan.cause.unwrap_or(Cause::Timeouts);
        answer.degraded.push(Degradation::Model { used: member.name.clone(), cause });
        Ok(answer)
    }

    async fn together(
        &self,
        request: Box<InferRequest>,
        plan: &Plan,
        ensemble: &Ensemble,
        began: Instant,
    ) -> Result<Answer, Error> {
        let readable = self.readable(request)?;
        let by = self.ladder.members_by(plan, began);
        let mut heard: Vec<Option<Heard>> = ensemble.members.iter().map(|_| None).collect();
        let walks = FuturesUnordered::new();
        for (index, member) in ensemble.members.iter().enumerate() {
            match (self.ladder.member(plan, member.id, by, began), readable.0.again()) {
                (Ok(plan), Some(request)) => {
                    walks.push(async move { (index, self.ask_member(request, plan, began).await) })
                }
                (Err(cause), _) => {
                    let message = format!("model {:?} is not asked for its ensemble: {}", member.name, cause.token());
                    heard[index] = Some(Heard::LeftOut(cause.into(), Err(Error::new(Kind::Unavailable, message))));
                }
                (Ok(_), None) => return Err(Error::new(Kind::Internal, "a decoded body passes but once")),
            }
        }
        if let Ok(Some(last)) = tokio::time::timeout_at(by.instant(), gather(walks, &mut heard)).await {
            return last;
        }
        self.combined(&readable, plan, (ensemble, heard), began.elapsed())
    }

    /// A request that every member can be asked: read, and for answers that can be read here.
    fn readable(&self, mut request: Box<InferRequest>) -> Result<Readable, Error> {
        let decoded = self.decoded(&request)?;
        let headers = Arc::make_mut(&mut request.headers);
        if matches!(request.payload, Payload::Retained(_)) {
            // It was undone.
            headers.remove(header::CONTENT_ENCODING);
            headers.remove("grpc-encoding");
        }
        headers.remove(header::ACCEPT_ENCODING);
        headers.remove("grpc-accept-encoding");
        request.payload = Payload::Decoded(Arc::clone(&decoded));
        Ok((request, decoded))
    }

    async fn ask_member(&self, request: Box<InferRequest>, plan: Plan, began: Instant) -> Heard {
        let protocol = request.protocol;
        let answer = match self.compute(request, &plan, began).await.outcome {
            Ok(answer) => answer,
            Err(error) => return Heard::failed(error),
        };
        let answer = match held(answer, self.config.listen.max_body).await {
            Ok(answer) => answer,
            Err(error) => return Heard::failed(error),
        };
        match answer.said(protocol) {
            Said::Outputs => Heard::read(protocol, answer),
            Said::Malformed => Heard::Last(Ok(answer)),
            said => Heard::LeftOut(left_out(said), Ok(answer)),
        }
    }

    /// Makes one answer of what was heard.
    fn combined(
        &self,
        (request, decoded): &Readable,
        plan: &Plan,
        (ensemble, heard): (&Ensemble, Vec<Option<Heard>>),
        waited: Duration,
    ) -> Result<Answer, Error> {
        let mut sorted = Sorted::new(ensemble, heard);
        let outputs = sorted.common(ensemble, request.protocol)?;
        let Sorted { parts, mut members, failure, acted } = sorted;
        if let Some(failure) = failure
            && (parts.is_empty() || !self.ladder.lowers())
        {
            // It speaks for all of them.
            return failure.map_err(|error| error.with_acted(acted || !parts.is_empty()));
        }
        let mut answer = self.written((request, decoded), &outputs, plan)?;
        parts.into_iter().for_each(|(_, part)| part.add_to(&mut answer));
        if !members.is_empty() {
            answer.level = answer.level.max(Level::SimplifiedModel);
        }
        if members.iter().any(is_late) {
            let Timings { queue, features, .. } = answer.timings;
            answer.timings.model = waited.saturating_sub(queue + features);
        }
        answer.degraded.append(&mut members);
        Ok(answer)
    }
}

const fn is_late(member: &Degradation) -> bool {
    matches!(member, Degradation::Member { cause: Cause::Timeout, .. })
}

/// Hears members until all were heard, or one has the last word.
///
/// # Cancel safety
///
/// Dropped, it cancels the walks that are under way; what was heard is kept.
async fn gather(
    mut walks: impl Stream<Item = (usize, Heard)> + Unpin,
    heard: &mut [Option<Heard>],
) -> Option<Result<Answer, Error>> {
    while let Some((index, outcome)) = walks.next().await {
        match outcome {
            Heard::Last(last) => return Some(last),
            outcome => heard[index] = Some(outcome),
        }
    }
    None
}

/// What was heard, told apart.
struct Sorted {
    parts: Vec<(usize, Part)>,
    members: Vec<Degradation>,
    /// The first member's that failed.
    failure: Option<Result<Answer, Error>>,
    /// Whether any member that is left out may have acted on the request.
    acted: bool,
}

impl Sorted {
    fn new(ensemble: &Ensemble, heard: Vec<Option<Heard>>) -> Self {
        let mut sorted =
            Self { parts: Vec::with_capacity(heard.len()), members: Vec::new(), failure: None, acted: false };
        for (index, heard) in heard.into_iter().enumerate() {
            match heard {
                Some(Heard::Part(part)) => sorted.parts.push((index, part)),
                Some(Heard::LeftOut(why, outcome)) => sorted.leave_out(ensemble, index, (why, outcome)),
                Some(Heard::Last(outcome)) => sorted.leave_out(ensemble, index, (LeftOut::Failed, outcome)),
                None => sorted.leave_out(ensemble, index, (LeftOut::Timeout, Err(ensemble.late(index)))),
            }
        }
        sorted
    }

    fn leave_out(&mut self, ensemble: &Ensemble, index: usize, (why, outcome): (LeftOut, Result<Answer, Error>)) {
        self.members.push(ensemble.leave_out(index, why, &outcome));
        self.acted |= may_have_acted(&outcome);
        self.failure.get_or_insert(outcome);
    }

    /// The parts as one, less those that differ.
    fn common(&mut self, ensemble: &Ensemble, protocol: Protocol) -> Result<Vec<Output>, Error> {
        let weight = |index: usize| ensemble.members[index].weight;
        let ballots: Vec<_> =
            self.parts.iter().map(|(index, part)| Ballot { weight: weight(*index), outputs: &part.outputs }).collect();
        let Combined { outputs, apart } = outputs::combine(ensemble.combine, protocol, &ballots)?;
        if apart.iter().any(Option::is_some) {
            for ((index, part), told) in std::mem::take(&mut self.parts).into_iter().zip(apart) {
                match told {
                    None => self.parts.push((index, part)),
                    Some(told) => {
                        let message = format!("model {:?}: {told}", ensemble.members[index].name);
                        let error = Error::new(Kind::BackendFailed, message);
                        self.leave_out(ensemble, index, (LeftOut::Differs, Err(error)));
                    }
                }
            }
        }
        Ok(outputs)
    }
}

impl Heard {
    /// A walk without an answer: the caller's mistakes are every member's.
    fn failed(error: Error) -> Self {
        match cause_of(error.kind()) {
            Some(cause) => Self::LeftOut(cause.into(), Err(error)),
            None => Self::Last(Err(error)),
        }
    }

    fn read(protocol: Protocol, answer: Answer) -> Self {
        let Answer { headers, body, level, degraded, caches, timings, .. } = answer;
        let body = match body {
            AnswerBody::Whole(body) => body,
            AnswerBody::Stream(_) => Bytes::new(),
        };
        match outputs::read(protocol, &body, json_length(&headers)) {
            Ok(outputs) => Self::Part(Part { outputs, level, degraded, caches, timings }),
            Err(error) => Self::LeftOut(LeftOut::Unreadable, Err(error)),
        }
    }
}

impl Part {
    /// Adds what it was made of to the answer that it is in: the worst of all parts counts, and the slowest's times.
    fn add_to(self, answer: &mut Answer) {
        let Self { level, degraded, caches, timings, .. } = self;
        answer.level = answer.level.max(level);
        for member in degraded {
            if !answer.degraded.contains(&member) {
                answer.degraded.push(member);
            }
        }
        for event in caches {
            match answer.caches.iter_mut().find(|known| known.cache == event.cache) {
                Some(known) if known.outcome == CacheOutcome::Hit => *known = event,
                Some(_) => {}
                None => answer.caches.push(event),
            }
        }
        let whole = |timings: &Timings| timings.queue + timings.features + timings.model;
        if whole(&timings) > whole(&answer.timings) {
            answer.timings = timings;
        }
    }
}

/// Why a member's answer that is neither a prediction nor a word about the request is left out.
const fn left_out(said: Said) -> LeftOut {
    match said {
        Said::Late => LeftOut::Timeout,
        Said::Busy => LeftOut::Shed,
        Said::Unavailable => LeftOut::Unavailable,
        _ => LeftOut::Failed,
    }
}

/// An answer with its body whole, up to `limit`.
async fn held(answer: Answer, limit: u64) -> Result<Answer, Error> {
    let Answer { body: AnswerBody::Stream(mut body), mut trailers, .. } = answer else { return Ok(answer) };
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if (bytes.len() + data.len()) as u64 > limit => {
                let message = "its answer is longer than listen.max_body, the most that is held to be combined";
                return Err(Error::new(Kind::BackendFailed, message));
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Answer { body: AnswerBody::Whole(bytes.freeze()), trailers, ..answer })
}
