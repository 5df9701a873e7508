//! Whether a row is read at its master, or at a replica that is not too far behind it (`features.l2.read_from`).
//!
//! ```text
//! read ─► may be behind? ─no──────────────────────────────────────────► master
//!            └─yes─► replicas known to be within max_lag, breaker closed
//!                       ├─none──────────────────────────────────────► master
//!                       └─one of them (or the master, if it is nearest)
//!                            ├─row─────────────────────────────────► the answer
//!                            ├─no such row, no answer in ⅗ of the timeout, cannot serve ─► master
//!                            └─MOVED ─────────────────────────────────► whom it names
//! ```
//!
//! *No such row* is never believed of a replica: while a slot moves, the replica of the master that gave a key away has lost it and
//! redirects nobody (Redis 7), and one that is sent everything anew is empty for a moment. Absences are few, and asked for twice.
//!
//! What a replica has is as of a time that `lag` finds and that is carried along here; nobody who asks for a row waits for it.
//! Nearness is the least round trip of late of those same questions: distance, not load, for what is busy answers late now and then
//! only. Zones, where the config knows them, come before that.
//!
//! What may not be behind: rows of `write_through` views, and keys that changed just now as far as this process knows (`fence`).

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    guard::{Guard, Guards},
    topology::Topology,
};
use crate::{
    config,
    resilience::{
        floor::Floor,
        lag::{AsOf, Progress},
    },
    telemetry::handles::redis::{Lag, Read, ReplicaReads},
};

/// How much further than the nearest server is still as near: round trips within one zone differ by less.
const AS_NEAR: Duration = Duration::from_micros(100);

/// How replicas are chosen, and what became of it.
#[derive(Debug)]
pub(super) struct Replicas {
    policy: config::Replicas,
    guards: Arc<Guards>,
    metrics: ReplicaReads,
}

/// The servers that have the rows of one master's slots.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) primary: Arc<Member>,
    pub(super) replicas: Vec<Arc<Member>>,
    /// What the master said of how far it is.
    pub(super) progress: Arc<Mutex<Progress>>,
}

/// One of them: the master, or a replica.
pub(super) struct Member {
    pub(super) address: Arc<str>,
    /// Of a replica.
    pub(super) as_of: AsOf,
    pub(super) distance: Floor,
    zone: Option<Arc<str>>,
    in_own_zone: bool,
    guard: Arc<Guard>,
    lag: Lag,
}

/// What is shown of a server that rows are read from.
#[derive(Clone, Debug)]
pub(crate) struct MemberShown {
    pub(crate) address: Arc<str>,
    pub(crate) zone: Option<Arc<str>>,
    /// How far it may be behind its master; `None`: nobody knows. Of a master, zero.
    pub(crate) lag: Option<Duration>,
    /// The least round trip of late; `None`: it was not asked yet.
    pub(crate) round_trip: Option<Duration>,
    /// Whether it is near enough to its master, and its breaker lets reads by.
    pub(crate) usable: bool,
}

/// A master, and its replicas.
#[derive(Clone, Debug)]
pub(crate) struct ShardShown {
    pub(crate) primary: MemberShown,
    pub(crate) replicas: Vec<MemberShown>,
}

impl Replicas {
    pub(super) fn new(policy: config::Replicas, guards: Arc<Guards>) -> Self {
        Self { policy, guards, metrics: ReplicaReads::new() }
    }

    pub(super) const fn max_lag(&self) -> Duration {
        self.policy.max_lag
    }

    /// The servers of a new map's rows, with what the old one knows of them. A replica of another master is a new one.
    pub(super) fn shards(&self, map: &Topology, old: Option<&Topology>) -> Vec<Arc<Shard>> {
        let now = Instant::now();
        let shard = |(master, replicas): (&Arc<str>, &Vec<Arc<str>>)| {
            let before = old.and_then(|old| old.shards.iter().find(|shard| shard.primary.address == *master));
            let known = |address: &Arc<str>| before?.replicas.iter().find(|member| member.address == *address).cloned();
            Arc::new(Shard {
                primary: before.map_or_else(|| self.member(master, now), |shard| Arc::clone(&shard.primary)),
                replicas: replicas.iter().map(|at| known(at).unwrap_or_else(|| self.member(at, now))).collect(),
                progress: before.map_or_else(Arc::default, |shard| Arc::clone(&shard.progress)),
            })
        };
        map.masters.iter().zip(&map.replicas).map(shard).collect()
    }

    fn member(&self, address: &Arc<str>, now: Instant) -> Arc<Member> {
        let zone = zone(&self.policy.zones, address);
        Arc::new(Member {
            address: Arc::clone(address),
            as_of: AsOf::new(now),
            distance: Floor::new(now),
            zone: zone.cloned(),
            in_own_zone: zone.is_some() && zone == self.policy.own_zone.as_ref(),
            guard: self.guards.of(address),
            lag: Lag::new(&format!("redis/{address}")),
        })
    }

