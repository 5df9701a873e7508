//! Weir.
#![allow(dead_code, unused_imports)]
pub(crate) mod config;
pub(crate) mod features;
pub(crate) mod infer;
pub(crate) mod telemetry;
