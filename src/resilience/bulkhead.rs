//! The bulkhead: how many of the gateway's slots each tier may hold, decided in one atomic word.
//!
//! A tier uses its own reserved slots first and then borrows from the shared part, up to its maximum. Invariants: a reserved
//! slot is never lent (a tier under its reservation is always admitted), no tier passes its maximum, borrowed slots never
//! exceed the shared part. They hold because every tier's count is a field of one word that changes by compare-and-swap:
//! loom walks the races in the tests below. Queueing is `admission`'s; a full bulkhead says so at once.
//!
//! A field is as wide as its tier's maximum needs, so all maxima together must fit 64 bits: three tiers of two million, four
//! of 65 535, eight of 255.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// What one tier may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Slots only this tier uses.
    pub reserved: u32,
    /// Slots it may reach by borrowing; less than `reserved` means `reserved`.
    pub max: u32,
}

/// The tiers' counts do not fit one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the tiers' maxima need {bits} bits of slot counters; allowed: 64 (three tiers of two million slots, four of 65535, eight of 255)"
)]
pub struct TooWide {
    /// Bits needed.
    pub bits: u32,
}

/// A word that threads share. An `AtomicU64` in the gateway, loom's in its models.
pub trait Word {
    /// A word of zero.
    fn zero() -> Self;
    /// The value now.
    fn load(&self) -> u64;
    /// Puts `new` where `old` still is; else returns what is.
    ///
    /// # Errors
    ///
    /// The value found instead of `old`.
    fn replace(&self, old: u64, new: u64) -> Result<(), u64>;
    /// Adds `amount`, wrapping around; returns what was before.
    fn add(&self, amount: u64) -> u64;
    /// Puts `new` there; returns what was before.
    fn swap(&self, new: u64) -> u64;
}

impl Word for AtomicU64 {
    fn zero() -> Self {
        Self::new(0)
    }

    // Sequentially consistent: `admission` relies on "free a slot, then look for waiters" against "wait, then look for a slot".
    fn load(&self) -> u64 {
        self.load(SeqCst)
    }

    fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange_weak(old, new, SeqCst, SeqCst).map(drop)
    }

    fn add(&self, amount: u64) -> u64 {
        self.fetch_add(amount, SeqCst)
    }

    fn swap(&self, new: u64) -> u64 {
        self.swap(new, SeqCst)
    }
}

/// A tier's field and limits.
#[derive(Clone, Copy, Debug)]
struct Field {
    shift: u32,
    mask: u64,
    share: Share,
}

impl Field {
    const fn count(self, word: u64) -> u32 {
        (word >> self.shift & self.mask) as u32
    }

    const fn borrowed(self, word: u64) -> u64 {
        self.count(word).saturating_sub(self.share.reserved) as u64
    }

    const fn one(self) -> u64 {
        1 << self.shift
    }
}

/// Slots of several tiers.
#[derive(Debug)]
pub struct Bulkhead<W = AtomicU64> {
    used: W,
    fields: Box<[Field]>,
    shared: u32,
}

impl<W: Word> Bulkhead<W> {
    /// A bulkhead of these tiers, and `shared` slots that they may borrow.
    ///
    /// # Errors
    ///
    /// [`TooWide`] where the maxima do not fit one word.
    pub fn new(tiers: &[Share], shared: u32) -> Result<Self, TooWide> {
        let mut shift = 0;
        let fields = tiers.iter().map(|tier| {
            let share = Share { max: tier.max.max(tier.reserved), ..*tier };
            let bits = (u32::BITS - share.max.leading_zeros()).max(1);
            let field = Field { shift, mask: (1 << bits) - 1, share };
            shift += bits;
            field
        });
        let fields: Box<[Field]> = fields.collect();
        if shift > u64::BITS { Err(TooWide { bits: shift }) } else { Ok(Self { used: W::zero(), fields, shared }) }
    }

