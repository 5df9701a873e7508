//! Fetching what L1 lacks: one flight a (view, key), shared by all requests that want it.
//!
//! ```text
//! at L2 ──row──────────────────────► done: L1 keeps it
//!   ├─row that it has past its time ─► done: told as stale, kept nowhere
//!   ├─none── at L3 ──row───────────► done: L1 keeps it, L2 gets it back
//!   │          └─none──────────────► done: L1 keeps the absence for a moment
//!   ├─failed, and a retry fits ────► at L2 again
//!   └─failed─ at L3 ──row──────────► done: L1 keeps it for a moment, L2 does not get it (it may hold a newer one)
//!              └─none or failed────► failed: kept nowhere
//! ```
//!
//! Something that is stored and is no row counts as a failure of that one key: the next layer is asked, and what is left without
//! a row is unreadable, which costs no other key anything.
//!
//! The request that leads a flight goes on with it while it waits, and what is left then becomes a task: it goes on when every
//! request that wanted it has given up, and fills the caches for the next.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join},
};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{
    Shared,
    again::{Retries, may_help},
    beyond::Further,
    lookup::{How, Lookup, State},
};
use crate::{
    config::L1Mode,
    features::{
        Row, l2,
        l2::{Answers, Ask, Via},
        memory::{Cached, Fetch},
    },
    infer::{Deadline, EntityKey, ViewId, WorkerId, answer::CacheOutcome, request::Caching},
    resilience::{
        backoff::Retry,
        flight::{Batch, Joined, Lead, Watch},
    },
    telemetry::handles::features::{Layer, Outcome},
};

/// What is fetched once.
pub(super) type Id = (ViewId, EntityKey);

/// How far a fetch is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    AtL2,
    /// L2 did not say; it is to be asked once more.
    AtL2Again,
    AtL3(Behind),
    Done(Done),
}

/// Why L3 is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// L2 has no such row.
    Absence,
    /// L2 did not say.
    Failure,
    /// What L2 has is no row.
    Unreadable,
}

/// The layer at which a fetch ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    L1,
    L2,
    L3(Behind),
}

/// How a fetch ended, and where.
#[derive(Clone, Debug)]
pub(super) enum Done {
    Row(Arc<Row>, At),
    /// A row that L2 itself had past its time, and for how long.
    Stale(Arc<Row>, Duration),
    Absent(At),
    /// No layer could say. Until when, where breakers alone kept them from being asked.
    Failed(At, Option<Instant>),
    /// No layer has a row, and one of them has something that is none.
    Unreadable(At),
}

impl Progress {
    /// Whether who waits for it waits for L2 no longer. A stale row at hand does instead of what L2 may say when asked again.
    const fn is_past_l2(&self, has_stale: bool) -> bool {
        match self {
            Self::AtL2 => false,
            Self::AtL2Again => has_stale,
            Self::AtL3(_) | Self::Done(_) => true,
        }
    }
}

/// What a request waits for: first for all that L2 says, whose time is told apart, then for L3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    L2,
    L3,
}

type Led = (Lead<Id, Progress>, Ask);

/// The fetches that a request leads.
pub(super) struct Flight {
    led: Vec<Led>,
    /// Where is said what becomes of them.
    batch: Arc<Batch<Progress>>,
    worker: WorkerId,
    /// When the request that leads must have its rows: later retries would be for nobody.
    by: Deadline,
    retries: Retries,
    /// Where L2 may read.
    via: Via,
}

/// A key that a request waits for: its join, its place there, its progress.
type Awaited = (usize, usize, Watch<Progress>);

