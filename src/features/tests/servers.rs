//! Real Redis servers on free ports, their files in a folder of their own, gone when dropped.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ::redis::{Connection, FromRedisValue};
use tempfile::TempDir;
use tokio::time::Instant;

/// How long a server may take to do what a test waits for. Long: it bounds a hang, nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// One redis-server.
pub(crate) struct Server {
    process: Child,
    folder: TempDir,
    pub(crate) port: u16,
    options: Vec<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let folder = TempDir::new().unwrap();
        let port = free_port();
        let mut server = Self { process: spawn(port, &folder, &options), folder, port, options };
        // Somebody else may take a port between its choice and its use: then another one.
        while !server.is_up() {
            server.port = free_port();
            server.process = spawn(server.port, &server.folder, &server.options);
        }
        server
    }

    fn is_up(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.try_connect().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer");
    }

    fn try_connect(&self) -> Option<Connection> {
        let mut connection = ::redis::Client::open(self.url()).unwrap().get_connection().ok()?;
        ::redis::cmd("PING").query::<String>(&mut connection).ok()?;
        Some(connection)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn client(&self) -> Connection {
        self.try_connect().unwrap()
    }

    /// One command, as words.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        command(words).query(&mut self.client()).unwrap()
    }

    /// How often a command was called.
    pub(crate) fn calls(&self, name: &str) -> u64 {
        let stats: String = self.ask(&[b"INFO", b"commandstats"]);
        let prefix = format!("cmdstat_{name}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again, on the same port and without its data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.port, &self.folder, &self.options);
        assert!(self.is_up());
    }

    /// Stops it in its tracks: its sockets stay open, nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn command(words: &[&[u8]]) -> ::redis::Cmd {
    let mut command = ::redis::cmd(std::str::from_utf8(words[0]).unwrap());
    for word in &words[1..] {
        command.arg(*word);
    }
    command
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, folder: &TempDir, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder.path())
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// Three masters without replicas, which share the slots.
pub(crate) struct Cluster {
    pub(crate) masters: [Server; 3],
}

/// The first and last slot of each master.
const SHARES: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl Cluster {
    pub(crate) fn start() -> Self {
        let masters = std::array::from_fn(|_| {
            let bus = free_port().to_string();
            Server::with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus])
        });
        let cluster = Self { masters };
        for (at, ((first, last), master)) in SHARES.iter().zip(&cluster.masters).enumerate() {
            let epoch = (at + 1).to_string();
            master.ask::<()>(&[b"CLUSTER", b"SET-CONFIG-EPOCH", epoch.as_bytes()]);
            let (first, last) = (first.to_string(), last.to_string());
            master.ask::<()>(&[b"CLUSTER", b"ADDSLOTSRANGE", first.as_bytes(), last.as_bytes()]);
            let (port, bus) = (master.port.to_string(), &master.options[5]);
            cluster.masters[0].ask::<()>(&[b"CLUSTER", b"MEET", b"127.0.0.1", port.as_bytes(), bus.as_bytes()]);
        }
        let began = Instant::now();
        while !cluster.is_whole() {
            assert!(began.elapsed() < PATIENCE, "the cluster does not form");
            std::thread::sleep(Duration::from_millis(50));
        }
        cluster
    }

    fn is_whole(&self) -> bool {
        self.masters.iter().all(|master| {
            let info: String = master.ask(&[b"CLUSTER", b"INFO"]);
            info.contains("cluster_state:ok")
                && info.contains("cluster_slots_ok:16384")
                && info.contains("cluster_size:3")
        })
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.masters.iter().map(Server::url).collect()
    }

    /// The master that has the key's slot, as the servers say.
    pub(crate) fn holder(&self, key: &[u8]) -> &Server {
        let slot: u16 = self.masters[0].ask(&[b"CLUSTER", b"KEYSLOT", key]);
        let at = SHARES.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap();
        &self.masters[at]
    }
}
