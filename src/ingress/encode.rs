//! Answers and errors onto the wire: status, headers, body. Every answer says at which level it was given.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{body::ResponseBody, context, status};
use crate::{
    infer::{
        Answer, AnswerBody, CacheEvent, CacheOutcome, CachedOf, Degradation, Error, Level, Protocol, RequestId,
        Timings,
        headers::{CACHE_STATUS, LEVEL, PREDICTION_HIT, REQUEST_ID},
        hops::{self, Hop},
    },
    pipeline::Told,
};

pub(super) const DEGRADED: HeaderName = HeaderName::from_static("weir-degraded");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Headers that an answer gets here, most of the time.
const ADDED: usize = 4;

/// An answer as it goes out.
pub(super) fn answer(mut answer: Answer, protocol: Protocol, id: RequestId) -> Response<ResponseBody> {
    hops::strip(&mut answer.headers, Hop::Answer);
    answer.headers.reserve(ADDED);
    if protocol == Protocol::Grpc {
        answer = in_grpc(answer);
    }
    let Answer { status, mut headers, body, trailers, level, degraded, caches, timings, verdict: _ } = answer;
    settle_length(
        &mut headers,
        match &body {
            AnswerBody::Whole(bytes) if protocol != Protocol::Grpc && trailers.is_none() => Some(bytes.len()),
            AnswerBody::Whole(_) | AnswerBody::Stream(_) => None,
        },
    );
    let caches = if caches.is_empty() { None } else { Some(cache_status(&caches)) };
    let level = HeaderValue::from_static(level.digit());
    headers.insert(LEVEL, level);
    headers.insert(REQUEST_ID, id.0);
    if let Some(caches) = caches {
        headers.insert(CACHE_STATUS, caches);
    }
    if !degraded.is_empty() {
        headers.insert(DEGRADED, header_value(degraded_text(&degraded)));
    }
    if timings != Timings::default() {
        headers.insert(SERVER_TIMING, server_timing(&timings));
    }
    if let Some(trailers) = trailers.as_ref().filter(|_| !headers.contains_key(header::TRAILER)) {
        announce(&mut headers, trailers);
    }
    let body = match body {
        AnswerBody::Whole(bytes) => {
            ResponseBody::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()), trailers.map(Box::new))
        }
        AnswerBody::Stream(stream) => ResponseBody::stream(stream),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The answer that the same bytes got before, with the id of this request.
pub(super) fn told_before(Told { mut headers, body, .. }: Told, id: RequestId) -> Response<ResponseBody> {
    // Found without hashing its name.
    let mut places = headers.iter_mut().filter(|(name, _)| **name == REQUEST_ID);
    let (_, place) = places.next().expect("what is told again was kept with a place for an id");
    *place = id.0;
    let mut response = Response::new(ResponseBody::whole(body));
    *response.headers_mut() = headers;
    response
}

