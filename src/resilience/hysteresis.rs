//! Hysteresis: what a signal that comes and goes is taken for, so that whoever follows it does not flap.
//!
//! ```text
//!          active without a break for enter_after
//!   quiet ────────────────────────────────────────► in force
//!     ▲                                                 │
//!     └────────── quiet without a break for exit_after ─┘
//! ```
//!
//! Invariants: a look that finds the opposite begins the wait anew, so a signal whose quiet spells are all shorter than
//! `exit_after` makes one transition at most; two transitions are at least `enter_after` or `exit_after` apart, whichever the
//! second is. Between two looks the signal is taken to have been what the earlier one found.

use std::time::Duration;

use tokio::time::Instant;

/// What a look changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The signal is in force from now on.
    Entered,
    /// It no longer is.
    Left,
}

/// One signal's.
#[derive(Clone, Debug)]
pub struct Hysteresis {
    enter_after: Duration,
    exit_after: Duration,
    in_force: bool,
    /// Since when the signal says the opposite without a break.
    opposite_since: Option<Instant>,
}

impl Hysteresis {
    /// A signal that is not in force.
    #[must_use]
    pub const fn new(enter_after: Duration, exit_after: Duration) -> Self {
        Self { enter_after, exit_after, in_force: false, opposite_since: None }
    }

    /// Takes in whether the signal is active at `now`; times must not run backwards.
    pub fn look(&mut self, active: bool, now: Instant) -> Option<Transition> {
        if active == self.in_force {
            self.opposite_since = None;
            return None;
        }
        let since = *self.opposite_since.get_or_insert(now);
        let (after, transition) =
            if active { (self.enter_after, Transition::Entered) } else { (self.exit_after, Transition::Left) };
        if now.saturating_duration_since(since) < after {
            return None;
        }
        (self.in_force, self.opposite_since) = (active, None);
        Some(transition)
    }

    /// Whether it is in force.
    #[must_use]
    pub const fn in_force(&self) -> bool {
        self.in_force
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENTER: Duration = Duration::from_secs(1);
    const EXIT: Duration = Duration::from_secs(10);

    /// The transitions of a signal that is looked at so many milliseconds after the origin.
    fn transitions(enter: Duration, exit: Duration, looks: &[(u64, bool)]) -> Vec<(u64, Transition)> {
        let (mut hysteresis, origin) = (Hysteresis::new(enter, exit), Instant::now());
        let mut look = |at, active| hysteresis.look(active, origin + Duration::from_millis(at));
        looks.iter().filter_map(|(at, active)| Some((*at, look(*at, *active)?))).collect()
    }

    #[test]
    fn it_enters_after_the_one_and_leaves_after_the_other() {
        let looks: Vec<_> = (0..200).map(|at| (at * 100, (5..25).contains(&at))).collect();
        assert_eq!(transitions(ENTER, EXIT, &looks), [(1_500, Transition::Entered), (12_500, Transition::Left)]);
    }

    #[test]
    fn a_break_begins_the_wait_anew() {
        let looks = [(0, true), (900, true), (950, false), (1_000, true), (1_900, true), (2_000, true)];
        assert_eq!(transitions(ENTER, EXIT, &looks), [(2_000, Transition::Entered)]);
        let looks = [(0, true), (1_000, true), (1_100, false), (11_000, true), (11_050, false), (21_000, false)];
        assert_eq!(transitions(ENTER, EXIT, &looks), [(1_000, Transition::Entered)]);
    }

    #[test]
    fn without_a_wait_it_follows_the_signal() {
        let looks = [(0, true), (1, false), (2, true)];
        let expected = [(0, Transition::Entered), (1, Transition::Left), (2, Transition::Entered)];
        assert_eq!(transitions(Duration::ZERO, Duration::ZERO, &looks), expected);
    }

    /// Looks as far apart as the first of each pair says.
    fn at_times(steps: Vec<(u64, bool)>) -> Vec<(u64, bool)> {
        let at = |at: &mut u64, (wait, active)| {
            *at += wait;
            Some((*at, active))
        };
        steps.into_iter().scan(0, at).collect()
    }

    proptest! {
        /// Against the sentence itself: all looks since the last transition and since a time that long ago say the opposite.
        #[test]
        fn agrees_with_the_sentence(
            steps in prop::collection::vec((0..400u64, any::<bool>()), 0..300), enter in 0..900u64, exit in 0..2_000u64,
        ) {
            let looks = at_times(steps);
            let (mut expected, mut in_force, mut from) = (Vec::new(), false, 0);
            for (index, (now, active)) in looks.iter().enumerate() {
                let run = looks[from..=index].iter().rev().take_while(|(_, active)| *active != in_force);
                let after = if in_force { exit } else { enter };
                if *active != in_force && run.last().is_some_and(|(first, _)| now - first >= after) {
                    expected.push((*now, if in_force { Transition::Left } else { Transition::Entered }));
                    (in_force, from) = (*active, index + 1);
                }
            }
            let found = transitions(Duration::from_millis(enter), Duration::from_millis(exit), &looks);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn one_that_flaps_faster_than_it_could_leave_moves_once(
            steps in prop::collection::vec((1..10_000u64, 1..5_000u64), 1..100),
        ) {
            // Active for the first of each pair, then quiet for less than `EXIT`.
            let spells = steps.into_iter().flat_map(|(quiet, active)| [(quiet, true), (active, true), (1, false)]);
            let found = transitions(ENTER, EXIT, &at_times(spells.collect()));
            prop_assert!(found.len() <= 1, "{:?}", found);
        }

        #[test]
        fn transitions_keep_their_distance(steps in prop::collection::vec((0..3_000u64, any::<bool>()), 0..400)) {
            let found = transitions(ENTER, EXIT, &at_times(steps));
            for pair in found.windows(2) {
                let least = if pair[1].1 == Transition::Entered { ENTER } else { EXIT };
                prop_assert!(Duration::from_millis(pair[1].0 - pair[0].0) >= least, "{:?}", pair);
            }
        }
    }
}
