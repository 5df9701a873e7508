//! One struct of resolved metric handles a stage. The raw macros are used in `telemetry` and nowhere else.
//!
//! An update through a handle neither allocates nor looks anything up. Label values come from the config or from an enum of
//! this module; a model that the config does not have is `other`.

pub mod admission;
pub mod balance;
pub mod breaker;
pub(crate) mod dr;
pub mod ensembles;
pub mod feast;
pub(crate) mod feature_server;
pub(crate) mod features;
pub mod gpu;
pub(crate) mod hot_keys;
pub mod ingress;
pub(crate) mod invalidation;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;
pub mod ladder;
pub(crate) mod lease;
pub(crate) mod object;
pub mod path;
pub mod predict;
pub(crate) mod predictions;
pub(crate) mod promotions;
pub(crate) mod redis;
pub(crate) mod registry;
pub(crate) mod spool;
pub(crate) mod warm;
