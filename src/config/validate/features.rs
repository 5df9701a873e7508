//! Feature views: types Weir knows, defaults that fit them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Check, VIEW_NAMES, index};
use crate::{
    config::{
        Compat, Consistency, Feature, Features, Invalidate, PushSource, Registry, Supplied, Times, View,
        problems::Path,
        raw::{self, Loose},
        registry::Contents,
    },
    infer::{EntityType, FeatureType, Value, ViewId},
};

pub(in crate::config) const ENTITY_TYPES: &str = "BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP";
const FEATURE_TYPES: &str = "BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL, UNIX_TIMESTAMP, JSON, UUID, TIME_UUID, DECIMAL, \
                             each also with _LIST";

impl Check<'_> {
    pub(super) fn features(&mut self, registry: Supplied<'_>) -> Features {
        let nothing = raw::Features::default();
        let raw = self.raw.features.as_ref().unwrap_or(&nothing);
        let path = Path::of("features");
        let l2 = self.l2(&path.key("l2"), &raw.l2);
        let keep = raw.l2.ttl.0.max(raw.l1.ttl.0);
        let contents = self.registry(&path, raw, registry, keep).unwrap_or_else(|| self.declared(&path, raw, keep));
        Features {
            project: contents.project,
            registry: raw
                .registry
                .as_ref()
                .map(|url| Registry { url: url.as_str().into(), refresh: raw.registry_refresh.0 }),
            views: contents.views,
            services: contents.services,
            push_sources: contents.push_sources,
            times: contents.times,
            entity_names: contents.entity_names,
            unserved: contents.unserved,
            compat: match raw.compat {
                raw::Compat::Truthful => Compat::Truthful,
                raw::Compat::FeastPython => Compat::FeastPython,
            },
            l1: self.l1(&path.key("l1"), &raw.l1),
            l2,
            l3: raw.l3.as_ref().map(|l3| self.l3(&path.key("l3"), l3)),
            retry: self.retry(&path.key("retry"), raw.retry.profile()),
            retry_budget: raw.retry.budget.0,
            breaker: self.breaker(&path.key("breaker"), &raw.breaker),
            hot_keys: raw.hot_keys.as_ref().map(Self::hot_keys),
            kafka: raw
                .invalidate
                .as_ref()
                .and_then(|invalidate| invalidate.kafka.as_ref())
                .map(|kafka| self.kafka(&path.key("invalidate").key("kafka"), kafka)),
            invalidate: self.invalidate(&path.key("invalidate"), raw),
            lease: raw.lease.0,
        }
    }

    fn invalidate(&mut self, path: &Path, raw: &raw::Features) -> Invalidate {
        let tracking = raw.invalidate.as_ref().is_some_and(|invalidate| invalidate.tracking);
        if tracking && raw.l2.redis.is_none() {
            self.wrong(&path.key("tracking"), "there is no `l2.redis`", "true beside `l2.redis` only");
        }
        Invalidate { tracking }
    }

    /// The views that the file itself declares.
    fn declared(&mut self, path: &Path, raw: &raw::Features, keep: Duration) -> Contents {
        let in_redis = raw.l2.redis.is_some();
        if raw.registry.is_none() && in_redis && raw.project.as_ref().is_none_or(String::is_empty) {
            self.wrong(&path.key("project"), "missing", "the Feast project whose rows are in Redis");
        }
        let views = raw.views.iter().enumerate();
        let views: Vec<_> =
            views.map(|(i, (name, view))| Arc::new(self.view(ViewId(index(i)), name, view, keep))).collect();
        Contents {
            project: raw.project.as_deref().unwrap_or("default").into(),
            services: Vec::new(),
            push_sources: views.iter().map(|view| PushSource::of(view)).collect(),
            times: vec![Times::default(); views.len()],
            entity_names: Vec::new(),
            unserved: Vec::new(),
            views,
        }
    }

    fn view(&mut self, id: ViewId, name: &str, raw: &raw::View, keep: Duration) -> View {
        let path = Path::of("features").key("views").key(name);
        self.name(&path, name, &VIEW_NAMES);
        let mut entities: Vec<_> = raw
            .entities
            .iter()
            .map(|(key, kind)| (Arc::from(key), self.entity(&path.key("entities").key(key), kind)))
            .collect();
        entities.sort_by(|a: &(Arc<str>, _), b| a.0.as_bytes().cmp(b.0.as_bytes()));
        if raw.entities.is_empty() {
            self.wrong(&path.key("entities"), "no join key", "at least one, each with its type");
        }
        if raw.features.is_empty() {
            self.wrong(&path.key("features"), "no feature", "at least one, each with its type");
        }
        let features = raw.features.iter().map(|(f, raw)| self.feature(&path.key("features").key(f), f, raw)).collect();
        View {
            id,
            name: name.into(),
            stored: name.into(),
            entities,
            features,
            ttl: raw.ttl.map_or(keep, |ttl| self.positive(&path.key("ttl"), ttl)),
            max_age: raw.max_age.map(|age| age.0).filter(|age| !age.is_zero()),
            consistency: match raw.consistency {
                raw::Consistency::Ttl => Consistency::Ttl,
                raw::Consistency::WriteThrough => Consistency::WriteThrough,
                raw::Consistency::Immutable => Consistency::Immutable,
            },
        }
    }

    fn entity(&mut self, path: &Path, kind: &str) -> EntityType {
        kind.parse().unwrap_or_else(|_| {
            self.wrong(path, "not an entity type", ENTITY_TYPES);
            EntityType::Int64
        })
    }

    fn feature(&mut self, path: &Path, name: &str, raw: &raw::Feature) -> Feature {
        let kind = self.feature_type(&path.key("type"), &raw.kind);
        let broken = self.is_broken(&path.key("type"));
        let length = raw.length.map(|length| length as usize);
        if length.is_some() && !kind.is_list() && !broken {
            self.wrong(&path.key("length"), format_args!("{kind} is not a list"), "length on a list type only");
        }
        let at = path.key("default");
        let default = match &raw.default {
            None => zero(kind, length.unwrap_or(0)),
            Some(given) => value(kind, given).unwrap_or_else(|| {
                if !broken {
                    self.wrong(&at, format_args!("does not fit {kind}"), fitting(kind));
                }
                zero(kind, length.unwrap_or(0))
            }),
        };
        let given = default.length();
        if let (Some(length), Some(given)) = (length, given)
            && length != given
            && !self.is_broken(&at)
        {
            self.wrong(&at, format_args!("{given} elements"), format_args!("{length}, as `length` says"));
        }
        let length = length.or(given.filter(|given| *given > 0));
        Feature { name: name.into(), kind, default, length }
    }

    fn feature_type(&mut self, path: &Path, text: &str) -> FeatureType {
        let stored = match text {
            "JSON" | "UUID" | "TIME_UUID" | "DECIMAL" => "STRING",
            "JSON_LIST" | "UUID_LIST" | "TIME_UUID_LIST" | "DECIMAL_LIST" => "STRING_LIST",
            other => other,
        };
        stored.parse().unwrap_or_else(|_| {
            let wrong = if is_shapeless(text) { "a type that no tensor can hold" } else { "not a feature type" };
            self.wrong(path, wrong, FEATURE_TYPES);
            FeatureType::Double
        })
    }
}

