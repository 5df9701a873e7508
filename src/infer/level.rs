//! The five levels of service, worst last. A level is a promise to the caller, carried in `weir-level` on every answer.

use std::fmt;

/// How much of the full service an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// All features, the full model.
    Full = 0,
    /// Stale rows or skipped optional views.
    ReducedFeatures = 1,
    /// Default features, or a simpler model.
    SimplifiedModel = 2,
    /// A cached prediction or the model's default outputs.
    DefaultResponse = 3,
    /// Nothing could be given: 503 with `retry-after`.
    Reject = 4,
}

impl Level {
    /// All levels, best first.
    pub const ALL: [Self; 5] =
        [Self::Full, Self::ReducedFeatures, Self::SimplifiedModel, Self::DefaultResponse, Self::Reject];

    /// The name used in metrics, logs and the access log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReducedFeatures => "reduced_features",
            Self::SimplifiedModel => "simplified_model",
            Self::DefaultResponse => "default_response",
            Self::Reject => "reject",
        }
    }

    /// The digit sent in `weir-level`.
    #[must_use]
    pub const fn digit(self) -> &'static str {
        match self {
            Self::Full => "0",
            Self::ReducedFeatures => "1",
            Self::SimplifiedModel => "2",
            Self::DefaultResponse => "3",
            Self::Reject => "4",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
