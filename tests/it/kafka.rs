//! What a topic says has changed is read anew, from a cluster that loses brokers as from one that is not there yet, whatever else is on it.
//!
//! The cluster is librdkafka's own imitation, whose brokers fail as they are told, and a Tansu broker beside it.

use std::time::Duration;

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value},
};
use rdkafka::{
    ClientConfig,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use serde_json::json;

use crate::support::{
    Redis, Weir, http1,
    metrics::await_metric,
    process::{START, await_some, wait_until},
    tansu::Tansu,
    vectors,
};

const TOPIC: &str = "feature-updates";
const BROKERS: i32 = 2;
const PARTITIONS: i32 = 4;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    MockCluster::new(BROKERS).expect("a mock cluster")
}

fn cluster_with_topic() -> Cluster {
    let cluster = cluster();
    cluster.create_topic(TOPIC, PARTITIONS, 1).expect("a topic");
    cluster
}

/// A feature server that caches rows for an hour, and its store.
struct World {
    redis: Redis,
    weir: Weir,
}

impl World {
    fn new(brokers: &str) -> Self {
        let redis = Redis::start();
        let list: Vec<String> = brokers.split(',').map(|broker| format!("\"{broker}\"")).collect();
        let weir = Weir::start(&format!(
            "features:\n  project: p\n  l1: {{ttl: 1h}}\n  l2: {{redis: [{}], timeout: 5s}}\n  invalidate: {{kafka: {{brokers: [{}], topic: \
             {TOPIC}, discover_every: 1s, librdkafka: {{fetch.wait.max.ms: \"20\"}}}}}}\n  views:\n    driver_stats:\n      entities: {{driver_id: \
             INT64}}\n      features: {{avg_daily_trips: {{type: INT64}}}}\n",
            redis.url(),
            list.join(", ")
        ));
        Self { redis, weir }
    }

    /// Writes a row as Feast does, behind Weir's back.
    fn write(&self, driver: i64, n: i64) {
        let key = EntityKey::new([("driver_id", &EntityValue::Int64(driver))].into_iter());
        let mut value = Vec::new();
        encode_value(&Value::Int64(n), &mut value);
        let mut set = redis::cmd("HSET");
        set.arg([key.as_bytes(), b"p"].concat()).arg(vectors::field("driver_stats:avg_daily_trips")).arg(value);
        set.exec(&mut self.redis.connection()).expect("an answer");
    }

    fn read(&self, driver: i64) -> i64 {
        let body = json!({"features": ["driver_stats:avg_daily_trips"], "entities": {"driver_id": [driver]}});
        let answer = self.weir.connect().post("/get-online-features", body.to_string()).expect(200).json();
        answer["results"][1]["values"][0].as_i64().unwrap_or_else(|| panic!("{answer}"))
    }

    /// Waits until a row is read anew.
    fn await_row(&self, driver: i64, n: i64) {
        wait_until(&format!("row {driver} to be {n}"), START, || self.read(driver) == n);
    }

    fn messages(&self, outcome: &str, least: f64) -> f64 {
        await_metric(self.weir.admin(), "weir_kafka_messages_total", &[("outcome", outcome)], |count| count >= least)
    }

    /// How the consumer stands, as operators see it.
    fn shown(&self) -> serde_json::Value {
        let features = http1::get(self.weir.admin(), "/admin/v1/features").expect(200).json();
        features["state"]["invalidation"]["kafka"].clone()
    }

    /// Says that a row changed until it is read anew: where a topic that was made anew is as long as it was read, that is not noticed at
    /// once.
    fn await_notice(&self, brokers: &str, driver: i64, n: i64) {
        let producer = producer(brokers);
        wait_until(&format!("row {driver} to be {n}"), START, || {
            produce(&producer, 0, &notice(driver));
            self.read(driver) == n
        });
    }

    fn up(&self, up: bool) {
        let expected = f64::from(u8::from(up));
        await_some("weir_kafka_up", START, || {
            (self.weir.metrics().count("weir_kafka_up", &[]) == expected).then_some(())
        });
    }
}

fn producer(brokers: &str) -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer")
}

