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

/// Kafka's own longest.
const LONGEST_TOPIC: usize = 249;
const TOPICS: &str = "1 to 249 ASCII letters, digits, `.`, `_` and `-`, other than `.` and `..`";

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
        if !is_topic(&raw.topic) {
            self.wrong(&path.key("topic"), "not a name that a topic may have", TOPICS);
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
            if let Err(wrong) = url::host_port(broker, None) {
                self.wrong(&path.item(i), wrong, "host:port, such as kafka:9092");
            }
        }
    }

    fn property(&mut self, path: &Path, key: &str, value: &Hidden) -> (std::sync::Arc<str>, Secret) {
        if KAFKA_OURS.contains(&key) {
            self.wrong_key(&path.key(key), key, "a property that Weir sets itself", "other properties of librdkafka");
        } else if let Err(wrong) = judge(key, &value.0) {
            self.wrong_key(
                &path.key(key),
                key,
                wrong,
                "what librdkafka's CONFIGURATION.md lists for consumers, as this build has it",
            );
        }
        (key.into(), Secret(value.0.clone()))
    }
}

fn is_topic(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !matches!(name, "" | "." | "..") && name.len() <= LONGEST_TOPIC && name.chars().all(fits)
}

/// What librdkafka says of a property by itself, without its value. That several do not go together it says of all of them only.
#[cfg(feature = "kafka")]
fn judge(key: &str, value: &str) -> Result<(), String> {
    let judged = rdkafka::ClientConfig::new().set(key, value).create_native_config();
    judged.map(drop).map_err(|error| match error {
        rdkafka::error::KafkaError::ClientConfig(_, words, ..) => hidden(&words, value),
        other => hidden(&other.to_string(), value),
    })
}

#[cfg(not(feature = "kafka"))]
fn judge(_: &str, _: &str) -> Result<(), String> {
    Ok(())
}

/// Words without what is not to be seen.
#[cfg(any(feature = "kafka", test))]
fn hidden(words: &str, value: &str) -> String {
    if value.is_empty() { words.to_owned() } else { words.replace(&format!("\"{value}\""), "\"***\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_called_what_kafka_lets_them_be() {
        let longest = "a".repeat(249);
        for (name, fits) in [
            ("feature-updates", true),
            ("a.b_c-9", true),
            (&longest, true),
            (&format!("{longest}a"), false),
            ("", false),
            (".", false),
            ("..", false),
            ("a b", false),
            ("a/b", false),
            ("ä", false),
        ] {
            assert_eq!(is_topic(name), fits, "{name}");
        }
    }

    #[test]
    fn a_refused_value_is_not_told() {
        assert_eq!(hidden("Invalid value \"s3cret\" for x", "s3cret"), "Invalid value \"***\" for x");
        assert_eq!(hidden("Invalid value \"\" for x", ""), "Invalid value \"\" for x");
    }

    #[test]
    fn a_build_without_kafka_says_which_has_it() {
        let (_, allowed) = Build::Plain.wrong().unwrap();
        assert!(allowed.contains("cargo feature kafka"), "{allowed}");
        assert!(Build::Kafka.wrong().is_none());
        assert_eq!(THIS == Build::Kafka, cfg!(feature = "kafka"));
    }
}