/// Takes `content-length` out unless it says `length`; hyper says it where nobody does. Left where it is right, because taking
/// it out and writing it anew costs an allocation and two hashed names.
fn settle_length(headers: &mut HeaderMap, length: Option<usize>) {
    let Some(told) = headers.get(header::CONTENT_LENGTH) else { return };
    let is_right = length.is_some_and(|length| itoa::Buffer::new().format(length).as_bytes() == told.as_bytes());
    if !is_right {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Gives an answer that no model was asked for what every answer has: its level, which is 0 where the ladder has no say, and an
/// id, the caller's where `told` is one.
pub(super) fn complete(headers: &mut HeaderMap, told: Option<&HeaderValue>) {
    if headers.contains_key(REQUEST_ID) {
        debug_assert!(headers.contains_key(LEVEL), "what gives an answer its id gives it its level");
        return;
    }
    headers.entry(LEVEL).or_insert(HeaderValue::from_static(Level::Full.digit()));
    headers.insert(REQUEST_ID, context::id_or_new(told).0);
}

/// The HTTP status an answer is counted under: for gRPC the one that corresponds to its status, as far as that is known.
pub(super) fn status_of(answer: &Answer, protocol: Protocol) -> StatusCode {
    if protocol != Protocol::Grpc || answer.status != StatusCode::OK {
        return answer.status;
    }
    let told = [Some(&answer.headers), answer.trailers.as_ref()]
        .into_iter()
        .flatten()
        .find_map(|headers| headers.get(GRPC_STATUS));
    match (told, &answer.body) {
        (Some(code), _) => status::http_of_grpc(code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2)),
        (None, AnswerBody::Stream(_)) => StatusCode::OK,
        (None, AnswerBody::Whole(_)) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A gRPC answer always ends in a gRPC status: where the upstream gave none, the HTTP status tells it.
fn in_grpc(answer: Answer) -> Answer {
    let has_status = |headers: &HeaderMap| headers.contains_key(GRPC_STATUS);
    if has_status(&answer.headers) || answer.trailers.as_ref().is_some_and(has_status) {
        return Answer { status: StatusCode::OK, ..answer };
    }
    let told = match (answer.status, &answer.body) {
        // Its trailers are still to come.
        (StatusCode::OK, AnswerBody::Stream(_)) => return answer,
        (StatusCode::OK, AnswerBody::Whole(_)) => {
            "the model's server ended its answer without a grpc-status".to_owned()
        }
        (status, _) => format!("the model's server answered HTTP {status}, which is no gRPC answer"),
    };
    let mut headers = grpc_status(status::grpc_of_http(answer.status), &told);
    if let Some(after) = answer.headers.get(header::RETRY_AFTER) {
        headers.insert(header::RETRY_AFTER, after.clone());
    }
    Answer { status: StatusCode::OK, headers, body: AnswerBody::Whole(Bytes::new()), trailers: None, ..answer }
}

/// Names the trailers to come: over HTTP/1.1 only those are sent.
fn announce(headers: &mut HeaderMap, trailers: &HeaderMap) {
    // gRPC's are announced by `te: trailers` and never over HTTP/1.1.
    for name in trailers.keys().filter(|name| !name.as_str().starts_with("grpc-")) {
        headers.append(header::TRAILER, HeaderValue::from(name.clone()));
    }
}

/// An error as it goes out: JSON `{"error": "…"}`, or a gRPC status with the same text.
pub(super) fn error(error: &Error, protocol: Protocol, id: Option<&RequestId>) -> Response<ResponseBody> {
    let row = status::of(error.kind());
    let mut response = if protocol == Protocol::Grpc {
        grpc_error(row.grpc, &error.to_string())
    } else {
        json(row.http, &serde_json::json!({ "error": error.to_string() }))
    };
    let headers = response.headers_mut();
    headers.insert(LEVEL, HeaderValue::from_static(row.level.digit()));
    if let Some(id) = id {
        headers.insert(REQUEST_ID, id.0.clone());
    }
    if let Some(after) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, retry_after(after));
    }
    response
}

/// Whole seconds, rounded up: a caller that obeys finds the door open.
pub(super) fn retry_after(after: std::time::Duration) -> HeaderValue {
    HeaderValue::from(after.as_millis().div_ceil(1000).max(1) as u64)
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A unary gRPC answer around a serialized message.
pub(super) fn grpc_message(message: &[u8]) -> Response<ResponseBody> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let body = ResponseBody::Whole(Some(super::grpc::frame(message)), Some(Box::new(trailers)));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn grpc_error(code: u8, message: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.headers_mut() = grpc_status(code, message);
    response
}

/// **Source:** gRPC over HTTP/2, "Trailers-Only" and "Percent-Encoded".
pub(super) fn grpc_status(code: u8, message: &str) -> HeaderMap {
    const RESERVED: &AsciiSet = &CONTROLS.add(b'%');
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    let encoded: String = utf8_percent_encode(message, RESERVED).collect();
    headers.insert(GRPC_MESSAGE, HeaderValue::from_str(&encoded).expect("percent-encoded text is visible ASCII"));
    headers
}

/// The members of `weir-degraded`. View names come from the config, which allows only token characters.
pub(super) fn degraded_text(degraded: &[Degradation]) -> String {
    let mut text = String::with_capacity(48 * degraded.len());
    for (index, member) in degraded.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        // Writing to a String cannot fail.
        let _ = match member {
            Degradation::Stale { view, age } => write!(text, "stale;view={view};age={}", age.as_secs()),
            Degradation::Default { view, reason } => write!(text, "default;view={view};reason={}", reason.token()),
            Degradation::Model { used, cause } => write!(text, "model;used={used};reason={}", cause.token()),
            Degradation::Rule { cause } => write!(text, "rule;reason={}", cause.token()),
            Degradation::Member { model, cause } => write!(text, "member;model={model};reason={}", cause.token()),
            Degradation::Cached { age, of, cause } => {
                let of = if *of == CachedOf::Entity { ";of=entity" } else { "" };
                write!(text, "cached;age={}{of};reason={}", age.as_secs(), cause.token())
            }
            Degradation::Outputs { cause } => write!(text, "default;reason={}", cause.token()),
        };
    }
    text
}

/// **Source:** RFC 9211.
fn cache_status(caches: &[CacheEvent]) -> HeaderValue {
    if let [CacheEvent { cache, outcome: CacheOutcome::Hit }] = caches {
        match *cache {
            "weir-l1" => return HeaderValue::from_static("weir-l1; hit"),
            "weir-prediction" => return HeaderValue::from_static(PREDICTION_HIT),
            _ => {}
        }
    }
    let mut text = String::with_capacity(24 * caches.len());
    for (index, event) in caches.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(event.cache);
        text.push_str(match event.outcome {
            CacheOutcome::Hit => "; hit",
            CacheOutcome::Miss => "; fwd=miss",
            CacheOutcome::Collapsed => "; fwd=miss; collapsed",
            CacheOutcome::Unavailable => "; fwd=miss; detail=unavailable",
            CacheOutcome::Bypass => "; fwd=bypass",
        });
    }
    header_value(text)
}

