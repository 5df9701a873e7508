//! What comes back up the path: the answer, and everything about it that was not the best.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{Error, Level};

/// An answer to one request, ready to be encoded.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status (200 for every gRPC answer).
    pub status: StatusCode,
    /// End-to-end headers of the model's answer.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerBody,
    /// gRPC trailers, once the body is held whole.
    pub trailers: Option<HeaderMap>,
    /// Whether it is what was asked for.
    pub verdict: Verdict,
    /// The level that answered.
    pub level: Level,
    /// What was not the best about it.
    pub degraded: Vec<Degradation>,
    /// What each cache did.
    pub caches: Vec<CacheEvent>,
    /// What each stage took.
    pub timings: Timings,
}

impl Answer {
    /// One of a status, headers and a whole body: at level 0, what was asked for, and with nothing more to say.
    #[must_use]
    pub fn whole(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            body: AnswerBody::Whole(body),
            trailers: None,
            verdict: Verdict::Good,
            level: Level::Full,
            degraded: Vec::new(),
            caches: Vec::new(),
            timings: Timings::default(),
        }
    }
}

/// Whether a model may have acted on a request that ended so: one that answered has been asked, whatever it said.
#[must_use]
pub fn may_have_acted(outcome: &Result<Answer, Error>) -> bool {
    outcome.as_ref().map_or_else(Error::may_have_acted, |_| true)
}

/// An answer's body.
pub enum AnswerBody {
    /// Held whole.
    Whole(Bytes),
    /// Passed through as it comes; ends with the upstream's trailers.
    Stream(http_body_util::combinators::UnsyncBoxBody<Bytes, Error>),
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "Whole({})", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was asked for, or a word about the request that the caller needs to hear (4xx).
    Good,
    /// The backend's failure, told by itself: a lower level may have something better.
    Failed,
}

/// One member of `weir-degraded`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Degradation {
    /// Rows past their `ttl` were used: `stale;view=user_stats;age=340` (seconds, the oldest).
    Stale {
        /// The view.
        view: std::sync::Arc<str>,
        /// The oldest row's time in the cache.
        age: Duration,
    },
    /// Defaults stood in for features: `default;view=item_stats;reason=not_found`.
    Default {
        /// The view.
        view: std::sync::Arc<str>,
        /// Why.
        reason: Reason,
    },
    /// Another model answered: `model;used=fraud-lite;reason=timeout`.
    Model {
        /// Which.
        used: std::sync::Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// The rule answered: `rule;reason=timeout`.
    Rule {
        /// Why.
        cause: Cause,
    },
    /// A member of the ensemble is not in the answer: `member;model=fraud-b;reason=timeout`.
    Member {
        /// Which.
        model: std::sync::Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// A prediction that was kept answered: `cached;age=12`, and `;of=entity` where it is another request's about the same entity.
    Cached {
        /// How old it is.
        age: Duration,
        /// Whose it is.
        of: CachedOf,
        /// Why.
        cause: Cause,
    },
    /// The model's default outputs answered: `default;reason=unavailable`.
    Outputs {
        /// Why.
        cause: Cause,
    },
}

impl Degradation {
    /// Why the model named is not the one that answered; `None`: it is.
    #[must_use]
    pub const fn instead_of_model(&self) -> Option<Cause> {
        match self {
            Self::Model { cause, .. } | Self::Rule { cause } | Self::Cached { cause, .. } | Self::Outputs { cause } => {
                Some(*cause)
            }
            Self::Stale { .. } | Self::Default { .. } | Self::Member { .. } => None,
        }
    }
}

/// Whose prediction was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachedOf {
    /// The same request's.
    Request,
    /// Another request's about the same entity.
    Entity,
}

/// Why an answer is not the full model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Feature lookups are slow.
    FeaturesSlow,
    /// The feature store is unavailable.
    FeaturesUnavailable,
    /// The pool's GPUs are full.
    GpuMemory,
    /// Too many of the model's attempts time out.
    Timeouts,
    /// It did not answer in time.
    Timeout,
    /// It failed.
    Failed,
    /// Nobody could be asked.
    Unavailable,
    /// Its tier or its pool takes no more.
    Shed,
    /// A drill.
    Drill,
}

impl Cause {
    /// The token in `weir-degraded`, metrics and logs.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::FeaturesSlow => "features_slow",
            Self::FeaturesUnavailable => "features_unavailable",
            Self::GpuMemory => "gpu_memory",
            Self::Timeouts => "timeouts",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Unavailable => "unavailable",
            Self::Shed => "shed",
            Self::Drill => "drill",
        }
    }
}

/// Why defaults stood in for stored features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The store has no such row, or the row has no such field.
    NotFound,
    /// A null is stored.
    Null,
    /// The row's event is older than the view's `max_age`.
    OutsideMaxAge,
    /// The store could not be asked, or did not answer in time.
    Unavailable,
}

impl Reason {
    /// The token in `weir-degraded`.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Null => "null",
            Self::OutsideMaxAge => "outside_max_age",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One member of `cache-status` (RFC 9211).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheEvent {
    /// `weir-l1`, `weir-l2`, `weir-l3` or `weir-prediction`.
    pub cache: &'static str,
    /// Whether it answered.
    pub outcome: CacheOutcome,
}

/// What a cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// `hit`: every key it was asked for was there.
    Hit,
    /// `fwd=miss`: at least one key was not.
    Miss,
    /// `fwd=miss; detail=unavailable`: of at least one key it could not say whether it was.
    Unavailable,
    /// `fwd=miss; collapsed`: another request for the same was under way already, and its answer serves this one too.
    Collapsed,
    /// `fwd=bypass`: the caller asked not to.
    Bypass,
}

/// How long each stage took, for `server-timing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Waiting for a slot.
    pub queue: Duration,
    /// Looking features up.
    pub features: Duration,
    /// From the first attempt's start to the answer's head.
    pub model: Duration,
}
