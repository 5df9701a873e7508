//! Weir: an inference gateway and sidecar for KServe that joins online features on the way to the model.
//!
//! A request comes in at [`ingress`], walks the one path of [`pipeline`] (admission, features, enrichment, kept predictions, a slot, the model), and
//! goes out where it came in; [`ladder`] says before how it is answered, and after what answers in place of a model that did not.
//!
//! Start reading at [`pipeline`]; [`infer`] is the vocabulary. `ARCHITECTURE.md` draws the path and the layers, says who may name whom, and where
//! a new pool policy, level, metric or protocol goes.

pub mod admin;
pub mod admission;
pub mod app;
pub mod cli;
pub mod config;
pub mod enrich;
pub mod features;
#[cfg(test)]
mod fixture;
pub mod infer;
pub mod ingress;
pub mod kafka;
pub mod ladder;
pub mod pipeline;
pub mod predict;
pub mod predictions;
pub mod promotions;
pub mod proto;
mod redis_link;
pub mod resilience;
pub mod spool;
pub mod telemetry;
