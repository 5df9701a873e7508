//! Stage 3: joined rows into the tensors a model wants, spliced into the request's own bytes. Pure.
//!
//! ```text
//! request's bytes ──┬─ kept: tensors, parameters, id, outputs, members nobody knows: copied, in their order
//!                   ├─ dropped: entities the model does not list, columns that moved into the matrix
//!                   └─ appended: one matrix, or one tensor a feature
//! ```
//!
//! What is kept is kept byte for byte; only commas and the space between kept JSON elements are written anew. A request
//! whose model joins nothing is not touched, except that a gRPC message is renamed where the pool knows the model under
//! another name. What cannot be said in the request's protocol (a NaN in JSON) is an error in words, never a guess.

#[cfg(test)]
mod grid;
mod grpc;
mod recipe;
pub mod rename;
pub mod rule;
#[cfg(any(test, feature = "bench"))]
pub mod sample;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod v1;
mod v2;
mod value;

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use smallvec::SmallVec;

use self::{
    recipe::{Output, Recipe},
    rule::BoundRule,
};
use crate::{
    config::{Config, Model, View},
    features::FeatureSet,
    infer::{
        Decoded, Error, InferRequest, Kind, ModelId, Payload, Plan, Protocol, Rest, WorkerId,
        decoded::{Layout, Span, Text},
    },
};

/// The most room that is made before anything is written.
const MOST_ROOM: usize = 4 << 20;

/// Compiles every model's recipe once, then turns requests into what their models receive.
#[derive(Debug)]
pub struct Enricher {
    recipes: Vec<Recipe>,
    rules: Vec<Option<BoundRule>>,
    max_body: u64,
}

/// A request as its model shall see it.
#[derive(Debug)]
pub struct Enriched {
    /// The request; its payload was taken.
    pub(crate) request: Box<InferRequest>,
    /// What is sent.
    pub(crate) body: Body,
    /// For the binary extension: how long the JSON at the front of `body` is.
    pub(crate) json_length: Option<usize>,
}

/// What is sent to the model.
pub enum Body {
    /// What was read so far, then the rest as it comes.
    Stream {
        /// Bytes already read.
        head: Bytes,
        /// What is still to come.
        rest: Rest,
    },
    /// All of it. In gRPC always one uncompressed frame where anything was changed.
    Whole(Bytes),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream { head, .. } => write!(f, "Stream({}+)", head.len()),
            Self::Whole(bytes) => write!(f, "Whole({})", bytes.len()),
        }
    }
}

impl Enriched {
    /// The worker that the request runs on.
    pub(crate) const fn worker(&self) -> WorkerId {
        self.request.worker
    }
}

impl Enricher {
    /// Compiles the recipes of every model in the snapshot.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::compile(&config.models, &config.features.views, config.listen.max_body)
    }

    fn compile(models: &[Model], views: &[Arc<View>], max_body: u64) -> Self {
        let rule = |model: &Model| Some(BoundRule::bind(model.fallback.as_ref()?.rule.as_ref()?, model, views));
        Self {
            recipes: models.iter().map(|model| Recipe::new(model, views)).collect(),
            rules: models.iter().map(rule).collect(),
            max_body,
        }
    }

    /// The rule that answers for a model, where it has one.
    pub fn rule(&self, model: ModelId) -> Option<&BoundRule> {
        self.rules[model.index()].as_ref()
    }

    /// Builds what the plan's model is sent.
    ///
    /// # Errors
    /// A request column is missing or cannot be converted (the caller's), a feature's value cannot be sent (the backend's);
    /// the message names column or feature, row and what is allowed.
    pub fn enrich(
        &self,
        mut request: Box<InferRequest>,
        features: &FeatureSet,
        plan: &Plan,
    ) -> Result<Enriched, Error> {
        let recipe = &self.recipes[plan.model.index()];
        // A fallback is asked under its own name, whatever name the caller used.
        let renamed = recipe.renamed || request.model != plan.model;
        let rename = (request.protocol == Protocol::Grpc && renamed).then_some(&*recipe.upstream);
        let spliced = rename.map(|upstream| (rename::field(request.path.path()), upstream));
        let payload = std::mem::replace(&mut request.payload, Payload::Retained(Bytes::new()));
        let mut json_length = request.json_length;
        let body = match payload {
            Payload::Stream { head, rest } => Body::Stream {
                head: match spliced {
                    Some(name) => rename::front(&head, name)?,
                    None => head,
                },
                rest,
            },
            Payload::Retained(bytes) => Body::Whole(match spliced {
                Some(name) => rename::request(&bytes, name, self.max_body)?,
                None => bytes,
            }),
            Payload::Decoded(decoded) => {
                let (bytes, length) = join(&decoded, recipe, features, rename)?;
                json_length = length.or(json_length);
                Body::Whole(bytes)
            }
        };
        Ok(Enriched { request, body, json_length })
    }
}

