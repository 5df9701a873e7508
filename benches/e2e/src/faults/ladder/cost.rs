//! What the ways down cost while nothing is wrong: processor time of a request through the same Weir with and without them.
//!
//! The model joins nothing and its body passes as it is, so that nothing hides the difference. Runs take turns; what counts is the
//! median of the differences within a round.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::{
    load::{Load, Protocol},
    pace::Pace,
    peers::{self, Server},
    rounds::{self, MANY, Phase, median},
    verify,
};

/// A setup's name, and what its config says of the model.
const SETUPS: [(&str, &str); 2] = [
    ("no way down", ""),
    (
        "simpler model, rule, default outputs",
        ", fallback: {model: lite, rule: \"true ? 0.9 : 0.1\", \
         default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.5]}]}}",
    ),
];

/// What each setup gave, by round.
pub(super) struct Cost(pub(super) [(&'static str, Vec<Phase>); 2]);

impl Cost {
    /// µs a request that the ways down cost.
    pub(super) fn extra(&self) -> f64 {
        let [(_, without), (_, with)] = &self.0;
        median(without.iter().zip(with).map(|(without, with)| with.cpu - without.cpu))
    }
}

/// Measures so many rounds, in runs of `length`.
pub(super) fn run(bench: Bench<'_>, rounds: usize, length: Duration) -> Result<Cost> {
    let backend = peers::backend(bench.place)?;
    let mut setups = Vec::new();
    for (index, (name, model)) in SETUPS.into_iter().enumerate() {
        let server = weir(bench, &format!("weir-cost-{index}"), model, &backend)?;
        verify::passes_through(server.address, backend.address)?;
        setups.push((name, server, Vec::new()));
    }
    let requests = [verify::inference(&verify::plain_body())];
    for round in 0..rounds {
        for (name, server, phases) in rounds::in_turn(&mut setups, round) {
            let load = Load::connect(Protocol::Http, server.address, MANY, &requests)?;
            let phase = rounds::measure(server, &backend, load, (Pace::Closed, length))?;
            rounds::note(round, name, phase);
            phases.push(phase);
        }
    }
    let mut seen = setups.into_iter().map(|(name, _, phases)| (name, phases));
    Ok(Cost(std::array::from_fn(|_| seen.next().unwrap_or_default())))
}

fn weir(bench: Bench<'_>, name: &str, model: &str, backend: &Server) -> Result<Server> {
    let config = format!(
        "tiers:
  standard: {{pool: backend}}
pools:
  backend: {{endpoints: [\"http://{}\"]}}
models:
  m: {{tier: standard{model}}}
  lite: {{tier: standard}}
",
        backend.address
    );
    Ok(peers::weir_with(bench.place, (name, bench.weir), &config)?.server)
}
