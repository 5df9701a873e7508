//! The breaker's machine, without locks or clock.

use std::time::Duration;

use tokio::time::Instant;

use super::{Cause, Outcome, Policy, Refused, State, Transition, window::Window};

/// How long a breaker waits for a probe before a call for which nobody waits may be it: who has requests of callers has one by then.
pub(super) const UNWANTED: Duration = Duration::from_secs(2);

/// What a call was admitted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub(super) epoch: u64,
    pub(super) call: Call,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Ordinary,
    Probe,
    /// A probe that lets others go before it has ended.
    Yielded,
    /// A probe of a breaker that stays open meanwhile.
    Early,
}

/// The machine itself.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    /// Transitions so far.
    pub(super) epoch: u64,
    /// How long it stays open next.
    open_for: Duration,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Closed(Window),
    Open {
        until: Instant,
        begun: Trip,
        early: Early,
    },
    /// `since`: when the last probe went, or ended.
    HalfOpen {
        successes: u32,
        probing: bool,
        yielded: u32,
        /// Probes given up too soon since the last success.
        impatient: u32,
        since: Instant,
    },
}

/// The probes ahead of time.
#[derive(Clone, Copy, Debug)]
struct Early {
    /// When the next may go.
    from: Instant,
    out: bool,
}

/// How long a target that was just found failing is left alone in any case.
const REST: Duration = Duration::from_secs(1);

/// What is told of it when it opens.
#[derive(Clone, Copy, Debug)]
struct Trip {
    cause: Cause,
    open_for: Duration,
}

