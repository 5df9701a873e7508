//! Which of L1's keys are asked for most: a sampled count of lookups, from which the hottest are told when they are to be saved.
//!
//! One lookup in [`EVERY`] on average is counted, by its key's hash in a count-min sketch that is halved whenever the hottest
//! are told. A lookup costs a step of its worker's own counter; one that is counted, a hash and two cells. Nothing is
//! allocated, and the keys themselves are not kept: they are in L1, which is gone through when they are wanted. Two keys of
//! one cell look as hot as both together. The cache under L1 counts too, but tells nobody.
//!
//! **Source:** G. Cormode, S. Muthukrishnan, "An improved data stream summary: the count-min sketch", with conservative update.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Definition, Entry, Memory};
use crate::{
    infer::{EntityKey, ViewId, WorkerId},
    resilience::sampler::Sampler,
};

/// Lookups to one that is counted, on average.
const EVERY: u32 = 16;
/// Cells of a row of the sketch; two rows of them take a mebibyte.
const CELLS: usize = 1 << 17;

/// How often keys were asked for lately.
#[derive(Debug)]
pub(super) struct Heat {
    rows: [Box<[AtomicU32]>; 2],
    sampler: Sampler,
}

impl Heat {
    pub(super) fn new(workers: usize) -> Self {
        let row = || (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        Self { rows: [row(), row()], sampler: Sampler::new(EVERY, workers) }
    }

    /// Counts a lookup. Of two at once, one may be lost.
    fn count(&self, hash: u64) {
        let [a, b] = self.cells(hash);
        let low = a.load(Relaxed).min(b.load(Relaxed));
        for cell in [a, b] {
            if cell.load(Relaxed) == low {
                cell.store(low.saturating_add(1), Relaxed);
            }
        }
    }

    /// What was counted, and what of others fell into the same cells.
    fn of(&self, hash: u64) -> u32 {
        let [a, b] = self.cells(hash);
        a.load(Relaxed).min(b.load(Relaxed))
    }

    /// Lets what is past count half.
    fn cool(&self) {
        for cell in self.rows.iter().flatten() {
            cell.store(cell.load(Relaxed) / 2, Relaxed);
        }
    }

    fn cells(&self, hash: u64) -> [&AtomicU32; 2] {
        let [a, b] = &self.rows;
        [&a[hash as usize % CELLS], &b[(hash >> 32) as usize % CELLS]]
    }
}

fn hash(of: Definition, entity: &[u8]) -> u64 {
    xxh3_64_with_seed(entity, of.0.into())
}

/// How hot a row is: how often it was asked for, then when it was fetched.
type Rank = (u32, Instant);

impl Memory {
    /// Counts some of the lookups of `count` keys of a view.
    pub(crate) fn notice<'k>(
        &self,
        worker: WorkerId,
        view: ViewId,
        count: usize,
        key: impl Fn(usize) -> &'k EntityKey,
    ) {
        if let Some(heat) = &self.heat {
            let of = self.definitions[view.index()];
            heat.sampler.pick(worker.index(), count, rand::random, |_, at| heat.count(hash(of, key(at).as_bytes())));
        }
    }

    /// Counts one lookup of a key.
    pub(crate) fn notice_one(&self, view: ViewId, key: &EntityKey) {
        if let Some(heat) = &self.heat {
            heat.count(hash(self.definitions[view.index()], key.as_bytes()));
        }
    }

    /// The keys of the rows that are of use at `now` and were asked for most, hottest first; of those asked for as often, the ones
    /// fetched last. From then on, what was counted so far counts half. Goes through all that L1 holds: not for a thread that
    /// serves.
    pub(crate) fn hottest(&self, most: usize, now: Instant) -> Vec<(ViewId, EntityKey)> {
        let mut hottest = BinaryHeap::<Reverse<(Rank, Definition, EntityKey)>>::new();
        for (key, entry) in self.rows.iter() {
            let count = self.heat.as_ref().map_or(0, |heat| heat.of(hash(key.of, &key.entity)));
            let rank = (count, entry.fetched);
            let is_full = hottest.len() >= most;
            // Most rows are not among them, and their keys are not copied.
            if !entry.is_of_use(now) || is_full && hottest.peek().is_none_or(|Reverse((coldest, ..))| *coldest >= rank)
            {
                continue;
            }
            if is_full {
                hottest.pop();
            }
            hottest.push(Reverse((rank, key.of, (&*key.entity).into())));
        }
        if let Some(heat) = &self.heat {
            heat.cool();
        }
        let hottest = hottest.into_sorted_vec().into_iter();
        hottest.filter_map(|Reverse((_, of, key))| Some((self.view_of(of)?, key))).collect()
    }

