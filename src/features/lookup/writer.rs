//! Makes a view's lookup file: the data file first, whole and under a new name, then the manifest that names it.
//!
//! Whoever reads meanwhile goes on with the file its manifest names. The file of the build before stays for them; older ones
//! are removed once nobody can still be reading them. A build that fails leaves the manifest as it was; a data file that it may
//! leave behind is removed by a later one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart, path::Path};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Error,
    format::{self, Entry, Layout},
    location::Location,
    manifest::{self, Manifest},
    partition::{Age, Partitions, Sorted},
};
use crate::{config::View, features::Row, infer::EntityKey};

/// With the 10,000 parts that S3 allows: files up to 160 GB.
const PART_BYTES: usize = 16 << 20;
const PARTS_IN_FLIGHT: usize = 4;
/// A data file that no manifest names is kept this long, for a build that is about to name it.
const UNNAMED_FOR: Duration = Duration::from_secs(3600);

/// Whose rows are written, and where they come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The root: `<url>/<project>/<view>/` is written under it.
    pub(crate) to: &'a Location,
    pub(crate) project: &'a str,
    pub(crate) view: &'a View,
    /// What the manifest says the rows were made from.
    pub(crate) source: &'a str,
}

/// Collects rows in any order, then writes them.
#[derive(Debug)]
pub(crate) struct Writer {
    partitions: Partitions,
    record: Vec<u8>,
    scratch: Vec<u8>,
}

impl Writer {
    /// An empty file to be.
    pub(crate) fn new() -> Self {
        Self { partitions: Partitions::new(), record: Vec::new(), scratch: Vec::new() }
    }

    /// Adds a row; `values` are in the order of the view's features. Of rows with one key the newest is kept, by event time,
    /// then `created` (nanoseconds since the epoch), then the order in which they came.
    ///
    /// # Errors
    /// A temporary file cannot be written.
    pub(crate) fn push(&mut self, key: &EntityKey, row: &Row, created: Option<i64>) -> Result<(), Error> {
        self.record.clear();
        format::put_record(key, row, &mut self.scratch, &mut self.record);
        let age = Age { event_time: row.event_time, created };
        Ok(self.partitions.push(key.as_bytes(), age, &self.record)?)
    }

    /// Rows added so far.
    pub(crate) fn rows(&self) -> u64 {
        self.partitions.rows()
    }

    /// Writes the data file and swaps the manifest. Temporary files are read in the task itself: not for a request's runtime.
    ///
    /// # Errors
    /// A temporary file or the object store fails; the manifest is as it was then.
    pub(crate) async fn finish(self, target: Target<'_>) -> Result<Manifest, Error> {
        let folder = manifest::folder(&target.to.path, target.project, &target.view.name);
        let store = &target.to.store;
        let sorted = self.partitions.finish()?;
        let rows = sorted.rows();
        let data = format!("data-{}-{:08x}.weir", unix_millis(), rand::random::<u32>());
        let written = upload(store.as_ref(), &folder.clone().join(data.as_str()), sorted).await?;
        let manifest = Manifest {
            format: format::VERSION,
            project: target.project.into(),
            view: target.view.name.to_string(),
            data,
            size: written.layout.file_bytes(),
            checksum: format!("{:032x}", written.checksum),
            rows,
            buckets: written.layout.buckets,
            directory: written.layout.directory,
            join_keys: manifest::join_keys(target.view),
            features: manifest::features(target.view),
            created: prost_types::Timestamp::from(SystemTime::now()).to_string(),
            source: target.source.into(),
        };
        let before = named(store.as_ref(), &folder).await;
        let json = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::other)?;
        store.put(&manifest::path(&folder), PutPayload::from(json)).await?;
        remove_old(store, &folder, [before.as_deref().unwrap_or_default(), &manifest.data]).await;
        Ok(manifest)
    }
}

