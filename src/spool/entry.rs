//! A kept request's life, as a machine: time is passed in, nothing is stored here.
//!
//! ```text
//!             claim (attempts + 1)
//!   waiting ─────────────────────────► running ──── finish ────► done
//!      ▲                                │ │ │
//!      ├── give back (attempts - 1) ────┘ │ │
//!      ├── fail, or overdue: tries left ──┘ │
//!      └── replay (attempts = 0) ◄── parked ◄── fail, or overdue: no tries left
//! ```
//!
//! Where the model must not be asked twice, the first try is the last that may have reached it: nobody knows how one that is overdue
//! went, hence it has no tries left.
//!
//! A claim has a number, and who was given another one since can no longer change the entry, but for one thing: a result. The
//! first one stays, whoever brings it, so that a key has exactly one. The Redis store does the same in a script; the conformance
//! tests hold both to a model of it.

use std::{sync::Arc, time::Duration};

use crate::resilience::backoff::Retry;

/// Milliseconds since 1970, by the gateways' clocks.
pub(crate) type Millis = u64;

/// Why a request was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was answered at level 3: nobody waits for its result.
    Logged,
    /// It was not answered: the caller comes back for its result.
    Queued,
}

impl Why {
    /// As it is stored and shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Logged => "logged",
            Self::Queued => "queued",
        }
    }

    /// Reads what [`Why::name`] wrote.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Logged, Self::Queued].into_iter().find(|why| why.name() == name)
    }
}

/// Where an entry is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is tried from then on.
    Waiting {
        /// When its turn is.
        due: Millis,
    },
    /// A gateway tries it.
    Running {
        /// Which one.
        by: Arc<str>,
        /// Another one may take it from then on.
        until: Millis,
    },
    /// It has its result.
    Done {
        /// Since when.
        at: Millis,
    },
    /// It failed too often, or in a way that trying again does not mend: an operator decides.
    Parked {
        /// Since when.
        at: Millis,
        /// What went wrong the last time.
        reason: Arc<str>,
    },
}

/// A state's name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    Waiting,
    Running,
    Done,
    Parked,
}

impl Standing {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Waiting, Self::Running, Self::Done, Self::Parked];

    /// As it is stored, shown, and a label of metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Parked => "parked",
        }
    }

    /// Reads what [`Standing::name`] wrote.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.name() == name)
    }
}

impl State {
    /// Its name.
    pub(crate) const fn standing(&self) -> Standing {
        match self {
            Self::Waiting { .. } => Standing::Waiting,
            Self::Running { .. } => Standing::Running,
            Self::Done { .. } => Standing::Done,
            Self::Parked { .. } => Standing::Parked,
        }
    }
}

/// A kept request, its content and its result apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// 32 hex digits that nobody guesses: who knows them may read the result.
    pub(crate) id: Arc<str>,
    /// The caller's `idempotency-key`, or the id.
    pub(crate) key: Arc<str>,
    pub(crate) model: Arc<str>,
    pub(crate) why: Why,
    /// Whether a try that may have reached the model is the last (`idempotent: false`).
    pub(crate) once: bool,
    /// Of what was asked, to tell a repeated request from another one under the same key.
    pub(crate) digest: u128,
    pub(crate) received: Millis,
    /// It is forgotten then, whatever its state.
    pub(crate) expires: Millis,
    /// Tries that began.
    pub(crate) attempts: u32,
    /// Times it was claimed: the last claim's number.
    pub(crate) claims: u64,
    pub(crate) state: State,
}

/// How a try ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It is tried again then.
    Again(Millis),
    /// It is parked, for that reason.
    Park(Arc<str>),
}

impl Failed {
    /// What becomes of a request after try number `attempts` (from 1) failed in a way that another try may mend.
    pub(crate) fn after(attempts: u32, retry: &Retry, (now, unit): (Millis, f64), reason: &str) -> Self {
        if attempts > retry.max_retries {
            return Self::Park(reason.into());
        }
        Self::Again(now.saturating_add(millis(retry.delay(attempts.saturating_sub(1), unit))))
    }
}

/// Whether a claim is still the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It was, and what it asked for is done.
    Yes,
    /// Somebody else has the entry, or nobody: nothing was changed.
    No,
}

/// What became of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// It is the entry's.
    Stored,
    /// The entry has one already, which stays.
    Already,
    /// The entry is forgotten.
    Gone,
}

/// What became of an operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// Its turn is now.
    Due,
    /// Not in that state.
    Not(Standing),
    /// There is no such entry.
    Gone,
}

/// Why an entry is parked whose gateways went away while they tried it.
pub(crate) const ABANDONED: &str = "no gateway that tried it lived to tell how it went";

impl Entry {
    /// Begins a try. Only of one that waits.
    pub(crate) fn claim(&mut self, by: Arc<str>, until: Millis) {
        self.attempts = self.attempts.saturating_add(1);
        self.claims += 1;
        self.state = State::Running { by, until };
    }

    /// A try brought a result, however late.
    pub(crate) fn finish(&mut self, now: Millis, keep_for: Duration) -> Finished {
        if matches!(self.state, State::Done { .. }) {
            return Finished::Already;
        }
        self.state = State::Done { at: now };
        self.expires = now.saturating_add(millis(keep_for));
        Finished::Stored
    }

    /// A try brought none.
    pub(crate) fn fail(&mut self, claim: u64, failed: Failed, now: Millis) -> Held {
        if !self.is_held(claim) {
            return Held::No;
        }
        self.state = match failed {
            Failed::Again(due) => State::Waiting { due },
            Failed::Park(reason) => State::Parked { at: now, reason },
        };
        Held::Yes
    }

