//! What a caller is told of a kept request: where its result will be, the result itself, or that nobody knows whether it is kept.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use super::{COME_BACK, encode, grpc};
use crate::{
    infer::{Answer, Error, Level, Protocol},
    spool::{self, Entry, Kept, Millis, New, Standing, State},
};

/// Where results are.
const PLACE: &str = "/v1/async/";
/// What an answer about a kept request says of it.
const ASYNC: HeaderName = HeaderName::from_static("weir-async");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Negative: no library is to make the call again by itself. **Source:** gRFC A6, "Pushback".
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// That a request could not be answered, and that nobody knows whether it is kept: its caller finds out where its result would be, or
/// asks again under its key, and what was kept is not queued a second time.
pub(super) fn unsure(new: &New, instead: &Error, why: &spool::Error, protocol: Protocol) -> Answer {
    let location = format!("{PLACE}{}", new.id);
    let text = format!(
        "{instead}; and it may have been queued, or not: {why}; a result would be at {location}, and is the answer to the same \
         request with this idempotency-key"
    );
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::LOCATION, visible(&location));
    headers.insert(IDEMPOTENCY_KEY, visible(&new.key));
    headers.insert(header::RETRY_AFTER, encode::retry_after(instead.retry_after().unwrap_or(COME_BACK)));
    if protocol == Protocol::Grpc {
        return unavailable(headers, &text);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let text = json!({ "error": text }).to_string();
    Answer { level: Level::Reject, ..Answer::whole(StatusCode::SERVICE_UNAVAILABLE, headers, text.into()) }
}

/// gRPC's UNAVAILABLE, of a call that its library is not to repeat by itself.
fn unavailable(mut headers: HeaderMap, text: &str) -> Answer {
    headers.extend(encode::grpc_status(14, text));
    headers.insert(PUSHBACK, HeaderValue::from_static("-1"));
    Answer { level: Level::Reject, ..Answer::whole(StatusCode::OK, headers, Bytes::new()) }
}

/// An entry's result for a caller over HTTP: a gRPC message without its frame, a gRPC status as the HTTP status and error that
/// correspond to it.
pub(super) fn over_http(mut kept: Kept, now: Millis) -> Answer {
    if kept.request.protocol == Protocol::Grpc
        && let Some(reply) = kept.reply.take()
    {
        kept.reply = Some(unframed(reply));
    }
    shown(kept, Protocol::V2Json, now)
}

fn unframed(reply: spool::Reply) -> spool::Reply {
    let headers = [Some(&reply.headers), reply.trailers.as_ref()];
    let told = |name: &str| {
        let found = headers.iter().flatten().find_map(|headers| headers.get(name));
        found.and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let code: u8 = told("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(2);
    let message = grpc::unframe(reply.body.clone(), told("grpc-encoding").as_deref(), u64::MAX);
    let (status, kind, body) = match (code, message) {
        (0, Ok(message)) => (StatusCode::OK, "application/x-protobuf", message),
        (code, message) => {
            let told = told("grpc-message")
                .map(|text| percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned());
            let text = told.or_else(|| message.err().map(|error| error.to_string())).unwrap_or_default();
            let status = super::super::status::http_of_grpc(if code == 0 { 13 } else { code });
            (status, "application/json", Bytes::from(json!({ "error": text }).to_string()))
        }
    };
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(kind));
    spool::Reply { status, headers: HeaderMap::from_iter([content_type]), body, trailers: None }
}

/// An entry's result, or that it waits for one.
pub(super) fn shown(kept: Kept, protocol: Protocol, now: Millis) -> Answer {
    let Some(reply) = kept.reply else { return accepted(&kept.entry, protocol, now) };
    let mut headers = reply.headers;
    headers.insert(ASYNC, HeaderValue::from_static(Standing::Done.name()));
    Answer { trailers: reply.trailers, ..Answer::whole(reply.status, headers, reply.body) }
}

/// That a request is kept: 202, or what comes closest to it.
pub(super) fn accepted(entry: &Entry, protocol: Protocol, now: Millis) -> Answer {
    let (location, standing) = (format!("{PLACE}{}", entry.id), entry.state.standing());
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(ASYNC, HeaderValue::from_static(standing.name()));
    headers.insert(header::LOCATION, visible(&location));
    headers.insert(IDEMPOTENCY_KEY, visible(&entry.key));
    if let Some(after) = come_back(&entry.state, now) {
        headers.insert(header::RETRY_AFTER, encode::retry_after(after));
    }
    if protocol == Protocol::Grpc {
        let text = match &entry.state {
            State::Parked { reason, .. } => format!("parked: {reason}; see {location}"),
            _ => format!(
                "queued: the result will be at {location}, and is the answer to the same call with the same idempotency-key"
            ),
        };
        return unavailable(headers, &text);
    }
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut body = json!({
        "id": &*entry.id,
        "state": standing.name(),
        "model": &*entry.model,
        "location": location,
        "attempts": entry.attempts,
    });
    if let State::Parked { reason, .. } = &entry.state {
        body["reason"] = (**reason).into();
    }
    Answer { level: Level::Reject, ..Answer::whole(StatusCode::ACCEPTED, headers, body.to_string().into()) }
}

/// When there may be a result; `None`: not before an operator says so.
fn come_back(state: &State, now: Millis) -> Option<Duration> {
    match state {
        State::Waiting { due } => Some(Duration::from_millis(due.saturating_sub(now)).max(COME_BACK)),
        State::Running { .. } => Some(COME_BACK),
        State::Done { .. } | State::Parked { .. } => None,
    }
}

fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids are hex digits, keys came in a header")
}

