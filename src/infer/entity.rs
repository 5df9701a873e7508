//! Entities: the values a request names, and the key under which Feast stores their rows.

use std::{fmt, str::FromStr};

use smallvec::SmallVec;

/// The declared type of a join key; it decides the type byte in the serialized key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntityType {
    /// `BYTES`
    Bytes,
    /// `STRING`
    String,
    /// `INT32`
    Int32,
    /// `INT64`
    Int64,
    /// `UNIX_TIMESTAMP`
    UnixTimestamp,
}

impl EntityType {
    /// Feast's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "BYTES",
            Self::String => "STRING",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::UnixTimestamp => "UNIX_TIMESTAMP",
        }
    }

    /// What a value of it may be in JSON, in words for whoever sent another.
    #[must_use]
    pub const fn in_json(self) -> &'static str {
        match self {
            Self::Bytes => "base64 text",
            Self::String => "text",
            Self::Int32 => "a whole number of 32 bits",
            Self::Int64 => "a whole number of 64 bits",
            Self::UnixTimestamp => "whole seconds since 1970",
        }
    }
}

impl fmt::Display for EntityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EntityType {
    type Err = UnknownEntityType;

    fn from_str(text: &str) -> Result<Self, UnknownEntityType> {
        match text {
            "BYTES" => Ok(Self::Bytes),
            "STRING" => Ok(Self::String),
            "INT32" => Ok(Self::Int32),
            "INT64" => Ok(Self::Int64),
            "UNIX_TIMESTAMP" => Ok(Self::UnixTimestamp),
            _ => Err(UnknownEntityType(text.into())),
        }
    }
}

/// A type that Feast cannot make a key of.
#[derive(Debug, thiserror::Error)]
#[error("unknown entity type {0:?}; allowed: BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP")]
pub struct UnknownEntityType(Box<str>);

/// One join key's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EntityValue {
    /// As is.
    Bytes(Vec<u8>),
    /// UTF-8, not normalised.
    String(String),
    /// 32 bits.
    Int32(i32),
    /// 64 bits.
    Int64(i64),
    /// Seconds since the epoch.
    UnixTimestamp(i64),
}

/// A serialized entity key, version 3, without the project: what Feast's Redis key begins with.
///
/// Built by [`EntityKey::new`] from values in the order of their sorted join keys; equal bytes mean the same entity.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityKey(Bytes);

/// Room for a UUID or two numbers, and the names of their join keys.
type Bytes = SmallVec<[u8; 80]>;

/// The keys of entities that have the same join keys: what these have in common is serialized once.
#[derive(Clone, Debug)]
pub(crate) struct EntityKeys {
    names: Bytes,
}

impl EntityKeys {
    /// For join keys that are sorted as UTF-8 bytes.
    pub(crate) fn of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let mut bytes = SmallVec::new();
        put_u32(&mut bytes, names.len());
        for name in names {
            bytes.extend_from_slice(&2u32.to_le_bytes());
            put_u32(&mut bytes, name.len());
            bytes.extend_from_slice(name.as_bytes());
        }
        Self { names: bytes }
    }

    /// What all of them begin with. No such beginning begins another: it tells how many names it has, and how long each is.
    pub(crate) fn names(&self) -> &[u8] {
        &self.names
    }

    /// The key of one value for each join key, in their order.
    pub(crate) fn key<'a>(&self, values: impl Iterator<Item = &'a EntityValue>) -> EntityKey {
        // In one piece: a clone goes byte by byte.
        let mut bytes = Bytes::from_slice(&self.names);
        values.for_each(|value| value.put(&mut bytes));
        EntityKey(bytes)
    }
}

impl EntityKey {
    /// Serializes `(join key, value)` pairs, which must be sorted by join key as UTF-8 bytes.
    ///
    /// **Source:** Feast's `infra/key_encoding_utils.py`, `entity_key_serialization_version: 3`.
    #[must_use]
    pub fn new<'a>(pairs: impl ExactSizeIterator<Item = (&'a str, &'a EntityValue)> + Clone) -> Self {
        EntityKeys::of(pairs.clone().map(|(name, _)| name)).key(pairs.map(|(_, value)| value))
    }

    /// The value of the first join key in serialized bytes, without its type; `None`: they are no key.
    pub(crate) fn first_value(bytes: &[u8]) -> Option<&[u8]> {
        Parts::of(bytes)?.values.next()
    }

    /// The serialized bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Clone for EntityKey {
    fn clone(&self) -> Self {
        // In one piece: the derived one clones byte by byte.
        Self(SmallVec::from_slice(&self.0))
    }
}

