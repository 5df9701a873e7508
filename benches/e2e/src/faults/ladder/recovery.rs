//! How soon all is well again: from the moment that a fault is lifted to the model's standing level 0, and to the first full answer;
//! with callers all the while, and with none from that moment on.
//!
//! Every fault has a Weir of its own, with and without callers, and all run at the same time. Who has no callers is asked once,
//! when its breakers let a request by again.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    super::{
        callers::{Call, End, Stream},
        trial::{WARM_UP, sleep_until, while_called},
    },
    Bench,
    outage::is_well,
    world::{self, EXIT_AFTER, OPEN_FOR, Pool, State, Store, Times},
};
use crate::{caller::Caller, peers::Weir};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Pool(State),
    Store(State),
}

const FAULTS: [Fault; 7] = [
    Fault::Pool(State::Errors),
    Fault::Pool(State::Hangs),
    Fault::Pool(State::NowAndThen),
    Fault::Pool(State::Stopped),
    Fault::Pool(State::Killed),
    Fault::Store(State::Stopped),
    Fault::Store(State::Killed),
];

/// Whether anybody calls once the fault is lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    With,
    Without,
}

/// Longer than a level needs to come to be, and a trigger to be sure.
const FAILS_FOR: Duration = Duration::from_secs(4);
/// Within which all is to be well again.
pub(super) const BOUND: Duration = OPEN_FOR.saturating_add(EXIT_AFTER).saturating_add(Duration::from_secs(2));
const WATCHED: Duration = BOUND.saturating_add(Duration::from_secs(1));
const LOOK: Duration = Duration::from_millis(50);
/// Requests a second: as many as it takes for a trigger to be sure where one in ten hangs.
const RATE: f64 = 100.0;

/// What was seen of a fault. `None`: not while it was watched.
pub(super) struct Recovery {
    pub(super) fault: Fault,
    pub(super) traffic: Traffic,
    /// The level that the model stood at when the fault was lifted.
    pub(super) stood: u64,
    /// From then on: until it stood at level 0 for good.
    pub(super) standing: Option<Duration>,
    /// Until the first answer at level 0, counted from when it was asked for.
    pub(super) full: Option<Duration>,
}

impl Recovery {
    pub(super) fn is_in_time(&self) -> bool {
        [self.standing, self.full].iter().all(|took| took.is_some_and(|took| took <= BOUND))
    }
}

/// A fault's Weir, with what is behind it.
struct Patient<'a> {
    fault: Fault,
    traffic: Traffic,
    pool: Pool<'a>,
    store: Store<'a>,
    /// Nothing happens to it.
    _simpler: Pool<'a>,
    weir: Weir,
    lifted: Instant,
    seen: Seen,
}

/// What watching has shown so far.
#[derive(Default)]
struct Seen {
    stood: u64,
    /// Since when it stands at level 0.
    well: Option<Instant>,
    full: Option<Instant>,
}

impl<'a> Patient<'a> {
    fn start(bench: Bench<'a>, fault: Fault, traffic: Traffic) -> Result<Self> {
        let (pool, simpler) = (Pool::start(bench.place, 1)?, Pool::start(bench.place, 1)?);
        let store = Store::start(bench)?;
        let name = format!("weir-recovery-{}", store.address.port());
        let weir = world::weir(bench, (&name, Times::Short), [&pool, &simpler], store.address)?;
        is_well(&weir)?;
        let lifted = Instant::now();
        Ok(Self { fault, traffic, pool, store, _simpler: simpler, weir, lifted, seen: Seen::default() })
    }

    fn strike(&mut self) -> Result<()> {
        match self.fault {
            Fault::Pool(state) => self.pool.become_so(state),
            Fault::Store(state) => self.store.become_so(state),
        }
    }

    fn lift(&mut self) -> Result<()> {
        self.seen.stood = self.level()?;
        match self.fault {
            Fault::Pool(_) => self.pool.become_so(State::Up)?,
            Fault::Store(_) => self.store.become_so(State::Up)?,
        }
        self.lifted = Instant::now();
        Ok(())
    }

    /// The level that the model stands at.
    fn level(&self) -> Result<u64> {
        let request = b"GET /admin/v1/levels HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        let answer = Caller::connect(self.weir.admin)?.call(request)?;
        let levels: serde_json::Value = serde_json::from_slice(&answer.body)?;
        levels["m"]["level"].as_u64().with_context(|| format!("no level in {levels}"))
    }

