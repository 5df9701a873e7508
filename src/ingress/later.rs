//! Requests for later, at the wire: what could not be answered is queued and answered 202, and its result is given out.
//!
//! ```text
//!   infer ─► known under its key? ──► its result, or 202
//!     │ no
//!     ▼
//!   the path ──► a failure, and the caller would come back, or the model says so ──► put ──► 202, `location: /v1/async/{id}`
//!          └───► an answer, or a word about the request: as it is
//! ```
//!
//! A request that nobody wants queued passes through without a copy. One that may be queued is read whole before it is on its path, so
//! that it can be kept as it came. gRPC has no 202: its caller gets UNAVAILABLE with `location` and `idempotency-key` as metadata, and
//! the result for the same call under that key.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Response, StatusCode, header};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    body::ResponseBody,
    context::Told,
    encode, grpc,
    service::{Arrival, Gateway, method_not_allowed},
};
use crate::{
    config::{Config, Model},
    infer::{
        Answer, AnswerBody, Error, InferRequest, Kind, Level, Payload, Protocol, Timings, Verdict,
        headers::retry_after, may_have_acted,
    },
    pipeline::Log,
    spool::{self, Entry, Kept, Millis, New, Put, Spool, Standing, State, Why},
};

/// Where results are.
const PLACE: &str = "/v1/async/";
/// What an answer about a kept request says of it.
const ASYNC: HeaderName = HeaderName::from_static("weir-async");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Negative: no library is to make the call again by itself. **Source:** gRFC A6, "Pushback".
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Longest key.
const LONGEST_KEY: usize = 255;
/// What the spool may take at least, however close the deadline is.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
/// How soon a caller may come back for a result that is being made.
const COME_BACK: Duration = Duration::from_secs(1);

/// What a caller said of a request, for the case that it cannot be answered now.
#[derive(Default)]
pub(super) struct Wish {
    asked: bool,
    key: Option<HeaderValue>,
}

impl Wish {
    pub(super) fn by(told: &Told) -> Self {
        Self { asked: told.prefers_async(), key: told.idempotency_key().cloned() }
    }

    /// Whether nothing was said.
    pub(super) const fn is_none(&self) -> bool {
        !self.asked && self.key.is_none()
    }

    /// Whether the request may be queued, so that it must be read whole.
    pub(super) const fn may_queue(&self, model: &Model) -> bool {
        self.asked || model.queue_on_reject
    }

    fn key(&self) -> Result<Option<Arc<str>>, Error> {
        let Some(value) = &self.key else { return Ok(None) };
        let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= LONGEST_KEY);
        text.map(|text| Some(text.into())).ok_or_else(|| {
            let shown = value.as_bytes().len();
            Error::invalid(format!(
                "header idempotency-key: {shown} bytes are no key; allowed: 1 to {LONGEST_KEY} visible ASCII characters"
            ))
        })
    }
}

/// Sends a request on its path; one that nothing could answer is queued where that is wanted, and answered 202.
///
/// # Errors
///
/// As the path says, or the request cannot be kept.
pub(super) async fn infer(gateway: &Gateway, request: Box<InferRequest>, wish: Wish) -> Result<Answer, Error> {
    if !wish.may_queue(gateway.pipeline.config.model(request.model)) {
        return gateway.pipeline.infer(request).await;
    }
    Box::pin(queueable(gateway, request, wish)).await
}

