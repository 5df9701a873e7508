//! Decisions that go down the path. The ladder makes a plan, stages obey it, facts come back as return values.

use std::time::Duration;

use super::{Deadline, Level, ModelId, PoolId, TierId};

/// How one walk of the path is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The level this walk aims at.
    pub level: Level,
    /// The model that is asked: the one named, or its fallback.
    pub model: ModelId,
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
    /// How many attempts may be made (retries + 1).
    pub attempts: u32,
    /// How long one attempt may take; never past `model_by`.
    pub attempt_timeout: Option<Duration>,
}

/// Whether stale rows may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Rows past their `ttl` are fetched again.
    Refused,
    /// Rows past their `ttl` are used up to `stale_for`.
    Allowed,
}
