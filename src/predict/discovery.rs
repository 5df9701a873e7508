//! Finds endpoints: one an address of a DNS name, or those of a file. What was found last is kept whenever nothing can be found, since
//! an address that worked is worth more than none. That is logged once a reason, counted each time, and shown by the admin port.
//!
//! Names are resolved by the system's resolver, so that search domains, `hosts` and its caches are what they are for every
//! other process of the pod. One that does not answer in time has failed this look; its answer is taken whenever it comes.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::pool::Pool;
use crate::{
    config::{self, Discovery, Dns, EndpointsFile, Upstream},
    telemetry::handles::balance::Refresh,
};

/// How often a file is looked at.
const FILE_EVERY: Duration = Duration::from_secs(1);
/// How long an answer of the resolver is waited for: until the next look, within these.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(5);
/// Longest file that is read.
const LONGEST_FILE: u64 = 4 << 20;

/// Follows the pool's source of that number for ever.
pub(super) async fn follow(pool: &Pool, source: usize) {
    let mut follower = Follower::new(pool, source);
    let discovery = &pool.config.discovery[source - 1];
    let every = match discovery {
        Discovery::Dns(dns) => dns.refresh,
        Discovery::File(_) => FILE_EVERY,
    };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut read = String::new();
    let mut question = Question::default();
    loop {
        ticks.tick().await;
        let found = match discovery {
            Discovery::Dns(dns) => question.resolve(dns, system).await,
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
    /// Why the last look found nothing.
    failing: Option<String>,
    /// The names that were found last.
    known: Option<Vec<Arc<str>>>,
}

impl<'a> Follower<'a> {
    const fn new(pool: &'a Pool, source: usize) -> Self {
        Self { pool, source, failing: None, known: None }
    }

    fn discovery(&self) -> &'a Discovery {
        &self.pool.config.discovery[self.source - 1]
    }

    fn take(&mut self, found: Found, now: Instant) {
        let outcome = match found {
            Ok(None) if self.failing.is_some() => Refresh::Failed,
            Ok(None) => Refresh::Unchanged,
            Ok(Some(endpoints)) => self.changed(endpoints, now),
            Err(reason) => {
                self.failed(reason);
                Refresh::Failed
            }
        };
        self.pool.balance.refresh(outcome);
    }

    fn changed(&mut self, endpoints: Vec<config::Endpoint>, now: Instant) -> Refresh {
        let source = self.discovery();
        if self.failing.take().is_some() {
            self.pool.note_failure(self.source, None);
            tracing::info!(pool = %self.pool.name, %source, "endpoints are found again");
        }
        let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        // A file may say of the same names something else.
        let from_dns = matches!(source, Discovery::Dns(_));
        if from_dns && self.known.as_ref() == Some(&names) {
            return Refresh::Unchanged;
        }
        tracing::info!(pool = %self.pool.name, %source, endpoints = names.join(", "), "endpoints found");
        self.known = Some(names);
        self.pool.found(self.source, endpoints, now);
        Refresh::Changed
    }

    /// Tells a reason that is not known yet: a second mistake in a file is another than the first.
    fn failed(&mut self, reason: String) {
        if self.failing.as_deref() == Some(&*reason) {
            return;
        }
        let source = self.discovery();
        tracing::warn!(pool = %self.pool.name, %source, reason, "endpoints cannot be found: those found last are kept");
        self.pool.note_failure(self.source, Some(&reason));
        self.failing = Some(reason);
    }
}

/// What the resolver was asked, until it has answered. Nothing is asked beside it, so that a resolver that hangs holds one thread
/// a name and not one more at every look.
#[derive(Default)]
struct Question<'a>(Option<Pin<Box<dyn Future<Output = Answered> + Send + 'a>>>);

/// A resolver's word.
type Answered = io::Result<Vec<SocketAddr>>;

impl<'a> Question<'a> {
    /// The addresses of a name.
    async fn resolve<R, F>(&mut self, dns: &Dns, resolver: R) -> Found
    where
        R: FnOnce(Arc<str>, u16) -> F,
        F: Future<Output = Answered> + Send + 'a,
    {
        let Upstream { authority, host, port } = &dns.http;
        let patience = patience_of(dns.refresh);
        let asked = self.0.get_or_insert_with(|| Box::pin(resolver(host.clone(), *port)));
        let Ok(answer) = tokio::time::timeout(patience, asked).await else {
            return Err(format!("{authority}: the resolver did not answer within {} ms", patience.as_millis()));
        };
        self.0 = None;
        let mut addresses = answer.map_err(|error| format!("{authority}: {error}"))?;
        if addresses.is_empty() {
            return Err(format!("{authority}: it has no address"));
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Some(addresses.into_iter().map(|address| endpoint(dns, address)).collect()))
    }
}

fn patience_of(refresh: Duration) -> Duration {
    refresh.clamp(LEAST_PATIENCE, MOST_PATIENCE)
}

async fn system(host: Arc<str>, port: u16) -> Answered {
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
