//! How long attempts have, and whose fault it is when that was not enough.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Run, Turn,
    attempt::Reply,
    classify::{Class, Failure},
};
use crate::infer::{Error, Kind, Method};

/// So many times their median is a time in which a model's answers can be expected.
const EXPECTED: u32 = 2;
/// Who waited for this part of a model's own timeout was not impatient, whatever its answers take.
const PATIENT: u32 = 3;
/// Who stands in for another model has what that one left of its timeout: so many times less is not impatient.
const STANDING_IN: u32 = 2;
/// Where it is not known what a model's answers take, most would have come in this.
const LONG: Duration = Duration::from_millis(100);
/// A timeout that is told so much too late, and by half of itself, tells of this process, which did not run meanwhile.
const STALL: Duration = Duration::from_millis(10);

impl Run<'_> {
    /// How long an attempt has if it is cut off, and after how long of that the next one is made; an error once nothing is left.
    ///
    /// That is an equal part of what the waits between the attempts that fit leave, and no less than what nearly every answer takes:
    /// recomputed for every attempt. Where it is not known what answers take, it is not cut off: a part could be too short for every
    /// answer. So is the first one made however little is left; extra ones ask [`Self::least`] before.
    pub(super) fn times(&self, turn: Turn, now: Instant) -> Result<(Duration, Duration), Error> {
        let left = self.plan.model_by.remaining(now);
        if left.is_zero() {
            let message = format!("model {:?}: the deadline passed before it could be asked", self.model.name);
            return Err(Error::new(Kind::DeadlineExceeded, message).with_acted(false));
        }
        if let Some(timeout) = self.plan.attempt_timeout {
            let limit = timeout.min(left);
            return Ok((limit, limit));
        }
        let Some(needs) = turn.needs else { return Ok((left, left / turn.left)) };
        let share = self.pool.backoff.share(left, (turn.made, turn.left), needs);
        let part = share.max(turn.patience).min(left);
        Ok((part, part))
    }

    /// A time in which an answer can be expected, from the median of late, or from the fastest of few; `None`: there was none.
    pub(super) fn needs(&self, method: Method, now: Instant) -> Option<Duration> {
        let least = || Some(self.least(method, now)).filter(|least| !least.is_zero());
        let median = if method == Method::Predict { self.model.median.estimate(now) } else { None };
        Some(EXPECTED * median.or_else(least)?)
    }

    /// The same of when answers were last known, however long ago.
    fn needed(&self, method: Method) -> Option<Duration> {
        let median = if method == Method::Predict { self.model.median.last() } else { None };
        Some(EXPECTED * median?)
    }

    /// What nearly every answer takes at the most; zero where that is not known.
    pub(super) fn patience(&self, method: Method, now: Instant) -> Duration {
        let tail = if method == Method::Predict { self.model.tail.delay(now) } else { None };
        tail.unwrap_or_default()
    }

    /// What an attempt needs at the least: nothing answered faster of late. Zero where that is not known.
    pub(super) fn least(&self, method: Method, now: Instant) -> Duration {
        if method == Method::Predict { self.model.floor.least(now) } else { Duration::ZERO }
    }

    /// What an attempt came to. Whose time ran out may not be to blame: its caller was impatient, or others used the time, or this
    /// process slept through it, or it was cut off for others before its caller would have given up. What the config gives is enough:
    /// `attempt_timeout`, and a fair part of the model's `timeout`, where a model that has grown slow answers too few to tell that it has.
    /// A caller that gives less is no measure of a model of which more is known; but an endpoint that answers none such for long
    /// answers nobody.
    pub(super) fn class(
        &self,
        outcome: &Result<Reply, Failure>,
        method: Method,
        (began, ended): (Instant, Instant),
    ) -> Class {
        let class = match outcome {
            Ok(reply) => reply.class,
            Err(failure) => Class::of_failure(failure),
        };
        let Err(Failure::TimedOut(had) | Failure::Unconnected(had)) = outcome else { return class };
        if has_stalled(*had, ended - began) {
            return Class::Hurried;
        }
        if self.plan.attempt_timeout.is_some_and(|timeout| *had >= timeout) {
            return class;
        }
        if *had < self.plan.model_by.remaining(began) {
            return self.outlasted(ended);
        }
        let needs = self.needs(method, ended);
        // While nothing is known, no caller's deadline could ever be blamed for being short.
        let is_patient = *had >= self.patient() && (needs.is_none() || !self.plan.deadline.is_callers());
        let is_enough = needs.is_some_and(|needs| *had >= needs.max(self.patience(method, ended)));
        if is_patient || is_enough {
            class
        } else if *had >= needs.or_else(|| self.needed(method)).unwrap_or(LONG) {
            Class::Impatient
        } else {
            Class::Hurried
        }
    }

    /// What the config gives an attempt at the model at the least, whoever it answers for.
    pub(super) fn patient(&self) -> Duration {
        let named = &self.predict.models[self.plan.named.index()];
        let parts = if self.plan.model == self.plan.named { PATIENT } else { PATIENT * STANDING_IN };
        self.model.timeout.min(named.timeout) / parts
    }

    /// What an attempt came to that was given up for others: its part was what nearly every answer takes, where that is known.
    pub(super) fn outlasted(&self, now: Instant) -> Class {
        if self.model.tail.delay(now).is_some() { Class::Outlasted } else { Class::Hurried }
    }
}

/// Whether an attempt that had so much time, and whose timeout was told after it `took` so much, may have been answered in time:
/// where a process gets no processor for a while, all its requests time out at once, however well its endpoints are.
pub(super) fn has_stalled(had: Duration, took: Duration) -> bool {
    took.saturating_sub(had) >= STALL.max(had / 2)
}
