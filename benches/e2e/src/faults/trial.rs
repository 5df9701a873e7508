//! One of three endpoints becomes slow, or dies, under a steady load through a proxy, and gets well again.
//!
//! A run is a warm-up and three phases: before, during, after. Beside the load, and from the same generator, a smaller one goes
//! straight to an endpoint that nothing happens to: what it loses or waits for is the machine's doing.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    callers::{self, Call, Stream},
    fleet::{self, Endpoint},
    proxies::DEADLINE,
    tally::{Tally, Window},
};
use crate::{
    caller::Caller,
    peers::{Place, Server},
    verify,
};

/// Requests a second through the proxy, and straight to the healthy endpoint.
pub(super) const RATE: f64 = 1000.0;
pub(super) const CONTROL_RATE: f64 = 200.0;
/// What a model takes, and what the slow one takes.
pub(super) const TAKES: Duration = Duration::from_millis(2);
pub(super) const SLOW: Duration = Duration::from_millis(40);
/// Endpoints behind the proxy.
pub(super) const ENDPOINTS: usize = 3;
/// Before the first phase.
pub(super) const WARM_UP: Duration = Duration::from_secs(1);

/// What happens to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BrownOut,
    Crash,
}

impl Fault {
    fn strike(self, victim: &mut Endpoint<'_>) -> Result<()> {
        match self {
            Self::BrownOut => victim.take(SLOW),
            Self::Crash => victim.kill(),
        }
    }

    fn heal(self, victim: &mut Endpoint<'_>) -> Result<()> {
        match self {
            Self::BrownOut => victim.take(TAKES),
            Self::Crash => victim.revive(),
        }
    }
}

/// Before, during and after the fault.
pub(super) struct Phases(pub(super) [Tally; 3]);

impl Phases {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Tally::new()))
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(tally, other)| tally.add(other));
    }

    /// During and after in one: what the fault cost until all was well again.
    pub(super) fn struck(&self) -> Tally {
        let mut both = Tally::new();
        self.0[1..].iter().for_each(|tally| both.add(tally));
        both
    }
}

/// What one run gave: through the proxy, and straight.
pub(super) struct Trial {
    pub(super) through: Phases,
    pub(super) straight: Phases,
}

/// Runs a fault through the proxy that `start` starts in front of the endpoints; `phase` is how long each phase is.
pub(super) fn run(
    place: Place<'_>,
    fault: Fault,
    phase: Duration,
    start: &dyn Fn(&[Endpoint<'_>]) -> Result<Server>,
) -> Result<Trial> {
    let mut fleet = fleet::fleet(place, ENDPOINTS, TAKES)?;
    let healthy = Endpoint::start(place, TAKES)?;
    let proxy = start(&fleet)?;
    answers(proxy.address)?;
    let request = verify::inference(&verify::plain_body());
    let streams = [
        Stream { to: proxy.address, rate: RATE, request: request.clone() },
        Stream { to: healthy.address, rate: CONTROL_RATE, request },
    ];
    let begin = Instant::now() + Duration::from_millis(100);
    let turns: [Instant; 4] = std::array::from_fn(|turn| begin + WARM_UP + phase * turn as u32);
    let calls = while_called(&streams, begin, turns[3] - begin, || {
        sleep_until(turns[1]);
        fault.strike(&mut fleet[0])?;
        sleep_until(turns[2]);
        fault.heal(&mut fleet[0])
    })?;
    let (arrivals, straight) = (fleet::arrivals(&fleet)?, healthy.arrivals()?);
    Ok(Trial { through: phases(&calls[0], &arrivals, turns), straight: phases(&calls[1], &straight, turns) })
}

/// Calls from another thread while `script` runs on this one, whose children die with it.
pub(super) fn while_called<T>(
    streams: &[Stream],
    begin: Instant,
    length: Duration,
    script: impl FnOnce() -> Result<T>,
) -> Result<Vec<Vec<Call>>> {
    thread::scope(|scope| {
        let load = scope.spawn(|| callers::call(streams, begin, length));
        let played = script();
        let calls = load.join().expect("the load does not panic");
        played?;
        calls
    })
}

fn phases(calls: &[Call], arrivals: &[Instant], turns: [Instant; 4]) -> Phases {
    let window = |phase: usize| Window { from: turns[phase], to: turns[phase + 1] };
    Phases(std::array::from_fn(|phase| Tally::of(calls, arrivals, window(phase), DEADLINE)))
}

/// Sleeps; not at all if `when` is past.
pub(super) fn sleep_until(when: Instant) {
    thread::sleep(when.saturating_duration_since(Instant::now()));
}

/// The proxy must pass the model's answer on, once all that it needs to begin is there.
pub(super) fn answers(address: SocketAddr) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = Caller::connect(address)?.call(&verify::inference(&verify::plain_body()))?;
        if answer.status == 200 {
            return verify::ensure_is_the_models(&answer);
        }
        ensure!(Instant::now() < until, "answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        thread::sleep(Duration::from_millis(50));
    }
}