/// Splices a decoded body; returns it and, in the binary extension, the length of its JSON.
fn join(
    decoded: &Decoded,
    recipe: &Recipe,
    features: &FeatureSet,
    rename: Option<&str>,
) -> Result<(Bytes, Option<usize>), Error> {
    let join = Join::new(decoded, recipe, features);
    match &decoded.layout {
        Layout::Grpc { model, form } => grpc::write(&join, model, *form, rename).map(|bytes| (bytes, None)),
        _ if matches!(recipe.output, Output::Nothing) => Ok((decoded.body.clone(), None)),
        Layout::V1 { instances, parameters } => v1::write(&join, instances, *parameters).map(|bytes| (bytes, None)),
        Layout::V2 { json, inputs, present, parameters } => {
            v2::write(&join, &v2::Object { json: *json, inputs: *inputs, present: *present, parameters: *parameters })
        }
    }
}

/// What every protocol's splice works from.
struct Join<'a> {
    decoded: &'a Decoded,
    recipe: &'a Recipe,
    features: &'a FeatureSet,
    /// Tensors or instance keys to leave out.
    dropped_rows: SmallVec<[&'a str; 4]>,
    /// Request parameters to leave out: those of a dropped name that the request does not carry a row.
    dropped_parameters: SmallVec<[&'a str; 4]>,
}

impl<'a> Join<'a> {
    fn new(decoded: &'a Decoded, recipe: &'a Recipe, features: &'a FeatureSet) -> Self {
        let names = recipe.dropped.iter().map(|name| &**name);
        // Once a request, not once an instance: the look at the first instance is as long as the caller made it.
        let (dropped_rows, rest): (_, SmallVec<[&str; 4]>) = names.partition(|name| decoded.in_rows(name));
        let dropped_parameters = rest.into_iter().filter(|name| decoded.parameter(name).is_some()).collect();
        Self { decoded, recipe, features, dropped_rows, dropped_parameters }
    }

    /// How many instances the answer of the feature stage is for.
    fn rows(&self) -> Result<usize, Error> {
        self.features.rows().ok_or_else(|| Error::new(Kind::Internal, "a model with joins got no joined rows"))
    }

    /// Copies a range of the body; `parameters`, where it lies inside, goes without what is dropped.
    fn copy(&self, out: &mut Vec<u8>, range: Range<usize>, parameters: Option<Span>) {
        let body = &self.decoded.body;
        match parameters {
            Some(span) if range.contains(&span.start()) && !self.dropped_parameters.is_empty() => {
                out.extend_from_slice(&body[range.start..span.start()]);
                self.put_parameters(out);
                out.extend_from_slice(&body[span.end()..range.end]);
            }
            _ => out.extend_from_slice(&body[range]),
        }
    }

    fn put_parameters(&self, out: &mut Vec<u8>) {
        let body = &self.decoded.body;
        let mut comma = false;
        out.push(b'{');
        for parameter in &self.decoded.parameters {
            if self.drops_parameter(parameter.key) {
                continue;
            }
            if comma {
                out.push(b',');
            }
            comma = true;
            out.extend_from_slice(parameter.span.of(body));
        }
        out.push(b'}');
    }

    /// Whether a tensor or instance key of that name is left out.
    fn drops(&self, name: Text) -> bool {
        self.dropped_rows.iter().any(|dropped| name.is(&self.decoded.body, dropped))
    }

    /// Whether a request parameter of that name is left out.
    fn drops_parameter(&self, name: Text) -> bool {
        self.dropped_parameters.iter().any(|dropped| name.is(&self.decoded.body, dropped))
    }

    /// About how many bytes are appended, to make room for; what is more grows into it.
    fn estimate(&self) -> usize {
        let columns = match &self.recipe.output {
            Output::Nothing => 0,
            Output::Matrix(matrix) => matrix.columns.len(),
            Output::Columns(columns) => columns.len(),
        };
        let row = self.features.rows().unwrap_or(0).saturating_mul(12);
        columns.saturating_mul(row.saturating_add(64)).saturating_add(256).min(MOST_ROOM)
    }
}
