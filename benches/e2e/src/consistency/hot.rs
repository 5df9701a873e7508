//! Hot keys: how evenly the masters are loaded, how many requests never reach them, and what finding hot keys costs.
//!
//! Weirs on one cluster are asked the same, one row a request: with and without L1, with and without `hot_keys`. Those with and those
//! without take turns, A B B A: without L1 in runs of full length, for what the masters do; with it in many short ones, for what
//! finding hot keys costs is less than what a machine's speed changes by within seconds. Two gateways of each kind with L1 take part, so
//! that it is not one process's luck with its memory that is measured.
//!
//! Nothing is measured of a gateway with `hot_keys` before it reads copies of its hottest keys: the same load runs until it says so.
//! Requests that meet at one gateway on their way to one row are one read of Redis: without L1 few connections ask, so that they meet
//! less often and the masters see the skew.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    skew::{Skew, USERS, imbalance},
    world::{Run, World},
};
use crate::{
    caller::Caller,
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
/// Turns with L1 for one without, and how much shorter they are.
pub(super) const SHORT: (usize, u32) = (16, 12);
/// Gateways of each kind with L1.
const EACH: usize = 2;
/// Untimed before each run, on its connections.
const WARM_UP: Duration = Duration::from_millis(50);
/// Between two looks at copies, and so many looks that find the same ones are enough.
const LOOK: (Duration, usize) = (Duration::from_millis(250), 4);
/// How long copies are waited for: they are made some five seconds after a load began.
const LIMIT: Duration = Duration::from_secs(30);
/// The share of lookups from which on a key has copies for sure; keys with less, down to the file's `share`, come and go.
const CLEAR: f64 = 0.02;

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

    /// The same of its reads.
    pub(super) fn read_imbalance(&self, skew: Skew) -> Option<f64> {
        Some(self.row(skew, COPIES)?.median(|seen| imbalance(&seen.reads)))
    }

    /// The share of requests that no master was asked for, with L1.
    pub(super) fn spared(&self, skew: Skew) -> Option<f64> {
        Some(self.row(skew, L1_HOT)?.median(|seen| 1.0 - seen.reads.iter().sum::<f64>()))
    }

    /// How much more processor time a request takes with `hot_keys` than without, by A B B A.
    pub(super) fn detection(&self, skew: Skew) -> Option<Spread> {
        let (off, on) = (self.row(skew, L1_ONLY)?, self.row(skew, L1_HOT)?);
        let cpu = |seen: &[Seen]| seen.iter().map(|seen| seen.cpu).sum::<f64>();
        let blocks = off.seen.chunks_exact(2).zip(on.seen.chunks_exact(2));
        Spread::of(blocks.map(|(off, on)| cpu(on) / cpu(off) - 1.0).collect())
    }
}

/// What was seen again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) median: f64,
    /// Half of all is between them.
    pub(super) quartiles: [f64; 2],
    pub(super) extremes: [f64; 2],
}

impl Spread {
    /// `None`: nothing was seen.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        let (quartiles, count) = ([at(0.25), at(0.75)], values.len());
        Some(Self { count, median: median(values), quartiles, extremes: [first, last] })
    }
}

/// Measures so many rounds, in runs of `length`; with L1 more and shorter ones.
pub(super) fn run(bench: Bench<'_>, rounds: usize, length: Duration) -> Result<Hot> {
    let world = World::start(bench, USERS)?;
    let mut writer = world.cluster.writer()?;
    let gateway = |setup: usize, each: usize| {
        let (_, l1, more) = SETUPS[setup];
        world.gateway(bench, &format!("weir-hot-{setup}-{each}"), (l1, "", more))
    };
    let pair = |setup, each| Ok([(setup, gateway(setup, each)?), (setup + 1, gateway(setup + 1, each)?)]);
    let plain = [pair(0, 0)?];
    let cached = (0..EACH).map(|each| pair(L1_ONLY, each)).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for skew in Skew::ALL {
        let requests = skew.requests(&world.owners);
        let load = (skew, requests.as_slice());
        rows.extend(compare((&world, &mut writer), &plain, load, (rounds, length))?);
        rows.extend(compare((&world, &mut writer), &cached, load, (rounds * SHORT.0, length / SHORT.1))?);
    }
    Ok(Hot(rows))
}