impl Flight {
    /// Joins or begins a fetch for everything open, and waits as long as the plan allows. Returns when L2 was through with all
    /// that the request waits for, or was no longer waited for.
    pub(super) async fn board(shared: &Arc<Shared>, lookup: &mut Lookup, how: &How) -> Instant {
        let mut flight = Self::of(how, shared.retry);
        let awaited = flight.gather(shared, lookup, how);
        let mut flight = (!flight.led.is_empty()).then(|| shared.tasks.outliving(flight.fly(Arc::clone(shared))));
        let mut late = pin!(sleep_until(how.by.instant()));
        let (mut waiting, mut through) = (awaited, None);
        for leg in [Leg::L2, Leg::L3] {
            let mut further = Vec::new();
            for (join, want, progress) in waiting {
                let has_stale = lookup.has_stale(join, want);
                let outcome = shared.outcome(&progress, (leg, how, has_stale), late.as_mut());
                let reached = match &mut flight {
                    Some(flight) => flight.until(outcome).await,
                    None => outcome.await,
                };
                if leg == Leg::L3 || shared.is_futile(&reached, how, has_stale) {
                    lookup.reached(shared, (join, want), reached);
                } else {
                    further.push((join, want, progress));
                }
            }
            waiting = further;
            through.get_or_insert_with(Instant::now);
        }
        through.unwrap_or_else(Instant::now)
    }

    fn of(how: &How, profile: Retry) -> Self {
        let (led, batch) = (Vec::new(), Arc::default());
        Self { led, batch, worker: how.worker, by: how.by, retries: Retries::of(profile), via: how.via }
    }

    /// Everything open is awaited; rows already in use, stale or near their end, are only refreshed.
    fn gather(&mut self, shared: &Arc<Shared>, lookup: &Lookup, how: &How) -> Vec<Awaited> {
        let now = Instant::now();
        let open = lookup.open();
        self.led.reserve_exact(open);
        let mut awaited = Vec::with_capacity(open);
        for (j, join) in lookup.joins.iter().enumerate() {
            for (w, want) in join.wants.iter().enumerate() {
                let wait = match want.state {
                    State::Open(_) => true,
                    State::Stale(..) | State::Early(_) => false,
                    State::Row(_) | State::Absent | State::Unavailable(_) | State::Unreadable => continue,
                };
                let early = matches!(want.state, State::Early(_));
                let ask = Ask { view: Arc::clone(&join.view), key: want.key.clone() };
                let progress = self.join(shared, ask, (how, early, now));
                if wait {
                    awaited.push((j, w, progress));
                }
            }
        }
        awaited
    }

    /// `early`: L1 has the row, and is to have it anew.
    fn join(&mut self, shared: &Arc<Shared>, ask: Ask, (how, early, now): (&How, bool, Instant)) -> Watch<Progress> {
        // Who bypasses the caches wants what the store says from now on: a fetch under way may have read before.
        let joined = match how.caching {
            Caching::Bypassed | Caching::Forbidden => Joined::Leader(Lead::alone(&self.batch, Progress::AtL2)),
            Caching::Allowed => shared.join(&self.batch, &ask),
        };
        match joined {
            Joined::Waiter(progress) => {
                shared.metrics.coalesced.increment(1);
                progress
            }
            Joined::Leader(lead) => {
                let progress = lead.watch();
                // The last fetch may have landed between this request's look at L1 and its taking the lead.
                let serves = !how.caching.bypasses() && !early && shared.l1_mode == L1Mode::Serve;
                match serves.then(|| shared.l1.get(ask.view.id, &ask.key, now)) {
                    Some(Cached::Fresh(row)) => {
                        let done = row.map_or(Done::Absent(At::L1), |row| Done::Row(row, At::L1));
                        lead.end(Progress::Done(done));
                    }
                    _ => {
                        shared.metrics.early_refreshes.increment(u64::from(early));
                        self.led.push((lead, ask));
                    }
                }
                progress
            }
        }
    }

