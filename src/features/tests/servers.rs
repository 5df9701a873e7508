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

    /// How often a command was carried out.
    pub(crate) fn calls(&self, name: &str) -> u64 {
        self.count(name, "calls=")
    }

    /// How often a command was refused or redirected.
    pub(crate) fn rejections(&self, name: &str) -> u64 {
        self.count(name, "rejected_calls=")
    }

    /// Connections, the one that asks aside.
    pub(crate) fn clients(&self) -> u64 {
        self.client_count("connected_clients:") - 1
    }

    /// Connections that wait for an answer which the server keeps back.
    pub(crate) fn blocked(&self) -> u64 {
        self.client_count("blocked_clients:")
    }

    fn client_count(&self, what: &str) -> u64 {
        let info: String = self.ask(&[b"INFO", b"clients"]);
        info.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim().parse().unwrap()
    }

    fn count(&self, name: &str, what: &str) -> u64 {
        let stats: String = self.ask(&[b"INFO", b"commandstats"]);
        let prefix = format!("cmdstat_{name}:");
        let counts = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        counts.map_or(0, |counts| counts.split(',').find_map(|part| part.strip_prefix(what)).unwrap().parse().unwrap())
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
    timeout: Duration,
}

/// A server that is to be a cluster's.
fn member(timeout: Duration) -> Server {
    let (bus, timeout) = (free_port().to_string(), timeout.as_millis().to_string());
    Server::with(&["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout, "--cluster-port", &bus])
}

/// The first and last slot of each master.
const SHARES: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl Cluster {
    /// Patient: a member that a busy machine keeps waiting is not given up.
    pub(crate) fn start() -> Self {
        Self::with(Duration::from_secs(30))
    }

    /// Members give each other up after `timeout`.
    pub(crate) fn with(timeout: Duration) -> Self {
        let cluster = Self { masters: std::array::from_fn(|_| member(timeout)), timeout };
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

    /// A replica for each master, in their order.
    pub(crate) fn replicas(&self) -> [Server; 3] {
        let replicas: [Server; 3] = std::array::from_fn(|_| member(self.timeout));
        for (replica, master) in replicas.iter().zip(&self.masters) {
            let (port, bus) = (master.port.to_string(), &master.options[5]);
            replica.ask::<()>(&[b"CLUSTER", b"MEET", b"127.0.0.1", port.as_bytes(), bus.as_bytes()]);
            let id: String = master.ask(&[b"CLUSTER", b"MYID"]);
            let began = Instant::now();
            // It can follow a master once it has heard of it.
            while command(&[b"CLUSTER", b"REPLICATE", id.as_bytes()]).exec(&mut replica.client()).is_err() {
                assert!(began.elapsed() < PATIENCE, "the replica does not join");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let began = Instant::now();
        while !self.masters.iter().chain(&replicas).all(|server| {
            let slots: Vec<Vec<::redis::Value>> = server.ask(&[b"CLUSTER", b"SLOTS"]);
            slots.len() == 3 && slots.iter().all(|range| range.len() == 4)
        }) {
            assert!(began.elapsed() < PATIENCE, "the replicas are not known to all");
            std::thread::sleep(Duration::from_millis(50));
        }
        replicas
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

/// Three sentinels that watch one master, called `mymaster`.
pub(crate) struct Sentinels {
    pub(crate) ports: [u16; 3],
    processes: Vec<Child>,
    _folder: TempDir,
}

impl Sentinels {
    /// Returns once they know each other and the master's one replica.
    pub(crate) fn of(master: &Server) -> Self {
        let folder = TempDir::new().unwrap();
        let ports = [(); 3].map(|()| free_port());
        let start = |port: u16| {
            let file = folder.path().join(format!("{port}.conf"));
            let lines = [
                format!("port {port}"),
                "bind 127.0.0.1".into(),
                format!("dir {}", folder.path().display()),
                format!("sentinel monitor mymaster 127.0.0.1 {} 2", master.port),
                "sentinel down-after-milliseconds mymaster 1000".into(),
                "sentinel failover-timeout mymaster 5000".into(),
            ];
            std::fs::write(&file, lines.join("\n")).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(file).arg("--sentinel").stdout(Stdio::null()).spawn().expect("redis-server is installed")
        };
        let sentinels = Self { ports, processes: ports.into_iter().map(start).collect(), _folder: folder };
        let began = Instant::now();
        while !ports.iter().all(|port| knows_all(*port)) {
            assert!(began.elapsed() < PATIENCE, "the sentinels do not find each other");
            std::thread::sleep(Duration::from_millis(100));
        }
        sentinels
    }
}

fn knows_all(port: u16) -> bool {
    let client = ::redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let Ok(mut connection) = client.get_connection() else { return false };
    let known = command(&[b"SENTINEL", b"MASTER", b"mymaster"]);
    let known: std::collections::HashMap<String, String> = known.query(&mut connection).unwrap_or_default();
    let is = |key: &str, value: &str| known.get(key).is_some_and(|found| found == value);
    is("num-slaves", "1") && is("num-other-sentinels", "2")
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// An authority of the test's own, and a certificate for 127.0.0.1.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
        for line in [
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
            "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=redis",
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
        ] {
            let output = Command::new("openssl").args(line.split(' ')).current_dir(folder.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// A server that speaks TLS as well, and the port on which it does.
    pub(crate) fn server(&self) -> (Server, u16) {
        let port = free_port();
        let file = |name| self.path(name).display().to_string();
        let options = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", file("cert.pem")),
            ("--tls-key-file", file("key.pem")),
            ("--tls-ca-cert-file", file("ca.pem")),
            ("--tls-auth-clients", "no".into()),
        ];
        let options: Vec<&str> = options.iter().flat_map(|(name, value)| [*name, value.as_str()]).collect();
        (Server::with(&options), port)
    }
}
