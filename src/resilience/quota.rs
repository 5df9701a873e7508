//! A quota: at most so many at once (requests, bytes), counted in one atomic.
//!
//! Invariant: the count never passes the most, not even for a moment, and what leaves makes room for as much (loom walks both
//! below). It does not say who may try, and keeps nobody waiting.

use std::sync::atomic::AtomicU64;

use super::bulkhead::Word;

/// How many there are, and how many there may be.
#[derive(Debug)]
pub struct Quota<W = AtomicU64> {
    count: W,
    most: u64,
}

impl<W: Word> Quota<W> {
    /// Room for `most`.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { count: W::zero(), most }
    }

    /// Counts one more; `false` where there are as many as may be. Each `true` is owed a [`Self::leave`].
    #[must_use]
    pub fn enter(&self) -> bool {
        self.take(1)
    }

    /// Takes back what [`Self::enter`] counted.
    pub fn leave(&self) {
        self.give_back(1);
    }

    /// Counts `amount` more, or nothing and `false` where that would be more than may be. Each `true` is owed a
    /// [`Self::give_back`].
    #[must_use]
    pub fn take(&self, amount: u64) -> bool {
        let mut seen = self.count.load();
        while amount <= self.most - seen {
            match self.count.replace(seen, seen + amount) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes back what [`Self::take`] counted.
    pub fn give_back(&self, amount: u64) {
        let mut seen = self.count.load();
        while let Err(now) = self.count.replace(seen, seen - amount) {
            seen = now;
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load()
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::{Arc, atomic::AtomicU64 as Modelled};

    use super::*;
    use crate::resilience::bulkhead::{Bulkhead, Share};

    #[test]
    fn it_is_full_at_its_most_and_has_room_again_after() {
        let quota = Quota::<AtomicU64>::new(2);
        assert_eq!([(); 3].map(|()| quota.enter()), [true, true, false]);
        quota.leave();
        assert_eq!((quota.count(), quota.enter(), quota.enter()), (1, true, false));
        assert!(!Quota::<AtomicU64>::new(0).enter());
    }

    #[test]
    fn an_amount_is_taken_whole_or_not_at_all() {
        let quota = Quota::<AtomicU64>::new(10);
        assert_eq!([6, 5, u64::MAX, 4, 0, 1].map(|amount| quota.take(amount)), [true, false, false, true, true, false]);
        quota.give_back(6);
        assert_eq!((quota.count(), quota.take(7), quota.take(6)), (4, false, true));
    }

    /// Of two whose amounts do not fit together, one at least gets its own, and the sum of what is held stays within the most.
    #[test]
    fn loom_amounts_never_sum_up_to_more_than_the_most() {
        loom::model(|| {
            let (quota, held) = (Arc::new(Quota::<Modelled>::new(5)), Arc::new(Modelled::zero()));
            let threads = [3, 4].map(|amount| {
                let (quota, held) = (quota.clone(), held.clone());
                loom::thread::spawn(move || {
                    let taken = quota.take(amount);
                    if taken {
                        let before = held.fetch_add(amount, std::sync::atomic::Ordering::SeqCst);
                        assert!(before + amount <= 5, "{before} and {amount} are held at once");
                        held.fetch_sub(amount, std::sync::atomic::Ordering::SeqCst);
                        quota.give_back(amount);
                    }
                    taken
                })
            });
            let taken = threads.map(|thread| thread.join().unwrap());
            assert!(taken.contains(&true), "either was refused for the other");
            assert_eq!((quota.count(), quota.take(5)), (0, true));
        });
    }

    #[test]
    fn loom_never_more_than_the_most() {
        loom::model(|| {
            let (quota, inside) = (Arc::new(Quota::<Modelled>::new(1)), Arc::new(Modelled::zero()));
            let threads = [0, 1].map(|_| {
                let (quota, inside) = (quota.clone(), inside.clone());
                loom::thread::spawn(move || {
                    if quota.enter() {
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        quota.leave();
                    }
                })
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!((quota.count(), quota.enter()), (0, true));
        });
    }

    /// How `admission` uses the two: slot first, then quota; back in the other order. Then whoever is within the reservation
    /// is within the quota, whoever else comes and goes.
    #[test]
    fn loom_within_the_reservation_is_within_the_quota() {
        loom::model(|| {
            let shares = [Share { reserved: 1, max: 2 }];
            let bulkhead = Arc::new(Bulkhead::<Modelled>::new(&shares, 1).unwrap());
            let quota = Arc::new(Quota::<Modelled>::new(1));
            assert!(bulkhead.acquire(0) && quota.enter());
            let other = {
                let (bulkhead, quota) = (bulkhead.clone(), quota.clone());
                loom::thread::spawn(move || {
                    quota.leave();
                    bulkhead.release(0);
                })
            };
            assert!(bulkhead.acquire(0), "its own slot or the shared one");
            let (alone, within) = (bulkhead.in_use(0) == 1, quota.enter());
            other.join().unwrap();
            assert!(within || !alone, "alone in the tier, and yet no own place");
            assert_eq!(bulkhead.in_use(0), 1);
            assert!(within || quota.enter(), "the own place is free again");
        });
    }
}
