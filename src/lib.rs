//! Weir.
#![allow(dead_code, unused_imports)]
pub mod admission;
pub mod config;
pub mod features;
pub mod infer;
pub mod ladder;
pub mod resilience;
pub mod telemetry;
