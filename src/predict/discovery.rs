//! Finds endpoints: one an address of a DNS name, or those of a file. What was found last is kept whenever nothing can be found, since
//! an address that worked is worth more than none; that is logged once, and counted each time.
//!
//! Names are resolved by the system's resolver, so that search domains, `hosts` and its caches are what they are for every
//! other process of the pod. It limits its own time.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::pool::Pool;
use crate::{
    config::{self, Discovery, Dns, EndpointsFile, Upstream},
    telemetry::handles::balance::Refresh,
};

/// How often a file is looked at.
const FILE_EVERY: Duration = Duration::from_secs(1);
/// Longest file that is read.
const LONGEST_FILE: u64 = 4 << 20;

/// Follows the pool's source of that number for ever.
pub(super) async fn follow(pool: &Pool, source: usize) {
    let mut follower = Follower { pool, source, failing: false, known: None };
    let discovery = &pool.config.discovery[source - 1];
    let every = match discovery {
        Discovery::Dns(dns) => dns.refresh,
        Discovery::File(_) => FILE_EVERY,
    };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut read = String::new();
    loop {
        ticks.tick().await;
        let found = match discovery {
            Discovery::Dns(dns) => resolve(dns, system).await,
            Discovery::File(file) => reread(file, &mut read).await,
        };
        follower.take(found, Instant::now());
    }
}

/// What a look found: `None` for what was there before, or why nothing was.
type Found = Result<Option<Vec<config::Endpoint>>, String>;

struct Follower<'a> {
    pool: &'a Pool,
    /// Its number among the pool's sources.
    source: usize,
    failing: bool,
    /// The names that were found last.
    known: Option<Vec<Arc<str>>>,
}

impl Follower<'_> {
    fn take(&mut self, found: Found, now: Instant) {
        let outcome = match found {
            Ok(None) if self.failing => Refresh::Failed,
            Ok(None) => Refresh::Unchanged,
            Ok(Some(endpoints)) => self.changed(endpoints, now),
            Err(reason) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(pool = %self.pool.name, reason, "endpoints cannot be found: those found last are kept");
                }
                Refresh::Failed
            }
        };
        self.pool.balance.refresh(outcome);
    }

    fn changed(&mut self, endpoints: Vec<config::Endpoint>, now: Instant) -> Refresh {
        if std::mem::take(&mut self.failing) {
            tracing::info!(pool = %self.pool.name, "endpoints are found again");
        }
        let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        // A file may say of the same names something else.
        let from_dns = matches!(self.pool.config.discovery[self.source - 1], Discovery::Dns(_));
        if from_dns && self.known.as_ref() == Some(&names) {
            return Refresh::Unchanged;
        }
        tracing::info!(pool = %self.pool.name, endpoints = names.join(", "), "endpoints found");
        self.known = Some(names);
        self.pool.found(self.source, endpoints, now);
        Refresh::Changed
    }
}

/// The addresses of a name.
async fn resolve<R, F>(dns: &Dns, resolver: R) -> Found
where
    R: Fn(Arc<str>, u16) -> F,
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let Upstream { authority, host, port } = &dns.http;
    let mut addresses = resolver(host.clone(), *port).await.map_err(|error| format!("{authority}: {error}"))?;
    if addresses.is_empty() {
        return Err(format!("{authority}: it has no address"));
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(Some(addresses.into_iter().map(|address| endpoint(dns, address)).collect()))
}

async fn system(host: Arc<str>, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((&*host, port)).await?.collect())
}

/// Connected to by its address, called by it, and asked for by the name that it was found under.
fn endpoint(dns: &Dns, address: SocketAddr) -> config::Endpoint {
    let host: Arc<str> = address.ip().to_string().into();
    let name = dns.http.authority.rsplit_once(':').map_or(&*dns.http.authority, |(name, _)| name);
    let grpc = |port| Upstream { authority: format!("{name}:{port}").into(), host: host.clone(), port };
    config::Endpoint {
        name: address.to_string().into(),
        http: Some(Upstream { authority: dns.http.authority.clone(), host: host.clone(), port: address.port() }),
        grpc: dns.grpc_port.map(grpc),
        zone: dns.zone.clone(),
    }
}

/// The file's endpoints, if its text is another than `read`, which then is its text.
async fn reread(file: &EndpointsFile, read: &mut String) -> Found {
    let name = file.path.display().to_string();
    let text = text(file).await.map_err(|error| format!("{name}: {error}"));
    let text = match text {
        Ok(text) => text,
        Err(reason) => {
            // What comes back is read again, were it as it was.
            read.clear();
            return Err(reason);
        }
    };
    if text == *read {
        return Ok(None);
    }
    let endpoints = config::read_endpoints(&text, &name, file.zone.as_ref());
    *read = text;
    endpoints.map(Some)
}

async fn text(file: &EndpointsFile) -> io::Result<String> {
    let length = tokio::fs::metadata(&file.path).await?.len();
    if length > LONGEST_FILE {
        return Err(io::Error::other(format!("it is {length} bytes long; allowed: {LONGEST_FILE}")));
    }
    tokio::fs::read_to_string(&file.path).await
}

#[cfg(test)]
mod tests;