/// A gateway without `hot_keys` and one with, and their setups.
type Pair = [(usize, Weir); 2];

/// The gateways of each pair in turns, pair by pair; what was seen of either kind.
fn compare(
    (world, writer): (&World, &mut Writer),
    pairs: &[Pair],
    (skew, requests): (Skew, &[Vec<u8>]),
    (turns, length): (usize, Duration),
) -> Result<[Row; 2]> {
    let mut rows = [0, 1].map(|at| Row { skew, setup: pairs[0][at].0, seen: Vec::new() });
    let mut loads = Vec::new();
    for (setup, weir) in pairs.iter().flatten() {
        let mut load = Load::connect(Protocol::Http, weir.server.address, connections(*setup), requests)?;
        settle(&mut load, *setup, weir)?;
        loads.push(load);
    }
    for turn in 0..turns {
        // A B, then B A, of one pair; then of the next.
        let pair = turn / 2 % pairs.len();
        let mut both: Vec<_> = (0..2).zip(loads.iter_mut().skip(pair * 2)).collect();
        for (at, load) in rounds::in_turn(&mut both, turn) {
            let (setup, weir) = &pairs[pair][*at];
            let seen = measure((*setup, weir, load), (world, writer), length)?;
            rows[*at].seen.push(seen);
        }
        if length >= Duration::from_secs(1) || turn + 1 == turns {
            rows.iter().for_each(|row| note(turn, row));
        }
    }
    Ok(rows)
}

const fn connections(setup: usize) -> usize {
    if setup < L1_ONLY { FEW } else { MANY }
}

/// Whether the setup has `hot_keys`.
const fn is_hot(setup: usize) -> bool {
    matches!(setup, COPIES | L1_HOT)
}

/// Runs the load untimed until L1 is filled; with `hot_keys`, until copies are read and none comes any more.
fn settle(load: &mut Load<'_>, setup: usize, weir: &Weir) -> Result<()> {
    let (until, mut same, mut before) = (Instant::now() + LIMIT, 0, None);
    while same < LOOK.1 {
        load.run(Pace::Closed, LOOK.0)?;
        let now = if is_hot(setup) { copies(weir.admin)? } else { Some(0) };
        same = if now.is_some() && now == before { same + 1 } else { 0 };
        before = now;
        ensure!(Instant::now() < until, "{}: hot keys have no copies after {LIMIT:?}", SETUPS[setup].0);
    }
    Ok(())
}

/// Copies that a gateway reads of the keys that are hot for sure; `None`: there is no such key, or one without.
fn copies(admin: SocketAddr) -> Result<Option<u64>> {
    Ok(copies_of(&keys(admin)?))
}

/// The hot keys that a gateway knows.
fn keys(admin: SocketAddr) -> Result<Vec<Value>> {
    let request = format!("GET /admin/v1/hot-keys HTTP/1.1\r\nhost: {admin}\r\n\r\n");
    let answer = Caller::connect(admin)?.call(request.as_bytes())?;
    ensure!(answer.status == 200, "/admin/v1/hot-keys answered {}", answer.status);
    let body: Value = serde_json::from_slice(&answer.body)?;
    Ok(body["state"]["keys"].as_array().context("no keys")?.clone())
}

fn is_copied(key: &Value) -> bool {
    key["copies"].as_u64().is_some_and(|copies| copies > 0)
}

fn copies_of(keys: &[Value]) -> Option<u64> {
    let clear = keys.iter().filter(|key| key["share"].as_f64().is_some_and(|share| share >= CLEAR));
    let copies: Vec<u64> = clear.map(|key| key["copies"].as_u64().unwrap_or(0)).collect();
    (!copies.is_empty() && !copies.contains(&0)).then(|| copies.iter().sum())
}

