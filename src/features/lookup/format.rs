//! The bytes of a data file: where a key's bucket is, what a bucket holds, and the checksums that keep a damaged one from
//! being read as a row.
//!
//! ```text
//! data file   magic "WEIRLKUP" · u32 version · u32 0 │ bucket 0 │ bucket 1 │ … │ directory page 0 │ page 1 │ …
//! page        3,200 entries, the last page fewer: (u64 offset · u32 length · u64 xxh3 of the bucket) … · u64 xxh3 of the page
//! bucket      record · record · …, by key hash; an empty bucket has length 0 and is never read
//! record      varint length of the rest · varint key length · key · flags (1: event time follows) · [i64 event time]
//!             · a cell a feature, in the manifest's order: varint 0 = never written, else n + 1 and n bytes of feast.types.Value
//! ```
//!
//! Integers are little-endian. A key's bucket is `xxh3_64(key) · buckets >> 64`, so buckets are in the order of the hashes and
//! a writer that sorts by hash writes the file front to back. Pure: no I/O here; `docs/lookup-format.md` says it for readers
//! of other languages.

use std::ops::Range;

use bytes::{Buf, BufMut};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{
    features::{Row, feast},
    infer::EntityKey,
};

/// The version of this layout.
pub(crate) const VERSION: u32 = 1;
/// What a data file begins with, before the version and four zero bytes.
pub(crate) const MAGIC: &[u8; 8] = b"WEIRLKUP";
/// Where the first bucket begins.
pub(crate) const HEADER_BYTES: u64 = 16;
/// Bucket size that the writer aims at: one small ranged read, some hundred rows.
pub(crate) const BUCKET_TARGET: u64 = 8 * 1024;
/// Entries of a full directory page: 64,008 bytes.
pub(crate) const PAGE_ENTRIES: u64 = 3_200;
const ENTRY_BYTES: u64 = 20;
const CHECKSUM_BYTES: u64 = 8;
const HAS_EVENT_TIME: u8 = 1;

/// What is wrong with some bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct Damaged(pub(crate) &'static str);

/// The data file's first bytes.
pub(crate) fn header() -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// The hash that places a key.
pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Where things are in a data file with so many buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// More than 0 where there are rows.
    pub(crate) buckets: u64,
    /// Where the first page begins; the buckets end there.
    pub(crate) directory: u64,
}

impl Layout {
    /// How many buckets hold `bytes` of `rows` well: none is expected to be empty, most are near [`BUCKET_TARGET`].
    pub(crate) fn buckets_for(rows: u64, bytes: u64) -> u64 {
        bytes.div_ceil(BUCKET_TARGET).min(rows)
    }

    /// The bucket of a key with this hash.
    pub(crate) fn bucket(&self, hash: u64) -> u64 {
        ((u128::from(hash) * u128::from(self.buckets)) >> 64) as u64
    }

    /// The page with a bucket's entry, and the entry's place in it.
    pub(crate) fn page_of(bucket: u64) -> (u64, usize) {
        (bucket / PAGE_ENTRIES, (bucket % PAGE_ENTRIES) as usize)
    }

    /// The bytes of a page in the file.
    pub(crate) fn page_range(&self, page: u64) -> Range<u64> {
        let start = self.directory + page * (PAGE_ENTRIES * ENTRY_BYTES + CHECKSUM_BYTES);
        let entries = PAGE_ENTRIES.min(self.buckets - page * PAGE_ENTRIES);
        start..start + entries * ENTRY_BYTES + CHECKSUM_BYTES
    }

    /// How long the file is.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.directory + self.buckets * ENTRY_BYTES + self.buckets.div_ceil(PAGE_ENTRIES) * CHECKSUM_BYTES
    }

    /// Whether the numbers can be a file's: no sum of them overflows.
    pub(crate) fn is_plausible(&self) -> bool {
        self.buckets < 1 << 56 && (HEADER_BYTES..1 << 62).contains(&self.directory)
    }
}

/// Where a bucket is, and what its bytes hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) checksum: u64,
}

impl Entry {
    /// The entry of a bucket that begins at `offset`.
    pub(crate) fn of(offset: u64, bucket: &[u8]) -> Result<Self, Damaged> {
        let length =
            u32::try_from(bucket.len()).map_err(|_| Damaged("a bucket is over 4 GiB: one entity's row is too long"))?;
        Ok(Self { offset, length, checksum: xxh3_64(bucket) })
    }

    /// The bytes of the bucket in the file.
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }

    /// Whether `bucket` is what was written.
    pub(crate) fn check(&self, bucket: &[u8]) -> Result<(), Damaged> {
        if bucket.len() != self.length as usize {
            return Err(Damaged("a bucket is shorter than its entry says"));
        }
        if xxh3_64(bucket) == self.checksum { Ok(()) } else { Err(Damaged("a bucket's checksum is wrong")) }
    }
}