    /// Takes a slot for `tier`; `false` where it may have none now. Each `true` is owed a [`Self::release`].
    #[must_use]
    pub fn acquire(&self, tier: usize) -> bool {
        let mut seen = self.used.load();
        loop {
            if !self.admits(tier, seen) {
                return false;
            }
            match self.used.replace(seen, seen + self.fields[tier].one()) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes one of the tier's reserved slots; `false` where it holds as many as are reserved. Each `true` is owed a
    /// [`Self::release`].
    #[must_use]
    pub fn acquire_reserved(&self, tier: usize) -> bool {
        let field = self.fields[tier];
        let mut seen = self.used.load();
        while field.count(seen) < field.share.reserved {
            match self.used.replace(seen, seen + field.one()) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Gives back a slot that `tier` was given. What it had borrowed goes back first: what a tier holds beyond its reservation
    /// is borrowed, whichever of its requests ends.
    pub fn release(&self, tier: usize) {
        let mut seen = self.used.load();
        while let Err(now) = self.used.replace(seen, seen - self.fields[tier].one()) {
            seen = now;
        }
    }

    /// Whether `tier` could have a slot now. The answer is old as soon as it is given.
    #[must_use]
    pub fn has_room(&self, tier: usize) -> bool {
        self.admits(tier, self.used.load())
    }

    /// Whether `tier` holds as many as it ever may.
    #[must_use]
    pub fn is_at_most(&self, tier: usize) -> bool {
        self.in_use(tier) >= self.fields[tier].share.max
    }

    /// Slots that `tier` holds.
    #[must_use]
    pub fn in_use(&self, tier: usize) -> u32 {
        self.fields[tier].count(self.used.load())
    }

    /// Slots of the shared part that `tier` holds.
    #[must_use]
    pub fn borrowed(&self, tier: usize) -> u32 {
        self.fields[tier].borrowed(self.used.load()) as u32
    }

    /// Slots that only `tier` uses.
    #[must_use]
    pub fn reserved(&self, tier: usize) -> u32 {
        self.fields[tier].share.reserved
    }

    /// How many slots `tier` could have now, beside those that it has: of its own, and of the shared part what nobody borrowed.
    #[must_use]
    pub fn room(&self, tier: usize) -> u32 {
        let word = self.used.load();
        let (field, count) = (self.fields[tier], self.fields[tier].count(word));
        let borrowed: u64 = self.fields.iter().map(|field| field.borrowed(word)).sum();
        let shared = u64::from(self.shared).saturating_sub(borrowed).min(u64::from(u32::MAX)) as u32;
        let own = field.share.reserved.saturating_sub(count);
        own.saturating_add(shared).min(field.share.max.saturating_sub(count))
    }

    /// How many tiers share it.
    #[must_use]
    pub fn tiers(&self) -> usize {
        self.fields.len()
    }

    fn admits(&self, tier: usize, word: u64) -> bool {
        let field = self.fields[tier];
        let count = field.count(word);
        count < field.share.reserved
            || count < field.share.max
                && self.fields.iter().map(|field| field.borrowed(word)).sum::<u64>() < u64::from(self.shared)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIERS: [Share; 3] =
        [Share { reserved: 80, max: 100 }, Share { reserved: 60, max: 80 }, Share { reserved: 20, max: 60 }];

    fn bulkhead(tiers: &[Share], shared: u32) -> Bulkhead {
        Bulkhead::new(tiers, shared).unwrap()
    }

    fn fill(bulkhead: &Bulkhead, tier: usize) -> usize {
        std::iter::repeat_with(|| bulkhead.acquire(tier)).take(10_000).take_while(|taken| *taken).count()
    }

    #[test]
    fn a_tier_alone_reaches_its_maximum() {
        for (tier, most) in [(0, 100), (1, 80), (2, 60)] {
            assert_eq!(fill(&bulkhead(&TIERS, 40), tier), most);
        }
    }

    #[test]
    fn what_was_borrowed_is_gone_for_others_and_reservations_are_not() {
        let bulkhead = bulkhead(&TIERS, 40);
        assert_eq!(fill(&bulkhead, 2), 60, "20 of its own, all 40 shared");
        assert_eq!(fill(&bulkhead, 0), 80, "its reservation");
        assert_eq!(fill(&bulkhead, 1), 60, "its reservation");
        bulkhead.release(2);
        assert!(bulkhead.has_room(2) && bulkhead.acquire(0), "a freed shared slot may go to any tier");
        assert!(!bulkhead.has_room(2));
    }

    #[test]
    fn room_is_what_a_tier_could_take_and_not_what_others_borrowed() {
        let bulkhead = bulkhead(&TIERS, 40);
        assert_eq!([0, 1, 2].map(|tier| bulkhead.room(tier)), [100, 80, 60]);
        assert_eq!(fill(&bulkhead, 0), 100, "its own, and 20 of the shared");
        assert_eq!([0, 1, 2].map(|tier| bulkhead.room(tier)), [0, 80, 40]);
        assert_eq!(fill(&bulkhead, 1), 80, "its own, and the other 20");
        assert_eq!([0, 1, 2].map(|tier| bulkhead.room(tier)), [0, 0, 20], "its own");
        assert_eq!((fill(&bulkhead, 2), bulkhead.room(2)), (20, 0));
    }

    proptest! {
        #[test]
        fn room_is_what_can_be_taken(taken in prop::collection::vec(0..3usize, 0..250), tier in 0..3usize) {
            let bulkhead = bulkhead(&TIERS, 40);
            taken.into_iter().for_each(|tier| {
                let _ = bulkhead.acquire(tier);
            });
            let room = bulkhead.room(tier);
            prop_assert_eq!(fill(&bulkhead, tier), room as usize);
        }
    }

    #[test]
    fn what_was_borrowed_comes_back_first() {
        let bulkhead = bulkhead(&TIERS, 40);
        assert_eq!((fill(&bulkhead, 2), bulkhead.borrowed(2)), (60, 40));
        bulkhead.release(2);
        assert_eq!(bulkhead.borrowed(2), 39, "whichever request it was, its slot is the shared one");
        assert!(!bulkhead.acquire_reserved(2), "its reserved ones are all in use");
        (0..40).for_each(|_| bulkhead.release(2));
        assert_eq!((bulkhead.in_use(2), bulkhead.borrowed(2)), (19, 0));
        assert!(bulkhead.acquire_reserved(2) && !bulkhead.acquire_reserved(2));
        assert_eq!(bulkhead.in_use(2), bulkhead.reserved(2));
    }

    /// Ten times as many ask in the lowest tier as there are slots, on all threads; whoever asks under the high tier's
    /// reservation is let in, every time.
    #[test]
    fn a_flood_never_takes_what_is_reserved() {
        let bulkhead = bulkhead(&TIERS, 40);
        let flooding = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while flooding.load(SeqCst) {
                        let held = fill(&bulkhead, 2);
                        assert!(bulkhead.in_use(2) <= 60 && bulkhead.borrowed(2) <= 40);
                        (0..held).for_each(|_| bulkhead.release(2));
                    }
                });
            }
            for _ in 0..2_000 {
                assert!((0..80).all(|_| bulkhead.acquire(0)), "a reserved slot was lent");
                (0..80).for_each(|_| bulkhead.release(0));
            }
            flooding.store(false, SeqCst);
        });
        assert_eq!((bulkhead.in_use(0), bulkhead.in_use(2)), (0, 0));
    }

