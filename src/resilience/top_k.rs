//! What comes most often in a stream of keys, in a fixed amount of memory: Space-Saving, in sets.
//!
//! ```text
//! key ─hash─► set of 8 counters: counted there? ── yes: count + 1
//!                                      └── no: takes the place of the set's least: count = least + 1, error = least
//! ```
//!
//! Never under-counts what it has, and over-counts it by `error` at most: `count - error` is a promise. What comes more often than
//! the least of its set is in; with `n` counters and the hash spread evenly that is about one event in `n`. A count touches
//! one set, which is searched from end to end: neither heap nor list to keep in order. Counts fade: whoever reads them multiplies all
//! by a factor, so that what was hot an hour ago is not.
//!
//! Allocates nothing after it is made, but for keys longer than `INLINE` (a counter keeps the room of the longest it had).
//! Two keys of one 64-bit hash count as one; the seed is not known to those who choose keys.
//!
//! **Source:** Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in Data Streams, ICDT 2005.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Counters of a set: what a search looks at.
const WAYS: usize = 8;
/// Bytes of a key that its counter holds itself.
const INLINE: usize = 80;

/// The counters.
#[derive(Debug)]
pub struct TopK {
    counters: Box<[Counter]>,
    seed: u64,
    /// All that was counted, faded as the counters are.
    total: f64,
}

#[derive(Clone, Debug, Default)]
struct Counter {
    hash: u64,
    /// Zero: nobody's.
    count: f32,
    error: f32,
    group: u32,
    key: SmallVec<[u8; INLINE]>,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted<'a> {
    /// What it was counted under.
    pub group: u32,
    /// Itself.
    pub key: &'a [u8],
    /// How often it came at least.
    pub at_least: f64,
}

impl TopK {
    /// At least so many counters, whose keys are hashed from a seed.
    #[must_use]
    pub fn new(counters: usize, seed: u64) -> Self {
        let sets = counters.div_ceil(WAYS).next_power_of_two();
        Self { counters: vec![Counter::default(); sets * WAYS].into(), seed, total: 0.0 }
    }

    /// Counts a key of a group, which came so often.
    pub fn count(&mut self, group: u32, key: &[u8], times: f32) {
        let hash = xxh3_64_with_seed(key, self.seed.wrapping_add(group.into()));
        let sets = self.counters.len() / WAYS;
        let first = (hash as usize & (sets - 1)) * WAYS;
        let set = &mut self.counters[first..first + WAYS];
        self.total += f64::from(times);
        if let Some(counter) = set.iter_mut().find(|counter| counter.hash == hash && counter.count > 0.0) {
            counter.count += times;
            return;
        }
        let least = set.iter_mut().min_by(|a, b| a.count.total_cmp(&b.count));
        if let Some(least) = least {
            least.key.clear();
            least.key.extend_from_slice(key);
            (least.hash, least.group, least.error) = (hash, group, least.count);
            least.count += times;
        }
    }

    /// Lets all that was counted fade to `factor` of it.
    pub fn fade(&mut self, factor: f32) {
        self.total *= f64::from(factor);
        for counter in &mut self.counters {
            counter.count *= factor;
            counter.error *= factor;
            if counter.count < 1.0 / 64.0 {
                (counter.count, counter.error) = (0.0, 0.0);
            }
        }
    }

    /// How much was counted, of whatever key.
    #[must_use]
    pub const fn total(&self) -> f64 {
        self.total
    }

    /// The keys that came at least so often, and more than not at all.
    pub fn over(&self, least: f64) -> impl Iterator<Item = Counted<'_>> {
        let counted = self.counters.iter().map(|counter| Counted {
            group: counter.group,
            key: &counter.key,
            at_least: f64::from(counter.count - counter.error),
        });
        counted.filter(move |counted| counted.at_least > 0.0 && counted.at_least >= least)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use allocation_counter::measure;
    use proptest::prelude::*;

    use super::*;

    fn counts(top: &TopK) -> HashMap<(u32, Vec<u8>), f64> {
        top.over(0.0).map(|counted| ((counted.group, counted.key.to_vec()), counted.at_least)).collect()
    }

    #[test]
    fn few_keys_are_counted_exactly_and_fade() {
        let mut top = TopK::new(64, 7);
        (0..10).for_each(|_| top.count(1, b"a", 1.0));
        top.count(2, b"a", 4.0);
        assert_eq!(counts(&top), HashMap::from([((1, b"a".to_vec()), 10.0), ((2, b"a".to_vec()), 4.0)]));
        assert!(top.over(5.0).map(|counted| counted.group).eq([1]));
        top.fade(0.5);
        assert_eq!((top.total(), counts(&top)[&(1, b"a".to_vec())]), (7.0, 5.0));
        (0..20).for_each(|_| top.fade(0.5));
        assert!(counts(&top).is_empty(), "what is forgotten takes no place");
    }

    #[test]
    fn what_is_hot_is_found_among_very_many() {
        let mut top = TopK::new(512, 3);
        for round in 0..100_000_u32 {
            let key = if round % 50 == 0 { 0 } else { 1 + round };
            top.count(0, &key.to_le_bytes(), 1.0);
        }
        let hot: Vec<_> = top.over(1000.0).map(|counted| (counted.key.to_vec(), counted.at_least)).collect();
        let [(key, at_least)] = &hot[..] else { panic!("{hot:?}") };
        assert_eq!(*key, 0_u32.to_le_bytes());
        assert!((1500.0..=2000.0).contains(at_least), "2 % of 100,000: {at_least}");
    }

    #[test]
    fn counting_allocates_nothing() {
        let mut top = TopK::new(64, 3);
        let counted = measure(|| (0..10_000_u32).for_each(|key| top.count(0, &(key % 999).to_le_bytes(), 1.0)));
        assert_eq!(counted.count_total, 0);
    }

    proptest! {
        #[test]
        fn nothing_is_told_more_often_than_it_came(keys in prop::collection::vec(0..40_u8, 0..600)) {
            let mut top = TopK::new(8, 11);
            let mut model = HashMap::<Vec<u8>, f64>::new();
            for key in keys {
                top.count(0, &[key], 1.0);
                *model.entry(vec![key]).or_default() += 1.0;
            }
            prop_assert_eq!(top.total(), model.values().sum::<f64>());
            for ((_, key), at_least) in counts(&top) {
                prop_assert!(at_least <= model[&key]);
            }
        }

        #[test]
        fn what_comes_more_often_than_its_place_is_in(rare in prop::collection::vec(1..200_u8, 0..400)) {
            // One set of eight: a key of more than an eighth of all cannot be pushed out.
            let mut top = TopK::new(8, 5);
            let often = rare.len() / 7 + 2;
            let each = rare.len() / often + 1;
            for part in rare.chunks(each.max(1)) {
                top.count(0, &[0], 1.0);
                part.iter().for_each(|key| top.count(0, &[*key], 1.0));
            }
            let came = rare.chunks(each.max(1)).count() as f64;
            if came * 8.0 > top.total() {
                prop_assert!(top.counters.iter().any(|counter| *counter.key == [0] && counter.count > 0.0));
            }
        }
    }
}