/// Writes the rows of an iterator as a view's lookup file: for small files made without a parquet source. Rows need no order;
/// of rows with one key the newest is kept.
///
/// # Errors
/// A temporary file or the object store fails; the manifest is as it was then.
pub(crate) async fn write(
    target: Target<'_>,
    rows: impl IntoIterator<Item = (EntityKey, Row)>,
) -> Result<Manifest, Error> {
    let mut writer = Writer::new();
    for (key, row) in rows {
        writer.push(&key, &row, None)?;
    }
    writer.finish(target).await
}

struct Written {
    layout: Layout,
    checksum: u128,
}

/// A data file on its way up.
struct Upload {
    parts: WriteMultipart,
    hash: Xxh3,
    at: u64,
    entries: Vec<Entry>,
    bucket: Vec<u8>,
}

async fn upload(store: &dyn ObjectStore, path: &Path, sorted: Sorted) -> Result<Written, Error> {
    let parts = WriteMultipart::new_with_chunk_size(store.put_multipart(path).await?, PART_BYTES);
    let mut upload = Upload { parts, hash: Xxh3::new(), at: 0, entries: Vec::new(), bucket: Vec::new() };
    match upload.put_all(sorted).await {
        Ok(layout) => {
            upload.parts.finish().await?;
            Ok(Written { layout, checksum: upload.hash.digest128() })
        }
        Err(error) => {
            // The parts are of no use; if this fails too, the first failure is the one to tell.
            let _ = upload.parts.abort().await;
            Err(error)
        }
    }
}

impl Upload {
    async fn put_all(&mut self, mut sorted: Sorted) -> Result<Layout, Error> {
        let mut layout = Layout { buckets: Layout::buckets_for(sorted.rows(), sorted.bytes()), directory: 0 };
        self.put(&format::header()).await?;
        while let Some((hash, record)) = sorted.next()? {
            let bucket = layout.bucket(hash);
            while (self.entries.len() as u64) < bucket {
                self.close_bucket().await?;
            }
            self.bucket.extend_from_slice(&record);
        }
        while (self.entries.len() as u64) < layout.buckets {
            self.close_bucket().await?;
        }
        layout.directory = self.at;
        self.put_directory().await?;
        Ok(layout)
    }

    async fn close_bucket(&mut self) -> Result<(), Error> {
        self.entries.push(Entry::of(self.at, &self.bucket).map_err(std::io::Error::other)?);
        let bucket = std::mem::take(&mut self.bucket);
        self.put(&bucket).await?;
        self.bucket = bucket;
        self.bucket.clear();
        Ok(())
    }

    async fn put_directory(&mut self) -> Result<(), Error> {
        let mut page = Vec::new();
        for (number, entries) in std::mem::take(&mut self.entries).chunks(format::PAGE_ENTRIES as usize).enumerate() {
            page.clear();
            format::put_page(number as u64, entries, &mut page);
            self.put(&page).await?;
        }
        Ok(())
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
        self.hash.update(bytes);
        self.parts.write(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// The data file that the manifest names now, where there is one that can be read.
async fn named(store: &dyn ObjectStore, folder: &Path) -> Option<String> {
    let bytes = store.get(&manifest::path(folder)).await.ok()?.bytes().await.ok()?;
    Some(serde_json::from_slice::<Manifest>(&bytes).ok()?.data)
}

/// Removes data files that are neither in `keep` nor young. A failure costs space, not the build: it is only told.
async fn remove_old(store: &Arc<dyn ObjectStore>, folder: &Path, keep: [&str; 2]) {
    let now = unix_millis();
    let is_old = |meta: &object_store::ObjectMeta| {
        let name = meta.location.filename().unwrap_or_default();
        let age = now.saturating_sub(u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or_default());
        name.starts_with("data-")
            && name.ends_with(".weir")
            && !keep.contains(&name)
            && u128::from(age) > UNNAMED_FOR.as_millis()
    };
    let removed: object_store::Result<()> = async {
        let found = store.list_with_delimiter(Some(folder)).await?;
        for old in found.objects.into_iter().filter(is_old) {
            store.delete(&old.location).await?;
            tracing::info!(file = %old.location, "removed a data file that no manifest names");
        }
        Ok(())
    }
    .await;
    if let Err(error) = removed {
        tracing::warn!(%folder, %error, "data files that no manifest names could not be removed");
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