fn measure(
    (setup, weir, load): (usize, &Weir, &mut Load<'_>),
    (world, writer): (&World, &mut Writer),
    length: Duration,
) -> Result<Seen> {
    load.run(Pace::Closed, WARM_UP)?;
    let before = writer.calls("hmget")?;
    let servers: Vec<_> = [&weir.server].into_iter().chain(world.cluster.masters()).collect();
    let run = Run::of(load, (Pace::Closed, length), &servers)?;
    let after = writer.calls("hmget")?;
    // A key about as hot as that may have become so just now: what was there when it began is what was measured.
    ensure!(
        !is_hot(setup) || keys(weir.admin)?.iter().any(is_copied),
        "{}: copies were gone meanwhile",
        SETUPS[setup].0
    );
    let (answered, elapsed) = (run.outcome.answered as f64, run.outcome.elapsed.as_secs_f64());
    Ok(Seen {
        rate: run.rate(),
        cpu: run.cpu[0].as_secs_f64() * 1e6 / answered,
        masters: run.cpu[1..].iter().map(|used| used.as_secs_f64() / elapsed).collect(),
        reads: after.iter().zip(before).map(|(after, before)| (after - before) as f64 / answered).collect(),
    })
}

/// Says how it goes, for who is waiting: medians so far.
fn note(turn: usize, row: &Row) {
    eprintln!(
        "turn {}: {:<12} {:<20} {:>7.0}/s  cpu {:>5.1} µs  reads {:.2}  busiest {:.2} ×, reads {:.2} ×",
        turn + 1,
        row.skew.name(),
        row.name(),
        row.median(|seen| seen.rate),
        row.median(|seen| seen.cpu),
        row.median(|seen| seen.reads.iter().sum()),
        row.median(|seen| imbalance(&seen.masters)),
        row.median(|seen| imbalance(&seen.reads)),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(cpu: f64, masters: [f64; 3], reads: [f64; 3]) -> Seen {
        Seen { rate: 1.0, cpu, masters: masters.into(), reads: reads.into() }
    }

    #[test]
    fn what_is_aimed_at_is_read_off_the_right_setups() {
        let row = |skew, setup, cpu: [f64; 4]| {
            let even = if setup == COPIES { [0.2, 0.2, 0.2] } else { [0.6, 0.0, 0.0] };
            let reads = match setup {
                COPIES => [0.4, 0.2, 0.0],
                L1_HOT => [0.1, 0.1, 0.1],
                _ => [0.2, 0.2, 0.2],
            };
            Row { skew, setup, seen: cpu.map(|cpu| seen(cpu, even, reads)).into() }
        };
        // A B B A: what is slower from turn to turn is slower for both.
        let (off, on) = ([10.0, 13.0, 10.0, 10.0], [11.0, 12.0, 10.0, 11.0]);
        let rows = Skew::ALL.into_iter().flat_map(|skew| [row(skew, 1, off), row(skew, 2, off), row(skew, 3, on)]);
        let hot = Hot(rows.collect());
        let is = |seen: Option<f64>, expected: f64| (seen.expect("it was measured") - expected).abs() < 1e-9;
        assert!(is(hot.imbalance(Skew::Split), 1.0) && is(hot.read_imbalance(Skew::Split), 2.0));
        assert!(is(hot.spared(Skew::Zipf), 0.7));
        let detection = hot.detection(Skew::Zipf).expect("it was measured");
        assert!(is(Some(detection.median), 0.025) && is(Some(detection.extremes[1]), 0.05), "{detection:?}");
        assert!(Hot(Vec::new()).detection(Skew::Zipf).is_none());
    }

    #[test]
    fn half_of_all_is_between_the_quartiles() {
        let spread = Spread::of((0..9).map(f64::from).collect()).expect("there are some");
        assert_eq!(spread, Spread { count: 9, median: 4.0, quartiles: [2.0, 6.0], extremes: [0.0, 8.0] });
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn copies_are_there_when_every_key_that_is_hot_for_sure_has_some() {
        let keys = |keys: &[(f64, u64)]| {
            let keys: Vec<_> = keys.iter().map(|(share, copies)| json!({"share": share, "copies": copies})).collect();
            copies_of(&keys)
        };
        assert_eq!(keys(&[(0.5, 2), (0.2, 1), (0.011, 0)]), Some(3));
        assert_eq!([keys(&[(0.5, 2), (0.2, 0)]), keys(&[(0.011, 1)]), keys(&[])], [None; 3]);
    }
}
