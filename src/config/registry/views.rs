//! A feature view of the registry, as a view that Weir serves; or why it cannot be.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    Reading, Versions,
    wire::{self, DataSource},
};
use crate::{
    config::{Consistency, ENTITYLESS_KEY, Feature, Times, View, validate},
    infer::{EntityType, FeatureType, ViewId},
};

/// What Feast calls the entity of views without one.
pub(super) const DUMMY_ENTITY: &str = "__dummy";

/// The tag of a view that says how a changed row reaches what gateways keep of it.
const CONSISTENCY: &str = "weir.consistency";

/// What feature views and stream feature views have in common.
#[derive(Clone, Copy)]
pub(super) struct Spec<'a> {
    pub(super) name: &'a str,
    pub(super) project: &'a str,
    entities: &'a [String],
    columns: &'a [wire::Feature],
    features: &'a [wire::Feature],
    tags: &'a HashMap<String, String>,
    ttl: Option<&'a prost_types::Duration>,
    batch: Option<&'a DataSource>,
    stream: Option<&'a DataSource>,
    disabled: bool,
    version: i32,
}

/// A project's entities by name.
pub(super) fn entities<'a>(registry: &'a wire::Registry, project: &str) -> HashMap<&'a str, &'a wire::EntitySpec> {
    let specs = registry.entities.iter().filter_map(|entity| entity.spec.as_ref());
    specs.filter(|spec| spec.project == project).map(|spec| (spec.name.as_str(), spec)).collect()
}

/// The current version of every view of a project.
pub(super) fn versions<'a>(registry: &'a wire::Registry, project: &str) -> impl Iterator<Item = (&'a str, i32)> {
    let plain = registry.feature_views.iter().filter_map(Spec::of_view);
    let streams = registry.stream_feature_views.iter().filter_map(Spec::of_stream);
    plain.chain(streams).filter(move |spec| spec.project == project).map(|spec| (spec.name, spec.version))
}

impl wire::EntitySpec {
    /// The column that carries it; without one, that of its own name.
    pub(super) fn join_key(&self) -> &str {
        if self.join_key.is_empty() { &self.name } else { &self.join_key }
    }
}

impl<'a> Spec<'a> {
    pub(super) fn of_view(view: &'a wire::FeatureView) -> Option<Self> {
        let spec = view.spec.as_ref()?;
        Some(Self {
            name: &spec.name,
            project: &spec.project,
            entities: &spec.entities,
            columns: &spec.entity_columns,
            features: &spec.features,
            tags: &spec.tags,
            ttl: spec.ttl.as_ref(),
            batch: spec.batch_source.as_ref(),
            stream: spec.stream_source.as_ref(),
            disabled: spec.disabled,
            version: view.meta.as_ref().map_or(0, |meta| meta.current_version_number),
        })
    }

    pub(super) fn of_stream(view: &'a wire::StreamFeatureView) -> Option<Self> {
        let spec = view.spec.as_ref()?;
        Some(Self {
            name: &spec.name,
            project: &spec.project,
            entities: &spec.entities,
            columns: &spec.entity_columns,
            features: &spec.features,
            tags: &spec.tags,
            ttl: spec.ttl.as_ref(),
            batch: spec.batch_source.as_ref(),
            stream: spec.stream_source.as_ref(),
            disabled: spec.disabled,
            version: view.meta.as_ref().map_or(0, |meta| meta.current_version_number),
        })
    }

    /// The view, or why it cannot be served.
    pub(super) fn view(
        &self,
        id: ViewId,
        entities: &HashMap<&str, &wire::EntitySpec>,
        reading: &Reading<'_>,
    ) -> Result<View, String> {
        if !validate::VIEW_NAMES.fits(self.name) {
            return Err(format!("its name cannot be told in headers; allowed: {}", validate::VIEW_NAMES.told));
        }
        if self.disabled {
            return Err("disabled in the registry".to_owned());
        }
        Ok(View {
            id,
            name: self.name.into(),
            stored: self.stored(reading.versions),
            entities: self.join_keys(entities)?,
            features: self.features()?,
            ttl: reading.keep,
            max_age: self.max_age(),
            consistency: self.consistency()?,
        })
    }