/// Produces a message and waits until the cluster has it.
fn produce(producer: &BaseProducer, partition: i32, message: &str) {
    let record = BaseRecord::<(), str>::to(TOPIC).partition(partition).payload(message);
    producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
    producer.flush(Duration::from_secs(60)).expect("the cluster takes it");
}

/// Produces messages of which each takes an answer of its own to be read.
fn produce_apart(brokers: &str, partition: i32, count: usize) {
    let mut config = ClientConfig::new();
    let producer: BaseProducer =
        config.set("bootstrap.servers", brokers).set("batch.num.messages", "1").create().expect("a producer");
    let message = notice(9);
    for _ in 0..count {
        let record = BaseRecord::<(), str>::to(TOPIC).partition(partition).payload(message.as_str());
        producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
    }
    producer.flush(Duration::from_secs(60)).expect("the cluster takes them");
}

fn notice(driver: i64) -> String {
    json!({"view": "driver_stats", "entity": {"driver_id": driver}, "event_timestamp": "2026-11-22T10:00:00Z"})
        .to_string()
}

#[test]
fn a_row_that_a_message_names_is_read_anew_whatever_else_is_on_the_topic() {
    let cluster = cluster_with_topic();
    let (world, producer) = (World::new(&cluster.bootstrap_servers()), producer(&cluster.bootstrap_servers()));
    for driver in 0..4 {
        world.write(driver, 1);
        assert_eq!(world.read(driver), 1);
        world.write(driver, 2);
        assert_eq!(world.read(driver), 1, "it is cached");
    }
    for (partition, message) in
        (0..PARTITIONS).zip(["no JSON", "{}", r#"{"view": "other", "entity": {}}"#, r#"{"view": "driver_stats"}"#])
    {
        produce(&producer, partition, message);
    }
    produce(&producer, 0, &notice(0));
    world.await_row(0, 2);
    let push = json!({"push_source_name": "driver_stats", "df": {"driver_id": [1, 2], "avg_daily_trips": [7, 7], "event_timestamp": ["x", "x"]}, "to": "online"});
    produce(&producer, 3, &push.to_string());
    world.await_row(1, 2);
    assert_eq!(world.read(2), 2, "both rows of one message");
    assert_eq!(world.read(3), 1, "nobody named it");
    world.messages("malformed", 3.0);
    world.messages("unknown", 1.0);
    let metrics = world.weir.metrics();
    assert_eq!(world.messages("applied", 2.0), 2.0);
    assert_eq!(
        metrics.count("weir_invalidation_delay_seconds_count", &[("origin", "kafka")]),
        2.0,
        "since the message was written"
    );
    await_some("nothing to be left to read", START, || {
        let metrics = world.weir.metrics();
        (metrics.sum("weir_kafka_lag_messages", &[("topic", TOPIC)]) == Some(0.0)).then_some(())
    });
    world.up(true);
    let partition = |(id, messages): (usize, i32)| json!({"partition": id, "next_offset": messages, "lag": 0});
    let partitions: Vec<_> = [2, 1, 1, 2].into_iter().enumerate().map(partition).collect();
    let expected = json!({"topic": TOPIC, "up": true, "why": null, "settled": true, "partitions": partitions});
    wait_until(&format!("operators to see {expected}"), START, || world.shown() == expected);
}

#[test]
fn brokers_that_were_away_lose_no_message() {
    let cluster = cluster_with_topic();
    let (world, producer) = (World::new(&cluster.bootstrap_servers()), producer(&cluster.bootstrap_servers()));
    world.write(1, 1);
    assert_eq!(world.read(1), 1);
    world.up(true);
    (1..=BROKERS).for_each(|broker| cluster.broker_down(broker).expect("it goes"));
    world.up(false);
    let shown = world.shown();
    assert!(shown["up"] == false && shown["why"].is_string(), "{shown}");
    world.write(1, 2);
    assert_eq!(world.read(1), 1, "rows are served meanwhile");
    (1..=BROKERS).for_each(|broker| cluster.broker_up(broker).expect("it comes"));
    produce(&producer, 2, &notice(1));
    world.await_row(1, 2);
    world.up(true);
    assert_eq!(world.weir.metrics().count("weir_kafka_gaps_total", &[]), 1.0, "of the start alone: nothing was lost");
}

impl World {
    /// What is left to be read of a partition, where that is known.
    fn lag(&self, partition: i32) -> Option<f64> {
        self.weir.metrics().sum("weir_kafka_lag_messages", &[("partition", &partition.to_string())])
    }

    fn await_lags(&self, what: &str, are_so: impl Fn([Option<f64>; 2]) -> bool) {
        wait_until(what, START, || are_so([0, 1].map(|partition| self.lag(partition))));
    }
}

#[test]
fn what_is_left_to_be_read_is_shown_while_there_is_much_and_not_while_nobody_says() {
    let cluster = cluster_with_topic();
    (1..=BROKERS).for_each(|broker| cluster.partition_leader(TOPIC, broker - 1, Some(broker)).expect("a leader"));
    let (world, producer) = (World::new(&cluster.bootstrap_servers()), producer(&cluster.bootstrap_servers()));
    // An end is known from a first answer on.
    (0..2).for_each(|partition| produce(&producer, partition, &notice(9)));
    world.await_lags("both to be read", |lags| lags == [Some(0.0); 2]);

    cluster.broker_round_trip_time(1, Duration::from_millis(300)).expect("it is slow");
    produce_apart(&cluster.bootstrap_servers(), 0, 100);
    world.await_lags("one to be behind", |lags| lags[0].is_some_and(|lag| lag > 0.0) && lags[1] == Some(0.0));
    cluster.broker_round_trip_time(1, Duration::ZERO).expect("it is not");
    world.await_lags("it to come after", |lags| lags == [Some(0.0); 2]);

    // One of two goes: the other's partitions are read on.
    cluster.broker_down(1).expect("it goes");
    world.await_lags("one not to be known", |lags| lags == [None, Some(0.0)]);
    world.write(1, 1);
    assert_eq!(world.read(1), 1);
    world.write(1, 2);
    produce(&producer, 1, &notice(1));
    world.await_row(1, 2);
    world.up(true);
    cluster.broker_down(2).expect("it goes");
    world.await_lags("none to be known", |lags| lags == [None, None]);
    world.up(false);

    (1..=BROKERS).for_each(|broker| cluster.broker_up(broker).expect("it comes"));
    world.write(1, 3);
    produce(&producer, 0, &notice(1));
    world.await_row(1, 3);
    world.await_lags("both to be known", |lags| lags == [Some(0.0); 2]);
}

#[test]
fn what_was_cached_before_the_topic_could_be_read_is_dropped_when_it_can() {
    let cluster = cluster_with_topic();
    (1..=BROKERS).for_each(|broker| cluster.broker_down(broker).expect("it goes"));
    // It serves without.
    let world = World::new(&cluster.bootstrap_servers());
    world.write(1, 1);
    assert_eq!(world.read(1), 1);
    // Somebody writes, and says so where nobody listens yet.
    world.write(1, 2);
    assert_eq!(world.read(1), 1);
    (1..=BROKERS).for_each(|broker| cluster.broker_up(broker).expect("it comes"));
    world.await_row(1, 2);
}

#[test]
fn a_partition_without_a_leader_is_told_of_and_keeps_nobody_from_the_others() {
    const LOST: i32 = 2;
    let cluster = cluster_with_topic();
    let lead =
        |partition, broker| cluster.partition_leader(TOPIC, partition, broker).expect("it is the cluster's to say");
    (0..PARTITIONS).for_each(|partition| lead(partition, (partition != LOST).then_some(1)));
    let (mut world, producer) = (World::new(&cluster.bootstrap_servers()), producer(&cluster.bootstrap_servers()));
    let gaps = |world: &World, count: f64| {
        await_metric(world.weir.admin(), "weir_kafka_gaps_total", &[], |gaps| gaps == count);
    };
    gaps(&world, 1.0);
    // From the start.
    for partition in [0, 3] {
        let driver = i64::from(partition);
        world.write(driver, 1);
        assert_eq!(world.read(driver), 1);
        world.write(driver, 2);
        assert_eq!(world.read(driver), 1, "it is cached");
        produce(&producer, partition, &notice(driver));
        world.await_row(driver, 2);
    }
    let told = format!("no leader of partitions [{LOST}]");
    wait_until("it to be told", START, || world.weir.process().log().contains(&told));
    gaps(&world, 1.0);
    // With a leader it is begun, and what was cached before that is read anew.
    lead(LOST, Some(2));
    gaps(&world, 2.0);
    world.write(9, 1);
    assert_eq!(world.read(9), 1);
    world.write(9, 2);
    produce(&producer, LOST, &notice(9));
    world.await_row(9, 2);

    // While it is read, its leader is lost.
    cluster.broker_down(2).expect("it goes");
    world.write(0, 3);
    produce(&producer, 0, &notice(0));
    world.await_row(0, 3);
    cluster.broker_up(2).expect("it comes");
    world.write(9, 3);
    produce(&producer, LOST, &notice(9));
    world.await_row(9, 3);
    gaps(&world, 2.0);
}

#[test]
fn a_topic_that_is_made_later_is_read_from_its_beginning() {
    let cluster = cluster();
    let world = World::new(&cluster.bootstrap_servers());
    world.write(1, 1);
    assert_eq!(world.read(1), 1);
    world.write(1, 2);
    cluster.create_topic(TOPIC, 1, 1).expect("a topic");
    produce(&producer(&cluster.bootstrap_servers()), 0, &notice(1));
    world.await_row(1, 2);
    assert_eq!(world.messages("applied", 1.0), 1.0);
}

#[test]
fn a_topic_that_may_not_be_read_is_told_of_and_read_once_it_may_be() {
    const REFUSED: &str = "Topic authorization failed";
    let cluster = cluster_with_topic();
    let say_of_topic = |error| cluster.topic_error(TOPIC, error).expect("it is the cluster's to say");
    say_of_topic(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    let (mut world, producer) = (World::new(&cluster.bootstrap_servers()), producer(&cluster.bootstrap_servers()));
    let await_why = |world: &World, why: Option<&str>, settled: bool| {
        wait_until(&format!("operators to see {why:?}"), START, || {
            let shown = world.shown();
            let is_seen = match why {
                Some(why) => shown["why"].as_str().is_some_and(|shown| shown.contains(why)),
                None => shown["why"].is_null(),
            };
            is_seen && shown["up"] == true && shown["settled"] == settled
        });
    };
    await_why(&world, Some(REFUSED), false);
    wait_until("it to be told", START, || world.weir.process().log().contains(REFUSED));
    world.write(1, 1);
    assert_eq!(world.read(1), 1);
    say_of_topic(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    await_why(&world, None, true);

    // It may be looked at, and not be read.
    cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    await_why(&world, Some(REFUSED), true);
    world.write(1, 2);
    produce(&producer, 0, &notice(1));
    world.await_row(1, 2);
    await_why(&world, None, true);
}

#[test]
fn a_real_brokers_messages_are_read() {
    let tansu = Tansu::start();
    let brokers = tansu.address().to_string();
    let producer = producer(&brokers);
    // The first message makes the topic.
    produce(&producer, 0, "not for anybody");
    let world = World::new(&brokers);
    for (driver, n) in [(1, 1), (1, 3), (2, 5)] {
        world.write(driver, n);
        world.read(driver);
        world.write(driver, n + 1);
        produce(&producer, 0, &notice(driver));
        world.await_row(driver, n + 1);
    }
    world.up(true);
}

/// librdkafka ends its process then, more often than not.
#[test]
fn a_broker_that_comes_back_without_its_topics_ends_no_gateway() {
    let mut tansu = Tansu::start();
    let brokers = tansu.address().to_string();
    produce(&producer(&brokers), 0, "not for anybody");
    let mut world = World::new(&brokers);
    world.up(true);
    for round in 0..5 {
        // Some are killed while messages are read.
        let driver = i64::from(round);
        world.write(driver, 1);
        world.read(driver);
        world.write(driver, 2);
        world.await_notice(&brokers, driver, 2);
        tansu.kill();
        if round % 2 == 1 {
            world.up(false);
            let shown = world.shown();
            assert!(shown["up"] == false && shown["why"].is_string(), "{shown}");
        }
        tansu.start_empty();
        world.write(driver, 3);
        // The first message makes the topic anew.
        world.await_notice(&brokers, driver, 3);
        world.up(true);
        assert_eq!(world.weir.process().ended(), None, "it lives");
    }
    // Each process that ended was followed by one that dropped what may have been missed.
    wait_until("a gap for each start", START, || {
        let metrics = world.weir.metrics();
        metrics.count("weir_kafka_gaps_total", &[]) > metrics.count("weir_kafka_reader_ends_total", &[])
    });
}

/// A process's state, as `ps` shows it, and its parent; `None`: there is no such process.
fn stat(process: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // `id (name) state parent …`
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn state(process: u32) -> String {
    stat(process).unwrap_or_default().0
}

/// The processes that one started, and that have not ended.
fn children(of: u32) -> Vec<u32> {
    let is_child = |id: &u32| stat(*id).is_some_and(|(state, parent)| state != "Z" && parent == of);
    let entries = std::fs::read_dir("/proc").expect("it is Linux").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

fn signal(process: u32, signal: &str) {
    let mut kill = std::process::Command::new("/bin/sh");
    kill.args(["-c", "kill -s \"$0\" \"$1\"", signal, &process.to_string()]);
    // One that is gone already is told nothing.
    kill.stderr(std::process::Stdio::null()).status().expect("/bin/sh is there");
}

fn is_there(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != "Z")
}

#[test]
fn what_changed_while_the_process_that_reads_was_lost_is_read_anew() {
    let cluster = cluster_with_topic();
    let (mut world, producer) = (World::new(&cluster.bootstrap_servers()), producer(&cluster.bootstrap_servers()));
    let gateway = world.weir.process().id();
    let reader = |not: Option<u32>| {
        await_some("a reader", START, || children(gateway).into_iter().find(|child| Some(*child) != not))
    };
    let first = reader(None);
    world.up(true);
    world.write(1, 1);
    assert_eq!(world.read(1), 1);
    // Somebody writes, and says so when nobody listens.
    signal(first, "STOP");
    wait_until("it to stop", START, || state(first) == "T");
    world.write(1, 2);
    produce(&producer, 0, &notice(1));
    assert_eq!(world.read(1), 1, "it is cached");
    signal(first, "KILL");
    world.await_row(1, 2);
    reader(Some(first));
    world.up(true);
    assert_eq!(world.weir.metrics().count("weir_kafka_reader_ends_total", &[]), 1.0);
    assert_eq!(world.weir.metrics().count("weir_kafka_gaps_total", &[]), 2.0, "of the start, and of the second");
    assert!(world.weir.process().log().contains("the process that reads Kafka ended"), "it is told");
    world.write(1, 3);
    produce(&producer, 1, &notice(1));
    world.await_row(1, 3);

    // Where none lasts, operators see why.
    wait_until("operators to see how it ended", START, || {
        children(gateway).into_iter().for_each(|reader| signal(reader, "KILL"));
        let shown = world.shown();
        shown["up"] == false && shown["why"].as_str().is_some_and(|why| why.contains("ended: signal: 9"))
    });
    world.up(true);
    world.write(1, 4);
    produce(&producer, 2, &notice(1));
    world.await_row(1, 4);

    // It leaves nothing behind, however it ends.
    let last = reader(None);
    world.weir.process().signal("KILL");
    world.weir.process().wait(START);
    wait_until("the reader to end with its gateway", START, || !is_there(last));
}

#[test]
fn a_gateway_that_drains_ends_the_process_that_reads() {
    let cluster = cluster_with_topic();
    let mut world = World::new(&cluster.bootstrap_servers());
    let gateway = world.weir.process().id();
    let reader = await_some("a reader", START, || children(gateway).pop());
    world.weir.process().signal("TERM");
    assert!(world.weir.process().wait(START).success());
    wait_until("the reader to end with its gateway", START, || !is_there(reader));
    assert!(!world.weir.process().log().contains("the process that reads Kafka ended"), "that is no loss");
}
