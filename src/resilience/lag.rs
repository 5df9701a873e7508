//! How far a replica is behind, from how far it and its primary say that they are in the stream of writes.
//!
//! ```text
//!   primary   asked at t ─► "offset O of history H"       noted: whoever has O of H has all that was written by t
//!   replica   says        "offset R of history H"         as of the latest t whose O ≤ R
//!   a read    at n                                        behind by n − t at most
//! ```
//!
//! Offsets count bytes of the stream, which no clock is part of; the time is that of who asks, always one before the answer. So a
//! replica is never taken for nearer than it is, and what is known of it grows old by itself: a primary that stopped, a link that
//! broke, a history that began anew (a failover, a resync) and an observer that sleeps all end in *behind*, without being told
//! apart.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::since::nanos_from_one;

/// Answers of a primary that are kept.
const MOST: usize = 64;

/// What a primary said of how far it is.
#[derive(Debug, Default)]
pub struct Progress {
    history: Box<str>,
    /// Rising in both.
    marks: VecDeque<(Instant, u64)>,
}

impl Progress {
    /// The primary was asked at that time, and said that offset of that history.
    pub fn note(&mut self, (history, offset): (&str, u64), asked: Instant) {
        let goes_on =
            *history == *self.history && self.marks.back().is_none_or(|(at, known)| *at <= asked && *known <= offset);
        if !goes_on {
            self.history = history.into();
            self.marks.clear();
        }
        if self.marks.len() == MOST {
            self.marks.pop_front();
        }
        self.marks.push_back((asked, offset));
    }

    /// When the primary had nothing that a replica at that offset of that history lacks; `None`: not known.
    #[must_use]
    pub fn as_of(&self, (history, offset): (&str, u64)) -> Option<Instant> {
        if *history != *self.history {
            return None;
        }
        self.marks.iter().rev().find(|(_, known)| *known <= offset).map(|(at, _)| *at)
    }
}

/// As of when a replica is known to have everything. Written by who asks, read by those who choose.
#[derive(Debug)]
pub struct AsOf {
    origin: Instant,
    /// Nanoseconds since `origin`, and one; 0: not known.
    since: AtomicU64,
}

impl AsOf {
    /// Nothing is known; `origin` is before every time that it will be told.
    #[must_use]
    pub const fn new(origin: Instant) -> Self {
        Self { origin, since: AtomicU64::new(0) }
    }

    /// What is known from now on.
    pub fn set(&self, as_of: Option<Instant>) {
        self.since.store(as_of.map_or(0, |at| self.nanos(at)), Relaxed);
    }

    /// How far behind it may be at `now`; `None`: not known.
    #[must_use]
    pub fn lag(&self, now: Instant) -> Option<Duration> {
        let since = self.since.load(Relaxed);
        (since > 0).then(|| Duration::from_nanos(self.nanos(now).saturating_sub(since)))
    }

    /// Whether it is known to be no further behind than that.
    #[must_use]
    pub fn is_within(&self, most: Duration, now: Instant) -> bool {
        self.lag(now).is_some_and(|lag| lag <= most)
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos_from_one(self.origin, at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_replica_is_as_of_the_last_answer_that_it_has_reached() {
        let (origin, mut primary) = (Instant::now(), Progress::default());
        assert_eq!(primary.as_of(("h", 100)), None, "nothing is known of the primary");
        for (at, offset) in [(0, 100), (10, 100), (20, 150), (30, 200)] {
            primary.note(("h", offset), origin + at * MS);
        }
        for (offset, as_of) in [(99, None), (100, Some(10)), (149, Some(10)), (150, Some(20)), (1000, Some(30))] {
            assert_eq!(primary.as_of(("h", offset)), as_of.map(|at| origin + at * MS), "{offset}");
        }
        assert_eq!(primary.as_of(("another", 1000)), None, "it has followed somebody else");
    }

    #[test]
    fn a_history_that_begins_anew_leaves_nobody_up_to_date() {
        let (origin, mut primary) = (Instant::now(), Progress::default());
        primary.note(("h", 500), origin);
        primary.note(("i", 500), origin + 10 * MS);
        assert_eq!(primary.as_of(("h", 900)), None);
        assert_eq!(primary.as_of(("i", 500)), Some(origin + 10 * MS));
        // It started again, and has what it had before it lost some.
        primary.note(("i", 400), origin + 20 * MS);
        assert_eq!(primary.as_of(("i", 400)), Some(origin + 20 * MS));
        assert_eq!(primary.as_of(("i", 399)), None);
    }

    #[test]
    fn what_is_known_grows_old_by_itself() {
        let origin = Instant::now();
        let replica = AsOf::new(origin);
        assert!(!replica.is_within(1000 * MS, origin), "unknown");
        replica.set(Some(origin));
        assert!(replica.is_within(Duration::ZERO, origin));
        replica.set(Some(origin + 10 * MS));
        assert_eq!(replica.lag(origin + 15 * MS), Some(5 * MS));
        assert!(replica.is_within(5 * MS, origin + 15 * MS) && !replica.is_within(5 * MS, origin + 16 * MS));
        replica.set(None);
        assert_eq!(replica.lag(origin + 15 * MS), None);
    }

    /// A step of a world in which a primary writes and a replica follows.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Write(u64),
        /// The replica takes so much of what it lacks.
        Follow(u64),
        AskPrimary,
        AskReplica,
        /// Another primary, with what the replica has, and a new history; the replica follows it at once, or not.
        Failover(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..50u64).prop_map(Step::Write),
            (1..80u64).prop_map(Step::Follow),
            Just(Step::AskPrimary),
            Just(Step::AskReplica),
            any::<bool>().prop_map(Step::Failover),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: what a replica is said to have, it has.
        #[test]
        fn a_replica_has_what_it_is_said_to_have(steps in prop::collection::vec(step(), 0..200)) {
            let origin = Instant::now();
            let (mut known, replica) = (Progress::default(), AsOf::new(origin));
            let (mut history, mut followed) = (0, 0);
            // What the primary had at each time, as of its own history; how far both are.
            let (mut written, mut at, mut has) = (vec![0u64], 0u64, 0u64);
            for (tick, step) in steps.into_iter().enumerate() {
                let now = origin + u32::try_from(tick + 1).unwrap() * MS;
                match step {
                    Step::Write(bytes) => at += bytes,
                    Step::Follow(bytes) if history == followed => has = at.min(has + bytes),
                    // It is sent what it lacks of the new history.
                    Step::Follow(_) => (followed, has) = (history, at),
                    Step::AskPrimary => known.note((&history.to_string(), at), now),
                    Step::AskReplica => replica.set(known.as_of((&followed.to_string(), has))),
                    Step::Failover(follows) => {
                        history += 1;
                        if follows {
                            followed = history;
                        }
                        // What nobody followed is lost.
                        at = has;
                        written.iter_mut().for_each(|had| *had = (*had).min(has));
                        replica.set(None);
                    }
                }
                written.push(at);
                if let Some(lag) = replica.lag(now) {
                    let as_of = tick + 1 - usize::try_from(lag.as_millis()).unwrap();
                    // Of the tick itself what was there before the question.
                    prop_assert!(has >= written[as_of - 1], "has {has} of {written:?} as of {as_of}");
                }
            }
        }
    }
}
