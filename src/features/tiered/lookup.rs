//! One request's lookup: its distinct keys, and what is known of each so far.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::joins::{Join, Keys, Rows};
use crate::{
    config::View,
    features::{
        Row,
        hot_keys::Counts,
        l2::Via,
        memory::{Cached, Memory},
    },
    infer::{
        CacheEvent, Deadline, EntityColumn, EntityKey, EntityType, Error, InferRequest, Optional, Plan, WorkerId,
        answer::CacheOutcome, plan::Stale, request::Caching,
    },
    telemetry::handles::features::{Features as Handles, Layer, OUTCOMES, Outcome},
};

/// How a lookup is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) worker: WorkerId,
    pub(super) caching: Caching,
    pub(super) optional: Optional,
    pub(super) stale: Stale,
    pub(super) by: Deadline,
    /// Where L2 may read.
    pub(super) via: Via,
}

impl How {
    pub(super) const fn of(request: &InferRequest, plan: &Plan) -> Self {
        let Plan { optional, stale, features_by: by, .. } = *plan;
        let caching = request.caching;
        Self { worker: request.worker, caching, optional, stale, by, via: via(caching) }
    }
}

/// Who bypasses the caches does not read copies.
pub(super) const fn via(caching: Caching) -> Via {
    if caching.bypasses() { Via::Key } else { Via::Copies }
}

#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) joins: Vec<JoinLookup>,
    pub(super) asked: LayerOutcomes,
    counts: [u64; OUTCOMES],
}

#[derive(Debug)]
pub(super) struct JoinLookup {
    pub(super) view: Arc<View>,
    pub(super) select: Arc<[usize]>,
    pub(super) optional: bool,
    pub(super) wants: Vec<Want>,
    pub(super) rows: Rows,
}

/// A key and what became of it.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) key: EntityKey,
    pub(super) state: State,
}

impl Want {
    pub(super) const fn of(key: EntityKey) -> Self {
        Self { key, state: State::Open(None) }
    }

    const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_) | State::Early(_) | State::Stale(..))
    }
}

#[derive(Debug)]
pub(super) enum State {
    /// To be fetched. A stale row is at hand should that fail.
    Open(Option<(Arc<Row>, Duration)>),
    Row(Arc<Row>),
    /// A row that is good, and to be fetched again for those who come later.
    Early(Arc<Row>),
    /// A row past its `ttl`, fetched that long ago.
    Stale(Arc<Row>, Duration),
    /// The store has no such row.
    Absent,
    /// The store could not be asked, or not in time; or the view was left out. Until when, where breakers alone kept it from being
    /// asked.
    Unavailable(Option<Instant>),
    /// What is stored is no row.
    Unreadable,
}

/// What each layer did for the request.
#[derive(Debug, Default)]
pub(super) struct LayerOutcomes([Option<CacheOutcome>; 3]);

impl LayerOutcomes {
    /// One key's outcome at a layer: all must hit for the layer to have hit, and one that could not be asked for is told.
    pub(super) fn note(&mut self, layer: Layer, outcome: CacheOutcome) {
        let noted = &mut self.0[layer as usize];
        *noted = Some(match (*noted, outcome) {
            (Some(CacheOutcome::Unavailable), _) => CacheOutcome::Unavailable,
            (Some(CacheOutcome::Miss), CacheOutcome::Hit) => CacheOutcome::Miss,
            (_, outcome) => outcome,
        });
    }

    pub(super) fn events(&self) -> Vec<CacheEvent> {
        let named = ["weir-l1", "weir-l2", "weir-l3"].into_iter().zip(self.0);
        named.filter_map(|(cache, outcome)| Some(CacheEvent { cache, outcome: outcome? })).collect()
    }
}

impl Lookup {
    /// The keys that a model's joins ask for.
    pub(super) fn new(
        joins: &[Join],
        rows: impl FnOnce(&[&str]) -> Result<usize, Error>,
        entities: impl Fn(&str, EntityType) -> Result<EntityColumn, Error>,
    ) -> Result<Self, Error> {
        let sources: SmallVec<[&str; 8]> = joins.iter().flat_map(Join::sources).collect();
        let rows = rows(&sources)?;
        let mut lookups = Vec::with_capacity(joins.len());
        for join in joins {
            let Keys { distinct: wants, rows } = join.keys(rows, &entities)?;
            lookups.push(JoinLookup {
                view: Arc::clone(&join.view),
                select: Arc::clone(&join.select),
                optional: join.optional,
                wants,
                rows,
            });
        }
        Ok(Self::over(lookups))
    }

    /// A lookup of keys that are known already.
    pub(super) fn over(joins: Vec<JoinLookup>) -> Self {
        Self { joins, asked: LayerOutcomes::default(), counts: [0; OUTCOMES] }
    }

    /// What L1 has. Optional views may be left out.
    pub(super) fn ask_l1(&mut self, l1: &Memory, how: &How, now: Instant) {
        let bypass = how.caching.bypasses();
        for join in &mut self.joins {
            let left_out = join.optional && how.optional == Optional::Skipped;
            for want in &mut join.wants {
                if left_out {
                    want.state = State::Unavailable(None);
                } else if bypass {
                    self.asked.0[Layer::L1 as usize] = Some(CacheOutcome::Bypass);
                } else {
                    let (state, outcome) = judge(l1.get(join.view.id, &want.key, now), how.stale);
                    want.state = state;
                    let hit = outcome != Outcome::Miss;
                    self.asked.note(Layer::L1, if hit { CacheOutcome::Hit } else { CacheOutcome::Miss });
                    self.counts[outcome as usize] += 1;
                }
            }
        }
    }

    /// Counts which keys are asked for.
    pub(super) fn notice(&self, l1: &Memory, how: &How) {
        for join in &self.joins {
            l1.notice(how.worker, join.view.id, join.wants.len(), |at| &join.wants[at].key);
        }
    }

    /// Counts which keys are hot.
    pub(super) fn count_keys(&self, counts: &Counts, how: &How) {
        for join in &self.joins {
            counts.notice(how.worker, join.view.id, join.wants.len(), |at| &join.wants[at].key);
        }
    }

    pub(super) fn count(&self, metrics: &Handles) {
        let outcomes = [Outcome::Hit, Outcome::StaleHit, Outcome::NegativeHit, Outcome::Miss];
        for outcome in outcomes {
            let count = self.counts[outcome as usize];
            if count > 0 {
                metrics.looked_up(Layer::L1, outcome, count);
            }
        }
    }

    /// Whether anything is left to fetch, be it in the background.
    pub(super) fn is_open(&self) -> bool {
        self.joins.iter().any(|join| join.wants.iter().any(Want::is_open))
    }

    /// How many keys are left to fetch.
    pub(super) fn open(&self) -> usize {
        self.joins.iter().map(|join| join.wants.iter().filter(|want| want.is_open()).count()).sum()
    }
}

fn judge(cached: Cached, allowed: Stale) -> (State, Outcome) {
    match cached {
        Cached::Fresh(Some(row)) => (State::Row(row), Outcome::Hit),
        Cached::Early(row) => (State::Early(row), Outcome::Hit),
        Cached::Fresh(None) => (State::Absent, Outcome::NegativeHit),
        Cached::Stale { row, age } if allowed == Stale::Allowed => (State::Stale(row, age), Outcome::StaleHit),
        Cached::Stale { row, age } => (State::Open(Some((row, age))), Outcome::Miss),
        Cached::Miss => (State::Open(None), Outcome::Miss),
    }
}
