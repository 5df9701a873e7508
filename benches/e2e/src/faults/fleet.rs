//! Model servers that can be killed, stopped, slowed and revived, each a process of its own; and what arrived at them when.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::endpoint::{self, Behaviour};
use crate::{
    caller::Caller,
    peers::{Place, Server},
    process::steady_address,
};

/// One model server, running or not.
pub(super) struct Endpoint<'a> {
    pub(super) address: SocketAddr,
    place: Place<'a>,
    /// What it does when it is started.
    behaviour: Behaviour,
    server: Option<Server>,
}

impl<'a> Endpoint<'a> {
    /// Starts one whose answers take so long.
    pub(super) fn start(place: Place<'a>, takes: Duration) -> Result<Self> {
        let behaviour = Behaviour::well(takes);
        let mut endpoint = Self { address: steady_address()?, place, behaviour, server: None };
        endpoint.revive()?;
        Ok(endpoint)
    }

    /// Starts it again where it was.
    pub(super) fn revive(&mut self) -> Result<()> {
        let (behaviour, arrivals) = (self.behaviour.words(), self.arrivals_file().display().to_string());
        let arguments = ["endpoint".into(), self.address.to_string(), behaviour, arrivals];
        let name = format!("endpoint-{}", self.address.port());
        self.server = Some(self.place.start(&name, &std::env::current_exe()?, &arguments, self.address)?);
        Ok(())
    }

    pub(super) fn is_alive(&self) -> bool {
        self.server.is_some()
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.server.take().context("it runs")?.process.kill()
    }

    /// SIGSTOP: its connections stay open and are accepted, and nothing is answered.
    pub(super) fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub(super) fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.server.as_ref().context("it runs")?.process.signal(signal)
    }

    /// Makes its answers take so long, until it is killed.
    pub(super) fn take(&self, takes: Duration) -> Result<()> {
        self.tell(Behaviour::well(takes))
    }

    /// Makes it behave so, now and when it is started again.
    pub(super) fn behave(&mut self, behaviour: Behaviour) -> Result<()> {
        self.behaviour = behaviour;
        if self.is_alive() { self.tell(behaviour) } else { Ok(()) }
    }

    fn tell(&self, behaviour: Behaviour) -> Result<()> {
        let body = behaviour.words();
        let head = format!("PUT /behaviour HTTP/1.1\r\nhost: bench.local\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = Caller::connect(self.address)?.call([head, body].concat().as_bytes())?;
        ensure!(answer.status == 200, "it answered {}", answer.status);
        Ok(())
    }

    /// When each inference arrived here, in all its lives.
    pub(super) fn arrivals(&self) -> Result<Vec<Instant>> {
        let bytes = fs::read(self.arrivals_file())?;
        let (now, here) = (endpoint::now(), Instant::now());
        let times = bytes.as_chunks::<8>().0.iter().map(|time| u64::from_le_bytes(*time));
        Ok(times.map(|time| here - Duration::from_nanos(now.saturating_sub(time))).collect())
    }

    fn arrivals_file(&self) -> PathBuf {
        self.place.0.join(format!("arrivals-{}", self.address.port()))
    }
}

impl Drop for Endpoint<'_> {
    fn drop(&mut self) {
        // One that is stopped would take its SIGTERM only when it goes on.
        if self.is_alive() {
            let _ = self.go_on();
        }
    }
}

/// So many endpoints that are alike.
pub(super) fn fleet(place: Place<'_>, count: usize, takes: Duration) -> Result<Vec<Endpoint<'_>>> {
    (0..count).map(|_| Endpoint::start(place, takes)).collect()
}

/// What arrived at all of them.
pub(super) fn arrivals(fleet: &[Endpoint<'_>]) -> Result<Vec<Instant>> {
    let arrivals: Result<Vec<_>> = fleet.iter().map(Endpoint::arrivals).collect();
    Ok(arrivals?.concat())
}
