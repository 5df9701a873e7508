//! How full the fullest of a pool's GPUs is, as an exporter beside them tells it: DCGM's, Triton's, or vLLM's own page.
//!
//! ```text
//! every interval: scrape ─► page ─► the fullest GPU's share ─► known, until it is older than three intervals
//!                    └─ no page, or one that tells of no GPU ─► nothing new
//! ```
//!
//! Invariant: what is not known is told as that, and never as a number: an exporter that is down moves no level. One line in the
//! log when it becomes known or is no longer. A server that takes all memory when it starts (vLLM) looks full to DCGM for ever:
//! how full its KV cache is stands on its own page.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::http1;
use crate::{config, telemetry::handles::gpu::Gpu as Handles};

mod page;
mod scrape;

pub use page::fullest;

/// What was found this many intervals ago is not known any more.
const STALE_AFTER: u32 = 3;
/// How long a scrape may take; never longer than the interval.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pool's.
pub(super) struct Gpu {
    pool: Arc<str>,
    source: config::Gpu,
    idle: Arc<http1::Idle>,
    seen: Mutex<Seen>,
    metrics: Handles,
}

/// What is known of it.
#[derive(Debug, Default)]
struct Seen {
    /// The share, and when it was found.
    last: Option<(f64, Instant)>,
    /// Whether it was last told to be known.
    told: Option<bool>,
}

impl Seen {
    fn share(&self, interval: Duration, now: Instant) -> Option<f64> {
        let (share, found) = self.last?;
        (now.saturating_duration_since(found) <= STALE_AFTER * interval).then_some(share)
    }
}

impl Gpu {
    /// That of the pool of a name. Nothing is known yet.
    pub(super) fn new(pool: &Arc<str>, source: &config::Gpu) -> Self {
        let (idle, seen, metrics) = (Arc::default(), Mutex::default(), Handles::new(pool));
        Self { pool: Arc::clone(pool), source: source.clone(), idle, seen, metrics }
    }

    /// How full the fullest is at `now`, of 1; `None`: that is not known.
    pub(super) fn memory(&self, now: Instant) -> Option<f64> {
        self.seen().share(self.source.interval, now)
    }

    /// Looks at it for ever.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes the connection of a scrape under way, and what is known grows old.
    pub(super) async fn watch(&self) {
        let mut ticks = interval(self.source.interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let patience = PATIENCE.min(self.source.interval);
            let scraped = timeout(patience, scrape::scrape(&self.source, &self.idle)).await;
            let late = |_| Err(format!("no answer within {} ms", patience.as_millis()));
            self.take(scraped.unwrap_or_else(late), Instant::now());
        }
    }

    /// Takes what a scrape came to.
    fn take(&self, scraped: Result<f64, String>, now: Instant) {
        let mut seen = self.seen();
        if let Ok(share) = scraped {
            seen.last = Some((share, now));
        }
        let share = seen.share(self.source.interval, now);
        self.metrics.show(share);
        if seen.told.replace(share.is_some()) != Some(share.is_some()) {
            self.tell(share, &scraped.err().unwrap_or_default());
        }
    }

    fn tell(&self, share: Option<f64>, reason: &str) {
        let (pool, exporter) = (&self.pool, &self.source.server.authority);
        match share {
            Some(share) => tracing::info!(%pool, %exporter, share, "the pool's GPU memory is known"),
            None => {
                tracing::warn!(%pool, %exporter, reason, "the pool's GPU memory is not known: it moves no model's level");
            }
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Nothing panics while it is held.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
