//! A Redis Cluster of three masters and three replicas loses a master (`kill -9`): how long until Redis and Weir see it, and
//! until Weir's answers have that master's rows again.
//!
//! Weir reads every row from Redis (no L1, no L3), so that an answer is whole exactly when Redis could be read. Redis is given
//! five seconds to give up a master, where its own default is fifteen.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};

use super::{
    fleet::Endpoint,
    scrape::{self, LOOK},
};
use crate::{
    caller::Caller,
    cluster::{Cluster, MASTERS},
    feast,
    peers::{self, Place, Weir},
    resp::Client,
    verify,
};

/// When Redis' servers give one of them up.
pub(super) const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the failover is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// Answers must stay whole for so long before it counts as over.
const QUIET: Duration = Duration::from_secs(1);

/// What was seen, from the kill on. `None`: not within [`LIMIT`].
pub(super) struct ClusterFailover {
    /// Weir's breaker of that server opened.
    pub(super) weir_saw: Option<Duration>,
    /// Another server says that it failed.
    pub(super) redis_saw: Option<Duration>,
    /// Another server says that a replica is master in its place.
    pub(super) redis_recovered: Option<Duration>,
    /// The first answer with its rows, after which none lacked them.
    pub(super) weir_recovered: Option<Duration>,
    /// Answers that lacked them, of how many asked.
    pub(super) degraded: (usize, usize),
}

/// Starts the cluster, writes the rows, kills a master.
pub(super) fn run(place: Place<'_>, weir: &Path, redis: &Path) -> Result<ClusterFailover> {
    let mut cluster = Cluster::start(place, redis, NODE_TIMEOUT)?;
    let users = load(&cluster)?;
    let endpoint = Endpoint::start(place, Duration::ZERO)?;
    let weir = start_weir(place, weir, endpoint.address, &cluster)?;
    whole_at_first(weir.server.address, &users)?;
    let (dead, survivor) = (cluster.nodes[0].address, cluster.nodes[1].address);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask(weir.server.address, &users, &over));
        thread::sleep(QUIET);
        let struck = Instant::now();
        let watched = cluster.nodes[0].process.kill().and_then(|()| watch(weir.admin, dead, survivor, struck));
        // Weir is asked on for a while, to see that its answers stay whole.
        thread::sleep(QUIET * 3);
        over.store(true, Ordering::Relaxed);
        let answers = asking.join().expect("the caller does not panic")?;
        let seen = watched?;
        let after: Vec<_> = answers.into_iter().filter(|answer| answer.at >= struck).collect();
        let lacking = after.iter().rposition(|answer| !answer.whole);
        let first_whole = after.get(lacking.map_or(0, |last| last + 1));
        Ok(ClusterFailover {
            weir_saw: seen.weir,
            redis_saw: seen.failed,
            redis_recovered: seen.replaced,
            weir_recovered: first_whole.filter(|_| seen.replaced.is_some()).map(|answer| answer.at - struck),
            degraded: (after.iter().filter(|answer| !answer.whole).count(), after.len()),
        })
    })
}

/// Writes every user's row; those that the first master has.
fn load(cluster: &Cluster) -> Result<Vec<i64>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut writer = cluster.writer()?;
    let mut users = Vec::new();
    for user in 1001..1101 {
        if writer.write(&feast::row(user, now))? == 0 {
            users.push(user);
        }
    }
    ensure!(!users.is_empty(), "the first master has no row");
    Ok(users)
}

