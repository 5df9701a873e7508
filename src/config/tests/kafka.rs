//! The topic of feature updates, in builds that read it and in those that do not.

use super::{bad, read};

fn text(keys: &str) -> String {
    format!("features: {{project: p, invalidate: {{kafka: {{{keys}}}}}}}\n")
}

#[test]
fn a_build_reads_it_or_refuses_it() {
    let text =
        text("brokers: ['k1:9092', 'k2:9093'], topic: t, librdkafka: {client.id: weir-eu, client.rack: '${TOKEN}'}");
    if cfg!(feature = "kafka") {
        let loaded = read(&text).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.config.notices.is_empty(), "{:?}", loaded.config.notices);
        assert!(!format!("{:?}", loaded.config).contains("s3cret") && !loaded.explained.contains("s3cret"));
        let kafka = loaded.config.features.kafka.unwrap();
        assert_eq!((kafka.brokers.len(), &*kafka.topic, kafka.properties[1].1.0.as_str()), (2, "t", "s3cret"));
        assert_eq!(kafka.discover_every, std::time::Duration::from_secs(30));
    } else {
        let problems = bad(&text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("features.invalidate.kafka: this build does not read Kafka"), "{problems:?}");
    }
}

#[test]
fn what_could_not_be_read_is_refused() {
    for (keys, told) in [
        ("brokers: [], topic: t", "features.invalidate.kafka.brokers: none; allowed: at least one host:port"),
        ("brokers: ['k:x'], topic: t", "features.invalidate.kafka.brokers[0]: not a port from 1 to 65535"),
        ("brokers: ['kafka://k'], topic: t", "features.invalidate.kafka.brokers[0]: "),
        (
            "brokers: [k], topic: t",
            "features.invalidate.kafka.brokers[0]: no port; allowed: host:port, such as kafka:9092; given: k ",
        ),
        (
            "brokers: ['k:1'], topic: ''",
            "features.invalidate.kafka.topic: not a name that a topic may have; allowed: 1 to 249 ASCII letters, digits, `.`, `_` and `-`, \
             other than `.` and `..`; given: \"\" ",
        ),
        (
            "brokers: ['k:1'], topic: 'a/b'",
            "features.invalidate.kafka.topic: not a name that a topic may have; allowed: 1 to 249",
        ),
        ("brokers: ['k:1'], topic: t, discover_every: 0s", "features.invalidate.kafka.discover_every: zero"),
        (
            "brokers: ['k:1'], topic: t, librdkafka: {group.id: g}",
            "features.invalidate.kafka.librdkafka.\"group.id\": a property that Weir sets itself",
        ),
        ("topic: t", "features.invalidate.kafka.brokers: missing"),
    ] {
        let problems = bad(&text(keys));
        assert!(problems.iter().any(|problem| problem.starts_with(told)), "{keys}: {problems:?}");
    }
}

/// Without a broker, and without what may be secret.
#[test]
#[cfg(feature = "kafka")]
fn what_librdkafka_refuses_is_told_with_its_key() {
    for (property, told) in [
        (
            "fetch.wait: \"9\"",
            "\"fetch.wait\": No such configuration property: \"fetch.wait\"; allowed: what librdkafka's",
        ),
        (
            "fetch.wait.max.ms: '${TOKEN}'",
            "\"fetch.wait.max.ms\": Invalid value for configuration property \"fetch.wait.max.ms\"; allowed: ",
        ),
        ("security.protocol: ssl", "\"security.protocol\": "),
    ] {
        let problems = bad(&text(&format!("brokers: ['k:1'], topic: t, librdkafka: {{{property}}}")));
        let told = format!("features.invalidate.kafka.librdkafka.{told}");
        assert!(problems.len() == 1 && problems[0].starts_with(&told), "{property}: {problems:?}");
        assert!(!problems[0].contains("s3cret"), "{problems:?}");
    }
}
