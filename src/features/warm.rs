//! The list of L1's hottest keys, which outlives the process: how it is written down, and where it is kept.
//!
//! It holds keys, never rows: those are read anew at a start, so that nothing stale is served. What cannot be read is no list,
//! and a start without one; nothing here fails anything else.
//!
//! ```text
//! "weirkeys" │ version, 4 bytes │ XXH3 of what follows, 8 bytes │
//!     views, 2 bytes │ ( length, 2 bytes │ name │ length, 2 bytes │ join keys )* │
//!     ( view, 2 bytes │ length, 2 bytes │ entity key )*      hottest first, to the end; numbers little-endian
//! ```

pub(crate) mod file;

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    config::View,
    infer::{EntityKey, ViewId},
};

/// What every list begins with.
const MAGIC: &[u8; 8] = b"weirkeys";
/// The layout. A list of another is not read: the next save replaces it.
pub(crate) const VERSION: u32 = 1;
/// The longest list that is written or read.
pub(crate) const LARGEST: usize = 16 << 20;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing was saved yet.
    #[error("nothing is saved there yet")]
    Missing,
    /// It is not one of Weir's, or not whole.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// Another version of Weir wrote it.
    #[error("of version {0}; this Weir reads {VERSION}")]
    Version(u32),
    /// Nobody wrote that.
    #[error("{0} bytes long; allowed: up to {LARGEST}")]
    TooLarge(u64),
    /// The file system.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The store. May pass.
    #[error(transparent)]
    Store(#[from] super::l2::Error),
}

/// Keys by view, hottest first.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Keys {
    /// Of views that are there.
    pub(crate) known: Vec<(ViewId, EntityKey)>,
    /// How many are of views that are gone, or have other join keys now.
    pub(crate) unknown: usize,
}

/// A list as it is stored. Keys that are too long to be listed, or beyond what a list may hold, are left out.
pub(crate) fn encode(views: &[Arc<View>], keys: &[(ViewId, EntityKey)]) -> Vec<u8> {
    let mut body = u16::try_from(views.len()).unwrap_or(u16::MAX).to_le_bytes().to_vec();
    for view in views.iter().take(usize::from(u16::MAX)) {
        put(&mut body, view.name.as_bytes());
        put(&mut body, join_keys(view).as_bytes());
    }
    for (view, key) in keys {
        let (Ok(view), Ok(_)) = (u16::try_from(view.0), u16::try_from(key.as_bytes().len())) else { continue };
        if HEAD + body.len() + 4 + key.as_bytes().len() > LARGEST {
            break;
        }
        body.extend(view.to_le_bytes());
        put(&mut body, key.as_bytes());
    }
    let head = [MAGIC, &VERSION.to_le_bytes()[..], &xxh3_64(&body).to_le_bytes()].concat();
    [head, body].concat()
}

/// What comes before the views.
const HEAD: usize = 8 + 4 + 8;

/// The first `most` keys of a list, for the views that there are.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn decode(list: &[u8], views: &[Arc<View>], most: usize) -> Result<Keys, Error> {
    read(body(list)?, views, most).ok_or(Error::Damaged("its parts do not fit together"))
}

/// What follows the head, if it is what the head says.
fn body(list: &[u8]) -> Result<&[u8], Error> {
    if list.len() > LARGEST {
        return Err(Error::TooLarge(list.len() as u64));
    }
    let rest = list.strip_prefix(MAGIC).ok_or(Error::Damaged("not a list of keys"))?;
    let cut = Error::Damaged("cut off");
    let Some((version, rest)) = rest.split_first_chunk() else { return Err(cut) };
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let Some((sum, body)) = rest.split_first_chunk() else { return Err(cut) };
    if u64::from_le_bytes(*sum) == xxh3_64(body) { Ok(body) } else { Err(Error::Damaged("its checksum is another")) }
}

/// `None`: lengths lead nowhere.
fn read(mut body: &[u8], views: &[Arc<View>], most: usize) -> Option<Keys> {
    let count = number(&mut body)?;
    let mut listed = Vec::new();
    for _ in 0..count {
        let (name, join_keys) = (text(&mut body)?, text(&mut body)?);
        let is_that = |view: &&Arc<View>| view.name.as_bytes() == name && self::join_keys(view).as_bytes() == join_keys;
        listed.push(views.iter().find(is_that).map(|view| view.id));
    }
    let mut keys = Keys::default();
    while !body.is_empty() && keys.known.len() + keys.unknown < most {
        let view = listed.get(usize::from(number(&mut body)?))?;
        let key = text(&mut body)?;
        match view {
            Some(view) => keys.known.push((*view, key.into())),
            None => keys.unknown += 1,
        }
    }
    Some(keys)
}

