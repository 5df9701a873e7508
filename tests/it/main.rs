//! Weir against real servers: one file a promise.

#[path = "../support/mod.rs"]
mod support;
mod world;

mod parts;
mod passthrough;
