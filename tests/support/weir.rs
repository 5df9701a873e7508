//! The gateway itself: the binary that this package builds, started with a config a test writes.

use std::{net::SocketAddr, process::Command};

use super::{
    grpc::Grpc,
    http1::{self, Http1},
    metrics::Metrics,
    process::{Folder, Spawned},
};

/// A running gateway.
pub(crate) struct Weir {
    http: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
    process: Spawned,
    _folder: Folder,
}

/// The binary.
pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_weir"))
}

impl Weir {
    /// Starts it and waits until it is ready. `listen:` is added to the config: loopback, any port.
    #[track_caller]
    pub(crate) fn start(config: &str) -> Self {
        Self::with_environment(config, &[])
    }

    /// The same, with environment variables.
    #[track_caller]
    pub(crate) fn with_environment(config: &str, environment: &[(String, String)]) -> Self {
        let mut weir = Self::unready(config, environment);
        let admin = weir.admin;
        weir.process.ready("/readyz to say 200", |_| (http1::try_get(admin, "/readyz")? == 200).then_some(()));
        weir
    }

    /// Starts it and waits only until it listens.
    #[track_caller]
    pub(crate) fn unready(config: &str, environment: &[(String, String)]) -> Self {
        let folder = Folder::new("weir");
        let mut text = config.to_owned();
        if !config.lines().any(|line| line.starts_with("listen:")) {
            text += "\nlisten: {http: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}\n";
        }
        let path = folder.write("weir.yaml", text);
        let mut command = command();
        command.args(["serve", "-c"]).arg(path).envs(environment.iter().map(|(name, value)| (name, value)));
        let mut process = Spawned::start("weir", &mut command, folder.path());
        let [http, grpc, admin] = ["http", "grpc", "admin"].map(|listener| {
            process.ready(&format!("`listening {listener}=`"), |process| address_in(&process.log(), listener))
        });
        Self { http, grpc, admin, process, _folder: folder }
    }

    /// The port for HTTP/1.1, h2c and gRPC.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// The port for gRPC.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// The admin port.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process.
    pub(crate) fn process(&mut self) -> &mut Spawned {
        &mut self.process
    }

    /// A connection to the HTTP port.
    #[track_caller]
    pub(crate) fn connect(&self) -> Http1 {
        Http1::connect(self.http)
    }

    /// A gRPC connection.
    #[track_caller]
    pub(crate) fn connect_grpc(&self) -> Grpc {
        Grpc::connect(self.grpc)
    }

    /// What it exports now.
    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::scrape(self.admin)
    }
}

/// The address in the log's `listening NAME=ADDRESS`, however the line is dressed.
pub(crate) fn address_in(log: &str, listener: &str) -> Option<SocketAddr> {
    let mark = format!("listening {listener}=");
    let rest = &log[log.find(&mark)? + mark.len()..];
    // A line that is not finished yet is not read.
    let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']')))?;
    rest[..end].parse().ok()
}
