//! What a model's requests become, compiled from the config: which names go, what is appended, and every constant fragment
//! of the tensors that are appended, in each protocol's syntax.

use std::sync::Arc;

use crate::{
    config::{Column, Inputs, Model, View},
    infer::{Datatype, FeatureType, decoded::sink::Head},
};

/// One model's.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The name at the pool.
    pub(super) upstream: Arc<str>,
    /// Whether the pool knows it under another name.
    pub(super) renamed: bool,
    /// What carries the entities.
    pub(super) sources: Vec<Arc<str>>,
    /// Tensors, instance keys and parameters that the model does not get.
    pub(super) dropped: Vec<Arc<str>>,
    pub(super) output: Output,
}

/// What is appended.
#[derive(Debug)]
pub(super) enum Output {
    /// Nothing is joined.
    Nothing,
    /// One tensor of every column.
    Matrix(Matrix),
    /// One tensor a feature.
    Columns(Vec<Joined>),
}

/// One tensor, a row an instance.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) head: Head,
    pub(super) datatype: Datatype,
    pub(super) columns: Vec<Source>,
}

/// One tensor of one feature.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) head: Head,
    pub(super) datatype: Datatype,
    pub(super) feature: Feature,
}

/// Where a matrix column's values come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The request.
    Request(Arc<str>),
    /// A joined row.
    Feature(Feature),
}

/// A joined feature.
#[derive(Debug)]
pub(super) struct Feature {
    pub(super) join: usize,
    pub(super) select: usize,
    pub(super) list: bool,
    /// How many elements each row of a list must have, where the config says.
    pub(super) length: Option<usize>,
    /// `view:feature`, as errors name it.
    pub(super) label: Box<str>,
}

impl Recipe {
    pub(super) fn new(model: &Model, views: &[Arc<View>]) -> Self {
        let mut sources: Vec<Arc<str>> = Vec::new();
        for source in model.joins.iter().flat_map(|join| &join.sources) {
            if !sources.contains(source) {
                sources.push(Arc::clone(source));
            }
        }
        let mut dropped = sources.clone();
        let output = match &model.inputs {
            None => Output::Nothing,
            Some(Inputs::Matrix { name, datatype, columns }) => {
                for column in columns {
                    if let Column::Request(name) = column
                        && !dropped.contains(name)
                    {
                        dropped.push(Arc::clone(name));
                    }
                }
                let columns = columns.iter().map(|column| Source::new(column, model, views)).collect();
                Output::Matrix(Matrix { head: Head::new(name, *datatype), datatype: *datatype, columns })
            }
            Some(Inputs::Columns { columns }) => {
                let listed =
                    |name: &str| columns.iter().any(|c| matches!(&c.column, Column::Request(r) if **r == *name));
                dropped.retain(|name| !listed(name));
                let joined = columns.iter().filter_map(|named| match Source::new(&named.column, model, views) {
                    Source::Request(_) => None,
                    Source::Feature(feature) => Some(Joined::new(&named.name, feature, model, views)),
                });
                Output::Columns(joined.collect())
            }
        };
        let renamed = model.upstream != model.name;
        Self { upstream: Arc::clone(&model.upstream), renamed, sources, dropped, output }
    }
}

fn declared(model: &Model, views: &[Arc<View>], join: usize, select: usize) -> (Arc<View>, usize) {
    let join = &model.joins[join];
    (Arc::clone(&views[join.view.index()]), join.select[select])
}

impl Source {
    fn new(column: &Column, model: &Model, views: &[Arc<View>]) -> Self {
        match column {
            Column::Request(name) => Self::Request(Arc::clone(name)),
            &Column::Feature { join, select } => {
                let (view, index) = declared(model, views, join, select);
                let feature = &view.features[index];
                let label = format!("{}:{}", model.joins[join].label, feature.name).into();
                Self::Feature(Feature { join, select, list: feature.kind.is_list(), length: feature.length, label })
            }
        }
    }
}

impl Joined {
    fn new(name: &Arc<str>, feature: Feature, model: &Model, views: &[Arc<View>]) -> Self {
        let (view, index) = declared(model, views, feature.join, feature.select);
        let datatype = datatype_of(view.features[index].kind);
        Self { head: Head::new(name, datatype), datatype, feature }
    }
}

/// The datatype that holds a feature type's elements exactly.
pub(super) const fn datatype_of(kind: FeatureType) -> Datatype {
    match kind {
        FeatureType::Bytes | FeatureType::String | FeatureType::BytesList | FeatureType::StringList => Datatype::Bytes,
        // No config lets a model join one.
        FeatureType::Opaque => Datatype::Bytes,
        FeatureType::Int32 | FeatureType::Int32List => Datatype::Int32,
        FeatureType::Int64 | FeatureType::Int64List => Datatype::Int64,
        FeatureType::UnixTimestamp | FeatureType::UnixTimestampList => Datatype::Int64,
        FeatureType::Double | FeatureType::DoubleList => Datatype::Fp64,
        FeatureType::Float | FeatureType::FloatList => Datatype::Fp32,
        FeatureType::Bool | FeatureType::BoolList => Datatype::Bool,
    }
}
