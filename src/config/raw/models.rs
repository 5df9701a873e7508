//! Models, joins, inputs and fallbacks as the file says them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Loose, Named, Ratio, Span};

/// A model: where it runs and what it is sent.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Model {
    /// Its class of service.
    #[schemars(extend("x-unset" = "standard, else the lowest"))]
    pub(crate) tier: Option<String>,
    /// Its pool.
    #[schemars(extend("x-unset" = "its tier's pool, else the only one"))]
    pub(crate) pool: Option<String>,
    /// Its name at the pool.
    #[schemars(extend("x-unset" = "the same name"))]
    pub(crate) upstream_model: Option<String>,
    /// Its name in MLflow's registry: a promotion there drops what is kept of its predictions (`mlflow`).
    #[schemars(extend("x-unset" = "its name at the pool"))]
    pub(crate) registered_model: Option<String>,
    /// The deadline where the caller gives none, and the longest a caller may ask for.
    pub(crate) timeout: Span,
    /// Whether asking twice changes nothing. `false`: only what never reached an endpoint is asked again, at once or from the spool, and nothing
    /// is hedged.
    pub(crate) idempotent: bool,
    /// What is joined to its requests: a list of views, or a feature service of the registry. Without any, requests are forwarded
    /// byte for byte.
    pub(crate) features: Joined,
    /// What the model receives.
    #[schemars(extend("x-unset" = "every selected feature as a tensor of its name"))]
    pub(crate) inputs: Option<Inputs>,
    /// The prediction cache.
    #[schemars(extend("x-unset" = "off"))]
    pub(crate) cache: Option<PredictionCache>,
    /// Who answers V1 `:explain`.
    #[schemars(extend("x-unset" = "none, :explain answers 501"))]
    pub(crate) explainer: Option<Explainer>,
    /// Models that answer together in its place. An ensemble has no `pool`, `upstream_model`, `features`, `inputs`, `explainer`, `cache`
    /// and `idempotent` of its own: its members have theirs.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) ensemble: Option<Ensemble>,
    /// Whether a request that cannot be answered is queued (202) although the caller did not ask for it with
    /// `prefer: respond-async`.
    pub(crate) queue_on_reject: bool,
    /// What answers when the model does not.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) fallback: Option<Fallback>,
    /// Whether it makes room where its pool's GPU memory is short: its fallback's model or rule answers, else nobody does.
    #[schemars(extend("x-unset" = "its tier's"))]
    pub(crate) low_priority: Option<bool>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            tier: None,
            pool: None,
            upstream_model: None,
            registered_model: None,
            timeout: Span::secs(5),
            idempotent: true,
            features: Joined::default(),
            inputs: None,
            cache: None,
            explainer: None,
            ensemble: None,
            queue_on_reject: false,
            fallback: None,
            low_priority: None,
        }
    }
}

/// What is joined: views one by one, or a service.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Joined {
    Views(Vec<Join>),
    Service(Service),
}

impl Default for Joined {
    fn default() -> Self {
        Self::Views(Vec::new())
    }
}

/// A feature service of the registry.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Service {
    /// Its name. Its projections are joined in its order; each join key is carried by what the service calls it, and
    /// `inputs.columns` calls a view as the service does.
    #[schemars(extend("x-required" = true))]
    pub(crate) service: String,
}

/// A view joined to a model's requests.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Join {
    /// The view, a key of `features.views`.
    #[schemars(extend("x-required" = true))]
    pub(crate) view: String,
    /// For every join key of the view, what carries it: an input tensor (`[n]` or `[n, 1]`), a key of each V1 instance, or a
    /// request parameter.
    #[schemars(extend("x-required" = true))]
    pub(crate) join: Named<String>,
    /// The features to join, in order.
    #[schemars(extend("x-unset" = "all of the view's"))]
    pub(crate) select: Option<Vec<String>>,
    /// Whether the view is skipped at level 1.
    pub(crate) optional: bool,
}

