//! One of two feature servers is lost: how long until the Weir that reads its rows through them sees it, until every caller has its
//! rows again, and until the server has its share back.
//!
//! The servers are Weirs over one Redis. The gateway in front of them keeps nothing and every read goes past its caches, so that an
//! answer is 200 exactly when a server gave the row: what cannot be read is a 503.

use std::{
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{
    callers::Stream,
    failover::{self, Failover, GONE, Kind, LAST, Loss, SHARE, SHARE_OVER, SHARE_STEP, Signs, Victim, WATCHED},
    proxies::{self, DEADLINE},
    scrape,
    trial::{WARM_UP, sleep_until, while_called},
};
use crate::{
    caller::Caller,
    feast,
    peers::{self, Place, Server, Weir},
    process::steady_address,
};

const SERVERS: usize = 2;
/// Reads a second.
const RATE: f64 = 500.0;
const USER: i64 = 1001;

/// A feature server, running or not.
struct FeatureServer<'a> {
    address: SocketAddr,
    place: Place<'a>,
    program: &'a Path,
    name: String,
    config: String,
    server: Option<Server>,
}

impl<'a> FeatureServer<'a> {
    fn start(place: Place<'a>, program: &'a Path, redis: SocketAddr) -> Result<Self> {
        // All of them are free again for its next life.
        let (address, grpc, admin) = (steady_address()?, steady_address()?, steady_address()?);
        let config = format!(
            "listen: {{http: \"{address}\", grpc: \"{grpc}\", admin: \"{admin}\"}}\nworkers: 1\n\
             drain: {{delay: 0s, deadline: 1s}}\n{}",
            peers::features("10MiB", &format!("redis: [\"redis://{redis}\"]"))
        );
        let name = format!("feature-server-{}", address.port());
        let config = place.write(&format!("{name}.yaml"), &config)?;
        let mut server = Self { address, place, program, name, config, server: None };
        server.revive()?;
        Ok(server)
    }

    /// What the gateway's metrics call it.
    fn target(&self) -> String {
        format!("target=\"feature_server/{}\"", self.address)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.server.as_ref().context("it runs")?.process.signal(signal)
    }
}

impl Victim for FeatureServer<'_> {
    fn kill(&mut self) -> Result<()> {
        self.server.take().context("it runs")?.process.kill()
    }

    fn revive(&mut self) -> Result<()> {
        let arguments = ["serve".into(), "-c".into(), self.config.clone()];
        self.server = Some(self.place.start(&self.name, self.program, &arguments, self.address)?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    fn go_on(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }
}

impl Drop for FeatureServer<'_> {
    fn drop(&mut self) {
        // One that is stopped would take its SIGTERM only when it goes on.
        if self.server.is_some() {
            let _ = self.go_on();
        }
    }
}

/// Runs it.
pub(super) fn run(place: Place<'_>, (weir, redis): (&Path, &Path), loss: Loss) -> Result<Failover> {
    let redis = peers::redis(place, redis)?;
    feast::load(redis.address, &[USER])?;
    let servers: Result<Vec<_>> = (0..SERVERS).map(|_| FeatureServer::start(place, weir, redis.address)).collect();
    let mut servers = servers?;
    let gateway = gateway(place, weir, &servers)?;
    has_rows(gateway.server.address)?;
    let targets: Vec<String> = servers.iter().map(FeatureServer::target).collect();
    let streams = [Stream { to: gateway.server.address, rate: RATE, request: read() }];
    let begin = Instant::now() + Duration::from_millis(100);
    let strike = begin + WARM_UP * 2;
    let end = strike + GONE + WATCHED;
    let (mut struck, mut detected, mut healed, mut shares) = (strike, None, strike, Shares::default());
    let calls = while_called(&streams, begin, end - begin, || {
        sleep_until(strike);
        let failed = |page: &str| failures(page, &targets[0]);
        let before = failed(&scrape::page(&mut Caller::connect(gateway.admin)?)?);
        struck = Instant::now();
        loss.strike(&mut servers[0])?;
        let breaker = format!("feature_server/{}", servers[0].address);
        let is_out = |page: &str| scrape::is_open(page, &breaker);
        let signs = Signs { is_out: &is_out, failures: &failed };
        detected = failover::seen_gone(gateway.admin, &signs, before, struck + GONE)?;
        sleep_until(struck + GONE);
        loss.heal(&mut servers[0])?;
        healed = Instant::now();
        shares = Shares::watch(gateway.admin, &targets, end)?;
        Ok(())
    })?;
    let (recovered, lost) = failover::missed(&calls[0], (struck, healed));
    Ok(Failover {
        kind: Kind::FeatureServer,
        loss,
        detected: detected.map(|at| at - struck),
        recovered,
        lost,
        returned: shares.back().map(|at| at - healed),
        share: shares.over(LAST),
    })
}

