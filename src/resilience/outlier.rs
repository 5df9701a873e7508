//! Outlier ejection: which hosts of a group do so much worse than the others that they are left out for a while.
//!
//! ```text
//!           an interval ends, the host is an outlier, and there is room
//!   taking part ──────────────────────────────────────────────────────► ejected
//!        ▲                                                                 │
//!        └──────── base_ejection × times ejected (≤ max_ejection) passed ──┘
//! ```
//!
//! Invariants: never more than `max_ejected` of all hosts are out at once; the worst go first; each interval that a host takes
//! part in and is no outlier takes one off its times. Few hosts or few answers prove nothing.
//!
//! **Source:** Envoy's outlier detection, whose numbers these are; it does not compare latencies.

use std::time::Duration;

use tokio::time::Instant;

use super::latency::Summary;

/// Success rates are compared among as many hosts of as many answers each.
const RATE_HOSTS: usize = 5;
const RATE_ANSWERS: u32 = 100;
/// A success rate this many standard deviations under the mean is an outlier's.
const DEVIATIONS: f64 = 1.9;
/// The share of failures is looked at with as many answers.
const FAILURE_ANSWERS: u32 = 50;
/// Latencies are compared among as many hosts of as many answers each.
const LATENCY_HOSTS: usize = 3;
const LATENCY_ANSWERS: u32 = 10;

/// When a host is an outlier, and for how long it is left out.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The first ejection's length.
    pub base_ejection: Duration,
    /// The longest.
    pub max_ejection: Duration,
    /// Share of the hosts that may be out at once.
    pub max_ejected: f64,
    /// How many times the usual latency is an outlier's.
    pub latency: f64,
    /// By how much it must be above the usual one besides.
    pub latency_floor: Duration,
    /// The share of failures that is an outlier's.
    pub failures: f64,
}

/// Why a host was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Almost all of its answers are failures.
    Failures,
    /// Its success rate is far below the others'.
    SuccessRate,
    /// Its answers take far longer than the others'.
    Latency,
}

/// One host's ejections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    times: u32,
    until: Option<Instant>,
}

impl Record {
    /// Until when it is left out.
    #[must_use]
    pub const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Lets it back in if its time is over; whether that was so.
    pub fn release(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    fn eject(&mut self, policy: &Policy, now: Instant) {
        self.times += 1;
        let length = policy.base_ejection.saturating_mul(self.times).min(policy.max_ejection);
        self.until = Some(now + length);
    }
}

/// A host at the end of an interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// Its ejections.
    pub record: Record,
    /// Its answers that were no failures, and how long they took.
    pub answers: Summary,
    /// Its failures.
    pub failures: u32,
}

impl Host {
    const fn total(&self) -> u32 {
        self.answers.count.saturating_add(self.failures)
    }

    fn success_rate(&self) -> f64 {
        f64::from(self.answers.count) / f64::from(self.total().max(1))
    }
}

impl Policy {
    /// Ends an interval: ejects the outliers among the hosts that take part. Returns who was ejected and why, the worst first.
    pub fn judge(&self, hosts: &mut [Host], now: Instant) -> Vec<(usize, Reason)> {
        let out = hosts.iter().filter(|host| host.record.until.is_some()).count();
        let room = ((hosts.len() as f64 * self.max_ejected + 1e-9).floor() as usize).saturating_sub(out);
        let mut outliers = self.outliers(hosts);
        for (index, host) in hosts.iter_mut().enumerate().filter(|(_, host)| host.record.until.is_none()) {
            if !outliers.iter().any(|(outlier, _)| *outlier == index) {
                host.record.times = host.record.times.saturating_sub(1);
            }
        }
        outliers.truncate(room);
        outliers.iter().for_each(|(index, _)| hosts[*index].record.eject(self, now));
        outliers
    }

    /// All outliers, the worst first.
    fn outliers(&self, hosts: &[Host]) -> Vec<(usize, Reason)> {
        let taking_part = || hosts.iter().enumerate().filter(|(_, host)| host.record.until.is_none());
        let least_rate = least_rate(taking_part().map(|(_, host)| host));
        let longest = self.longest(taking_part().map(|(_, host)| host));
        let reason = |host: &Host| {
            let rate = host.success_rate();
            if host.total() >= FAILURE_ANSWERS && 1.0 - rate >= self.failures {
                Some(Reason::Failures)
            } else if host.total() >= RATE_ANSWERS && least_rate.is_some_and(|least| rate < least) {
                Some(Reason::SuccessRate)
            } else if longest.is_some_and(|longest| is_slow(&host.answers, longest)) {
                Some(Reason::Latency)
            } else {
                None
            }
        };
        let mut outliers: Vec<_> = taking_part().filter_map(|(at, host)| Some((at, reason(host)?))).collect();
        let worst = |(at, _): &(usize, Reason)| (hosts[*at].success_rate(), -hosts[*at].answers.mean.as_secs_f64());
        outliers.sort_by(|a, b| worst(a).partial_cmp(&worst(b)).unwrap_or(std::cmp::Ordering::Equal));
        outliers
    }

    /// The latency that is an outlier's from there on, where enough hosts have one.
    fn longest<'h>(&self, hosts: impl Iterator<Item = &'h Host>) -> Option<Duration> {
        let mut medians: Vec<_> =
            hosts.filter_map(|host| compared(&host.answers).then_some(host.answers.median)).collect();
        if medians.len() < LATENCY_HOSTS {
            return None;
        }
        medians.sort_unstable();
        let usual = medians[medians.len() / 2];
        Some(usual.mul_f64(self.latency).max(usual + self.latency_floor))
    }
}

