//! A body decoded as far as joins need: byte ranges over the held original, never a DOM.
//!
//! Filled in by the decoders of `ingress`; read by `features` (entities) and `enrich` (kept tensors).

/// Placeholder until the decoders land.
#[derive(Debug)]
pub struct Decoded {}
