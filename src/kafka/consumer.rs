//! The thread that reads the topic.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    Message as _, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    metadata::Metadata,
    statistics,
    types::RDKafkaRespErr,
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Current,
    client::{self, Context},
    notice::{self, Wrong},
    places::{Begin, Places},
    standing::{Partition, Standing},
};
use crate::{
    config,
    features::invalidate::{Origin, Scope},
    resilience::seldom::Seldom,
    telemetry::handles::kafka::{KafkaHandles, Outcome},
};

/// How long a message is waited for before anything else is looked at: and so how long an end of the process may take.
const TICK: Duration = Duration::from_millis(100);
/// Messages that are dealt with before anything else is looked at.
const BATCH: usize = 1000;
/// How long a broker may take to tell about the topic. Meanwhile no message is dealt with.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same once one partition's leader did not.
const HURRY: Duration = Duration::from_millis(200);
/// How long after a look that failed the next one is made.
const AGAIN: Duration = Duration::from_millis(500);

/// Why the topic cannot be read at all. Brokers that are away are no reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What `properties` say cannot be, or not with this build.
    #[error("features.invalidate.kafka: not a way to read a topic")]
    Client(#[from] KafkaError),
    /// There is no thread to be had.
    #[error("cannot start the thread that reads Kafka")]
    Thread(#[from] std::io::Error),
}

/// Whether a topic can be read so, as far as that can be told without a broker.
///
/// # Errors
///
/// It can never work.
pub(crate) fn judge(kafka: &config::Kafka) -> Result<(), Error> {
    Ok(client::judge(kafka)?)
}

/// The consumer. Dropped, it ends within [`TICK`], and a look that is under way.
pub(crate) struct Consumer {
    stop: Arc<AtomicBool>,
    settled: CancellationToken,
    standing: Standing,
}

impl Consumer {
    /// Begins to read in the background; what is said to have changed is dropped from the store of the snapshot in force. Invalidations
    /// wait on the runtime that this is called from.
    ///
    /// # Errors
    ///
    /// It can never work.
    pub(crate) fn start(kafka: &config::Kafka, current: Current) -> Result<Self, Error> {
        let client = client::consumer(kafka)?;
        let consumer =
            Self { stop: Arc::default(), settled: CancellationToken::new(), standing: Standing::new(&kafka.topic) };
        let reader = Reader {
            topic: Arc::clone(&kafka.topic),
            discover_every: kafka.discover_every,
            places: Places::default(),
            leaderless: Vec::new(),
            look_at: Instant::now(),
            is_up: None,
            unseen: None,
            refused: None,
            settled: consumer.settled.clone(),
            standing: consumer.standing.clone(),
            failing: Seldom::new(Instant::now()),
            unseen_told: Seldom::new(Instant::now()),
            applier: Applier {
                current,
                runtime: Handle::current(),
                handles: KafkaHandles::new(&kafka.topic),
                malformed: Seldom::new(Instant::now()),
            },
        };
        let stop = Arc::clone(&consumer.stop);
        thread::Builder::new().name("kafka".to_owned()).spawn(move || reader.run(&client, &stop))?;
        Ok(consumer)
    }

    /// How it stands, now and later.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// Waits until the place in every partition is known, or that long.
    pub(crate) async fn settled(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.settled.cancelled()).await.is_err() {
            tracing::warn!(?patience, "Kafka does not answer: L1 is dropped once more when it does");
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

struct Reader {
    topic: Arc<str>,
    discover_every: Duration,
    places: Places,
    /// Partitions that nobody leads, as the last look found: they are not asked for.
    leaderless: Vec<i32>,
    /// When the topic is looked at next.
    look_at: Instant,
    /// Whether a broker is connected to; `None`: nobody was told yet.
    is_up: Option<bool>,
    /// Why the last look did not find all that is to be read.
    unseen: Option<String>,
    /// Why brokers do not let it be read; until a message is.
    refused: Option<String>,
    settled: CancellationToken,
    standing: Standing,
    failing: Seldom,
    unseen_told: Seldom,
    applier: Applier,
}

/// What a message does.
struct Applier {
    current: Current,
    runtime: Handle,
    handles: KafkaHandles,
    malformed: Seldom,
}

impl Reader {
    fn run(mut self, client: &BaseConsumer<Context>, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            if Instant::now() >= self.look_at {
                self.look(client);
            }
            self.read(client);
            self.tell(client);
        }
    }

    /// Looks for partitions, and begins with those that wait.
    fn look(&mut self, client: &BaseConsumer<Context>) {
        let (is_told, found) = match client.fetch_metadata(Some(&self.topic), PATIENCE) {
            Ok(metadata) => (true, self.found(&metadata)),
            Err(error) => (false, Err(error.to_string())),
        };
        let begun = self.begin(client);
        let unseen = found.and(begun.map_err(|error| error.to_string())).err();
        // That no broker is connected to has a line of its own.
        if let Some(why) = &unseen
            && (is_told || self.is_up == Some(true))
            && self.unseen_told.is_due(Instant::now())
        {
            tracing::warn!(
                topic = &*self.topic,
                why,
                "Kafka: the topic cannot be read, or not all of it; told again in a minute at most"
            );
        }
        self.unseen = unseen;
        let is_settled = self.places.are_settled();
        if is_settled {
            self.settled.cancel();
        }
        self.look_at = Instant::now() + if is_settled { self.discover_every } else { AGAIN };
    }

    /// Takes the partitions that there are, or why nobody may know them.
    fn found(&mut self, metadata: &Metadata) -> Result<(), String> {
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == &*self.topic) else { return Ok(()) };
        match topic.error() {
            None => {
                let partitions = topic.partitions();
                self.places.found(partitions.iter().map(|partition| partition.id()));
                let leaderless = partitions.iter().filter(|partition| partition.leader() < 0);
                self.leaderless = leaderless.map(|partition| partition.id()).collect();
                if !self.leaderless.is_empty() {
                    let which = &self.leaderless;
                    self.failed(&format_args!("no leader of partitions {which:?}: what they tell is late"));
                }
                Ok(())
            }
            // All that will be in it is news.
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => {
                self.places.found([]);
                Err("there is no such topic".to_owned())
            }
            // It may not be looked at, or not yet: nothing is known of its partitions.
            Some(error) => Err(RDKafkaErrorCode::from(error).to_string()),
        }
    }

    /// Takes a place in each partition that waits for one; all of them, or as far as brokers tell.
    fn begin(&mut self, client: &BaseConsumer<Context>) -> Result<(), KafkaError> {
        let has_leader = |(partition, _): &(i32, Begin)| !self.leaderless.contains(partition);
        let waiting: Vec<_> = self.places.waiting().filter(has_leader).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let (mut is_gap, mut outcome, mut patience) = (false, Ok(()), PATIENCE);
        for (partition, begin) in waiting {
            match client.fetch_watermarks(&self.topic, partition, patience) {
                Ok((first, end)) => {
                    is_gap |= begin == Begin::End;
                    self.places.begin(partition, if begin == Begin::End { end } else { first });
                }
                // One that does not answer keeps nobody from the others, of which each is given less time then.
                Err(error) => (outcome, patience) = (Err(error), HURRY),
            }
        }
        if is_gap {
            // What came before the places is not read: whatever was fetched by now may be what it was about.
            self.applier.drop_all();
        }
        client.assign(&self.assignment()?)?;
        outcome
    }

    fn assignment(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in self.places.read() {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        Ok(list)
    }

    /// Deals with the messages that are there; where there is none, with the first that comes within a tick.
    fn read(&mut self, client: &BaseConsumer<Context>) {
        let mut wait = TICK;
        for _ in 0..BATCH {
            match client.poll(wait) {
                None => return,
                Some(Ok(message)) => {
                    self.refused = None;
                    self.applier.take(&message);
                    self.places.advance(message.partition(), message.offset());
                }
                Some(Err(error)) => self.heed(&error),
            }
            wait = Duration::ZERO;
        }
    }

    fn heed(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) || code == Some(RDKafkaErrorCode::OffsetOutOfRange) {
            self.lose();
        } else {
            if code == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
                self.refused = Some(error.to_string());
            }
            self.failed(error);
        }
    }

    fn lose(&mut self) {
        tracing::warn!(topic = &*self.topic, "Kafka has not kept what is to be read next: read on from the end");
        self.places.lose();
        self.look_at = Instant::now();
    }

    /// Finds out whether a partition ends before what is to be read next, where what was counted says so. A broker that came back with
    /// less than it had need not refuse to be asked for more: until there was as much again, all of it would be passed over.
    fn is_lost(&self, client: &BaseConsumer<Context>, partitions: &HashMap<i32, statistics::Partition>) -> bool {
        let may_be = partitions.values().filter(|of| self.places.is_past(of.partition, of.hi_offset));
        // What was counted may be from before the last message was read.
        may_be
            .map(|of| client.fetch_watermarks(&self.topic, of.partition, HURRY).map(|(_, end)| (of.partition, end)))
            .any(|told| told.is_ok_and(|(partition, end)| self.places.is_past(partition, end)))
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        if self.failing.is_due(Instant::now()) {
            tracing::warn!(topic = &*self.topic, %error, "Kafka: further errors of a minute are not told");
        }
    }

    /// What librdkafka counts, about once a second.
    fn tell(&mut self, client: &BaseConsumer<Context>) {
        let Some(statistics) = client.context().statistics() else { return };
        let is_up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && is_connected(&broker.state));
        self.applier.handles.up(is_up);
        let of_topic = statistics.topics.get(&*self.topic);
        let lag = |partition| self.lag(&statistics, of_topic?.partitions.get(&partition)?);
        self.note(is_up, client.context().error(), lag);
        if self.is_up.replace(is_up) != Some(is_up) {
            let topic = &*self.topic;
            if is_up {
                tracing::info!(topic, "Kafka is connected to");
            } else {
                let reason = client.context().error();
                tracing::warn!(
                    topic,
                    reason,
                    "Kafka is not connected to: feature updates are late, and rows live as long as their ttl"
                );
            }
        }
        if of_topic.is_some_and(|topic| self.is_lost(client, &topic.partitions)) {
            self.lose();
        }
        let partitions = of_topic.into_iter().flat_map(|topic| topic.partitions.values());
        let lags: Vec<_> = partitions.filter_map(|of| Some((of.partition, self.lag(&statistics, of)?))).collect();
        self.applier.handles.lags(&lags);
    }

    /// Messages of a partition that are still to be read; `None`: nobody says where it ends now.
    fn lag(&self, statistics: &Statistics, of: &statistics::Partition) -> Option<u64> {
        let mut brokers = statistics.brokers.values();
        // What the last answer said goes stale without another.
        let is_told = brokers.any(|broker| broker.nodeid == of.leader && is_connected(&broker.state));
        if is_told { self.places.lag(of.partition, of.hi_offset) } else { None }
    }

    /// Keeps how it stands, for operators.
    fn note(&self, is_up: bool, down: Option<String>, lag: impl Fn(i32) -> Option<u64>) {
        let waiting = self.places.waiting().map(|(id, _)| Partition { id, next: None, lag: None });
        let read = self.places.read().map(|(id, next)| Partition { id, next: Some(next), lag: lag(id) });
        let mut partitions: Vec<_> = waiting.chain(read).collect();
        partitions.sort_by_key(|of| of.id);
        self.standing.note(|seen| {
            seen.up = Some(is_up);
            seen.why = down.filter(|_| !is_up).or_else(|| self.refused.clone()).or_else(|| self.unseen.clone());
            seen.settled = self.places.are_settled();
            seen.partitions = partitions;
        });
    }
}

