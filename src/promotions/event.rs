//! What a delivery says: only what is done to an alias matters here.
//!
//! ```text
//! {"entity": "model_version_alias", "action": "created", "timestamp": "…", "data": {"name": "fraud", "alias": "champion", "version": "2"}}
//! ```
//!
//! Setting and moving an alias are `created`, also to the version that it has; `deleted` names no version. A test delivery of MLflow's
//! (`POST …/webhooks/{id}/test`) is about its example model and means nothing.

use serde::Deserialize;
use serde_json::value::RawValue;

const ALIAS: &str = "model_version_alias";
/// Whom test deliveries are about.
const EXAMPLE: (&str, &str) = ("example_model", "example_alias");

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The alias is another version's now, or nobody's.
    Alias(Alias),
    /// Nothing: MLflow was asked to send a test.
    Test,
    /// Something else.
    Other,
}

/// An alias of a registered model.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Alias {
    pub(super) name: String,
    pub(super) alias: String,
    /// `None`: it was deleted.
    pub(super) version: Option<String>,
}

/// The delivery's frame. Newer fields, such as `workspace`, are passed over.
#[derive(Deserialize)]
struct Frame<'a> {
    entity: &'a str,
    action: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Event {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// It is not what MLflow sends.
    pub(super) fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        let frame: Frame<'_> = serde_json::from_slice(body)?;
        if frame.entity != ALIAS {
            return Ok(Self::Other);
        }
        let alias: Alias = serde_json::from_str(frame.data.get())?;
        Ok(match frame.action {
            _ if (alias.name.as_str(), alias.alias.as_str()) == EXAMPLE => Self::Test,
            "created" => Self::Alias(alias),
            "deleted" => Self::Alias(Alias { version: None, ..alias }),
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(name: &str, version: Option<&str>) -> Event {
        Event::Alias(Alias { name: name.into(), alias: "champion".into(), version: version.map(Into::into) })
    }

    #[test]
    fn only_aliases_matter() {
        let body = |entity: &str, action: &str, data: &str| {
            format!(
                r#"{{"entity": "{entity}", "action": "{action}", "timestamp": "2026-11-23T06:58:20.675183+00:00", "data": {data}}}"#
            )
        };
        let set = r#"{"name": "fraud", "alias": "champion", "version": "2", "workspace": "w"}"#;
        for (entity, action, data, expected) in [
            (ALIAS, "created", set, alias("fraud", Some("2"))),
            (
                ALIAS,
                "created",
                r#"{"name": "fra\u00fcd", "alias": "champion", "version": "2"}"#,
                alias("fraüd", Some("2")),
            ),
            (ALIAS, "deleted", r#"{"name": "fraud", "alias": "champion"}"#, alias("fraud", None)),
            (ALIAS, "deleted", set, alias("fraud", None)),
            (ALIAS, "renamed", set, Event::Other),
            (ALIAS, "created", r#"{"name": "example_model", "alias": "example_alias", "version": "1"}"#, Event::Test),
            ("model_version", "created", r#"{"name": "fraud", "version": "2", "tags": {}}"#, Event::Other),
            ("registered_model", "created", r#"{"name": "fraud"}"#, Event::Other),
        ] {
            assert_eq!(
                Event::read(body(entity, action, data).as_bytes()).unwrap(),
                expected,
                "{entity} {action} {data}"
            );
        }
    }

    #[test]
    fn what_mlflow_does_not_send_is_refused() {
        let open = "[".repeat(10_000);
        for body in
            ["", "{}", "[]", "null", "{\"entity\": \"model_version_alias\", \"action\": \"created\"}", open.as_str()]
        {
            assert!(Event::read(body.as_bytes()).is_err(), "{body}");
        }
        let incomplete = br#"{"entity": "model_version_alias", "action": "created", "data": {"name": 7}}"#;
        assert!(Event::read(incomplete).is_err());
        assert!(Event::read(b"\xff\xfe").is_err());
    }
}