    /// The view of a definition; `None`: no view has it any more.
    fn view_of(&self, of: Definition) -> Option<ViewId> {
        let at = self.definitions.iter().position(|definition| *definition == of)?;
        Some(ViewId(u32::try_from(at).ok()?))
    }
}

impl Entry {
    /// Whether it is a row that can still be served.
    fn is_of_use(&self, now: Instant) -> bool {
        let until = self.stale_until.or(self.fresh_until);
        self.row.is_some() && until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        config::{L1, View},
        features::{
            Row,
            tests::{features, int, key, view},
        },
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn l1() -> L1 {
        features("p", &[], crate::config::L2::Embedded { path: None, ttl: SECOND }, None).l1
    }

    fn memory(views: &[Arc<View>]) -> Memory {
        Memory::new(&l1(), views).heeding(1)
    }

    fn row() -> Option<Arc<Row>> {
        Some(Arc::new(Row::new(None, [int(1)].into())))
    }

    #[test]
    fn counts_are_exact_for_few_keys_and_cool() {
        let heat = Heat::new(1);
        let of = |entity: &str| hash(Definition(3), entity.as_bytes());
        (0..5).for_each(|_| heat.count(of("a")));
        heat.count(of("b"));
        assert_eq!([heat.of(of("a")), heat.of(of("b")), heat.of(of("c"))], [5, 1, 0]);
        heat.cool();
        assert_eq!([heat.of(of("a")), heat.of(of("b"))], [2, 0]);
    }

    #[tokio::test]
    async fn the_hottest_come_first_then_the_latest() {
        let views = [view("v").build(), view("w").id(1).build()];
        let memory = memory(&views);
        let now = Instant::now();
        for user in 0..20 {
            memory.put(ViewId(0), &key(user), row(), now + SECOND * u32::try_from(user).unwrap());
        }
        memory.put(ViewId(1), &key(4), row(), now);
        // There is nothing to read of a row that is not there.
        memory.put(ViewId(1), &key(5), None, now);
        for (view, user, times) in [(0, 3, 9), (1, 4, 5), (0, 8, 2), (1, 5, 90), (1, 77, 90)] {
            (0..times).for_each(|_| memory.notice_one(ViewId(view), &key(user)));
        }
        let later = now + SECOND * 30;
        let hottest = memory.hottest(5, later);
        let expected = [(0, 3), (1, 4), (0, 8), (0, 19), (0, 18)].map(|(view, user)| (ViewId(view), key(user)));
        assert_eq!(hottest, expected);
        assert_eq!(memory.hottest(1000, later).len(), 21, "all of them");
        assert!(memory.hottest(1000, now + SECOND * 3600).is_empty(), "past `stale_for` they are of no use");
        assert!(memory.hottest(0, later).is_empty());
    }

    #[tokio::test]
    async fn heat_is_kept_for_the_next_snapshot_and_its_views() {
        let before = memory(&[view("v").build(), view("w").id(1).build()]);
        let now = Instant::now();
        for user in [1, 2] {
            before.put(ViewId(0), &key(user), row(), now);
            before.put(ViewId(1), &key(user), row(), now);
        }
        before.notice_one(ViewId(1), &key(2));
        let after = before.next(&l1(), &[view("w").build()]);
        assert_eq!(after.hottest(9, now), [(ViewId(0), key(2)), (ViewId(0), key(1))], "v is gone, w has another id");
    }

    #[test]
    fn nothing_is_counted_where_nothing_is_to_be_saved() {
        let memory = Memory::new(&l1(), &[view("v").build()]);
        memory.notice(WorkerId(0), ViewId(0), 1000, |_| unreachable!("no key is looked at"));
    }

    #[tokio::test]
    async fn lookups_of_many_keys_are_counted() {
        let memory = memory(&[view("v").build()]);
        let keys: Vec<_> = (0..4).map(key).collect();
        let now = Instant::now();
        keys.iter().for_each(|key| memory.put(ViewId(0), key, row(), now));
        for _ in 0..10_000 {
            memory.notice(WorkerId(0), ViewId(0), 2, |at| &keys[1 + at]);
        }
        let mut hottest = memory.hottest(2, now);
        hottest.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        assert_eq!(hottest, [(ViewId(0), key(1)), (ViewId(0), key(2))]);
    }
}
