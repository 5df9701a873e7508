//! The ladder's part: what is answered when everything fails, how soon all is well again after that, and what the ways down cost
//! while nothing is wrong.
//!
//! It sends its load and breaks its servers as the faults' part does, of which it is one. A part that cannot be run is told with
//! its reason and fails the bench; an aim that is missed does not.

mod cost;
mod outage;
mod recovery;
mod report;
mod world;

use std::{num::NonZeroU64, path::Path};

use anyhow::{Context, Result, ensure};

use self::{cost::Cost, outage::Outage, recovery::Recovery};
use super::run_part;
use crate::{Flags, Folder, cpu, peers::Place};

/// The flags that this part has beside those that all have.
pub(crate) const FLAGS: &[&str] = &["--redis", "--weir", "--only"];

/// What all parts gave; `None`: not measured.
struct Results {
    outage: Option<Outage>,
    recoveries: Option<Vec<Recovery>>,
    cost: Option<Cost>,
    /// What could not be run, and why.
    failures: Vec<String>,
}

/// The programs, and where they keep their files.
#[derive(Clone, Copy)]
struct Bench<'a> {
    place: Place<'a>,
    weir: &'a Path,
    redis: &'a Path,
}

/// Measures, prints the report, and writes it where the flags say.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    // Sends are timed: the default slack of 50 µs would be most of their lateness.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let programs = &flags.programs;
    let (weir, redis) = (programs.weir.as_deref(), programs.redis.as_deref());
    let (weir, redis) = weir.zip(redis).context("ladder needs --weir and --redis")?;
    let folder = Folder::make()?;
    let bench = Bench { place: Place(&folder.0), weir, redis };
    let before = cpu::Machine::at_rest()?;
    let results = results(bench, flags);
    let others = before.others(cpu::Machine::at_rest()?);

    let report = report::markdown(&results, flags, others);
    println!("{report}");
    ensure!(results.failures.is_empty(), "failed: {}", results.failures.join("; "));
    flags.write.as_ref().map_or(Ok(()), |document| crate::report::splice(document, "ladder", &report))
}

fn results(bench: Bench<'_>, flags: &Flags) -> Results {
    let (only, mut failures) = (&flags.only, Vec::new());
    let outage = run_part("outage", (only, &mut failures), || outage::run(bench, flags.longest));
    let recoveries = run_part("recovery", (only, &mut failures), || recovery::run(bench));
    let cost = run_part("cost", (only, &mut failures), || cost::run(bench, flags.rounds, flags.longest / 3));
    Results { outage, recoveries, cost, failures }
}
