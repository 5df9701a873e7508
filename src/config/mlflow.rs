//! How promotions in MLflow's model registry are heard of.

use std::{sync::Arc, time::Duration};

use super::Secret;

/// MLflow's model registry. At least one of `secret` and `server` is there.
#[derive(Clone, Debug)]
pub(crate) struct Mlflow {
    /// Of the webhook; `None`: no delivery is accepted.
    pub(crate) secret: Option<Secret>,
    /// How far a delivery's timestamp may be from now; at least a second.
    pub(crate) tolerance: Duration,
    /// `None`: nothing is looked at.
    pub(crate) server: Option<MlflowServer>,
    /// `None`: every alias says what is served.
    pub(crate) aliases: Option<Vec<Arc<str>>>,
}

/// The tracking server, and how it is asked.
#[derive(Clone, Debug)]
pub(crate) struct MlflowServer {
    /// `http://` or `https://`, without a slash at the end.
    pub(crate) url: Arc<str>,
    pub(crate) access: MlflowAccess,
    /// How often; at least a second.
    pub(crate) every: Duration,
    /// Longest wait for one answer.
    pub(crate) timeout: Duration,
}

/// As whom it is asked.
#[derive(Clone, Debug)]
pub(crate) enum MlflowAccess {
    /// As nobody.
    Anonymous,
    /// As the token's bearer.
    Bearer(Secret),
    /// As a user with a password.
    Basic(Arc<str>, Secret),
}

impl Mlflow {
    /// Whether an alias says what is served.
    pub(crate) fn counts(&self, alias: &str) -> bool {
        self.aliases.as_ref().is_none_or(|aliases| aliases.iter().any(|known| &**known == alias))
    }
}
