//! Attempts beside a slow first one, at other endpoints; the first success counts.
//!
//! ```text
//! first ──────────────slow─────────────┬───────────────────┬─► …   the first success ends the race, what else goes on is cancelled;
//!                    a hedge's moment ─┴─► second ─► …     │        a failure waits for the other; of failures the one that tells more
//!                            the end of the first's part ──┴─► the next ─► …
//! ```
//!
//! A pool that hedges has a second attempt at the moment that its model's answers tell. Where the first has used its part of the deadline,
//! which is no less than what nearly every answer takes, the attempts after it are begun, one after another, without ending it: it may
//! only be slow, and be answered in time. These are retries, and counted and paid for as such. Only they are cut off for one another.
//!
//! An attempt that is given up is at least as slow as it was waited for to its balance, and stays in flight until it is cancelled. A
//! first one that had its part says to its breaker that it was silent, where it is known what answers take; else it is neutral. Only predictions whose body is held and whose model is idempotent come here; what it costs is
//! bounded by the pool's budget, and hedges by their share of it.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{
    Run,
    attempt::{Attempt, Reply, Settled},
    classify::{Class, Failure},
    endpoint::{Ended, Endpoint, InFlight},
    outgoing::Outgoing,
    pool::{Choice, Want},
    times::has_stalled,
};
use crate::{
    infer::Method,
    telemetry::handles::predict::{AttemptOutcome, HedgeDenied, HedgeOutcome, RetryDenied},
};

/// When others are made beside an attempt.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    hedge: Option<Instant>,
    retry: Option<Instant>,
}

impl Beside {
    fn first(self) -> Option<Start> {
        let hedge = self.hedge.map(|at| Start { at, name: Name::Hedge, paid: None });
        hedge.filter(|hedge| self.retry.is_none_or(|retry| hedge.at < retry)).or_else(|| self.retry())
    }

    /// When the first of them is due.
    pub(super) fn first_at(self) -> Instant {
        self.first().map_or_else(Instant::now, |start| start.at)
    }

    fn retry(self) -> Option<Start> {
        Some(Start { at: self.retry?, name: Name::Retry, paid: None })
    }
}

/// An attempt to be made beside another.
struct Start {
    at: Instant,
    name: Name,
    /// When it was taken out of the budget, if that was done.
    paid: Option<Instant>,
}

/// In whose name an attempt is made beside another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Hedge,
    /// A retry that does not wait for the first attempt to end.
    Retry,
}

/// An attempt under way.
pub(super) struct Runner {
    choice: Choice,
    pub(super) began: Instant,
    part: Duration,
}

impl Runner {
    /// What its call needs beside it: how long it has, its place at the endpoint, and the endpoint.
    pub(super) fn of(attempt: Attempt) -> (Self, Duration, InFlight, Arc<Endpoint>) {
        let Attempt { choice, in_flight, began, limit, part, .. } = attempt;
        let endpoint = choice.endpoint.clone();
        (Self { choice, began, part }, limit, in_flight, endpoint)
    }
}

/// What came of a race so far.
struct Race<'a> {
    outgoing: &'a Outgoing,
    beside: Beside,
    /// The request's attempts before it.
    made: u32,
    /// Those of its own; hedges are none.
    attempts: u32,
    /// Whether a hedge has failed.
    hedged: bool,
    /// The attempt that failed beside the first, and tells most.
    failed: Option<Settled>,
    /// Whether this process slept past the moment at which another attempt was due: it may be slow itself.
    slept: bool,
}

