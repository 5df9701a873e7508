//! Hedging: a second attempt beside a slow first one, to another endpoint; the first success counts.
//!
//! ```text
//! first ──────────────slow─────────────┬─► …            the first success ends the race, the other attempt is cancelled;
//!                     at the moment ───┴─► second ─► …   a failure waits for the other; of two failures the one that tells more
//! ```
//!
//! An attempt that is given up is neutral for its breaker and at least as slow as it was waited for to its balance, and stays in
//! flight until it is cancelled. Only predictions whose body is held and whose model is idempotent come here; what it costs is
//! bounded by the hedges' share and the pool's budget together.

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
    telemetry::handles::predict::{AttemptOutcome, HedgeDenied, HedgeOutcome},
};

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
    /// How long the attempt is waited for before another is made beside it; `None`: it is not hedged.
    pub(super) fn hedge_delay(&self, outgoing: &Outgoing, attempt: &Attempt) -> Option<Duration> {
        let moment = self.model.hedge.as_ref()?;
        let fits = self.pool.hedges.is_some()
            // The moment is learned from what answers of the model's own pool take.
            && self.pool.name == self.model.pool
            && self.pool.members().len() > 1
            && outgoing.method == Method::Predict
            // Its answer decides whether the breaker closes: given up, it would say nothing.
            && !attempt.choice.permit.is_probe()
            && outgoing.repeatable(self.model.idempotent).is_ok();
        let delay = if fits { moment.delay(attempt.began) } else { None };
        delay.filter(|delay| *delay < attempt.limit)
    }

    /// Makes the attempt, and after `delay` another beside it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it cancels both.
    pub(super) async fn race(&self, first: Attempt, outgoing: &Outgoing, delay: Duration, made: u32) -> Settled {
        let slow = Rival::new(&first, HedgeOutcome::Lost);
        let mut one = pin!(self.make(first, outgoing));
        tokio::select! {
            biased;
            settled = &mut one => return settled,
            () = sleep_until(slow.began + delay) => {}
        }
        let second = match self.second(outgoing, &slow, made, Instant::now()) {
            Ok(second) => second,
            Err(reason) => {
                self.pool.metrics.hedge_denied(reason);
                return one.await;
            }
        };
        let beside = Rival::new(&second, HedgeOutcome::Won);
        let mut other = pin!(self.make(second, outgoing));
        tokio::select! {
            biased;
            settled = &mut one => self.first_ended(settled, (&slow, &beside), other).await,
            settled = &mut other => self.first_ended(settled, (&beside, &slow), one).await,
        }
    }

    /// The second attempt: paid for, to another endpoint, with time enough to be answered.
    fn second(&self, outgoing: &Outgoing, slow: &Rival, made: u32, now: Instant) -> Result<Attempt, HedgeDenied> {
        if self.least(Method::Predict, now) >= self.plan.model_by.remaining(now) {
            return Err(HedgeDenied::Deadline);
        }
        self.pool.withdraw_hedge(now)?;
        let want = Want { protocol: outgoing.protocol, last: Some(slow.index), probing: false };
        let second = self.choose(want, self.turn(outgoing, made, now), now).ok();
        // Where there is no other endpoint, the same one is chosen.
        let second = second.filter(|second| !Arc::ptr_eq(&second.choice.endpoint, &slow.endpoint));
        second.ok_or_else(|| {
            self.pool.give_back_hedge(now);
            HedgeDenied::NoEndpoint
        })
    }

    /// One of two attempts ended: a success counts, a failure waits for the other.
    async fn first_ended(
        &self,
        settled: Settled,
        (ended, rival): (&Rival, &Rival),
        other: impl Future<Output = Settled>,
    ) -> Settled {
        if settled.class.wins() {
            self.pool.metrics.hedge(ended.wins);
            self.give_up(rival);
            return settled;
        }
        let later = other.await;
        let outcome = if later.class.wins() { rival.wins } else { HedgeOutcome::Failed };
        self.pool.metrics.hedge(outcome);
        if later.class.worth() >= settled.class.worth() { later } else { settled }
    }

    /// Takes note of an attempt whose rival was answered; it is cancelled when the race is left.
    fn give_up(&self, rival: &Rival) {
        let now = Instant::now();
        let waited = now - rival.began;
        rival.endpoint.gave_up(waited, now);
        self.pool.metrics.attempt(AttemptOutcome::Cancelled);
        // The first one is past the moment of the second; how slow the second would have been is not known.
        if rival.wins == HedgeOutcome::Lost
            && let Some(moment) = &self.model.hedge
        {
            moment.record(waited, now);
        }
    }
}
