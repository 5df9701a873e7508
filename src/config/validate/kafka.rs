//! The topic of feature updates: brokers, a topic, and a build that can read it.

use super::{Check, url};
use crate::config::{
    KAFKA_OURS, Kafka, Secret,
    problems::Path,
    raw::{self, Hidden},
};

/// What this build can do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Build {
    Kafka,
    Plain,
}

const THIS: Build = if cfg!(feature = "kafka") { Build::Kafka } else { Build::Plain };

/// Where a broker listens that says nothing else.
const PORT: u16 = 9092;

impl Build {
    /// Why it cannot read a topic, and what can.
    const fn wrong(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Kafka => None,
            Self::Plain => Some((
                "this build does not read Kafka, so that no update would arrive",
                "a weir built with the cargo feature kafka (it is on by default), or no `kafka`",
            )),
        }
    }
}

impl Check<'_> {
    pub(super) fn kafka(&mut self, path: &Path, raw: &raw::Kafka) -> Kafka {
        if let Some((wrong, allowed)) = THIS.wrong() {
            self.wrong(path, wrong, allowed);
        }
        self.brokers(&path.key("brokers"), &raw.brokers);
        if raw.topic.is_empty() {
            self.wrong(&path.key("topic"), "empty", "the topic's name");
        }
        let properties = raw.properties.iter();
        Kafka {
            brokers: raw.brokers.clone(),
            topic: raw.topic.as_str().into(),
            properties: properties.map(|(key, value)| self.property(&path.key("librdkafka"), key, value)).collect(),
            discover_every: self.positive(&path.key("discover_every"), raw.discover_every),
        }
    }

    fn brokers(&mut self, path: &Path, brokers: &[String]) {
        if brokers.is_empty() {
            self.wrong(path, "none", "at least one host:port");
        }
        for (i, broker) in brokers.iter().enumerate() {
            if let Err(wrong) = url::host_port(broker, Some(PORT)) {
                self.wrong(&path.item(i), wrong, "host:port");
            }
        }
    }

    fn property(&mut self, path: &Path, key: &str, value: &Hidden) -> (std::sync::Arc<str>, Secret) {
        if KAFKA_OURS.contains(&key) {
            self.wrong_key(&path.key(key), key, "a property that Weir sets itself", "other properties of librdkafka");
        }
        (key.into(), Secret(value.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_kafka_says_which_has_it() {
        let (_, allowed) = Build::Plain.wrong().unwrap();
        assert!(allowed.contains("cargo feature kafka"), "{allowed}");
        assert!(Build::Kafka.wrong().is_none());
        assert_eq!(THIS == Build::Kafka, cfg!(feature = "kafka"));
    }
}
