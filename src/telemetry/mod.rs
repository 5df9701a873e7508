//! Metrics, the process log and the access log.
//!
//! [`install`] goes before any handle is made: a handle made earlier is silently dead. Names are a closed list (`names`),
//! handles are resolved once into one struct a stage (`handles`), label values come from the config or an enum.
//! Nothing here decides anything about a request.

pub mod access;
pub(crate) mod ages;
pub(crate) mod buckets;
pub mod handles;
mod histogram;
mod install;
pub mod log;
pub mod names;

#[cfg(test)]
pub(crate) use install::scratch;
pub use install::{Error, Scrape, install};
