//! How long Weir takes to see that an endpoint is gone, until every caller is answered again, and until it has its share back.
//!
//! Seen is what Weir's metrics say, which are looked at every 10 ms: the endpoint's breaker is open, or its health check fails, or
//! no attempt fails any more, since they go elsewhere; whichever is first.

use std::{
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    callers::{Call, End, Stream},
    fleet::{self, Endpoint},
    proxies::{self, DEADLINE},
    scrape::{self, LOOK},
    trial::{ENDPOINTS, RATE, TAKES, WARM_UP, answers, sleep_until, while_called},
};
use crate::{caller::Caller, peers::Place, verify};

/// How an endpoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// `kill -9`: connections are reset, and refused.
    Killed,
    /// SIGSTOP: connections are made, and nothing is answered.
    Stopped,
}

impl Loss {
    fn strike(self, victim: &mut Endpoint<'_>) -> Result<()> {
        match self {
            Self::Killed => victim.kill(),
            Self::Stopped => victim.stop(),
        }
    }

    fn heal(self, victim: &mut Endpoint<'_>) -> Result<()> {
        match self {
            Self::Killed => victim.revive(),
            Self::Stopped => victim.go_on(),
        }
    }
}

/// How long the endpoint is gone, and how long its return is watched.
const GONE: Duration = Duration::from_secs(4);
const WATCHED: Duration = Duration::from_secs(8);
/// Its share is looked at over this time, in steps.
const SHARE_OVER: Duration = Duration::from_millis(500);
const SHARE_STEP: Duration = Duration::from_millis(50);
/// What it has in the end is looked at over this time.
const LAST: Duration = Duration::from_secs(2);
/// No failed attempt for so long, and they go elsewhere: an even share would be eighty.
const ELSEWHERE: Duration = Duration::from_millis(250);
/// It has its share back at this much of an even one.
pub(super) const SHARE: f64 = 0.75;

/// What was seen. `None`: not while it was watched.
pub(super) struct Failover {
    pub(super) loss: Loss,
    /// Until Weir saw it.
    pub(super) detected: Option<Duration>,
    /// Until the last request was due that was not answered in time. Zero: all were.
    pub(super) recovered: Duration,
    /// How many were not, of how many.
    pub(super) lost: (usize, usize),
    /// From its return until it had its share of the arrivals.
    pub(super) returned: Option<Duration>,
    /// Its part of an even share in the end.
    pub(super) share: f64,
}

/// Runs it through Weir.
pub(super) fn run(place: Place<'_>, weir: &Path, loss: Loss) -> Result<Failover> {
    let mut fleet = fleet::fleet(place, ENDPOINTS, TAKES)?;
    let weir = proxies::weir(place, weir, &fleet)?;
    answers(weir.server.address)?;
    let request = verify::inference(&verify::plain_body());
    let streams = [Stream { to: weir.server.address, rate: RATE, request }];
    let begin = Instant::now() + Duration::from_millis(100);
    let strike = begin + WARM_UP * 2;
    let end = strike + GONE + WATCHED;
    let (mut struck, mut detected, mut healed) = (strike, None, strike);
    let calls = while_called(&streams, begin, end - begin, || {
        sleep_until(strike);
        let before = failures(&scrape::page(&mut Caller::connect(weir.admin)?)?);
        struck = Instant::now();
        loss.strike(&mut fleet[0])?;
        detected = seen_gone(weir.admin, fleet[0].address, before, struck + GONE)?;
        sleep_until(struck + GONE);
        loss.heal(&mut fleet[0])?;
        healed = Instant::now();
        Ok(())
    })?;
    let gone: Vec<Call> = calls[0].iter().filter(|call| struck <= call.due && call.due < healed).copied().collect();
    let lost: Vec<&Call> = gone.iter().filter(|call| call.end != End::Status(200) || call.took > DEADLINE).collect();
    let last = lost.iter().map(|call| call.due).max();
    let (own, all) = (fleet[0].arrivals()?, fleet::arrivals(&fleet)?);
    Ok(Failover {
        loss,
        detected: detected.map(|at| at - struck),
        recovered: last.map_or(Duration::ZERO, |last| last - struck),
        lost: (lost.len(), gone.len()),
        returned: share_back(&own, &all, healed, end).map(|at| at - healed),
        share: share(&own, &all, end - LAST, LAST),
    })
}

/// When Weir stopped sending requests to `endpoint`; `before` attempts had failed until then.
fn seen_gone(admin: SocketAddr, endpoint: SocketAddr, before: f64, until: Instant) -> Result<Option<Instant>> {
    let target = format!("backend/{endpoint}");
    let labels = ["pool=\"backend\"".into(), format!("endpoint=\"{endpoint}\"")];
    let (mut admin, mut failed, mut last) = (Caller::connect(admin)?, before, None);
    while Instant::now() < until {
        let page = scrape::page(&mut admin)?;
        let now = Instant::now();
        let unhealthy = scrape::value(&page, "weir_endpoint_healthy", &labels) == Some(0.0);
        if unhealthy || scrape::is_open(&page, &target) {
            return Ok(Some(now));
        }
        let failures = failures(&page);
        if failures > failed {
            (failed, last) = (failures, Some(now));
        } else if last.is_some_and(|last| now - last >= ELSEWHERE) {
            return Ok(last);
        }
        thread::sleep(LOOK);
    }
    Ok(None)
}

/// Attempts that brought no answer, so far.
fn failures(page: &str) -> f64 {
    let of = |outcome: &str| scrape::value(page, "weir_attempts_total", &[format!("outcome=\"{outcome}\"")]);
    ["failed", "connect_failed", "timeout"].into_iter().filter_map(of).sum()
}

/// The end of the first span after `from` in which the endpoint had its share of all arrivals.
fn share_back(own: &[Instant], all: &[Instant], from: Instant, end: Instant) -> Option<Instant> {
    let mut spans = (0..).map(|step| from + SHARE_STEP * step).take_while(|start| *start + SHARE_OVER <= end);
    spans.find(|start| share(own, all, *start, SHARE_OVER) >= SHARE).map(|start| start + SHARE_OVER)
}

/// Its part of an even share of the arrivals from `start` on.
fn share(own: &[Instant], all: &[Instant], start: Instant, length: Duration) -> f64 {
    let within = |times: &[Instant]| times.iter().filter(|&&at| start <= at && at < start + length).count() as f64;
    within(own) * ENDPOINTS as f64 / within(all).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_back_when_it_is_three_quarters_of_an_even_one() {
        let from = Instant::now();
        let at = |millis: u64| from + Duration::from_millis(millis);
        let others: Vec<Instant> = (0..3000).map(at).collect();
        // From 1 s on, one in three.
        let own: Vec<Instant> = (500..1500).map(|index| at(index * 2)).collect();
        let all = [others, own.clone()].concat();
        let back = share_back(&own, &all, from, at(3000)).expect("it comes back");
        assert!((1300..1500).contains(&(back - from).as_millis()), "{:?}", back - from);
        assert!(share_back(&[], &all, from, at(3000)).is_none());
    }
}
