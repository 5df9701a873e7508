//! Hot keys: which (view, entity) pairs are read so often that one Redis master, or one gateway's luck, should not carry them.
//!
//! ```text
//! lookups ─1 in 1…64─► counts: a top-k a worker ─each second─► rates ──► standings: hot, cold
//!                                                             ▲  │        │
//!                                   other gateways' reports ──┘  └──► ours│
//!                                        (redis/shared)                   ├─► L1: fetched before it expires (tiered/hot)
//!                                                                         └─► copies on other masters (redis/key_copies)
//! ```
//!
//! A lookup that is not picked costs a subtraction, one that is a short search in its worker's own counters, behind a lock that
//! nobody waits for: whoever finds it taken counts nothing. Everything else is done by one task on the control thread. Where
//! nothing is configured nothing is counted.
//!
//! What a gateway reports are its keys with a quarter of `share` or more among its own reads, so that what a fleet reads of a key is
//! told too low by a quarter at most where a key is hot in some gateways and hardly read in others.

mod counts;
mod report;
mod standings;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{sync::Mutex, time::Instant};

pub use self::report::count;
pub(crate) use self::{
    counts::Counts,
    report::Report,
    standings::{Change, Standing, Standings},
};
use crate::{config, infer::EntityKey, telemetry::handles::hot_keys::HotKeys as Handles};

/// A key, of a view of that name.
pub(crate) type Key = (Arc<str>, EntityKey);

/// How often counts are read, told and judged.
pub(crate) const TURN: Duration = Duration::from_secs(1);

/// How long what other gateways told last counts while they cannot be heard.
const HEARD: Duration = Duration::from_secs(5);

/// Lines of the log in a minute that tell of keys that became hot or cold.
const LINES: u32 = 20;

/// What outlives a snapshot: which keys are hot, and since when.
#[derive(Debug)]
pub(crate) struct HotKeys {
    pub(crate) config: config::HotKeys,
    /// What this gateway is called among the others: chosen at random.
    pub(crate) name: String,
    pub(crate) metrics: Arc<Handles>,
    /// Of the one task that tends them.
    pub(crate) turn: Mutex<Turn>,
    /// For operators.
    shown: ArcSwap<Shown>,
}

/// What the task keeps from one turn to the next.
#[derive(Debug)]
pub(crate) struct Turn {
    /// When counts are read next.
    pub(crate) next: Instant,
    pub(crate) standings: Standings,
    heard: Option<Instant>,
    others: Vec<Report>,
    lines: Lines,
}

/// How much was told this minute.
#[derive(Debug)]
struct Lines {
    since: Instant,
    told: u32,
}

/// What is shown to operators.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// Hottest first.
    pub(crate) keys: Vec<ShownKey>,
    /// Of all gateways together.
    pub(crate) rate: f64,
    /// This one among them.
    pub(crate) gateways: usize,
}

/// One hot key, for operators.
#[derive(Clone, Debug)]
pub(crate) struct ShownKey {
    pub(crate) key: Key,
    pub(crate) share: f64,
    pub(crate) rate: f64,
    pub(crate) copies: usize,
    pub(crate) since: SystemTime,
}

impl HotKeys {
    pub(crate) fn new(config: config::HotKeys, now: Instant) -> Self {
        let turn = Turn {
            next: now,
            standings: Standings::new(config.share, config.min_rate),
            heard: None,
            others: Vec::new(),
            lines: Lines { since: now, told: 0 },
        };
        Self {
            config,
            name: format!("{:016x}", rand::random::<u64>()),
            metrics: Arc::new(Handles::new()),
            turn: Mutex::new(turn),
            shown: ArcSwap::default(),
        }
    }

    /// What operators see.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    pub(crate) fn show(&self, shown: Shown) {
        self.shown.store(Arc::new(shown));
    }
}

impl Turn {
    /// Takes what the other gateways told.
    pub(crate) fn hear(&mut self, reports: &[Vec<u8>], now: Instant) {
        self.heard = Some(now);
        self.others = reports.iter().filter_map(|report| Report::decode(report)).collect();
    }

    /// Nothing was heard. What was told before counts for a while.
    pub(crate) fn hear_nothing(&mut self, now: Instant) {
        if self.heard.is_none_or(|heard| now.saturating_duration_since(heard) > HEARD) {
            self.others.clear();
        }
    }

    /// How many gateways' counts there are, with our own.
    pub(crate) fn gateways(&self) -> usize {
        1 + self.others.len()
    }

    /// Judges by what all gateways read together.
    pub(crate) fn judge(&mut self, ours: Report, now: (Instant, SystemTime)) -> (f64, Vec<Change>) {
        let mut rates = HashMap::<Key, f64>::new();
        let mut total = 0.0;
        for report in self.others.iter().chain([&ours]) {
            total += report.total;
            for (key, rate) in &report.keys {
                *rates.entry(key.clone()).or_default() += rate;
            }
        }
        (total, self.standings.judge(&rates, total, now))
    }

    /// Whether one more line may be told; the one after the last says so.
    pub(crate) fn may_tell(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.lines.since) >= Duration::from_secs(60) {
            self.lines = Lines { since: now, told: 0 };
        }
        self.lines.told += 1;
        if self.lines.told == LINES + 1 {
            tracing::info!(
                "more keys become hot or cold: not told again for a minute; GET /admin/v1/hot-keys has them"
            );
        }
        self.lines.told <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn report(total: f64, rate: f64) -> Report {
        Report { total, keys: vec![(("v".into(), EntityKey::from(&b"k"[..])), rate)] }
    }

    fn turn() -> (HotKeys, Instant) {
        let now = Instant::now();
        let config = config::HotKeys { share: 0.1, min_rate: 100.0, copies: config::Copies::Off };
        (HotKeys::new(config, now), now)
    }

    #[tokio::test]
    async fn a_key_is_hot_by_what_all_gateways_read() {
        let (hot, now) = turn();
        let mut turn = hot.turn.lock().await;
        let others: Vec<_> = (0..3).map(|_| report(200.0, 40.0).encode()).collect();
        let nothing = || Report { total: 50.0, keys: Vec::new() };
        assert!(turn.judge(report(200.0, 40.0), (now, SystemTime::now())).1.is_empty(), "alone it has 40 a second");
        turn.hear(&[others, vec![b"no report".to_vec()]].concat(), now);
        assert_eq!(turn.gateways(), 4);
        let (total, changes) = turn.judge(nothing(), (now, SystemTime::now()));
        assert_eq!((total, changes.len()), (650.0, 1), "120 a second of 650, though none of it is read here");
        turn.hear_nothing(now + SECOND);
        assert_eq!(turn.gateways(), 4, "for a while");
        turn.hear_nothing(now + 6 * SECOND);
        assert_eq!(turn.gateways(), 1);
    }

    #[tokio::test]
    async fn the_log_is_not_flooded() {
        let (hot, now) = turn();
        let mut turn = hot.turn.lock().await;
        let told = |turn: &mut Turn, now| (0..1000).filter(|_| turn.may_tell(now)).count();
        assert_eq!([told(&mut turn, now), told(&mut turn, now + 59 * SECOND)], [20, 0]);
        assert_eq!(told(&mut turn, now + 61 * SECOND), 20);
    }
}
