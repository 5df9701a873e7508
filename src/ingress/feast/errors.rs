//! What the API answers when it cannot answer: the bodies that Feast's clients understand, and one table of statuses.
//!
//! Feast's own exceptions go out as a JSON string that holds JSON (`{"module", "class", "message"}`): its SDK makes the
//! exception of it again. Everything else is a JSON string of words; what does not fit the schema is FastAPI's `detail`. As
//! Feast's Python server answers, a caller's mistake is often a 500; told truthfully, it is the caller's.

use std::fmt::Write as _;

use http::{HeaderValue, Response, StatusCode, header};

use super::value;
use crate::{
    config::Compat,
    infer::{Error, headers::LEVEL},
    ingress::{body::ResponseBody, encode, status},
};

/// A refusal.
#[derive(Debug)]
pub(super) enum Refusal {
    /// One of Feast's exceptions.
    Feast { class: Class, message: String },
    /// Where Feast's server fails with the text of a Python exception (500); `told` says it to the caller in words.
    Python { text: String, told: String },
    /// FastAPI's, of this status: a whole JSON body.
    FastApi { status: StatusCode, body: String, allow: Option<&'static str> },
    /// Weir's own.
    Weir(Error),
}

/// Feast's exceptions, and what status they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    FeatureView,
    FeatureService,
    Object,
    PushSource,
    NameCollision,
}

impl Class {
    const fn name(self) -> &'static str {
        match self {
            Self::FeatureView => "FeatureViewNotFoundException",
            Self::FeatureService => "FeatureServiceNotFoundException",
            Self::Object => "FeastObjectNotFoundException",
            Self::PushSource => "PushSourceNotFoundException",
            Self::NameCollision => "FeatureNameCollisionError",
        }
    }

    const fn status(self, compat: Compat) -> StatusCode {
        match (self, compat) {
            (Self::FeatureView | Self::FeatureService | Self::Object, _) => StatusCode::NOT_FOUND,
            (Self::PushSource, _) | (Self::NameCollision, Compat::Truthful) => StatusCode::UNPROCESSABLE_ENTITY,
            (Self::NameCollision, Compat::FeastPython) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Weir(error)
    }
}

impl Refusal {
    /// A mistake of the caller's for which Feast has a Python exception.
    pub(super) fn python(text: impl Into<String>, told: impl Into<String>) -> Self {
        Self::Python { text: text.into(), told: told.into() }
    }

    /// `{"detail": …}` with the words that FastAPI has for a status.
    pub(super) fn detail(status: StatusCode, words: &str, allow: Option<&'static str>) -> Self {
        Self::FastApi { status, body: format!("{{\"detail\":{}}}", quoted(words)), allow }
    }

    /// What was wrong, for a log: not the form of the answer, and a bounded part of what the caller sent.
    pub(super) fn told(&self) -> String {
        const MOST: usize = 512;
        match self {
            Self::Feast { message: told, .. } | Self::Python { told, .. } | Self::FastApi { body: told, .. } => {
                told.chars().take(MOST).collect()
            }
            Self::Weir(error) => error.to_string(),
        }
    }

    /// The answer.
    pub(super) fn response(&self, compat: Compat) -> Response<ResponseBody> {
        let (status, body) = match self {
            Self::Feast { class, message } => (class.status(compat), quoted(&exception(*class, message))),
            Self::Python { text, told } => match compat {
                Compat::FeastPython => (StatusCode::INTERNAL_SERVER_ERROR, quoted(text)),
                Compat::Truthful => (StatusCode::UNPROCESSABLE_ENTITY, quoted(told)),
            },
            Self::FastApi { status, body, .. } => (*status, body.clone()),
            Self::Weir(error) => (status::of(error.kind()).http, quoted(&error.to_string())),
        };
        let mut response = Response::new(ResponseBody::whole(body.into_bytes().into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Self::FastApi { allow: Some(allow), .. } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Self::Weir(error) = self {
            headers.insert(LEVEL, HeaderValue::from_static(status::of(error.kind()).level.digit()));
            if let Some(after) = error.retry_after() {
                headers.insert(header::RETRY_AFTER, encode::retry_after(after));
            }
        }
        response
    }
}

/// Text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    value::string(&mut out, text);
    String::from_utf8(out).expect("made of text")
}

/// An exception as `FeastError.to_error_detail` writes it.
fn exception(class: Class, message: &str) -> String {
    let (class, message) = (class.name(), ascii(message));
    format!("{{\"module\": \"feast.errors\", \"class\": \"{class}\", \"message\": {message}}}")
}

/// Text as Python's `json.dumps` quotes it: ASCII only.
fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for character in quoted(text).chars() {
        if character.is_ascii() && character != '\u{7f}' {
            out.push(character);
            continue;
        }
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Text as Python's `repr` shows it.
pub(super) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', character]),
            _ if character.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push(quote);
    out
}

/// Texts as Python shows a list of them.
pub(super) fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(repr).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_shows_text_in_the_quotes_that_it_has_not() {
        assert_eq!(repr("plain"), "'plain'");
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("it's \"x\""), "'it\\'s \"x\"'");
        assert_eq!(repr("a\\b\n"), "'a\\\\b\\n'");
        assert_eq!(list(["a", "b"]), "['a', 'b']");
    }

    #[test]
    fn an_exception_is_json_within_json() {
        let refusal = Refusal::Feast { class: Class::FeatureView, message: "no \"ü\"".into() };
        assert_eq!(
            exception(Class::FeatureView, "no \"ü\""),
            r#"{"module": "feast.errors", "class": "FeatureViewNotFoundException", "message": "no \"\u00fc\""}"#
        );
        assert_eq!(refusal.response(Compat::Truthful).status(), 404);
        let collision = Refusal::Feast { class: Class::NameCollision, message: String::new() };
        assert_eq!(collision.response(Compat::Truthful).status(), 422);
        assert_eq!(collision.response(Compat::FeastPython).status(), 500);
        let python = Refusal::python("x", "y");
        assert_eq!(python.response(Compat::Truthful).status(), 422);
        assert_eq!(python.response(Compat::FeastPython).status(), 500);
    }
}