    /// A try was not made after all.
    pub(crate) fn give_back(&mut self, claim: u64, due: Millis) -> Held {
        if !self.is_held(claim) {
            return Held::No;
        }
        self.attempts = self.attempts.saturating_sub(1);
        self.state = State::Waiting { due };
        Held::Yes
    }

    /// Nobody said in time how a try went.
    pub(crate) fn overdue(&mut self, now: Millis, max_retries: u32) {
        self.state = if self.once || self.attempts > max_retries {
            State::Parked { at: now, reason: ABANDONED.into() }
        } else {
            State::Waiting { due: now }
        };
    }

    /// An operator wants it tried now, with all its tries before it.
    pub(crate) fn replay(&mut self, now: Millis) -> Replayed {
        match self.state {
            State::Waiting { .. } | State::Parked { .. } => {
                self.attempts = 0;
                self.state = State::Waiting { due: now };
                Replayed::Due
            }
            State::Running { .. } | State::Done { .. } => Replayed::Not(self.state.standing()),
        }
    }

    fn is_held(&self, claim: u64) -> bool {
        self.claims == claim && matches!(self.state, State::Running { .. })
    }
}

/// A length of time in whole milliseconds.
pub(crate) fn millis(length: Duration) -> Millis {
    length.as_millis().try_into().unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Retry = Retry {
        max_retries: 5,
        initial_delay: Duration::from_secs(60),
        max_delay: Duration::from_secs(3600),
        multiplier: 2.0,
        jitter: 0.3,
    };

    fn entry() -> Entry {
        Entry {
            id: "id".into(),
            key: "key".into(),
            model: "m".into(),
            why: Why::Queued,
            once: false,
            digest: 1,
            received: 1000,
            expires: 9000,
            attempts: 0,
            claims: 0,
            state: State::Waiting { due: 1000 },
        }
    }

    #[test]
    fn a_poisoned_request_is_parked_after_its_retries() {
        let mut entry = entry();
        let mut delays = Vec::new();
        loop {
            entry.claim("a".into(), 2000);
            let failed = Failed::after(entry.attempts, &LONG, (0, 0.5), "502");
            assert_eq!(entry.fail(entry.claims, failed.clone(), 7), Held::Yes);
            match failed {
                Failed::Again(due) => delays.push(due / 1000),
                Failed::Park(_) => break,
            }
        }
        assert_eq!(delays, [60, 120, 240, 480, 960], "five retries, doubled");
        assert_eq!(entry.state, State::Parked { at: 7, reason: "502".into() });
        assert_eq!(entry.replay(8), Replayed::Due);
        assert_eq!((entry.attempts, entry.state), (0, State::Waiting { due: 8 }));
    }

    #[test]
    fn a_delay_is_spread_by_a_third_either_way() {
        for (unit, seconds) in [(0.0, 42), (0.999_999_9, 77)] {
            let Failed::Again(due) = Failed::after(1, &LONG, (0, unit), "") else { panic!("tries are left") };
            assert_eq!(due / 1000, seconds);
        }
    }

    #[test]
    fn one_that_kills_its_gateways_is_parked_too() {
        let mut entry = entry();
        for _ in 0..=LONG.max_retries {
            assert_eq!(entry.state.standing(), Standing::Waiting);
            entry.claim("a".into(), 2000);
            entry.overdue(2000, LONG.max_retries);
        }
        assert_eq!(entry.state, State::Parked { at: 2000, reason: ABANDONED.into() });
    }

    #[test]
    fn nobody_knows_how_an_overdue_try_went_and_one_that_must_be_the_only_one_was() {
        let mut entry = Entry { once: true, ..entry() };
        entry.claim("a".into(), 2000);
        assert_eq!(entry.give_back(entry.claims, 1500), Held::Yes, "known not to have been made");
        entry.claim("b".into(), 3000);
        entry.overdue(3000, LONG.max_retries);
        assert_eq!(entry.state, State::Parked { at: 3000, reason: ABANDONED.into() });
        assert_eq!((entry.replay(3100), entry.attempts), (Replayed::Due, 0), "an operator may know better");
    }

    #[test]
    fn who_lost_a_claim_changes_nothing_and_a_result_of_theirs_counts_once() {
        let mut entry = entry();
        entry.claim("a".into(), 2000);
        let first = entry.claims;
        entry.overdue(2000, 5);
        entry.claim("b".into(), 3000);
        let before = entry.clone();
        assert_eq!(entry.fail(first, Failed::Park("late".into()), 2500), Held::No);
        assert_eq!(entry.give_back(first, 2500), Held::No);
        assert_eq!(entry, before);
        assert_eq!(entry.finish(2600, Duration::from_secs(1)), Finished::Stored);
        assert_eq!(entry.finish(2700, Duration::from_secs(1)), Finished::Already);
        assert_eq!((entry.expires, entry.state.clone()), (3600, State::Done { at: 2600 }));
        assert_eq!(entry.fail(2, Failed::Again(1), 2800), Held::No);
        assert_eq!(entry.replay(2900), Replayed::Not(Standing::Done));
    }

    #[test]
    fn a_try_that_was_not_made_is_not_counted() {
        let mut entry = entry();
        entry.claim("a".into(), 2000);
        assert_eq!(entry.give_back(entry.claims, 1500), Held::Yes);
        assert_eq!((entry.attempts, entry.claims), (0, 1));
    }
}
