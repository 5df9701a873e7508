//! MLflow's model registry as the file says it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Hidden, Span};

/// MLflow's model registry: a promotion there drops the predictions that are kept of the model. Told by a webhook
/// (`POST /admin/v1/webhooks/mlflow`, with `secret`), found by looking (with `url`), or both: the webhook is fast and may be lost.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Mlflow {
    /// The webhook's secret, as given to MLflow. Without it no delivery is accepted.
    pub(crate) secret: Option<Hidden>,
    /// How old, or how far ahead, a delivery's timestamp may be; within that time no delivery counts twice.
    #[schemars(extend("x-minimum" = "1s"))]
    pub(crate) tolerance: Span,
    /// The tracking server, such as `http://mlflow:5000`, whose registered models are looked at. Without it only the webhook tells.
    #[schemars(extend("x-unset" = "nothing is looked at"))]
    pub(crate) url: Option<String>,
    /// Bearer token for the tracking server.
    pub(crate) token: Option<Hidden>,
    /// User at the tracking server (basic authentication), with `password`.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) username: Option<String>,
    /// The user's password.
    pub(crate) password: Option<Hidden>,
    /// How often registered models are looked at, at least `1s`.
    #[schemars(extend("x-minimum" = "1s"))]
    pub(crate) reconcile_every: Span,
    /// Longest wait for one answer of the tracking server.
    pub(crate) timeout: Span,
    /// The aliases that say what is served: setting, moving or deleting one of them is a promotion. Each as MLflow allows:
    /// letters, digits, `_` and `-`; not `latest`, nor `v` and a number.
    #[schemars(extend("x-unset" = "every alias"))]
    pub(crate) aliases: Option<Vec<String>>,
}

impl Default for Mlflow {
    fn default() -> Self {
        Self {
            secret: None,
            tolerance: Span::secs(300),
            url: None,
            token: None,
            username: None,
            password: None,
            reconcile_every: Span::secs(60),
            timeout: Span::secs(5),
            aliases: None,
        }
    }
}