async fn queueable(gateway: &Gateway, request: Box<InferRequest>, wish: Wish) -> Result<Answer, Error> {
    let key = wish.key()?;
    let Some(kept) = kept(&gateway.pipeline.config, &request) else { return gateway.pipeline.infer(request).await };
    let (protocol, deadline, model) =
        (request.protocol, request.deadline, gateway.pipeline.config.model(request.model));
    let patience = || deadline.remaining(Instant::now()).max(LEAST_PATIENCE);
    if let Some(key) = &key
        && let Some(answer) = known(gateway, (key, &kept), model, patience() / 4).await?
    {
        return Ok(answer);
    }
    let outcome = gateway.pipeline.infer(request).await;
    if !may_wait(&outcome, model) {
        return outcome;
    }
    let failure = outcome.map_or_else(|error| error, |answer| failure(&answer, protocol));
    let id = spool::new_id();
    let key = key.unwrap_or_else(|| Arc::clone(&id));
    let new = New { key, id, why: Why::Queued, once: !model.idempotent, request: kept };
    queue(gateway, &new, (failure, patience()), protocol).await
}

/// Whether a request that ended so may be answered later. One that may have reached a model which must not be asked twice stays
/// unanswered: only its caller knows what to do about that.
fn may_wait(outcome: &Result<Answer, Error>, model: &Model) -> bool {
    let failed = match outcome {
        Ok(answer) => answer.verdict == Verdict::Failed,
        Err(error) => {
            matches!(error.kind(), Kind::Unavailable | Kind::Shed | Kind::BackendFailed | Kind::DeadlineExceeded)
        }
    };
    failed && (model.idempotent || !may_have_acted(outcome))
}

/// What a model's server told of its own failure, for a caller who is told why a request was to be kept.
fn failure(answer: &Answer, protocol: Protocol) -> Error {
    let error =
        Error::new(Kind::BackendFailed, format!("the model's server answered {}", encode::status_of(answer, protocol)));
    match retry_after(&answer.headers, SystemTime::now) {
        Some(after) => error.with_retry_after(after),
        None => error,
    }
}

/// What is kept under the caller's key: its result, or that it waits for one. `None`: nothing, or the spool cannot say and asking the
/// model twice changes nothing.
///
/// # Errors
///
/// The key is another request's; or the spool cannot say, and the model, which may have been asked, must not be asked twice.
async fn known(
    gateway: &Gateway,
    (key, request): (&Arc<str>, &spool::Request),
    model: &Model,
    patience: Duration,
) -> Result<Option<Answer>, Error> {
    let now = spool::now();
    let found = timeout(patience, gateway.spool.under(&request.model, key, now)).await;
    match found.unwrap_or_else(|_| Err(no_answer())) {
        Ok(Some(kept)) if kept.entry.digest == request.digest() => Ok(Some(shown(kept, request.protocol, now))),
        Ok(Some(_)) => Err(refused(spool::Error::OtherRequest(Arc::clone(key)), None)),
        Ok(None) => Ok(None),
        Err(error) if model.idempotent => {
            tracing::debug!(%error, "what is kept under a key is not known");
            Ok(None)
        }
        Err(error) => {
            let text = format!(
                "whether a request is kept under idempotency-key {key:?} is not known, and model {:?} must not be asked twice \
                 (idempotent: false): {error}",
                model.name
            );
            Err(Error::new(Kind::Unavailable, text).with_source(error).with_retry_after(COME_BACK))
        }
    }
}

/// What a spool is to its caller that takes longer than he has.
fn no_answer() -> spool::Error {
    spool::Error::Unreachable("no answer in time".into())
}

async fn queue(
    gateway: &Gateway,
    new: &New,
    (error, patience): (Error, Duration),
    protocol: Protocol,
) -> Result<Answer, Error> {
    let now = spool::now();
    let put = timeout(patience, gateway.spool.put(new, now)).await;
    match put.unwrap_or_else(|_| Err(no_answer())) {
        Ok(Put::Kept) => Ok(accepted(&queued(new, gateway, now), protocol, now)),
        // The same request came at the same time.
        Ok(Put::Known(id)) => {
            let entry = Entry { id, ..queued(new, gateway, now) };
            Ok(accepted(&entry, protocol, now))
        }
        Err(failed @ spool::Error::Unreachable(_)) => Ok(unsure(new, (&error, &failed), protocol)),
        Err(refusal) => Err(refused(refusal, Some(error))),
    }
}

