//! Decisions that go down the path. The ladder makes a plan, stages obey it, facts come back as return values.

use std::time::Duration;

use super::{Cause, Deadline, Level, ModelId, PoolId, TierId};

/// How one walk of the path is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The level this walk aims at. Its answer has it where something is lowered: see [`Plan::answered_at`].
    pub level: Level,
    /// The model that the caller named.
    pub named: ModelId,
    /// The model that is asked: the one named, its fallback, or a member of it.
    pub model: ModelId,
    /// Where the answer comes from.
    pub source: Source,
    /// Why it does not come from the model named, or not from all of it; `None`: it does.
    pub cause: Option<Cause>,
    /// The pool that serves it.
    pub pool: PoolId,
    /// The tier whose slot it takes.
    pub tier: TierId,
    /// When the answer must be there.
    pub deadline: Deadline,
    /// When the feature lookup must be done, so that the model still fits.
    pub features_by: Deadline,
    /// When the model's answer must be there, so that a fallback's still fits: attempts, retries and hedges are made inside it.
    pub model_by: Deadline,
    /// Whether rows past their `ttl`, up to `stale_for`, may be used.
    pub stale: Stale,
    /// Whether optional views are joined.
    pub optional: Optional,
    /// Whether the model is asked where its features are stale or made up.
    pub reduced: Reduced,
    /// Which members of an ensemble are asked.
    pub members: Members,
    /// Whether it may wait for a slot.
    pub queue: Queue,
    /// Who waits for the answer.
    pub asker: Asker,
    /// How many attempts may be made (retries + 1).
    pub attempts: u32,
    /// How long one attempt may take; never past `model_by`.
    pub attempt_timeout: Option<Duration>,
}

impl Plan {
    /// The full answer of a model, in one attempt until `deadline`.
    #[must_use]
    pub const fn full(model: ModelId, pool: PoolId, tier: TierId, deadline: Deadline) -> Self {
        Self {
            level: Level::Full,
            named: model,
            model,
            source: Source::Model,
            cause: None,
            pool,
            tier,
            deadline,
            features_by: deadline,
            model_by: deadline,
            stale: Stale::Refused,
            optional: Optional::Joined,
            reduced: Reduced::Allowed,
            members: Members::All,
            queue: Queue::Waits,
            asker: Asker::Caller,
            attempts: 1,
            attempt_timeout: None,
        }
    }

    /// The level of an answer by who gives it, whatever its features were: the plan's, where that is something else than the model
    /// named, or not all of it.
    #[must_use]
    pub fn answered_at(&self) -> Level {
        let in_person = self.source == Source::Model && self.model == self.named && self.members == Members::All;
        if in_person { Level::Full } else { self.level }
    }
}

/// Whether stale rows may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Rows past their `ttl` are fetched again.
    Refused,
    /// Rows past their `ttl` are used up to `stale_for`.
    Allowed,
}

/// Where an answer comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A model.
    Model,
    /// A rule over inputs and features.
    Rule,
    /// A prediction that is kept: the same request's, else the same entity's.
    Cached,
    /// The model's default outputs.
    Default,
}

/// Whether views that a model can do without are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional {
    /// They are.
    Joined,
    /// Defaults stand in for them.
    Skipped,
}

/// Whether a model is asked with features that took the lookup below level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduced {
    /// It is not: such an answer would be thrown away, and the model would have acted for nothing.
    Refused,
    /// It is, and the answer says so.
    Allowed,
}

/// Which members of an ensemble are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// All, at once.
    All,
    /// The one at that place, alone.
    One(u32),
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A caller.
    Caller,
    /// Nobody: the request was kept for later. It takes no probe that a caller's request could be, and its failure is held against
    /// nobody: the next caller's request may be another one.
    Spool,
}

/// Whether a request may wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// In its tier's queue.
    Waits,
    /// It takes one that is free, or none: it has waited once already.
    Skips,
}
