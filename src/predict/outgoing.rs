//! The request as it goes out: path, headers and body, rebuilt for every attempt with the time that remains.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use smallvec::SmallVec;

use super::{
    body::{BodyFault, Fault, RequestBody},
    endpoint::Endpoint,
    http1,
};
use crate::{
    enrich::{Body, Enriched},
    infer::{
        Method, Protocol, RequestId,
        headers::{ENVOY_TIMEOUT, GRPC_TIMEOUT, JSON_LENGTH, REQUEST_ID, WEIR_TIMEOUT, find},
    },
};

/// What every attempt of a request sends.
pub(super) struct Outgoing {
    pub(super) protocol: Protocol,
    pub(super) method: Method,
    verb: http::Method,
    path: PathAndQuery,
    /// The caller's.
    headers: Arc<HeaderMap>,
    /// What is said in place of what those say of the same.
    own: Own,
    /// Whether the deadline is told in Envoy's form too, as the caller did.
    tells_envoy: bool,
    body: Replay,
    fault: Arc<Fault>,
}

/// Fields whose values are numbers.
pub(super) type Numbers = SmallVec<[(HeaderName, u64); 2]>;

/// Fields that are Weir's.
type Own = SmallVec<[(HeaderName, HeaderValue); 3]>;

/// Whether the body can be sent again.
enum Replay {
    Whole(Bytes),
    /// Taken by the attempt that sends it. Locked, never waited for: no two attempts share such a body.
    Once(Mutex<Option<RequestBody>>),
}

/// Why a request cannot be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Single {
    /// Its body is gone.
    NotReplayable,
    /// It may have been carried out.
    NotIdempotent,
}

impl Outgoing {
    pub(super) fn new(enriched: Enriched, model: &str, upstream: &str) -> Self {
        let Enriched { request, body, json_length } = enriched;
        let path = if model == upstream || request.protocol == Protocol::Grpc {
            request.path
        } else {
            renamed(&request.path, upstream)
        };
        let RequestId(id) = request.id;
        let mut headers = request.headers;
        let mut own = Own::new();
        own.push((REQUEST_ID, id));
        describe_body(&mut headers, &mut own, (request.protocol, request.method), json_length);
        // The deadline is told anew in each form that the endpoint may heed; gRPC's is one of gRPC.
        if request.protocol != Protocol::Grpc && find(&headers, &GRPC_TIMEOUT).is_some() {
            Arc::make_mut(&mut headers).remove(GRPC_TIMEOUT);
        }
        let tells_envoy = find(&headers, &ENVOY_TIMEOUT).is_some();
        let fault = Arc::default();
        let body = match body {
            Body::Whole(bytes) => Replay::Whole(bytes),
            Body::Stream { head, rest } => {
                let head = Some(head).filter(|head| !head.is_empty());
                Replay::Once(Mutex::new(Some(RequestBody::Stream { head, rest, fault: Arc::clone(&fault) })))
            }
        };
        Self {
            protocol: request.protocol,
            method: request.method,
            verb: request.verb,
            path,
            headers,
            own,
            tells_envoy,
            body,
            fault,
        }
    }

    /// Whether another attempt can be made after one that was sent: the body is at hand, and asking twice changes nothing, as
    /// for predictions the model says (`idempotent`).
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn repeatable(&self, idempotent: bool) -> Result<(), Single> {
        let safe = match self.method {
            Method::Predict | Method::Explain | Method::Stream => idempotent,
            Method::Other => {
                self.protocol == Protocol::Grpc || matches!(self.verb, http::Method::GET | http::Method::HEAD)
            }
        };
        match self.body {
            Replay::Once(_) => Err(Single::NotReplayable),
            Replay::Whole(_) if !safe => Err(Single::NotIdempotent),
            Replay::Whole(_) => Ok(()),
        }
    }

    /// Whether sending it takes no longer than the endpoint likes: its body is here, and its end too.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.body, Replay::Whole(_)) && self.method != Method::Stream
    }

    /// How the caller's body failed, if it did.
    pub(super) fn fault(&self) -> Option<BodyFault> {
        self.fault.noted()
    }

    /// Whether the endpoint cannot answer yet because the caller still sends. Of a stream it need not have all to answer.
    pub(super) fn awaits_caller(&self) -> bool {
        self.method != Method::Stream && self.fault.is_awaited()
    }

    /// Takes back the body of an attempt that was never sent.
    pub(super) fn restore(&self, body: RequestBody) {
        if let Replay::Once(slot) = &self.body {
            *lock(slot) = Some(body);
        }
    }

    /// The body for one attempt; `None` when it is gone.
    pub(super) fn body(&self) -> Option<RequestBody> {
        match &self.body {
            Replay::Whole(bytes) => Some(RequestBody::Whole(Some(bytes.clone()).filter(|bytes| !bytes.is_empty()))),
            Replay::Once(slot) => lock(slot).take(),
        }
    }

    /// The head of an attempt over HTTP/1.1, with `left` until its deadline.
    pub(super) fn http1<'a>(&'a self, to: &'a Endpoint, numbers: &'a Numbers) -> http1::Request<'a> {
        http1::Request {
            verb: &self.verb,
            path: &self.path,
            host: to.host(self.protocol),
            headers: &self.headers,
            own: &self.own,
            numbers,
        }
    }

    /// What an attempt with `left` until its deadline says of it. Less than a millisecond is one: 0 would be no timeout, and another
    /// Weir refuses it as its caller's mistake.
    pub(super) fn deadline(&self, left: Duration) -> Numbers {
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut numbers = Numbers::new();
        numbers.push((WEIR_TIMEOUT, millis));
        if self.tells_envoy {
            numbers.push((ENVOY_TIMEOUT, millis));
        }
        numbers
    }

    /// An attempt over HTTP/2, with `left` until its deadline; `None` when the body is gone.
    pub(super) fn http2(&self, to: &Endpoint, left: Duration) -> Option<Request<RequestBody>> {
        let mut request = Request::new(self.body()?);
        *request.method_mut() = self.verb.clone();
        *request.uri_mut() = self.uri(to);
        *request.version_mut() = http::Version::HTTP_2;
        // Kept for the next attempt: the request takes its headers with it.
        let mut headers = HeaderMap::clone(&self.headers);
        for framing in [header::HOST, header::CONTENT_LENGTH] {
            headers.remove(framing);
        }
        for (name, value) in &self.own {
            headers.insert(name, value.clone());
        }
        // In place of the caller's own: what `extend` adds would come after those.
        for (name, millis) in self.deadline(left) {
            headers.insert(name, HeaderValue::from(millis));
        }
        headers.insert(GRPC_TIMEOUT, grpc_timeout(left));
        *request.headers_mut() = headers;
        Some(request)
    }

    fn uri(&self, to: &Endpoint) -> Uri {
        let uri = Uri::builder().scheme("http").authority(to.host(self.protocol).as_bytes());
        uri.path_and_query(self.path.clone()).build().unwrap_or_else(|_| Uri::from(self.path.clone()))
    }
}

