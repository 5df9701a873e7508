//! Endpoints die (`kill -9`) and come back at random, the same way in every run, while callers keep their pace; one is always alive.
//!
//! Meanwhile the same generator calls an endpoint that never dies, without Weir: how late its answers are is the machine's doing.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    callers::Stream,
    fleet::{self, Endpoint},
    proxies::{self, DEADLINE},
    tally::{Tally, Window},
    trial::{CONTROL_RATE, ENDPOINTS, TAKES, WARM_UP, answers, sleep_until, while_called},
};
use crate::{pace::Dice, peers::Place, verify};

/// Requests a second.
pub(super) const RATE: f64 = 2000.0;
/// Beyond the deadline, this much is allowed for the answer's way.
pub(super) const GRACE: Duration = Duration::from_millis(10);
/// The least and the most time between two events, in milliseconds.
const BETWEEN_MS: (u64, u64) = (250, 1250);
/// The same deaths in every run.
const SEED: u64 = 20;

/// What a run gave.
pub(super) struct Churn {
    pub(super) length: Duration,
    pub(super) deaths: u32,
    pub(super) through: Tally,
    pub(super) straight: Tally,
}

/// Runs it through Weir for `length`.
pub(super) fn run(place: Place<'_>, weir: &Path, length: Duration) -> Result<Churn> {
    let mut fleet = fleet::fleet(place, ENDPOINTS, TAKES)?;
    let steady = Endpoint::start(place, TAKES)?;
    let weir = proxies::weir(place, weir, &fleet)?;
    answers(weir.server.address)?;
    let request = verify::inference(&verify::plain_body());
    let streams = [
        Stream { to: weir.server.address, rate: RATE, request: request.clone() },
        Stream { to: steady.address, rate: CONTROL_RATE, request },
    ];
    let begin = Instant::now() + Duration::from_millis(100);
    let window = Window { from: begin + WARM_UP, to: begin + WARM_UP + length };
    let mut deaths = 0;
    let calls = while_called(&streams, begin, window.to - begin, || {
        deaths = disturb(&mut fleet, window)?;
        Ok(())
    })?;
    let through = Tally::of(&calls[0], &fleet::arrivals(&fleet)?, window, DEADLINE);
    let straight = Tally::of(&calls[1], &steady.arrivals()?, window, DEADLINE);
    Ok(Churn { length, deaths, through, straight })
}

/// Kills and revives until the window is over; how often it killed.
fn disturb(fleet: &mut [Endpoint<'_>], window: Window) -> Result<u32> {
    let (mut dice, mut when, mut deaths) = (Dice::new(SEED), window.from, 0);
    while when < window.to {
        sleep_until(when);
        let alive = fleet.iter().filter(|endpoint| endpoint.is_alive()).count();
        let index = dice.below(fleet.len());
        let chosen = &mut fleet[index];
        if !chosen.is_alive() {
            chosen.revive()?;
        } else if alive > 1 {
            chosen.kill()?;
            deaths += 1;
        }
        let (least, most) = BETWEEN_MS;
        when += Duration::from_millis(least + dice.below((most - least) as usize) as u64);
    }
    Ok(deaths)
}
