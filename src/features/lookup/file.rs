//! Reads one data file: at most two ranged reads a key, a directory page (kept in memory once read) and a bucket.
//!
//! What fails its checksum is an error and never a row. Pages are shared by all files under one bound; the file itself is
//! immutable, so nothing read from it ever grows old.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use super::{
    Error,
    format::{self, Damaged},
    manifest::Manifest,
};
use crate::{
    config::View,
    features::{Row, feast},
    infer::EntityKey,
};

/// What a ranged read was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Directory,
    Bucket,
}

/// Directory pages in memory, by the data file's path and the page's number.
pub(crate) type Pages = moka::sync::Cache<(Arc<Path>, u64), Bytes>;

/// A cache of pages that holds so many bytes.
pub(crate) fn pages(capacity: u64) -> Pages {
    Pages::builder().max_capacity(capacity).weigher(|_, page| u32::try_from(page.len()).unwrap_or(u32::MAX)).build()
}

/// A data file and what its manifest says.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) manifest: Manifest,
    store: Arc<dyn ObjectStore>,
    path: Arc<Path>,
    pages: Pages,
}

impl DataFile {
    /// The file that `manifest`, found in `folder`, names. Reads nothing.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, folder: &Path, manifest: Manifest, pages: Pages) -> Self {
        let path = Arc::new(folder.clone().join(manifest.data.as_str()));
        Self { manifest, store, path, pages }
    }

    /// The bucket that would hold the key with this hash, checked; empty where there is none. `count` is told of each ranged
    /// read before it is made.
    ///
    /// # Errors
    /// The object store fails, or what it gave is damaged.
    pub(crate) async fn bucket(&self, hash: u64, count: impl Fn(Read)) -> Result<Bytes, Error> {
        let layout = self.manifest.layout();
        if layout.buckets == 0 {
            return Ok(Bytes::new());
        }
        let (number, index) = format::Layout::page_of(layout.bucket(hash));
        let page = self.page(number, &count).await?;
        let entry = format::entry(&page, index, &layout).map_err(|damaged| self.damaged(damaged))?;
        if entry.length == 0 {
            return Ok(Bytes::new());
        }
        count(Read::Bucket);
        let bucket = self.read(entry.range()).await?;
        entry.check(&bucket).map_err(|damaged| self.damaged(damaged))?;
        Ok(bucket)
    }

    async fn page(&self, number: u64, count: impl Fn(Read)) -> Result<Bytes, Error> {
        let key = (self.path.clone(), number);
        if let Some(page) = self.pages.get(&key) {
            return Ok(page);
        }
        count(Read::Directory);
        let range = self.manifest.layout().page_range(number);
        let page = self.read(range.clone()).await?;
        format::check_page(number, &page, &range).map_err(|damaged| self.damaged(damaged))?;
        self.pages.insert(key, page.clone());
        Ok(page)
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let asked = range.end - range.start;
        let bytes = self.store.get_range(&self.path, range).await?;
        // What a store cuts off says nothing about the file.
        if bytes.len() as u64 == asked { Ok(bytes) } else { Err(Error::Cut { given: bytes.len() as u64, asked }) }
    }

    /// The row of `key` in its bucket, in the order of `view`'s features: they are found by name; one that the file lacks was
    /// never written, one that the view lacks is passed over.
    ///
    /// # Errors
    /// The bucket does not parse, or a feature's type is not the config's.
    pub(crate) fn row(&self, bucket: &[u8], key: &EntityKey, view: &View) -> Result<Option<Row>, Error> {
        let cells_of = self.manifest.cells_of(view).map_err(Error::Mismatch)?;
        let damaged = |damaged| self.damaged(damaged);
        let Some(record) = format::find(bucket, key.as_bytes()).map_err(damaged)? else { return Ok(None) };
        let mut cells = Vec::with_capacity(self.manifest.features.len());
        for cell in record.cells() {
            cells.push(cell.map_err(damaged)?);
        }
        if cells.len() != self.manifest.features.len() {
            return Err(damaged(Damaged("a record has another number of cells than the manifest has features")));
        }
        let mut values = Vec::with_capacity(cells_of.len());
        for at in cells_of {
            let value = at.and_then(|at| cells[at]).map(feast::decode_value).transpose();
            values.push(value.map_err(|_| damaged(Damaged("a value is not a feast.types.Value")))?);
        }
        Ok(Some(Row::new(record.event_time, values.into())))
    }

    fn damaged(&self, what: Damaged) -> Error {
        Error::Damaged { file: self.path.to_string(), what }
    }
}
