//! The measuring: setups take turns, in short runs, so that what changes on the machine meets all of them alike.
//!
//! A round is A B C D …, the next one … D C B A, so that nobody always comes after the one that leaves the machine hot. Each
//! setup's numbers are medians over the rounds, and comparisons are medians of what was seen *within* a round. A setup that
//! fails is out, says why, and does not stop the others.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cpu,
    load::{Load, Protocol},
    pace::Pace,
    peers::Server,
};

/// Connections of the larger closed loop, and of the open loop.
pub(crate) const MANY: usize = 32;

/// Untimed before each run, on its connections.
const WARM_UP: Duration = Duration::from_millis(250);

/// One thing to measure.
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    /// `None`: the load goes straight to the backend.
    pub(crate) server: Option<Server>,
    pub(crate) requests: Vec<Vec<u8>>,
    /// Why it is out.
    pub(crate) failure: Option<String>,
    /// Closed loop, one connection.
    pub(crate) one: Vec<Phase>,
    /// Closed loop, [`MANY`] connections.
    pub(crate) many: Vec<Phase>,
    /// Open loop.
    pub(crate) open: Vec<Phase>,
    /// MiB after the last run.
    pub(crate) resident: f64,
}

/// What one run gave. Times in µs; processor times per request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The proxy's; the backend's own where there is none.
    pub(crate) cpu: f64,
    pub(crate) backend_cpu: f64,
    pub(crate) load_cpu: f64,
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) rounds: usize,
    pub(crate) one: Duration,
    pub(crate) many: Duration,
    pub(crate) open: Duration,
}

impl Setup {
    /// A setup that nothing was measured of yet.
    pub(crate) fn new(name: &'static str, server: Option<Server>, requests: Vec<Vec<u8>>) -> Self {
        let (one, many, open) = Default::default();
        Self { name, server, requests, failure: None, one, many, open, resident: 0.0 }
    }

    /// Keeps why it is out; the first reason stays.
    pub(crate) fn fail(&mut self, error: &anyhow::Error) {
        self.failure.get_or_insert_with(|| format!("{error:#}"));
    }

    /// Whether it is still in.
    pub(crate) fn works(&self) -> bool {
        self.failure.is_none()
    }

    fn run(&self, backend: &Server, run: (usize, Pace, Duration)) -> Result<Phase> {
        let server = self.server.as_ref().unwrap_or(backend);
        measure(server, backend, Load::connect(Protocol::Http, server.address, run.0, &self.requests)?, (run.1, run.2))
    }
}

/// One run of a load against `server`, and what it took of it and of what is `behind` it.
pub(crate) fn measure(server: &Server, behind: &Server, mut load: Load<'_>, run: (Pace, Duration)) -> Result<Phase> {
    load.run(Pace::Closed, WARM_UP)?;
    let used = || -> Result<[Duration; 3]> {
        Ok([cpu::used(server.process.id())?, cpu::used(behind.process.id())?, cpu::used_here()?])
    };
    let before = used()?;
    let outcome = load.run(run.0, run.1)?;
    let after = used()?;
    let per_request = |index: usize| micros(after[index].saturating_sub(before[index])) / outcome.answered as f64;
    Ok(Phase {
        rate: outcome.answered as f64 / outcome.elapsed.as_secs_f64(),
        p50: outcome.latency.value_at_quantile(0.50) as f64 / 1e3,
        p99: outcome.latency.value_at_quantile(0.99) as f64 / 1e3,
        cpu: per_request(0),
        backend_cpu: per_request(1),
        load_cpu: per_request(2),
    })
}

/// All of them, in the order of a round.
pub(crate) fn in_turn<T>(setups: &mut [T], round: usize) -> Vec<&mut T> {
    let mut turns: Vec<_> = setups.iter_mut().collect();
    if round % 2 == 1 {
        turns.reverse();
    }
    turns
}

/// Closed loops at one and at [`MANY`] connections, in turns.
pub(crate) fn closed(setups: &mut [Setup], backend: &Server, schedule: Schedule) {
    for round in 0..schedule.rounds {
        for setup in in_turn(setups, round).into_iter().filter(|setup| setup.works()) {
            let one = setup.run(backend, (1, Pace::Closed, schedule.one));
            let many = setup.run(backend, (MANY, Pace::Closed, schedule.many));
            match one.and_then(|one| Ok((one, many?))) {
                Ok((one, many)) => {
                    note(round, setup.name, many);
                    setup.one.push(one);
                    setup.many.push(many);
                }
                Err(error) => setup.fail(&error),
            }
        }
    }
}

/// Open loops of [`MANY`] connections at one rate for all, in turns.
pub(crate) fn open(setups: &mut [Setup], backend: &Server, schedule: Schedule, rate: f64) {
    for round in 0..schedule.rounds {
        for setup in in_turn(setups, round).into_iter().filter(|setup| setup.works()) {
            match setup.run(backend, (MANY, Pace::Open(rate), schedule.open)) {
                Ok(phase) => {
                    note(round, setup.name, phase);
                    setup.open.push(phase);
                }
                Err(error) => setup.fail(&error),
            }
            let resident = setup.server.as_ref().map_or(Ok(0.0), |server| cpu::resident(server.process.id()));
            match resident {
                Ok(resident) => setup.resident = resident,
                Err(error) => setup.fail(&error),
            }
        }
    }
}

/// The middle of `values`.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Says how a run went, for who is waiting.
pub(crate) fn note(round: usize, name: &str, phase: Phase) {
    let Phase { rate, p50, p99, cpu, .. } = phase;
    eprintln!("round {}: {name:<15} {rate:>7.0}/s  p50 {p50:>6.0} µs  p99 {p99:>6.0} µs  cpu {cpu:>5.1} µs", round + 1);
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }
}