impl Machine {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, epoch: 0, open_for: policy.open_for, phase: Phase::Closed(Window::default()) }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Closed(_) => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// How it came to where it stands.
    pub(super) const fn transition(&self) -> Transition {
        match self.phase {
            Phase::Closed(_) => Transition::Closed,
            Phase::Open { begun: Trip { cause, open_for }, .. } => Transition::Opened { cause, open_for },
            Phase::HalfOpen { .. } => Transition::HalfOpen,
        }
    }

    /// Asks to make a call. An open breaker whose time has come turns half-open and admits it as the first probe.
    ///
    /// # Errors
    ///
    /// [`Refused`] while open, and while a probe is out.
    pub fn admit(&mut self, now: Instant) -> Result<Admitted, Refused> {
        match self.phase {
            Phase::Closed(_) => Ok(Admitted { epoch: self.epoch, call: Call::Ordinary }),
            Phase::Open { until, .. } if now < until => Err(Refused { until: Some(until) }),
            Phase::HalfOpen { probing: true, .. } => Err(Refused { until: None }),
            Phase::Open { .. } => {
                self.enter(Phase::HalfOpen { successes: 0, probing: true, yielded: 0, impatient: 0, since: now });
                Ok(Admitted { epoch: self.epoch, call: Call::Probe })
            }
            Phase::HalfOpen { ref mut probing, ref mut since, .. } => {
                (*probing, *since) = (true, now);
                Ok(Admitted { epoch: self.epoch, call: Call::Probe })
            }
        }
    }

    /// Asks to make a call ahead of an open breaker's time, where nobody else can be asked; the next such call not within `pause`. As
    /// [`Self::admit`] once its time has come, and where it is not open.
    ///
    /// # Errors
    ///
    /// [`Refused`] within a second of the trip, within the pause, and while such a call, or a probe, is out.
    pub fn admit_early(&mut self, pause: Duration, now: Instant) -> Result<Admitted, Refused> {
        match &mut self.phase {
            Phase::Open { until, .. } if now >= *until => self.admit(now),
            Phase::Open { until, early, .. } => {
                if early.out || now < early.from {
                    return Err(Refused { until: Some(*until) });
                }
                *early = Early { from: now + pause, out: true };
                Ok(Admitted { epoch: self.epoch, call: Call::Early })
            }
            Phase::Closed(_) | Phase::HalfOpen { .. } => self.admit(now),
        }
    }

    /// From when on an open breaker may be asked for an early probe.
    #[must_use]
    pub const fn early_from(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open { early, .. } => Some(early.from),
            Phase::Closed(_) | Phase::HalfOpen { .. } => None,
        }
    }

    /// Whether [`Self::admit`] would say yes.
    #[must_use]
    pub fn would_admit(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed(_) => true,
            Phase::Open { until, .. } => now >= until,
            Phase::HalfOpen { probing, .. } => !probing,
        }
    }

    /// Whether a spare call would be admitted: it is closed, or has waited two seconds for a probe, so that nobody else is there
    /// to be one.
    #[must_use]
    pub fn would_admit_spare(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed(_) => true,
            Phase::Open { until, .. } => now >= until + UNWANTED,
            Phase::HalfOpen { probing, since, .. } => !probing && now >= since + UNWANTED,
        }
    }

    /// How long it still refuses every call; zero unless it is open.
    #[must_use]
    pub fn time_left(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Open { until, .. } => until.saturating_duration_since(now),
            Phase::Closed(_) | Phase::HalfOpen { .. } => Duration::ZERO,
        }
    }

    /// When an open breaker takes its first probe.
    #[must_use]
    pub const fn until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open { until, .. } => Some(until),
            Phase::Closed(_) | Phase::HalfOpen { .. } => None,
        }
    }

    /// Something else found the target well: an open breaker takes the next call for its probe.
    pub fn probe_from(&mut self, now: Instant) {
        if let Phase::Open { until, .. } = &mut self.phase {
            *until = now.min(*until);
        }
    }

    /// Lets the next probe go though this one has not ended, unless as many are out as may be. Returns what it is then.
    pub fn yield_place(&mut self, call: Admitted) -> Admitted {
        match &mut self.phase {
            Phase::HalfOpen { probing, yielded, .. }
                if call.epoch == self.epoch
                    && call.call == Call::Probe
                    && *yielded + 1 < self.policy.half_open_requests =>
            {
                *probing = false;
                *yielded += 1;
                Admitted { call: Call::Yielded, ..call }
            }
            _ => call,
        }
    }

    /// Takes in how an admitted call ended.
    pub fn record(&mut self, call: Admitted, outcome: Outcome, now: Instant) {
        if call.epoch != self.epoch {
            return;
        }
        match (&mut self.phase, outcome) {
            (Phase::Closed(_), Outcome::Neutral) => {}
            // No other call is of the epoch of an open breaker than an early probe.
            (Phase::Open { .. }, Outcome::Success) => {
                self.enter(Phase::HalfOpen { successes: 1, probing: false, yielded: 0, impatient: 0, since: now });
                if self.policy.closes_at() <= 1 {
                    self.close();
                }
            }
            (Phase::Open { early, .. }, _) => early.out = false,
            (Phase::Closed(window), outcome) => {
                if let Some(cause) = window.trips(&self.policy, outcome, now) {
                    self.open(cause, now);
                }
            }
            (Phase::HalfOpen { .. }, Outcome::Failure | Outcome::Silence | Outcome::TimeoutOfLast) => {
                self.open(Cause::Probe, now)
            }
            (Phase::HalfOpen { successes, probing, yielded, impatient, since }, outcome) => {
                *since = now;
                // A probe's caller that waited for too little leaves it to the next, but not for ever.
                match outcome {
                    Outcome::Impatience => *impatient += 1,
                    Outcome::Success => *impatient = 0,
                    _ => {}
                }
                if *impatient >= self.policy.failure_threshold.max(1) {
                    self.open(Cause::Probe, now);
                    return;
                }
                *successes += u32::from(outcome == Outcome::Success);
                match call.call {
                    Call::Yielded => *yielded -= 1,
                    Call::Ordinary | Call::Probe | Call::Early => *probing = false,
                }
                if *successes >= self.policy.closes_at() {
                    self.close();
                }
            }
        }
    }

    fn open(&mut self, cause: Cause, now: Instant) {
        let begun = Trip { cause, open_for: self.open_for };
        let early = Early { from: now + REST, out: false };
        self.enter(Phase::Open { until: now + self.open_for, begun, early });
        // Until it closes, each time is longer.
        self.open_for = self.open_for.saturating_mul(2).min(self.policy.max_open_for.max(self.policy.open_for));
    }

    fn close(&mut self) {
        self.open_for = self.policy.open_for;
        self.enter(Phase::Closed(Window::default()));
    }

    fn enter(&mut self, phase: Phase) {
        self.epoch += 1;
        self.phase = phase;
    }
}
