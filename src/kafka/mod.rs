//! Feature updates from a Kafka topic: what is said to have changed is dropped from the caches.
//!
//! ```text
//!   a message ─► notice (which rows) ─► Store::invalidate ─► read on
//!
//!   of each partition:
//!                        ┌────────── its place is lost (retention, a topic made anew) ──────────┐
//!                        ▼                                                                      │
//!   unknown ──brokers──► waits ──its end is known: all of L1 is dropped, once for all waiting──► read
//!        └── appeared after the first look: from its beginning, since all of it is newer ──────►
//! ```
//!
//! Invariant: what a message says was written before the message was. So a row that was fetched after the consumer's place was taken is
//! either as new as every message before that place, or dropped by one after it; and what was fetched before the place was taken is
//! dropped as a whole. That costs nothing at a start, which waits a moment for it, while L1 is empty. While brokers are away messages
//! are late, not lost, and rows live as long as `ttl` says.
//!
//! Every gateway reads every partition, assigned by hand: in a consumer group each message would reach one of them only. No offset is
//! committed.
//!
//! ```text
//!   gateway, a thread of its own (consumer)                     a process of its own (reader)
//!     starts it ──────── Order, over its standard input ────────► librdkafka
//!     drops rows, shows how it stands ◄──── Events (wire) ─────── places, messages
//!     it ended: L1 is dropped once another knows its places
//! ```
//!
//! librdkafka is C, and has ended its process on what a broker sent (its issue #5280 is a relative): that must not be the gateway. So the
//! reader is this program once more, with a command of its own. It ends with the gateway, and where it ends by itself another takes its
//! place.
//!
//! All this is built with the cargo feature `kafka`; what messages may say (`notice`) always is.

#[cfg(feature = "kafka")]
mod client;
#[cfg(feature = "kafka")]
mod consumer;
mod notice;
#[cfg(any(feature = "kafka", test))]
mod places;
#[cfg(feature = "kafka")]
mod process;
#[cfg(feature = "kafka")]
mod reader;
#[cfg(feature = "kafka")]
mod standing;
#[cfg(test)]
mod tests;
#[cfg(feature = "kafka")]
mod wire;

use crate::config::Config;
#[cfg(feature = "kafka")]
use crate::features::Store;

#[cfg(feature = "kafka")]
pub(crate) use self::{
    consumer::{Consumer, judge},
    reader::run as read,
};

/// The command of the program that is the reader.
#[cfg(feature = "kafka")]
pub(crate) const COMMAND: &str = "read-kafka";

/// The snapshot in force: its views, and the store that has their rows.
#[cfg(feature = "kafka")]
pub(crate) type Current = Box<dyn Fn() -> (std::sync::Arc<Config>, std::sync::Arc<Store>) + Send>;

/// Reads any bytes as a message; for fuzzing. Whether they are one.
#[doc(hidden)]
#[must_use]
pub fn read_any(bytes: &[u8]) -> bool {
    const VIEWS: &str =
        "features: {views: {v: {entities: {i: INT64, s: STRING, b: BYTES}, features: {f: {type: INT64}}}}}";
    static CONFIG: std::sync::LazyLock<Option<Config>> = std::sync::LazyLock::new(|| Config::parse(VIEWS, "fuzz").ok());
    CONFIG.as_ref().is_some_and(|config| notice::read(bytes, config).is_ok())
}
