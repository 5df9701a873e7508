//! The retry budget: extra load is a share of the load, whatever fails.
//!
//! Every request deposits `ratio`, every retry or hedge withdraws 1, and both count for ten clock seconds; besides, 10 a second
//! are always granted, so that a quiet pool can retry at all. Invariant: a retry is granted only if over the ten clock seconds
//! that end with it withdrawals ≤ ratio · requests + 100.
//! It does not know what is withdrawn for; one budget a pool serves retries and hedges together.
//!
//! **Source:** Finagle's `RetryBudget`. Sums are fixed point: integer division would turn a ratio of 0.3 into 0.33.

use std::{sync::atomic::AtomicU64, time::Duration};

use tokio::time::Instant;

use super::{
    bulkhead::Word,
    slot::{unpack, update},
};

/// How long a deposit or a withdrawal counts, in seconds; one slot each.
const TTL_SECONDS: u32 = 10;

/// Retries a second that are granted without any deposit.
const LEAST_PER_SECOND: i64 = 10;

/// One retry, in fixed point.
const UNIT: i64 = 10_000;

/// A pool's budget.
#[derive(Debug)]
pub struct Budget<W = AtomicU64> {
    origin: Instant,
    deposit: i32,
    /// Granted without any deposit, a second.
    least: i64,
    /// A ring of seconds: the second's number in the high half, its balance (an `i32`) in the low half.
    slots: [W; TTL_SECONDS as usize],
}

impl Budget {
    /// A budget in which each request pays for `ratio` (0 to 1) of a retry.
    #[must_use]
    pub fn new(ratio: f64, origin: Instant) -> Self {
        Self::with((ratio, LEAST_PER_SECOND), origin)
    }

    /// The same, and nothing is granted but what was deposited.
    #[must_use]
    pub fn strict(ratio: f64, origin: Instant) -> Self {
        Self::with((ratio, 0), origin)
    }
}

impl<W: Word> Budget<W> {
    fn with((ratio, least): (f64, i64), origin: Instant) -> Self {
        let deposit = (ratio.clamp(0.0, 1.0) * UNIT as f64).round() as i32;
        Self { origin, deposit, least, slots: std::array::from_fn(|_| W::zero()) }
    }

    /// Notes a request (not a retry).
    pub fn deposit(&self, now: Instant) {
        self.add(self.second(now), self.deposit);
    }

