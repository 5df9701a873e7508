//! Stage 4: predictions that are kept, and given again to whoever asks the model the same.
//!
//! ```text
//!   verbatim(as it came) ─► L1's front has it: told, and it walks no path
//!
//!   question(enriched) ─► look ──► L1 has it ─────────────────────────────► told, with the asker's id
//!                          │   └─► somebody asks already ─► wait ──► kept ─► told
//!                          │                                  ├────► unfit ► ask alone
//!                          │                                  └────► failed ► look again: one of them leads
//!                          └─► Lead ─► fetch: L2 has it ───────────────────► told
//!                                 └──► the model ─► keep: L1, L2, the waiters
//! ```
//!
//! The key is made of what the model would see (`key`): of the enriched body, in which a pushed feature stands. A hit takes no slot and no
//! place in a queue. A promotion begins a new era of the model's predictions (`eras`). What may be kept is decided in `kept`; a stream
//! never is. The same predictions stand in at level 3 for as long as `keep_for` (`stand_in`).
//!
//! Who leads is one of a tier: a request of a high tier never waits for one that waits in a lower tier's queue.

mod eras;
mod id;
mod kept;
mod key;
mod memory;
mod shared;
mod stand_in;
mod stored;
#[cfg(test)]
mod tests;
mod verbatim;

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use tokio::time::Instant;

use self::{
    eras::Eras,
    id::Split,
    kept::{Kept, Unfit},
    key::{Head, Key, Scheme},
    memory::Memory,
    shared::Shared,
    verbatim::{Age, Front, LONGEST},
};
pub(crate) use self::{
    kept::Told,
    stand_in::{OtherKeys, StandIn},
    verbatim::Verbatim,
};
use crate::{
    app::Tasks,
    config::{self, Config},
    enrich::{Body, Enriched},
    infer::{
        Answer, CacheEvent, CacheOutcome, Caching, Error, Members, Method, ModelId, Plan, Protocol, RawKey, RawRequest,
        TierId,
    },
    resilience::flight::{self, Batch, Flights, Joined},
    telemetry::handles::predictions::{Keeping, Layer, Outcome, PredictionsHandles},
};

/// Of the time left, what a look in L2 may take: a quarter.
const L2_SHARE: u32 = 4;

/// Of L1, what requests take that came before byte for byte: a quarter.
const FRONT: u64 = 4;

/// What `cache-status` calls it.
const NAME: &str = "weir-prediction";

/// Every model's predictions; outlives a snapshot.
pub struct Predictions {
    /// By model id; `None`: nothing is kept of it.
    models: Box<[Option<Model>]>,
    eras: Eras,
    memory: Memory<Key, Arc<Kept>>,
    /// Before it: requests that came before byte for byte.
    front: Front,
    has_front: bool,
    /// L2, where gateways share one.
    shared: Option<Arc<Shared>>,
    tasks: Tasks,
    flights: Arc<Flights<Seat, Word>>,
    handles: PredictionsHandles,
}

/// A model whose predictions are kept.
struct Model {
    config: config::PredictionCache,
    scheme: Scheme,
    /// Whether it is sent what comes: it joins nothing.
    sent_as_came: bool,
    /// How often a prediction was replaced that still answered, as `no-cache` has it: what the front has of those before is told no more.
    renewals: AtomicU32,
}

/// Who shares a flight.
type Seat = (Key, TierId);

/// What a leader says.
#[derive(Clone, Debug)]
enum Word {
    /// Nothing yet.
    Asks,
    /// There it is.
    Kept(Arc<Kept>),
    /// What the model said cannot be another's.
    Nothing,
}

/// What a request asks a model whose predictions are kept.
#[derive(Debug)]
pub(crate) struct Question {
    model: ModelId,
    tier: TierId,
    protocol: Protocol,
    key: Key,
    /// The request's own, which a hit gets.
    id: Option<Bytes>,
    as_came: Option<RawKey>,
    caching: Caching,
    asked: Instant,
}

/// What a look finds.
#[derive(Debug)]
pub(crate) enum Look {
    /// The answer.
    Told(Told),
    /// Somebody asks the model the same.
    Asked(Asked),
    /// The model is to be asked, and the answer handed to [`Predictions::keep`].
    Miss(Lead),
}

/// Somebody asks already.
#[derive(Debug)]
pub(crate) struct Asked(flight::Watch<Word>);

/// What waiting brings.
#[derive(Debug)]
pub(crate) enum Waited {
    /// The answer.
    Told(Told),
    /// Who asked went away, or failed: look again.
    Gone,
    /// The model is to be asked, for this request alone.
    Alone(Lead),
}

