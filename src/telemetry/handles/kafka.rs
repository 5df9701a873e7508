//! What is counted of the topic of feature updates.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Rows were dropped, where there were any.
    Applied,
    /// It says that nothing changed here.
    Nothing,
    /// It is about a view or a push source that there is not.
    Unknown,
    /// It cannot be read.
    Malformed,
}

const OUTCOMES: [&str; 4] = ["applied", "nothing", "unknown", "malformed"];
/// Partitions with a series of their own; of the others the one that is furthest behind has one.
const MOST: i32 = 256;

/// The handles.
pub(crate) struct KafkaHandles {
    topic: String,
    messages: [Counter; 4],
    up: Gauge,
    gaps: Counter,
    lags: BTreeMap<i32, Gauge>,
}

impl KafkaHandles {
    /// Of a topic, of which nothing is known.
    pub(crate) fn new(topic: &str) -> Self {
        let up = gauge!(names::KAFKA_UP, "topic" => topic.to_owned());
        up.set(0.0);
        Self {
            messages: OUTCOMES
                .map(|outcome| counter!(names::KAFKA_MESSAGES, "topic" => topic.to_owned(), "outcome" => outcome)),
            up,
            gaps: counter!(names::KAFKA_GAPS, "topic" => topic.to_owned()),
            lags: BTreeMap::new(),
            topic: topic.to_owned(),
        }
    }

    pub(crate) fn message(&self, outcome: Outcome) {
        self.messages[outcome as usize].increment(1);
    }

    /// Whether a broker is connected to.
    pub(crate) fn up(&self, is_up: bool) {
        self.up.set(u32::from(is_up));
    }

    /// A place in the topic was taken anew, and L1 dropped.
    pub(crate) fn gap(&self) {
        self.gaps.increment(1);
    }

    /// Messages that are still to be read, by partition.
    pub(crate) fn lags(&mut self, lags: impl Iterator<Item = (i32, u64)>) {
        let mut others = None;
        for (partition, lag) in lags {
            if partition < MOST {
                self.lag(partition).set(lag as f64);
            } else {
                others = others.max(Some(lag));
            }
        }
        if let Some(lag) = others {
            self.lag(MOST).set(lag as f64);
        }
    }

    fn lag(&mut self, partition: i32) -> &Gauge {
        let topic = &self.topic;
        self.lags.entry(partition).or_insert_with(|| {
            let name = if partition < MOST { partition.to_string() } else { "other".to_owned() };
            gauge!(names::KAFKA_LAG, "topic" => topic.clone(), "partition" => name)
        })
    }
}
