//! The feature servers: a Redis that real Feast wrote, Feast's server tuned as its documentation advises, and Weir.
//!
//! Feast's server does not recycle its workers, writes no access log and takes what importing it left behind out of the
//! garbage collector's reach (feast/static_artifacts.py). What is not set is each program's own default.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::data::{EVENT_SECONDS, View};
use crate::{
    cpu, feast,
    peers::{self, Place, Server, Weir},
    process::free_address,
};

/// What Weir's L1 may hold, in MiB.
pub(crate) const L1_MIB: u64 = 100;

/// Feast's repository: a folder with a registry.
pub(crate) struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// Has Feast make it and write the rows of `views` into `redis`.
    pub(crate) fn make(place: Place<'_>, python: &Path, redis: SocketAddr, views: &[&View]) -> Result<Self> {
        let folder = place.0.join("feast");
        fs::create_dir(&folder)?;
        let store = format!(
            "project: {project}
provider: local
registry: registry.db
online_store: {{type: redis, connection_string: \"{redis}\"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
",
            project = feast::PROJECT,
        );
        fs::write(folder.join("feature_store.yaml"), store)?;
        fs::write(folder.join("static_artifacts.py"), include_str!("../../feast/static_artifacts.py"))?;
        fs::write(folder.join("write.py"), include_str!("../../feast/write.py"))?;
        let described = views.iter().flat_map(|view| {
            [view.name.into(), view.join_key.into(), view.rows.to_string(), view.features.to_string()]
        });
        let output = Command::new(python)
            .arg("write.py")
            .arg(EVENT_SECONDS.to_string())
            .args(described)
            .current_dir(&folder)
            .env("FEAST_USAGE", "False")
            .output()
            .with_context(|| format!("cannot start {}", python.display()))?;
        ensure!(output.status.success(), "Feast wrote no rows: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { folder })
    }

    /// Feast's server on it.
    pub(crate) fn serve(&self, place: Place<'_>, python: &Path, workers: usize) -> Result<Server> {
        let address = free_address()?;
        let program = python.with_file_name("feast").display().to_string();
        let mut arguments = vec!["FEAST_USAGE=False".to_owned(), program];
        arguments.extend(["--chdir".into(), self.folder.display().to_string()]);
        arguments.extend(["serve", "--no-access-log", "--max-requests", "0", "--workers"].map(String::from));
        arguments.extend([workers.to_string(), "--host".into(), address.ip().to_string()]);
        arguments.extend(["--port".into(), address.port().to_string()]);
        let server = place.start(&format!("feast-{workers}"), Path::new("env"), &arguments, address)?;
        settle(&server)?;
        Ok(server)
    }

    fn registry(&self) -> PathBuf {
        self.folder.join("registry.db")
    }
}

/// Waits until a server has nothing to do: Feast's listens long before its last worker is there.
fn settle(server: &Server) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(500);
    let until = Instant::now() + Duration::from_secs(60);
    let mut before = cpu::used(server.process.id())?;
    while Instant::now() < until {
        sleep(LOOK);
        let now = cpu::used(server.process.id())?;
        // A tick, which may be another's.
        if now.saturating_sub(before) <= Duration::from_millis(10) {
            return Ok(());
        }
        before = now;
    }
    bail!("it does not come to rest")
}

/// Whether Weir keeps rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum L1 {
    Off,
    On,
}

/// Weir on the repository's registry and `redis`, with one worker.
pub(crate) fn weir(
    place: Place<'_>,
    (name, program): (&str, &Path),
    repository: &Repository,
    redis: SocketAddr,
    l1: L1,
) -> Result<Weir> {
    let name = name.replace([' ', ','], "-");
    let capacity = match l1 {
        L1::Off => "0B".to_owned(),
        L1::On => format!("{L1_MIB}MiB"),
    };
    let config = format!(
        "features:
  registry: \"{registry}\"
  project: {project}
  l1: {{capacity: {capacity}, ttl: 1h}}
  l2: {{redis: [\"redis://{redis}\"], timeout: 1s}}
",
        registry = repository.registry().display(),
        project = feast::PROJECT,
    );
    peers::weir_with(place, (&name, program), &config)
}