    /// The replica that is to be asked for `rows` rows; `None`: the master. `luck` is in 0..1.
    pub(super) fn choose<'a>(&self, shard: &'a Shard, (rows, luck): (u64, f64), now: Instant) -> Option<&'a Arc<str>> {
        let usable = |member: &&Arc<Member>| member.is_usable(self.policy.max_lag, now);
        let replicas = || shard.replicas.iter().filter(usable);
        let chosen = match self.policy.from {
            config::ReadFrom::Replicas => any(replicas(), luck),
            config::ReadFrom::Nearest => nearest(|| std::iter::once(&shard.primary).chain(replicas()), luck, now),
        };
        if replicas().next().is_none() {
            self.metrics.count(Read::Behind, rows);
        }
        chosen.map(|member| &member.address).filter(|address| **address != shard.primary.address)
    }

    /// How a shard's servers stand.
    pub(super) fn shown(&self, shard: &Shard, now: Instant) -> ShardShown {
        let primary = MemberShown {
            lag: Some(Duration::ZERO),
            usable: shard.primary.guard.would_admit(),
            ..shard.primary.shown(self.policy.max_lag, now)
        };
        let replicas = shard.replicas.iter().map(|member| member.shown(self.policy.max_lag, now)).collect();
        ShardShown { primary, replicas }
    }

    pub(super) fn count(&self, what: Read, rows: u64) {
        self.metrics.count(what, rows);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("address", &self.address).field("as_of", &self.as_of).finish_non_exhaustive()
    }
}

impl Shard {
    /// Whether a replica would answer now.
    pub(super) fn has_replica(&self, max_lag: Duration, now: Instant) -> bool {
        self.replicas.iter().any(|member| member.is_usable(max_lag, now))
    }

    /// Writes how far behind its replicas are.
    pub(super) fn show(&self, now: Instant) {
        self.replicas.iter().for_each(|member| member.lag.show(member.as_of.lag(now)));
    }
}

impl Member {
    fn shown(&self, max_lag: Duration, now: Instant) -> MemberShown {
        MemberShown {
            address: Arc::clone(&self.address),
            zone: self.zone.clone(),
            lag: self.as_of.lag(now),
            round_trip: Some(self.distance.least(now)).filter(|least| !least.is_zero()),
            usable: self.is_usable(max_lag, now),
        }
    }

    fn is_usable(&self, max_lag: Duration, now: Instant) -> bool {
        self.as_of.is_within(max_lag, now) && self.guard.would_admit()
    }
}

fn any<'a>(members: impl Iterator<Item = &'a Arc<Member>> + Clone, luck: f64) -> Option<&'a Arc<Member>> {
    let count = members.clone().count();
    members.clone().nth((count as f64 * luck) as usize)
}

/// Those of the gateway's own zone; else those as near as the nearest.
fn nearest<'a, I: Iterator<Item = &'a Arc<Member>> + Clone>(
    members: impl Fn() -> I,
    luck: f64,
    now: Instant,
) -> Option<&'a Arc<Member>> {
    let own = members().filter(|member| member.in_own_zone);
    if own.clone().next().is_some() {
        return any(own, luck);
    }
    let distance = |member: &Arc<Member>| Some(member.distance.least(now)).filter(|least| !least.is_zero());
    let least = members().filter_map(distance).min()?;
    let within = least + least / 4 + AS_NEAR;
    any(members().filter(|member| distance(member).is_some_and(|distance| distance <= within)), luck)
}