impl Applier {
    fn take(&self, message: &BorrowedMessage<'_>) {
        let written = message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok());
        let written = written.map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
        let outcome = match message.payload() {
            None => Outcome::Nothing,
            Some(payload) => self.apply(payload, written, (message.partition(), message.offset())),
        };
        self.handles.message(outcome);
    }

    fn apply(&self, payload: &[u8], written: Option<SystemTime>, (partition, offset): (i32, i64)) -> Outcome {
        let (config, store) = (self.current)();
        match notice::read(payload, &config) {
            Ok(rows) if rows.is_empty() => Outcome::Nothing,
            Ok(rows) => {
                self.runtime.block_on(store.invalidate(&Scope::Rows(rows), Origin::Kafka, written));
                Outcome::Applied
            }
            Err(unknown @ Wrong::Unknown { .. }) => {
                tracing::debug!(partition, offset, %unknown, "a feature update of something else");
                Outcome::Unknown
            }
            Err(Wrong::Malformed(reason)) => {
                if self.malformed.is_due(Instant::now()) {
                    tracing::warn!(
                        partition,
                        offset,
                        reason,
                        "skipped a feature update that cannot be read; further ones are counted only"
                    );
                }
                Outcome::Malformed
            }
        }
    }

    fn drop_all(&self) {
        let (_, store) = (self.current)();
        self.runtime.block_on(store.invalidate(&Scope::All, Origin::Kafka, None));
        self.handles.gap();
    }
}

fn is_connected(state: &str) -> bool {
    matches!(state, "UP" | "UPDATE")
}
