//! Real Feast: a repository whose views hold every type, materialized from parquet into a given Redis.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use serde_json::Value;

use super::{
    client, http1, parts,
    process::{Folder, Spawned, free_port, loopback},
};

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

    /// The repository's registry.
    pub(crate) fn registry(&self) -> PathBuf {
        self.folder.path().join("registry.db")
    }

    /// The parquet file that a view was materialized from.
    pub(crate) fn parquet(&self, view: &str) -> PathBuf {
        self.folder.path().join(format!("{view}.parquet"))
    }
}

/// Feast's own Python server on a materialized repository.
pub(crate) struct FeastServer {
    port: u16,
    _process: Spawned,
    _folder: Folder,
}

impl FeastServer {
    /// Starts it on the repository's Redis, named `host:port`.
    #[track_caller]
    pub(crate) fn start(feast: &Feast, redis: &str) -> Self {
        let (folder, port) = (Folder::new("feast-server"), free_port());
        let mut command = Command::new(parts::python("feast"));
        command.arg(parts::support_file("feature_server.py")).arg(folder.path()).arg(Feast::PROJECT);
        command.arg(feast.registry()).args([redis, &port.to_string()]);
        command.env("FEAST_USAGE", "False").env("HOME", folder.path());
        let mut process = Spawned::start("feast-server", &mut command, folder.path());
        process.ready("/health to say 200", |_| (http1::try_get(loopback(port), "/health")? == 200).then_some(()));
        Self { port, _process: process, _folder: folder }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        loopback(self.port)
    }
}
