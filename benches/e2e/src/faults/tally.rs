//! Calls and arrivals of a window, counted: the share answered in time, the extra load, what the others ended with.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::callers::{Call, End, PATIENCE};

/// A span of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) to: Instant,
}

impl Window {
    pub(super) fn has(self, at: Instant) -> bool {
        self.from <= at && at < self.to
    }
}

/// What a window's calls came to. Windows of the same phase add up.
pub(super) struct Tally {
    pub(super) asked: u64,
    /// Answered with a 200 by the deadline.
    pub(super) in_time: u64,
    /// Inferences that arrived at the endpoints.
    pub(super) arrivals: u64,
    /// What the others ended with, and how often.
    lost: BTreeMap<String, u64>,
    /// Nanoseconds of all calls, however they ended.
    took: Histogram<u64>,
}

impl Tally {
    /// Of nothing.
    pub(super) fn new() -> Self {
        let took = Histogram::new_with_max(PATIENCE.as_nanos() as u64 * 2, 3).expect("its bounds are sound");
        Self { asked: 0, in_time: 0, arrivals: 0, lost: BTreeMap::new(), took }
    }

    /// Of the calls that were due in `window`, and the arrivals in it.
    pub(super) fn of(calls: &[Call], arrivals: &[Instant], window: Window, deadline: Duration) -> Self {
        let mut tally = Self::new();
        tally.arrivals = arrivals.iter().filter(|&&at| window.has(at)).count() as u64;
        calls.iter().filter(|call| window.has(call.due)).for_each(|call| tally.count(call, deadline));
        tally
    }

    fn count(&mut self, call: &Call, deadline: Duration) {
        self.asked += 1;
        self.took.saturating_record(call.took.as_nanos() as u64);
        let fate = match call.end {
            End::Status(200) if call.took <= deadline => {
                self.in_time += 1;
                return;
            }
            End::Status(200) => "late".into(),
            End::Status(status) => status.to_string(),
            End::Broken => "broken off".into(),
            End::Silent => "never answered".into(),
        };
        *self.lost.entry(fate).or_default() += 1;
    }

    /// Adds another window of the same phase.
    pub(super) fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.in_time += other.in_time;
        self.arrivals += other.arrivals;
        for (fate, times) in &other.lost {
            *self.lost.entry(fate.clone()).or_default() += times;
        }
        self.took.add(&other.took).expect("all have the same bounds");
    }

    /// Of those asked, the share answered in time.
    pub(super) fn share(&self) -> f64 {
        self.in_time as f64 / self.asked as f64
    }

    /// Arrivals for each request.
    pub(super) fn load(&self) -> f64 {
        self.arrivals as f64 / self.asked as f64
    }

    /// Arrivals for each answer in time.
    pub(super) fn price(&self) -> f64 {
        self.arrivals as f64 / self.in_time as f64
    }

    /// Milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        self.took.value_at_quantile(quantile) as f64 / 1e6
    }

    /// Milliseconds.
    pub(super) fn slowest(&self) -> f64 {
        self.took.max() as f64 / 1e6
    }

    /// How many took longer than `limit`.
    pub(super) fn slower_than(&self, limit: Duration) -> u64 {
        let limit = limit.as_nanos() as u64;
        self.took
            .iter_recorded()
            .filter(|value| value.value_iterated_to() > limit)
            .map(|value| value.count_at_value())
            .sum()
    }

    /// How often each thing happened that is not an answer in time.
    pub(super) fn losses(&self) -> String {
        let losses: Vec<String> = self.lost.iter().map(|(fate, times)| format!("{times} × {fate}")).collect();
        if losses.is_empty() { "–".into() } else { losses.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_due_in_the_window_and_answered_by_the_deadline_counts() {
        let from = Instant::now();
        let at = |millis| from + Duration::from_millis(millis);
        let call = |due, took, end| Call { due: at(due), took: Duration::from_millis(took), end, level: None };
        let ok = End::Status(200);
        let calls =
            [call(0, 5, ok), call(1, 31, ok), call(2, 9, End::Status(503)), call(3, 1, End::Broken), call(10, 1, ok)];
        let window = Window { from, to: at(10) };
        let mut tally = Tally::of(&calls, &[at(1), at(2), at(10)], window, Duration::from_millis(30));
        assert_eq!((tally.asked, tally.in_time, tally.arrivals), (4, 1, 2));
        assert_eq!(tally.losses(), "1 × 503, 1 × broken off, 1 × late");
        assert_eq!(
            (tally.slower_than(Duration::from_millis(30)), tally.slower_than(Duration::from_millis(40))),
            (1, 0)
        );
        tally.add(&Tally::of(&calls, &[], Window { from: at(10), to: at(20) }, Duration::from_millis(30)));
        assert_eq!((tally.share(), tally.load()), (0.4, 0.4));
    }
}
