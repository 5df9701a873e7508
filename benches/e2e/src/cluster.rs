//! A Redis Cluster of three masters and three replicas, and what is written to it by whom Weir does not know.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    peers::{Place, Server},
    process::steady_address,
    resp::{self, Client},
};

/// Each with a replica.
pub(crate) const MASTERS: usize = 3;
/// How long it may take to settle.
const LIMIT: Duration = Duration::from_secs(30);

/// Its servers, masters first; nothing is written to disk.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    /// Starts one, whose servers give one of them up after `node_timeout`.
    pub(crate) fn start(place: Place<'_>, redis: &Path, node_timeout: Duration) -> Result<Self> {
        let nodes: Vec<Server> = (0..MASTERS * 2).map(|_| node(place, redis, node_timeout)).collect::<Result<_>>()?;
        let addresses = nodes.iter().map(|node| node.address.to_string());
        let cli = redis.with_file_name("redis-cli");
        let mut create = Command::new(&cli);
        create.args(["--cluster", "create"]).args(addresses).args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = create.output().with_context(|| format!("cannot start {}", cli.display()))?;
        ensure!(output.status.success(), "no cluster: {}", String::from_utf8_lossy(&output.stdout));
        settle(&nodes)?;
        Ok(Self { nodes })
    }

    /// Those that were masters in the beginning.
    pub(crate) fn masters(&self) -> &[Server] {
        &self.nodes[..MASTERS]
    }

    /// What Weir's `l2` is told.
    pub(crate) fn l2(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(|node| format!("\"redis://{}\"", node.address)).collect();
        format!("mode: cluster, redis: [{}]", urls.join(", "))
    }

    /// Who writes to all masters.
    pub(crate) fn writer(&self) -> Result<Writer> {
        let clients = self.masters().iter().map(|node| Client::connect(node.address));
        Ok(Writer { clients: clients.collect::<Result<_>>()? })
    }
}

/// A connection to each master.
pub(crate) struct Writer {
    clients: Vec<Client>,
}

impl Writer {
    /// Has the master that is responsible carry out a command that is answered with a number; which one it is.
    pub(crate) fn write(&mut self, parts: &[Vec<u8>]) -> Result<usize> {
        let command = resp::command(parts);
        // The others answer with an error that names the right one.
        let owner = self.clients.iter_mut().position(|client| client.ask(&command, 1).is_ok());
        owner.context("no master took a row")
    }

    /// The same of one that is known to be responsible.
    pub(crate) fn write_to(&mut self, owner: usize, parts: &[Vec<u8>]) -> Result<()> {
        self.clients[owner].ask(&resp::command(parts), 1).map(drop)
    }

    /// How often each master carried out a command (`hmget`) so far.
    pub(crate) fn calls(&mut self, command: &str) -> Result<Vec<u64>> {
        let prefix = format!("cmdstat_{command}:calls=");
        let calls = |client: &mut Client| {
            let info = client.text(&["INFO", "commandstats"])?;
            let calls = info.lines().find_map(|line| line.strip_prefix(&prefix)?.split(',').next()?.parse().ok());
            Ok(calls.unwrap_or(0))
        };
        self.clients.iter_mut().map(calls).collect()
    }
}

fn node(place: Place<'_>, redis: &Path, node_timeout: Duration) -> Result<Server> {
    let address = steady_address()?;
    let name = format!("redis-{}", address.port());
    let folder = place.0.join(format!("{name}-data"));
    fs::create_dir(&folder)?;
    let timeout = node_timeout.as_millis().to_string();
    let fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--cluster-enabled", "yes"];
    let mut arguments: Vec<String> = fixed.map(String::from).into();
    arguments.extend(["--cluster-node-timeout".into(), timeout, "--dir".into(), folder.display().to_string()]);
    arguments.extend(["--port".into(), address.port().to_string()]);
    place.start(&name, redis, &arguments, address)
}

/// Waits until every server knows all slots, and the replicas follow their masters.
fn settle(nodes: &[Server]) -> Result<()> {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        let ready = nodes.iter().map(|node| {
            let mut client = Client::connect(node.address)?;
            let replica = client.text(&["INFO", "replication"])?.contains("master_link_status:up");
            Ok((client.text(&["CLUSTER", "INFO"])?.contains("cluster_state:ok"), replica))
        });
        let ready: Vec<(bool, bool)> = ready.collect::<Result<_>>()?;
        if ready.iter().all(|(knows, _)| *knows) && ready.iter().filter(|(_, replica)| *replica).count() == MASTERS {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("the cluster does not settle")
}
