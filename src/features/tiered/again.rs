//! Asking L2 again for what it failed to say: after a growing wait, only inside the time of the request that leads, and only within
//! the budget of all lookups (`features.retry.budget`).
//!
//! A retry is made where it may help (nobody answered, or a server that will soon; never a shard whose breaker is open) and
//! where it fits: the wait, an attempt's whole timeout, and what L3 would take after it, all before `features_by`. With L2's
//! usual timeout and a deadline of a few hundred milliseconds that leaves one retry or none.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::{
    features::{Row, l2::Error},
    infer::Deadline,
    resilience::backoff::Retry,
};

/// A lookup's retries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retries {
    profile: Retry,
    made: u32,
}

impl Retries {
    pub(super) const fn of(profile: Retry) -> Self {
        Self { profile, made: 0 }
    }

    /// Whether nothing was asked for again yet.
    pub(super) const fn is_first(&self) -> bool {
        self.made == 0
    }

    /// The wait before the next attempt, if there may be one: `left` is the time until the lookup must be done, `needed` what
    /// is needed of it from the attempt on, `unit` uniform in 0..1.
    pub(super) fn next(&mut self, left: Duration, needed: Duration, unit: f64) -> Option<Duration> {
        if self.made >= self.profile.max_retries {
            return None;
        }
        let wait = self.profile.delay(self.made, unit);
        self.made += 1;
        (wait + needed <= left).then_some(wait)
    }
}

impl Shared {
    /// The wait before L2 is asked once more, if that may help, fits and is paid for.
    pub(super) fn once_more(
        &self,
        answers: &[Result<Option<Row>, Error>],
        retries: &mut Retries,
        (by, now): (Deadline, Instant),
    ) -> Option<Duration> {
        let failed = answers.iter().filter(|answer| answer.as_ref().is_err_and(may_help)).count();
        if failed == 0 {
            return None;
        }
        let wait = retries.next(by.remaining(now), self.one_more_takes(), rand::random())?;
        if !self.budget.withdraw(now) {
            self.metrics.retries_denied.increment(failed as u64);
            return None;
        }
        Some(wait)
    }
}

/// Whether another attempt may say more.
pub(super) fn may_help(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::TimedOut(_) | Error::Failed { .. } => true,
        Error::Refused { why, .. } => ["LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MOVED", "ASK"]
            .iter()
            .any(|code| why.starts_with(code)),
        // A full server is not helped by more requests.
        Error::Open { .. } | Error::Full { .. } | Error::Malformed { .. } => false,
        // Whoever had a better one would have said it.
        Error::Stale { .. } => false,
        Error::ReadOnly
        | Error::NotPromoted { .. }
        | Error::Returning { .. }
        | Error::Closed { .. }
        | Error::Embedded(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: Retry = Retry {
        max_retries: 3,
        initial_delay: Duration::from_millis(50),
        max_delay: Duration::from_millis(500),
        multiplier: 2.0,
        jitter: 0.1,
    };

    #[test]
    fn as_many_as_the_profile_says_and_only_what_fits() {
        let ms = Duration::from_millis;
        let mut retries = Retries::of(PROFILE);
        let waits = [50, 100, 200].map(|wait| Some(ms(wait)));
        assert_eq!([(); 3].map(|()| retries.next(ms(1000), ms(20), 0.5)), waits);
        assert_eq!(retries.next(ms(1000), ms(20), 0.5), None, "three");
        assert_eq!(Retries::of(PROFILE).next(ms(70), ms(20), 0.5), Some(ms(50)), "it fits exactly");
        assert_eq!(Retries::of(PROFILE).next(ms(69), ms(20), 0.5), None);
        assert_eq!(Retries::of(Retry { max_retries: 0, ..PROFILE }).next(ms(1000), ms(20), 0.5), None);
    }

    #[test]
    fn what_will_be_answered_alike_is_not_asked_again() {
        let refused = |why: &str| Error::Refused { address: "h:1".into(), why: why.into() };
        for why in ["LOADING Redis is loading", "CLUSTERDOWN The cluster is down", "MASTERDOWN Link with MASTER"] {
            assert!(may_help(&refused(why)), "{why}");
        }
        assert!(!may_help(&refused("WRONGTYPE Operation")) && !may_help(&refused("NOPERM this user")));
        assert!(may_help(&Error::TimedOut(Duration::ZERO)));
        assert!(
            !may_help(&Error::Open { address: "h:1".into(), until: tokio::time::Instant::now() })
                && !may_help(&Error::Full { address: "h:1".into() })
        );
    }
}
