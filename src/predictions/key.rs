//! What makes two requests the same to a model: a key over everything that it sees of them but their id.
//!
//! The key is a BLAKE3 hash of 256 bits, and nothing else of a request is kept or compared. A caller chooses the bytes, and whoever found
//! two requests of one key could have one answered with the other's prediction. XXH3 is broken for that (collisions that hold for every
//! seed are published), and a keyed hash like SipHash would need a secret that all gateways of a project share; a cryptographic hash
//! needs none, so that L1 and L2 have the same key. It costs about a microsecond a kilobyte, and only models with a cache pay it.
//!
//! Parts are hashed behind their lengths, so that no two lists of parts are the same bytes.
//!
//! **Source:** github.com/BLAKE3-team/BLAKE3-specs.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use super::{id::Split, memory::Weigh};
use crate::{
    config::Config,
    infer::{
        Decoded, InferRequest, ModelId, Protocol,
        decoded::{Layout, Parameter, Scalar},
    },
};

/// Told first, so that no two versions of this file make the same key of different things.
const FORMAT: &[u8] = b"weir prediction 2";

/// Request headers that are part of every key: they say how the body is to be read and the answer to be written, and who asks (a model
/// server, or what stands before it, may refuse one and not the other).
const KEYED: [HeaderName; 10] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];

/// Under which a prediction is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    hash: [u8; 32],
    /// Of the model's predictions: those of an earlier one are never found.
    pub(super) era: u32,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.hex(), self.era)
    }
}

impl Weigh for Key {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl Key {
    /// As a key in Redis ends.
    pub(super) fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.hash).to_hex().to_string()
    }
}

/// What of a model is the same for all of its keys.
#[derive(Debug)]
pub(super) struct Scheme {
    start: [u8; 32],
    headers: Box<[HeaderName]>,
    /// A bit for each length that their names have: most headers are none of them, and that tells of most.
    lengths: u64,
}

/// What of the predictions' past tells them apart: see `eras`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era {
    /// Of this process.
    pub(super) number: u32,
    /// Of all gateways that share L2.
    pub(super) token: u64,
}

/// The parts of a request around its body.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) protocol: Protocol,
    /// With version and query.
    pub(super) path: &'a str,
    pub(super) headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    pub(super) fn of(request: &'a InferRequest) -> Self {
        Self { protocol: request.protocol, path: request.path.as_str(), headers: &request.headers }
    }
}

impl Scheme {
    /// `also`: further headers that answers depend on.
    pub(super) fn new(config: &Config, model: ModelId, also: &[HeaderName]) -> Self {
        let model = config.model(model);
        let pool = config.pool(model.pool);
        let mut start = Parts::default();
        // Gateways that name other servers by the same name do not share predictions.
        let asked = format!("{:?} {:?} {:?}", pool.name, pool.endpoints, pool.discovery);
        for part in [FORMAT, model.name.as_bytes(), model.upstream.as_bytes(), asked.as_bytes()] {
            start.put(part);
        }
        let start = start.digest();
        let mut headers = KEYED.to_vec();
        headers.extend(also.iter().filter(|name| !KEYED.contains(name)).cloned());
        let lengths = headers.iter().map(length_bit).fold(0, std::ops::BitOr::bitor);
        Self { start, headers: headers.into(), lengths }
    }

    /// Whether answers that vary by this request header are told apart.
    pub(super) fn tells_apart(&self, name: &str) -> bool {
        self.headers.iter().any(|keyed| name.eq_ignore_ascii_case(keyed.as_str()))
    }

    /// Of a request as the model would see it.
    pub(super) fn exact(&self, era: Era, head: Head<'_>, body: (&Bytes, &Split), json: Option<usize>) -> Key {
        self.all_of(b"exact", (era, head), body, json)
    }

    /// Of a request as it came.
    pub(super) fn as_it_came(&self, era: Era, head: Head<'_>, body: (&Bytes, &Split), json: Option<usize>) -> Key {
        self.all_of(b"came", (era, head), body, json)
    }

