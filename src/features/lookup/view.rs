//! One view's lookup file as it stands: which data file answers now, and how a new one takes its place.
//!
//! ```text
//!            manifest read                  no manifest
//!   Unread ───────────────► Open ◄──────────────────────► Absent
//!      │                     │ a refresh fails: the file stays; what is read is immutable
//!      └── fails: stays, with the reason, and is tried again soon
//! ```
//!
//! Only [`Current::refresh`] changes the state, and only one task a view calls it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use object_store::{GetOptions, ObjectStore, path::Path};
use tokio::{sync::Notify, time::Instant};

use super::{
    Error,
    file::{DataFile, Pages, Read},
    manifest::{self, Manifest},
};
use crate::{config::View, features::chain, resilience::seldom::Seldom, telemetry::handles::object::Object};

/// Which file answers for a view.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Not known yet; why.
    Unread(Arc<str>),
    /// There is no manifest: no entity has a row.
    Absent,
    /// This one.
    Open(Arc<DataFile>),
}

/// Reads made for one view.
#[cfg(any(test, feature = "bench"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) manifest: u64,
    pub(crate) directory: u64,
    pub(crate) bucket: u64,
}

/// A view's current file, and what has been read of it.
#[derive(Debug)]
pub(crate) struct Current {
    view: Arc<View>,
    project: Arc<str>,
    store: Arc<dyn ObjectStore>,
    folder: Path,
    pages: Pages,
    /// Of the manifest, for messages.
    url: String,
    /// When a failure was last said: of the manifest, of a lookup.
    unread: Seldom,
    failing: Seldom,
    state: ArcSwap<State>,
    /// Rung when the manifest should be read before its time.
    pub(crate) stale: Notify,
    reads: [AtomicU64; 3],
    pub(crate) metrics: Object,
}

/// Whose manifest it is, and where.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The root of the lookup files.
    pub(crate) root: Path,
    /// The same, as the user wrote it.
    pub(crate) url: Arc<str>,
    pub(crate) project: Arc<str>,
}

impl Current {
    /// A view whose manifest is yet to be read.
    pub(crate) fn new(place: &Place, view: Arc<View>, pages: Pages) -> Self {
        let Place { store, root, url, project } = place.clone();
        Self {
            url: format!("{}/{project}/{}/manifest.json", url.trim_end_matches('/'), view.name),
            unread: Seldom::new(Instant::now()),
            failing: Seldom::new(Instant::now()),
            folder: manifest::folder(&root, &project, &view.name),
            metrics: Object::new(&view.name),
            state: ArcSwap::from_pointee(State::Unread("the manifest has not been read yet".into())),
            stale: Notify::new(),
            reads: Default::default(),
            view,
            project,
            store,
            pages,
        }
    }

    /// Whether it answers for that view of that project: its files hold the same join keys and features.
    pub(crate) fn is_of(&self, project: &str, view: &View) -> bool {
        let features = |view: &View| view.features.iter().map(|f| (f.name.clone(), f.kind)).collect::<Vec<_>>();
        *self.project == *project
            && self.view.name == view.name
            && self.view.entities == view.entities
            && features(&self.view) == features(view)
    }

