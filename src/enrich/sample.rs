//! Sample models, rows and requests for tests and benches; not part of a release.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Body, Enricher, rule::BoundRule};
use crate::{
    config::{Column, Consistency, Feature, Inputs, Join, Model, View},
    features::FeatureSet,
    infer::{
        Datatype, Deadline, Decoded, EntityType, Error, FeatureType, InferRequest, Method, ModelId, Output, Payload,
        Plan, PoolId, Protocol, RequestId, Rule, TierId, Value, ViewId, WorkerId, decoded::Scalar, request::Caching,
    },
};

/// One model that joins one view, and its rows.
pub struct Sample {
    pub(crate) enricher: Enricher,
    pub(crate) features: FeatureSet,
    plan: Plan,
}

/// A feature of the sample's view: name, type, default.
pub(crate) type Declared<'a> = (&'a str, FeatureType, Value);

/// A view `user_stats` over `entity`.
pub(crate) fn view(entity: (&str, EntityType), features: &[Declared<'_>]) -> Arc<View> {
    let feature = |(name, kind, default): &Declared<'_>| Feature {
        name: Arc::from(*name),
        kind: *kind,
        default: default.clone(),
        length: None,
    };
    Arc::new(View {
        id: ViewId(0),
        name: "user_stats".into(),
        stored: "user_stats".into(),
        entities: vec![(entity.0.into(), entity.1)],
        features: features.iter().map(feature).collect(),
        ttl: Duration::from_secs(300),
        max_age: None,
        consistency: Consistency::Ttl,
    })
}

/// A model `fraud` that joins all of a view by the source of the same name as its entity.
pub(crate) fn model(view: &View, upstream: &str, inputs: Option<Inputs>) -> Model {
    let join = Join {
        view: view.id,
        label: Arc::clone(&view.name),
        sources: view.entities.iter().map(|(name, _)| Arc::clone(name)).collect(),
        select: (0..view.features.len()).collect(),
        optional: false,
    };
    Model {
        name: "fraud".into(),
        tier: TierId(0),
        pool: PoolId(0),
        upstream: upstream.into(),
        registered: upstream.into(),
        timeout: Duration::from_secs(5),
        idempotent: true,
        joins: if inputs.is_some() { vec![join] } else { Vec::new() },
        inputs,
        explainer: None,
        fallback: None,
        cache: None,
        ensemble: None,
        queue_on_reject: false,
        low_priority: false,
    }
}

/// A matrix `input-0` of request columns, then every feature of the view.
pub(crate) fn matrix(datatype: Datatype, request: &[&str], features: usize) -> Inputs {
    let columns = request.iter().map(|&name| Column::Request(name.into()));
    let columns = columns.chain((0..features).map(|select| Column::Feature { join: 0, select })).collect();
    Inputs::Matrix { name: "input-0".into(), datatype, columns }
}

/// A tensor for every feature, under its own name; `request` columns are entities to keep.
#[cfg(test)]
pub(crate) fn columns(request: &[&str], view: &View) -> Inputs {
    use crate::config::NamedColumn;
    let kept = request.iter().map(|&name| NamedColumn { name: name.into(), column: Column::Request(name.into()) });
    let joined = view.features.iter().enumerate().map(|(select, feature)| NamedColumn {
        name: Arc::clone(&feature.name),
        column: Column::Feature { join: 0, select },
    });
    Inputs::Columns { columns: kept.chain(joined).collect() }
}

/// A request to the first model.
pub(crate) fn request(protocol: Protocol, json_length: Option<usize>, payload: Payload) -> InferRequest {
    InferRequest {
        id: RequestId(http::HeaderValue::from_static("sample")),
        worker: WorkerId(0),
        protocol,
        method: Method::Predict,
        verb: http::Method::POST,
        path: http::uri::PathAndQuery::from_static("/"),
        model: ModelId(0),
        version: None,
        tier: TierId(0),
        deadline: Deadline::after(Instant::now(), Duration::from_secs(5)),
        caching: Caching::Allowed,
        headers: Arc::default(),
        json_length,
        payload,
        as_came: None,
    }
}

/// A plan that asks the first model.
pub(crate) fn plan() -> Plan {
    let deadline = Deadline::after(Instant::now(), Duration::from_secs(5));
    Plan::full(ModelId(0), PoolId(0), TierId(0), deadline)
}

impl Sample {
    /// A model over a view and its rows, in the order of the request's instances; `None`: no usable row.
    pub(crate) fn new(view: &Arc<View>, model: Model, rows: Vec<Option<Vec<Value>>>) -> Self {
        let select: Vec<usize> = (0..view.features.len()).collect();
        let features = FeatureSet::sample(Arc::clone(view), &select, rows);
        let enricher = Enricher::compile(&[model], std::slice::from_ref(view), 64 << 20);
        Self { enricher, features, plan: plan() }
    }

    /// One user, a request column and nine features that become a matrix of ten FP32 columns.
    #[must_use]
    pub fn ten_columns() -> Self {
        let names: Vec<String> = (0..9).map(|index| format!("f{index}")).collect();
        let declared: Vec<Declared<'_>> =
            names.iter().map(|name| (name.as_str(), FeatureType::Double, Value::Double(0.0))).collect();
        let view = view(("user_id", EntityType::Int64), &declared);
        let model = model(&view, "fraud", Some(matrix(Datatype::Fp32, &["amount"], 9)));
        let row = (0..9).map(|index| Value::Double(f64::from(index) * 17.31)).collect();
        Self::new(&view, model, vec![Some(row)])
    }

    /// The body that the sample's model receives for a decoded one.
    ///
    /// # Errors
    /// As [`Enricher::enrich`].
    pub fn body(&self, protocol: Protocol, decoded: Decoded) -> Result<(Bytes, Option<usize>), Error> {
        let enriched = self.enricher.enrich(
            Box::new(request(protocol, None, Payload::Decoded(Arc::new(decoded)))),
            &self.features,
            &self.plan,
        )?;
        match enriched.body {
            Body::Whole(bytes) => Ok((bytes, enriched.json_length)),
            Body::Stream { .. } => Err(Error::invalid("a decoded body became a stream")),
        }
    }
}

/// A rule over one request column and one feature, and a user for every row.
pub struct RuleSample {
    rule: BoundRule,
    features: FeatureSet,
    output: Output,
}

impl RuleSample {
    /// A rule that reads `amount` of the request and the feature `txns`.
    ///
    /// # Errors
    /// As [`Rule::compile`].
    pub fn new(rule: &str, rows: usize) -> Result<Self, String> {
        let view = view(("user_id", EntityType::Int64), &[("txns", FeatureType::Int64, Value::Int64(0))]);
        let model = model(&view, "fraud", Some(matrix(Datatype::Fp32, &["amount"], 1)));
        let rule = BoundRule::bind(&Rule::compile(rule)?, &model, std::slice::from_ref(&view));
        let features =
            FeatureSet::sample(view, &[0], (0..rows).map(|row| Some(vec![Value::Int64(row as i64)])).collect());
        let shape = [1].into_iter().collect();
        let output = Output::new("score".into(), Datatype::Fp32, shape, [Scalar::Double(0.5)])?;
        Ok(Self { rule, features, output })
    }

    /// The filled output.
    ///
    /// # Errors
    /// As [`BoundRule::fill`].
    pub fn fill(&self, decoded: &Decoded) -> Result<Output, Error> {
        self.rule.fill(decoded, &self.features, self.features.rows().unwrap_or(0), &self.output)
    }
}
