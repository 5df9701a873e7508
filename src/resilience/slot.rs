//! A counter or a length beside the number of the time it belongs to, in one atomic word: who reads it never sees one without the
//! other.
//!
//! Numbers are one-based: 0 marks a word that was never written. Whoever is late, its number being older than the word's, changes
//! no newer value but by what it decides on seeing it: loom walks both turns in the tests of those who use it.

use super::bulkhead::Word;

/// The word of `value` at `number`.
pub(super) const fn pack(number: u32, value: u32) -> u64 {
    (number as u64) << 32 | value as u64
}

/// Number and value of a word.
pub(super) const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Changes a word to what `next` makes of its number and value, unless it makes nothing of them.
pub(super) fn update(word: &impl Word, mut next: impl FnMut(u32, u32) -> Option<(u32, u32)>) {
    let mut seen = word.load();
    loop {
        let (number, value) = unpack(seen);
        let Some((number, value)) = next(number, value) else { return };
        match word.replace(seen, pack(number, value)) {
            Ok(()) => return,
            Err(now) => seen = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out(number: u32, value: u32) {
            prop_assert_eq!(unpack(pack(number, value)), (number, value));
        }
    }
}
