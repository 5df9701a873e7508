//! SeaweedFS: a real S3 server, in one process, with one bucket `features`.

use std::{net::SocketAddr, process::Command, sync::LazyLock};

use super::{
    http1, parts,
    process::{Folder, Spawned, free_port, loopback},
};

/// The bucket that is there from the start.
pub(crate) const BUCKET: &str = "features";
const ACCESS_KEY: &str = "weir-test";
const SECRET_KEY: &str = "weir-test-secret";

/// A running server.
pub(crate) struct SeaweedFs {
    port: u16,
    _process: Spawned,
    _folder: Folder,
}

impl SeaweedFs {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let folder = Folder::new("seaweed");
        let [master, volume, filer, port] = std::array::from_fn(|_| free_port());
        let mut command = Command::new(parts::environment("triton").join("bin/weed"));
        command
            .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3.port.iceberg=0"])
            .args(["-webdav=false", "-admin.ui=false", &format!("-bucket={BUCKET}")])
            .arg(format!("-dir={}", folder.path().display()))
            .args([format!("-master.port={master}"), format!("-volume.port={volume}")])
            .args([format!("-filer.port={filer}"), format!("-s3.port={port}")])
            .envs([("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)])
            .current_dir(folder.path());
        let mut process = Spawned::start("seaweedfs", &mut command, folder.path());
        // Unsigned, so refused: but refused by a gateway that knows the bucket.
        process.ready("the bucket", |_| (http1::try_get(loopback(port), &format!("/{BUCKET}"))? == 403).then_some(()));
        Self { port, _process: process, _folder: folder }
    }

    /// One for all tests; each uses a prefix of its own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<SeaweedFs> = LazyLock::new(SeaweedFs::start);
        &SHARED
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// What a client's environment has to say to reach it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address());
        let pairs = [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT", &endpoint),
            ("AWS_ENDPOINT_URL", &endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        pairs.map(|(name, value)| (name.into(), value.into())).into()
    }
}
