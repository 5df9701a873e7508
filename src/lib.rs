//! Weir.
#![allow(dead_code, unused_imports)]
pub mod cli;
pub mod config;
pub mod features;
pub mod infer;
pub mod telemetry;
