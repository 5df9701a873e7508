//! The topic of feature updates.

use std::{sync::Arc, time::Duration};

use super::Secret;

/// Properties of librdkafka that Weir sets itself, because what it promises rests on them.
pub(crate) const KAFKA_OURS: [&str; 9] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    "statistics.interval.ms",
    "allow.auto.create.topics",
];

/// A Kafka topic, every partition of which every gateway reads.
#[derive(Clone, Debug)]
pub(crate) struct Kafka {
    /// `host:port`, at least one.
    pub(crate) brokers: Vec<String>,
    pub(crate) topic: Arc<str>,
    /// The key `librdkafka`: its properties, none of [`KAFKA_OURS`].
    pub(crate) properties: Vec<(Arc<str>, Secret)>,
    /// How often partitions are looked for.
    pub(crate) discover_every: Duration,
}
