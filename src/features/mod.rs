//! Stage 2: the rows of the entities a request names, from the nearest layer that has them.
mod embedded;
pub mod feast;
mod l2;
pub(crate) mod lookup;
mod memory;
pub mod object;
mod redis;
pub mod row;
pub mod set;
pub mod tiered;
pub use row::Row;
pub use set::FeatureSet;
pub use tiered::Store;

#[cfg(test)]
mod tests;