/// `user_id=1001,item_id=a`; what is no such key, as hexadecimal.
impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match text(&self.0) {
            Some(text) => f.write_str(&text),
            None => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    let Parts { names, mut values } = Parts::of(bytes)?;
    let mut names = bytes.get(4..names)?;
    let mut pairs = Vec::new();
    while values.left > 0 {
        let name = std::str::from_utf8(take_value(&mut names)?).ok()?;
        let kind = take_u32(&mut &*values.rest)?;
        let value = match (kind, values.next()?) {
            (2, text) => std::str::from_utf8(text).ok()?.escape_debug().to_string(),
            (3, number) => i32::from_le_bytes(number.try_into().ok()?).to_string(),
            (4 | 8, number) => i64::from_le_bytes(number.try_into().ok()?).to_string(),
            (_, bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        pairs.push(format!("{name}={value}"));
    }
    values.rest.is_empty().then(|| pairs.join(","))
}

impl From<&[u8]> for EntityKey {
    fn from(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }
}

/// What a serialized key is made of.
pub(crate) struct Parts<'a> {
    /// How many bytes the join keys' names take: keys of the same join keys begin with the same.
    pub(crate) names: usize,
    pub(crate) values: Values<'a>,
}

/// The values of a serialized key, in the order of the sorted join keys.
pub(crate) struct Values<'a> {
    left: u32,
    /// From the next value on.
    rest: &'a [u8],
}

impl<'a> Values<'a> {
    /// What follows the key, once all values were taken; `None`: they were not.
    pub(crate) fn whole(&self) -> Option<&'a [u8]> {
        (self.left == 0).then_some(self.rest)
    }
}

impl<'a> Parts<'a> {
    /// Of bytes that begin with a key; `None`: they do not begin with the names of one.
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let count = take_u32(&mut rest)?;
        for _ in 0..count {
            take_value(&mut rest)?;
        }
        Some(Self { names: bytes.len() - rest.len(), values: Values { left: count, rest } })
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let left = self.left.checked_sub(1)?;
        let value = take_value(&mut self.rest)?;
        self.left = left;
        Some(value)
    }
}

/// What has a type and a length before it.
fn take_value<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let _type = take_u32(rest)?;
    let length = usize::try_from(take_u32(rest)?).ok()?;
    let (value, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(value)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes))
}

impl EntityValue {
    fn put(&self, out: &mut Bytes) {
        match self {
            Self::Bytes(v) => put_value(out, 1, v),
            Self::String(v) => put_value(out, 2, v.as_bytes()),
            Self::Int32(v) => put_value(out, 3, &v.to_le_bytes()),
            Self::Int64(v) => put_int64(out, 4, *v),
            Self::UnixTimestamp(v) => put_int64(out, 8, *v),
        }
    }
}

fn put_value(out: &mut Bytes, type_code: u32, bytes: &[u8]) {
    out.extend_from_slice(&type_code.to_le_bytes());
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Most keys are numbers of 64 bits: type, length and value at once.
fn put_int64(out: &mut Bytes, type_code: u32, value: i64) {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&type_code.to_le_bytes());
    bytes[4] = 8;
    bytes[8..].copy_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&bytes);
}

fn put_u32(out: &mut Bytes, length: usize) {
    // Lengths come from names in the config and values in a bounded body: they fit.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_as_text() {
        let values = [EntityValue::Int64(-3), EntityValue::String("a\n'b".into()), EntityValue::Bytes(vec![0, 255])];
        let key = EntityKey::new([("item", &values[0]), ("user", &values[1]), ("x", &values[2])].into_iter());
        assert_eq!(key.to_string(), "item=-3,user=a\\n\\'b,x=00ff");
        let cut = key.as_bytes()[..key.as_bytes().len() - 1].to_vec();
        assert_eq!(EntityKey::from(&cut[..]).to_string().len(), 2 * cut.len(), "hexadecimal");
        assert_eq!(EntityKey::from(&b""[..]).to_string(), "");
    }
}
