//! The effective value of every key, and whether the file set it. When a change takes effect is not told: with a restart, all of them.
//!
//! Values are shown as in problems: nothing that came from `${…}`, no password of a URL.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    Config,
    problems::{Path, Places},
    raw::{Root, Span},
    schema,
};

/// One line a key: `path: value  (set | default)`.
pub(super) fn explain(raw: &Root, places: &Places, config: &Config) -> String {
    let values = serde_json::to_value(raw).unwrap_or_default();
    let mut explainer = Explainer { places, config, out: String::new() };
    explainer.walk(&Path::default(), &values, schema::inlined());
    explainer.out
}

struct Explainer<'a> {
    places: &'a Places,
    config: &'a Config,
    out: String,
}

impl Explainer<'_> {
    fn walk(&mut self, path: &Path, value: &Value, schema: &Value) {
        let schema = fitting(value, schema);
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                for (key, value) in entries {
                    let below = schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
                    self.walk(&path.key(key), value, below);
                }
            }
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                for (i, item) in items.iter().enumerate() {
                    self.walk(&path.item(i), item, &schema["items"]);
                }
            }
            _ => self.line(path, value, schema),
        }
    }

    fn line(&mut self, path: &Path, value: &Value, schema: &Value) {
        let origin = if self.places.is_set(path) { "set" } else { "default" };
        let shown = match value {
            Value::Array(_) => list(value, |i| self.places.given(&path.item(i))),
            _ if origin == "set" => self.places.given(path).unwrap_or("***").to_owned(),
            Value::Null => self.unset(path, schema),
            Value::String(text) => text.clone(),
            Value::Object(_) => "none".to_owned(),
            other => other.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{path}: {shown}  ({origin})");
    }

    /// What holds where the file says nothing and the default is not one value.
    fn unset(&self, path: &Path, schema: &Value) -> String {
        let effective = match path.keys().as_slice() {
            ["workers"] => Some(self.config.workers.to_string()),
            ["features", "project"] => Some(self.config.features.project.to_string()),
            ["tiers", tier, key] => self.tier(tier, key),
            ["models", model, key] => self.model(model, key),
            ["features", "views", view, "ttl"] => {
                let view = self.config.features.views.iter().find(|v| &*v.name == *view);
                view.map(|view| Span(view.ttl).to_string())
            }
            _ => None,
        };
        effective.unwrap_or_else(|| schema["x-unset"].as_str().unwrap_or("none").to_owned())
    }

    fn tier(&self, name: &str, key: &str) -> Option<String> {
        let tier = self.config.tiers.iter().find(|tier| &*tier.name == name)?;
        match key {
            "pool" => tier.pool.map(|pool| self.config.pool(pool).name.to_string()),
            "reserved" => Some(tier.reserved.to_string()),
            "max" => Some(tier.max.to_string()),
            "queue" => Some(tier.queue.to_string()),
            "queue_timeout" => Some(Span(tier.queue_timeout).to_string()),
            _ => None,
        }
    }

    fn model(&self, name: &str, key: &str) -> Option<String> {
        let model = self.config.model(self.config.model_id(name)?);
        match key {
            "tier" => Some(self.config.tiers[model.tier.index()].name.to_string()),
            "pool" | "upstream_model" | "registered_model" | "inputs" if model.ensemble.is_some() => {
                Some("its members'".to_owned())
            }
            "pool" => Some(self.config.pool(model.pool).name.to_string()),
            "upstream_model" => Some(model.upstream.to_string()),
            "registered_model" => Some(model.registered.to_string()),
            "inputs" if model.joins.is_empty() => Some("as they come: nothing is joined".to_owned()),
            _ => None,
        }
    }
}

fn list<'p>(value: &Value, given: impl Fn(usize) -> Option<&'p str>) -> String {
    let items = value.as_array().into_iter().flatten().enumerate();
    let shown: Vec<_> = items.map(|(i, item)| given(i).map_or_else(|| item.to_string(), str::to_owned)).collect();
    format!("[{}]", shown.join(", "))
}

/// The schema itself, or the option of `anyOf` that fits the kind of value.
fn fitting<'s>(value: &Value, schema: &'s Value) -> &'s Value {
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        _ => return schema,
    };
    let options = schema["anyOf"].as_array().into_iter().flatten();
    options.clone().find(|option| option["type"] == kind).unwrap_or(schema)
}
