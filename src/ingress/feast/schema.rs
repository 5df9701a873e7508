//! What is wrong with a body that does not fit its schema, as FastAPI tells it: `{"detail": [{type, loc, msg, input}]}`.
//!
//! Only for bodies that were refused: it reads them again, more slowly. It tells everything that is wrong, in the order of the
//! schema, up to a limit.

use http::StatusCode;

use super::{
    errors::{Refusal, quoted},
    request::{Unread, truth},
};
use crate::infer::decoded::{Span, json::Scanner, scalar::Scalar};

/// A member of a body.
#[derive(Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    form: Form,
    required: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    OptionalText,
    Texts,
    OptionalTexts,
    Boolean,
    Object,
    Lists,
}

const fn field(name: &'static str, form: Form) -> Field {
    Field { name, form, required: false }
}

const fn required(name: &'static str, form: Form) -> Field {
    Field { name, form, required: true }
}

pub(super) const GET_ONLINE_FEATURES: &[Field] = &[
    required("entities", Form::Lists),
    field("feature_service", Form::OptionalText),
    field("features", Form::Texts),
    field("full_feature_names", Form::Boolean),
    field("include_feature_view_version_metadata", Form::Boolean),
];

pub(super) const PUSH: &[Field] = &[
    required("push_source_name", Form::Text),
    required("df", Form::Object),
    field("allow_registry_cache", Form::Boolean),
    field("to", Form::Text),
    field("transform_on_write", Form::Boolean),
];

pub(super) const WRITE_TO_ONLINE_STORE: &[Field] = &[
    required("feature_view_name", Form::Text),
    required("df", Form::Object),
    field("allow_registry_cache", Form::Boolean),
    field("transform_on_write", Form::Boolean),
];

pub(super) const MATERIALIZE_INCREMENTAL: &[Field] = &[
    required("end_ts", Form::Text),
    field("feature_views", Form::OptionalTexts),
    field("full_feature_names", Form::Boolean),
    field("version", Form::OptionalText),
];

/// Longer input is not given back.
const SHOWN: usize = 64 * 1024;

/// More than this is not told.
const MOST: usize = 100;

