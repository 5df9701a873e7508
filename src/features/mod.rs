//! Stage 2: the rows of the entities a request names, from the nearest layer that has them.
pub mod feast;
pub mod lookup;
pub mod object;
pub mod row;
pub mod set;
pub use row::Row;
pub use set::FeatureSet;
