//! Metrics, spans and the access log.
//!
//! [`install`] goes before any handle is made: a handle made earlier is silently dead. Names are a closed list (`names`),
//! handles are resolved once into one struct a stage (`handles`), label values come from the config or an enum.

pub mod handles;
pub mod names;
