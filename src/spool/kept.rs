//! What is kept of a request and of its answer, and how it is written down: protobuf messages, so that a gateway of another
//! version can read them.
//!
//! What lets a caller in is not kept (`authorization`, cookies, API keys): it would lie in a store for a day, and would mostly
//! have run out by the time of a replay. A model server that wants it refuses the replay, whose answer then is that refusal. Only a
//! hash of it goes into what a request is known again by: what one caller was told is no other's.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, StatusCode, uri::PathAndQuery};
use prost::Message as _;

use crate::infer::{Method, Protocol};

/// Headers that let a caller in. They are left out.
const SECRETS: [&str; 5] = ["authorization", "cookie", "x-api-key", "api-key", "x-amz-security-token"];

/// Headers that are left out because they are only true of the request as it came.
const PASSING: [&str; 4] = ["prefer", "content-length", "traceparent", "tracestate"];

/// A request, as it can be asked again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) model: String,
    pub(crate) version: Option<String>,
    pub(crate) protocol: Protocol,
    pub(crate) method: Method,
    pub(crate) verb: Verb,
    pub(crate) path: PathAndQuery,
    /// The tier it came under, for `show`: a replay runs under the lowest.
    pub(crate) tier: String,
    /// The caller's end-to-end headers, without those that are left out.
    pub(crate) headers: HeaderMap,
    /// Not written down, but for what of it is in the digest.
    pub(crate) asker: Asker,
    /// In the binary extension, how long the JSON at its front is.
    pub(crate) json_length: Option<usize>,
    /// As it came; gRPC's in its frame.
    pub(crate) body: Bytes,
}

/// Who asks, as far as that shows: a hash of what lets the caller in, and of what else the model's answers depend on. A secret that
/// cannot be guessed cannot be had from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asker([u8; 32]);

impl Asker {
    /// `also`: further headers that answers depend on.
    pub(crate) fn of(headers: &HeaderMap, also: &[HeaderName]) -> Self {
        let mut hash = blake3::Hasher::new();
        for name in SECRETS.map(HeaderName::from_static).iter().chain(also) {
            for value in headers.get_all(name) {
                put(&mut hash, name.as_str().as_bytes());
                put(&mut hash, value.as_bytes());
            }
        }
        Self(*hash.finalize().as_bytes())
    }
}

/// Behind its length, so that no two lists of parts are the same bytes.
fn put(hash: &mut blake3::Hasher, part: &[u8]) {
    hash.update(&(part.len() as u64).to_le_bytes()).update(part);
}

/// An answer of the model's, or a refusal that asking again does not change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// gRPC's.
    pub(crate) trailers: Option<HeaderMap>,
}

/// What is stored is not what this version writes.
#[derive(Debug, thiserror::Error)]
#[error("what is stored cannot be read: {0}")]
pub(crate) struct Unreadable(Box<str>);

impl Unreadable {
    pub(super) fn because(why: impl std::fmt::Display) -> Self {
        Self(why.to_string().into())
    }
}