impl PushSource {
    /// A view that the file names is its own source.
    fn of(view: &View) -> Self {
        Self { name: Arc::clone(&view.name), views: vec![view.id] }
    }
}

/// Whether Feast has the type and no tensor can hold it.
fn is_shapeless(text: &str) -> bool {
    let types = ["MAP", "MAP_LIST", "STRUCT", "STRUCT_LIST", "SCALAR_MAP", "VALUE_LIST", "ZONED_TIMESTAMP"];
    types.contains(&text) || text.ends_with("_SET")
}

/// The type's zero; a list of `length` zeros.
pub(in crate::config) fn zero(kind: FeatureType, length: usize) -> Value {
    match kind {
        FeatureType::Bytes => Value::Bytes(Bytes::new()),
        FeatureType::String => Value::String("".into()),
        FeatureType::Int32 => Value::Int32(0),
        FeatureType::Int64 => Value::Int64(0),
        FeatureType::Double => Value::Double(0.0),
        FeatureType::Float => Value::Float(0.0),
        FeatureType::Bool => Value::Bool(false),
        FeatureType::UnixTimestamp => Value::UnixTimestamp(0),
        FeatureType::BytesList => Value::BytesList(vec![Bytes::new(); length].into()),
        FeatureType::StringList => Value::StringList(vec![Arc::from(""); length].into()),
        FeatureType::Int32List => Value::Int32List(vec![0; length].into()),
        FeatureType::Int64List => Value::Int64List(vec![0; length].into()),
        FeatureType::DoubleList => Value::DoubleList(vec![0.0; length].into()),
        FeatureType::FloatList => Value::FloatList(vec![0.0; length].into()),
        FeatureType::BoolList => Value::BoolList(vec![false; length].into()),
        FeatureType::UnixTimestampList => Value::UnixTimestampList(vec![0; length].into()),
        FeatureType::Opaque => Value::Null,
    }
}