fn gateway(place: Place<'_>, program: &Path, servers: &[FeatureServer<'_>]) -> Result<Weir> {
    let urls: Vec<String> = servers.iter().map(|server| format!("\"http://{}\"", server.address)).collect();
    let l2 = format!("feature_server: [{}], timeout: {}ms", urls.join(", "), proxies::ATTEMPT_MS);
    let config = format!("{}{}", peers::features("0B", &l2), proxies::feature_policy());
    peers::weir_with(place, ("weir-features", program), &config)
}

/// Reads a user's row, past the gateway's caches and within the deadline.
fn read() -> Vec<u8> {
    feast::read(USER, &format!("cache-control: no-cache\r\nweir-timeout-ms: {}\r\n", DEADLINE.as_millis()))
}

/// The row must be there before anything happens.
fn has_rows(gateway: SocketAddr) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = Caller::connect(gateway)?.call(&read())?;
        let text = String::from_utf8_lossy(&answer.body);
        if answer.status == 200 && text.contains("\"PRESENT\"") && !text.contains("NOT_FOUND") {
            return Ok(());
        }
        ensure!(Instant::now() < until, "answered {}: {text}", answer.status);
        thread::sleep(Duration::from_millis(50));
    }
}

/// Requests to a server that brought no answer, so far.
fn failures(page: &str, target: &str) -> f64 {
    ["failed", "timeout"].into_iter().filter_map(|outcome| requests(page, target, outcome)).sum()
}

fn requests(page: &str, target: &str, outcome: &str) -> Option<f64> {
    let labels = [target.to_owned(), format!("outcome=\"{outcome}\"")];
    scrape::value(page, "weir_feature_server_requests_total", &labels)
}

/// What the first server, and all of them, had answered at moments one step apart.
#[derive(Default)]
struct Shares(Vec<(Instant, f64, f64)>);

impl Shares {
    /// Looks until then.
    fn watch(admin: SocketAddr, targets: &[String], until: Instant) -> Result<Self> {
        let (mut admin, mut seen) = (Caller::connect(admin)?, Vec::new());
        while Instant::now() < until {
            let page = scrape::page(&mut admin)?;
            let answered = |target: &String| requests(&page, target, "answered").unwrap_or_default();
            seen.push((Instant::now(), answered(&targets[0]), targets.iter().map(answered).sum()));
            thread::sleep(SHARE_STEP);
        }
        Ok(Self(seen))
    }

    /// The end of the first span in which the first server had its share.
    fn back(&self) -> Option<Instant> {
        let ends = self.0.iter().enumerate().filter_map(|(at, end)| {
            let start = self.0[..at].iter().rfind(|start| end.0 - start.0 >= SHARE_OVER)?;
            Some((end.0, even(start, end)))
        });
        ends.into_iter().find(|(_, share)| *share >= SHARE).map(|(at, _)| at)
    }

    /// Its part of an even share over the last so much.
    fn over(&self, length: Duration) -> f64 {
        let Some(end) = self.0.last() else { return 0.0 };
        self.0.iter().rfind(|start| end.0 - start.0 >= length).map_or(0.0, |start| even(start, end))
    }
}

fn even(start: &(Instant, f64, f64), end: &(Instant, f64, f64)) -> f64 {
    (end.1 - start.1) * SERVERS as f64 / (end.2 - start.2).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_back_when_it_is_three_quarters_of_an_even_one() {
        let from = Instant::now();
        // Ten answers a step; from step 20 on every other is the first server's.
        let seen = (0..80_u32).map(|step| {
            let own = f64::from(step.saturating_sub(20)) * 5.0;
            (from + SHARE_STEP * step, own, f64::from(step) * 10.0)
        });
        let shares = Shares(seen.collect());
        let back = shares.back().expect("it comes back") - from;
        assert!(back > SHARE_STEP * 26 && back <= SHARE_STEP * 30, "{back:?}");
        assert!((shares.over(LAST) - 1.0).abs() < 1e-9);
        assert!(Shares(Vec::new()).back().is_none());
    }

    #[test]
    fn failures_are_those_of_one_server() {
        let page = "weir_feature_server_requests_total{target=\"feature_server/a\",outcome=\"failed\"} 2\n\
                    weir_feature_server_requests_total{target=\"feature_server/a\",outcome=\"timeout\"} 3\n\
                    weir_feature_server_requests_total{target=\"feature_server/b\",outcome=\"failed\"} 7\n";
        assert!((failures(page, "target=\"feature_server/a\"") - 5.0).abs() < 1e-9);
    }
}
