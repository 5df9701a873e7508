//! What asking a kept request again came to, and what that means for it: it has its result, is tried again, or is parked.

use std::time::Duration;

use super::Reply;
use crate::infer::{Error, Kind};

/// What a replay came to.
#[derive(Debug)]
pub(crate) enum ReplayOutcome {
    /// Its result.
    Result(Box<Reply>),
    /// None, but another try may bring one.
    Retry {
        why: String,
        /// Whether the model may have acted on it.
        acted: bool,
    },
    /// None, nor will another try.
    Park(String),
    /// It did not reach the model; the same may hold for that long.
    Defer(Duration),
}

/// How long a request is left alone that did not reach its model, where nothing says when it may.
const LEFT_ALONE: Duration = Duration::from_secs(1);

impl ReplayOutcome {
    /// Another try may bring a result; the model may have acted on this one.
    pub(crate) fn retry(why: impl Into<String>) -> Self {
        Self::Retry { why: why.into(), acted: true }
    }

    /// The replay was broken off: it may have reached its model.
    pub(crate) fn broken_off() -> Self {
        Self::retry("the gateway stopped while the model was asked")
    }

    /// What it is where the model must not be asked twice: no other try, once it may have acted.
    pub(crate) fn at_most_once(self) -> Self {
        match self {
            Self::Retry { why, acted: true } => Self::Park(format!(
                "{why}; the model may have acted on it, and must not be asked twice (idempotent: false)"
            )),
            outcome => outcome,
        }
    }

    /// What an error comes to; `None`: asking again does not change it, so that it is the result.
    pub(crate) fn of_error(error: &Error) -> Option<Self> {
        Some(match error.kind() {
            // Members of an ensemble that could be asked were.
            Kind::Shed | Kind::Unavailable if error.may_have_acted() => Self::retry(error.to_string()),
            Kind::Shed | Kind::Unavailable | Kind::Cancelled => Self::Defer(error.retry_after().unwrap_or(LEFT_ALONE)),
            Kind::DeadlineExceeded | Kind::BackendFailed | Kind::Internal | Kind::RequestTimeout | Kind::SpoolFull => {
                Self::Retry { why: error.to_string(), acted: error.may_have_acted() }
            }
            Kind::InvalidRequest
            | Kind::TooLarge
            | Kind::NotFound
            | Kind::MethodNotAllowed
            | Kind::UnsupportedMediaType
            | Kind::Unauthenticated
            | Kind::NotAllowed
            | Kind::KeyReused
            | Kind::Unimplemented => return None,
        })
    }
}
