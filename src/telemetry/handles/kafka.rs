//! What is counted of the topic of feature updates.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::{install::hide, names};

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
    reader_ends: Counter,
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
            reader_ends: counter!(names::KAFKA_READER_ENDS, "topic" => topic.to_owned()),
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

    /// The process that reads the topic ended by itself.
    pub(crate) fn reader_ended(&self) {
        self.reader_ends.increment(1);
    }

    /// Messages that are still to be read, by partition; of those left out that is not known, and nothing is shown.
    pub(crate) fn lags(&mut self, lags: &[(i32, u64)]) {
        let mut known = BTreeMap::<i32, u64>::new();
        for (partition, lag) in lags {
            let most = known.entry(*partition.min(&MOST)).or_default();
            *most = (*most).max(*lag);
        }
        self.lags.iter().filter(|(partition, _)| !known.contains_key(partition)).for_each(|(_, gauge)| hide(gauge));
        known.into_iter().for_each(|(partition, lag)| self.lag(partition).set(lag as f64));
    }

    fn lag(&mut self, partition: i32) -> &Gauge {
        let topic = &self.topic;
        self.lags.entry(partition).or_insert_with(|| {
            let name = if partition < MOST { partition.to_string() } else { "other".to_owned() };
            gauge!(names::KAFKA_LAG, "topic" => topic.clone(), "partition" => name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn a_lag_that_is_not_known_is_not_shown() {
        let (mut handles, scrape) = scratch(|| {
            let mut handles = KafkaHandles::new("t");
            handles.lags(&[(0, 3), (1, 0), (256, 5), (300, 9), (301, 7)]);
            handles
        });
        let lags = || {
            let text = scrape.render();
            let lines =
                text.lines().filter_map(|line| line.strip_prefix("weir_kafka_lag_messages{topic=\"t\",partition="));
            let mut lags: Vec<_> = lines.map(str::to_owned).collect();
            lags.sort();
            lags
        };
        assert_eq!(lags(), ["\"0\"} 3", "\"1\"} 0", "\"other\"} 9"]);
        handles.lags(&[(1, 4), (300, 1)]);
        assert_eq!(lags(), ["\"1\"} 4", "\"other\"} 1"]);
        handles.lags(&[]);
        assert_eq!(lags(), [""; 0]);
        handles.lags(&[(0, 1)]);
        assert_eq!(lags(), ["\"0\"} 1"]);
    }
}
