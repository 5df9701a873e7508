//! A counter or a length beside the number of the time it belongs to, in one atomic word: who reads it never sees one without the
//! other.
//!
//! Numbers are one-based: 0 marks a word that was never written.

/// The word of `value` at `number`.
pub(super) const fn pack(number: u32, value: u32) -> u64 {
    (number as u64) << 32 | value as u64
}

/// Number and value of a word.
pub(super) const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
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
