//! The access log: one JSON line a request, in a sink of its own, off unless asked for.
//!
//! A request never waits for the sink: lines go through a bounded queue to a thread that writes them, and a line that finds
//! the queue full is dropped and counted. Rotation is left to whoever owns the file.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use metrics::{Counter, counter};
use serde::Serialize;

use super::names;

/// Names the sink.
const VARIABLE: &str = "WEIR_ACCESS_LOG";

/// Lines that may wait for the writer.
const QUEUE: usize = 8_192;

/// What one line says.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// When the answer was ready to be sent, milliseconds since the epoch.
    pub time_ms: u64,
    /// The request's id.
    pub request_id: &'a str,
    /// `v1`, `v2_json`, `v2_binary` or `grpc`; `feast` for the feature server's API.
    pub protocol: &'a str,
    /// The path, of the feature server's API only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a str>,
    /// The model's configured name, or `other`; absent where none is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    /// The tier it ran under; the model's where it was refused before that was known, empty for an unknown model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<&'a str>,
    /// HTTP status; for gRPC the one that corresponds to its status.
    pub status: u16,
    /// The level that answered.
    pub level: u8,
    /// As in `weir-degraded`; absent where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<&'a str>,
    /// From the request's head until the answer was ready to be sent (a streamed one: its head), microseconds.
    pub duration_us: u64,
    /// Of it, waiting for a slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_us: Option<u64>,
    /// Of it, feature lookups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features_us: Option<u64>,
    /// Of it, the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_us: Option<u64>,
    /// What was wrong, where something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The sink. Dropping it writes what is queued.
pub struct Log {
    queue: Option<SyncSender<Vec<u8>>>,
    dropped: Counter,
    writer: Option<JoinHandle<()>>,
}

impl Log {
    /// Writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { queue: None, dropped: Counter::noop(), writer: None }
    }

    /// The sink named by `WEIR_ACCESS_LOG`: `stdout`, `stderr`, a file's path (appended to); unset or `off`: none.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or the writer's thread cannot be started.
    pub fn from_env() -> io::Result<Self> {
        Self::named(&std::env::var(VARIABLE).unwrap_or_default())
    }

    fn named(sink: &str) -> io::Result<Self> {
        match sink {
            "" | "off" => Ok(Self::off()),
            "stdout" => Self::to(io::stdout()),
            "stderr" => Self::to(io::stderr()),
            path => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Self::to(file.map_err(|error| {
                    let allowed = "stdout, stderr, off, or a file's path";
                    io::Error::new(error.kind(), format!("{VARIABLE}={path}: {error}; allowed: {allowed}"))
                })?)
            }
        }
    }

    /// A sink that writes to `out` from a thread of its own.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&lines, out))?;
        Ok(Self { queue: Some(queue), dropped: counter!(names::ACCESS_LOG_DROPPED), writer: Some(writer) })
    }

    /// Whether a record would be written: ask before making one.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues a line; never waits.
    pub fn write(&self, record: &Record<'_>) {
        let Some(queue) = &self.queue else { return };
        let mut line = serde_json::to_vec(record).expect("strings and numbers are always JSON");
        line.push(b'\n');
        if queue.try_send(line).is_err() {
            self.dropped.increment(1);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the access log's writer ended in a panic");
        }
    }
}

/// Writes lines until the last sender is gone. Flushes when the queue is empty, so that a quiet gateway's lines are seen.
fn write_all(lines: &Receiver<Vec<u8>>, out: impl Write) {
    let mut out = io::BufWriter::new(out);
    while let Ok(first) = lines.recv() {
        let written = std::iter::once(first).chain(lines.try_iter()).try_for_each(|line| out.write_all(&line));
        if let Err(error) = written.and_then(|()| out.flush()) {
            tracing::warn!(%error, "the access log lost lines");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_sink_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/log").display().to_string();
        let error = Log::named(&path).err().unwrap();
        let told = error.to_string();
        assert!(told.starts_with(&format!("WEIR_ACCESS_LOG={path}: No such file")), "{told}");
        assert!(told.ends_with("; allowed: stdout, stderr, off, or a file's path"), "{told}");
        assert!(!Log::named("off").unwrap().enabled() && !Log::named("").unwrap().enabled());
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const RECORD: Record<'_> = Record {
        time_ms: 1,
        request_id: "r\"1",
        protocol: "v1",
        endpoint: None,
        model: Some("m"),
        tier: Some("high"),
        status: 200,
        level: 0,
        degraded: None,
        duration_us: 900,
        queue_us: Some(0),
        features_us: Some(100),
        model_us: Some(700),
        error: None,
    };

    #[test]
    fn dropping_the_log_writes_every_queued_line() {
        let out = Shared::default();
        let log = Log::to(out.clone()).unwrap();
        assert!(log.enabled());
        (0..100).for_each(|_| log.write(&RECORD));
        drop(log);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 100);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["request_id"], "r\"1");
        assert_eq!(line["model_us"], 700);
        assert!(line.get("error").is_none());
    }

    #[test]
    fn off_writes_nothing() {
        let log = Log::off();
        assert!(!log.enabled());
        log.write(&RECORD);
    }
}