    #[test]
    fn what_does_not_fit_a_word_is_refused() {
        let tiers = |count: usize, max: u32| vec![Share { reserved: 0, max }; count];
        for (count, max, bits) in [
            (8, 255, None),
            (8, 256, Some(72)),
            (4, 65_535, None),
            (3, 2_000_000, None),
            (2, u32::MAX, None),
            (3, u32::MAX, Some(96)),
        ] {
            let made = Bulkhead::<AtomicU64>::new(&tiers(count, max), 1);
            assert_eq!(made.err().map(|error| error.bits), bits, "{count} × {max}");
        }
    }

    #[test]
    fn the_widest_counts_do_not_run_into_each_other() {
        let bulkhead = bulkhead(&[Share { reserved: 255, max: 255 }; 8], 0);
        for tier in 0..8 {
            assert_eq!(fill(&bulkhead, tier), 255);
        }
        bulkhead.release(3);
        let counts: Vec<u32> = (0..8).map(|tier| bulkhead.in_use(tier)).collect();
        assert_eq!(counts, [255, 255, 255, 254, 255, 255, 255, 255]);
    }

    proptest! {
        /// Against plain counters.
        #[test]
        fn agrees_with_plain_counters(
            tiers in prop::collection::vec((0..6u32, 0..9u32), 1..5),
            shared in 0..6u32,
            steps in prop::collection::vec((0..5usize, any::<bool>()), 0..200),
        ) {
            let tiers: Vec<Share> = tiers.into_iter().map(|(reserved, max)| Share { reserved, max: max.max(reserved) }).collect();
            let bulkhead = bulkhead(&tiers, shared);
            let mut held = vec![0u32; tiers.len()];
            for (tier, take) in steps {
                let tier = tier % tiers.len();
                if take {
                    let borrowed: u32 = held.iter().zip(&tiers).map(|(held, tier)| held.saturating_sub(tier.reserved)).sum();
                    let expected = held[tier] < tiers[tier].reserved || held[tier] < tiers[tier].max && borrowed < shared;
                    prop_assert_eq!(bulkhead.acquire(tier), expected);
                    held[tier] += u32::from(expected);
                } else if held[tier] > 0 {
                    bulkhead.release(tier);
                    held[tier] -= 1;
                }
                prop_assert_eq!(bulkhead.in_use(tier), held[tier]);
            }
        }
    }

