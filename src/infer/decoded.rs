//! A body decoded as far as joins need: byte ranges over the held original, never a DOM.
//!
//! Filled in by the decoders of `ingress`; read by `features` (entities) and `enrich` (kept tensors).

use super::{EntityType, EntityValue, Error};

/// Placeholder until the decoders land.
#[derive(Debug)]
pub struct Decoded {}

/// The values of one join key, as the request gives them.
#[derive(Clone, Debug, PartialEq)]
pub enum EntityColumn {
    /// One an instance.
    Rows(Vec<EntityValue>),
    /// The same for every instance: a parameter.
    Same(EntityValue),
}

impl Decoded {
    /// The values of the tensor, instance key or parameter `source`, read as `kind`.
    ///
    /// # Errors
    ///
    /// The request does not have it, or it is of another type.
    pub fn entities(&self, source: &str, kind: EntityType) -> Result<EntityColumn, Error> {
        Err(Error::invalid(format!("{source} ({kind}) is missing")))
    }

    /// How many instances there are.
    ///
    /// # Errors
    ///
    /// The sources disagree.
    pub fn rows(&self, sources: &[&str]) -> Result<usize, Error> {
        Ok(sources.len().min(1))
    }
}
