//! A request as the path sees it: who is asked, by when, and the body in the least decoded form the model needs.

use std::{error::Error, fmt, io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, uri::PathAndQuery};
use http_body_util::Limited;
use hyper::body::Incoming;

use super::{Deadline, Decoded};

macro_rules! ids {
    ($($name:ident: $what:literal;)+) => {
        $(
            #[doc = concat!("Index of ", $what, " in the config snapshot.")]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub struct $name(pub(crate) u32);

            impl $name {
                /// The position in the snapshot's list.
                #[must_use]
                pub const fn index(self) -> usize { self.0 as usize }
            }
        )+
    };
}

ids! {
    ModelId: "a model";
    PoolId: "a pool";
    TierId: "a tier, highest first";
    ViewId: "a feature view";
    WorkerId: "a worker (one per core)";
}

/// The protocol a request came in, and goes out, with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// KServe V1: `{"instances": […]}`.
    V1,
    /// V2 over HTTP, tensors in JSON.
    V2Json,
    /// V2 over HTTP with the binary tensor extension.
    V2Binary,
    /// V2 over gRPC.
    Grpc,
}

impl Protocol {
    /// The label value in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2Json => "v2_json",
            Self::V2Binary => "v2_binary",
            Self::Grpc => "grpc",
        }
    }
}

/// What is asked of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A prediction.
    Predict,
    /// An explanation (V1 `:explain`).
    Explain,
    /// Something about the model (metadata, ready, config, statistics): forwarded as it is.
    Other,
    /// A stream of requests and answers: forwarded as it comes, frame by frame.
    Stream,
}

/// The request's id: the caller's `x-request-id`, or one made here. Kept as it goes out.
#[derive(Clone, Debug)]
pub struct RequestId(pub HeaderValue);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only visible ASCII is accepted as an id.
        f.write_str(self.0.to_str().unwrap_or("?"))
    }
}

/// What is still to come of a body, up to the limit on its length.
pub type Rest = Limited<Incoming>;

/// Whether a body could not be read since it is not what its framing says, while whoever sends it is still there. hyper tells that
/// of a chunk in the words of I/O.
pub(crate) fn is_malformed(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let is_io = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData));
        if is_io || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A request's body.
pub enum Payload {
    /// Too long to hold, and nobody needs to read it: what was read so far, then the rest as it comes.
    Stream {
        /// Bytes already taken off the socket.
        head: Bytes,
        /// What is still to come.
        rest: Rest,
    },
    /// Held whole, not decoded: may be sent more than once.
    Retained(Bytes),
    /// Decoded as far as joins need: byte ranges over the held body.
    Decoded(Arc<Decoded>),
}

impl Payload {
    /// The same again; `None` where it passes but once.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Stream { .. } => None,
            Self::Retained(bytes) => Some(Self::Retained(bytes.clone())),
            Self::Decoded(decoded) => Some(Self::Decoded(Arc::clone(decoded))),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { head, .. } => write!(f, "Stream({}+)", head.len()),
            Self::Retained(bytes) => write!(f, "Retained({})", bytes.len()),
            Self::Decoded(_) => f.write_str("Decoded"),
        }
    }
}

/// An inference request.
#[derive(Debug)]
pub struct InferRequest {
    /// Made here or by the caller.
    pub id: RequestId,
    /// Which worker's connections and buffers it uses.
    pub worker: WorkerId,
    /// In which protocol it came.
    pub protocol: Protocol,
    /// What is asked.
    pub method: Method,
    /// The HTTP method it came with.
    pub verb: http::Method,
    /// The path it came with.
    pub path: PathAndQuery,
    /// Of which model.
    pub model: ModelId,
    /// Of which version, where the caller said one.
    pub version: Option<Box<str>>,
    /// The tier it runs under: the model's, or a lower one that the caller asked for.
    pub tier: TierId,
    /// When the answer must be there.
    pub deadline: Deadline,
    /// Whether caches may answer, and have the answer.
    pub caching: Caching,
    /// The caller's end-to-end headers; shared by all walks.
    pub headers: Arc<HeaderMap>,
    /// For the binary extension: how long the JSON at the front of the body is.
    pub json_length: Option<usize>,
    /// The body.
    pub payload: Payload,
    /// All of it as it came, where the same may be known again by that.
    pub(crate) as_came: Option<RawKey>,
}

/// What came of a request that is on no path yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRequest<'a> {
    pub(crate) model: ModelId,
    pub(crate) protocol: Protocol,
    /// With version and query.
    pub(crate) path: &'a str,
    /// Also those that end here: they say which others do.
    pub(crate) headers: &'a HeaderMap,
    /// For the binary extension: how long the JSON at the front of the body is.
    pub(crate) json_length: Option<usize>,
    pub(crate) body: &'a [u8],
}

/// A request's own bytes, those of its head that matter and its body's, to be known again by.
#[derive(Clone, Debug)]
pub(crate) struct RawKey(pub(crate) Arc<[u8]>);

impl InferRequest {
    /// The same request again, for another walk; `None` where its body passes but once.
    #[must_use]
    pub fn again(&self) -> Option<Box<Self>> {
        Some(Box::new(Self {
            id: self.id.clone(),
            worker: self.worker,
            protocol: self.protocol,
            method: self.method,
            verb: self.verb.clone(),
            path: self.path.clone(),
            model: self.model,
            version: self.version.clone(),
            tier: self.tier,
            deadline: self.deadline,
            caching: self.caching,
            headers: Arc::clone(&self.headers),
            json_length: self.json_length,
            payload: self.payload.again()?,
            // For the first walk: what comes of others is not what the model says to this.
            as_came: None,
        }))
    }
}

/// Whether caches may answer a request, and have its answer; the later the less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caching {
    /// As configured.
    #[default]
    Allowed,
    /// `cache-control: no-cache` or `max-age=0`: read from the store, ask the model.
    Bypassed,
    /// `cache-control: no-store`: the same, and its prediction is given to nobody else.
    Forbidden,
}

impl Caching {
    /// Whether caches are passed by.
    #[must_use]
    pub const fn bypasses(self) -> bool {
        !matches!(self, Self::Allowed)
    }
}