    /// Takes one retry out of the budget; `false`: it is spent, do not retry.
    ///
    /// Never grants too much: each caller subtracts first and sums up then, so of two that race for the last unit the later
    /// one sees both (`loom_the_last_unit_is_granted_once_at_most`). Both may be refused then.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let second = self.second(now);
        self.add(second, -(UNIT as i32));
        let granted = self.balance(second) >= 0;
        if !granted {
            self.add(second, UNIT as i32);
        }
        granted
    }

    /// Puts back what was taken at `then` and not used. What was taken too long ago to count is no longer missing.
    pub fn give_back(&self, then: Instant) {
        let second = self.second(then);
        update(&self.slots[(second % TTL_SECONDS) as usize], |of, balance| {
            (of == second).then(|| (of, balance.cast_signed().saturating_add(UNIT as i32).cast_unsigned()))
        });
    }

    /// How many retries it would grant now, for display.
    #[must_use]
    pub fn available(&self, now: Instant) -> u32 {
        u32::try_from(self.balance(self.second(now)) / UNIT).unwrap_or(0)
    }

    fn second(&self, now: Instant) -> u32 {
        // One-based: 0 marks a slot that was never used.
        let since: Duration = now.saturating_duration_since(self.origin);
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX - 1) + 1
    }

    fn add(&self, second: u32, amount: i32) {
        update(&self.slots[(second % TTL_SECONDS) as usize], |of, balance| {
            // A caller whose clock reading is older than the slot adds to the newer second: nothing is lost.
            let (of, balance) = if of < second { (second, 0) } else { (of, balance.cast_signed()) };
            Some((of, balance.saturating_add(amount).cast_unsigned()))
        });
    }

    fn balance(&self, second: u32) -> i64 {
        let counts = |of: u32| of != 0 && of + TTL_SECONDS > second;
        let sum: i64 = self
            .slots
            .iter()
            .map(|slot| unpack(slot.load()))
            .filter_map(|(of, balance)| counts(of).then_some(i64::from(balance.cast_signed())))
            .sum();
        sum + self.least * i64::from(TTL_SECONDS) * UNIT
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::{Arc, atomic::AtomicU64 as Modelled};
    use proptest::prelude::*;

    use super::*;

    fn seconds(origin: Instant, seconds: u64) -> Instant {
        origin + Duration::from_secs(seconds)
    }

    #[test]
    fn without_requests_ten_a_second_are_granted() {
        let origin = Instant::now();
        let budget = Budget::new(0.2, origin);
        assert_eq!((0..200).filter(|_| budget.withdraw(origin)).count(), 100);
        assert!(!budget.withdraw(seconds(origin, 9)));
        assert!(budget.withdraw(seconds(origin, 10)), "what was withdrawn 10 s ago no longer counts");
    }

    #[test]
    fn every_ratio_is_exact() {
        for (ratio, granted) in [(0.0, 100), (0.2, 300), (0.3, 400), (0.6, 700), (1.0, 1_100)] {
            let origin = Instant::now();
            let budget = Budget::new(ratio, origin);
            (0..1_000).for_each(|_| budget.deposit(origin));
            assert_eq!(budget.available(origin), granted, "{ratio}");
            assert_eq!((0..2_000).filter(|_| budget.withdraw(origin)).count(), granted as usize, "{ratio}");
        }
    }

    #[test]
    fn a_strict_one_grants_only_what_was_deposited() {
        let origin = Instant::now();
        let budget = Budget::strict(0.02, origin);
        (0..49).for_each(|_| budget.deposit(origin));
        assert!(!budget.withdraw(origin));
        budget.deposit(origin);
        assert!(budget.withdraw(origin) && !budget.withdraw(origin), "one in fifty");
        budget.give_back(origin);
        assert!(budget.withdraw(origin), "what was not used");
    }

    #[test]
    fn what_comes_back_is_of_the_second_it_was_taken_in() {
        let origin = Instant::now();
        let budget = Budget::strict(1.0, origin);
        (0..2).for_each(|_| budget.deposit(origin));
        assert!(budget.withdraw(origin));
        budget.give_back(origin);
        assert_eq!(budget.available(seconds(origin, 9)), 2);
        assert_eq!(budget.available(seconds(origin, 10)), 0, "it goes with its deposit");
        assert!(budget.available(origin) == 2 && budget.withdraw(origin));
        budget.deposit(seconds(origin, 10));
        budget.give_back(origin);
        assert_eq!(budget.available(seconds(origin, 10)), 1, "ten seconds later it is missing to nobody");
    }

    #[test]
    fn racing_callers_never_get_more_than_there_is() {
        let origin = Instant::now();
        let budget = Budget::new(0.2, origin);
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..100).filter(|_| budget.withdraw(origin)).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(granted <= 100, "{granted}");
    }

    #[test]
    fn loom_the_last_unit_is_granted_once_at_most() {
        loom::model(|| {
            let origin = Instant::now();
            let budget = Arc::new(Budget::<Modelled>::with((1.0, 0), origin));
            budget.deposit(origin);
            let other = {
                let budget = budget.clone();
                loom::thread::spawn(move || budget.withdraw(origin))
            };
            let granted = u32::from(budget.withdraw(origin)) + u32::from(other.join().unwrap());
            assert!(granted <= 1, "one unit, granted twice");
            assert_eq!(granted + budget.available(origin), 1, "what was refused is back");
        });
    }

    /// One whose clock is ten seconds behind meets the slot as the next has taken it over, or before.
    #[test]
    fn loom_a_late_caller_costs_the_newer_second_nothing() {
        loom::model(|| {
            let origin = Instant::now();
            let budget = Arc::new(Budget::<Modelled>::with((1.0, 0), origin));
            let late = {
                let budget = budget.clone();
                loom::thread::spawn(move || budget.deposit(origin))
            };
            budget.deposit(seconds(origin, 10));
            late.join().unwrap();
            assert!((1..=2).contains(&budget.available(seconds(origin, 10))));
        });
    }

    proptest! {
        /// Against the plainest model: a list of everything that happened.
        #[test]
        fn agrees_with_a_list_of_events(steps in prop::collection::vec((0..4u64, any::<bool>()), 0..400)) {
            let origin = Instant::now();
            let budget = Budget::new(0.2, origin);
            let (mut at, mut events) = (0, Vec::<(u64, i64)>::new());
            for (wait, retry) in steps {
                at += wait;
                let sum: i64 = events.iter().filter(|(then, _)| then + 10 > at).map(|(_, amount)| amount).sum();
                if retry {
                    let expected = sum + 100 * UNIT >= UNIT;
                    prop_assert_eq!(budget.withdraw(seconds(origin, at)), expected);
                    if expected { events.push((at, -UNIT)); }
                } else {
                    budget.deposit(seconds(origin, at));
                    events.push((at, UNIT / 5));
                }
            }
        }
    }
}