    /// The source that its rows are pushed to, if it has one.
    pub(super) fn push_source(&self) -> Option<&'a DataSource> {
        self.stream.filter(|source| source.kind == DataSource::PUSH)
    }

    /// Feast reads the columns' names from the view's own batch source when it writes, whatever the push source is.
    pub(super) fn times(&self) -> Times {
        let named = |source: &&DataSource| !source.timestamp_field.is_empty();
        let Some(source) = self.batch.filter(named).or(self.push_source().filter(named)) else {
            return Times::default();
        };
        let created = Some(source.created_timestamp_column.as_str()).filter(|name| !name.is_empty());
        Times { event: source.timestamp_field.as_str().into(), created: created.map(Into::into) }
    }

    fn stored(&self, versions: Versions) -> Arc<str> {
        match versions {
            Versions::Apart if self.version > 0 => format!("{}_v{}", self.name, self.version).into(),
            _ => self.name.into(),
        }
    }

    /// As its tag says.
    fn consistency(&self) -> Result<Consistency, String> {
        match self.tags.get(CONSISTENCY).map(String::as_str) {
            None | Some("ttl") => Ok(Consistency::Ttl),
            Some("write_through") => Ok(Consistency::WriteThrough),
            Some("immutable") => Ok(Consistency::Immutable),
            Some(other) => Err(format!(
                "its tag {CONSISTENCY} is {other:?}; allowed: ttl (what it is without), write_through, immutable"
            )),
        }
    }

    /// Feast's `ttl`; zero, and nothing, is any age.
    fn max_age(&self) -> Option<Duration> {
        let ttl = self.ttl?;
        let age = Duration::new(ttl.seconds.try_into().ok()?, ttl.nanos.try_into().ok().filter(|n| *n < NANOS)?);
        Some(age).filter(|age| !age.is_zero())
    }

    /// Sorted by name as UTF-8 bytes.
    fn join_keys(&self, known: &HashMap<&str, &wire::EntitySpec>) -> Result<Vec<(Arc<str>, EntityType)>, String> {
        let mut keys = match (self.columns, self.entities) {
            ([], []) => vec![entityless()],
            ([], [only]) if only == DUMMY_ENTITY => vec![entityless()],
            // Registries of older releases.
            ([], names) => names.iter().map(|name| of_entity(name, known)).collect::<Result<_, _>>()?,
            (columns, _) => {
                columns.iter().map(|column| join_key(&column.name, column.value_type)).collect::<Result<_, _>>()?
            }
        };
        keys.sort_by(|a: &(Arc<str>, _), b| a.0.as_bytes().cmp(b.0.as_bytes()));
        match keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(format!("two join keys named {}", pair[0].0)),
            None => Ok(keys),
        }
    }

    fn features(&self) -> Result<Vec<Feature>, String> {
        if self.features.is_empty() {
            return Err("no feature".to_owned());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.features.iter().find(|feature| !seen.insert(&feature.name)) {
            return Err(format!("two features named {}", twice.name));
        }
        let feature = |feature: &wire::Feature| {
            let kind = feature_type(feature.value_type);
            Feature { name: feature.name.as_str().into(), kind, default: validate::zero(kind, 0), length: None }
        };
        Ok(self.features.iter().map(feature).collect())
    }
}

const NANOS: u32 = 1_000_000_000;

fn entityless() -> (Arc<str>, EntityType) {
    (ENTITYLESS_KEY.into(), EntityType::String)
}

fn of_entity(name: &str, known: &HashMap<&str, &wire::EntitySpec>) -> Result<(Arc<str>, EntityType), String> {
    let entity = known.get(name).ok_or_else(|| format!("its entity {name} is not in the registry"))?;
    join_key(entity.join_key(), entity.value_type)
}

fn join_key(name: &str, value_type: i32) -> Result<(Arc<str>, EntityType), String> {
    let kind = match value_type {
        // Whatever the registry says of its type: Feast writes it as text.
        _ if name == ENTITYLESS_KEY => EntityType::String,
        1 => EntityType::Bytes,
        2 => EntityType::String,
        3 => EntityType::Int32,
        4 => EntityType::Int64,
        8 => EntityType::UnixTimestamp,
        other => {
            return Err(format!(
                "join key {name} is of value type {other}, which makes no key; allowed: {}",
                validate::ENTITY_TYPES
            ));
        }
    };
    if name.is_empty() {
        return Err("a join key without a name".to_owned());
    }
    Ok((name.into(), kind))
}

/// `feast.types.ValueType.Enum`. Types that are text on the wire are text; what no tensor holds, and what is not known yet, is
/// opaque.
const fn feature_type(value_type: i32) -> FeatureType {
    match value_type {
        1 => FeatureType::Bytes,
        // STRING, JSON, UUID, TIME_UUID, DECIMAL
        2 | 32 | 36 | 37 | 44 => FeatureType::String,
        3 => FeatureType::Int32,
        4 => FeatureType::Int64,
        5 => FeatureType::Double,
        6 => FeatureType::Float,
        7 => FeatureType::Bool,
        8 => FeatureType::UnixTimestamp,
        11 => FeatureType::BytesList,
        12 | 33 | 38 | 39 | 45 => FeatureType::StringList,
        13 => FeatureType::Int32List,
        14 => FeatureType::Int64List,
        15 => FeatureType::DoubleList,
        16 => FeatureType::FloatList,
        17 => FeatureType::BoolList,
        18 => FeatureType::UnixTimestampList,
        _ => FeatureType::Opaque,
    }
}