    /// What answers now.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Whether the manifest could be read, or its absence seen.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(*self.state(), State::Unread(_))
    }

    /// Reads made so far.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn reads(&self) -> Reads {
        let [manifest, directory, bucket] = &self.reads;
        Reads { manifest: manifest.load(Relaxed), directory: directory.load(Relaxed), bucket: bucket.load(Relaxed) }
    }

    /// Counts a ranged read.
    pub(crate) fn count(&self, read: Read) {
        match read {
            Read::Directory => {
                self.reads[1].fetch_add(1, Relaxed);
                self.metrics.directory_reads.increment(1);
            }
            Read::Bucket => {
                self.reads[2].fetch_add(1, Relaxed);
                self.metrics.bucket_reads.increment(1);
            }
        }
    }

    /// A lookup failed: said once a minute, for all of a view's fail alike.
    pub(crate) fn tell_failure(&self, reason: &dyn std::error::Error) {
        if self.failing.is_due(Instant::now()) {
            tracing::warn!(view = %self.view.name, url = %self.url, %reason,
                "a row could not be read from its lookup file; further ones are counted only");
        }
    }

    /// Reads the manifest if it is not the one known, and lets a new data file take the old one's place.
    pub(crate) async fn refresh(&self, etag: &mut Option<String>) {
        let before = self.state();
        let next = match self.read_manifest(etag).await {
            Ok(Some(manifest)) => self.open(manifest, &before),
            Ok(None) => State::clone(&before),
            Err(Error::Store(error)) if is_absent(&error) => self.absent(etag, &before),
            Err(error) => self.failed(&error, &before),
        };
        self.state.store(Arc::new(next));
    }

    /// `None`: it is the one that `etag` names.
    async fn read_manifest(&self, etag: &mut Option<String>) -> Result<Option<Manifest>, Error> {
        self.reads[0].fetch_add(1, Relaxed);
        self.metrics.manifest_reads.increment(1);
        let options = GetOptions { if_none_match: etag.clone(), ..GetOptions::default() };
        let found = match self.store.get_opts(&manifest::path(&self.folder), options).await {
            Err(object_store::Error::NotModified { .. }) => return Ok(None),
            found => found?,
        };
        let found_etag = found.meta.e_tag.clone();
        let bytes = found.bytes().await?;
        let manifest = Manifest::parse(&bytes, &self.project, &self.view)
            .map_err(|refused| Error::Mismatch(format!("{}/manifest.json: {}", self.folder, chain(&refused))))?;
        // Remembered only now: one that was refused is read, and told of, again.
        *etag = found_etag;
        Ok(Some(manifest))
    }

    fn open(&self, manifest: Manifest, before: &State) -> State {
        if matches!(before, State::Open(file) if file.manifest.data == manifest.data) {
            return before.clone();
        }
        tracing::info!(view = %self.view.name, file = %manifest.data, rows = manifest.rows, created = %manifest.created,
            "lookup file opened");
        State::Open(Arc::new(DataFile::new(self.store.clone(), &self.folder, manifest, self.pages.clone())))
    }

    fn absent(&self, etag: &mut Option<String>, before: &State) -> State {
        *etag = None;
        if !matches!(before, State::Absent) {
            tracing::warn!(view = %self.view.name, url = %self.url,
                "no lookup file there: the view has no L3 rows until `weir offline build` has written one");
        }
        State::Absent
    }

    fn failed(&self, error: &Error, before: &State) -> State {
        let reason = chain(error);
        match error {
            Error::Mismatch(_) => self.metrics.mismatch.increment(1),
            _ => self.metrics.unavailable.increment(1),
        }
        // A store's words differ each time, if only by how long it took.
        if self.unread.is_due(Instant::now()) {
            tracing::warn!(view = %self.view.name, url = %self.url, %reason, "the lookup file's manifest could not be read; trying on");
        }
        match before {
            State::Open(_) => before.clone(),
            _ => State::Unread(reason.into()),
        }
    }
}

/// Whether there is no manifest, as against no bucket: a bucket's name that is wrong must not pass for an empty view.
fn is_absent(error: &object_store::Error) -> bool {
    let text = chain(error);
    let is_not_found = matches!(error, object_store::Error::NotFound { .. });
    is_not_found && !["NoSuchBucket", "ContainerNotFound"].iter().any(|code| text.contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_not_there_is_no_empty_view() {
        let not_found = |text: &str| object_store::Error::NotFound { path: "x".into(), source: text.to_owned().into() };
        assert!(is_absent(&not_found("404: <Code>NoSuchKey</Code>")));
        assert!(!is_absent(&not_found("404: <Code>NoSuchBucket</Code>")));
        assert!(!is_absent(&object_store::Error::Generic { store: "S3", source: "503".into() }));
    }
}