/// The duty to ask the model and to say what came of it. Dropped, those who wait look again.
#[derive(Debug)]
pub(crate) struct Lead(Option<flight::Lead<Seat, Word>>);

impl Predictions {
    /// Keeps nothing yet.
    ///
    /// # Errors
    ///
    /// L2's URL is none, or its authorities cannot be read.
    pub fn new(config: &Config, tasks: Tasks, now: Instant) -> Result<Self, redis::RedisError> {
        let shared = config.predictions.l2.as_ref().map(|l2| Shared::new(l2, config)).transpose()?;
        let kept = |(index, model): (usize, &config::Model)| {
            let config_of = model.cache.clone()?;
            let id = ModelId(u32::try_from(index).unwrap_or(u32::MAX));
            let scheme = Scheme::new(config, id, &config_of.headers);
            let sent_as_came = model.joins.is_empty();
            Some(Model { scheme, config: config_of, sent_as_came, renewals: AtomicU32::new(0) })
        };
        let models: Box<[Option<Model>]> = config.models.iter().enumerate().map(kept).collect();
        let has_front = models.iter().flatten().any(|model| model.sent_as_came);
        let front = if has_front { config.predictions.capacity / FRONT } else { 0 };
        Ok(Self {
            models,
            eras: Eras::new(config.models.len()),
            memory: Memory::new(config.predictions.capacity - front, now),
            front: Front::new(front, now),
            has_front,
            shared: shared.map(Arc::new),
            tasks,
            flights: Arc::default(),
            handles: PredictionsHandles::new(config.models.iter().map(|model| (&*model.name, model.cache.is_some()))),
        })
    }

    /// Keeps the connection to L2, and hears of other gateways' eras; for as long as it is polled.
    pub async fn tend(&self) {
        if let Some(shared) = &self.shared {
            shared.tend(&self.eras, |model| self.handles.dropped(model)).await;
        }
    }

    /// Writes the gauges that mirror a state kept here; to be called before each scrape.
    pub fn show(&self, now: Instant) {
        if let Some(shared) = &self.shared {
            shared.show(now);
        }
    }

    /// Whether a model's predictions are kept at all.
    pub(crate) fn are_kept(&self, model: ModelId) -> bool {
        self.models[model.index()].is_some()
    }

    /// Whether any model's requests are known by their bytes.
    pub(crate) const fn has_front(&self) -> bool {
        self.has_front
    }

    /// How long a body of the model may be, in bytes, to be known by them: its predictions are kept, and it is sent what comes.
    pub(crate) fn known_up_to(&self, model: ModelId) -> Option<u64> {
        self.models[model.index()].as_ref().filter(|model| model.sent_as_came).map(|_| LONGEST as u64)
    }

    /// A request as it came, where the same may be known by that; before it is on its path.
    pub(crate) fn verbatim(&self, came: &RawRequest<'_>) -> Option<Verbatim> {
        let model = self.models[came.model.index()].as_ref().filter(|model| model.sent_as_came)?;
        Verbatim::of(came, &model.scheme)
    }

    /// What was told to one that came before, byte for byte; of a request that came at `now`.
    pub(crate) fn told_before(&self, model: ModelId, came: &Verbatim, now: Instant) -> Option<Told> {
        let of = self.models[model.index()].as_ref()?;
        let age = Age { era: self.eras.now(model).number, renewals: of.renewals.load(Ordering::Acquire) };
        let told = self.front.get(came, age, now)?;
        self.handles.looked_up(model, Layer::L1, Outcome::Hit);
        Some(told)
    }

    /// What a request asks; `None`: its answer is not kept.
    pub(crate) fn question(&self, enriched: &Enriched, plan: &Plan) -> Option<Question> {
        let model = self.models[plan.model.index()].as_ref()?;
        let (request, era) = (&*enriched.request, self.eras.now(plan.model));
        let Body::Whole(body) = &enriched.body else { return None };
        if request.method != Method::Predict || plan.members != Members::All {
            return None;
        }
        let split = Split::around_id(request.protocol, body, enriched.json_length);
        Some(Question {
            model: plan.model,
            tier: plan.tier,
            protocol: request.protocol,
            key: model.scheme.exact(era, Head::of(request), (body, &split), enriched.json_length),
            id: split.id,
            as_came: request.as_came.clone(),
            caching: request.caching,
            asked: Instant::now(),
        })
    }

