//! Where Feast's registry is fetched from: a file or an object, asked for again only when it has changed.
//!
//! Bytes in, bytes out: what they mean is `config`'s. A fetch is bounded in size and in time, and leaves what is known of the last
//! one alone until it has succeeded.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::{GetOptions, ObjectStore as _};
use tokio::time::{sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    chain,
    lookup::{self, Location, Patience},
};

/// The largest registry that is read.
const LARGEST: u64 = 64 << 20;
/// One request, and the tries after a failed one.
const PATIENCE: Patience = Patience { timeout: Duration::from_secs(10), retries: 2 };
/// All of a fetch.
const FETCH_WITHIN: Duration = Duration::from_secs(30);

/// How long a file that changed must stay as it is, and how often that is awaited.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLES: usize = 25;
/// A file that was last written longer ago than this is not being written.
const SETTLED: Duration = Duration::from_secs(5);

/// Why there are no bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The URL, or what the environment says of its store: a matter of configuration.
    #[error(transparent)]
    Url(#[from] lookup::location::Error),
    /// The store failed, or has no such object. May pass.
    #[error(transparent)]
    Store(#[from] object_store::Error),
    /// Not a registry's size.
    #[error("{0} bytes long; allowed: up to {LARGEST}")]
    TooLarge(u64),
    /// May pass.
    #[error("no answer within {FETCH_WITHIN:?}")]
    Timeout,
}

impl Error {
    /// The whole chain, in one line.
    pub(crate) fn told(&self) -> String {
        chain(self)
    }
}

/// The place of a registry, and which state of it was seen last.
#[derive(Debug)]
pub(crate) struct Source {
    location: Location,
    seen: Option<Seen>,
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    /// As the store names the state; on disk made of inode, time and length.
    etag: Option<String>,
    digest: u64,
    modified: SystemTime,
}

impl Seen {
    /// Whether it was last written so long ago that nobody is writing it.
    fn is_old(&self, now: SystemTime) -> bool {
        now.duration_since(self.modified).is_ok_and(|age| age > SETTLED)
    }
}

impl Source {
    /// Sends nothing.
    ///
    /// # Errors
    /// The URL leads nowhere.
    pub(crate) fn open(url: &str) -> Result<Self, Error> {
        Ok(Self { location: Location::open(url, PATIENCE)?, seen: None })
    }

    /// The registry's bytes; `None`: they are those seen last.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Dropped, nothing was seen.
    pub(crate) async fn fetch(&mut self) -> Result<Option<Bytes>, Error> {
        let found = timeout(FETCH_WITHIN, self.get()).await.map_err(|_| Error::Timeout)?;
        let (bytes, etag, modified) = match found {
            Err(Error::Store(object_store::Error::NotModified { .. })) => return Ok(None),
            found => found?,
        };
        let seen = Seen { etag, digest: xxh3_64(&bytes), modified };
        let same = self.seen.as_ref().is_some_and(|before| before.digest == seen.digest);
        self.seen = Some(seen);
        Ok((!same).then_some(bytes))
    }

    /// As [`Source::fetch`], but a file that changed lately is read again until it stays as it is: Feast writes it in place, and
    /// half a registry may look like a whole one.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) async fn fetch_settled(&mut self) -> Result<Option<Bytes>, Error> {
        let mut settled = None;
        for _ in 0..SETTLES {
            match self.fetch().await {
                Ok(Some(bytes)) => settled = Some(bytes),
                // The next look reads what it becomes.
                Err(_) if settled.is_some() => break,
                Ok(None) => break,
                Err(error) => return Err(error),
            }
            if self.is_atomic() || self.seen.as_ref().is_some_and(|seen| seen.is_old(SystemTime::now())) {
                break;
            }
            sleep(SETTLE).await;
        }
        Ok(settled)
    }

    /// Whether a new state takes the old one's place at once, as on every object store.
    fn is_atomic(&self) -> bool {
        self.location.url.split_once("://").is_some_and(|(scheme, _)| scheme != "file")
    }

    async fn get(&self) -> Result<(Bytes, Option<String>, SystemTime), Error> {
        let if_none_match = self.seen.as_ref().and_then(|seen| seen.etag.clone());
        let options = GetOptions { if_none_match, ..GetOptions::default() };
        let found = self.location.store.get_opts(&self.location.path, options).await?;
        let size = found.meta.size;
        if size > LARGEST {
            return Err(Error::TooLarge(size));
        }
        let (etag, modified) = (found.meta.e_tag.clone(), found.meta.last_modified.into());
        Ok((found.bytes().await?, etag, modified))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.db");
        let mut source = Source::open(path.to_str().unwrap()).unwrap();
        assert!(matches!(source.fetch().await, Err(Error::Store(object_store::Error::NotFound { .. }))));
        std::fs::write(&path, "one").unwrap();
        assert_eq!(source.fetch().await.unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(source.fetch().await.unwrap(), None);
        std::fs::write(&path, "two, longer").unwrap();
        assert_eq!(source.fetch().await.unwrap().as_deref(), Some(&b"two, longer"[..]));
        // Written anew, the same bytes are no change.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "two, longer").unwrap();
        assert_eq!(source.fetch().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.db");
        std::fs::write(&path, "half").unwrap();
        let mut source = Source::open(&format!("file://{}", path.display())).unwrap();
        let written = async {
            sleep(SETTLE / 4).await;
            std::fs::write(&path, "whole").unwrap();
        };
        let (settled, ()) = futures_util::future::join(source.fetch_settled(), written).await;
        assert_eq!(settled.unwrap().as_deref(), Some(&b"whole"[..]));
        assert_eq!(source.fetch_settled().await.unwrap(), None);
    }

    #[test]
    fn only_what_was_written_lately_may_be_half_written() {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let seen = Seen { etag: None, digest: 0, modified };
        assert!(!seen.is_old(modified) && !seen.is_old(modified + SETTLED));
        assert!(seen.is_old(modified + SETTLED + SETTLE));
        assert!(!seen.is_old(modified - SETTLE), "clocks differ");
    }

    #[tokio::test]
    async fn a_registry_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.db");
        std::fs::File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        let error = Source::open(path.to_str().unwrap()).unwrap().fetch().await.unwrap_err();
        assert_eq!(error.told(), "67108865 bytes long; allowed: up to 67108864");
    }
}
