//! What a key's copies are called, so that each lies where it is to lie and every gateway knows all names that there may be.
//!
//! ```text
//! weir:{4711}:<the key>:shard_2
//!       └─ a hash tag, chosen for its slot: copies lie 512 slots apart, from the key's own onwards, all around the ring
//! ```
//!
//! A suffix alone would not do. Feast's keys are binary, and where an integer or a length contains `{` and `}` by accident, what
//! stands between is the hash tag: such a key stays in its slot whatever is appended. Here the first tag is always ours, for
//! `weir:` has no brace.
//!
//! A name depends on the key and its number alone, not on who is master of what: gateways that see different maps of a cluster, and
//! maps of before and after a reshard, have the same names. Which of them are used is what the map decides. Nor does a name begin
//! as any of Feast's keys does, or end as one: what Feast scans and deletes, and what Redis tracks by prefix, passes it by.

use std::sync::OnceLock;

use crate::{
    config::MOST_COPIES,
    features::redis::slots::{SLOTS, Slot},
};

/// From one copy's slot to the next one's: with the key itself they are 32 around the ring.
const STEP: usize = SLOTS / (MOST_COPIES as usize + 1);

/// The numbers of all copies that a key may have.
pub(super) fn numbers() -> impl Iterator<Item = u32> {
    1..=MOST_COPIES
}

/// Where a copy of a key in a slot lies.
pub(super) fn slot(of: Slot, number: u32) -> Slot {
    let slot = (usize::from(of.0) + number as usize * STEP) % SLOTS;
    Slot(u16::try_from(slot).expect("below 16384"))
}

/// What a copy is called.
pub(super) fn name(key: &[u8], number: u32) -> Vec<u8> {
    let tag = tag(slot(Slot::of(key), number));
    [format!("weir:{{{tag}}}:").as_bytes(), key, format!(":shard_{number}").as_bytes()].concat()
}

/// What says, in a key's own slot, that the key may have copies.
pub(super) fn mark(key: &[u8]) -> Vec<u8> {
    [format!("weir:{{{}}}:", tag(Slot::of(key))).as_bytes(), key, b":copied"].concat()
}

/// The least number whose digits are of that slot.
fn tag(slot: Slot) -> u32 {
    static TAGS: OnceLock<Box<[u32]>> = OnceLock::new();
    TAGS.get_or_init(tags)[usize::from(slot.0)]
}

/// By slot. Takes some milliseconds.
fn tags() -> Box<[u32]> {
    let mut tags = vec![None; SLOTS];
    let mut missing = SLOTS;
    for number in 0_u32.. {
        let tag = &mut tags[usize::from(Slot::of(itoa::Buffer::new().format(number).as_bytes()).0)];
        if tag.is_none() {
            *tag = Some(number);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn copies_lie_around_the_ring_whatever_tags_a_key_has_by_accident() {
        for key in [&b"prod_001"[..], b"\x01{a}\x02fraud", b"{", b"}{x}", b"{}{tag}", b""] {
            let own = Slot::of(key);
            let slots: HashSet<u16> = numbers().map(|number| Slot::of(&name(key, number)).0).chain([own.0]).collect();
            assert_eq!(slots.len(), 32, "{key:?}");
            for number in numbers() {
                assert_eq!(Slot::of(&name(key, number)), slot(own, number), "{key:?}");
            }
            assert_eq!(Slot::of(&mark(key)), own, "{key:?}");
        }
    }

    #[test]
    fn a_name_says_whose_copy_it_is() {
        let name = name(b"\x01{a}\xffp", 7);
        let begin = format!("weir:{{{}}}:", tag(slot(Slot::of(b"a"), 7)));
        assert_eq!(name, [begin.as_bytes(), b"\x01{a}\xffp", b":shard_7"].concat());
    }
}
