//! What a closed breaker remembers of the answers of late, and whether that trips it: by failures without a success between them, or by the
//! share of successes.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Cause, Outcome, Policy};

/// Answers in the window below which the rate says nothing.
const LEAST_ANSWERS: u32 = 20;

/// How long a row of calls must last that were given up too soon to say much each.
const ROW: Duration = Duration::from_secs(1);

/// Parts of the window that expire one by one.
const BUCKETS: usize = 10;

/// What a closed breaker remembers.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Failures since the last success, oldest first; no more than the threshold.
    failures: VecDeque<Instant>,
    /// Calls given up too soon since the last success, the first of them when; those of a whole window only.
    given_up: Option<(u32, Instant)>,
    /// Exact counts a tenth of the window, oldest first.
    answers: VecDeque<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    from: Instant,
    successes: u32,
    failures: u32,
}

impl Window {
    /// Takes in how a call ended that says something of the target; what it trips the breaker by, if it is one too many.
    pub(super) fn trips(&mut self, policy: &Policy, outcome: Outcome, now: Instant) -> Option<Cause> {
        let success = outcome == Outcome::Success;
        if success {
            self.given_up = None;
        }
        match outcome {
            Outcome::Impatience => self.row(policy, 2, now),
            Outcome::TimeoutOfLast => {
                let by_row = self.row(policy, 1, now);
                let by_rate = self.rate(policy, success, now);
                by_row.or(by_rate)
            }
            Outcome::Silence => self.run(policy, success, now),
            Outcome::Success | Outcome::Failure | Outcome::Neutral => {
                let by_run = self.run(policy, success, now);
                let by_rate = self.rate(policy, success, now);
                by_run.or(by_rate)
            }
        }
    }

    /// A row that has to last, and to be so many times as long as one of failures.
    fn row(&mut self, policy: &Policy, times: u32, now: Instant) -> Option<Cause> {
        let age = |first: Instant| now.saturating_duration_since(first);
        let (before, first) = self.given_up.filter(|(_, first)| age(*first) <= policy.window).unwrap_or((0, now));
        let (failures, within) = (before.saturating_add(1), age(first));
        self.given_up = Some((failures, first));
        (failures >= policy.failure_threshold.max(1).saturating_mul(times) && within >= ROW)
            .then_some(Cause::Run { failures, within })
    }

    fn run(&mut self, policy: &Policy, success: bool, now: Instant) -> Option<Cause> {
        if success {
            self.failures.clear();
            return None;
        }
        while self.failures.front().is_some_and(|first| now.saturating_duration_since(*first) > policy.window) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let within = self.failures.front().map_or(Duration::ZERO, |first| now.saturating_duration_since(*first));
        let failures = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        (failures >= policy.failure_threshold.max(1)).then_some(Cause::Run { failures, within })
    }

    fn rate(&mut self, policy: &Policy, success: bool, now: Instant) -> Option<Cause> {
        let age = |bucket: &Bucket| now.saturating_duration_since(bucket.from);
        while self.answers.front().is_some_and(|first| age(first) >= policy.window) {
            self.answers.pop_front();
        }
        if self.answers.back().is_none_or(|last| age(last) >= policy.window / BUCKETS as u32) {
            self.answers.push_back(Bucket { from: now, successes: 0, failures: 0 });
        }
        if let Some(last) = self.answers.back_mut() {
            last.successes += u32::from(success);
            last.failures += u32::from(!success);
        }
        let successes: u32 = self.answers.iter().map(|bucket| bucket.successes).sum();
        let answers = successes + self.answers.iter().map(|bucket| bucket.failures).sum::<u32>();
        let is_low = answers >= LEAST_ANSWERS && f64::from(successes) < policy.success_rate * f64::from(answers);
        is_low.then_some(Cause::Rate { successes, answers, window: policy.window, least: policy.success_rate })
    }
}
