//! Redis Cluster's slots: which part of the key space a key is in.
//!
//! The hash-tag rule works on bytes, and Feast's keys are binary: an integer or a length may contain `{` and `}` by
//! accident. They count all the same.
//!
//! **Source:** Redis Cluster specification, "Key distribution model" and "Hash tags"; CRC-16/XMODEM.

use std::fmt;

/// How many there are.
pub(super) const SLOTS: usize = 16384;

/// A slot, below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    pub(super) fn of(key: &[u8]) -> Self {
        Self(crc16(hash_tag(key).unwrap_or(key)) % SLOTS as u16)
    }
}

/// Some of the slots.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SlotSet(Box<[u64; SLOTS / 64]>);

impl SlotSet {
    pub(super) fn of(slots: impl Iterator<Item = Slot>) -> Self {
        let mut set = Box::new([0; SLOTS / 64]);
        slots.for_each(|Slot(slot)| set[usize::from(slot) / 64] |= 1 << (slot % 64));
        Self(set)
    }

    /// Whether the key in two parts is in one of them.
    pub(crate) fn has_key(&self, entity: &[u8], project: &str) -> bool {
        self.has(Slot::of(&[entity, project.as_bytes()].concat()))
    }

    fn has(&self, Slot(slot): Slot) -> bool {
        self.0[usize::from(slot) / 64] & 1 << (slot % 64) != 0
    }

    /// Those that `other` has not; `None`: it has all.
    pub(super) fn without(&self, other: &Self) -> Option<Self> {
        let left = Box::new(std::array::from_fn(|at| self.0[at] & !other.0[at]));
        left.iter().any(|word| *word != 0).then_some(Self(left))
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.0.iter().map(|word| word.count_ones()).sum::<u32>())
    }
}

/// What stands between the first `{` and the next `}`, unless that is nothing.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let after = &key[memchr::memchr(b'{', key)? + 1..];
    let tag = &after[..memchr::memchr(b'}', after)?];
    (!tag.is_empty()).then_some(tag)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::feast::tests::{data, unhex};

    #[test]
    fn a_set_has_what_it_is_of() {
        let set = SlotSet::of([0, 63, 64, 16383].map(Slot).into_iter());
        let held: Vec<u16> = (0..16384).filter(|&slot| set.has(Slot(slot))).collect();
        assert_eq!(held, [0, 63, 64, 16383]);
        let other = SlotSet::of([63, 64, 5].map(Slot).into_iter());
        assert_eq!(set.without(&other), Some(SlotSet::of([0, 16383].map(Slot).into_iter())));
        assert_eq!(set.without(&set), None);
        assert!(SlotSet::of([Slot::of(b"key-p")].into_iter()).has_key(b"key-", "p"));
        assert!(!set.has_key(b"key-", "p"));
        assert_eq!(format!("{set:?}"), "4 slots");
    }

    #[test]
    fn slots_are_the_servers() {
        let mut tagged = 0;
        for vector in data("cluster_slots").as_array().unwrap() {
            let key = unhex(vector["key_hex"].as_str().unwrap());
            assert_eq!(u64::from(Slot::of(&key).0), vector["slot"].as_u64().unwrap(), "{vector}");
            let tag = vector["hashtag_hex"].as_str().map(unhex);
            assert_eq!(hash_tag(&key).map(<[u8]>::to_vec), tag, "{vector}");
            tagged += usize::from(tag.is_some());
        }
        for vector in data("entity_keys").as_array().unwrap() {
            let key = unhex(vector["key_hex"].as_str().unwrap());
            assert_eq!(u64::from(Slot::of(&key).0), vector["cluster_slot"].as_u64().unwrap(), "{vector}");
        }
        assert!(tagged >= 3, "{tagged}");
        assert_eq!(Slot::of(b"{}{tag}"), Slot(crc16(b"{}{tag}") % 16384), "an empty first tag is none");
    }
}
