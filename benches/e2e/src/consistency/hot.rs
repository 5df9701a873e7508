//! Hot keys: how evenly the masters are loaded, how many requests never reach them, and what finding hot keys costs.
//!
//! Four Weirs on one cluster are asked the same in turns, one row a request: with and without L1, with and without `hot_keys`. Before each
//! run the same load runs untimed, long enough that hot keys are found and copied anew. Requests that meet at one gateway on their way to
//! one row are one read of Redis: without L1 few connections ask, so that they meet less often and the masters see the skew.

use std::time::Duration;

use anyhow::Result;

use super::{
    skew::{Skew, USERS, imbalance},
    world::{Run, World},
};
use crate::{
    cluster::Writer,
    load::{Load, Protocol},
    pace::Pace,
    part::Bench,
    peers::Weir,
    rounds::{self, MANY, median},
};

/// What L1 may hold where it is on: some thousand rows, as a sidecar has it, of twenty thousand.
const L1: &str = "2MiB";
const HOT_KEYS: &str = "  hot_keys: {share: 0.01, min_rate: 100, copies: auto}\n";
/// Connections where there is no L1.
pub(super) const FEW: usize = 4;
/// Untimed before each run: hot keys are merged each second, and told to other gateways.
const SETTLE: Duration = Duration::from_secs(3);

/// A setup's name, its L1, and what it says of hot keys.
const SETUPS: [(&str, &str, &str); 4] =
    [("no L1", "0B", ""), ("no L1, `hot_keys`", "0B", HOT_KEYS), ("L1", L1, ""), ("L1, `hot_keys`", L1, HOT_KEYS)];
/// Their places.
pub(super) const COPIES: usize = 1;
pub(super) const L1_ONLY: usize = 2;
pub(super) const L1_HOT: usize = 3;

/// What one run of one setup gave.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Requests a second.
    pub(super) rate: f64,
    /// Weir's µs a request.
    pub(super) cpu: f64,
    /// Of a core, by master.
    pub(super) masters: Vec<f64>,
    /// Reads for each request, by master.
    pub(super) reads: Vec<f64>,
}

/// What one setup gave under one skew, by round.
pub(super) struct Row {
    pub(super) skew: Skew,
    pub(super) setup: usize,
    pub(super) seen: Vec<Seen>,
}

/// Everything.
pub(super) struct Hot(pub(super) Vec<Row>);

impl Row {
    pub(super) fn name(&self) -> &'static str {
        SETUPS[self.setup].0
    }

    /// The middle of what `of` says of each round.
    pub(super) fn median(&self, of: impl Fn(&Seen) -> f64) -> f64 {
        median(self.seen.iter().map(of))
    }
}

impl Hot {
    pub(super) fn row(&self, skew: Skew, setup: usize) -> Option<&Row> {
        self.0.iter().find(|row| (row.skew, row.setup) == (skew, setup))
    }

    /// Of the busiest master's processor time, in times of the mean, where hot keys have copies.
    pub(super) fn imbalance(&self, skew: Skew) -> Option<f64> {
        Some(self.row(skew, COPIES)?.median(|seen| imbalance(&seen.masters)))
    }

    /// The share of requests that no master was asked for, with L1.
    pub(super) fn spared(&self, skew: Skew) -> Option<f64> {
        Some(self.row(skew, L1_HOT)?.median(|seen| 1.0 - seen.reads.iter().sum::<f64>()))
    }

    /// How much more processor time a request takes with `hot_keys` than without, in the same round.
    pub(super) fn detection(&self) -> Option<f64> {
        let pairs = Skew::ALL.into_iter().map(|skew| Some((self.row(skew, L1_ONLY)?, self.row(skew, L1_HOT)?)));
        let pairs = pairs.collect::<Option<Vec<_>>>()?;
        let rounds = pairs.iter().flat_map(|(off, on)| off.seen.iter().zip(&on.seen));
        Some(median(rounds.map(|(off, on)| on.cpu / off.cpu - 1.0)))
    }
}

