//! A place on an object store: the URL a user writes, turned into a client and a path.
//!
//! `s3://bucket/prefix`, `gs://…`, `az://container/…` and `file:///folder`; without a scheme it is a path on this machine. Credentials,
//! endpoints and proxies come from the environment as each cloud's own tools read them (`AWS_*`, `GOOGLE_*`, `AZURE_*`). The
//! client's waiting and retrying never comes from the library's defaults (10 retries, 3 minutes, 30 s): see [`Patience`].

use std::{fmt, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};

/// How long a client waits, and how often it tries again by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// One request from its start to its answer's last byte.
    pub(crate) timeout: Duration,
    /// Tries after the first.
    pub(crate) retries: usize,
}

impl Patience {
    /// For a request path: the caller holds the deadline, which may be earlier, and decides about trying again.
    pub(crate) const REQUEST: Self = Self { timeout: Duration::from_secs(2), retries: 0 };
    /// For a command: large objects, nobody waiting.
    pub(crate) const COMMAND: Self = Self { timeout: Duration::from_secs(120), retries: 5 };

    fn connect_timeout(self) -> Duration {
        self.timeout.min(Duration::from_secs(5))
    }

    fn retry(self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(5), base: 2.0 };
        RetryConfig { backoff, max_retries: self.retries, retry_timeout: self.timeout }
    }

    fn client_options(self) -> [(ClientConfigKey, String); 4] {
        [
            (ClientConfigKey::Timeout, format!("{}ms", self.timeout.as_millis())),
            (ClientConfigKey::ConnectTimeout, format!("{}ms", self.connect_timeout().as_millis())),
            // Longer than the wait between two reads of a manifest: a connection stays warm.
            (ClientConfigKey::PoolIdleTimeout, "120s".into()),
            (ClientConfigKey::PoolMaxIdlePerHost, "64".into()),
        ]
    }
}

/// Why a URL leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The scheme is none that this program has a client for.
    #[error(
        "{0:?}: unknown scheme; allowed: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder, a path"
    )]
    Scheme(String),
    /// The client cannot be made from the URL and the environment.
    #[error("{url:?} cannot be opened")]
    Client {
        /// As given.
        url: String,
        /// The client's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A client and a path under its root.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    /// As the user wrote it, for messages.
    pub(crate) url: Arc<str>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Location {
    /// Makes the client for `url`. Sends nothing.
    ///
    /// # Errors
    /// The scheme is unknown, or the environment lacks what the cloud needs.
    pub(crate) fn open(url: &str, patience: Patience) -> Result<Self, Error> {
        let client = |source| Error::Client { url: url.into(), source };
        let (store, path) = match url.split_once("://") {
            None => local(&std::path::absolute(url).map_err(|error| client(error.into()))?),
            Some(("file", path)) => local(std::path::Path::new(path.strip_prefix("localhost").unwrap_or(path))),
            Some(("s3" | "s3a", rest)) => remote(s3(AmazonS3Builder::from_env().with_url(url), patience), rest),
            Some(("gs", rest)) => remote(gcs(url, patience), rest),
            Some(("az" | "adl" | "azure" | "abfs" | "abfss", rest)) => remote(azure(url, patience), rest),
            Some(_) => return Err(Error::Scheme(url.into())),
        }
        .map_err(client)?;
        Ok(Self { store, path, url: url.into() })
    }
}

type Opened = Result<(Arc<dyn ObjectStore>, Path), Box<dyn std::error::Error + Send + Sync>>;

fn local(path: &std::path::Path) -> Opened {
    Ok((Arc::new(LocalFileSystem::new()), Path::from_absolute_path(path)?))
}

fn remote(store: object_store::Result<Arc<dyn ObjectStore>>, bucket_and_path: &str) -> Opened {
    let path = bucket_and_path.split_once('/').map_or("", |(_, path)| path);
    Ok((store?, Path::from_url_path(path)?))
}

pub(super) fn s3(builder: AmazonS3Builder, patience: Patience) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = builder.with_retry(patience.retry());
    for (key, value) in patience.client_options() {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    let endpoints = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint];
    let plain = endpoints.iter().filter_map(|key| builder.get_config_value(key)).any(|url| url.starts_with("http://"));
    if plain {
        // Whoever names a plain-text endpoint means it.
        builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp), "true");
    }
    Ok(Arc::new(builder.build()?))
}

fn gcs(url: &str, patience: Patience) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(patience.retry());
    for (key, value) in patience.client_options() {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(url: &str, patience: Patience) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(url).with_retry(patience.retry());
    for (key, value) in patience.client_options() {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    Ok(Arc::new(builder.build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_a_path_under_its_bucket() {
        let opened = Location::open("s3://bucket/some/pre%20fix/", Patience::REQUEST).unwrap();
        assert_eq!(opened.path.as_ref(), "some/pre fix");
        assert_eq!(Location::open("s3://bucket", Patience::REQUEST).unwrap().path.as_ref(), "");
        assert_eq!(Location::open("file:///var/lib/weir", Patience::REQUEST).unwrap().path.as_ref(), "var/lib/weir");
        let here = std::env::current_dir().unwrap();
        let relative = Location::open("some/folder", Patience::COMMAND).unwrap();
        assert_eq!(relative.path, Path::from_absolute_path(here.join("some/folder")).unwrap());
    }

    #[test]
    fn an_unknown_scheme_says_what_is_allowed() {
        let error = Location::open("ftp://host/x", Patience::REQUEST).unwrap_err().to_string();
        assert!(error.contains("ftp://host/x") && error.contains("s3://"), "{error}");
    }
}