/// The refusal of a body.
pub(super) fn refusal(unread: &Unread, body: &[u8], fields: &[Field]) -> Refusal {
    match unread {
        Unread::Utf8 => Refusal::detail(StatusCode::BAD_REQUEST, "There was an error parsing the body", None),
        Unread::TooLong => Refusal::detail(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 4 GiB", None),
        _ if body.is_empty() => missing_body(),
        Unread::Json => invalid_json(body),
        Unread::Schema => unfit(body, fields),
    }
}

/// The refusal of a body that is not sent as JSON.
pub(super) fn not_json(body: &[u8]) -> Refusal {
    if body.is_empty() {
        return missing_body();
    }
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    let mut details = Details::default();
    details.add("model_attributes_type", "\"body\"", NOT_AN_OBJECT, &quoted(&shown));
    details.refusal()
}

const NOT_AN_OBJECT: &str = "Input should be a valid dictionary or object to extract fields from";

fn missing_body() -> Refusal {
    let mut details = Details::default();
    details.add("missing", "\"body\"", "Field required", "null");
    details.refusal()
}

#[derive(Default)]
struct Details(Vec<String>);

impl Details {
    fn add(&mut self, kind: &str, loc: &str, message: &str, input: &str) {
        if self.0.len() < MOST {
            self.0.push(format!(r#"{{"type":"{kind}","loc":[{loc}],"msg":"{message}","input":{input}}}"#));
        }
    }

    fn refusal(self) -> Refusal {
        let body = format!("{{\"detail\":[{}]}}", self.0.join(","));
        Refusal::FastApi { status: StatusCode::UNPROCESSABLE_ENTITY, body, allow: None }
    }
}

fn unfit(body: &[u8], fields: &[Field]) -> Refusal {
    let mut details = Details::default();
    let body = body.trim_ascii();
    if body == b"null" {
        return missing_body();
    }
    if body.first() != Some(&b'{') {
        details.add("model_attributes_type", "\"body\"", NOT_AN_OBJECT, &compact(body));
        return details.refusal();
    }
    let mut members = Vec::new();
    // It is JSON: it was read before.
    let _ = Scanner::new(body).object(|scanner, key| {
        let name = key.get(body);
        let value = scanner.span()?;
        match members.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None if fields.iter().any(|field| name == field.name) => members.push((name, value)),
            None => {}
        }
        Ok(())
    });
    for field in fields {
        let loc = format!("\"body\",\"{}\"", field.name);
        match members.iter().find(|(name, _)| name == field.name) {
            Some((_, value)) => check(&mut details, field.form, &loc, value.of(body)),
            None if field.required => details.add("missing", &loc, "Field required", &compact(body)),
            None => {}
        }
    }
    if details.0.is_empty() {
        // Within the schema, which says nothing of what is in a `df`.
        let text = "If using all scalar values, you must pass an index";
        return Refusal::python(text, "every column of \"df\" must be a list of values");
    }
    details.refusal()
}

fn check(details: &mut Details, form: Form, loc: &str, raw: &[u8]) {
    let first = raw.first().copied();
    match form {
        Form::OptionalText | Form::OptionalTexts if raw == b"null" => {}
        Form::Text | Form::OptionalText if first != Some(b'"') => {
            details.add("string_type", loc, "Input should be a valid string", &compact(raw));
        }
        Form::Texts | Form::OptionalTexts if first != Some(b'[') => {
            details.add("list_type", loc, "Input should be a valid list", &compact(raw));
        }
        Form::Texts | Form::OptionalTexts => {
            elements(raw, |at, item| check(details, Form::Text, &format!("{loc},{at}"), item));
        }
        Form::Boolean => boolean(details, loc, raw),
        Form::Object | Form::Lists if first != Some(b'{') => {
            details.add("dict_type", loc, "Input should be a valid dictionary", &compact(raw));
        }
        Form::Lists => columns(raw, |name, item| {
            if item.first() != Some(&b'[') {
                let loc = format!("{loc},{}", quoted(name));
                details.add("list_type", &loc, "Input should be a valid list", &compact(item));
            }
        }),
        Form::Text | Form::OptionalText | Form::Object => {}
    }
}

fn boolean(details: &mut Details, loc: &str, raw: &[u8]) {
    let scalar = Scalar::json(raw);
    if truth(&scalar).is_some() {
        return;
    }
    let (kind, message) = match scalar {
        Scalar::Text(_) | Scalar::Number(_) => {
            ("bool_parsing", "Input should be a valid boolean, unable to interpret input")
        }
        _ => ("bool_type", "Input should be a valid boolean"),
    };
    details.add(kind, loc, message, &compact(raw));
}

fn elements(raw: &[u8], mut visit: impl FnMut(usize, &[u8])) {
    let mut at = 0;
    let _ = Scanner::new(raw).array(|scanner| {
        let item: Span = scanner.span()?;
        visit(at, item.of(raw));
        at += 1;
        Ok(())
    });
}

fn columns(raw: &[u8], mut visit: impl FnMut(&str, &[u8])) {
    let _ = Scanner::new(raw).object(|scanner, key| {
        let item = scanner.span()?;
        visit(&key.get(raw), item.of(raw));
        Ok(())
    });
}

/// JSON without white space between its parts; what is too long to be shown is not.
fn compact(raw: &[u8]) -> String {
    if raw.len() > SHOWN {
        return "\"(too long to be shown)\"".into();
    }
    let (mut out, mut in_text, mut escaped) = (Vec::with_capacity(raw.len()), false, false);
    for &byte in raw {
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            continue;
        } else {
            in_text = byte == b'"';
        }
        out.push(byte);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What Python's `json` says of text that is none, and at which character.
fn invalid_json(body: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(body);
    let error = match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Err(error) => error,
        // Only nesting that is too deep, or a lone surrogate, is read there and not here.
        Ok(_) => return json_error(0, "Expecting value"),
    };
    let line: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let at = (line + error.column().saturating_sub(1)).min(text.len());
    let said = error.to_string();
    let (words, at) = match &*said {
        said if said.starts_with("EOF") => (end_of(said), text.len()),
        said if said.starts_with("trailing characters") => ("Extra data", at),
        said if said.starts_with("expected `:`") => ("Expecting ':' delimiter", at),
        said if said.starts_with("expected `,`") => ("Expecting ',' delimiter", at),
        said if said.starts_with("key must be a string") || said.starts_with("trailing comma") => {
            ("Expecting property name enclosed in double quotes", at)
        }
        said if said.starts_with("control character") => ("Invalid control character at", at),
        said if said.starts_with("invalid escape") => ("Invalid \\\\escape", at),
        _ => ("Expecting value", at),
    };
    let characters = text.char_indices().take_while(|(index, _)| *index < at).count();
    json_error(characters, words)
}

fn end_of(said: &str) -> &'static str {
    if said.contains("string") {
        "Unterminated string starting at"
    } else if said.contains("list") || said.contains("object") {
        "Expecting ',' delimiter"
    } else {
        "Expecting value"
    }
}

fn json_error(at: usize, words: &str) -> Refusal {
    let body = format!(
        r#"{{"detail":[{{"type":"json_invalid","loc":["body",{at}],"msg":"JSON decode error","input":{{}},"ctx":{{"error":"{words}"}}}}]}}"#
    );
    Refusal::FastApi { status: StatusCode::UNPROCESSABLE_ENTITY, body, allow: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(unread: &Unread, body: &str, fields: &[Field]) -> serde_json::Value {
        let Refusal::FastApi { status, body, .. } = refusal(unread, body.as_bytes(), fields) else {
            panic!("FastAPI's")
        };
        assert_eq!(status, 422);
        serde_json::from_str(&body).expect("JSON")
    }

    #[test]
    fn everything_that_is_wrong_is_told_in_the_schemas_order() {
        let body = r#"{"features": ["v:f", 1], "entities": {"a": 1, "b": [2]}, "full_feature_names": "maybe",
            "feature_service": 3, "include_feature_view_version_metadata": null}"#;
        let details = told(&Unread::Schema, body, GET_ONLINE_FEATURES);
        let seen: Vec<_> = details["detail"].as_array().unwrap().iter().map(|d| (&d["type"], &d["loc"])).collect();
        let expected = serde_json::json!([
            ["list_type", ["body", "entities", "a"]],
            ["string_type", ["body", "feature_service"]],
            ["string_type", ["body", "features", 1]],
            ["bool_parsing", ["body", "full_feature_names"]],
            ["bool_type", ["body", "include_feature_view_version_metadata"]],
        ]);
        assert_eq!(serde_json::json!(seen), expected);
    }

    #[test]
    fn text_that_is_no_json_is_told_with_its_place() {
        for (body, at, words) in [
            (r#"{"entities": }"#, 13, "Expecting value"),
            (r#"{"entities": {} x"#, 16, "Expecting ',' delimiter"),
            (r#"{"a": 1} x"#, 9, "Extra data"),
            (r#"{"a" 1}"#, 5, "Expecting ':' delimiter"),
        ] {
            let error = told(&Unread::Json, body, PUSH);
            let detail = &error["detail"][0];
            assert_eq!(
                (&detail["type"], &detail["loc"][1], &detail["ctx"]["error"]),
                (&"json_invalid".into(), &at.into(), &words.into()),
                "{body}"
            );
        }
        assert_eq!(told(&Unread::Json, "", PUSH)["detail"][0]["type"], "missing");
        assert_eq!(told(&Unread::Schema, "null", PUSH)["detail"][0]["loc"], serde_json::json!(["body"]));
        assert_eq!(told(&Unread::Schema, " [1, 2]", PUSH)["detail"][0]["input"], serde_json::json!([1, 2]));
    }

    #[test]
    fn white_space_within_text_stays() {
        assert_eq!(compact(br#" { "a b" : [ 1 , "x \" y" ] } "#), r#"{"a b":[1,"x \" y"]}"#);
    }
}
