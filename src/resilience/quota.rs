//! A quota: at most so many at once, counted in one atomic.
//!
//! Invariant: the count never passes the most, not even for a moment, and what leaves makes room for one (loom walks both
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
    pub fn new(most: u32) -> Self {
        Self { count: W::zero(), most: u64::from(most) }
    }

    /// Counts one more; `false` where there are as many as may be. Each `true` is owed a [`Self::leave`].
    #[must_use]
    pub fn enter(&self) -> bool {
        let mut seen = self.count.load();
        while seen < self.most {
            match self.count.replace(seen, seen + 1) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes back what [`Self::enter`] counted.
    pub fn leave(&self) {
        let mut seen = self.count.load();
        while let Err(now) = self.count.replace(seen, seen - 1) {
            seen = now;
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load() as u32
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
