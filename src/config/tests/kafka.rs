//! The topic of feature updates, in builds that read it and in those that do not.

use super::{bad, read};

fn text(keys: &str) -> String {
    format!("features: {{project: p, invalidate: {{kafka: {{{keys}}}}}}}\n")
}

#[test]
fn a_build_reads_it_or_refuses_it() {
    let text = text(
        "brokers: [k1, 'k2:9093'], topic: t, librdkafka: {security.protocol: sasl_ssl, sasl.password: '${TOKEN}'}",
    );
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
        ("brokers: [k], topic: ''", "features.invalidate.kafka.topic: empty"),
        ("brokers: [k], topic: t, discover_every: 0s", "features.invalidate.kafka.discover_every: zero"),
        (
            "brokers: [k], topic: t, librdkafka: {group.id: g}",
            "features.invalidate.kafka.librdkafka.\"group.id\": a property that Weir sets itself",
        ),
        ("topic: t", "features.invalidate.kafka.brokers: missing"),
    ] {
        let problems = bad(&text(keys));
        assert!(problems.iter().any(|problem| problem.starts_with(told)), "{keys}: {problems:?}");
    }
}
