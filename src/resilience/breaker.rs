//! The circuit breaker: stops asking a target that keeps failing, and finds out cheaply when it is back.
//!
//! ```text
//!            5 failures in 10 s without a success between them,
//!            or < 80 % (`success_rate`) successes of ≥ 20 answers in 10 s
//!   closed ───────────────────────────────────────────────────► open
//!     ▲                                                         │ ▲
//!     │ 3 successes                     open_for (30 s) passed, │ │ any failure: open for twice as long,
//!     └──────────────────────────────── half-open ◄─ next call ─┘ │ up to max_open_for
//!                                           └─────────────────────┘
//! ```
//!
//! A target that fails its probes is asked less and less often, where `max_open_for` allows; once closed, it begins at `open_for`
//! again.
//!
//! Where nobody else can be asked, whoever owns the breaker may ask ahead of its time ([`Breaker::admit_early`]). An early probe that
//! fails or comes to nothing moves nothing, so that the target is probed no later and no less often for it; one that succeeds was the
//! first probe, and the breaker is half-open.
//!
//! A spare call, for which nobody waits, is not made while another could be the probe, and its failure opens nothing.
//!
//! Invariants: half-open admits one probe at a time, and open one early probe; one that may take as long as its caller likes yields its place, and of those
//! and the one in the place there are never more than `half_open_requests`; an answer to a call admitted before the last transition
//! changes nothing (every permit carries the epoch it was admitted in); a permit that is dropped without an answer is neutral. What counts as a failure is the caller's to say: no 4xx does.
//! A call that was not waited for to its end is a silence: a target that never answers has nothing else, and one that is only slow now and
//! then has answers between them. So it counts in a row, and not in the rate. Where it was given up so soon that many an answer comes
//! later, the row has to be twice as long and to last a second: callers who wait for so little would take out what is well by chance.
//! Where no other target is left, a row of failures to answer in time has to last a second, too; in the rate they count as any other.

mod machine;
mod transition;
mod window;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::machine::Call;
pub use self::{
    machine::{Admitted, Machine},
    transition::{Cause, Transition},
};
use crate::config;

/// When a breaker trips and how it closes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Failures without a success between them that trip it.
    pub failure_threshold: u32,
    /// Within this long.
    pub window: Duration,
    /// The share of successes, of 20 answers or more within that long, under which it trips; 0: never by that.
    pub success_rate: f64,
    /// How long it stays open.
    pub open_for: Duration,
    /// How long it stays open at most when probes keep failing: each time twice as long as before. As `open_for`: always the same.
    pub max_open_for: Duration,
    /// Most probes before half-open decides.
    pub half_open_requests: u32,
    /// Successes that close it; more than `half_open_requests` could never be reached and means that many.
    pub success_threshold: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            window: Duration::from_secs(10),
            success_rate: 0.8,
            open_for: Duration::from_secs(30),
            max_open_for: Duration::from_secs(30),
            half_open_requests: 3,
            success_threshold: 3,
        }
    }
}

impl Policy {
    /// Successes of probes that close it.
    fn closes_at(&self) -> u32 {
        self.success_threshold.min(self.half_open_requests)
    }
}

impl From<&config::Breaker> for Policy {
    fn from(breaker: &config::Breaker) -> Self {
        Self {
            failure_threshold: breaker.failure_threshold,
            window: breaker.window,
            success_rate: breaker.success_rate,
            open_for: breaker.open_for,
            max_open_for: breaker.max_open_for,
            half_open_requests: breaker.half_open_requests,
            success_threshold: breaker.success_threshold,
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Passing.
    Closed,
    /// Tripped.
    Open,
    /// Probing.
    HalfOpen,
}

impl State {
    /// Its name, where it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How an admitted call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered.
    Success,
    /// The target failed.
    Failure,
    /// It had not answered when it was given up, in a time in which it seldom had not.
    Silence,
    /// The same, in a time in which it often had not.
    Impatience,
    /// A failure to answer in time, of the last target that can be asked: it may have stood still for a moment, with all that it was
    /// asked at once.
    TimeoutOfLast,
    /// It says nothing about the target (cancelled, the caller's mistake).
    Neutral,
}

/// The call may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When the next probe may go; `None`: one is out, its answer decides.
    pub until: Option<Instant>,
}

/// The machine for concurrent callers. While it is closed, admitting is one atomic load; recording takes a short lock.
pub struct Breaker {
    /// The epoch, doubled, plus 1 while closed: written under the lock, read without.
    word: AtomicU64,
    machine: Mutex<Machine>,
    moved: Box<dyn Fn(Transition) + Send + Sync>,
}

impl Breaker {
    /// A closed breaker. `moved` is called at each transition, in order, under the breaker's lock: it must be short and must
    /// not call the breaker.
    pub fn new(policy: Policy, moved: impl Fn(Transition) + Send + Sync + 'static) -> Arc<Self> {
        let machine = Machine::new(policy);
        Arc::new(Self { word: AtomicU64::new(word(&machine)), machine: Mutex::new(machine), moved: Box::new(moved) })
    }

