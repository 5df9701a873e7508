//! What is worth doing once in a while, however often there is occasion: saying something once a minute, for one.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::since::millis;

/// How long nothing is said after something was.
const A_MINUTE: Duration = Duration::from_secs(60);

/// Of callers at once one is told that it is time.
#[derive(Debug)]
pub(crate) struct Seldom {
    origin: Instant,
    every: Duration,
    /// Milliseconds since `origin`.
    next: AtomicU64,
}

impl Seldom {
    /// Once a minute. It is time at once.
    pub(crate) const fn new(origin: Instant) -> Self {
        Self::each(A_MINUTE, origin)
    }

    /// Once in so long. It is time at once.
    pub(crate) const fn each(every: Duration, origin: Instant) -> Self {
        Self { origin, every, next: AtomicU64::new(0) }
    }

    /// Whether it is time; then it is not again for as long.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.is_due_after(self.every, now)
    }

    /// The same; then it is not again for another time than usual.
    pub(crate) fn is_due_after(&self, pause: Duration, now: Instant) -> bool {
        let at = millis(now.saturating_duration_since(self.origin));
        let next = self.next.load(Relaxed);
        at >= next && self.next.compare_exchange(next, at + millis(pause), Relaxed, Relaxed).is_ok()
    }
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
        let seldom = Seldom::each(5 * second, origin);
        let due: Vec<u32> = (0..12).filter(|at| seldom.is_due(origin + second * *at)).collect();
        assert_eq!(due, [0, 5, 10]);
    }
}