/// Measures so many rounds, in runs of `length`.
pub(super) fn run(bench: Bench<'_>, rounds: usize, length: Duration) -> Result<Hot> {
    let world = World::start(bench, USERS)?;
    let mut writer = world.cluster.writer()?;
    let weirs = SETUPS.iter().enumerate().map(|(index, (_, l1, more))| {
        world.gateway(bench, &format!("weir-hot-{index}"), (l1, "", more)).map(|weir| (index, weir))
    });
    let mut weirs = weirs.collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for skew in Skew::ALL {
        let requests = skew.requests(&world.owners);
        let mut begun: Vec<Row> = (0..weirs.len()).map(|setup| Row { skew, setup, seen: Vec::new() }).collect();
        for round in 0..rounds {
            for weir in rounds::in_turn(&mut weirs, round) {
                let seen = measure(weir, (&world, &mut writer), &requests, length)?;
                let row = &mut begun[weir.0];
                note(round, row, &seen);
                row.seen.push(seen);
            }
        }
        rows.extend(begun);
    }
    Ok(Hot(rows))
}

const fn connections(setup: usize) -> usize {
    if setup < L1_ONLY { FEW } else { MANY }
}

fn measure(
    (setup, weir): &(usize, Weir),
    (world, writer): (&World, &mut Writer),
    requests: &[Vec<u8>],
    length: Duration,
) -> Result<Seen> {
    let mut load = Load::connect(Protocol::Http, weir.server.address, connections(*setup), requests)?;
    load.run(Pace::Closed, SETTLE)?;
    let before = writer.calls("hmget")?;
    let servers: Vec<_> = [&weir.server].into_iter().chain(world.cluster.masters()).collect();
    let run = Run::of(&mut load, (Pace::Closed, length), &servers)?;
    let after = writer.calls("hmget")?;
    let (answered, elapsed) = (run.outcome.answered as f64, run.outcome.elapsed.as_secs_f64());
    Ok(Seen {
        rate: run.rate(),
        cpu: run.cpu[0].as_secs_f64() * 1e6 / answered,
        masters: run.cpu[1..].iter().map(|used| used.as_secs_f64() / elapsed).collect(),
        reads: after.iter().zip(before).map(|(after, before)| (after - before) as f64 / answered).collect(),
    })
}

/// Says how a run went, for who is waiting.
fn note(round: usize, row: &Row, seen: &Seen) {
    let (skew, name) = (row.skew.name(), row.name());
    let reads: f64 = seen.reads.iter().sum();
    eprintln!(
        "round {}: {skew:<12} {name:<20} {:>7.0}/s  cpu {:>5.1} µs  reads {reads:.2}  busiest {:.2} ×",
        round + 1,
        seen.rate,
        seen.cpu,
        imbalance(&seen.masters)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(cpu: f64, masters: [f64; 3], reads: [f64; 3]) -> Seen {
        Seen { rate: 1.0, cpu, masters: masters.into(), reads: reads.into() }
    }

    #[test]
    fn what_is_aimed_at_is_read_off_the_right_setups() {
        let row = |skew, setup, cpu| {
            let even = if setup == COPIES { [0.2, 0.2, 0.2] } else { [0.6, 0.0, 0.0] };
            let reads = if setup == L1_HOT { [0.1, 0.1, 0.1] } else { [0.2, 0.2, 0.2] };
            Row { skew, setup, seen: vec![seen(cpu, even, reads)] }
        };
        let rows = Skew::ALL.into_iter().flat_map(|skew| [row(skew, 1, 9.0), row(skew, 2, 10.0), row(skew, 3, 10.1)]);
        let hot = Hot(rows.collect());
        let is = |seen: Option<f64>, expected: f64| (seen.expect("it was measured") - expected).abs() < 1e-9;
        assert!(is(hot.imbalance(Skew::Split), 1.0) && is(hot.spared(Skew::Zipf), 0.7) && is(hot.detection(), 0.01));
        assert!(Hot(Vec::new()).detection().is_none());
    }
}