/// What may be kept of a request's headers.
pub(crate) fn without_secrets(headers: &HeaderMap) -> HeaderMap {
    let is_left_out = |name: &HeaderName| SECRETS.contains(&name.as_str()) || PASSING.contains(&name.as_str());
    let kept = headers.iter().filter(|(name, _)| !is_left_out(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl Request {
    /// Of what is asked and of who asks: the same for the same question of the same caller, whatever its other headers. A part of a
    /// cryptographic hash: who knows another one's key finds no question that has its result.
    pub(crate) fn digest(&self) -> u128 {
        let (mut hash, mut digest) = (blake3::Hasher::new(), [0; 16]);
        let length = self.json_length.map_or(u64::MAX, |length| length as u64);
        let (verb, path) = (self.verb.as_str(), self.path.as_str());
        for part in [&self.asker.0[..], self.model.as_bytes(), verb.as_bytes(), path.as_bytes()] {
            put(&mut hash, part);
        }
        hash.update(&length.to_le_bytes()).update(&self.body);
        hash.finalize_xof().fill(&mut digest);
        u128::from_le_bytes(digest)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let wire = wire::Request {
            model: self.model.clone(),
            version: self.version.clone(),
            protocol: self.protocol.name().into(),
            explains: self.method == Method::Explain,
            verb: self.verb.as_str().into(),
            path: self.path.as_str().into(),
            tier: self.tier.clone(),
            headers: written(&self.headers),
            json_length: self.json_length.map(|length| length as u64),
            body: self.body.clone(),
        };
        wire.encode_to_vec()
    }

    /// # Errors
    ///
    /// The bytes are no request.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Unreadable> {
        let wire = wire::Request::decode(bytes).map_err(Unreadable::because)?;
        const PROTOCOLS: [Protocol; 4] = [Protocol::V1, Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc];
        let protocol = PROTOCOLS.into_iter().find(|protocol| protocol.name() == wire.protocol);
        Ok(Self {
            model: wire.model,
            version: wire.version,
            protocol: protocol.ok_or_else(|| Unreadable::because("its protocol"))?,
            method: if wire.explains { Method::Explain } else { Method::Predict },
            verb: wire.verb.parse().map_err(Unreadable::because)?,
            path: wire.path.parse().map_err(Unreadable::because)?,
            tier: wire.tier,
            headers: read(wire.headers)?,
            asker: Asker::default(),
            json_length: wire.json_length.map(usize::try_from).transpose().map_err(Unreadable::because)?,
            body: wire.body,
        })
    }
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let wire = wire::Reply {
            status: self.status.as_u16().into(),
            headers: written(&self.headers),
            body: self.body.clone(),
            has_trailers: self.trailers.is_some(),
            trailers: self.trailers.as_ref().map(written).unwrap_or_default(),
        };
        wire.encode_to_vec()
    }

    /// # Errors
    ///
    /// The bytes are no reply.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Unreadable> {
        let wire = wire::Reply::decode(bytes).map_err(Unreadable::because)?;
        let status = u16::try_from(wire.status).map_err(Unreadable::because)?;
        Ok(Self {
            status: StatusCode::from_u16(status).map_err(Unreadable::because)?,
            headers: read(wire.headers)?,
            body: wire.body,
            trailers: wire.has_trailers.then(|| read(wire.trailers)).transpose()?,
        })
    }
}

fn written(headers: &HeaderMap) -> Vec<wire::Header> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| wire::Header {
        name: name.as_str().into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    headers.iter().map(header).collect()
}

fn read(written: Vec<wire::Header>) -> Result<HeaderMap, Unreadable> {
    let mut headers = HeaderMap::with_capacity(written.len());
    for wire::Header { name, value } in written {
        let name = HeaderName::try_from(name).map_err(Unreadable::because)?;
        headers.append(name, HeaderValue::from_maybe_shared(value).map_err(Unreadable::because)?);
    }
    Ok(headers)
}

