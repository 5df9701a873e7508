//! How soon Redis's word of a write is here, measured at this gateway's own writes.
//!
//! Redis does not tell when a key was written, and nothing that it stores does. But a gateway hears of what it wrote itself on the same
//! connection as of everything else, and knows when it sent that: from then until the rows are dropped is, by one clock, the most that the
//! word took, on its way there included. Others' writes to the same master are told on the same way.
//!
//! A write is awaited in one of so many places, by its key's hash; one that finds its place taken is not measured. What is not heard of
//! within [`LONGEST`] is awaited no more: a connection that is silent for less is lost. Where somebody else writes the same key between the two,
//! the first word counts: it may tell of the other write, a moment too soon.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

const PLACES: usize = 1 << 10;
const LONGEST: Duration = Duration::from_secs(5);
/// Of an entry, the bits that are microseconds: twelve days, after which they begin anew. The others are of the key's hash.
const MICROS: u64 = (1 << 40) - 1;

/// Own writes of which Redis has yet to tell.
#[derive(Debug)]
pub(super) struct Echoes {
    origin: Instant,
    /// 0: none is awaited there.
    places: Box<[AtomicU64]>,
}

impl Echoes {
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin, places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A write of the key goes out.
    pub(super) fn sent(&self, key: &[u8], now: Instant) {
        let (place, tag) = self.place(key);
        let awaited = |entry: u64| entry != 0 && self.since(entry, now).is_some();
        // Where it is taken it stays so.
        let _ = place.fetch_update(Relaxed, Relaxed, |entry| (!awaited(entry)).then(|| tag | self.micros(now)));
    }

    /// It wrote nothing: no word comes.
    pub(super) fn forget(&self, key: &[u8]) {
        self.take(key);
    }

    /// Redis told of the key; how long that took, where it was written here.
    pub(super) fn heard(&self, key: &[u8], now: Instant) -> Option<Duration> {
        self.take(key).and_then(|entry| self.since(entry, now))
    }

    /// Words were missed: none is awaited any more.
    pub(super) fn clear(&self) {
        self.places.iter().for_each(|place| place.store(0, Relaxed));
    }

    fn take(&self, key: &[u8]) -> Option<u64> {
        let (place, tag) = self.place(key);
        let entry = place.load(Relaxed);
        (entry != 0 && entry & !MICROS == tag).then(|| place.swap(0, Relaxed)).filter(|entry| *entry != 0)
    }

    fn place(&self, key: &[u8]) -> (&AtomicU64, u64) {
        let hash = xxh3_64(key);
        (&self.places[hash as usize % PLACES], hash & !MICROS)
    }

    /// Since what an entry says; `None`: too long ago.
    fn since(&self, entry: u64, now: Instant) -> Option<Duration> {
        let micros = self.micros(now).wrapping_sub(entry) & MICROS;
        Some(Duration::from_micros(micros)).filter(|since| *since <= LONGEST)
    }

    /// Never 0, so that an entry is not.
    fn micros(&self, at: Instant) -> u64 {
        let micros = u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX);
        (micros & MICROS).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_word_of_a_write_tells_how_long_it_took() {
        let origin = Instant::now();
        let echoes = Echoes::new(origin);
        assert_eq!(echoes.heard(b"a", origin), None, "somebody else's");
        echoes.sent(b"a", origin);
        echoes.sent(b"b", origin + MS);
        // A second write before the word of the first: that one is measured.
        echoes.sent(b"a", origin + 2 * MS);
        let near =
            |took: Option<Duration>, expected: Duration| took.unwrap().abs_diff(expected) <= Duration::from_micros(1);
        assert!(near(echoes.heard(b"a", origin + 3 * MS), 3 * MS));
        assert_eq!(echoes.heard(b"a", origin + 4 * MS), None);
        assert!(near(echoes.heard(b"b", origin + 4 * MS), 3 * MS));
    }

    #[test]
    fn what_comes_too_late_or_of_which_nothing_comes_is_no_measure() {
        let origin = Instant::now();
        let echoes = Echoes::new(origin);
        echoes.sent(b"a", origin);
        assert_eq!(echoes.heard(b"a", origin + LONGEST + MS), None);
        echoes.sent(b"a", origin + MS);
        // Its word never came; it keeps no later one from being measured.
        let later = origin + 2 * LONGEST;
        echoes.sent(b"a", later);
        assert_eq!(echoes.heard(b"a", later + MS), Some(MS));
        echoes.sent(b"a", later);
        echoes.forget(b"a");
        assert_eq!(echoes.heard(b"a", later), None);
        echoes.sent(b"a", later);
        echoes.clear();
        assert_eq!(echoes.heard(b"a", later), None);
    }
}
