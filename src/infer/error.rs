//! What can go wrong for a request, in the terms the caller is told: one kind, one sentence.
//!
//! The kind alone decides HTTP status, gRPC code, blame and whether the ladder may answer instead: the table is
//! `ingress::status`. The message says what was wrong, where, and what is allowed.

use std::time::Duration;

/// What went wrong, named by what the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is malformed: mend it.
    InvalidRequest,
    /// The body is over the limit.
    TooLarge,
    /// The body did not arrive in time.
    RequestTimeout,
    /// No such model, version or path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body is of a type that is not spoken here.
    UnsupportedMediaType,
    /// Credentials are missing.
    Unauthenticated,
    /// Credentials do not allow this.
    NotAllowed,
    /// Refused at the door: a tier's slots and queue are full.
    Shed,
    /// The deadline passed.
    DeadlineExceeded,
    /// The backend failed: 5xx, reset, unreadable answer.
    BackendFailed,
    /// No endpoint could be asked, or nothing is left to answer with.
    Unavailable,
    /// This deployment cannot do that at all (no such port at the endpoint, no such method).
    Unimplemented,
    /// The caller went away.
    Cancelled,
    /// The idempotency key was used for another request: use a new one.
    KeyReused,
    /// The request could not be kept for later: the spool is full.
    SpoolFull,
    /// A defect in Weir.
    Internal,
}

/// A request's failure.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    retry_after: Option<Duration>,
    waited: Option<Duration>,
    /// Whether a model may have acted on the request, where the kind does not tell.
    acted: Option<bool>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`, told as `message` (lower case, no full stop).
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, waited: None, acted: None, source: None }
    }

    /// The request is malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, message)
    }

    /// Adds what caused it; shown in logs, not to the caller.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub const fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds how long the model was waited for in vain.
    #[must_use]
    pub const fn with_waited(mut self, waited: Duration) -> Self {
        self.waited = Some(waited);
        self
    }

    /// Adds whether a model may have been given the request: by its kind alone, any but one that was turned away may.
    #[must_use]
    pub const fn with_acted(mut self, acted: bool) -> Self {
        self.acted = Some(acted);
        self
    }

    /// The kind, which decides everything but the text.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// When to try again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// How long the model was waited for in vain, where it was: for nothing else, and not between attempts.
    #[must_use]
    pub const fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// Whether a model may have been given the request, and may have acted on it. Where that is not known it may.
    #[must_use]
    pub fn may_have_acted(&self) -> bool {
        self.acted.unwrap_or(!matches!(self.kind, Kind::Shed | Kind::Unavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_may_have_acted_unless_it_is_known_that_nothing_was_sent() {
        let by_kind = |kind| Error::new(kind, "").may_have_acted();
        assert!(!by_kind(Kind::Shed) && !by_kind(Kind::Unavailable));
        assert!(by_kind(Kind::BackendFailed) && by_kind(Kind::DeadlineExceeded) && by_kind(Kind::Internal));
        assert!(!Error::new(Kind::BackendFailed, "no connection").with_acted(false).may_have_acted());
        assert!(
            Error::new(Kind::Unavailable, "no endpoint, but another member was asked")
                .with_acted(true)
                .may_have_acted()
        );
    }
}
