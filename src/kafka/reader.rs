//! The process that reads the topic: the gateway's own program, started by it with a command of its own ([`run`]).

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Read as _, Write as _},
    os::fd::AsFd as _,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rdkafka::{
    Message as _, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    metadata::Metadata,
    statistics,
    types::RDKafkaRespErr,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use super::{
    client::{self, Context},
    places::{Begin, Places},
    standing::Partition,
    wire::{Event, Order, Stands},
};
use crate::resilience::seldom::Seldom;

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

/// Reads what standard input says, and writes to standard output what is read, until the gateway that started it is gone.
///
/// # Errors
///
/// It was not started by a gateway, or what it is to read it can never read.
pub(crate) fn run() -> anyhow::Result<()> {
    let order = Order::read(&mut io::stdin().lock())
        .context("a gateway starts this, and says on standard input what is to be read")?;
    thread::Builder::new().name("gateway".to_owned()).spawn(end_with_gateway)?;
    outlive_signals()?;
    let is_again = order.is_again;
    let kafka = order.kafka();
    let client = client::consumer(&kafka)?;
    let told = Reader::new(&kafka.topic, kafka.discover_every, is_again)?.run(&client);
    match told {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        // Nobody is there to be told.
        _ => Ok(()),
    }
}

/// A service manager signals all processes of a service at once. The gateway drains then, and is told what changes until it is gone: it
/// ends this itself.
fn outlive_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    // Once one is listened to it ends nothing any more, also when nobody listens.
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// Nothing is written to standard input after the order: its end is the gateway's.
fn end_with_gateway() {
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    std::process::exit(0);
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
    /// Whether what came before the places is owed a drop of all of L1, for the reader before this one was lost.
    owes_gap: bool,
    failing: Seldom,
    unseen_told: Seldom,
    gateway: BufWriter<File>,
}

impl Reader {
    fn new(topic: &Arc<str>, discover_every: Duration, is_again: bool) -> io::Result<Self> {
        // Not `Stdout`: it looks for ends of lines, of which there are none.
        let gateway = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self {
            topic: Arc::clone(topic),
            discover_every,
            places: Places::default(),
            leaderless: Vec::new(),
            look_at: Instant::now(),
            is_up: None,
            unseen: None,
            refused: None,
            owes_gap: is_again,
            failing: Seldom::new(Instant::now()),
            unseen_told: Seldom::new(Instant::now()),
            gateway: BufWriter::with_capacity(64 << 10, gateway),
        })
    }

    /// Reads until the gateway cannot be told.
    fn run(mut self, client: &BaseConsumer<Context>) -> io::Result<()> {
        loop {
            if Instant::now() >= self.look_at {
                self.look(client)?;
                self.gateway.flush()?;
            }
            self.read(client)?;
            self.tell(client)?;
            self.gateway.flush()?;
        }
    }

    /// Looks for partitions, and begins with those that wait.
    fn look(&mut self, client: &BaseConsumer<Context>) -> io::Result<()> {
        let (is_told, found) = match client.fetch_metadata(Some(&self.topic), PATIENCE) {
            Ok(metadata) => (true, self.found(&metadata)),
            Err(error) => (false, Err(error.to_string())),
        };
        let (begun, is_gap) = self.begin(client);
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
        if is_gap || (is_settled && self.owes_gap) {
            // What came before the places is not read: whatever was fetched by now may be what it was about.
            self.say(&Event::Gap)?;
            self.owes_gap &= !is_settled;
        }
        if is_settled {
            self.say(&Event::Settled)?;
        }
        self.look_at = Instant::now() + if is_settled { self.discover_every } else { AGAIN };
        Ok(())
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

    /// Takes a place in each partition that waits for one; all of them, or as far as brokers tell. And whether one is an end, which some
    /// messages may have come before.
    fn begin(&mut self, client: &BaseConsumer<Context>) -> (Result<(), KafkaError>, bool) {
        let has_leader = |(partition, _): &(i32, Begin)| !self.leaderless.contains(partition);
        let waiting: Vec<_> = self.places.waiting().filter(has_leader).collect();
        if waiting.is_empty() {
            return (Ok(()), false);
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
        let assigned = self.assignment().and_then(|assignment| client.assign(&assignment));
        (assigned.and(outcome), is_gap)
    }

    fn assignment(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in self.places.read() {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        Ok(list)
    }

    /// Deals with the messages that are there; where there is none, with the first that comes within a tick.
    fn read(&mut self, client: &BaseConsumer<Context>) -> io::Result<()> {
        let mut wait = TICK;
        for _ in 0..BATCH {
            match client.poll(wait) {
                None => return Ok(()),
                Some(Ok(message)) => {
                    self.refused = None;
                    self.hand_on(&message)?;
                    self.places.advance(message.partition(), message.offset());
                }
                Some(Err(error)) => self.heed(&error),
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    fn hand_on(&mut self, message: &BorrowedMessage<'_>) -> io::Result<()> {
        let payload = message.payload();
        let event = Event::Message {
            partition: message.partition(),
            offset: message.offset(),
            written: message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok()),
            length: payload.map(|payload| u32::try_from(payload.len())).transpose().map_err(io::Error::other)?,
        };
        event.write(payload.unwrap_or_default(), &mut self.gateway)
    }

    fn say(&mut self, event: &Event) -> io::Result<()> {
        event.write(&[], &mut self.gateway)
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
    fn tell(&mut self, client: &BaseConsumer<Context>) -> io::Result<()> {
        let Some(statistics) = client.context().statistics() else { return Ok(()) };
        let is_up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && is_connected(&broker.state));
        let down = client.context().error();
        if self.is_up.replace(is_up) != Some(is_up) {
            let topic = &*self.topic;
            if is_up {
                tracing::info!(topic, "Kafka is connected to");
            } else {
                tracing::warn!(
                    topic,
                    reason = down,
                    "Kafka is not connected to: feature updates are late, and rows live as long as their ttl"
                );
            }
        }
        if statistics.topics.get(&*self.topic).is_some_and(|topic| self.is_lost(client, &topic.partitions)) {
            self.lose();
        }
        let why = down.filter(|_| !is_up).or_else(|| self.refused.clone()).or_else(|| self.unseen.clone());
        let partitions = self.partitions(&statistics);
        self.say(&Event::Stands(Stands { up: is_up, why, settled: self.places.are_settled(), partitions }))
    }

    /// How it stands with each, for operators.
    fn partitions(&self, statistics: &Statistics) -> Vec<Partition> {
        let of_topic = statistics.topics.get(&*self.topic);
        let lag = |partition| self.lag(statistics, of_topic?.partitions.get(&partition)?);
        let waiting = self.places.waiting().map(|(id, _)| Partition { id, next: None, lag: None });
        let read = self.places.read().map(|(id, next)| Partition { id, next: Some(next), lag: lag(id) });
        let mut partitions: Vec<_> = waiting.chain(read).collect();
        partitions.sort_by_key(|of| of.id);
        partitions
    }

    /// Messages of a partition that are still to be read; `None`: nobody says where it ends now.
    fn lag(&self, statistics: &Statistics, of: &statistics::Partition) -> Option<u64> {
        let mut brokers = statistics.brokers.values();
        // What the last answer said goes stale without another.
        let is_told = brokers.any(|broker| broker.nodeid == of.leader && is_connected(&broker.state));
        if is_told { self.places.lag(of.partition, of.hi_offset) } else { None }
    }
}

fn is_connected(state: &str) -> bool {
    matches!(state, "UP" | "UPDATE")
}