/// The messages. Numbers are never used again for something else.
mod wire {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Header {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(bytes = "bytes", tag = "2")]
        pub(super) value: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(string, tag = "1")]
        pub(super) model: String,
        #[prost(string, optional, tag = "2")]
        pub(super) version: Option<String>,
        #[prost(string, tag = "3")]
        pub(super) protocol: String,
        #[prost(bool, tag = "4")]
        pub(super) explains: bool,
        #[prost(string, tag = "5")]
        pub(super) verb: String,
        #[prost(string, tag = "6")]
        pub(super) path: String,
        #[prost(string, tag = "7")]
        pub(super) tier: String,
        #[prost(message, repeated, tag = "8")]
        pub(super) headers: Vec<Header>,
        #[prost(uint64, optional, tag = "9")]
        pub(super) json_length: Option<u64>,
        #[prost(bytes = "bytes", tag = "10")]
        pub(super) body: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Reply {
        #[prost(uint32, tag = "1")]
        pub(super) status: u32,
        #[prost(message, repeated, tag = "2")]
        pub(super) headers: Vec<Header>,
        #[prost(bytes = "bytes", tag = "3")]
        pub(super) body: Bytes,
        #[prost(bool, tag = "4")]
        pub(super) has_trailers: bool,
        #[prost(message, repeated, tag = "5")]
        pub(super) trailers: Vec<Header>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn request() -> Request {
        Request {
            model: "fraud".into(),
            version: Some("2".into()),
            protocol: Protocol::V2Binary,
            method: Method::Predict,
            verb: Verb::POST,
            path: PathAndQuery::from_static("/v2/models/fraud/infer?x=1"),
            tier: "high".into(),
            headers: headers(&[("x-a", "1"), ("x-a", "2")]),
            asker: Asker::default(),
            json_length: Some(2),
            body: Bytes::from_static(b"{}\x00\xff"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for method in [Method::Predict, Method::Explain] {
            let request = Request { method, ..request() };
            assert_eq!(Request::decode(request.encode().into()).unwrap(), request);
        }
        for trailers in [None, Some(HeaderMap::new()), Some(headers(&[("grpc-status", "0")]))] {
            let body = Bytes::from_static(b"ok");
            let reply = Reply { status: StatusCode::OK, headers: headers(&[("a", "b")]), body, trailers };
            assert_eq!(Reply::decode(reply.encode().into()).unwrap(), reply);
        }
    }

    #[test]
    fn bytes_that_are_none_are_an_error() {
        for bytes in [&b"\xff\xff"[..], b"", b"\x1a\x02zz"] {
            assert!(Request::decode(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
        assert!(Reply::decode(Bytes::from_static(b"\x08\x01")).is_err(), "status 1");
    }

    #[test]
    fn secrets_are_not_kept() {
        let all = headers(&[("authorization", "Bearer x"), ("cookie", "c"), ("x-api-key", "k"), ("x-request-id", "r")]);
        assert_eq!(without_secrets(&all), headers(&[("x-request-id", "r")]));
    }

    #[test]
    fn a_question_is_known_by_who_asks() {
        let also = [HeaderName::from_static("x-tenant")];
        let of = |pairs: &[(&'static str, &'static str)]| {
            Request { asker: Asker::of(&headers(pairs), &also), ..request() }.digest()
        };
        let one = of(&[("authorization", "a"), ("x-tenant", "t")]);
        assert_eq!(one, of(&[("x-request-id", "7"), ("x-tenant", "t"), ("authorization", "a")]));
        for other in [
            &[][..],
            &[("authorization", "a")],
            &[("authorization", "b"), ("x-tenant", "t")],
            &[("authorization", "a"), ("x-tenant", "u")],
            &[("authorization", "a"), ("x-tenant", "t"), ("x-tenant", "t")],
            &[("cookie", "a"), ("x-tenant", "t")],
            &[("authorization", "a"), ("x-tenant", "t"), ("x-api-key", "k")],
        ] {
            assert_ne!(one, of(other), "{other:?}");
        }
    }

    #[test]
    fn a_question_is_known_by_all_that_it_asks() {
        let one = request();
        assert_eq!(one.digest(), Request { headers: HeaderMap::new(), tier: "low".into(), ..one.clone() }.digest());
        for other in [
            Request { body: Bytes::from_static(b"{} "), ..one.clone() },
            Request { path: PathAndQuery::from_static("/v2/models/fraud/infer"), ..one.clone() },
            Request { model: "lite".into(), ..one.clone() },
            Request { json_length: Some(3), ..one.clone() },
            Request { json_length: None, ..one.clone() },
        ] {
            assert_ne!(one.digest(), other.digest(), "{other:?}");
        }
    }
}