impl Run<'_> {
    /// Whether and when others are made beside this attempt.
    pub(super) fn beside(&self, attempt: &Attempt) -> Option<Beside> {
        if !attempt.accompanied {
            return None;
        }
        let at = |after: Duration| (after < attempt.limit).then(|| attempt.began + after);
        let beside = Beside { hedge: self.moment(attempt.began).and_then(at), retry: at(attempt.part) };
        (beside.hedge.is_some() || beside.retry.is_some()).then_some(beside)
    }

    /// When a hedge is made; `None`: never, or that is not known.
    fn moment(&self, now: Instant) -> Option<Duration> {
        let moment = self.model.hedge.as_ref()?;
        // The moment is learned from what answers of the model's own pool take.
        let fits = self.pool.hedges.is_some() && self.pool.name == self.model.pool;
        if fits { moment.delay(now) } else { None }
    }

    /// Goes on with a first attempt that is still to be answered when another is due, `made` others having been before it. Returns
    /// also how many of the request's attempts these were.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it cancels all that are under way.
    pub(super) async fn race(
        &self,
        (mut one, slow): (Pin<&mut impl Future<Output = Result<Reply, Failure>>>, Runner),
        outgoing: &Outgoing,
        beside: Beside,
        made: u32,
    ) -> (Settled, u32) {
        let mut race = Race { outgoing, beside, made, attempts: 1, hedged: false, failed: None, slept: false };
        let mut next = beside.first();
        while let Some(start) = next {
            tokio::select! {
                biased;
                outcome = &mut one => {
                    start.paid.iter().for_each(|then| self.pool.budget.give_back(*then));
                    return self.over(race, self.ended(outcome, slow, outgoing));
                }
                () = sleep_until(start.at) => {}
            }
            let now = Instant::now();
            race.slept |= has_stalled(start.at - slow.began, now - slow.began);
            let second = match self.second(&race, &slow.choice, &start, now) {
                Ok(second) => second,
                Err(reason) => {
                    self.beside_denied(start.name, reason);
                    next = race.beside.retry().filter(|_| start.name == Name::Hedge);
                    continue;
                }
            };
            if start.name == Name::Retry {
                race.attempts += 1;
                self.pool.metrics.retry();
            }
            let (quick, limit, in_flight, endpoint) = Runner::of(second);
            let mut other = pin!(self.call(&endpoint, (quick.began, limit), in_flight, outgoing));
            let settled = tokio::select! {
                biased;
                outcome = &mut one => {
                    let settled = self.ended(outcome, slow, outgoing);
                    let settled = self.first_ended(settled, (other, quick), start.name, outgoing).await;
                    return self.over(race, settled);
                }
                outcome = &mut other => self.ended(outcome, quick, outgoing),
            };
            if settled.class.wins() {
                self.raced(start.name, HedgeOutcome::Won);
                self.give_up_first(slow, race.slept);
                return self.over(race, settled);
            }
            next = self.next(&mut race, &start, settled);
        }
        let settled = self.ended(one.await, slow, outgoing);
        self.over(race, settled)
    }

    /// Tells everybody how an attempt ended.
    pub(super) fn ended(&self, outcome: Result<Reply, Failure>, runner: Runner, outgoing: &Outgoing) -> Settled {
        self.settle(outcome, runner.choice, outgoing.method, runner.began)
    }

    /// The attempt that is due: paid for, to another endpoint, with time enough to be answered.
    fn second(&self, race: &Race<'_>, slow: &Choice, start: &Start, now: Instant) -> Result<Attempt, HedgeDenied> {
        if self.least(Method::Predict, now) >= self.plan.model_by.remaining(now) {
            self.give_back(start);
            return Err(HedgeDenied::Deadline);
        }
        match start.name {
            Name::Hedge => self.pool.withdraw_hedge(now)?,
            Name::Retry if start.paid.is_none() && !self.pool.budget.withdraw(now) => return Err(HedgeDenied::Budget),
            Name::Retry => {}
        }
        let want =
            Want { protocol: race.outgoing.protocol, last: Some(slow.index), probing: false, asker: self.plan.asker };
        let made = if start.name == Name::Hedge { race.made } else { race.made + race.attempts };
        let second = self.choose(want, self.turn(race.outgoing, made, now), now).ok();
        // Where there is no other endpoint, the same one is chosen.
        let second = second.filter(|second| !Arc::ptr_eq(&second.choice.endpoint, &slow.endpoint));
        second.ok_or_else(|| {
            self.give_back(&Start { paid: Some(start.paid.unwrap_or(now)), ..*start });
            HedgeDenied::NoEndpoint
        })
    }

    /// Puts back what was paid for an attempt that is not made.
    fn give_back(&self, start: &Start) {
        match (start.name, start.paid) {
            (_, None) => {}
            (Name::Hedge, Some(then)) => self.pool.give_back_hedge(then),
            (Name::Retry, Some(then)) => self.pool.budget.give_back(then),
        }
    }

    /// Counts an attempt that was not made.
    fn beside_denied(&self, name: Name, reason: HedgeDenied) {
        let metrics = &self.pool.metrics;
        match (name, reason) {
            (Name::Hedge, reason) => metrics.hedge_denied(reason),
            (Name::Retry, HedgeDenied::Share | HedgeDenied::Budget) => metrics.denied(RetryDenied::Budget),
            (Name::Retry, HedgeDenied::Deadline) => metrics.denied(RetryDenied::Deadline),
            (Name::Retry, HedgeDenied::NoEndpoint) => metrics.denied(RetryDenied::NoEndpoint),
        }
    }

    /// The first attempt ended: a success counts, a failure waits for the other.
    async fn first_ended(
        &self,
        settled: Settled,
        (other, quick): (Pin<&mut impl Future<Output = Result<Reply, Failure>>>, Runner),
        name: Name,
        outgoing: &Outgoing,
    ) -> Settled {
        if settled.class.wins() {
            self.raced(name, HedgeOutcome::Lost);
            self.give_up(&quick, Instant::now());
            return settled;
        }
        let later = self.ended(other.await, quick, outgoing);
        self.raced(name, if later.class.wins() { HedgeOutcome::Won } else { HedgeOutcome::Failed });
        telling(settled, later)
    }

    /// What is made next, another having failed beside the first. A hedge that failed leaves its place to the retry that is due.
    fn next(&self, race: &mut Race<'_>, start: &Start, settled: Settled) -> Option<Start> {
        let now = Instant::now();
        race.hedged |= start.name == Name::Hedge;
        let next = match start.name {
            Name::Hedge if !settled.class.retryable() => None,
            Name::Hedge => race.beside.retry(),
            Name::Retry => {
                let delay = self.wait(race.made + race.attempts, &settled, race.outgoing, now);
                delay.map(|delay| Start { at: now + delay, name: Name::Retry, paid: Some(now) })
            }
        };
        race.failed = Some(match race.failed.take() {
            Some(before) => telling(before, settled),
            None => settled,
        });
        next
    }

    /// The race's end: its outcome, and how many attempts it was.
    fn over(&self, race: Race<'_>, settled: Settled) -> (Settled, u32) {
        if race.hedged {
            let outcome = if settled.class.wins() { HedgeOutcome::Lost } else { HedgeOutcome::Failed };
            self.raced(Name::Hedge, outcome);
        }
        let settled = match race.failed {
            Some(failed) => telling(failed, settled),
            None => settled,
        };
        (settled, race.attempts)
    }

    fn raced(&self, name: Name, outcome: HedgeOutcome) {
        if name == Name::Hedge {
            self.pool.metrics.hedge(outcome);
        }
    }

    /// Takes note of an attempt whose rival was answered; it is cancelled when the race is left.
    fn give_up(&self, runner: &Runner, now: Instant) {
        runner.choice.endpoint.gave_up(now - runner.began, now);
        self.pool.metrics.attempt(AttemptOutcome::Cancelled);
    }

    /// The same of the first one. What it was waited for is a lesson: it is past the moment at which others are made.
    fn give_up_first(&self, slow: Runner, slept: bool) {
        let now = Instant::now();
        let waited = now - slow.began;
        self.give_up(&slow, now);
        if waited >= slow.part && !slept && self.outlasted(now) == Class::Outlasted {
            let Runner { choice: Choice { endpoint, permit, .. }, .. } = slow;
            endpoint.observe(Ended::of(Class::Outlasted), permit, waited, now);
        }
        self.model.outlasted(waited, now);
        if let Some(moment) = &self.model.hedge
            && self.moment(now).is_some_and(|moment| waited >= moment)
        {
            moment.record(waited, now);
        }
    }
}

/// The one of two outcomes that tells more of the request, the later one of those that tell as much.
fn telling(earlier: Settled, later: Settled) -> Settled {
    if later.class.worth() >= earlier.class.worth() { later } else { earlier }
}