/// Median and mean must agree: the median alone jumps where an endpoint serves a fast and a slow model, the mean alone where one
/// answer took very long.
fn is_slow(answers: &Summary, longest: Duration) -> bool {
    compared(answers) && answers.median > longest && answers.mean > longest
}

const fn compared(answers: &Summary) -> bool {
    answers.count >= LATENCY_ANSWERS
}

/// The least success rate that is no outlier's, where enough hosts have one.
fn least_rate<'h>(hosts: impl Iterator<Item = &'h Host>) -> Option<f64> {
    let rates: Vec<_> = hosts.filter(|host| host.total() >= RATE_ANSWERS).map(Host::success_rate).collect();
    if rates.len() < RATE_HOSTS {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - DEVIATIONS * variance.sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const POLICY: Policy = Policy {
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_ejected: 0.5,
        latency: 3.0,
        latency_floor: Duration::from_millis(5),
        failures: 0.85,
    };

    fn host(count: u32, failures: u32, millis: u64) -> Host {
        let took = Duration::from_millis(millis);
        Host { record: Record::default(), answers: Summary { count, median: took, mean: took }, failures }
    }

    #[test]
    fn one_of_three_that_is_far_slower_is_ejected() {
        let now = Instant::now();
        let mut hosts = [host(100, 0, 5), host(100, 0, 6), host(12, 0, 100)];
        assert_eq!(POLICY.judge(&mut hosts, now), [(2, Reason::Latency)]);
        assert_eq!(hosts[2].record.until(), Some(now + 30 * SECOND));
    }

    #[test]
    fn little_is_proven_by_few() {
        for mut hosts in [
            vec![host(100, 0, 5), host(100, 0, 500)],
            vec![host(100, 0, 5), host(100, 0, 5), host(9, 0, 500)],
            vec![host(100, 0, 1), host(100, 0, 1), host(100, 0, 5)],
            vec![host(100, 0, 5), host(100, 0, 5), host(3, 40, 5)],
        ] {
            assert!(POLICY.judge(&mut hosts, Instant::now()).is_empty(), "{hosts:?}");
        }
    }

    #[test]
    fn median_and_mean_must_agree() {
        let mut hosts = [host(100, 0, 5), host(100, 0, 5), host(100, 0, 5)];
        hosts[2].answers.median = SECOND;
        assert!(POLICY.judge(&mut hosts, Instant::now()).is_empty());
        hosts[2].answers = Summary { mean: SECOND, ..hosts[1].answers };
        assert!(POLICY.judge(&mut hosts, Instant::now()).is_empty());
    }

    #[test]
    fn failures_are_compared_and_counted() {
        let mut hosts = [host(100, 0, 5), host(100, 0, 5), host(100, 0, 5), host(100, 0, 5), host(80, 20, 5)];
        assert_eq!(POLICY.judge(&mut hosts, Instant::now()), [(4, Reason::SuccessRate)]);
        let mut hosts = [host(100, 0, 5), host(5, 95, 5)];
        assert_eq!(POLICY.judge(&mut hosts, Instant::now()), [(1, Reason::Failures)]);
    }

    #[test]
    fn each_time_is_longer_and_good_intervals_make_it_shorter() {
        let (mut now, slow) = (Instant::now(), host(100, 0, 100));
        let mut hosts = [host(100, 0, 5), host(100, 0, 5), slow];
        for seconds in [30, 60, 90] {
            assert_eq!(POLICY.judge(&mut hosts, now).len(), 1);
            assert_eq!(hosts[2].record.until(), Some(now + seconds * SECOND));
            assert!(!hosts[2].record.release(now));
            now += seconds * SECOND;
            assert!(hosts[2].record.release(now) && hosts[2].record.until().is_none());
        }
        hosts[2].answers = hosts[0].answers;
        (0..3).for_each(|_| assert!(POLICY.judge(&mut hosts, now).is_empty()));
        hosts[2].answers = slow.answers;
        POLICY.judge(&mut hosts, now);
        assert_eq!(hosts[2].record.until(), Some(now + 30 * SECOND));
    }

    proptest! {
        #[test]
        fn never_more_are_out_than_may_be_nor_for_longer(
            rounds in prop::collection::vec(prop::collection::vec((0u32..200, 0u32..200, 1u64..1000), 6), 1..30),
            share in 0.0f64..1.0,
        ) {
            let policy = Policy { max_ejected: share, ..POLICY };
            let (mut now, mut hosts) = (Instant::now(), [Host::default(); 6]);
            for round in rounds {
                now += 10 * SECOND;
                for (at, (count, failures, millis)) in round.into_iter().enumerate() {
                    hosts[at].record.release(now);
                    hosts[at] = Host { record: hosts[at].record, ..host(count, failures, millis) };
                }
                let before = hosts;
                let ejected = policy.judge(&mut hosts, now);
                let out = hosts.iter().filter(|host| host.record.until().is_some()).count();
                prop_assert!(out as f64 <= 6.0 * share + 1e-9 || ejected.is_empty());
                for (at, _) in ejected {
                    prop_assert!(before[at].record.until().is_none());
                    prop_assert!(hosts[at].record.until().is_some_and(|until| until <= now + 300 * SECOND));
                }
            }
        }
    }
}