/// That a request could not be answered, and that nobody knows whether it is kept: its caller finds out where its result would be, or
/// asks again under its key, and what was kept is not queued a second time.
fn unsure(new: &New, (instead, why): (&Error, &spool::Error), protocol: Protocol) -> Answer {
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
    let body = AnswerBody::Whole(json!({ "error": text }).to_string().into());
    plain(StatusCode::SERVICE_UNAVAILABLE, headers, (body, None), Level::Reject)
}

/// gRPC's UNAVAILABLE, of a call that its library is not to repeat by itself.
fn unavailable(mut headers: HeaderMap, text: &str) -> Answer {
    headers.extend(encode::grpc_status(14, text));
    headers.insert(PUSHBACK, HeaderValue::from_static("-1"));
    plain(StatusCode::OK, headers, (AnswerBody::Whole(Bytes::new()), None), Level::Reject)
}

/// The entry that was just made.
fn queued(new: &New, gateway: &Gateway, now: Millis) -> Entry {
    Entry {
        id: Arc::clone(&new.id),
        key: Arc::clone(&new.key),
        model: new.request.model.as_str().into(),
        why: new.why,
        once: new.once,
        digest: 0,
        received: now,
        expires: now.saturating_add(spool::millis(gateway.spool.terms().keep_for)),
        attempts: 0,
        claims: 0,
        state: State::Waiting { due: now },
    }
}

/// What the caller is told; `instead`: why the request was to be kept.
fn refused(error: spool::Error, instead: Option<Error>) -> Error {
    let kind = match &error {
        spool::Error::OtherRequest(_) => Kind::KeyReused,
        spool::Error::Full(_) | spool::Error::NoRoom { .. } => Kind::SpoolFull,
        spool::Error::Unreachable(_) | spool::Error::Damaged(_) => Kind::Unavailable,
    };
    let text = match (&instead, kind) {
        (Some(instead), Kind::SpoolFull | Kind::Unavailable) => format!("{instead}; and it cannot be queued: {error}"),
        _ => error.to_string(),
    };
    let after = instead.as_ref().and_then(Error::retry_after);
    let told = Error::new(kind, text).with_source(error);
    match after {
        Some(after) => told.with_retry_after(after),
        None if kind == Kind::Unavailable => told.with_retry_after(COME_BACK),
        None => told,
    }
}

/// What logs requests that were answered at level 3.
pub(crate) fn logging(spool: &Arc<Spool>) -> Log {
    let spool = Arc::clone(spool);
    Box::new(move |config, request| {
        let once = !config.model(request.model).idempotent;
        if config.spool.log
            && let Some(request) = kept(config, request)
        {
            let id = spool::new_id();
            spool.log(New { key: Arc::clone(&id), id, why: Why::Logged, once, request });
        }
    })
}

/// What is kept of a request; `None`: its body passes by and cannot be kept.
fn kept(config: &Config, request: &InferRequest) -> Option<spool::Request> {
    let body = match &request.payload {
        Payload::Stream { .. } => return None,
        Payload::Retained(body) => body.clone(),
        Payload::Decoded(decoded) if request.protocol == Protocol::Grpc => grpc::frame(&decoded.body),
        Payload::Decoded(decoded) => decoded.body.clone(),
    };
    let model = config.model(request.model);
    let also = model.cache.as_ref().map_or(&[][..], |cache| &cache.headers);
    Some(spool::Request {
        model: model.name.as_ref().into(),
        version: request.version.as_deref().map(Into::into),
        protocol: request.protocol,
        method: request.method,
        verb: request.verb.clone(),
        path: request.path.clone(),
        tier: config.tiers[request.tier.index()].name.as_ref().into(),
        headers: spool::without_secrets(&request.headers),
        asker: spool::Asker::of(&request.headers, also),
        json_length: request.json_length,
        body,
    })
}

