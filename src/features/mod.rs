//! Stage 2: the rows of the entities a request names, from the nearest layer that has them.
//!
//! ```text
//! tiered ─► memory (L1) ─► l2: redis (single, cluster) | served | embedded ─► object (L3)
//!                              └── feast: its keys, fields, values
//! ```
//!
//! Reads never fail because a store does, and never outlast the plan; what was not the best is said in the [`FeatureSet`].
//! How gateways tell each other of changed rows, and hold leases, is in `lease`.
//!
//! What Weir writes into a shared store never replaces a newer row and never shortens anybody's life.

mod causes;
mod circuit;
mod embedded;
pub mod feast;
pub mod hot_keys;
pub(crate) mod invalidate;
mod l2;
mod lease;
pub(crate) mod lookup;
mod memory;
pub mod object;
mod redis;
pub(crate) mod registry;
pub mod row;
mod served;
pub mod set;
pub mod tiered;
pub mod warm;

pub(crate) use causes::chain;
pub use lease::read_any as read_any_message;
pub(crate) use lease::{Holder, Holders, Keeps, Shown as LeaseShown};
pub(crate) use redis::{MemberShown, ShardShown, Standing, Tracking, Whereabouts, reason, words};
pub use redis::{read_any as read_any_replies, read_any_pushes};
pub use row::Row;
pub use served::read_any as read_any_answer;
pub use set::FeatureSet;
pub(crate) use tiered::online;
pub use tiered::{Signals, Store};

#[cfg(test)]
pub(crate) mod tests;
