//! L1's front: requests that came before byte for byte, each with the answer that it got.
//!
//! To find a prediction, L1 has to know what the model would see: where the request's id lies, what stands around it, and a cryptographic
//! hash of that; then the answer is given the asker's id. Who asks the same again mostly asks it in the same bytes, and for those all of
//! this was done before. A request is remembered whole and compared whole, so that no two of one hash are taken for each other.
//!
//! Only of models that are sent what came: what others are sent depends on their features. An entry is made of a prediction that was found
//! in L1, so that what is asked once takes no room, and answers no longer than that one does.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::{
    kept::{Told, headers_size},
    key::Scheme,
    memory::{Memory, Weigh},
};
use crate::infer::{
    Level, RawKey, RawRequest,
    headers::{CACHE_STATUS, LEVEL, PREDICTION_HIT, REQUEST_ID},
    hops::{self, Hop},
};

/// The longest request that is remembered: of a longer one it is no longer the hash that takes its time.
pub(super) const LONGEST: usize = 16 << 10;

/// Room for what of a head is kept.
const HEAD: usize = 160;

/// A request as it came: whatever of it an answer may depend on, end to end, each part behind its length.
#[derive(Debug)]
pub(crate) struct Verbatim(Vec<u8>);

impl Verbatim {
    /// `None`: too long to be remembered.
    pub(super) fn of(came: &RawRequest<'_>, scheme: &Scheme) -> Option<Self> {
        let &RawRequest { model, protocol, path, headers, json_length, body } = came;
        if body.len() > LONGEST {
            return None;
        }
        // Most heads fit beside it; one that does not has it grow.
        let mut came = Self(Vec::with_capacity(HEAD + body.len()));
        came.0.extend_from_slice(&model.0.to_le_bytes());
        came.0.push(protocol as u8);
        came.0.extend_from_slice(&json_length.map_or(u64::MAX, |length| length as u64).to_le_bytes());
        came.put(path.as_bytes());
        came.put(body);
        for (place, value) in scheme.as_came(headers) {
            came.0.extend_from_slice(&place.to_le_bytes());
            came.put(value.as_bytes());
        }
        Some(came)
    }

    fn put(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&(part.len() as u64).to_le_bytes());
        self.0.extend_from_slice(part);
    }

    /// To be remembered with the answer.
    pub(crate) fn kept(&self) -> RawKey {
        RawKey(self.0.as_slice().into())
    }
}

/// An answer as it was told.
#[derive(Debug)]
struct Answered {
    headers: HeaderMap,
    body: Bytes,
    age: Age,
}

/// Of which of the model's predictions an answer was made. What was made of others is told no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    pub(super) era: u32,
    /// How many of the era's were replaced before their time.
    pub(super) renewals: u32,
}

impl Weigh for Arc<[u8]> {
    fn size(&self) -> usize {
        self.len()
    }
}

impl Weigh for Arc<Answered> {
    fn size(&self) -> usize {
        size_of::<Answered>() + self.body.len() + headers_size(&self.headers)
    }
}

/// The cache.
#[derive(Debug)]
pub(super) struct Front(Memory<Arc<[u8]>, Arc<Answered>>);

impl Front {
    /// Room for `capacity` bytes.
    pub(super) fn new(capacity: u64, now: Instant) -> Self {
        Self(Memory::new(capacity, now))
    }

    /// The answer to a request that came before in this age of the model's predictions.
    pub(super) fn get(&self, came: &Verbatim, age: Age, now: Instant) -> Option<Told> {
        let Answered { headers, body, .. } = &*self.0.get(&came.0[..], now).filter(|answered| answered.age == age)?;
        Some(Told { headers: headers.clone(), body: body.clone(), trailers: None })
    }

    /// Remembers what a request was told, until that is no answer any more.
    pub(super) fn put(&self, came: &RawKey, told: &Told, (age, until): (Age, Instant)) {
        // Trailers are of gRPC, which takes another way.
        if told.trailers.is_none() {
            let answered = Answered { headers: complete(&told.headers), body: told.body.clone(), age };
            self.0.put(&came.0, Arc::new(answered), until, |_| true);
        }
    }

    /// Drops what is of no use at `now`; `dead` says it of an era.
    pub(super) fn sweep(&self, now: Instant, dead: impl Fn(u32) -> bool) {
        self.0.sweep(now, |_, answered| dead(answered.age.era));
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

/// The headers as they go out, with a place for the id of whoever asks next: nothing is looked for, nor added, where they do.
fn complete(told: &HeaderMap) -> HeaderMap {
    let mut headers = told.clone();
    // What a gateway before this one kept in L2 may have some.
    hops::strip(&mut headers, Hop::Answer);
    headers.insert(LEVEL, HeaderValue::from_static(Level::Full.digit()));
    headers.insert(CACHE_STATUS, HeaderValue::from_static(PREDICTION_HIT));
    headers.insert(REQUEST_ID, HeaderValue::from_static(""));
    headers
}
