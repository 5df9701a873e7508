//! The gateway's side: keeps a process that reads the topic, and does what its messages say.

use std::{
    io::{self, BufReader},
    process::ChildStdout,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::error::KafkaError;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Current, client,
    notice::{self, Wrong},
    process::Process,
    standing::Standing,
    wire::{Event, Order, Stands},
};
use crate::{
    config,
    features::invalidate::{Origin, Scope},
    resilience::seldom::Seldom,
    telemetry::handles::kafka::{KafkaHandles, Outcome},
};

/// How long after a reader ended the next one is started; twice that for each that did not last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A reader that was there for as long as that lasted.
const LASTS: Duration = Duration::from_secs(60);

/// Why the topic cannot be read at all. Brokers that are away are no reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What `properties` say cannot be, or not with this build.
    #[error("features.invalidate.kafka: not a way to read a topic")]
    Client(#[from] KafkaError),
    /// There is no thread to be had.
    #[error("cannot start the thread that hears what is read from Kafka")]
    Thread(#[from] io::Error),
}

/// Whether a topic can be read so, as far as that can be told without a broker.
///
/// # Errors
///
/// It can never work.
pub(crate) fn judge(kafka: &config::Kafka) -> Result<(), Error> {
    Ok(client::judge(kafka)?)
}

/// The consumer. Dropped, it ends its reader at once.
pub(crate) struct Consumer {
    reader: Process,
    settled: CancellationToken,
    standing: Standing,
    /// Dropped, it ends a pause.
    _goes_on: mpsc::Sender<()>,
}

impl Consumer {
    /// Begins to read in the background; what is said to have changed is dropped from the store of the snapshot in force. Invalidations
    /// wait on the runtime that this is called from.
    ///
    /// # Errors
    ///
    /// It can never work.
    pub(crate) fn start(kafka: &config::Kafka, current: Current) -> Result<Self, Error> {
        judge(kafka)?;
        let (goes_on, stop) = mpsc::channel();
        let consumer = Self {
            reader: Process::default(),
            settled: CancellationToken::new(),
            standing: Standing::new(&kafka.topic),
            _goes_on: goes_on,
        };
        let keeper = Keeper {
            kafka: kafka.clone(),
            reader: consumer.reader.clone(),
            stop,
            settled: consumer.settled.clone(),
            standing: consumer.standing.clone(),
            applier: Applier {
                current,
                runtime: Handle::current(),
                handles: KafkaHandles::new(&kafka.topic),
                malformed: Seldom::new(Instant::now()),
            },
        };
        thread::Builder::new().name("kafka".to_owned()).spawn(move || keeper.run())?;
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
        self.reader.close();
    }
}

/// The thread that keeps a reader and hears it.
struct Keeper {
    kafka: config::Kafka,
    reader: Process,
    stop: mpsc::Receiver<()>,
    settled: CancellationToken,
    standing: Standing,
    applier: Applier,
}

/// What a message does.
struct Applier {
    current: Current,
    runtime: Handle,
    handles: KafkaHandles,
    malformed: Seldom,
}

impl Keeper {
    fn run(mut self) {
        let (mut pause, mut is_again) = (FIRST_PAUSE, false);
        loop {
            let started = Instant::now();
            let heard = match self.reader.start(&Order::new(&self.kafka, is_again)) {
                Ok(None) => return,
                Ok(Some(said)) => self.hear(said),
                Err(error) => Err(error),
            };
            let ended = self.reader.end();
            if started.elapsed() >= LASTS {
                pause = FIRST_PAUSE;
            }
            if self.reader.is_closed() {
                return;
            }
            // That it broke off in an event is of its end.
            let other = heard.err().filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
            self.lost(&other.map_or(ended, |error| error.to_string()));
            if self.stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            (pause, is_again) = ((pause * 2).min(LONGEST_PAUSE), true);
        }
    }

    /// Does what a reader says until it says nothing more.
    fn hear(&mut self, said: ChildStdout) -> io::Result<()> {
        let (mut said, mut payload) = (BufReader::with_capacity(64 << 10, said), Vec::new());
        while let Some(event) = Event::read(&mut payload, &mut said)? {
            match event {
                Event::Message { partition, offset, written, length } => {
                    let payload = length.map(|_| payload.as_slice());
                    self.applier.take(payload, written, (partition, offset));
                }
                Event::Gap => self.applier.drop_all(),
                Event::Settled => self.settled.cancel(),
                Event::Stands(stands) => self.note(stands),
            }
        }
        Ok(())
    }

    fn note(&mut self, stands: Stands) {
        self.applier.handles.up(stands.up);
        let lags: Vec<_> = stands.partitions.iter().filter_map(|of| Some((of.id, of.lag?))).collect();
        self.applier.handles.lags(&lags);
        self.standing.note(|seen| {
            seen.up = Some(stands.up);
            seen.why = stands.why;
            seen.settled = stands.settled;
            seen.partitions = stands.partitions;
        });
    }

    /// A reader ended that was not to.
    fn lost(&mut self, how: &str) {
        tracing::error!(
            topic = &*self.kafka.topic,
            how,
            "the process that reads Kafka ended: another one is started, and all of L1 dropped once it knows its places"
        );
        self.applier.handles.reader_ended();
        let why = Some(format!("the process that reads it ended: {how}"));
        self.note(Stands { up: false, why, settled: false, partitions: Vec::new() });
    }
}

impl Applier {
    fn take(&self, payload: Option<&[u8]>, written: Option<u64>, place: (i32, i64)) {
        let written = written.map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
        let outcome = match payload {
            None => Outcome::Nothing,
            Some(payload) => self.apply(payload, written, place),
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
