//! How often keys are read here: sampled, by each worker for itself, and merged by the one task that reads the counts.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::{
    infer::{EntityKey, ViewId, WorkerId},
    resilience::{sampler::Sampler, top_k::TopK},
};

/// Lookups to one that is counted, on average, at most.
const EVERY: u32 = 64;

/// Lookups of a second that are all counted; of more, as many, until one in [`EVERY`] is. So a key of few lookups is not taken for hot
/// for one that happened to be counted.
const ALL: f64 = 4000.0;

/// What is left of counts after each turn: they are those of some two or three seconds.
const FADING: f32 = 0.6;

/// Counters to a key that may be hot: what a counter may tell too low is an eighth of `share` then.
const SPARE: f64 = 8.0;

/// Longer keys are not counted.
const LONGEST: usize = 1024;

/// Keys that are told of at most.
const MOST: usize = 256;

/// The counters of all workers.
#[derive(Debug)]
pub(crate) struct Counts {
    share: f64,
    sampler: Sampler,
    workers: Box<[Counters]>,
    /// Of the one that reads them: when it last did, and the seconds that the counts are of.
    read: Mutex<(Instant, f64)>,
}

/// A cache line of a worker's own. Its worker tries the lock and counts nothing where it is taken; the task that reads takes it
/// once a second.
#[derive(Debug)]
#[repr(align(128))]
struct Counters(Mutex<TopK>);

/// How often keys were read lately, a second.
#[derive(Debug)]
pub(crate) struct Rates {
    /// All keys together.
    pub(crate) total: f64,
    /// Those with a quarter of `share` or more; hottest first.
    pub(crate) keys: Vec<(ViewId, EntityKey, f64)>,
}

impl Counts {
    pub(crate) fn new(share: f64, workers: usize, now: Instant) -> Self {
        let seed = rand::random();
        let counters = (SPARE / share).ceil() as usize;
        let worker = |_| Counters(Mutex::new(TopK::new(counters.max(256), seed)));
        Self {
            share,
            sampler: Sampler::new(1, workers),
            workers: (0..workers.max(1)).map(worker).collect(),
            read: Mutex::new((now, 0.0)),
        }
    }

    /// Counts some of the lookups of `count` keys of a view.
    pub(crate) fn notice<'k>(
        &self,
        worker: WorkerId,
        view: ViewId,
        count: usize,
        key: impl Fn(usize) -> &'k EntityKey,
    ) {
        self.sampler.pick(worker.index(), count, rand::random, |every, at| {
            let key = key(at).as_bytes();
            let counters = &self.workers[worker.index().min(self.workers.len() - 1)].0;
            if let Ok(mut counters) = counters.try_lock()
                && key.len() <= LONGEST
            {
                counters.count(view.0, key, every as f32);
            }
        });
    }

    /// What was counted, which counts less from then on. To be called once a second, by one.
    pub(crate) fn rates(&self, now: Instant) -> Rates {
        let seconds = self.seconds(now);
        let mut all = Vec::new();
        let mut total = 0.0;
        for worker in &self.workers {
            // A worker that panicked with it counts on.
            let mut counters = worker.0.lock().unwrap_or_else(PoisonError::into_inner);
            total += counters.total();
            let least = counters.total() * self.share / SPARE;
            let of_worker = counters.over(least);
            all.extend(
                of_worker.map(|counted| (ViewId(counted.group), EntityKey::from(counted.key), counted.at_least)),
            );
            counters.fade(FADING);
        }
        let each = 1.0 / seconds;
        self.sampler.set(((total * each / ALL) as u32).clamp(1, EVERY));
        let keys = merged(all).into_iter().filter(|(.., count)| *count >= total * self.share / 4.0);
        let keys = keys.map(|(view, key, count)| (view, key, count * each)).take(MOST);
        Rates { total: total * each, keys: keys.collect() }
    }

    /// The seconds that the counts are of: faded as they are.
    fn seconds(&self, now: Instant) -> f64 {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, faded) = *read;
        let seconds = faded + now.saturating_duration_since(last).as_secs_f64();
        *read = (now, seconds * f64::from(FADING));
        seconds.max(0.001)
    }
}

/// Each key once, most counted first.
fn merged(mut all: Vec<(ViewId, EntityKey, f64)>) -> Vec<(ViewId, EntityKey, f64)> {
    all.sort_unstable_by(|a, b| (a.0.0, &a.1).cmp(&(b.0.0, &b.1)));
    all.dedup_by(|next, kept| {
        let same = (next.0, &next.1) == (kept.0, &kept.1);
        if same {
            kept.2 += next.2;
        }
        same
    });
    all.sort_by(|a, b| b.2.total_cmp(&a.2));
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use allocation_counter::measure;

    use super::*;
    use crate::features::tests::key;

    const SECOND: Duration = Duration::from_secs(1);

    /// A second of lookups: of a hundred, thirty are of the first key, ten of the second, the others of as many keys.
    fn look_up(counts: &Counts, worker: u32, lookups: u32) {
        let keys: Vec<_> = (0..lookups)
            .map(|at| match at % 100 {
                0..30 => key(1),
                30..40 => key(2),
                _ => key(1000 + i64::from(at)),
            })
            .collect();
        for each in &keys {
            counts.notice(WorkerId(worker), ViewId(0), 1, |_| each);
        }
    }

    #[tokio::test]
    async fn rates_are_those_of_all_workers_and_fade() {
        let now = Instant::now();
        let counts = Counts::new(0.1, 2, now);
        let mut rates = None;
        for second in 1..=5 {
            look_up(&counts, 0, 40_000);
            look_up(&counts, 1, 40_000);
            rates = Some(counts.rates(now + SECOND * second));
        }
        let Rates { total, keys } = rates.unwrap();
        let near = |rate: f64, expected: f64| (rate - expected).abs() < expected * 0.2;
        assert!(near(total, 80_000.0), "{total}");
        let [(_, first, a), (_, second, b)] = &keys[..] else { panic!("{keys:?}") };
        assert_eq!([first, second], [&key(1), &key(2)]);
        assert!(near(*a, 24_000.0) && near(*b, 8_000.0), "{a} {b}");
        let quiet = (6..20).map(|second| counts.rates(now + SECOND * second)).last().unwrap();
        assert!(quiet.total < 1000.0, "{quiet:?}");
    }

    #[tokio::test]
    async fn a_lookup_that_is_counted_allocates_nothing() {
        let counts = Counts::new(0.01, 1, Instant::now());
        let keys: Vec<_> = (0..5000).map(key).collect();
        let counted = measure(|| {
            for _ in 0..10 {
                counts.notice(WorkerId(0), ViewId(0), keys.len(), |at| &keys[at]);
            }
        });
        assert_eq!(counted.count_total, 0);
    }

    #[tokio::test]
    async fn nobody_waits_for_who_reads() {
        let counts = Counts::new(0.01, 1, Instant::now());
        let taken = counts.workers[0].0.lock().unwrap();
        let one = key(1);
        (0..100).for_each(|_| counts.notice(WorkerId(0), ViewId(0), 1, |_| &one));
        assert_eq!(taken.total(), 0.0);
    }
}
