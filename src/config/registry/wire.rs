//! The messages of `feast.core` that a registry is made of, with the fields that are read and no others.
//!
//! Unknown fields are skipped, so that registries of later releases are read.
//!
//! **Source:** Feast 0.67, `protos/feast/core/{Registry,FeatureView,StreamFeatureView,FeatureService,…}.proto`.

use std::collections::HashMap;

use prost::Message;

/// `feast.core.Registry`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Registry {
    #[prost(message, repeated, tag = "1")]
    pub(super) entities: Vec<Entity>,
    #[prost(string, tag = "3")]
    pub(super) schema_version: String,
    #[prost(message, repeated, tag = "6")]
    pub(super) feature_views: Vec<FeatureView>,
    #[prost(message, repeated, tag = "7")]
    pub(super) feature_services: Vec<FeatureService>,
    #[prost(message, repeated, tag = "8")]
    pub(super) on_demand_feature_views: Vec<Object>,
    #[prost(message, repeated, tag = "14")]
    pub(super) stream_feature_views: Vec<StreamFeatureView>,
    #[prost(message, repeated, tag = "17")]
    pub(super) projects: Vec<Project>,
    #[prost(message, repeated, tag = "19")]
    pub(super) label_views: Vec<Object>,
}

/// Anything of which only the name matters.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Object {
    #[prost(message, optional, tag = "1")]
    pub(super) spec: Option<ObjectSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectSpec {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) project: String,
}

/// `feast.core.Project`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Project {
    #[prost(message, optional, tag = "1")]
    pub(super) spec: Option<ProjectSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ProjectSpec {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// `feast.core.Entity`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entity {
    #[prost(message, optional, tag = "1")]
    pub(super) spec: Option<EntitySpec>,
}

/// `feast.core.EntitySpecV2`
#[derive(Clone, PartialEq, Message)]
pub(super) struct EntitySpec {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int32, tag = "2")]
    pub(super) value_type: i32,
    #[prost(string, tag = "4")]
    pub(super) join_key: String,
    #[prost(string, tag = "9")]
    pub(super) project: String,
}

/// `feast.core.FeatureSpecV2`: a feature, or an entity's column.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Feature {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int32, tag = "2")]
    pub(super) value_type: i32,
}

/// `feast.core.FeatureView`
#[derive(Clone, PartialEq, Message)]
pub(super) struct FeatureView {
    #[prost(message, optional, tag = "1")]
    pub(super) spec: Option<FeatureViewSpec>,
    #[prost(message, optional, tag = "2")]
    pub(super) meta: Option<FeatureViewMeta>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FeatureViewSpec {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) project: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) entities: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    pub(super) features: Vec<Feature>,
    #[prost(map = "string, string", tag = "5")]
    pub(super) tags: HashMap<String, String>,
    #[prost(message, optional, tag = "6")]
    pub(super) ttl: Option<prost_types::Duration>,
    #[prost(message, optional, tag = "7")]
    pub(super) batch_source: Option<DataSource>,
    #[prost(message, optional, tag = "9")]
    pub(super) stream_source: Option<DataSource>,
    #[prost(message, repeated, tag = "12")]
    pub(super) entity_columns: Vec<Feature>,
    #[prost(bool, tag = "20")]
    pub(super) disabled: bool,
}

/// `feast.core.FeatureViewMeta`. Its state is not read: a view is served while it is materialized.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FeatureViewMeta {
    #[prost(int32, tag = "4")]
    pub(super) current_version_number: i32,
}

/// `feast.core.StreamFeatureView`
#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamFeatureView {
    #[prost(message, optional, tag = "1")]
    pub(super) spec: Option<StreamFeatureViewSpec>,
    #[prost(message, optional, tag = "2")]
    pub(super) meta: Option<FeatureViewMeta>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamFeatureViewSpec {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) project: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) entities: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    pub(super) features: Vec<Feature>,
    #[prost(message, repeated, tag = "5")]
    pub(super) entity_columns: Vec<Feature>,
    #[prost(map = "string, string", tag = "7")]
    pub(super) tags: HashMap<String, String>,
    #[prost(message, optional, tag = "9")]
    pub(super) ttl: Option<prost_types::Duration>,
    #[prost(message, optional, tag = "10")]
    pub(super) batch_source: Option<DataSource>,
    #[prost(message, optional, tag = "11")]
    pub(super) stream_source: Option<DataSource>,
    #[prost(bool, tag = "23")]
    pub(super) disabled: bool,
}

/// `feast.core.DataSource`
#[derive(Clone, PartialEq, Message)]
pub(super) struct DataSource {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(string, tag = "3")]
    pub(super) timestamp_field: String,
    #[prost(string, tag = "5")]
    pub(super) created_timestamp_column: String,
    #[prost(string, tag = "20")]
    pub(super) name: String,
}

impl DataSource {
    /// `DataSource.SourceType.PUSH_SOURCE`
    pub(super) const PUSH: i32 = 9;
}

/// `feast.core.FeatureService`
#[derive(Clone, PartialEq, Message)]
pub(super) struct FeatureService {
    #[prost(message, optional, tag = "1")]
    pub(super) spec: Option<FeatureServiceSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FeatureServiceSpec {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) project: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) features: Vec<Projection>,
    #[prost(bool, tag = "8")]
    pub(super) precompute_online: bool,
}

/// `feast.core.FeatureViewProjection`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Projection {
    #[prost(string, tag = "1")]
    pub(super) view: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) columns: Vec<Feature>,
    #[prost(string, tag = "3")]
    pub(super) alias: String,
    #[prost(map = "string, string", tag = "4")]
    pub(super) join_key_map: HashMap<String, String>,
    #[prost(int32, optional, tag = "10")]
    pub(super) version_tag: Option<i32>,
}