#[cfg(test)]
mod tests {
    use http::Method as Verb;

    use super::*;
    use crate::{
        infer::{AnswerBody, Kind},
        ingress::later::no_answer,
        spool::Why,
    };

    fn entry(state: State) -> Entry {
        Entry {
            id: "0a".into(),
            key: "k".into(),
            model: "fraud".into(),
            why: Why::Queued,
            once: false,
            digest: 0,
            received: 1000,
            expires: 9000,
            attempts: 2,
            claims: 2,
            state,
        }
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_caller_is_told_where_and_when_to_look() {
        for (state, told, after) in [
            (State::Waiting { due: 31_000 }, "waiting", Some("30")),
            (State::Waiting { due: 500 }, "waiting", Some("1")),
            (State::Running { by: "g".into(), until: 90_000 }, "running", Some("1")),
            (State::Parked { at: 1000, reason: "no luck".into() }, "parked", None),
        ] {
            for protocol in [Protocol::V1, Protocol::Grpc] {
                let answer = accepted(&entry(state.clone()), protocol, 1000);
                assert_eq!(header(&answer, "location"), Some("/v1/async/0a"));
                assert_eq!(header(&answer, "idempotency-key"), Some("k"));
                assert_eq!((header(&answer, "weir-async"), header(&answer, "retry-after")), (Some(told), after));
                let is_grpc = protocol == Protocol::Grpc;
                assert_eq!(answer.status, if is_grpc { StatusCode::OK } else { StatusCode::ACCEPTED });
                assert_eq!(header(&answer, "grpc-status"), is_grpc.then_some("14"));
                assert_eq!(header(&answer, "grpc-retry-pushback-ms"), is_grpc.then_some("-1"));
            }
        }
    }

    #[test]
    fn who_may_have_been_queued_is_told_where_that_would_be() {
        let path = http::uri::PathAndQuery::from_static("/v2/models/fraud/infer");
        let request = spool::Request {
            asker: spool::Asker::default(),
            model: "fraud".into(),
            version: None,
            protocol: Protocol::V2Json,
            method: crate::infer::Method::Predict,
            verb: Verb::POST,
            path,
            tier: "high".into(),
            headers: HeaderMap::new(),
            json_length: None,
            body: Bytes::new(),
        };
        let new = New { id: "0a".into(), key: "k".into(), why: Why::Queued, once: false, request };
        for (after, told) in [(None, "1"), (Some(Duration::from_secs(7)), "7")] {
            let failure = Error::new(Kind::Unavailable, "no endpoint");
            let failure = after
                .map_or_else(|| Error::new(Kind::Unavailable, "no endpoint"), |after| failure.with_retry_after(after));
            let answer = unsure(&new, &failure, &no_answer(), Protocol::V1);
            assert_eq!((answer.status, answer.level), (StatusCode::SERVICE_UNAVAILABLE, Level::Reject));
            assert_eq!(
                (header(&answer, "location"), header(&answer, "idempotency-key")),
                (Some("/v1/async/0a"), Some("k"))
            );
            assert_eq!((header(&answer, "retry-after"), header(&answer, "weir-async")), (Some(told), None));
            let AnswerBody::Whole(body) = answer.body else { panic!("a stream") };
            let body = String::from_utf8_lossy(&body);
            assert!(
                body.starts_with("{\"error\":\"no endpoint; and it may have been queued, or not: the spool cannot"),
                "{body}"
            );
        }
        let failure = Error::new(Kind::Unavailable, "no endpoint");
        let answer = unsure(&new, &failure, &no_answer(), Protocol::Grpc);
        assert_eq!((answer.status, header(&answer, "grpc-status")), (StatusCode::OK, Some("14")));
        assert_eq!(
            (header(&answer, "location"), header(&answer, PUSHBACK.as_str())),
            (Some("/v1/async/0a"), Some("-1"))
        );
    }

    #[test]
    fn a_grpc_answer_is_told_over_http() {
        let reply = |trailers: &[(&'static str, &'static str)], body: Bytes| spool::Reply {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body,
            trailers: Some(
                trailers
                    .iter()
                    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                    .collect(),
            ),
        };
        let good = unframed(reply(&[("grpc-status", "0")], grpc::frame(b"message")));
        assert_eq!((good.status, &*good.body), (StatusCode::OK, &b"message"[..]));
        let bad = unframed(reply(&[("grpc-status", "3"), ("grpc-message", "no%20shape")], Bytes::new()));
        assert_eq!((bad.status, &*bad.body), (StatusCode::BAD_REQUEST, &br#"{"error":"no shape"}"#[..]));
        let broken = unframed(reply(&[("grpc-status", "0")], Bytes::from_static(b"\0\0")));
        assert_eq!(broken.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(unframed(reply(&[], Bytes::new())).status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
