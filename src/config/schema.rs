//! The JSON Schema (2020-12) of the configuration, made from the raw types.
//!
//! Weir checks a file's shape against the same schema that it prints, so the two cannot disagree. Optional keys are left out
//! rather than null, so no property allows null.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::raw::Root;

/// The schema as `weir schema` prints it.
pub(crate) fn document() -> Value {
    finish(SchemaSettings::draft2020_12())
}

/// The same without references, for walking.
pub(super) fn inlined() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| finish(SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true)))
}

fn finish(settings: SchemaSettings) -> Value {
    let mut schema = Value::from(settings.into_generator().into_root_schema_for::<Root>());
    refine(&mut schema);
    schema
}

/// Moves `x-required` into `required`, and takes null out of optional keys. `x-reload` is for the day when a file is read again while
/// Weir serves; told before, it would promise that.
fn refine(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(refine),
        Value::Object(object) => {
            object.values_mut().for_each(refine);
            object.remove("x-reload");
            without_null(object);
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                let required = take_required(properties);
                if !required.is_empty() {
                    object.insert("required".into(), required.into());
                }
            }
        }
        _ => {}
    }
}

fn take_required(properties: &mut Map<String, Value>) -> Vec<Value> {
    let mut required = Vec::new();
    for (name, property) in properties {
        let Some(property) = property.as_object_mut() else { continue };
        if property.remove("x-required").is_some() {
            property.remove("default");
            required.push(json!(name));
        }
    }
    required
}

fn without_null(object: &mut Map<String, Value>) {
    match object.get_mut("default") {
        Some(Value::Null) => {
            object.remove("default");
        }
        Some(Value::Object(keys)) => keys.retain(|_, value| !value.is_null()),
        _ => {}
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(options)) = object.get_mut("anyOf") {
        options.retain(|option| option.get("type").is_none_or(|t| t != "null"));
        if let [only] = options.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            if let Value::Object(only) = only {
                for (key, value) in only {
                    object.entry(key).or_insert(value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(schema: &Value, look: &mut impl FnMut(&Map<String, Value>)) {
        match schema {
            Value::Array(items) => items.iter().for_each(|item| every(item, look)),
            Value::Object(object) => {
                look(object);
                object.values().for_each(|value| every(value, look));
            }
            _ => {}
        }
    }

    #[test]
    fn is_draft_2020_12_and_says_what_each_key_is() {
        let schema = document();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let mut keys = 0;
        every(&schema, &mut |object| {
            let Some(Value::Object(properties)) = object.get("properties") else { return };
            for (name, property) in properties {
                assert!(property.get("x-reload").is_none(), "{name} promises what there is not: {property}");
                assert!(property["description"].as_str().is_some_and(|d| d.len() > 5), "{name}: {property}");
                keys += 1;
            }
        });
        assert!(keys > 90, "{keys} keys");
    }

    #[test]
    fn refuses_unknown_keys_and_null_and_names_required_ones() {
        let schema = inlined();
        every(schema, &mut |object| {
            if object.get("properties").is_some_and(Value::is_object) && object.get("type") == Some(&json!("object")) {
                assert_eq!(object["additionalProperties"], false, "{object:?}");
            }
            assert!(object.get("type") != Some(&json!("null")), "{object:?}");
            assert!(!object.values().any(Value::is_null), "{object:?}");
        });
        let join =
            &schema["properties"]["models"]["additionalProperties"]["properties"]["features"]["anyOf"][0]["items"];
        assert_eq!(join["required"], json!(["join", "view"]));
        assert_eq!(schema["properties"]["drain"]["properties"]["delay"]["default"], "5s");
        assert_eq!(schema["properties"]["listen"]["properties"]["max_body"]["default"], "64MiB");
    }

    #[test]
    fn says_what_is_in_range() {
        let features = &inlined()["properties"]["features"]["properties"];
        let hot = &features["hot_keys"]["properties"];
        assert_eq!((&hot["share"]["minimum"], &hot["share"]["maximum"]), (&json!(0.001), &json!(1)));
        let most = crate::config::MOST_COPIES;
        let [number, word] = [&hot["copies"]["anyOf"][0], &hot["copies"]["anyOf"][1]];
        assert_eq!((&number["minimum"], &number["maximum"]), (&json!(1), &json!(most)));
        assert_eq!(word["enum"], json!(["auto", "off"]));
        assert_eq!(
            (&features["lease"]["x-minimum"], &features["lease"]["x-maximum"]),
            (&json!("500ms"), &json!("10s"))
        );
        assert_eq!(features["l2"]["properties"]["max_lag"]["x-minimum"], "100ms");
        every(inlined(), &mut |object| {
            for bound in ["x-minimum", "x-maximum"].iter().filter_map(|name| object.get(*name)) {
                let length = bound.as_str().and_then(crate::config::raw::Span::parse);
                assert!(length.is_some() && object["x-kind"] == "duration", "{object:?}");
            }
        });
    }
}
