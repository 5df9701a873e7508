//! The faults' part: endpoints and feature servers that become slow, die, hang and come back, a Redis master that dies, and a flood; under a load that
//! does not wait for answers.
//!
//! Where Envoy is measured too, it takes turns with Weir in the same run. Every run has fresh processes, so that none remembers
//! the one before. A part that cannot be run is told with its reason and fails the bench; an aim that is missed does not.

mod callers;
mod churn;
mod cluster;
pub(crate) mod endpoint;
mod failover;
mod feature_servers;
mod fleet;
mod flood;
pub(crate) mod ladder;
mod proxies;
mod report;
mod scrape;
mod tally;
mod trial;

use std::{num::NonZeroU64, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use self::{
    churn::Churn,
    cluster::ClusterFailover,
    failover::{Failover, Loss},
    fleet::Endpoint,
    flood::Flood,
    trial::{Fault, Phases, Trial},
};
use crate::{
    Flags, Folder, cpu,
    part::piece,
    peers::{Place, Server},
    rounds,
};

/// The flags that this part has beside those that all have.
pub(crate) const FLAGS: &[&str] = &["--envoy", "--redis", "--weir", "--only"];

/// How long the churn is: so many phases, up to a minute.
const CHURN_PHASES: u32 = 15;
const LONGEST_CHURN: Duration = Duration::from_secs(60);

/// One proxy under one fault, over all rounds.
struct Struck {
    fault: Fault,
    proxy: &'static str,
    through: Phases,
    straight: Phases,
}

/// What all parts gave; `None` or nothing: not measured.
struct Results {
    struck: Vec<Struck>,
    churn: Option<Churn>,
    failovers: Vec<Failover>,
    cluster: Option<ClusterFailover>,
    /// Through Weir, and straight.
    flood: Option<[Flood; 2]>,
    /// What could not be run, and why.
    failures: Vec<String>,
}

/// Measures, prints the report, and writes it where the flags say.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    // Sends are timed: the default slack of 50 µs would be most of their lateness.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let weir = flags.programs.weir.as_deref().context("faults needs --weir")?;
    let folder = Folder::make()?;
    let bench = Bench { place: Place(&folder.0), flags, weir };
    let before = cpu::Machine::at_rest()?;
    let results = bench.results();
    let others = before.others(cpu::Machine::at_rest()?);

    let report = report::markdown(&results, flags, others);
    println!("{report}");
    ensure!(results.failures.is_empty(), "failed: {}", results.failures.join("; "));
    flags.write.as_ref().map_or(Ok(()), |document| crate::report::splice(document, "faults", &report))
}

/// What the parts have in common.
struct Bench<'a> {
    place: Place<'a>,
    flags: &'a Flags,
    weir: &'a Path,
}

impl Bench<'_> {
    fn results(&self) -> Results {
        let mut failures = Vec::new();
        let mut struck = Vec::new();
        for (name, fault) in [("brown-out", Fault::BrownOut), ("crash", Fault::Crash)] {
            struck.extend(self.part(name, &mut failures, || self.strike(fault)).into_iter().flatten());
        }
        let length = (self.flags.longest * CHURN_PHASES).min(LONGEST_CHURN);
        let churn = self.part("churn", &mut failures, || churn::run(self.place, self.weir, length));
        let mut failovers = Vec::new();
        for loss in [Loss::Killed, Loss::Stopped] {
            failovers.extend(self.part("failover", &mut failures, || failover::run(self.place, self.weir, loss)));
        }
        for (loss, redis) in [Loss::Killed, Loss::Stopped].into_iter().zip(self.flags.programs.redis.iter().cycle()) {
            let run = || feature_servers::run(self.place, (self.weir, redis), loss);
            failovers.extend(self.part("failover", &mut failures, run));
        }
        let cluster = self.flags.programs.redis.as_deref().and_then(|redis| {
            self.part("redis failover", &mut failures, || cluster::run(self.place, self.weir, redis))
        });
        let flood = self.part("flood", &mut failures, || self.flood());
        Results { struck, churn, failovers, cluster, flood, failures }
    }

    fn part<T>(&self, name: &str, failures: &mut Vec<String>, run: impl FnOnce() -> Result<T>) -> Option<T> {
        piece(name, (&self.flags.only, failures), run)
    }

    /// Both proxies in turns, so many rounds.
    fn strike(&self, fault: Fault) -> Result<Vec<Struck>> {
        let begun = |proxy| Struck { fault, proxy, through: Phases::new(), straight: Phases::new() };
        let mut setups = vec![begun(report::WEIR)];
        if self.flags.programs.envoy.is_some() {
            setups.push(begun(report::ENVOY));
        }
        for round in 0..self.flags.rounds {
            for setup in rounds::in_turn(&mut setups, round) {
                let start = |fleet: &[Endpoint<'_>]| self.start(setup.proxy, fleet);
                let trial = trial::run(self.place, fault, self.flags.longest, &start)
                    .with_context(|| format!("through {}", setup.proxy))?;
                note(round, setup.proxy, &trial);
                setup.through.add(&trial.through);
                setup.straight.add(&trial.straight);
            }
        }
        Ok(setups)
    }

    fn start(&self, proxy: &str, fleet: &[Endpoint<'_>]) -> Result<Server> {
        match (proxy, &self.flags.programs.envoy) {
            (report::ENVOY, Some(envoy)) => proxies::envoy(self.place, envoy, fleet),
            _ => Ok(proxies::weir(self.place, self.weir, fleet)?.server),
        }
    }

    fn flood(&self) -> Result<[Flood; 2]> {
        let mut floods = [Flood::new(), Flood::new()];
        for round in 0..self.flags.rounds {
            let length = self.flags.longest;
            let both = [true, false].map(|through| through ^ (round % 2 == 1));
            for through in both {
                let flood = if through {
                    flood::through(self.place, self.weir, length)?
                } else {
                    flood::straight(self.place, length)?
                };
                floods[usize::from(!through)].add(&flood);
            }
        }
        Ok(floods)
    }
}

/// Says how a run went, for who is waiting.
fn note(round: usize, proxy: &str, trial: &Trial) {
    let phase = |tally: &tally::Tally| format!("{:.2} % × {:.2}", tally.share() * 100.0, tally.load());
    let phases: Vec<String> = trial.through.0.iter().map(phase).collect();
    eprintln!("round {}: {proxy:<6} {}", round + 1, phases.join(", "));
}
