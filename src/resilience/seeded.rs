//! A hash for tables whose keys callers choose: XXH3 from a seed that they do not know, so that they cannot choose shards and places.
//!
//! Made for keys of one run of bytes and of few different numbers: a number is added, which costs next to nothing, and the length that
//! `Hash` writes before bytes is passed over.

use std::hash::{BuildHasher, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Makes the hashers of one table.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

/// What was hashed so far.
#[derive(Debug)]
pub struct Xxh3(u64);

impl Seeded {
    /// From a seed, which is to be random.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for Seeded {
    type Hasher = Xxh3;

    fn build_hasher(&self) -> Xxh3 {
        Xxh3(self.0)
    }
}

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = self.0.wrapping_add(u64::from(number));
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_number_and_bytes_count_and_a_length_does_not() {
        let hash = |seed, number: u32, bytes: &[u8]| {
            let mut hasher = Seeded::new(seed).build_hasher();
            hasher.write_u32(number);
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
            hasher.finish()
        };
        let first = hash(1, 2, b"a");
        assert_eq!(first, xxh3_64_with_seed(b"a", 3));
        assert!([hash(7, 2, b"a"), hash(1, 7, b"a"), hash(1, 2, b"b")].iter().all(|other| *other != first));
    }
}
