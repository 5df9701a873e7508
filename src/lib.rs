//! Weir.
#![allow(dead_code, unused_imports)]
pub mod admin;
pub mod admission;
pub mod config;
pub mod features;
#[cfg(test)]
mod fixture;
pub mod infer;
pub mod ladder;
pub mod resilience;
pub mod telemetry;
