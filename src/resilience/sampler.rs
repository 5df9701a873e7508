//! One event in so many, at random, for what is too costly to count of all: each worker counts down by itself. How many may change.
//!
//! An event that is not picked costs its worker a subtraction on a cache line of its own; no worker waits for another.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Picks one event in [`Sampler::every`] on average.
#[derive(Debug)]
pub(crate) struct Sampler {
    every: AtomicU32,
    /// By worker, events until the next that is picked.
    left: Box<[Left]>,
}

/// A cache line of a worker's own. Only that worker's thread uses it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Left(AtomicU32);

impl Sampler {
    /// For so many workers; a worker beyond them shares the last one's count.
    pub(crate) fn new(every: u32, workers: usize) -> Self {
        Self { every: AtomicU32::new(every.max(1)), left: (0..workers.max(1)).map(|_| Left::default()).collect() }
    }

    /// From now on picks one in so many.
    pub(crate) fn set(&self, every: u32) {
        self.every.store(every.max(1), Relaxed);
    }

    /// Picks among a worker's next `count` events; `random` is any number. Tells how many events one stands for, and its place.
    pub(crate) fn pick(&self, worker: usize, count: usize, random: impl Fn() -> u32, mut each: impl FnMut(u32, usize)) {
        let every = self.every.load(Relaxed);
        let left = &self.left[worker.min(self.left.len() - 1)].0;
        let mut at = left.load(Relaxed) as usize;
        while at < count {
            each(every, at);
            // As often short as long, so that no pattern of the events is always or never hit.
            at += 1 + (random() % (2 * every - 1)) as usize;
        }
        left.store(u32::try_from(at - count).unwrap_or(0), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn one_in_sixteen_is_counted_however_lookups_are_bundled() {
        for bundle in [1, 7, 16, 200] {
            let sampler = Sampler::new(16, 1);
            let seed = Cell::new(1u32);
            let random = || {
                seed.set(seed.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
                seed.get() >> 8
            };
            let mut picked = vec![0; bundle];
            let lookups = 160_000;
            for _ in 0..lookups / bundle {
                sampler.pick(0, bundle, random, |_, at| picked[at] += 1);
            }
            let all: usize = picked.iter().sum();
            assert!((9_500..10_500).contains(&all), "{all} of {lookups} in bundles of {bundle}");
            let fair = all / bundle;
            assert!(picked.iter().all(|one| *one > fair / 2 && *one < fair * 2), "each place as often: {picked:?}");
        }
    }

    #[test]
    fn a_worker_beyond_the_list_shares_the_last() {
        let sampler = Sampler::new(16, 0);
        sampler.pick(9, 1, || 0, |_, at| assert_eq!(at, 0));
    }

    #[test]
    fn one_in_one_is_all() {
        let sampler = Sampler::new(1, 1);
        let mut picked = Vec::new();
        (0..3).for_each(|_| sampler.pick(0, 2, || 7, |every, at| picked.push((every, at))));
        assert_eq!(picked, [(1, 0), (1, 1)].repeat(3));
        sampler.set(2);
        let mut picked = 0;
        (0..100).for_each(|_| sampler.pick(0, 1, || 1, |every, _| picked += every));
        assert_eq!(picked, 100, "a step of two, each for two");
    }
}