/// Answers `GET /v1/async/{id}`.
pub(super) async fn result(gateway: &Gateway, arrival: &Arrival, id: &str) -> Response<ResponseBody> {
    let verb = &arrival.head.method;
    if verb != Verb::GET && verb != Verb::HEAD {
        return method_not_allowed(verb, "GET, HEAD");
    }
    let (request_id, now) = (arrival.told.request_id(), spool::now());
    let found = match gateway.spool.get(id, now).await {
        Ok(Some(kept)) => Ok(over_http(kept, now)),
        Ok(None) => Err(Error::new(
            Kind::NotFound,
            "no request is kept under this id: there never was one, or it was forgotten after spool.keep_for",
        )),
        Err(error) => Err(refused(error, None)),
    };
    match found {
        Ok(answer) => encode::answer(answer, Protocol::V2Json, request_id),
        Err(error) => encode::error(&error, Protocol::V2Json, Some(&request_id)),
    }
}

/// An entry's result for a caller over HTTP: a gRPC message without its frame, a gRPC status as the HTTP status and error that
/// correspond to it.
fn over_http(mut kept: Kept, now: Millis) -> Answer {
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
            let status = super::status::http_of_grpc(if code == 0 { 13 } else { code });
            (status, "application/json", Bytes::from(json!({ "error": text }).to_string()))
        }
    };
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(kind));
    spool::Reply { status, headers: HeaderMap::from_iter([content_type]), body, trailers: None }
}

/// An entry's result, or that it waits for one.
fn shown(kept: Kept, protocol: Protocol, now: Millis) -> Answer {
    let Some(reply) = kept.reply else { return accepted(&kept.entry, protocol, now) };
    let mut headers = reply.headers;
    headers.insert(ASYNC, HeaderValue::from_static(Standing::Done.name()));
    let body = AnswerBody::Whole(reply.body);
    plain(reply.status, headers, (body, reply.trailers), Level::Full)
}

/// That a request is kept: 202, or what comes closest to it.
fn accepted(entry: &Entry, protocol: Protocol, now: Millis) -> Answer {
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
    plain(StatusCode::ACCEPTED, headers, (AnswerBody::Whole(body.to_string().into()), None), Level::Reject)
}

/// When there may be a result; `None`: not before an operator says so.
fn come_back(state: &State, now: Millis) -> Option<Duration> {
    match state {
        State::Waiting { due } => Some(Duration::from_millis(due.saturating_sub(now)).max(COME_BACK)),
        State::Running { .. } => Some(COME_BACK),
        State::Done { .. } | State::Parked { .. } => None,
    }
}

fn plain(
    status: StatusCode,
    headers: HeaderMap,
    (body, trailers): (AnswerBody, Option<HeaderMap>),
    level: Level,
) -> Answer {
    let (degraded, caches, timings) = (Vec::new(), Vec::new(), Timings::default());
    Answer { status, headers, body, trailers, verdict: Verdict::Good, level, degraded, caches, timings }
}

fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids are hex digits, keys came in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_may_have_reached_a_model_that_must_not_be_asked_twice_is_not_queued() {
        let mut model = crate::fixture::config().models.remove(1);
        for (kind, once, twice) in [
            (Kind::Unavailable, true, true),
            (Kind::Shed, true, true),
            (Kind::BackendFailed, false, true),
            (Kind::DeadlineExceeded, false, true),
            (Kind::InvalidRequest, false, false),
            (Kind::Internal, false, false),
            (Kind::Cancelled, false, false),
        ] {
            for (idempotent, expected) in [(false, once), (true, twice)] {
                model.idempotent = idempotent;
                assert_eq!(may_wait(&Err(Error::new(kind, "")), &model), expected, "{kind:?}, {idempotent}");
            }
        }
        model.idempotent = false;
        let unsent = || Error::new(Kind::BackendFailed, "no connection").with_acted(false);
        assert!(may_wait(&Err(unsent()), &model), "nothing was sent");
        assert!(!may_wait(&Err(Error::new(Kind::Unavailable, "").with_acted(true)), &model), "a member was asked");
    }

    #[test]
    fn a_failure_that_the_models_server_told_itself_is_queued_too_and_a_word_about_the_request_is_not() {
        let mut model = crate::fixture::config().models.remove(1);
        let answer = |status: u16, verdict| {
            let status = StatusCode::from_u16(status).unwrap();
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("7"))]);
            Ok(Answer {
                status,
                verdict,
                ..plain(status, headers, (AnswerBody::Whole(Bytes::new()), None), Level::Full)
            })
        };
        for (idempotent, status, verdict, waits) in [
            (true, 503, Verdict::Failed, true),
            (true, 429, Verdict::Failed, true),
            (true, 400, Verdict::Good, false),
            (true, 200, Verdict::Good, false),
            (false, 503, Verdict::Failed, false),
        ] {
            model.idempotent = idempotent;
            assert_eq!(may_wait(&answer(status, verdict), &model), waits, "{idempotent} {status}");
        }
        let told = failure(&answer(503, Verdict::Failed).unwrap(), Protocol::V1);
        assert_eq!(told.to_string(), "the model's server answered 503 Service Unavailable");
        assert_eq!(told.retry_after(), Some(Duration::from_secs(7)));
        let mut dated = answer(503, Verdict::Failed).unwrap();
        for (name, value) in
            [("retry-after", "Tue, 15 Nov 1994 12:00:30 GMT"), ("date", "Tue, 15 Nov 1994 12:00:00 GMT")]
        {
            dated.headers.insert(name, HeaderValue::from_static(value));
        }
        let full = refused(spool::Error::Full(9), Some(failure(&dated, Protocol::V1)));
        assert_eq!(full.retry_after(), Some(Duration::from_secs(30)), "a date is understood as where it is retried");
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
            let answer = unsure(&new, (&failure, &no_answer()), Protocol::V1);
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
        let answer = unsure(&new, (&failure, &no_answer()), Protocol::Grpc);
        assert_eq!((answer.status, header(&answer, "grpc-status")), (StatusCode::OK, Some("14")));
        assert_eq!(
            (header(&answer, "location"), header(&answer, PUSHBACK.as_str())),
            (Some("/v1/async/0a"), Some("-1"))
        );
    }

    #[test]
    fn a_key_is_visible_and_short() {
        let key = |text: &[u8]| Wish { asked: true, key: Some(HeaderValue::from_bytes(text).unwrap()) }.key();
        assert_eq!(key(b"order-1").unwrap().as_deref(), Some("order-1"));
        assert!(Wish::default().key().unwrap().is_none());
        for text in [&b""[..], &[b'x'; LONGEST_KEY + 1], "é".as_bytes()] {
            assert!(key(text).unwrap_err().to_string().starts_with("header idempotency-key: "), "{text:?}");
        }
    }

    #[test]
    fn a_refusal_tells_why_the_request_was_to_be_kept_and_why_it_is_not() {
        let instead = || Error::new(Kind::Unavailable, "no endpoint").with_retry_after(Duration::from_secs(7));
        let full = refused(spool::Error::Full(9), Some(instead()));
        assert_eq!((full.kind(), full.retry_after()), (Kind::SpoolFull, Some(Duration::from_secs(7))));
        assert!(full.to_string().starts_with("no endpoint; and it cannot be queued: the spool is full"), "{full}");
        let other = refused(spool::Error::OtherRequest("k".into()), Some(instead()));
        assert_eq!(other.kind(), Kind::KeyReused);
        let away = refused(spool::Error::Unreachable("refused".into()), None);
        assert_eq!((away.kind(), away.retry_after()), (Kind::Unavailable, Some(COME_BACK)));
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
