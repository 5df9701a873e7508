//! Weir.
#![allow(dead_code, unused_imports)]
pub mod config;
pub mod enrich;
pub mod features;
pub mod infer;
pub mod ingress;
pub mod telemetry;