    async fn fly(self, shared: Arc<Shared>) {
        let began = Instant::now();
        let Self { led, batch, worker, by, mut retries, via } = self;
        if retries.is_first() {
            shared.budget.deposit(began);
        }
        let (leads, asks): (Vec<_>, Vec<_>) = led.into_iter().unzip();
        let Answers { rows: answers, copied } = shared.l2.fetch(worker, &asks, via).await;
        let now = Instant::now();
        let fetch = Fetch { began, took: now - began };
        shared.metrics.took(Layer::L2, fetch.took);
        let wait = shared.once_more(&answers, &mut retries, (by, now));
        shared.count(&answers);
        let (mut ended, mut further, mut again) = (Vec::with_capacity(leads.len()), Vec::new(), Vec::new());
        let mut copied = copied.into_iter().peekable();
        for (at, ((lead, ask), answer)) in leads.into_iter().zip(asks).zip(answers).enumerate() {
            let made = copied.next_if(|(copy, _)| *copy == at).map(|(_, made)| made);
            let (behind, until) = match answer {
                Ok(Some(row)) => {
                    let row = Arc::new(row);
                    // What a copy says is as old as the copy.
                    let fetch = Fetch { began: made.unwrap_or(fetch.began), ..fetch };
                    shared.keep(&ask, Some(Arc::clone(&row)), fetch);
                    ended.push((lead, Progress::Done(Done::Row(row, At::L2))));
                    continue;
                }
                Ok(None) => (Behind::Absence, None),
                // L1 does not keep it: there it would pass for fresh.
                Err(l2::Error::Stale { row, age }) => {
                    ended.push((lead, Progress::Done(Done::Stale(row, age))));
                    continue;
                }
                Err(error) => {
                    tracing::debug!(view = %ask.view.name, %error, "row not read from L2");
                    if wait.is_some() && may_help(&error) && shared.l2.would_ask(worker, &ask) {
                        lead.publish(Progress::AtL2Again);
                        again.push((lead, ask));
                        continue;
                    }
                    (shared.behind(&ask.view, &error), error.until())
                }
            };
            further.push(Further { lead, ask, behind, until, began });
        }
        Lead::end_all(ended);
        let beyond = shared.go_beyond_l2(worker, further);
        match wait {
            // What is to be asked again holds up nothing else.
            Some(wait) if !again.is_empty() => {
                let again = Self { led: again, batch, worker, by, retries, via }.after(wait, Arc::clone(&shared));
                join(beyond, again).await;
            }
            // Nobody's breaker lets it by.
            Some(_) => {
                shared.budget.give_back(now);
                beyond.await;
            }
            None => beyond.await,
        }
    }

    /// The same once more, after a wait. Boxed, for it is part of itself.
    fn after(self, wait: Duration, shared: Arc<Shared>) -> BoxFuture<'static, ()> {
        async move {
            sleep(wait).await;
            shared.metrics.retries.increment(self.led.len() as u64);
            self.fly(shared).await;
        }
        .boxed()
    }
}

impl Shared {
    /// Keeps what was fetched in L1. One that is only observed keeps what it has while that is good, as one that serves does.
    pub(super) fn keep(&self, ask: &Ask, row: Option<Arc<Row>>, fetch: Fetch) {
        let is_held =
            || matches!(self.l1.get(ask.view.id, &ask.key, Instant::now()), Cached::Fresh(_) | Cached::Early(_));
        if self.l1_mode == L1Mode::Serve || !is_held() {
            self.keep_fenced(ask, fetch.began, || self.l1.put(ask.view.id, &ask.key, row, fetch));
        }
    }

    /// Counts what L2 said.
    fn count(&self, answers: &[Result<Option<Row>, l2::Error>]) {
        for counted in
            [Outcome::Hit, Outcome::StaleHit, Outcome::Miss, Outcome::Error, Outcome::Timeout, Outcome::Unreadable]
        {
            let count = answers.iter().filter(|answer| outcome(answer) == counted).count();
            if count > 0 {
                self.metrics.looked_up(Layer::L2, counted, count as u64);
            }
        }
    }

