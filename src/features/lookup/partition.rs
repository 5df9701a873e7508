//! Rows in any order, put into the order of their keys' hashes with the newest row of each entity kept, in bounded memory.
//!
//! Rows are spread over 256 partitions by the first byte of their hash; a partition's buffer goes to a file once it is full, so a
//! small input never touches the disk. Then each partition is read back by itself: memory is bounded by the entities of one
//! partition, not by the rows of the input. What is left, in order, goes to one more file, whose length is known before the
//! first bucket is written.
//!
//! The newest row is that of the greatest event time, then of the greatest `created`, then the one that came last. The whole row wins.
//! Temporary files have no name and go away with the process, however it ends.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
};

use super::format;

const PARTITIONS: usize = 256;
/// 32 MiB over all partitions.
const PARTITION_BUFFER: usize = 128 * 1024;
const STREAM_BUFFER: usize = 1 << 20;

/// When a row's event happened, and when the row was made: what decides which row of an entity is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    /// Nanoseconds since the epoch.
    pub(crate) event_time: Option<i64>,
    /// Nanoseconds since the epoch.
    pub(crate) created: Option<i64>,
}

/// Takes rows in any order.
#[derive(Debug)]
pub(crate) struct Partitions {
    partitions: Vec<Spill>,
    rows: u64,
}

#[derive(Debug, Default)]
struct Spill {
    buffer: Vec<u8>,
    file: Option<File>,
}

struct Stored {
    hash: u64,
    age: Age,
    record: Box<[u8]>,
}

impl Partitions {
    pub(crate) fn new() -> Self {
        Self { partitions: (0..PARTITIONS).map(|_| Spill::default()).collect(), rows: 0 }
    }

    /// Adds a row: its key and its whole record.
    ///
    /// # Errors
    /// A temporary file cannot be written.
    pub(crate) fn push(&mut self, key: &[u8], age: Age, record: &[u8]) -> io::Result<()> {
        let hash = format::hash(key);
        self.rows += 1;
        self.partitions[(hash >> 56) as usize].put(&Stored { hash, age, record: record.into() })
    }

    /// Rows added so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Keeps the newest row of each entity and puts them in order.
    ///
    /// # Errors
    /// A temporary file cannot be read or written.
    pub(crate) fn finish(self) -> io::Result<Sorted> {
        let mut out = BufWriter::with_capacity(STREAM_BUFFER, tempfile::tempfile()?);
        let (mut rows, mut bytes) = (0, 0);
        for partition in self.partitions {
            for stored in partition.newest()? {
                out.write_all(&stored.hash.to_le_bytes())?;
                put_bytes(&mut out, &stored.record)?;
                rows += 1;
                bytes += stored.record.len() as u64;
            }
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Sorted { file: BufReader::with_capacity(STREAM_BUFFER, file), rows, bytes, left: rows })
    }
}

impl Spill {
    fn put(&mut self, stored: &Stored) -> io::Result<()> {
        stored.write(&mut self.buffer)?;
        if self.buffer.len() >= PARTITION_BUFFER {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(tempfile::tempfile()?),
            };
            file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// The newest row of each entity, in the order of the hashes.
    fn newest(mut self) -> io::Result<Vec<Stored>> {
        let mut newest = HashMap::new();
        if let Some(mut file) = self.file.take() {
            file.rewind()?;
            keep_newest(&mut BufReader::with_capacity(STREAM_BUFFER, file), &mut newest)?;
        }
        keep_newest(&mut self.buffer.as_slice(), &mut newest)?;
        let mut rows: Vec<_> = newest.into_iter().collect();
        rows.sort_unstable_by(|(a_key, a), (b_key, b)| (a.hash, a_key).cmp(&(b.hash, b_key)));
        Ok(rows.into_iter().map(|(_, stored)| stored).collect())
    }
}

fn keep_newest(from: &mut impl Read, newest: &mut HashMap<Box<[u8]>, Stored>) -> io::Result<()> {
    while let Some(stored) = Stored::read(from)? {
        let record = format::Record::take(&mut stored.record.as_ref()).map_err(io::Error::other)?;
        match newest.entry(record.key.into()) {
            Entry::Vacant(entry) => {
                entry.insert(stored);
            }
            // Equal ages: the later row of the input.
            Entry::Occupied(mut entry) if stored.age >= entry.get().age => {
                entry.insert(stored);
            }
            Entry::Occupied(_) => {}
        }
    }
    Ok(())
}

impl Stored {
    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(&self.hash.to_le_bytes());
        for time in [self.age.event_time, self.age.created] {
            out.push(u8::from(time.is_some()));
            out.extend_from_slice(&time.unwrap_or_default().to_le_bytes());
        }
        put_bytes(out, &self.record)
    }

    fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(hash) = read_first(from)? else { return Ok(None) };
        let age = Age { event_time: read_time(from)?, created: read_time(from)? };
        Ok(Some(Self { hash, age, record: read_bytes(from)? }))
    }
}

/// The entities' newest records in the order of their keys' hashes.
#[derive(Debug)]
pub(crate) struct Sorted {
    file: BufReader<File>,
    rows: u64,
    bytes: u64,
    left: u64,
}

impl Sorted {
    /// How many there are.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// How long they are together.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next one and its key's hash.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Box<[u8]>)>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let hash = read_first(&mut self.file)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Some((hash, read_bytes(&mut self.file)?)))
    }
}

fn put_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a row is over 4 GiB"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(bytes)
}

/// A hash, or `None` at the end.
fn read_first(from: &mut impl Read) -> io::Result<Option<u64>> {
    let mut bytes = [0; 8];
    if from.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[1..])?;
    Ok(Some(u64::from_le_bytes(bytes)))
}

fn read_time(from: &mut impl Read) -> io::Result<Option<i64>> {
    let mut bytes = [0; 9];
    from.read_exact(&mut bytes)?;
    let [known, time @ ..] = bytes;
    Ok((known == 1).then_some(i64::from_le_bytes(time)))
}

fn read_bytes(from: &mut impl Read) -> io::Result<Box<[u8]>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes.into())
}
