//! What `write_through` costs beside `ttl`: of a push, and of a read from L1, with three gateways on one cluster.
//!
//! Two sets of gateways take turns, each with rows of its own. One gateway of the set is pushed to at a fixed rate; another one is read from
//! as fast as it answers, while nobody pushes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::world::{Run, World, is_from_l1};
use crate::{
    caller::Caller,
    feast,
    load::{Load, Protocol},
    pace::Pace,
    part::Bench,
    peers::{Server, Weir},
    rounds::{self, MANY, median},
};

pub(super) const GATEWAYS: usize = 3;
/// Pushes a second, of one row each.
pub(super) const PUSHES: f64 = 200.0;
/// Entities of each setup.
const USERS: i64 = 100;

/// A setup's name, and what it says of the view.
const SETUPS: [(&str, &str); 2] = [("`ttl`", ""), ("`write_through`", "      consistency: write_through\n")];

/// What one setup gave, by round.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Of all gateways.
    pub(super) pushes: Vec<Run>,
    /// Of the one that is read from.
    pub(super) reads: Vec<Run>,
}

/// `ttl`, then `write_through`.
pub(super) struct Cost(pub(super) Vec<Row>);

impl Row {
    /// The middle of what `of` says of each round.
    pub(super) fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
        median(runs.iter().map(of))
    }
}

/// A setup at work.
struct Setup {
    gateways: Vec<Weir>,
    users: Vec<i64>,
    /// Nanoseconds since the epoch of the next event.
    next: u64,
    row: Row,
}

/// Measures so many rounds, in runs of `length`.
pub(super) fn run(bench: Bench<'_>, rounds: usize, length: Duration) -> Result<Cost> {
    let world = World::start(bench, USERS as usize * SETUPS.len())?;
    let mut setups = (0..SETUPS.len()).map(|index| Setup::start(bench, &world, index)).collect::<Result<Vec<_>>>()?;
    for round in 0..rounds {
        for setup in rounds::in_turn(&mut setups, round) {
            setup.keep()?;
            let pushes = setup.push(length)?;
            setup.keep()?;
            let reads = setup.read(length)?;
            eprintln!(
                "round {}: {:<16} push p50 {:.2} p99 {:.2} ms, {:.0} µs; reads {:.0}/s, {:.1} µs",
                round + 1,
                setup.row.name,
                pushes.quantile(0.5),
                pushes.quantile(0.99),
                pushes.cost(),
                reads.rate(),
                reads.cost()
            );
            setup.row.pushes.push(pushes);
            setup.row.reads.push(reads);
        }
    }
    Ok(Cost(setups.into_iter().map(|setup| setup.row).collect()))
}

impl Setup {
    fn start(bench: Bench<'_>, world: &World, index: usize) -> Result<Self> {
        let (name, view) = SETUPS[index];
        let more = "  invalidate: {tracking: false}\n";
        let gateway = |at| world.gateway(bench, &format!("weir-cost-{index}-{at}"), ("10MiB", view, more));
        let gateways = (0..GATEWAYS).map(gateway).collect::<Result<_>>()?;
        let first = 1 + index as i64 * USERS;
        let row = Row { name, pushes: Vec::new(), reads: Vec::new() };
        Ok(Self { gateways, users: (first..first + USERS).collect(), next: world.loaded * 1_000_000_000 + 1, row })
    }

    /// Has every gateway keep every row.
    fn keep(&self) -> Result<()> {
        for weir in &self.gateways {
            let mut caller = Caller::connect(weir.server.address)?;
            for &user in &self.users {
                let read = feast::read(user, "");
                let kept = (0..100).any(|_| caller.call(&read).is_ok_and(|answer| is_from_l1(&answer)));
                ensure!(kept, "{}: the row of {user} is not kept in L1", self.row.name);
            }
        }
        Ok(())
    }

    fn push(&mut self, length: Duration) -> Result<Run> {
        // Poisson arrivals: a few more than on average.
        let count = (PUSHES * length.as_secs_f64() * 1.5) as usize + 50;
        let push = |&user: &i64| {
            self.next += 1;
            feast::push(user, self.next, |index| feast::value(user, index))
        };
        let requests: Vec<Vec<u8>> = self.users.iter().cycle().take(count).map(push).collect();
        let mut load = Load::connect(Protocol::Http, self.gateways[0].server.address, MANY, &requests)?;
        let servers: Vec<&Server> = self.gateways.iter().map(|weir| &weir.server).collect();
        Run::of(&mut load, (Pace::Open(PUSHES), length), &servers)
    }

    fn read(&self, length: Duration) -> Result<Run> {
        let requests: Vec<Vec<u8>> = self.users.iter().map(|&user| feast::read(user, "")).collect();
        let server = &self.gateways[1].server;
        let mut load = Load::connect(Protocol::Http, server.address, MANY, &requests)?;
        Run::of(&mut load, (Pace::Closed, length), &[server])
    }
}