    /// How far a fetch is once L2 is through with it, or waiting on is of no use, or it is late.
    async fn outcome(
        &self,
        progress: &Watch<Progress>,
        (leg, how, has_stale): (Leg, &How, bool),
        late: Pin<&mut Sleep>,
    ) -> Progress {
        let enough = |reached: &Progress| match leg {
            Leg::L2 => reached.is_past_l2(has_stale),
            Leg::L3 => self.is_futile(reached, how, has_stale),
        };
        tokio::select! {
            biased;
            reached = progress.until(enough) => reached,
            () = late => progress.now(),
        }
    }

    /// Whether waiting on for a fetch is of no use: it has ended, L2 failed and a stale row is at hand, or L3 takes longer than
    /// the time that is left.
    fn is_futile(&self, reached: &Progress, how: &How, has_stale: bool) -> bool {
        match reached {
            Progress::AtL2 => false,
            Progress::AtL2Again => has_stale,
            Progress::AtL3(behind) => {
                (*behind != Behind::Absence && has_stale) || !self.l3_fits(how.by.remaining(Instant::now()))
            }
            Progress::Done(_) => true,
        }
    }

    fn l3_fits(&self, left: Duration) -> bool {
        self.l3.as_ref().is_some_and(|l3| left >= l3.typically())
    }
}

fn outcome(answer: &Result<Option<Row>, l2::Error>) -> Outcome {
    match answer {
        Err(error) if error.is_about_the_row() => Outcome::Unreadable,
        Ok(Some(_)) => Outcome::Hit,
        Ok(None) => Outcome::Miss,
        Err(l2::Error::Stale { .. }) => Outcome::StaleHit,
        Err(l2::Error::TimedOut(_)) => Outcome::Timeout,
        Err(_) => Outcome::Error,
    }
}

impl Lookup {
    /// Whether a stale row is at hand should the fetch fail.
    fn has_stale(&self, join: usize, want: usize) -> bool {
        matches!(self.joins[join].wants[want].state, State::Open(Some(_)))
    }

    /// Takes what a fetch came to, as far as it got.
    fn reached(&mut self, shared: &Shared, (join, want): (usize, usize), reached: Progress) {
        let (at, found) = match reached {
            Progress::Done(Done::Row(row, at)) => (at, Some(State::Row(row))),
            Progress::Done(Done::Stale(row, age)) => (At::L2, Some(State::Stale(row, age))),
            Progress::Done(Done::Absent(at)) => (at, Some(State::Absent)),
            Progress::Done(Done::Failed(at, until)) => (at, Some(State::Unavailable(until))),
            Progress::Done(Done::Unreadable(at)) => (at, Some(State::Unreadable)),
            Progress::AtL3(behind) => (At::L3(behind), None),
            Progress::AtL2 | Progress::AtL2Again => (At::L2, None),
        };
        let outcome = match &found {
            Some(State::Row(_) | State::Stale(..)) => CacheOutcome::Hit,
            Some(State::Absent) => CacheOutcome::Miss,
            _ => CacheOutcome::Unavailable,
        };
        match at {
            At::L1 => {}
            At::L2 => self.asked.note(Layer::L2, outcome),
            At::L3(behind) => {
                let absent = behind == Behind::Absence;
                self.asked.note(Layer::L2, if absent { CacheOutcome::Miss } else { CacheOutcome::Unavailable });
                self.asked.note(Layer::L3, outcome);
            }
        }
        let state = &mut self.joins[join].wants[want].state;
        let stale = if let State::Open(stale) = state { stale.take() } else { None };
        *state = match (found, stale) {
            (None | Some(State::Unavailable(_) | State::Unreadable), Some((row, age))) => {
                shared.metrics.looked_up(Layer::L1, Outcome::StaleHit, 1);
                State::Stale(row, age)
            }
            (Some(found), _) => found,
            (None, None) => State::Unavailable(None),
        };
    }
}