/// How many keys the body of a list has, were none of its views there. For fuzzing.
#[must_use]
pub fn count(body: &[u8]) -> Option<usize> {
    read(body, &[], usize::MAX).map(|keys| keys.unknown)
}

/// What an entity key of the view is made of.
fn join_keys(view: &View) -> String {
    let keys: Vec<_> = view.entities.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    keys.join(", ")
}

/// Bytes, their length first; what is longer than a length can say is cut.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(length.to_le_bytes());
    out.extend(&bytes[..usize::from(length)]);
}

fn number(bytes: &mut &[u8]) -> Option<u16> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_le_bytes(*number))
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(bytes)?;
    let (text, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        features::tests::{key, view},
        infer::EntityType,
    };

    fn views() -> [Arc<View>; 2] {
        [view("v").build(), view("w").id(1).entities(&[("item", EntityType::String)]).build()]
    }

    fn keys() -> Vec<(ViewId, EntityKey)> {
        vec![(ViewId(1), key(7)), (ViewId(0), key(-1)), (ViewId(1), key(8))]
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let list = encode(&views(), &keys());
        assert_eq!(decode(&list, &views(), 10).unwrap(), Keys { known: keys(), unknown: 0 });
        assert_eq!(decode(&list, &views(), 2).unwrap().known, keys()[..2], "the hottest");
        assert_eq!(decode(&encode(&views(), &[]), &views(), 10).unwrap(), Keys::default());
        assert_eq!(decode(&encode(&[], &[]), &[], 10).unwrap(), Keys::default());
    }

    #[test]
    fn keys_of_views_that_are_gone_are_counted() {
        let list = encode(&views(), &keys());
        // Ids are of a snapshot; join keys are part of every entity key.
        let now = [
            view("w").entities(&[("item", EntityType::Int64)]).build(),
            view("x").id(1).build(),
            view("v").id(2).build(),
        ];
        let expected = Keys { known: vec![(ViewId(2), key(-1))], unknown: 2 };
        assert_eq!(decode(&list, &now, 10).unwrap(), expected);
        assert_eq!(decode(&list, &[], 2).unwrap(), Keys { known: Vec::new(), unknown: 2 });
    }

    #[test]
    fn what_is_no_list_is_told_apart() {
        let list = encode(&views(), &keys());
        let told = |list: &[u8]| decode(list, &views(), 10).unwrap_err().to_string();
        assert_eq!(told(b""), "damaged: not a list of keys");
        assert_eq!(told(b"a registry, or so"), "damaged: not a list of keys");
        assert_eq!(told(&list[..10]), "damaged: cut off");
        assert_eq!(told(&list[..15]), "damaged: cut off");
        assert_eq!(told(&list[..list.len() - 1]), "damaged: its checksum is another");
        let mut other = list.clone();
        other[8] = 9;
        assert_eq!(told(&other), "of version 9; this Weir reads 1");
        let mut flipped = list.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(told(&flipped), "damaged: its checksum is another");
        assert_eq!(told(&vec![0; LARGEST + 1]), "16777217 bytes long; allowed: up to 16777216");
    }

    #[test]
    fn whatever_follows_a_right_checksum_is_keys_or_nothing() {
        let list = encode(&views(), &keys());
        let body = &list[HEAD..];
        for end in 0..body.len() {
            let whole = read(&body[..end], &views(), 10);
            assert!(whole.is_none_or(|keys| keys.known.len() < 3), "cut at {end}");
        }
        assert_eq!(read(&[0, 0, 0, 0, 0, 0], &views(), 10), None, "a key of no view");
        assert_eq!(read(&[255, 255, 1], &views(), 10), None);
    }

    #[test]
    fn a_list_is_bounded() {
        let long = |byte: u8| (ViewId(0), EntityKey::from(&vec![byte; 60_000][..]));
        let many: Vec<_> = (0..400).map(|at| long(at as u8)).collect();
        let list = encode(&views(), &many);
        assert!(list.len() <= LARGEST, "{}", list.len());
        let read = decode(&list, &views(), 1000).unwrap();
        assert_eq!(read.known.len(), (LARGEST - 100) / 60_004);
        // One that no length can tell is left out, and the others stay.
        let keys = [(ViewId(0), EntityKey::from(&[1; 70_000][..])), (ViewId(0), key(1))];
        assert_eq!(decode(&encode(&views(), &keys), &views(), 10).unwrap().known, keys[1..]);
    }
}