    /// What L1 has.
    pub(crate) fn at_hand(&self, question: &Question) -> Option<Told> {
        if question.caching.bypasses() {
            return None;
        }
        let told = self.in_memory(question)?;
        self.handles.looked_up(question.model, Layer::L1, Outcome::Hit);
        Some(told)
    }

    /// Looks in L1, and whether somebody asks the same already.
    pub(crate) fn look(&self, question: &Question) -> Look {
        if question.caching.bypasses() {
            return Look::Miss(Lead(None));
        }
        if let Some(told) = self.at_hand(question) {
            return Look::Told(told);
        }
        match self.flights.join(&Arc::<Batch<Word>>::default(), (question.key, question.tier), Word::Asks) {
            Joined::Waiter(watch) => Look::Asked(Asked(watch)),
            Joined::Leader(lead) => self.led(question, lead),
        }
    }

    /// A flight may have ended between the look and this one's beginning: what it found is here then.
    fn led(&self, question: &Question, lead: flight::Lead<Seat, Word>) -> Look {
        match self.at_hand(question) {
            Some(told) => Look::Told(told),
            None => {
                self.handles.looked_up(question.model, Layer::L1, Outcome::Miss);
                Look::Miss(Lead(Some(lead)))
            }
        }
    }

    fn in_memory(&self, question: &Question) -> Option<Told> {
        let (model, now) = (self.models[question.model.index()].as_ref()?, Instant::now());
        // Before the look: what is replaced after it counts as another.
        let age = Age { era: question.key.era, renewals: model.renewals.load(Ordering::Acquire) };
        let kept = self.memory.get(&question.key, now)?;
        let until = kept.fresh_until(model.config.ttl);
        let told = (now < until).then(|| kept.told(question.id.as_ref()))?;
        if let Some(came) = &question.as_came {
            self.front.put(came, &told, (age, until));
        }
        Some(told)
    }

    /// Keeps it in L1 in place of an older one, as what the same request is told from now on.
    fn renew(&self, key: Key, kept: &Arc<Kept>, of: &Model) {
        let (now, renews) = (Instant::now(), Cell::new(false));
        self.memory.put(&key, Arc::clone(kept), kept.asked + of.config.keep_for, |held| {
            let is_older = held.asked <= kept.asked;
            renews.set(is_older && held.is_fresh(of.config.ttl, now));
            is_older
        });
        if renews.get() {
            of.renewals.fetch_add(1, Ordering::Release);
        }
    }

    /// Looks in L2, which takes a part of what is left for the model at most.
    ///
    /// # Errors
    ///
    /// It has none: the model is to be asked.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the lead is.
    pub(crate) async fn fetch(&self, lead: Lead, question: &Question, plan: &Plan) -> Result<Told, Lead> {
        let (Some(shared), Some(model), true) = (&self.shared, &self.models[question.model.index()], lead.0.is_some())
        else {
            return Err(lead);
        };
        let now = Instant::now();
        let until = now + plan.model_by.remaining(now) / L2_SHARE;
        let found = shared.get(&question.key, question.protocol, until).await;
        let Ok(Some(kept)) = found else {
            let outcome = if found.is_ok() { Outcome::Miss } else { Outcome::Error };
            self.handles.looked_up(question.model, Layer::L2, outcome);
            return Err(lead);
        };
        let kept = Arc::new(kept);
        self.renew(question.key, &kept, model);
        if !kept.is_fresh(model.config.ttl, Instant::now()) {
            self.handles.looked_up(question.model, Layer::L2, Outcome::Miss);
            return Err(lead);
        }
        self.handles.looked_up(question.model, Layer::L2, Outcome::Hit);
        let told = kept.told(question.id.as_ref());
        if let Lead(Some(lead)) = lead {
            lead.end(Word::Kept(kept));
        }
        Ok(told)
    }

    /// Waits for what somebody else's asking brings, until `until`; `None`: it took too long.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it was a look.
    pub(crate) async fn wait(&self, asked: Asked, question: &Question, until: Instant) -> Option<Waited> {
        let said = |word: &Word| !matches!(word, Word::Asks);
        let word = tokio::time::timeout_at(until, asked.0.until(said)).await.ok()?;
        Some(match word {
            Word::Kept(kept) => {
                self.handles.coalesced(question.model);
                Waited::Told(kept.told(question.id.as_ref()))
            }
            Word::Asks => Waited::Gone,
            Word::Nothing => Waited::Alone(Lead(None)),
        })
    }

