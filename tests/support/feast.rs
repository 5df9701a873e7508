//! Real Feast: a repository whose views hold every type, materialized from parquet into a given Redis.

use std::path::PathBuf;

use serde_json::Value;

use super::{client, parts, process::Folder};

/// A materialized repository.
pub(crate) struct Feast {
    /// Rows by view: a list of objects, column by column as Feast's own SDK reads them back.
    pub(crate) rows: Value,
    folder: Folder,
}

impl Feast {
    /// The project's name.
    pub(crate) const PROJECT: &str = "shop";

    /// Materializes into one server, named `host:port`.
    #[track_caller]
    pub(crate) fn into_redis(address: &str) -> Self {
        Self::materialize("redis", address)
    }

    /// Materializes into a cluster with these nodes.
    #[track_caller]
    pub(crate) fn into_cluster(nodes: &[String]) -> Self {
        Self::materialize("redis_cluster", &nodes.join(","))
    }

    #[track_caller]
    fn materialize(kind: &str, connection: &str) -> Self {
        let folder = Folder::new("feast");
        let path = folder.path().display().to_string();
        let quiet = [("FEAST_USAGE".into(), "False".into()), ("HOME".into(), path.clone())];
        let script = parts::support_file("feast_repo.py");
        let rows = client::python("feast", &script, &[&path, Self::PROJECT, kind, connection], &quiet);
        Self { rows, folder }
    }

    /// Its registry file.
    pub(crate) fn registry(&self) -> PathBuf {
        self.folder.path().join("registry.db")
    }

    /// The parquet file that a view was materialized from.
    pub(crate) fn parquet(&self, view: &str) -> PathBuf {
        self.folder.path().join(format!("{view}.parquet"))
    }
}