/// What a model with joins receives.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Inputs {
    /// One tensor with a row an instance, or one tensor a feature.
    #[serde(rename = "as")]
    #[schemars(extend("x-required" = true))]
    pub(crate) form: Form,
    /// The matrix's name.
    #[schemars(extend("x-unset" = "required for a matrix"))]
    pub(crate) name: Option<String>,
    /// The matrix's datatype: every column is converted to it.
    #[schemars(extend("x-unset" = "required for a matrix"))]
    pub(crate) datatype: Option<String>,
    /// What each column holds: `view:feature`, or the name of a tensor of the request.
    #[schemars(extend("x-unset" = "every selected feature; required for a matrix"))]
    pub(crate) columns: Option<Vec<Column>>,
}

/// How features reach the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    Matrix,
    #[default]
    Columns,
}

/// A column: what it holds, or that under another name.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Column {
    From(String),
    Renamed(Renamed),
}

/// A column under another name.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Renamed {
    /// The tensor's name.
    #[schemars(extend("x-required" = true))]
    pub(crate) name: String,
    /// `view:feature`, or the name of a tensor of the request.
    #[schemars(extend("x-required" = true))]
    pub(crate) from: String,
}

/// The prediction cache of a model.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PredictionCache {
    /// How long a prediction answers the same request.
    pub(crate) ttl: Span,
    /// How long it may answer at level 3.
    pub(crate) keep_for: Span,
    /// Which input names the entity, for answers at level 3 to other requests about it: a tensor, a key of each V1 instance, or a
    /// request parameter.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) entity: Option<String>,
    /// Request headers that the model's answers depend on, beside `content-type`, `content-encoding`, `accept`, `accept-encoding`,
    /// `accept-language`, `authorization`, `cookie`, `x-api-key` and gRPC's encodings, which are always told apart.
    pub(crate) headers: Vec<String>,
}

impl Default for PredictionCache {
    fn default() -> Self {
        Self { ttl: Span::secs(30), keep_for: Span::secs(3600), entity: None, headers: Vec::new() }
    }
}

/// Who answers explanations.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Explainer {
    /// The explainer's pool.
    #[schemars(extend("x-required" = true))]
    pub(crate) pool: String,
}

/// Models that answer together.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ensemble {
    /// The members, keys of `models`: asked at once, each as if the request named it, but within this model's deadline and without
    /// its own fallback.
    #[schemars(extend("x-required" = true))]
    pub(crate) members: Vec<String>,
    /// How their answers become one.
    pub(crate) combine: Combine,
    /// With `combine: weighted` or `vote`, what each member counts.
    #[schemars(extend("x-unset" = "one alike; required with combine: weighted"))]
    pub(crate) weights: Vec<f64>,
}

/// How members' answers become one: the mean of each element, the mean by `weights`, or the value that most members give.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Combine {
    #[default]
    Mean,
    Weighted,
    Vote,
}

/// What answers when the model does not, in this order.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Fallback {
    /// A simpler model, a key of `models`.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) model: Option<String>,
    /// A CEL expression over inputs and features, evaluated once a row; it fills the first output of `default`.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) rule: Option<String>,
    /// Share of the deadline kept for the fallback's model; where there is none, at most 10 ms of it is kept for the rest.
    pub(crate) reserve: Ratio,
    /// What is answered when nothing else can.
    #[schemars(extend("x-unset" = "none"))]
    pub(crate) default: Option<DefaultAnswer>,
}

impl Default for Fallback {
    fn default() -> Self {
        Self { model: None, rule: None, reserve: Ratio(0.3), default: None }
    }
}

/// A model's default answer.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DefaultAnswer {
    /// Its output tensors.
    #[schemars(extend("x-required" = true))]
    pub(crate) outputs: Vec<Output>,
}

/// An output tensor.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Output {
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub(crate) name: String,
    /// Its datatype, in the Open Inference Protocol's terms.
    #[schemars(extend("x-required" = true))]
    pub(crate) datatype: String,
    /// Its shape, outermost dimension first.
    #[schemars(extend("x-required" = true))]
    pub(crate) shape: Vec<u32>,
    /// Its elements, in row-major order.
    #[schemars(extend("x-required" = true))]
    pub(crate) data: Vec<Loose>,
}
