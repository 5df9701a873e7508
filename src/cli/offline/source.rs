//! The parquet files behind `--from`: one file, a folder of part files, or hive-partitioned folders.
//!
//! In a folder every file counts but those whose path has a part beginning with `_` or `.` (`_SUCCESS`, `.crc`) and empty ones, as
//! for pyarrow's datasets. A remote file is copied to a temporary file first, in ranges, so that decoding it never holds more
//! than a batch.

use std::{
    fs::File,
    io::{Seek, Write},
};

use anyhow::{Context, anyhow, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{GetResultPayload, ObjectMeta, ObjectStoreExt, path::Path};

use crate::features::{chain, lookup::Location};

const RANGE_BYTES: u64 = 16 << 20;
const RANGES_IN_FLIGHT: usize = 4;

/// One parquet file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    location: Location,
    path: Path,
    size: u64,
    /// What messages call it.
    pub(super) name: String,
    /// `column=value` folders on the way to it.
    pub(super) hive: Vec<(String, String)>,
}

/// The files at `from`, by name.
///
/// # Errors
/// There is none, or the store cannot be listed.
pub(super) async fn list(from: &Location) -> anyhow::Result<Vec<Source>> {
    match from.store.head(&from.path).await {
        Ok(meta) => return Ok(vec![Source::new(from, meta)]),
        Err(object_store::Error::NotFound { .. }) => {}
        // A bucket's root is no object's name.
        Err(_) if from.path.is_root() => {}
        Err(error) => bail!("reading {from}: {}", chain(&error)),
    }
    let found = from.store.list(Some(&from.path)).try_collect::<Vec<_>>().await;
    let found = found.map_err(|error| anyhow!("listing {from}: {}", chain(&error)))?;
    let mut sources: Vec<_> = found.into_iter().map(|meta| Source::new(from, meta)).filter(Source::counts).collect();
    if sources.is_empty() {
        bail!("--from: no parquet file at {from}");
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

impl Source {
    fn new(from: &Location, meta: ObjectMeta) -> Self {
        let parts: Vec<_> = meta.location.prefix_match(&from.path).into_iter().flatten().collect();
        let folders = parts.iter().take(parts.len().saturating_sub(1));
        let hive = folders.filter_map(|part| {
            let (column, value) = part.as_ref().split_once('=')?;
            Some((decode(column), decode(value)))
        });
        Self {
            hive: hive.collect(),
            name: match parts.as_slice() {
                [] => from.to_string(),
                _ => {
                    let rest: Vec<_> = parts.iter().map(|part| part.as_ref().to_owned()).collect();
                    format!("{}/{}", from.url.trim_end_matches('/'), rest.join("/"))
                }
            },
            location: from.clone(),
            path: meta.location,
            size: meta.size,
        }
    }

    fn counts(&self) -> bool {
        let mut below = self.path.prefix_match(&self.location.path).into_iter().flatten();
        self.size > 0 && !below.any(|part| part.as_ref().starts_with(['_', '.']))
    }

    /// The file, at its beginning.
    ///
    /// # Errors
    /// It cannot be read, or copied to a temporary file.
    pub(super) async fn fetch(&self) -> anyhow::Result<File> {
        let reading = |error| anyhow!("reading {}: {}", self.name, chain(&error));
        if self.is_local() {
            let got = self.location.store.get(&self.path).await.map_err(reading)?;
            if let GetResultPayload::File(file, _) = got.payload {
                return Ok(file);
            }
        }
        let mut file = tempfile::tempfile().context("making a temporary file (TMPDIR says where)")?;
        let starts = (0..self.size).step_by(usize::try_from(RANGE_BYTES)?);
        let mut ranges = stream::iter(starts)
            .map(|start| self.location.store.get_range(&self.path, start..(start + RANGE_BYTES).min(self.size)))
            .buffered(RANGES_IN_FLIGHT);
        while let Some(bytes) = ranges.try_next().await.map_err(reading)? {
            file.write_all(&bytes).context("writing a temporary file (TMPDIR says where)")?;
        }
        file.rewind()?;
        Ok(file)
    }

    fn is_local(&self) -> bool {
        !self.location.url.contains("://") || self.location.url.starts_with("file://")
    }
}

/// Hive writers percent-encode what a path cannot hold.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
