//! Weir.
#![allow(dead_code, unused_imports)]
pub mod admission;
pub mod app;
pub mod cli;
pub mod config;
pub mod enrich;
pub mod features;
pub mod infer;
pub mod ingress;
pub mod ladder;
pub mod pipeline;
pub mod predict;
pub mod proto;
pub mod resilience;
pub mod telemetry;
