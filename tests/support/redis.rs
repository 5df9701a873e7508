//! Real Redis: one server, or a cluster of three masters and three replicas. Nothing is written to disk.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use super::{
    process::{Folder, START, Spawned, await_some, free_port, loopback, wait_until},
    vectors::StoredHash,
};

/// One server.
pub(crate) struct Redis {
    port: u16,
    process: Mutex<Option<Spawned>>,
    folder: Folder,
    extra: Vec<String>,
}

impl Redis {
    /// Starts a server of the test's own.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one that follows another.
    pub(crate) fn replica_of(other: &Self) -> Self {
        Self::with(&["--replicaof", "127.0.0.1", &other.port.to_string()])
    }

    /// One command, as words.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        redis::cmd(words[0])
            .arg(&words[1..])
            .query(&mut self.connection())
            .expect("the server runs, and carries it out")
    }

    /// Has it follow another.
    pub(crate) fn follow(&self, other: &Self) {
        self.ask::<()>(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    }

    /// Has it follow nobody.
    pub(crate) fn promote(&self) {
        self.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    }

    fn with(extra: &[&str]) -> Self {
        let extra = extra.iter().map(ToString::to_string).collect();
        let redis = Self { port: free_port(), process: Mutex::new(None), folder: Folder::new("redis"), extra };
        redis.restart();
        redis
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// `redis://…`
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// A connection of the test's own.
    pub(crate) fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("the URL is one");
        client.get_connection().expect("Redis runs")
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&self) {
        *self.process.lock().expect("no holder panics") = None;
    }

    /// Stops it from answering while its connections stay open.
    pub(crate) fn freeze(&self) {
        self.process.lock().expect("no holder panics").as_ref().expect("it runs").signal("STOP");
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.process.lock().expect("no holder panics").as_ref().expect("it runs").signal("CONT");
    }

    /// Starts it, empty, where it was.
    pub(crate) fn restart(&self) {
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(self.folder.path()).args(&self.extra);
        let mut process = Spawned::start("redis", &mut command, self.folder.path());
        let client = redis::Client::open(self.url()).expect("the URL is one");
        process.ready("an answer to PING", |_| {
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
            redis::cmd("PING").query::<String>(&mut connection).ok()
        });
        *self.process.lock().expect("no holder panics") = Some(process);
    }

    /// How often a command (`hmget`) ran since the server started.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let info: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection()).expect("Redis runs");
        let prefix = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
        line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().expect("a count"))
    }

    /// Writes hashes as they were dumped.
    pub(crate) fn load(&self, hashes: &[StoredHash]) {
        let mut connection = self.connection();
        for hash in hashes {
            hset(hash).exec(&mut connection).expect("Redis takes hashes");
        }
    }
}

/// Three masters with a replica each.
pub(crate) struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts one; about ten seconds.
    pub(crate) fn start() -> Self {
        let cluster = Self::create(6, "1", &["--cluster-node-timeout", "2000"]);
        await_some("three replicas in step with their masters", START, || {
            let info = cluster.nodes.iter().map(|node| cluster_info(node, "INFO", "replication"));
            (info.filter(|text| text.contains("master_link_status:up")).count() == 3).then_some(())
        });
        cluster
    }

    /// Starts three masters alone, none of which is given up while a test lets it hang.
    pub(crate) fn of_masters() -> Self {
        Self::create(3, "0", &["--cluster-node-timeout", "600000"])
    }

    fn create(count: usize, replicas: &str, extra: &[&str]) -> Self {
        let extra = [&["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"], extra].concat();
        let nodes: Vec<_> = (0..count).map(|_| Redis::with(&extra)).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(nodes.iter().map(|node| node.address().to_string()));
        let output =
            create.args(["--cluster-replicas", replicas, "--cluster-yes"]).output().expect("redis-cli is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        wait_until("every node to know all slots", START, || {
            cluster.nodes.iter().all(|node| cluster_info(node, "CLUSTER", "INFO").contains("cluster_state:ok"))
        });
        cluster
    }

    /// Its servers, masters first.
    pub(crate) fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Moves slots with their keys.
    #[track_caller]
    pub(crate) fn reshard(&self, from: &Redis, to: &Redis, slots: u32) {
        let id = |node: &Redis| cluster_info(node, "CLUSTER", "MYID");
        let mut reshard = Command::new("redis-cli");
        reshard.args(["--cluster", "reshard", &from.address().to_string(), "--cluster-from", &id(from)]);
        reshard.args(["--cluster-to", &id(to), "--cluster-slots", &slots.to_string(), "--cluster-yes"]);
        let output = reshard.output().expect("redis-cli is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    /// One for all tests that only read, or write keys of their own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<RedisCluster> = LazyLock::new(RedisCluster::start);
        &SHARED
    }

    /// The seed URLs, as a YAML list.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = self.nodes.iter().map(Redis::url).collect();
        format!("[{}]", urls.join(", "))
    }

    /// `host:port` of every node.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address().to_string()).collect()
    }

    /// A client that follows redirections.
    pub(crate) fn connection(&self) -> redis::cluster::ClusterConnection {
        let urls: Vec<_> = self.nodes.iter().map(Redis::url).collect();
        redis::cluster::ClusterClient::new(urls).and_then(|client| client.get_connection()).expect("the cluster runs")
    }

    /// Writes hashes, each to the shard of its key.
    pub(crate) fn load(&self, hashes: &[StoredHash]) {
        let mut connection = self.connection();
        for hash in hashes {
            hset(hash).exec(&mut connection).expect("the cluster takes hashes");
        }
    }

    /// Keys held by each node, replicas among them.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        let size = |node: &Redis| redis::cmd("DBSIZE").query(&mut node.connection()).expect("the node runs");
        self.nodes.iter().map(size).collect()
    }
}

fn cluster_info(node: &Redis, command: &str, section: &str) -> String {
    redis::cmd(command).arg(section).query(&mut node.connection()).expect("the node runs")
}

fn hset(hash: &StoredHash) -> redis::Cmd {
    let mut command = redis::cmd("HSET");
    command.arg(&hash.key);
    for (field, value) in &hash.fields {
        command.arg(field).arg(value);
    }
    command
}