    /// Loom's word: the same code over every interleaving.
    impl Word for loom::sync::atomic::AtomicU64 {
        fn zero() -> Self {
            Self::new(0)
        }

        fn load(&self) -> u64 {
            self.load(SeqCst)
        }

        fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
            // The strong exchange: loom's weak one would also fail at will, which only adds turns of the loop.
            self.compare_exchange(old, new, SeqCst, SeqCst).map(drop)
        }

        fn add(&self, amount: u64) -> u64 {
            self.fetch_add(amount, SeqCst)
        }

        fn swap(&self, new: u64) -> u64 {
            self.swap(new, SeqCst)
        }
    }

    type Modelled = loom::sync::Arc<Bulkhead<loom::sync::atomic::AtomicU64>>;

    fn modelled(tiers: &[Share], shared: u32) -> Modelled {
        loom::sync::Arc::new(Bulkhead::new(tiers, shared).unwrap())
    }

    #[test]
    fn loom_two_borrowers_never_lend_a_reserved_slot() {
        loom::model(|| {
            let bulkhead = modelled(
                &[Share { reserved: 1, max: 2 }, Share { reserved: 0, max: 1 }, Share { reserved: 0, max: 1 }],
                1,
            );
            let borrowers = [1, 2].map(|tier| {
                let bulkhead = Modelled::clone(&bulkhead);
                loom::thread::spawn(move || bulkhead.acquire(tier))
            });
            assert!(bulkhead.acquire(0), "its own slot is there, whatever the borrowers do");
            let borrowed = borrowers.map(|thread| thread.join().unwrap());
            assert_eq!(borrowed.iter().filter(|taken| **taken).count(), 1, "one shared slot, one borrower");
            assert!(!bulkhead.acquire(0), "nothing is left to borrow");
        });
    }

    /// A tier gives back and takes again while another borrows: what comes back is the shared slot, and its own one stays.
    #[test]
    fn loom_the_borrowed_slot_comes_back_first() {
        loom::model(|| {
            let bulkhead = modelled(&[Share { reserved: 1, max: 2 }, Share { reserved: 0, max: 1 }], 1);
            assert!(bulkhead.acquire(0) && bulkhead.acquire(0), "its own and the shared one");
            let borrower = {
                let bulkhead = Modelled::clone(&bulkhead);
                loom::thread::spawn(move || bulkhead.acquire(1))
            };
            bulkhead.release(0);
            assert!(!bulkhead.acquire_reserved(0), "one request is left, and it is on the tier's own slot");
            bulkhead.release(0);
            assert!(bulkhead.acquire(0), "whoever borrows, the own slot is there");
            let borrowed = borrower.join().unwrap();
            assert_eq!(u32::from(borrowed), bulkhead.borrowed(1));
            assert!(bulkhead.borrowed(0) + bulkhead.borrowed(1) <= 1);
        });
    }

    #[test]
    fn loom_a_released_slot_is_never_lost_or_doubled() {
        loom::model(|| {
            let bulkhead = modelled(&[Share { reserved: 1, max: 1 }], 0);
            let held = loom::sync::Arc::new(loom::sync::atomic::AtomicU64::new(0));
            let threads = [0, 1].map(|_| {
                let (bulkhead, held) = (Modelled::clone(&bulkhead), held.clone());
                loom::thread::spawn(move || {
                    if bulkhead.acquire(0) {
                        assert_eq!(held.fetch_add(1, SeqCst), 0, "two held the only slot");
                        held.fetch_sub(1, SeqCst);
                        bulkhead.release(0);
                    }
                })
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(bulkhead.in_use(0), 0);
            assert!(bulkhead.acquire(0));
        });
    }
}