    fn all_of(
        &self,
        purpose: &[u8],
        (era, head): (Era, Head<'_>),
        (body, split): (&Bytes, &Split),
        json: Option<usize>,
    ) -> Key {
        let mut parts = Parts::default();
        self.begin(&mut parts, purpose, era, head);
        // The id's own length is no part of it.
        let json = json.map_or(u64::MAX, |length| (length - split.id.as_ref().map_or(0, Bytes::len)) as u64);
        parts.number(json);
        parts.add(&[u8::from(split.id.is_some())]);
        parts.put(&body[split.before.clone()]);
        parts.put(&body[split.after.clone()]);
        parts.key(era)
    }

    /// Of the entities that a request is about, and of all that it says beside its inputs: of which version, with which parameters, how
    /// its answer is to look. `None`: it does not say which entities.
    pub(super) fn entity(
        &self,
        era: Era,
        head: Head<'_>,
        (decoded, split): (&Decoded, &Split),
        source: &str,
    ) -> Option<Key> {
        let mut parts = Parts::default();
        self.begin(&mut parts, b"entity", era, head);
        parts.add(&[u8::from(split.id.is_some())]);
        parts.number(split.rest.len() as u64);
        for said in &split.rest {
            parts.put(&decoded.body[said.clone()]);
        }
        parts.parameters(decoded);
        parts.number(decoded.rows(&[source]).ok()? as u64);
        let mut said = 0;
        entities(decoded, source, |value| {
            parts.put(value);
            said += 1;
        })?;
        (said > 0).then(|| parts.key(era))
    }

    fn begin(&self, parts: &mut Parts, purpose: &[u8], era: Era, head: Head<'_>) {
        parts.add(&self.start);
        parts.put(purpose);
        parts.number(era.token);
        parts.put(head.protocol.name().as_bytes());
        parts.put(head.path.as_bytes());
        for (index, value) in self.keyed(head.headers) {
            parts.number(index as u64);
            parts.put(value.as_bytes());
        }
        parts.number(u64::MAX);
    }

    /// The values of the keyed headers as they came, and of the one that may keep some of them from the model.
    pub(super) fn as_came<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = (u64, &'h HeaderValue)> {
        headers.iter().filter_map(|(name, value)| {
            let place = if *name == header::CONNECTION { u64::MAX } else { self.place(name)? as u64 };
            Some((place, value))
        })
    }

    /// The values of the keyed headers in the order of the names, those of one name as they came. A request has fewer headers than
    /// there are names to look up.
    fn keyed<'h>(&self, headers: &'h HeaderMap) -> SmallVec<[(usize, &'h HeaderValue); 8]> {
        let mut keyed: SmallVec<_> =
            headers.iter().filter_map(|(name, value)| Some((self.place(name)?, value))).collect();
        keyed.sort_by_key(|(place, _)| *place);
        keyed
    }

    fn place(&self, name: &HeaderName) -> Option<usize> {
        if self.lengths & length_bit(name) == 0 {
            return None;
        }
        self.headers.iter().position(|keyed| keyed == name)
    }
}

fn length_bit(name: &HeaderName) -> u64 {
    1 << name.as_str().len().min(63)
}

/// Each row's value of what the request carries as `source`, in the form of its own protocol; `None` where a row has none.
fn entities(decoded: &Decoded, source: &str, mut each: impl FnMut(&[u8])) -> Option<()> {
    if let Some(tensor) = decoded.tensor(source) {
        each(&[tensor.datatype as u8]);
        for element in tensor.elements(&decoded.body) {
            scalar(&element, &mut each)?;
        }
        return Some(());
    }
    if let Layout::V1 { instances, .. } = &decoded.layout
        && decoded.in_rows(source)
    {
        for row in 0..instances.rows.len() {
            each(instances.get(&decoded.body, row, source).ok()??.of(&decoded.body));
        }
        return Some(());
    }
    each(decoded.parameter(source)?.value.of(&decoded.body));
    Some(())
}

/// A value by itself: of JSON the text, of raw contents the bits.
fn scalar(scalar: &Scalar<'_>, each: &mut impl FnMut(&[u8])) -> Option<()> {
    match scalar {
        Scalar::Number(text) => each(text.as_bytes()),
        Scalar::Text(text) => each(text.as_bytes()),
        Scalar::Bytes(bytes) => each(bytes),
        Scalar::Bool(value) => each(&[u8::from(*value)]),
        Scalar::Int(value) => each(&value.to_le_bytes()),
        Scalar::Uint(value) => each(&value.to_le_bytes()),
        Scalar::Float(value) => each(&value.to_bits().to_le_bytes()),
        Scalar::Double(value) => each(&value.to_bits().to_le_bytes()),
        Scalar::Null | Scalar::Other => return None,
    }
    Some(())
}

/// Bytes that are hashed in one go: a hasher that is fed little by little takes longer than what it hashes.
const AT_ONCE: usize = 8 * 1024;

/// What is hashed, end to end.
#[derive(Default)]
struct Parts {
    /// What was not hashed yet.
    bytes: SmallVec<[u8; 512]>,
    /// What comes before, where it is long.
    before: Option<Box<blake3::Hasher>>,
}

impl Parts {
    /// A part of any length.
    fn put(&mut self, part: &[u8]) {
        self.number(part.len() as u64);
        self.add(part);
    }

    fn number(&mut self, number: u64) {
        self.add(&number.to_le_bytes());
    }

    /// A request's parameters, in the order of their names: those of a gRPC message come in any.
    fn parameters(&mut self, decoded: &Decoded) {
        let named = |parameter: &Parameter| (parameter.key.get(&decoded.body), parameter.value);
        let mut parameters: Vec<_> = decoded.parameters.iter().map(named).collect();
        parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.number(parameters.len() as u64);
        for (name, value) in parameters {
            self.put(name.as_bytes());
            self.put(value.of(&decoded.body));
        }
    }

    /// A part whose length is always the same.
    fn add(&mut self, part: &[u8]) {
        if self.bytes.len() + part.len() <= AT_ONCE {
            self.bytes.extend_from_slice(part);
            return;
        }
        let before = self.before.get_or_insert_with(Box::default);
        before.update(&self.bytes).update(part);
        self.bytes.clear();
    }

    fn digest(self) -> [u8; 32] {
        let hash = match self.before {
            None => blake3::hash(&self.bytes),
            Some(mut before) => before.update(&self.bytes).finalize(),
        };
        *hash.as_bytes()
    }

    fn key(self, era: Era) -> Key {
        Key { hash: self.digest(), era: era.number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_hashed_alike_however_long_they_are() {
        for lengths in [&[0, 3, 40][..], &[AT_ONCE - 8, 1, 20_000, 5], &[AT_ONCE, AT_ONCE], &[100_000]] {
            let (mut parts, mut whole) = (Parts::default(), Vec::new());
            for (index, length) in lengths.iter().enumerate() {
                let part = vec![index as u8; *length];
                parts.put(&part);
                whole.extend_from_slice(&(*length as u64).to_le_bytes());
                whole.extend_from_slice(&part);
            }
            assert_eq!(parts.digest(), *blake3::hash(&whole).as_bytes(), "{lengths:?}");
        }
    }
}
