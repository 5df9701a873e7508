//! A lease as its holder counts it: until when what it keeps is vouched for, and since when.
//!
//! ```text
//!          begin(sent, answered)                     renew(sent)
//! nothing ───────────────────────► held, a new term ────────────► held, the same term
//!    ▲                                │ its time is up │ end()
//!    └────────────────────────────────┴────────────────┘
//!
//! give_up(), in whatever state: nothing, for good
//! ```
//!
//! Whoever grants it counts from when the question was *processed*; the holder from when it was *sent*, and a twentieth less, for
//! clocks that do not run alike: it is over here before it is over there. A term begins when the *answer* is there: what was
//! fetched before that, in an earlier term or in none, is not vouched for, and neither is anything in between two terms.
//!
//! Invariant: at no moment does a reader take a row of one term for one of another. The beginning is stored before the end is, and
//! read after it. And nothing begins, or goes on, after it was given up: what is granted meanwhile is not taken, whichever thread is first.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::since::nanos_from_one;

/// A share of the length that the holder gives up: one part in so many.
const MARGIN: u32 = 20;

/// Since when and until when, in nanoseconds since `origin`, where 0 is before everything.
#[derive(Debug)]
pub(crate) struct Lease {
    origin: Instant,
    began: AtomicU64,
    until: AtomicU64,
    /// Whether it is given up. Held by who gives it an end that lies ahead, so that it is the last to do so; no reader takes it.
    given_up: Mutex<bool>,
}

/// Which of its terms it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term(u64);

impl Lease {
    /// One that is not held.
    pub(crate) fn none() -> Self {
        Self { origin: Instant::now(), began: AtomicU64::new(0), until: AtomicU64::new(0), given_up: Mutex::new(false) }
    }

    /// One that nobody else has to grant: the holder is alone.
    pub(crate) fn of_one() -> Self {
        Self { until: AtomicU64::new(u64::MAX), ..Self::none() }
    }

    /// A new term: asked for at `sent`, granted by an answer that was there at `answered`. Whether it is taken: not once it was given up.
    pub(crate) fn begin(&self, length: Duration, sent: Instant, answered: Instant) -> bool {
        let given_up = self.given_up();
        if *given_up {
            return false;
        }
        self.until.store(0, Ordering::Release);
        self.began.store(self.nanos(answered), Ordering::Release);
        self.until.store(self.end_of(length, sent), Ordering::Release);
        true
    }

    /// The same term goes on: asked for at `sent`. One that is over by then is not revived: others may know that it is.
    pub(crate) fn renew(&self, length: Duration, sent: Instant, now: Instant) {
        let given_up = self.given_up();
        if !*given_up && self.term(now).is_some() {
            self.until.store(self.end_of(length, sent), Ordering::Release);
        }
    }

    /// From now on nothing is vouched for.
    pub(crate) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// From now on nothing is vouched for, and never again.
    pub(crate) fn give_up(&self) {
        *self.given_up() = true;
        self.end();
    }

    /// Whether it is given up.
    pub(crate) fn is_given_up(&self) -> bool {
        *self.given_up()
    }

    fn given_up(&self) -> MutexGuard<'_, bool> {
        // Nothing panics while it is held.
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what was fetched by a question of `fetched` is vouched for at `now`.
    pub(crate) fn vouches(&self, fetched: Instant, now: Instant) -> bool {
        let until = self.until.load(Ordering::Acquire);
        self.nanos(now) < until && self.nanos(fetched) > self.began.load(Ordering::Acquire)
    }

    /// The term at `now`.
    pub(crate) fn term(&self, now: Instant) -> Option<Term> {
        let until = self.until.load(Ordering::Acquire);
        (self.nanos(now) < until).then(|| Term(self.began.load(Ordering::Acquire)))
    }

    /// How much of it is left at `now`.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Acquire).saturating_sub(self.nanos(now)))
    }

    fn end_of(&self, length: Duration, sent: Instant) -> u64 {
        self.nanos(sent + (length - length / MARGIN))
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos_from_one(self.origin, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(2);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_is_counted_from_the_question_and_rows_from_the_answer() {
        let lease = Lease::none();
        let sent = Instant::now();
        let answered = sent + 300 * MS;
        assert_eq!(lease.term(sent), None);
        lease.begin(LENGTH, sent, answered);
        let end = sent + LENGTH - LENGTH / MARGIN;
        assert!(
            !lease.vouches(answered, answered),
            "asked for at the moment of the answer: before it, for all one knows"
        );
        assert!(lease.vouches(answered + MS, answered + 2 * MS));
        assert!(lease.vouches(answered + MS, end - MS) && !lease.vouches(answered + MS, end));
        assert_eq!(lease.left(end - MS), MS);
    }

    #[test]
    fn a_renewal_goes_on_with_the_term_and_does_not_revive_one_that_is_over() {
        let lease = Lease::none();
        let begun = Instant::now();
        lease.begin(LENGTH, begun, begun);
        let (row, later) = (begun + MS, begun + LENGTH / 2);
        lease.renew(LENGTH, later, later + MS);
        assert!(lease.vouches(row, begun + LENGTH));
        // The holder was stopped: its question is answered long after.
        let sent = later + LENGTH - LENGTH / MARGIN;
        lease.renew(LENGTH, sent, sent);
        assert!(!lease.vouches(row, sent) && lease.term(sent).is_none());
        lease.begin(LENGTH, sent, sent + MS);
        assert!(!lease.vouches(row, sent + MS), "a row of the term before");
        assert!(lease.vouches(sent + 2 * MS, sent + 3 * MS));
        lease.end();
        assert!(!lease.vouches(sent + 2 * MS, sent + 3 * MS));
    }

    #[test]
    fn once_given_up_it_neither_begins_nor_goes_on_whatever_is_granted_yet() {
        let lease = Lease::none();
        let begun = Instant::now();
        assert!(lease.begin(LENGTH, begun, begun));
        lease.give_up();
        lease.renew(LENGTH, begun + MS, begun + MS);
        assert!(lease.term(begun + MS).is_none() && lease.is_given_up());
        assert!(!lease.begin(LENGTH, begun + MS, begun + 2 * MS), "asked for before, and granted after");
        assert!(lease.term(begun + 2 * MS).is_none());
    }

    #[test]
    fn who_is_alone_always_holds_it() {
        let lease = Lease::of_one();
        let now = Instant::now();
        assert!(lease.vouches(now, now + 1_000_000 * LENGTH) && lease.term(now).is_some());
    }
}