/// The zone of whatever begins like that, the longest first.
fn zone<'a>(zones: &'a [(String, Arc<str>)], address: &str) -> Option<&'a Arc<str>> {
    let fitting = zones.iter().filter(|(begins, _)| address.starts_with(begins.as_str()));
    fitting.max_by_key(|(begins, _)| begins.len()).map(|(_, zone)| zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{features::tests::breaker, telemetry::scratch};

    const MS: Duration = Duration::from_millis(1);

    fn replicas(from: config::ReadFrom, zones: &[(&str, &str)]) -> Replicas {
        let zones = zones.iter().map(|(begins, zone)| ((*begins).into(), (*zone).into())).collect();
        let policy = config::Replicas { from, max_lag: 100 * MS, own_zone: Some("a".into()), zones };
        Replicas::new(policy, Arc::new(Guards::new(&breaker(), 8)))
    }

    fn map(replicas: &[&str]) -> Topology {
        let replicas = replicas.iter().map(|address| (*address).into()).collect();
        Topology::of("m:1".into(), replicas, Instant::now())
    }

    /// Whom all of that luck are sent to.
    fn chosen(replicas: &Replicas, shard: &Shard, now: Instant) -> Vec<String> {
        let told = |luck| replicas.choose(shard, (1, luck), now).map_or("master".into(), ToString::to_string);
        let mut chosen: Vec<_> = [0.0, 0.3, 0.6, 0.999].map(told).into();
        chosen.dedup();
        chosen
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_is_read_as_long_as_it_is_known_not_to_be_behind() {
        let ((replicas, shards), scrape) = scratch(|| {
            let replicas = replicas(config::ReadFrom::Replicas, &[]);
            let shards = replicas.shards(&map(&["r:1", "r:2"]), None);
            (replicas, shards)
        });
        let shard = &shards[0];
        let now = Instant::now();
        assert_eq!(chosen(&replicas, shard, now), ["master"], "nothing is known of them");
        shard.replicas[0].as_of.set(Some(now));
        assert_eq!(chosen(&replicas, shard, now), ["r:1"]);
        shard.replicas[1].as_of.set(Some(now + 50 * MS));
        assert_eq!(chosen(&replicas, shard, now + 50 * MS), ["r:1", "r:2"]);
        assert_eq!(chosen(&replicas, shard, now + 101 * MS), ["r:2"]);
        assert!(shard.has_replica(100 * MS, now + 150 * MS));
        assert_eq!(chosen(&replicas, shard, now + 151 * MS), ["master"]);
        assert!(!shard.has_replica(100 * MS, now + 151 * MS));
        shard.show(now + 150 * MS);
        let text = scrape.render();
        assert!(text.contains("weir_redis_replica_lag_seconds{target=\"redis/r:2\"} 0.1\n"), "{text}");
        assert!(text.contains("weir_redis_replica_reads_total{outcome=\"behind\"} 8\n"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_breaker_is_open_is_not_read() {
        let replicas = replicas(config::ReadFrom::Replicas, &[]);
        let shard = &replicas.shards(&map(&["r:1"]), None)[0];
        shard.replicas[0].as_of.set(Some(Instant::now()));
        let guard = replicas.guards.of(&"r:1".into());
        for _ in 0..breaker().failure_threshold {
            guard.admit().unwrap().record(&Err(crate::features::l2::Error::TimedOut(MS)));
        }
        assert_eq!(chosen(&replicas, shard, Instant::now()), ["master"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_are_those_of_the_own_zone_and_else_those_a_short_way_off() {
        let replicas = replicas(config::ReadFrom::Nearest, &[("10.", "b"), ("10.0.1.", "a"), ("m", "b")]);
        let now = Instant::now();
        let of = |addresses: &[&str], distances: &[u64]| {
            let shard = Arc::clone(&replicas.shards(&map(addresses), None)[0]);
            for (member, micros) in std::iter::once(&shard.primary).chain(&shard.replicas).zip(distances) {
                member.as_of.set(Some(now));
                member.distance.record(Duration::from_micros(*micros), now);
            }
            chosen(&replicas, &shard, now)
        };
        assert_eq!(of(&["10.0.1.7:1", "10.0.2.7:1"], &[200, 900, 100]), ["10.0.1.7:1"]);
        assert_eq!(of(&["10.0.2.7:1", "10.0.2.8:1"], &[1000, 300, 470]), ["10.0.2.7:1", "10.0.2.8:1"]);
        assert_eq!(of(&["10.0.2.7:1", "10.0.2.8:1"], &[1000, 300, 480]), ["10.0.2.7:1"]);
        let shard = &replicas.shards(&map(&["10.0.1.7:1", "r:1"]), None)[0];
        shard.replicas[0].as_of.set(Some(now));
        shard.replicas[0].distance.record(200 * MS, now);
        let shown = replicas.shown(shard, now + 40 * MS);
        let [near, unknown] = &shown.replicas[..] else { panic!("{shown:?}") };
        assert_eq!((near.zone.as_deref(), near.lag, near.usable), (Some("a"), Some(40 * MS), true));
        assert_eq!((near.round_trip, shown.primary.zone.as_deref()), (Some(200 * MS), Some("b")));
        assert_eq!((unknown.zone.as_deref(), unknown.lag, unknown.usable), (None, None, false));
        assert_eq!(of(&["10.0.2.7:1"], &[300, 1000]), ["master"]);
        assert_eq!(of(&["10.0.2.7:1"], &[]), ["master"], "nothing is known of anybody");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_goes_with_a_replica_only_while_its_master_is_the_same() {
        let replicas = replicas(config::ReadFrom::Replicas, &[]);
        let mut old = map(&["r:1", "r:2"]);
        old.shards = replicas.shards(&old, None);
        old.shards[0].replicas[1].as_of.set(Some(Instant::now()));
        let same = &replicas.shards(&map(&["r:2", "r:3"]), Some(&old))[0];
        assert_eq!(chosen(&replicas, same, Instant::now()), ["r:2"]);
        let other = Topology::of("r:1".into(), vec!["r:2".into()], Instant::now());
        let other = &replicas.shards(&other, Some(&old))[0];
        assert_eq!(chosen(&replicas, other, Instant::now()), ["master"]);
    }
}