    /// Asks to make a call.
    ///
    /// # Errors
    ///
    /// [`Refused`] while open, and while a probe is out.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, Refused> {
        let word = self.word.load(Ordering::Acquire);
        let call = if is_closed(word) {
            Admitted { epoch: word >> 1, call: Call::Ordinary }
        } else {
            self.with(|machine| machine.admit(now))?
        };
        Ok(Permit { breaker: Arc::clone(self), call: Some(call), spare: false })
    }

    /// Asks to make a call for which nobody waits.
    ///
    /// # Errors
    ///
    /// [`Refused`] while open, and while it waits for a probe that somebody else may be.
    pub fn admit_spare(self: &Arc<Self>, now: Instant) -> Result<Permit, Refused> {
        let admitted = self.with(|machine| {
            if machine.would_admit_spare(now) { machine.admit(now) } else { Err(Refused { until: machine.until() }) }
        });
        admitted.map(|call| Permit { breaker: Arc::clone(self), call: Some(call), spare: true })
    }

    /// Whether a spare call would be admitted; changes nothing.
    #[must_use]
    pub fn would_admit_spare(&self, now: Instant) -> bool {
        self.is_closed() || self.lock().would_admit_spare(now)
    }

    /// Asks to make a call ahead of an open breaker's time, where nobody else can be asked; the next such call not within `pause`.
    ///
    /// # Errors
    ///
    /// [`Refused`] within a second of the trip, within the pause, and while such a call, or a probe, is out.
    pub fn admit_early(self: &Arc<Self>, pause: Duration, now: Instant) -> Result<Permit, Refused> {
        let call = self.with(|machine| machine.admit_early(pause, now))?;
        Ok(Permit { breaker: Arc::clone(self), call: Some(call), spare: false })
    }

    /// From when on it may be asked for an early probe, if it is open.
    #[must_use]
    pub fn early_from(&self) -> Option<Instant> {
        if self.is_closed() { None } else { self.lock().early_from() }
    }

    /// Whether a call would be admitted; changes nothing. The answer is old as soon as it is given.
    #[must_use]
    pub fn would_admit(&self, now: Instant) -> bool {
        is_closed(self.word.load(Ordering::Acquire)) || self.lock().would_admit(now)
    }

    /// How long it still refuses every call; zero unless it is open.
    #[must_use]
    pub fn time_left(&self, now: Instant) -> Duration {
        if self.is_closed() { Duration::ZERO } else { self.lock().time_left(now) }
    }

    /// Whether it is closed: one atomic load.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        is_closed(self.word.load(Ordering::Acquire))
    }

    /// Something else found the target well (a handshake, a health check): if it is open, the next call from `now` on is its
    /// probe. It still takes probes to close it.
    pub fn probe_from(&self, now: Instant) {
        if !self.is_closed() {
            self.lock().probe_from(now);
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().state()
    }

    /// When it takes its first probe, if it is open.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        if self.is_closed() { None } else { self.lock().until() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.lock();
        let before = machine.epoch;
        let result = change(&mut machine);
        if machine.epoch != before {
            self.word.store(word(&machine), Ordering::Release);
            (self.moved)(machine.transition());
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // No caller's code but `moved` runs under the lock, and the machine is whole before it is called.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_closed(word: u64) -> bool {
    word & 1 == 1
}

fn word(machine: &Machine) -> u64 {
    machine.epoch << 1 | u64::from(machine.state() == State::Closed)
}

/// An admitted call. Dropped without an answer it is neutral: a probe's place is free again.
pub struct Permit {
    breaker: Arc<Breaker>,
    call: Option<Admitted>,
    spare: bool,
}

impl Permit {
    /// Whether it is a probe, of a half-open breaker or ahead of an open one's time.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.call.is_some_and(|call| call.call != Call::Ordinary)
    }

    /// Whether nobody waits for the call, so that its failure says nothing.
    #[must_use]
    pub const fn is_spare(&self) -> bool {
        self.spare
    }

    /// Lets the next probe go though this one has not ended: it may take as long as its caller likes. How it ends still counts. The
    /// last of as many as may be out keeps its place.
    pub fn yield_place(&mut self) {
        if let Some(call) = self.call.filter(|call| call.call == Call::Probe) {
            self.call = Some(self.breaker.with(|machine| machine.yield_place(call)));
        }
    }

    /// Says how the call ended.
    pub fn record(mut self, outcome: Outcome, now: Instant) {
        let outcome = if self.spare && outcome != Outcome::Success { Outcome::Neutral } else { outcome };
        if let Some(call) = self.call.take() {
            self.breaker.settle(call, outcome, now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            // A neutral outcome looks at no clock.
            self.breaker.settle(call, Outcome::Neutral, Instant::now());
        }
    }
}

impl Breaker {
    fn settle(&self, call: Admitted, outcome: Outcome, now: Instant) {
        if call.call != Call::Ordinary || outcome != Outcome::Neutral {
            self.with(|machine| machine.record(call, outcome, now));
        }
    }
}

#[cfg(test)]
mod tests;
