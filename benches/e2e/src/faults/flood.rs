//! A best-effort flood of ten times what the models can do, beside a steady load of the high tier.
//!
//! The control is the same pair of loads without Weir: the steady one straight to the model, the flood straight to one that
//! answers at once. What the flood costs there is the machine's doing.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    callers::{PATIENCE, Stream},
    fleet::Endpoint,
    tally::{Tally, Window},
    trial::{WARM_UP, answers, while_called},
};
use crate::{
    cpu,
    peers::{self, Place, Weir},
    verify,
};

/// Requests that may be at the models at once, and what each takes.
pub(super) const SLOTS: u32 = 20;
pub(super) const TAKES: Duration = Duration::from_millis(20);
/// Requests a second of the high tier.
pub(super) const STEADY: f64 = 100.0;
/// The high tier's requests take this long at most, waiting and all.
pub(super) const DEADLINE: Duration = Duration::from_millis(200);

/// Requests a second of the flood.
pub(super) fn rate() -> f64 {
    10.0 * f64::from(SLOTS) / TAKES.as_secs_f64()
}

/// The steady load, alone and beside the flood; and the flood.
pub(super) struct Flood {
    pub(super) quiet: Tally,
    pub(super) flooded: Tally,
    pub(super) flood: Tally,
    /// How much of a core the generator took at most, in a run with the flood. Near 1, it is itself what is slow.
    pub(super) generator: f64,
}

impl Flood {
    pub(super) fn new() -> Self {
        Self { quiet: Tally::new(), flooded: Tally::new(), flood: Tally::new(), generator: 0.0 }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.quiet.add(&other.quiet);
        self.flooded.add(&other.flooded);
        self.flood.add(&other.flood);
        self.generator = self.generator.max(other.generator);
    }

    /// How much longer the slowest hundredth waits under the flood.
    pub(super) fn change(&self) -> f64 {
        self.flooded.quantile(0.99) / self.quiet.quantile(0.99)
    }
}

/// Where the steady load and the flood go.
struct Targets {
    steady: SocketAddr,
    flood: SocketAddr,
}

/// Through Weir.
pub(super) fn through(place: Place<'_>, weir: &Path, length: Duration) -> Result<Flood> {
    let model = Endpoint::start(place, TAKES)?;
    let weir = start_weir(place, weir, model.address)?;
    answers(weir.server.address)?;
    measure(&Targets { steady: weir.server.address, flood: weir.server.address }, length)
}

/// Straight to two models.
pub(super) fn straight(place: Place<'_>, length: Duration) -> Result<Flood> {
    let (model, prompt) = (Endpoint::start(place, TAKES)?, Endpoint::start(place, Duration::ZERO)?);
    measure(&Targets { steady: model.address, flood: prompt.address }, length)
}

fn start_weir(place: Place<'_>, program: &Path, model: SocketAddr) -> Result<Weir> {
    let config = format!(
        "capacity: {{slots: {SLOTS}}}
tiers:
  high: {{pool: backend}}
  standard: {{pool: backend}}
  best-effort: {{pool: backend}}
pools:
  backend: {{endpoints: [\"http://{model}\"]}}
models:
  m: {{tier: high, timeout: {timeout}ms}}
  bulk: {{tier: best-effort, upstream_model: m}}
",
        timeout = DEADLINE.as_millis(),
    );
    peers::weir_with(place, ("weir-flood", program), &config)
}

fn measure(targets: &Targets, length: Duration) -> Result<Flood> {
    let body = verify::plain_body();
    let steady = || Stream { to: targets.steady, rate: STEADY, request: verify::inference(&body) };
    let flood = Stream { to: targets.flood, rate: rate(), request: verify::inference_of("bulk", &body) };
    let [quiet] = called([steady()], [DEADLINE], length)?;
    let (begun, used) = (Instant::now(), cpu::used_here()?);
    let [flooded, flood] = called([steady(), flood], [DEADLINE, PATIENCE], length)?;
    let generator = (cpu::used_here()? - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    Ok(Flood { quiet, flooded, flood, generator })
}

/// Each stream's calls, judged by its own deadline.
fn called<const N: usize>(streams: [Stream; N], deadlines: [Duration; N], length: Duration) -> Result<[Tally; N]> {
    let begin = Instant::now() + Duration::from_millis(100);
    let window = Window { from: begin + WARM_UP, to: begin + WARM_UP + length };
    let calls = while_called(&streams, begin, window.to - begin, || Ok(()))?;
    Ok(std::array::from_fn(|stream| Tally::of(&calls[stream], &[], window, deadlines[stream])))
}
