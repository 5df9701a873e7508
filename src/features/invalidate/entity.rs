//! Which rows somebody means who names them in JSON: an entity by the values of its join keys, or what strings begin with.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value as Json};

use super::Scope;
use crate::{
    config::View,
    infer::{EntityKey, EntityType, EntityValue},
};

/// Why nothing is meant; says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    /// Join keys are missing, or others are named.
    #[error("{named} of view {view}; allowed: exactly its join keys, {allowed}")]
    JoinKeys { named: String, view: String, allowed: String },
    /// A value that its join key cannot have.
    #[error("{key} of view {view} cannot be {given}; allowed: {kind}, {allowed}")]
    Value { key: String, view: String, given: String, kind: EntityType, allowed: &'static str },
    /// Everything begins with nothing: a variable was not set, most likely.
    #[error(
        "an empty prefix, with which all rows of view {view} begin; allowed: text, or no `prefix` to drop the whole view"
    )]
    Empty { view: String },
    /// The first join key has no text.
    #[error(
        "view {view} has no prefixes: its first join key {key} is {kind}; allowed: views whose first join key (by name) is STRING or BYTES"
    )]
    NoText { key: String, view: String, kind: EntityType },
}

/// The row of one entity.
///
/// # Errors
///
/// It does not name exactly the view's join keys, or a value is none of its key's type.
pub(crate) fn row(view: &View, given: &Map<String, Json>) -> Result<Scope, Wrong> {
    let missing = view.entities.iter().find(|(key, _)| !given.contains_key(&**key));
    let other = given.keys().find(|given| view.entities.iter().all(|(key, _)| **key != ***given));
    let named = match (missing, other) {
        (_, Some(other)) => format!("{other} is no join key"),
        (Some((key, _)), None) => format!("{key} is missing: a join key"),
        (None, None) => return Ok(Scope::Rows(vec![(view.id, key(view, given)?)])),
    };
    let keys: Vec<_> = view.entities.iter().map(|(key, kind)| format!("{key}: {kind}")).collect();
    Err(Wrong::JoinKeys { named, view: view.name.to_string(), allowed: keys.join(", ") })
}

/// The rows whose first join key's value begins with a text.
///
/// # Errors
///
/// It has none: numbers do not begin with anything. Or the text is empty.
pub(crate) fn prefix(view: &View, text: &str) -> Result<Scope, Wrong> {
    match view.entities.first() {
        _ if text.is_empty() => Err(Wrong::Empty { view: view.name.to_string() }),
        Some((_, EntityType::String | EntityType::Bytes)) | None => Ok(Scope::Prefix(view.id, text.as_bytes().into())),
        Some((key, kind)) => Err(Wrong::NoText { key: key.to_string(), view: view.name.to_string(), kind: *kind }),
    }
}

fn key(view: &View, given: &Map<String, Json>) -> Result<EntityKey, Wrong> {
    let mut pairs = Vec::with_capacity(view.entities.len());
    for (key, kind) in &view.entities {
        let given = &given[&**key];
        let wrong = || Wrong::Value {
            key: key.to_string(),
            view: view.name.to_string(),
            given: shown(given),
            kind: *kind,
            allowed: kind.in_json(),
        };
        pairs.push((&**key, value(*kind, given).ok_or_else(wrong)?));
    }
    Ok(EntityKey::new(pairs.iter().map(|(key, value)| (*key, value))))
}

/// As Feast reads them: whole numbers may be written as text, and text as whole numbers.
fn value(kind: EntityType, given: &Json) -> Option<EntityValue> {
    let whole = || given.as_i64().or_else(|| given.as_str()?.parse().ok());
    Some(match kind {
        EntityType::Int64 => EntityValue::Int64(whole()?),
        EntityType::UnixTimestamp => EntityValue::UnixTimestamp(whole()?),
        EntityType::Int32 => EntityValue::Int32(whole()?.try_into().ok()?),
        EntityType::String => EntityValue::String(match given {
            Json::String(text) => text.clone(),
            Json::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            _ => return None,
        }),
        EntityType::Bytes => EntityValue::Bytes(STANDARD.decode(given.as_str()?).ok()?),
    })
}

/// What was given, as far as one needs to see it.
fn shown(given: &Json) -> String {
    crate::infer::decoded::shown(&given.to_string(), 64).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{features::tests::view, infer::ViewId};

    fn v() -> Arc<View> {
        let entities = [
            ("at", EntityType::UnixTimestamp),
            ("id", EntityType::Bytes),
            ("item", EntityType::Int32),
            ("user", EntityType::String),
        ];
        view("v").entities(&entities).build()
    }

    fn of(view: &View, given: &Json) -> Result<Scope, String> {
        row(view, given.as_object().unwrap()).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn a_row_is_named_by_all_its_join_keys() {
        let id = EntityValue::Bytes(b"\x00a".to_vec());
        let (at, item, user) = (EntityValue::UnixTimestamp(5), EntityValue::Int32(7), EntityValue::String("12".into()));
        let key = EntityKey::new([("at", &at), ("id", &id), ("item", &item), ("user", &user)].into_iter());
        let expected = Scope::Rows(vec![(ViewId(0), key)]);
        for given in [
            json!({"at": 5, "id": "AGE=", "item": 7, "user": "12"}),
            json!({"user": 12, "item": "7", "id": "AGE=", "at": "5"}),
        ] {
            assert_eq!(of(&v(), &given).unwrap(), expected);
        }
    }

    #[test]
    fn what_names_no_row_is_told_what_would() {
        let keys =
            "of view v; allowed: exactly its join keys, at: UNIX_TIMESTAMP, id: BYTES, item: INT32, user: STRING";
        for (given, wrong) in [
            (json!({"at": 5, "id": "AGE=", "item": 7}), format!("user is missing: a join key {keys}")),
            (json!({"at": 5, "id": "AGE=", "item": 7, "user": "u", "x": 1}), format!("x is no join key {keys}")),
            (json!({}), format!("at is missing: a join key {keys}")),
            (
                json!({"at": 5, "id": "AGE=", "item": 7_000_000_000_i64, "user": "u"}),
                "item of view v cannot be 7000000000; allowed: INT32, a whole number of 32 bits".to_owned(),
            ),
            (
                json!({"at": 5, "id": "?", "item": 7, "user": "u"}),
                "id of view v cannot be \"?\"; allowed: BYTES, base64 text".to_owned(),
            ),
            (
                json!({"at": 5.5, "id": "AGE=", "item": 7, "user": "u"}),
                "at of view v cannot be 5.5; allowed: UNIX_TIMESTAMP, whole seconds since 1970".to_owned(),
            ),
            (
                json!({"at": 5, "id": "AGE=", "item": 7, "user": null}),
                "user of view v cannot be null; allowed: STRING, text".to_owned(),
            ),
        ] {
            assert_eq!(of(&v(), &given).unwrap_err(), wrong);
        }
    }

    #[test]
    fn only_text_begins_with_something() {
        let named = view("v").entities(&[("user", EntityType::String)]).build();
        assert_eq!(prefix(&named, "ann").unwrap(), Scope::Prefix(ViewId(0), (*b"ann").into()));
        assert_eq!(
            prefix(&named, "").unwrap_err().to_string(),
            "an empty prefix, with which all rows of view v begin; allowed: text, or no `prefix` to drop the whole view"
        );
        let wrong = prefix(&v(), "ann").unwrap_err().to_string();
        assert!(
            wrong.starts_with("view v has no prefixes: its first join key at is UNIX_TIMESTAMP; allowed: "),
            "{wrong}"
        );
    }
}
