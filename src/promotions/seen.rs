//! Deliveries that were heard already. As many are remembered as fit, the latest.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// Ids that are remembered at most.
const MOST: usize = 4096;

/// The ids, in the order of their coming.
pub(super) struct Seen {
    /// How long one is remembered: as long as its timestamp may still be taken for now.
    keep_for: Duration,
    order: VecDeque<(Instant, Arc<str>)>,
    ids: HashSet<Arc<str>>,
}

impl Seen {
    pub(super) fn new(keep_for: Duration) -> Self {
        Self { keep_for, order: VecDeque::new(), ids: HashSet::new() }
    }

    /// Remembers an id; whether it is new.
    pub(super) fn is_new(&mut self, id: &str, now: Instant) -> bool {
        self.forget(now);
        if self.ids.contains(id) {
            return false;
        }
        let id: Arc<str> = id.into();
        self.ids.insert(Arc::clone(&id));
        self.order.push_back((now, id));
        true
    }

    fn forget(&mut self, now: Instant) {
        while let Some((heard, id)) = self.order.front() {
            if self.order.len() < MOST && now.saturating_duration_since(*heard) <= self.keep_for {
                return;
            }
            self.ids.remove(id);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_until_its_time_is_over() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut seen = Seen::new(minute);
        assert!(seen.is_new("a", start));
        assert!(!seen.is_new("a", start + minute));
        assert!(seen.is_new("b", start + minute));
        assert!(seen.is_new("a", start + 2 * minute), "its timestamp is refused by now");
        assert!(!seen.is_new("b", start + 2 * minute));
    }

    #[test]
    fn it_does_not_grow() {
        let (now, mut seen) = (Instant::now(), Seen::new(Duration::from_secs(60)));
        for id in 0..3 * MOST {
            assert!(seen.is_new(&id.to_string(), now));
        }
        assert_eq!((seen.order.len(), seen.ids.len()), (MOST, MOST));
        assert!(!seen.is_new(&(3 * MOST - 1).to_string(), now), "the latest is known");
    }
}