fn start_weir(place: Place<'_>, program: &Path, endpoint: SocketAddr, cluster: &Cluster) -> Result<Weir> {
    let config = format!(
        "tiers:
  standard: {{pool: backend}}
pools:
  backend: {{endpoints: [\"http://{endpoint}\"]}}
{}",
        peers::joined("0B", &cluster.l2())
    );
    peers::weir_with(place, ("weir-cluster", program), &config)
}

/// One answer about a user of the killed master.
struct Answer {
    at: Instant,
    whole: bool,
}

/// Asks about the users in turn until it is over.
fn ask(weir: SocketAddr, users: &[i64], over: &AtomicBool) -> Result<Vec<Answer>> {
    let (mut caller, mut answers) = (Caller::connect(weir)?, Vec::new());
    let mut users = users.iter().cycle();
    while !over.load(Ordering::Relaxed) {
        let user = *users.next().expect("there are users");
        let whole = is_whole(&mut caller, user)?;
        answers.push(Answer { at: Instant::now(), whole });
        thread::sleep(LOOK);
    }
    Ok(answers)
}

fn is_whole(caller: &mut Caller, user: i64) -> Result<bool> {
    let answer = caller.call(&verify::inference(&verify::joined_body(user)))?;
    Ok(answer.status == 200 && answer.header("weir-degraded").is_none())
}

/// Every user's row must be there before anything happens.
fn whole_at_first(weir: SocketAddr, users: &[i64]) -> Result<()> {
    let (mut caller, until) = (Caller::connect(weir)?, Instant::now() + Duration::from_secs(10));
    for &user in users {
        while !is_whole(&mut caller, user)? {
            ensure!(Instant::now() < until, "user {user} has no features");
            thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// When Weir's breaker opened, a survivor called the dead server failed, and another server was master in its place.
#[derive(Default)]
struct Seen {
    weir: Option<Duration>,
    failed: Option<Duration>,
    replaced: Option<Duration>,
}

fn watch(admin: SocketAddr, dead: SocketAddr, survivor: SocketAddr, struck: Instant) -> Result<Seen> {
    let (mut admin, mut redis, mut seen) = (Caller::connect(admin)?, Client::connect(survivor)?, Seen::default());
    let target = format!("redis/{dead}");
    while struck.elapsed() < LIMIT && seen.replaced.is_none() {
        let open = scrape::is_open(&scrape::page(&mut admin)?, &target);
        let nodes = redis.text(&["CLUSTER", "NODES"])?;
        let now = Some(struck.elapsed());
        seen.weir = seen.weir.or(now.filter(|_| open));
        seen.failed = seen.failed.or(now.filter(|_| has_failed(&nodes, dead)));
        seen.replaced = seen.replaced.or(now.filter(|_| masters(&nodes) == MASTERS));
        thread::sleep(LOOK);
    }
    Ok(seen)
}

/// `ID ADDRESS FLAGS …` of each server; `fail?` is a suspicion only.
fn flags(nodes: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    nodes.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        Some((words.next()?, words.next()?.split(',').collect()))
    })
}

fn has_failed(nodes: &str, dead: SocketAddr) -> bool {
    let dead = format!("{dead}@");
    flags(nodes).any(|(address, flags)| address.starts_with(&dead) && flags.contains(&"fail"))
}

/// Masters that were not given up. Right after the kill the dead one still is among them, and so is no replica.
fn masters(nodes: &str) -> usize {
    let lost = nodes.contains("fail");
    flags(nodes)
        .filter(|(_, flags)| lost && flags.contains(&"master") && !flags.contains(&"fail") && !flags.contains(&"fail?"))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_is_no_failure_and_a_replica_no_master() {
        let text = |first: &str, last: &str| {
            format!(
                "a 127.0.0.1:1@11 {first} - 0 0 1 connected\nb 127.0.0.1:2@12 myself,master - 0 0 2 connected\n\
                     c 127.0.0.1:3@13 master - 0 0 3 connected\nd 127.0.0.1:4@14 {last} a 0 0 1 connected\n"
            )
        };
        let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let seen = |nodes: String| (has_failed(&nodes, dead), masters(&nodes));
        assert_eq!(seen(text("master", "slave")), (false, 0));
        assert_eq!(seen(text("master,fail?", "slave")), (false, 2));
        assert_eq!(seen(text("master,fail", "slave")), (true, 2));
        assert_eq!(seen(text("master,fail", "master")), (true, 3));
    }
}
