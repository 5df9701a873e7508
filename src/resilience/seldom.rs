//! What is worth saying once a minute, however often it happens.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// How long nothing is said after something was.
const EVERY: Duration = Duration::from_secs(60);

/// Of callers at once one is told that it is time.
#[derive(Debug)]
pub(crate) struct Seldom {
    origin: Instant,
    /// Milliseconds since `origin`.
    next: AtomicU64,
}

impl Seldom {
    /// It is time at once.
    pub(crate) const fn new(origin: Instant) -> Self {
        Self { origin, next: AtomicU64::new(0) }
    }

    /// Whether it is time; then it is not again for a minute.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let at = millis(now.saturating_duration_since(self.origin));
        let next = self.next.load(Relaxed);
        at >= next && self.next.compare_exchange(next, at + millis(EVERY), Relaxed, Relaxed).is_ok()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_and_then_once_a_minute() {
        let origin = Instant::now();
        let (seldom, second) = (Seldom::new(origin), Duration::from_secs(1));
        let due: Vec<u32> = (0..180).filter(|at| seldom.is_due(origin + second * *at)).collect();
        assert_eq!(due, [0, 60, 120]);
    }
}
