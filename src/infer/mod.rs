//! The vocabulary: what every stage of the path speaks of, and nothing that does work.
//!
//! Depends on no other module of the crate. Requests, tensors, entities, values, deadlines, levels, answers and errors are
//! defined here once, so that a stage's signature says in these words what goes in and what comes out.

pub mod answer;
pub mod deadline;
pub mod decoded;
pub mod entity;
pub mod error;
pub(crate) mod headers;
pub(crate) mod hops;
pub mod level;
pub mod outputs;
pub mod plan;
pub mod request;
pub mod rule;
pub(crate) mod said;
pub mod tensor;
pub mod value;

pub use answer::{
    Answer, AnswerBody, CacheEvent, CacheOutcome, CachedOf, Cause, Degradation, Reason, Timings, Verdict,
    may_have_acted,
};
pub use deadline::Deadline;
pub use decoded::{Decoded, EntityColumn};
pub use entity::{EntityKey, EntityType, EntityValue};
pub(crate) use entity::{EntityKeys, Parts};
pub use error::{Error, Kind};
pub use level::Level;
pub use outputs::Output;
pub use plan::{Asker, Members, Optional, Plan, Queue, Reduced, Source, Stale};
pub use request::{
    Caching, InferRequest, Method, ModelId, Payload, PoolId, Protocol, RequestId, Rest, TierId, ViewId, WorkerId,
};
pub(crate) use request::{RawKey, RawRequest, is_malformed};
pub use rule::Rule;
pub(crate) use said::Said;
pub use tensor::{Datatype, Shape};
pub use value::{FeatureType, Value};