    /// Keeps what came of asking the model, where it may be kept, under the request's key and under the others that stand-ins are found by;
    /// tells who waits for it. Where nothing came of it, one of those who wait leads next.
    pub(crate) fn keep(&self, lead: Lead, question: &Question, outcome: &Result<Answer, Error>, others: &OtherKeys) {
        let kept = outcome.as_ref().ok().and_then(|answer| self.kept_of(question, answer));
        if let Some((model, kept)) = &kept {
            let keep_for = model.config.keep_for;
            let keys: Vec<_> = std::iter::once(question.key).chain(others.iter()).collect();
            self.renew(question.key, kept, model);
            let until = kept.asked + keep_for;
            others
                .iter()
                .for_each(|key| self.memory.put(&key, Arc::clone(kept), until, |held| held.asked <= kept.asked));
            if let Some(shared) = self.shared.clone() {
                let kept = Arc::clone(kept);
                self.tasks.spawn(async move { shared.set(keys, kept, keep_for).await });
            }
        }
        // A failure may be the leader's own: a deadline shorter than others', no slot. Its lead is dropped, and the next one asks.
        if let (Lead(Some(lead)), Ok(_)) = (lead, outcome) {
            lead.end(kept.map_or(Word::Nothing, |(_, kept)| Word::Kept(kept)));
        }
    }

    fn kept_of(&self, question: &Question, answer: &Answer) -> Option<(&Model, Arc<Kept>)> {
        let model = self.models[question.model.index()].as_ref()?;
        let asker = (question.protocol, question.id.as_ref());
        let kept = match question.caching {
            Caching::Forbidden => Err(Unfit::Forbidden),
            Caching::Allowed | Caching::Bypassed => Kept::of(answer, asker, &model.scheme, question.asked),
        };
        self.handles.kept(question.model, kept.as_ref().map_or_else(|unfit| unfit.counted(), |_| Keeping::Kept));
        Some((model, Arc::new(kept.ok()?)))
    }

    /// Drops all that is kept of a model: what was asked before now answers nobody any more.
    pub fn drop_model(&self, model: ModelId) {
        self.begin_era(model, rand::random());
    }

    /// Whether other gateways hear of what is dropped here within a second: they share a Redis, and it answered at the last look. Where it
    /// did not, they hear of it once it does.
    pub(crate) fn reach_others(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.knows_eras())
    }

    /// Which era a model's predictions are in, in a word that gateways which share them agree on.
    pub(crate) fn era(&self, model: ModelId) -> u64 {
        self.eras.now(model).token
    }

    /// As [`Predictions::drop_model`], because of something that other gateways may see too: those that were in the same era
    /// begin the same one, so that it costs hits once, not once a gateway.
    pub(crate) fn drop_because(&self, model: ModelId, cause: &str) {
        self.begin_era(model, eras::following(self.era(model), cause));
    }

    /// Whether all that happened to a model's predictions since they were in the era `since` is what `causes` say.
    pub(crate) fn follows<'a>(&self, model: ModelId, since: u64, causes: impl Iterator<Item = &'a str>) -> bool {
        causes.fold(since, eras::following) == self.era(model)
    }

    fn begin_era(&self, model: ModelId, token: u64) {
        self.eras.begin(model, token);
        self.handles.dropped(model);
        if let Some(shared) = &self.shared {
            shared.tell(model);
        }
    }

    /// Housekeeping and gauges, to be called now and then.
    pub fn maintain(&self, now: Instant) {
        self.memory.sweep(now, |key, _| !self.eras.has(key.era));
        self.front.sweep(now, |era| !self.eras.has(era));
        self.handles.gauge(self.memory.bytes() + self.front.bytes(), self.memory.entries());
    }
}

impl Question {
    /// What the cache did, for `cache-status`, where the model was asked.
    pub(crate) const fn missed(&self) -> CacheEvent {
        let outcome = match self.caching {
            Caching::Allowed => CacheOutcome::Miss,
            Caching::Bypassed | Caching::Forbidden => CacheOutcome::Bypass,
        };
        CacheEvent { cache: NAME, outcome }
    }
}

/// What `cache-status` says of an answer that was kept.
pub(crate) const HIT: CacheEvent = CacheEvent { cache: NAME, outcome: CacheOutcome::Hit };

/// The same of one that somebody else was waiting for.
pub(crate) const COLLAPSED: CacheEvent = CacheEvent { cache: NAME, outcome: CacheOutcome::Collapsed };

impl Unfit {
    const fn counted(self) -> Keeping {
        match self {
            Self::Degraded => Keeping::Degraded,
            Self::Forbidden => Keeping::Forbidden,
            Self::Id => Keeping::Id,
            Self::Malformed => Keeping::Malformed,
        }
    }
}
