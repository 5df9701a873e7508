//! What an operator says is out of date: a model's predictions, or rows of a view.

use std::pin::Pin;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Shared, refuse};

/// Drops what is said to be out of date, and tells what that was.
pub type Invalidate = Box<dyn Fn(Invalidation) -> Invalidated + Send + Sync>;

type Invalidated = Pin<Box<dyn Future<Output = Result<Value, Refusal>> + Send>>;

/// What is out of date.
#[derive(Clone, Debug, PartialEq)]
pub enum Invalidation {
    /// All predictions of the model of that name.
    Model(String),
    /// Rows of the view of that name.
    View(String, Which),
}

/// Which rows of a view.
#[derive(Clone, Debug, PartialEq)]
pub enum Which {
    /// All.
    All,
    /// That of the entity with these values of the join keys.
    Entity(Map<String, Value>),
    /// Those of which the first join key's value begins so.
    Prefix(String),
}

/// Why nothing was dropped.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// It names something that there is not.
    Unknown(String),
    /// It cannot be meant so.
    Wrong(String),
}

const ALLOWED: &str = "{\"model\": \"name\"}, {\"view\": \"name\"}, {\"view\": \"name\", \"entity\": {\"join key\": value}}, \
                       {\"view\": \"name\", \"prefix\": \"text\"}";

/// What `POST /admin/v1/invalidate` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    model: Option<String>,
    view: Option<String>,
    entity: Option<Map<String, Value>>,
    prefix: Option<String>,
}

pub(super) async fn invalidate(State(sources): Shared, body: Bytes) -> Response {
    let said = match asked(&body) {
        Ok(said) => said,
        Err(wrong) => return refuse(StatusCode::BAD_REQUEST, &format!("{wrong}; allowed: {ALLOWED}")),
    };
    match (sources.invalidate)(said).await {
        Ok(done) => Json(done).into_response(),
        Err(Refusal::Unknown(wrong)) => refuse(StatusCode::NOT_FOUND, &wrong),
        Err(Refusal::Wrong(wrong)) => refuse(StatusCode::BAD_REQUEST, &wrong),
    }
}

fn asked(body: &[u8]) -> Result<Invalidation, String> {
    // A list would be read as the keys' values in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("not a JSON object".to_owned());
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match asked {
        Asked { model: Some(model), view: None, entity: None, prefix: None } => Ok(Invalidation::Model(model)),
        Asked { model: None, view: Some(view), entity, prefix } => match (entity, prefix) {
            (None, None) => Ok(Invalidation::View(view, Which::All)),
            (Some(entity), None) => Ok(Invalidation::View(view, Which::Entity(entity))),
            (None, Some(prefix)) => Ok(Invalidation::View(view, Which::Prefix(prefix))),
            (Some(_), Some(_)) => Err("an entity and a prefix".to_owned()),
        },
        Asked { model: Some(_), .. } => Err("a model beside something else".to_owned()),
        Asked { model: None, view: None, .. } => Err("neither a model nor a view".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_thing_is_said_at_a_time() {
        let said = |body: &Value| asked(body.to_string().as_bytes());
        let view = |which| Ok(Invalidation::View("v".into(), which));
        assert_eq!(said(&json!({"model": "m"})), Ok(Invalidation::Model("m".into())));
        assert_eq!(said(&json!({"view": "v"})), view(Which::All));
        assert_eq!(said(&json!({"view": "v", "prefix": "ann"})), view(Which::Prefix("ann".into())));
        let entity = json!({"user_id": 1001});
        let of = view(Which::Entity(entity.as_object().unwrap().clone()));
        assert_eq!(said(&json!({"view": "v", "entity": entity})), of);
        for (body, wrong) in [
            (json!([]), "not a JSON object"),
            (json!(["m", null, null, null]), "not a JSON object"),
            (json!("m"), "not a JSON object"),
            (json!({}), "neither a model nor a view"),
            (json!({"entity": {}}), "neither a model nor a view"),
            (json!({"model": "m", "view": "v"}), "a model beside something else"),
            (json!({"view": "v", "entity": {}, "prefix": "a"}), "an entity and a prefix"),
            (
                json!({"view": "v", "key": 1}),
                "unknown field `key`, expected one of `model`, `view`, `entity`, `prefix` at line 1 column 6",
            ),
            (json!({"view": 5}), "invalid type: integer `5`, expected a string at line 1 column 9"),
        ] {
            assert_eq!(said(&body), Err(wrong.to_owned()));
        }
    }
}
