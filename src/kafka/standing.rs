//! How the consumer stands, for operators: written by its thread as its process tells, about once a second, read by whoever asks.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// Shared by the thread and those who ask.
#[derive(Clone)]
pub(crate) struct Standing(Arc<Mutex<Seen>>);

/// What its thread knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) topic: Arc<str>,
    /// Whether a broker is connected to; `None`: librdkafka has not told yet.
    pub(super) up: Option<bool>,
    /// Why no broker is, or why the topic cannot be read, or not all of it.
    pub(super) why: Option<String>,
    /// Whether the place in every partition is known.
    pub(super) settled: bool,
    pub(super) partitions: Vec<Partition>,
}

/// A partition of the topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Partition {
    pub(super) id: i32,
    /// The offset that is read next; `None`: it waits for its end to be known.
    pub(super) next: Option<i64>,
    /// Messages still to be read, as far as brokers have told.
    pub(super) lag: Option<u64>,
}

impl Standing {
    pub(super) fn new(topic: &Arc<str>) -> Self {
        Self(Arc::new(Mutex::new(Seen { topic: Arc::clone(topic), ..Seen::default() })))
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// For the admin port.
    pub(crate) fn shown(&self) -> Json {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let partition = |of: &Partition| json!({"partition": of.id, "next_offset": of.next, "lag": of.lag});
        json!({
            "topic": &*seen.topic,
            "up": seen.up.unwrap_or(false),
            "why": seen.why,
            "settled": seen.settled,
            "partitions": seen.partitions.iter().map(partition).collect::<Json>(),
        })
    }
}