    /// Looks at its level, and asks where nobody else does.
    fn look(&mut self) -> Result<()> {
        let (level, now) = (self.level()?, Instant::now());
        self.seen.well = if level > 0 { None } else { self.seen.well.or(Some(now)) };
        let asks = self.traffic == Traffic::Without && self.seen.full.is_none() && self.seen.well.is_some();
        if asks && now >= self.lifted + OPEN_FOR {
            let answer = Caller::connect(self.weir.server.address)?.call(&world::request("m"))?;
            let full = answer.status == 200 && answer.header("weir-level") == Some("0");
            self.seen.full = full.then_some(now);
        }
        Ok(())
    }

    fn recovery(self, calls: &[Call]) -> Recovery {
        let Self { fault, traffic, lifted, seen, .. } = self;
        let since = |at: Instant| at.saturating_duration_since(lifted);
        Recovery {
            fault,
            traffic,
            stood: seen.stood,
            standing: seen.well.map(since),
            full: seen.full.or_else(|| first_full(calls, lifted)).map(since),
        }
    }
}

/// When the first full answer was there that was asked for after the fault.
fn first_full(calls: &[Call], lifted: Instant) -> Option<Instant> {
    let after = calls.iter().filter(|call| call.due >= lifted);
    let full = after.filter(|call| call.end == End::Status(200) && call.level == Some(0));
    full.map(|call| call.due + call.took).min()
}

/// Strikes all, lifts all, watches all.
pub(super) fn run(bench: Bench<'_>) -> Result<Vec<Recovery>> {
    let start = |traffic| FAULTS.map(|fault| Patient::start(bench, fault, traffic));
    let mut patients = Vec::new();
    for patient in [Traffic::With, Traffic::Without].into_iter().flat_map(start) {
        patients.push(patient?);
    }
    let stream =
        |patient: &Patient<'_>| Stream { to: patient.weir.server.address, rate: RATE, request: world::request("m") };
    let streams: Vec<Stream> = patients.iter().map(stream).collect();
    let (callers, until_lifted) = streams.split_at(FAULTS.len());
    let begin = Instant::now() + Duration::from_millis(100);
    let (struck, lifted) = (begin + WARM_UP, begin + WARM_UP + FAILS_FOR);
    let calls = while_called(callers, begin, lifted + WATCHED - begin, || {
        while_called(until_lifted, begin, lifted - begin, || {
            sleep_until(struck);
            patients.iter_mut().try_for_each(Patient::strike)?;
            sleep_until(lifted);
            Ok(())
        })?;
        patients.iter_mut().try_for_each(Patient::lift)?;
        while Instant::now() < lifted + WATCHED {
            patients.iter_mut().try_for_each(Patient::look)?;
            thread::sleep(LOOK);
        }
        Ok(())
    })?;
    let calls = calls.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
    Ok(patients.into_iter().zip(calls).map(|(patient, calls)| patient.recovery(calls)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_full_answer_was_asked_for_after_the_fault() {
        let lifted = Instant::now() + Duration::from_secs(1);
        let call = |due: i64, level| Call {
            due: (lifted + Duration::from_millis(1000)) - Duration::from_millis((1000 - due) as u64),
            took: Duration::from_millis(5),
            end: End::Status(200),
            level: Some(level),
        };
        let calls = [call(-1, 0), call(10, 2), call(30, 0), call(20, 0)];
        assert_eq!(first_full(&calls, lifted), Some(lifted + Duration::from_millis(25)));
        assert!(first_full(&calls[..2], lifted).is_none());
    }

    #[test]
    fn both_have_to_be_in_time() {
        let seen = |standing, full| Recovery {
            fault: Fault::Pool(State::Killed),
            traffic: Traffic::With,
            stood: 0,
            standing,
            full,
        };
        let (soon, late) = (Some(OPEN_FOR), Some(BOUND + LOOK));
        assert!(seen(soon, soon).is_in_time());
        assert!(
            ![(soon, late), (late, soon), (None, soon), (soon, None)].iter().any(|it| seen(it.0, it.1).is_in_time())
        );
    }
}
