//! A prediction that is kept: which answers may be, and how one is told again, with the id of whoever asks now.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use super::{
    id::{self, Place, Unlike},
    key::Scheme,
    memory::Weigh,
};
use crate::infer::{
    Answer, AnswerBody, Degradation, Level, Protocol, Reason, Verdict,
    headers::{JSON_LENGTH, REQUEST_ID},
    hops::{self, Hop},
    outputs::is_answer,
};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A prediction, and when it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) protocol: Protocol,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
    /// Where its id lies, where it is its request's.
    pub(super) place: Option<Place>,
    /// For the binary extension: how long the JSON at the front of the body is.
    pub(super) json_length: Option<usize>,
    /// It is as old as the question.
    pub(super) asked: Instant,
    /// How long it answers the same request, where the model says less than the config does.
    pub(super) max_age: Option<Duration>,
}

/// An answer made of a kept one.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is no full prediction: an error, one too long to hold, or made of what stood in for features.
    Degraded,
    /// The model says so: `cache-control`, `vary`, `set-cookie`; or the request does.
    Forbidden,
    /// It has an id of its own.
    Id,
    /// Its body is no answer, or not all of one.
    Malformed,
}

impl From<Unlike> for Unfit {
    fn from(Unlike: Unlike) -> Self {
        Self::Id
    }
}

impl Kept {
    /// Of an answer to a request asked at `asked`, whose own id is `id`.
    ///
    /// # Errors
    ///
    /// Why it is not to be kept.
    pub(super) fn of(
        answer: &Answer,
        (protocol, id): (Protocol, Option<&Bytes>),
        scheme: &Scheme,
        asked: Instant,
    ) -> Result<Self, Unfit> {
        let AnswerBody::Whole(body) = &answer.body else { return Err(Unfit::Degraded) };
        if !is_full(answer, protocol) {
            return Err(Unfit::Degraded);
        }
        let headers = &answer.headers;
        if !may_be_kept(headers, scheme) {
            return Err(Unfit::Forbidden);
        }
        // Told again, it would outlive the moment of whatever went wrong.
        if !is_answer(protocol, headers, body) {
            return Err(Unfit::Malformed);
        }
        let json_length = json_length(headers)?;
        let place = match id {
            Some(_) if is_encoded(headers) => return Err(Unfit::Id),
            Some(id) => id::place(protocol, body, json_length, id)?,
            None => None,
        };
        Ok(Self {
            protocol,
            headers: lasting(headers),
            // A slice of what was read from the socket would keep all of that.
            body: Bytes::copy_from_slice(body),
            trailers: answer.trailers.as_ref().map(lasting),
            place,
            json_length,
            asked,
            max_age: max_age(headers),
        })
    }

    /// What the model would say to the same request with this id.
    pub(super) fn told(&self, id: Option<&Bytes>) -> Told {
        let (mut headers, mut body) = (self.headers.clone(), self.body.clone());
        if let (Some(place), Some(id)) = (&self.place, id) {
            let (said, length) = id::replaced(self.protocol, &self.body, (place, self.json_length), id);
            if let Some(length) = length {
                headers.insert(JSON_LENGTH, HeaderValue::from(length as u64));
            }
            body = said;
        }
        Told { headers, body, trailers: self.trailers.clone() }
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked)
    }

    /// Until when it answers the same request.
    pub(super) fn fresh_until(&self, ttl: Duration) -> Instant {
        self.asked + self.max_age.map_or(ttl, |most| most.min(ttl))
    }

    /// Whether it answers the same request.
    pub(super) fn is_fresh(&self, ttl: Duration, now: Instant) -> bool {
        now < self.fresh_until(ttl)
    }
}

impl Weigh for Arc<Kept> {
    fn size(&self) -> usize {
        size_of::<Kept>()
            + self.body.len()
            + headers_size(&self.headers)
            + self.trailers.as_ref().map_or(0, headers_size)
    }
}

/// Bytes that headers take.
pub(super) fn headers_size(headers: &HeaderMap) -> usize {
    /// A header's place in the map, beside its value.
    const HEADER: usize = 96;
    headers.values().map(|value| HEADER + value.len()).sum()
}

/// Whether it is the model's full word, made of what the store said.
fn is_full(answer: &Answer, protocol: Protocol) -> bool {
    let stood_in = |degraded: &Degradation| match degraded {
        Degradation::Default { reason, .. } => *reason == Reason::Unavailable,
        _ => true,
    };
    let failed = |headers: &HeaderMap| headers.get(GRPC_STATUS).is_some_and(|status| status != "0");
    let is_ok = protocol != Protocol::Grpc
        || answer.trailers.as_ref().is_some_and(|trailers| trailers.contains_key(GRPC_STATUS) && !failed(trailers));
    answer.status == StatusCode::OK
        && answer.verdict == Verdict::Good
        && answer.level == Level::Full
        && !answer.degraded.iter().any(stood_in)
        && is_ok
        && !failed(&answer.headers)
}

/// Whether the model allows it, and told apart what it varies by.
///
/// **Source:** RFC 9111 §3, §4.1; and §7.3 on `set-cookie`.
fn may_be_kept(headers: &HeaderMap, scheme: &Scheme) -> bool {
    const NOT: [&str; 3] = ["no-store", "no-cache", "private"];
    let forbids = |directive: &str| {
        NOT.iter().any(|not| directive.split('=').next().unwrap_or_default().eq_ignore_ascii_case(not))
    };
    !members(headers, &header::CACHE_CONTROL).any(forbids)
        && members(headers, &header::VARY).all(|name| scheme.tells_apart(name))
        && !headers.contains_key(header::SET_COOKIE)
}

/// The members of a header that is a list.
fn members<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    // What is no text is a member that nobody knows.
    let values = headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or("?"));
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

/// How long the model says that it answers: what it says to caches that many share, as this one is, before what it says to all.
///
/// **Source:** RFC 9111 §4.2.1, §5.2.2.10.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let said = |of: &str| {
        members(headers, &header::CACHE_CONTROL).find_map(|directive| {
            let (name, seconds) = directive.split_once('=')?;
            name.eq_ignore_ascii_case(of).then(|| seconds.trim_matches('"').parse().unwrap_or(0))
        })
    };
    said("s-maxage").or_else(|| said("max-age")).map(Duration::from_secs)
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Unlike> {
    let length = headers.get(JSON_LENGTH).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    length.map(|length| length.ok_or(Unlike)).transpose()
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
}

/// Headers that are true of the next request as well.
///
/// **Source:** RFC 9111 §3.1.
fn lasting(headers: &HeaderMap) -> HeaderMap {
    let mut lasting = headers.clone();
    hops::strip(&mut lasting, Hop::Answer);
    for name in [&REQUEST_ID, &header::CONTENT_LENGTH] {
        lasting.remove(name);
    }
    lasting
}