/// The file's value as the type's; `None` where it does not fit.
fn value(kind: FeatureType, given: &Loose) -> Option<Value> {
    Some(match kind {
        FeatureType::Bytes => Value::Bytes(bytes(given)?),
        FeatureType::String => Value::String(text(given)?),
        FeatureType::Int32 => Value::Int32(int32(given)?),
        FeatureType::Int64 => Value::Int64(int(given)?),
        FeatureType::Double => Value::Double(double(given)?),
        FeatureType::Float => Value::Float(float(given)?),
        FeatureType::Bool => Value::Bool(truth(given)?),
        FeatureType::UnixTimestamp => Value::UnixTimestamp(int(given)?),
        FeatureType::BytesList => Value::BytesList(list(given, bytes)?),
        FeatureType::StringList => Value::StringList(list(given, text)?),
        FeatureType::Int32List => Value::Int32List(list(given, int32)?),
        FeatureType::Int64List => Value::Int64List(list(given, int)?),
        FeatureType::DoubleList => Value::DoubleList(list(given, double)?),
        FeatureType::FloatList => Value::FloatList(list(given, float)?),
        FeatureType::BoolList => Value::BoolList(list(given, truth)?),
        FeatureType::UnixTimestampList => Value::UnixTimestampList(list(given, int)?),
        FeatureType::Opaque => return None,
    })
}

fn list<T>(given: &Loose, item: impl Fn(&Loose) -> Option<T>) -> Option<Arc<[T]>> {
    let Loose::List(items) = given else { return None };
    items.iter().map(item).collect()
}

fn text(given: &Loose) -> Option<Arc<str>> {
    let Loose::Text(text) = given else { return None };
    Some(text.as_str().into())
}

fn bytes(given: &Loose) -> Option<Bytes> {
    let Loose::Text(text) = given else { return None };
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

fn int(given: &Loose) -> Option<i64> {
    let Loose::Int(value) = given else { return None };
    Some(*value)
}

fn int32(given: &Loose) -> Option<i32> {
    i32::try_from(int(given)?).ok()
}

#[expect(clippy::cast_precision_loss, reason = "a default written as a whole number means the nearest double")]
fn double(given: &Loose) -> Option<f64> {
    match given {
        Loose::Int(value) => Some(*value as f64),
        Loose::Float(value) => Some(*value),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounded to the nearest float; one out of range is refused")]
fn float(given: &Loose) -> Option<f32> {
    let value = double(given)?;
    let rounded = value as f32;
    (rounded.is_finite() || !value.is_finite()).then_some(rounded)
}

fn truth(given: &Loose) -> Option<bool> {
    let Loose::Bool(value) = given else { return None };
    Some(*value)
}

fn fitting(kind: FeatureType) -> &'static str {
    match kind {
        FeatureType::Bytes | FeatureType::String => "text",
        FeatureType::Int32 => "a whole number of 32 bits",
        FeatureType::Int64 => "a whole number of 64 bits",
        FeatureType::Double | FeatureType::Float => "a number",
        FeatureType::Bool => "true, false",
        FeatureType::UnixTimestamp => "whole seconds since 1970",
        FeatureType::BytesList | FeatureType::StringList => "a list of text",
        FeatureType::Int32List => "a list of whole numbers of 32 bits",
        FeatureType::Int64List => "a list of whole numbers of 64 bits",
        FeatureType::DoubleList | FeatureType::FloatList => "a list of numbers",
        FeatureType::BoolList => "a list of true and false",
        FeatureType::UnixTimestampList => "a list of whole seconds since 1970",
        FeatureType::Opaque => "no default",
    }
}
