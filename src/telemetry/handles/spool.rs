//! Requests kept for later.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// What became of a request that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Its caller comes back for the result.
    Queued,
    /// It was answered at level 3.
    Logged,
    /// The same request is kept already, under its key.
    Known,
    /// Its key is another request's.
    OtherRequest,
    /// The spool is full.
    Full,
    /// The store failed.
    Error,
    /// One that was to be logged, while too many others were, or the process ended and the store took no more.
    Dropped,
}

const KEPT: [&str; 7] = ["queued", "logged", "known", "other_request", "full", "error", "dropped"];

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    /// With a result, which is kept.
    Done,
    /// With a result, but there was one already.
    Already,
    /// Without one: it is tried again.
    Retried,
    /// Without one, for the last time.
    Parked,
    /// Before it reached the model: it is tried again, and this try is not counted.
    GivenBack,
    /// Its entry was forgotten, or is another gateway's by now.
    Lost,
    /// What it came to could not be stored: it is tried again.
    Unstored,
}

const REPLAYS: [&str; 7] = ["done", "already", "retried", "parked", "given_back", "lost", "unstored"];

/// The states of an entry, in the order that [`Spool::depth`] takes them.
const STATES: [&str; 4] = ["waiting", "running", "done", "parked"];

/// The handles.
pub(crate) struct Spool {
    kept: [Counter; 7],
    replays: [Counter; 7],
    depth: [Gauge; 4],
    bytes: Gauge,
    oldest: Gauge,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spool")
    }
}

impl Spool {
    pub(crate) fn new() -> Self {
        Self {
            kept: KEPT.map(|outcome| counter!(names::SPOOL_KEPT, "outcome" => outcome)),
            replays: REPLAYS.map(|outcome| counter!(names::SPOOL_REPLAYS, "outcome" => outcome)),
            depth: STATES.map(|state| gauge!(names::SPOOL_DEPTH, "state" => state)),
            bytes: gauge!(names::SPOOL_BYTES),
            oldest: gauge!(names::SPOOL_OLDEST),
        }
    }

    pub(crate) fn kept(&self, kept: Kept) {
        self.kept[kept as usize].increment(1);
    }

    pub(crate) fn replayed(&self, replay: Replay) {
        self.replays[replay as usize].increment(1);
    }

    /// Shows how many entries are in each state, how long they are together, and how long the oldest has waited, in seconds.
    pub(crate) fn depth(&self, entries: [u64; 4], bytes: u64, oldest: f64) {
        for (gauge, count) in self.depth.iter().zip(entries) {
            gauge.set(count as f64);
        }
        self.bytes.set(bytes as f64);
        self.oldest.set(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn every_state_and_outcome_has_its_series() {
        let (handles, scrape) = scratch(Spool::new);
        handles.depth([4, 3, 2, 1], 7, 60.0);
        handles.kept(Kept::Dropped);
        handles.replayed(Replay::Unstored);
        let text = scrape.render();
        for line in [
            "weir_spool_depth{state=\"waiting\"} 4",
            "weir_spool_depth{state=\"parked\"} 1",
            "weir_spool_oldest_waiting_seconds 60",
            "weir_spool_bytes 7",
            "weir_spool_requests_total{outcome=\"dropped\"} 1",
            "weir_spool_requests_total{outcome=\"queued\"} 0",
            "weir_spool_replays_total{outcome=\"unstored\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
        }
    }
}
