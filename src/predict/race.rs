//! Two attempts at once: a second one beside a slow first, at another endpoint; the first success counts.
//!
//! ```text
//! first ──────────────slow─────────────┬─► …            the first success ends the race, the other attempt is cancelled;
//!                     at the moment ───┴─► second ─► …   a failure waits for the other; of two failures the one that tells more
//! ```
//!
//! A pool that hedges has it at the moment that its model's answers tell. Where nothing is known of what they take, an attempt has all
//! the time that is left, and a silent endpoint would have the whole of it: there the next attempt is begun after an equal part of it
//! without ending the first, which may only be slow. That one is a retry, and counted and paid for as such.
//!
//! An attempt that is given up is neutral for its breaker and at least as slow as it was waited for to its balance, and stays in
//! flight until it is cancelled. Only predictions whose body is held and whose model is idempotent come here; what it costs is
//! bounded by the pool's budget, and hedges by their share of it.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    Run,
    attempt::{Attempt, Settled},
    endpoint::Endpoint,
    outgoing::Outgoing,
    pool::Want,
};
use crate::{
    infer::Method,
    telemetry::handles::predict::{AttemptOutcome, HedgeDenied, HedgeOutcome, RetryDenied},
};

/// When another attempt is made beside one, and as what.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    after: Duration,
    name: Name,
}

/// In whose name a second attempt is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Hedge,
    /// A retry that does not wait for the attempt before it to fail.
    Retry,
}

/// An attempt under way, as the other one sees it.
struct Rival {
    endpoint: Arc<Endpoint>,
    index: usize,
    began: Instant,
    /// What the race is called when this one's answer counts.
    wins: HedgeOutcome,
}

impl Rival {
    fn new(attempt: &Attempt, wins: HedgeOutcome) -> Self {
        let choice = &attempt.choice;
        Self { endpoint: choice.endpoint.clone(), index: choice.index, began: attempt.began, wins }
    }
}

