//! How long Weir takes to see that an endpoint is gone (or a feature server: `feature_servers`), until every caller is answered again, and until it has its share back.
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

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Endpoint,
    FeatureServer,
}

/// What can be lost, and come back.
pub(super) trait Victim {
    /// `kill -9`.
    fn kill(&mut self) -> Result<()>;
    /// Starts it again where it was.
    fn revive(&mut self) -> Result<()>;
    /// SIGSTOP.
    fn stop(&mut self) -> Result<()>;
    /// SIGCONT.
    fn go_on(&mut self) -> Result<()>;
}

impl Victim for Endpoint<'_> {
    fn kill(&mut self) -> Result<()> {
        Endpoint::kill(self)
    }

    fn revive(&mut self) -> Result<()> {
        Endpoint::revive(self)
    }

    fn stop(&mut self) -> Result<()> {
        Endpoint::stop(self)
    }

    fn go_on(&mut self) -> Result<()> {
        Endpoint::go_on(self)
    }
}

impl Loss {
    pub(super) fn strike(self, victim: &mut impl Victim) -> Result<()> {
        match self {
            Self::Killed => victim.kill(),
            Self::Stopped => victim.stop(),
        }
    }

    pub(super) fn heal(self, victim: &mut impl Victim) -> Result<()> {
        match self {
            Self::Killed => victim.revive(),
            Self::Stopped => victim.go_on(),
        }
    }
}

/// How long it is gone, and how long its return is watched.
pub(super) const GONE: Duration = Duration::from_secs(4);
pub(super) const WATCHED: Duration = Duration::from_secs(8);
/// Its share is looked at over this time, in steps.
pub(super) const SHARE_OVER: Duration = Duration::from_millis(500);
pub(super) const SHARE_STEP: Duration = Duration::from_millis(50);
/// What it has in the end is looked at over this time.
pub(super) const LAST: Duration = Duration::from_secs(2);
/// No failed attempt for so long, and they go elsewhere: an even share would be eighty.
const ELSEWHERE: Duration = Duration::from_millis(250);
/// It has its share back at this much of an even one.
pub(super) const SHARE: f64 = 0.75;

/// What was seen. `None`: not while it was watched.
pub(super) struct Failover {
    pub(super) kind: Kind,
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
        let is_out = |page: &str| is_out(page, fleet[0].address);
        let signs = Signs { is_out: &is_out, failures: &failures };
        detected = seen_gone(weir.admin, &signs, before, struck + GONE)?;
        sleep_until(struck + GONE);
        loss.heal(&mut fleet[0])?;
        healed = Instant::now();
        Ok(())
    })?;
    let (recovered, lost) = missed(&calls[0], (struck, healed));
    let (own, all) = (fleet[0].arrivals()?, fleet::arrivals(&fleet)?);
    Ok(Failover {
        kind: Kind::Endpoint,
        loss,
        detected: detected.map(|at| at - struck),
        recovered,
        lost,
        returned: share_back(&own, &all, healed, end).map(|at| at - healed),
        share: share(&own, &all, end - LAST, LAST),
    })
}

/// Of the calls due between loss and return: until the last that was not answered in time, and how many were not, of how many.
pub(super) fn missed(calls: &[Call], (struck, healed): (Instant, Instant)) -> (Duration, (usize, usize)) {
    let gone: Vec<&Call> = calls.iter().filter(|call| struck <= call.due && call.due < healed).collect();
    let lost: Vec<_> = gone.iter().filter(|call| call.end != End::Status(200) || call.took > DEADLINE).collect();
    let last = lost.iter().map(|call| call.due).max();
    (last.map_or(Duration::ZERO, |last| last - struck), (lost.len(), gone.len()))
}

/// Whether Weir's metrics say that the endpoint is not asked.
fn is_out(page: &str, endpoint: SocketAddr) -> bool {
    let labels = ["pool=\"backend\"".into(), format!("endpoint=\"{endpoint}\"")];
    let unhealthy = scrape::value(page, "weir_endpoint_healthy", &labels) == Some(0.0);
    unhealthy || scrape::is_open(page, &format!("backend/{endpoint}"))
}

/// What a page of metrics says of what is lost.
pub(super) struct Signs<'a> {
    /// That it is out.
    pub(super) is_out: &'a dyn Fn(&str) -> bool,
    /// How much has failed so far.
    pub(super) failures: &'a dyn Fn(&str) -> f64,
}

/// When Weir stopped sending requests to what is lost; `before` had failed until then.
pub(super) fn seen_gone(admin: SocketAddr, signs: &Signs<'_>, before: f64, until: Instant) -> Result<Option<Instant>> {
    let (mut admin, mut failed, mut last) = (Caller::connect(admin)?, before, None);
    while Instant::now() < until {
        let page = scrape::page(&mut admin)?;
        let now = Instant::now();
        if (signs.is_out)(&page) {
            return Ok(Some(now));
        }
        let failures = (signs.failures)(&page);
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
