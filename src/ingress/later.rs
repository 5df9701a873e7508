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

mod answers;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method as Verb, Response};
use tokio::time::{Instant, timeout};

use self::answers::{accepted, over_http, shown, unsure};
use super::{
    body::ResponseBody,
    context::CallerHeaders,
    encode, grpc,
    service::{Arrival, Gateway, method_not_allowed},
};
use crate::{
    config::{Config, Model},
    infer::{Answer, Deadline, Error, InferRequest, Kind, Payload, Protocol, headers::retry_after},
    pipeline::{Log, may_wait},
    spool::{self, Entry, Millis, New, Put, Spool, State, Why},
};

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
    pub(super) fn by(told: &CallerHeaders) -> Self {
        Self { asked: told.prefers_async(), key: told.idempotency_key().cloned() }
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
    let model = gateway.pipeline.config.model(request.model);
    let call = Call { gateway, model, protocol: request.protocol, deadline: request.deadline };
    if let Some(key) = &key
        && let Some(answer) = call.known(key, &kept).await?
    {
        return Ok(answer);
    }
    let outcome = gateway.pipeline.infer(request).await;
    if !may_wait(&outcome, model) {
        return outcome;
    }
    let failure = outcome.map_or_else(|error| error, |answer| failure(&answer, call.protocol));
    let id = spool::new_id();
    let key = key.unwrap_or_else(|| Arc::clone(&id));
    let new = New { key, id, why: Why::Queued, once: !model.idempotent, request: kept };
    call.queue(&new, failure).await
}

/// A call that may be queued.
struct Call<'a> {
    gateway: &'a Gateway,
    model: &'a Model,
    protocol: Protocol,
    deadline: Deadline,
}

impl Call<'_> {
    /// How long the spool may take.
    fn patience(&self) -> Duration {
        self.deadline.remaining(Instant::now()).max(LEAST_PATIENCE)
    }

    /// What is kept under the caller's key: its result, or that it waits for one. `None`: nothing, or the spool cannot say and asking the
    /// model twice changes nothing.
    ///
    /// # Errors
    ///
    /// The key is another request's; or the spool cannot say, and the model, which may have been asked, must not be asked twice.
    async fn known(&self, key: &Arc<str>, request: &spool::Request) -> Result<Option<Answer>, Error> {
        let now = spool::now();
        let found = timeout(self.patience() / 4, self.gateway.spool.under(&request.model, key, now)).await;
        match found.unwrap_or_else(|_| Err(no_answer())) {
            Ok(Some(kept)) if kept.entry.digest == request.digest() => Ok(Some(shown(kept, request.protocol, now))),
            Ok(Some(_)) => Err(refused(spool::Error::OtherRequest(Arc::clone(key)), None)),
            Ok(None) => Ok(None),
            Err(error) if self.model.idempotent => {
                tracing::debug!(%error, "what is kept under a key is not known");
                Ok(None)
            }
            Err(error) => {
                let text = format!(
                    "whether a request is kept under idempotency-key {key:?} is not known, and model {:?} must not be asked twice \
                     (idempotent: false): {error}",
                    self.model.name
                );
                Err(Error::new(Kind::Unavailable, text).with_source(error).with_retry_after(COME_BACK))
            }
        }
    }

    /// Queues a request that ended in `error`.
    async fn queue(&self, new: &New, error: Error) -> Result<Answer, Error> {
        let now = spool::now();
        let put = timeout(self.patience(), self.gateway.spool.put(new, now)).await;
        match put.unwrap_or_else(|_| Err(no_answer())) {
            Ok(Put::Kept) => Ok(accepted(&self.entry(new, now), self.protocol, now)),
            // The same request came at the same time.
            Ok(Put::Known(id)) => {
                let entry = Entry { id, ..self.entry(new, now) };
                Ok(accepted(&entry, self.protocol, now))
            }
            Err(failed @ spool::Error::Unreachable(_)) => Ok(unsure(new, &error, &failed, self.protocol)),
            Err(refusal) => Err(refused(refusal, Some(error))),
        }
    }

    /// The entry that was just made.
    fn entry(&self, new: &New, now: Millis) -> Entry {
        Entry {
            id: Arc::clone(&new.id),
            key: Arc::clone(&new.key),
            model: new.request.model.as_str().into(),
            why: new.why,
            once: new.once,
            digest: 0,
            received: now,
            expires: now.saturating_add(spool::millis(self.gateway.spool.terms().keep_for)),
            attempts: 0,
            claims: 0,
            state: State::Waiting { due: now },
        }
    }
}

/// What a spool is to its caller that takes longer than he has.
fn no_answer() -> spool::Error {
    spool::Error::Unreachable("no answer in time".into())
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, header};

    use super::*;
    use crate::infer::Verdict;

    #[test]
    fn a_failure_that_the_models_server_told_itself_is_queued_too_and_a_word_about_the_request_is_not() {
        let mut model = crate::fixture::config().models.remove(1);
        let answer = |status: u16, verdict| {
            let status = StatusCode::from_u16(status).unwrap();
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("7"))]);
            Ok(Answer { status, verdict, ..Answer::whole(status, headers, Bytes::new()) })
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
}