impl Run<'_> {
    /// Whether and when another attempt is made beside this one, which `made` others were before.
    pub(super) fn beside(&self, outgoing: &Outgoing, attempt: &Attempt, made: u32) -> Option<Beside> {
        let beside = match self.moment(attempt.began) {
            Some(after) => Some(Beside { after, name: Name::Hedge }).filter(|beside| beside.after < attempt.limit),
            None => self.retry_beside(attempt, made),
        };
        let fits = || {
            self.pool.members().len() > 1
                && outgoing.method == Method::Predict
                // Its answer decides whether the breaker closes: given up, it would say nothing.
                && !attempt.choice.permit.is_probe()
                && outgoing.repeatable(self.model.idempotent).is_ok()
        };
        beside.filter(|_| fits())
    }

    /// When a hedge is made; `None`: never, or that is not known.
    fn moment(&self, now: Instant) -> Option<Duration> {
        let moment = self.model.hedge.as_ref()?;
        // The moment is learned from what answers of the model's own pool take.
        let fits = self.pool.hedges.is_some() && self.pool.name == self.model.pool;
        if fits { moment.delay(now) } else { None }
    }

    /// The next attempt, where this one has all the time that is left because nothing is known of what answers take.
    fn retry_beside(&self, attempt: &Attempt, made: u32) -> Option<Beside> {
        let attempts = self.plan.attempts.saturating_sub(made);
        let has_all = attempts > 1 && attempt.limit >= self.plan.model_by.remaining(attempt.began);
        let is_unknown = has_all && self.needs(Method::Predict, attempt.began).is_none();
        is_unknown.then(|| Beside { after: attempt.limit / attempts, name: Name::Retry })
    }

    /// Makes the attempt, and another beside it once that is due. Returns also how many of the request's attempts these were.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it cancels both.
    pub(super) async fn race(
        &self,
        first: Attempt,
        outgoing: &Outgoing,
        Beside { after, name }: Beside,
        made: u32,
    ) -> (Settled, u32) {
        let slow = Rival::new(&first, HedgeOutcome::Lost);
        let mut one = pin!(self.make(first, outgoing));
        tokio::select! {
            biased;
            settled = &mut one => return (settled, 1),
            () = sleep_until(slow.began + after) => {}
        }
        let second = match self.second(outgoing, &slow, (name, made), Instant::now()) {
            Ok(second) => second,
            Err(reason) => {
                self.beside_denied(name, reason);
                return (one.await, 1);
            }
        };
        let attempts = if name == Name::Hedge { 1 } else { 2 };
        if name == Name::Retry {
            self.pool.metrics.retry();
        }
        let beside = Rival::new(&second, HedgeOutcome::Won);
        let mut other = pin!(self.make(second, outgoing));
        let settled = tokio::select! {
            biased;
            settled = &mut one => self.first_ended(settled, (&slow, &beside, name), other).await,
            settled = &mut other => self.first_ended(settled, (&beside, &slow, name), one).await,
        };
        (settled, attempts)
    }

    /// The second attempt: paid for, to another endpoint, with time enough to be answered.
    fn second(
        &self,
        outgoing: &Outgoing,
        slow: &Rival,
        (name, made): (Name, u32),
        now: Instant,
    ) -> Result<Attempt, HedgeDenied> {
        if self.least(Method::Predict, now) >= self.plan.model_by.remaining(now) {
            return Err(HedgeDenied::Deadline);
        }
        match name {
            Name::Hedge => self.pool.withdraw_hedge(now)?,
            Name::Retry if !self.pool.budget.withdraw(now) => return Err(HedgeDenied::Budget),
            Name::Retry => {}
        }
        let (last, asker) = (Some(slow.index), self.plan.asker);
        let want = Want { protocol: outgoing.protocol, last, probing: false, asker };
        let made = if name == Name::Hedge { made } else { made + 1 };
        let second = self.choose(want, self.turn(outgoing, made, now), now).ok();
        // Where there is no other endpoint, the same one is chosen.
        let second = second.filter(|second| !Arc::ptr_eq(&second.choice.endpoint, &slow.endpoint));
        second.ok_or_else(|| {
            match name {
                Name::Hedge => self.pool.give_back_hedge(now),
                Name::Retry => self.pool.budget.give_back(now),
            }
            HedgeDenied::NoEndpoint
        })
    }

    /// Counts a second attempt that was not made.
    fn beside_denied(&self, name: Name, reason: HedgeDenied) {
        let metrics = &self.pool.metrics;
        match (name, reason) {
            (Name::Hedge, reason) => metrics.hedge_denied(reason),
            (Name::Retry, HedgeDenied::Share | HedgeDenied::Budget) => metrics.denied(RetryDenied::Budget),
            (Name::Retry, HedgeDenied::Deadline) => metrics.denied(RetryDenied::Deadline),
            (Name::Retry, HedgeDenied::NoEndpoint) => metrics.denied(RetryDenied::NoEndpoint),
        }
    }

    /// One of two attempts ended: a success counts, a failure waits for the other.
    async fn first_ended(
        &self,
        settled: Settled,
        (ended, rival, name): (&Rival, &Rival, Name),
        other: impl Future<Output = Settled>,
    ) -> Settled {
        if settled.class.wins() {
            self.raced(name, ended.wins);
            self.give_up(rival, name);
            return settled;
        }
        let later = other.await;
        let outcome = if later.class.wins() { rival.wins } else { HedgeOutcome::Failed };
        self.raced(name, outcome);
        if later.class.worth() >= settled.class.worth() { later } else { settled }
    }

    fn raced(&self, name: Name, outcome: HedgeOutcome) {
        if name == Name::Hedge {
            self.pool.metrics.hedge(outcome);
        }
    }

    /// Takes note of an attempt whose rival was answered; it is cancelled when the race is left.
    fn give_up(&self, rival: &Rival, name: Name) {
        let now = Instant::now();
        let waited = now - rival.began;
        rival.endpoint.gave_up(waited, now);
        self.pool.metrics.attempt(AttemptOutcome::Cancelled);
        // The first one is past the moment of a hedge; how slow the second would have been is not known.
        if name == Name::Hedge
            && rival.wins == HedgeOutcome::Lost
            && let Some(moment) = &self.model.hedge
        {
            moment.record(waited, now);
        }
    }
}
