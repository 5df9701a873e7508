//! librdkafka, as it is used here: its settings, and what it says of itself.

use std::sync::{Mutex, PoisonError};

use rdkafka::{
    ClientConfig, ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, ConsumerContext},
    error::KafkaError,
};

use crate::config;

/// What may not be changed by `properties` (`config::KAFKA_OURS`): invariants rest on it.
const OURS: [(&str, &str); 7] = [
    // Never joined; librdkafka assigns nothing without one.
    ("group.id", "weir"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // A lost place is told, so that L1 is dropped with it.
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "false"),
    ("statistics.interval.ms", "1000"),
    ("allow.auto.create.topics", "false"),
];

/// Defaults.
const USUAL: [(&str, &str); 7] = [
    ("client.id", "weir"),
    ("log.connection.close", "false"),
    ("reconnect.backoff.max.ms", "1000"),
    ("socket.keepalive.enable", "true"),
    ("socket.timeout.ms", "10000"),
    // Of all partitions: what is behind is not wanted in memory too.
    ("queued.max.messages.kbytes", "16384"),
    ("fetch.wait.max.ms", "200"),
];

/// A consumer that connects in the background.
pub(super) fn consumer(kafka: &config::Kafka) -> Result<BaseConsumer<Context>, KafkaError> {
    let mut client = settings(kafka);
    client.set("bootstrap.servers", kafka.brokers.join(","));
    client.create_with_context(Context::default())
}

/// Whether its settings go together. Connects to nobody.
pub(super) fn judge(kafka: &config::Kafka) -> Result<(), KafkaError> {
    settings(kafka).create_with_context::<_, BaseConsumer<Context>>(Context::default()).map(drop)
}

/// All but the brokers.
fn settings(kafka: &config::Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    let given = kafka.properties.iter().map(|(key, value)| (&**key, value.0.as_str()));
    // The last one counts.
    for (key, value) in USUAL.into_iter().chain(given).chain(OURS) {
        client.set(key, value);
    }
    client
}

/// What librdkafka told while it was polled.
#[derive(Default)]
pub(super) struct Context {
    statistics: Mutex<Option<Statistics>>,
    /// The last error that concerns the whole client.
    error: Mutex<Option<String>>,
}

impl Context {
    /// Its latest statistics, once.
    pub(super) fn statistics(&self) -> Option<Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Why no broker can be reached, as far as it was told.
    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        tracing::debug!(?level, fac, message, "librdkafka");
    }

    fn stats(&self, statistics: Statistics) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

impl ConsumerContext for Context {}