fn server_timing(timings: &Timings) -> HeaderValue {
    let mut text = String::with_capacity(64);
    for (name, took) in [("features", timings.features), ("queue", timings.queue), ("model", timings.model)] {
        if took.is_zero() {
            continue;
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name);
        text.push_str(";dur=");
        push_millis(&mut text, took.as_micros());
    }
    header_value(text)
}

/// Milliseconds with three decimals, without going through floats.
fn push_millis(text: &mut String, micros: u128) {
    let micros = u64::try_from(micros).unwrap_or(u64::MAX);
    let mut digits = itoa::Buffer::new();
    text.push_str(digits.format(micros / 1000));
    text.push('.');
    // A leading 1 keeps the fraction's zeros.
    text.push_str(&digits.format(1000 + micros % 1000)[1..]);
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// In every protocol: what the caller could not mend is 4, a mistake of its own 0.
    #[test]
    fn an_error_that_no_level_answered_does_not_claim_the_full_one() {
        use crate::infer::Kind::{
            BackendFailed, DeadlineExceeded, Internal, InvalidRequest, MethodNotAllowed, NotAllowed, NotFound,
            RequestTimeout, Shed, TooLarge, Unauthenticated, Unavailable, Unimplemented, UnsupportedMediaType,
        };
        let refused = [Shed, DeadlineExceeded, BackendFailed, Unavailable, Internal];
        let mistaken = [
            InvalidRequest,
            TooLarge,
            RequestTimeout,
            NotFound,
            MethodNotAllowed,
            UnsupportedMediaType,
            Unauthenticated,
            NotAllowed,
            Unimplemented,
        ];
        let levels = refused.map(|kind| (kind, "4")).into_iter().chain(mistaken.map(|kind| (kind, "0")));
        for (kind, level) in levels {
            for protocol in [Protocol::V1, Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc] {
                let response = error(&Error::new(kind, "no"), protocol, None);
                assert_eq!(response.headers()["weir-level"], level, "{kind:?} {protocol:?}");
            }
        }
    }

    #[test]
    fn a_length_stays_only_where_it_is_right() {
        for (told, length, stays) in
            [("12", Some(12), true), ("12", Some(13), false), ("012", Some(12), false), ("12", None, false)]
        {
            let mut headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static(told))]);
            settle_length(&mut headers, length);
            assert_eq!(headers.contains_key(header::CONTENT_LENGTH), stays, "{told} {length:?}");
        }
    }

    #[test]
    fn timings_are_milliseconds() {
        let timings = Timings {
            features: Duration::from_micros(7),
            model: Duration::from_micros(1_234_567),
            ..Timings::default()
        };
        assert_eq!(server_timing(&timings), "features;dur=0.007, model;dur=1234.567");
    }

    #[test]
    fn a_grpc_message_survives_any_text() {
        let headers = grpc_status(3, "shape é × 100 %\n");
        assert_eq!(headers["grpc-message"], "shape %C3%A9 %C3%97 100 %25%0A");
    }

    fn upstream(status: u16, trailers: Option<HeaderMap>) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { trailers, ..Answer::whole(status, HeaderMap::new(), Bytes::from_static(b"<html>")) }
    }

    #[test]
    fn a_grpc_answer_always_has_a_grpc_status() {
        let id = RequestId(HeaderValue::from_static("r"));
        for (status, code) in
            [(200, "2"), (400, "13"), (401, "16"), (403, "7"), (404, "12"), (429, "14"), (500, "2"), (503, "14")]
        {
            let response = answer(upstream(status, None), Protocol::Grpc, id.clone());
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["grpc-status"], code, "{status}");
            assert!(!response.headers()["grpc-message"].is_empty() && response.headers().contains_key("weir-level"));
            assert!(matches!(response.body(), ResponseBody::Whole(None, None)));
        }
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
        assert_eq!(status_of(&upstream(200, Some(trailers.clone())), Protocol::Grpc), 200);
        let response = answer(upstream(200, Some(trailers)), Protocol::Grpc, id.clone());
        assert!(!response.headers().contains_key("grpc-status"));
        assert!(matches!(response.body(), ResponseBody::Whole(Some(_), Some(_))));
        assert_eq!(answer(upstream(404, None), Protocol::V2Json, id).status(), 404);
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("5"))]);
        assert_eq!(status_of(&upstream(200, Some(trailers)), Protocol::Grpc), 404);
        assert_eq!(status_of(&upstream(200, None), Protocol::Grpc), 500);
    }

    #[test]
    fn every_answer_has_a_level_and_an_id() {
        let mut headers = HeaderMap::new();
        complete(&mut headers, Some(&HeaderValue::from_static("mine")));
        assert_eq!(
            (&headers["weir-level"], &headers["x-request-id"]),
            (&"0".parse().unwrap(), &"mine".parse().unwrap())
        );
        let mut headers = HeaderMap::from_iter([(LEVEL, HeaderValue::from_static("4"))]);
        complete(&mut headers, None);
        assert_eq!(headers["weir-level"], "4");
        assert_eq!(headers["x-request-id"].len(), 32);
    }
}
