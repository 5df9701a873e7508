//! KServe's own model server, with models of ours: V1, V2 and gRPC on loopback.

use std::{net::SocketAddr, process::Command, sync::LazyLock};

use super::{
    http1, parts,
    process::{Folder, Spawned, free_port, loopback},
};

/// A running server with the models `echo` and `fraud`.
pub(crate) struct KServe {
    http: SocketAddr,
    grpc: SocketAddr,
    _process: Spawned,
    _folder: Folder,
}

impl KServe {
    /// Starts one; about five seconds.
    pub(crate) fn start() -> Self {
        let folder = Folder::new("kserve");
        let [http, grpc] = std::array::from_fn(|_| free_port());
        let mut command = Command::new(parts::python("kserve"));
        command
            .arg(parts::support_file("kserve_server.py"))
            .args([format!("--http_port={http}"), format!("--grpc_port={grpc}")])
            .current_dir(folder.path());
        let mut process = Spawned::start("kserve", &mut command, folder.path());
        process
            .ready("every model", |_| (http1::try_get(loopback(http), "/v2/models/fraud/ready")? == 200).then_some(()));
        Self { http: loopback(http), grpc: loopback(grpc), _process: process, _folder: folder }
    }

    /// One for all tests.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<KServe> = LazyLock::new(KServe::start);
        &SHARED
    }

    /// Its HTTP port.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its gRPC port.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// An endpoint for Weir's config, both ports.
    pub(crate) fn endpoint(&self) -> String {
        format!("{{http: \"http://{}\", grpc: \"http://{}\"}}", self.http, self.grpc)
    }
}