/// Appends a page with its checksum, which covers the page's number too.
pub(crate) fn put_page(number: u64, entries: &[Entry], out: &mut Vec<u8>) {
    let start = out.len();
    for entry in entries {
        out.put_u64_le(entry.offset);
        out.put_u32_le(entry.length);
        out.put_u64_le(entry.checksum);
    }
    let checksum = xxh3_64_with_seed(&out[start..], number);
    out.put_u64_le(checksum);
}

/// Whether `page` is page `number` as written, of the length that the layout says.
pub(crate) fn check_page(number: u64, page: &[u8], range: &Range<u64>) -> Result<(), Damaged> {
    if page.len() as u64 != range.end - range.start {
        return Err(Damaged("a directory page is shorter than the manifest says"));
    }
    let (entries, mut checksum) = page.split_at(page.len() - CHECKSUM_BYTES as usize);
    if xxh3_64_with_seed(entries, number) == checksum.get_u64_le() {
        Ok(())
    } else {
        Err(Damaged("a directory page's checksum is wrong"))
    }
}

/// Reads entry `index` of a checked page.
pub(crate) fn entry(page: &[u8], index: usize, layout: &Layout) -> Result<Entry, Damaged> {
    let start = index * ENTRY_BYTES as usize;
    let mut bytes = page.get(start..start + ENTRY_BYTES as usize).ok_or(Damaged("a directory page is too short"))?;
    let entry = Entry { offset: bytes.get_u64_le(), length: bytes.get_u32_le(), checksum: bytes.get_u64_le() };
    let end = entry.offset.checked_add(u64::from(entry.length));
    match end {
        Some(end) if entry.offset >= HEADER_BYTES && end <= layout.directory => Ok(entry),
        _ => Err(Damaged("a directory entry points outside the buckets")),
    }
}

/// Appends the record of one row, whose values are in the manifest's order. `scratch` is reused between rows.
pub(crate) fn put_record(key: &EntityKey, row: &Row, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    scratch.clear();
    let key = key.as_bytes();
    encode_varint(key.len() as u64, scratch);
    scratch.extend_from_slice(key);
    scratch.push(if row.event_time.is_some() { HAS_EVENT_TIME } else { 0 });
    if let Some(time) = row.event_time {
        scratch.put_i64_le(time);
    }
    for value in &row.values {
        put_cell(value.as_ref(), scratch);
    }
    encode_varint(scratch.len() as u64, out);
    out.extend_from_slice(scratch);
}

fn put_cell(value: Option<&crate::infer::Value>, out: &mut Vec<u8>) {
    let Some(value) = value else { return out.push(0) };
    let start = out.len();
    feast::encode_value(value, out);
    let length = out.len() - start;
    // The length goes before the bytes: they are moved up by as much as it takes.
    let prefix = length as u64 + 1;
    let width = encoded_len_varint(prefix);
    out.resize(out.len() + width, 0);
    out.copy_within(start..start + length, start + width);
    encode_varint(prefix, &mut &mut out[start..start + width]);
}

/// One record, borrowed from its bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) event_time: Option<i64>,
    cells: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes the first record off `bucket`.
    pub(crate) fn take(bucket: &mut &'a [u8]) -> Result<Self, Damaged> {
        let mut rest = take_sized(bucket, "a record is cut off")?;
        let key = take_sized(&mut rest, "a record's key is cut off")?;
        let flags = rest.try_get_u8().map_err(|_| Damaged("a record ends before its flags"))?;
        let event_time = if flags & HAS_EVENT_TIME == 0 {
            None
        } else {
            Some(rest.try_get_i64_le().map_err(|_| Damaged("a record ends before its event time"))?)
        };
        Ok(Self { key, event_time, cells: rest })
    }

    /// The cells, a feature each in the manifest's order; `None` was never written.
    pub(crate) fn cells(&self) -> impl Iterator<Item = Result<Option<&'a [u8]>, Damaged>> + use<'a> {
        let mut rest = self.cells;
        std::iter::from_fn(move || (!rest.is_empty()).then(|| take_cell(&mut rest)))
    }
}

fn take_cell<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Damaged> {
    const CUT: &str = "a cell is cut off";
    match decode_varint(rest).map_err(|_| Damaged(CUT))?.checked_sub(1) {
        None => Ok(None),
        Some(length) => split(rest, length, CUT).map(Some),
    }
}

fn take_sized<'a>(rest: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], Damaged> {
    let length = decode_varint(rest).map_err(|_| Damaged(what))?;
    split(rest, length, what)
}

fn split<'a>(rest: &mut &'a [u8], length: u64, what: &'static str) -> Result<&'a [u8], Damaged> {
    let length = usize::try_from(length).map_err(|_| Damaged(what))?;
    let (head, tail) = rest.split_at_checked(length).ok_or(Damaged(what))?;
    *rest = tail;
    Ok(head)
}

/// The record of `key`; `None` where the bucket has none.
pub(crate) fn find<'a>(mut bucket: &'a [u8], key: &[u8]) -> Result<Option<Record<'a>>, Damaged> {
    while !bucket.is_empty() {
        let record = Record::take(&mut bucket)?;
        if record.key == key {
            return Ok(Some(record));
        }
    }
    Ok(None)
}