fn lock(slot: &Mutex<Option<RequestBody>>) -> MutexGuard<'_, Option<RequestBody>> {
    // Nothing panics while it is held.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// **Source:** gRPC over HTTP/2, "Timeout": a positive number of at most eight digits, and a unit.
fn grpc_timeout(left: Duration) -> HeaderValue {
    let micros = left.as_micros().max(1);
    let text = match micros {
        0..=99_999_999 => format!("{micros}u"),
        100_000_000..=99_999_999_999 => format!("{}m", micros / 1_000),
        _ => format!("{}S", (micros / 1_000_000).min(99_999_999)),
    };
    HeaderValue::from_str(&text).expect("digits and a letter are visible ASCII")
}

/// Says what the body is.
fn describe_body(
    headers: &mut Arc<HeaderMap>,
    own: &mut Own,
    (protocol, method): (Protocol, Method),
    json_length: Option<usize>,
) {
    let content_type = match protocol {
        Protocol::Grpc => {
            own.push((header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
            own.push((header::TE, HeaderValue::from_static("trailers")));
            return;
        }
        Protocol::V2Binary => HeaderValue::from_static("application/octet-stream"),
        Protocol::V1 | Protocol::V2Json => HeaderValue::from_static("application/json"),
    };
    // What says neither JSON nor binary (curl's form type, or nothing at all) is refused by some servers.
    let telling =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("json") || text.contains("octet-stream"));
    if method != Method::Other && !headers.get(header::CONTENT_TYPE).is_some_and(telling) {
        own.push((header::CONTENT_TYPE, content_type));
    }
    if let Some(length) = json_length {
        own.push((JSON_LENGTH, HeaderValue::from(length as u64)));
    } else if find(headers, &JSON_LENGTH).is_some() {
        Arc::make_mut(headers).remove(JSON_LENGTH);
    }
}

/// All but what a path segment may hold as it is; servers match model names without decoding them.
///
/// **Source:** RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path with its model's name (the segment after `models/`) replaced.
fn renamed(path: &PathAndQuery, upstream: &str) -> PathAndQuery {
    let text = path.as_str();
    let Some(start) = text.find("/models/").map(|at| at + "/models/".len()) else {
        return path.clone();
    };
    let end = text[start..].find(['/', ':', '?']).map_or(text.len(), |length| start + length);
    let renamed = format!("{}{}{}", &text[..start], utf8_percent_encode(upstream, RESERVED), &text[end..]);
    PathAndQuery::try_from(renamed).unwrap_or_else(|_| path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_only_the_model() {
        for (path, expected) in [
            ("/v2/models/m/infer", "/v2/models/up/infer"),
            ("/v2/models/m/versions/3/infer?x=1", "/v2/models/up/versions/3/infer?x=1"),
            ("/v1/models/m:predict", "/v1/models/up:predict"),
            ("/v2/models/m", "/v2/models/up"),
        ] {
            assert_eq!(renamed(&PathAndQuery::from_static(path), "up"), expected);
        }
        assert_eq!(
            renamed(&PathAndQuery::from_static("/v2/models/m/infer"), "a-b_c.d/e"),
            "/v2/models/a-b_c.d%2Fe/infer"
        );
    }

    #[test]
    fn what_is_left_is_never_told_as_nothing() {
        let outgoing = Outgoing {
            protocol: Protocol::V2Json,
            method: Method::Predict,
            verb: http::Method::POST,
            path: PathAndQuery::from_static("/"),
            headers: Arc::default(),
            own: Own::new(),
            tells_envoy: true,
            body: Replay::Whole(Bytes::new()),
            fault: Arc::default(),
        };
        for (left, millis) in [(Duration::ZERO, 1), (Duration::from_micros(999), 1), (Duration::from_millis(2), 2)] {
            let told = outgoing.deadline(left);
            assert_eq!(told.to_vec(), [(WEIR_TIMEOUT, millis), (ENVOY_TIMEOUT, millis)], "{left:?}");
        }
    }

    #[test]
    fn timeouts_never_have_more_than_eight_digits() {
        for (left, expected) in [
            (Duration::ZERO, "1u"),
            (Duration::from_millis(200), "200000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
        ] {
            assert_eq!(grpc_timeout(left), expected);
        }
    }
}
