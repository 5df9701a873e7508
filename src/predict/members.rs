//! The set of a pool's endpoints, put together of what the config names and of what is found.
//!
//! An endpoint that stays keeps its connections, breaker and load, whatever comes and goes beside it. One that goes takes no new
//! request; those under way hold it and finish, its idle connections close, its gauges are no longer shown.
//!
//! One that is new starts slowly, unless it is part of a start: where nobody stays who could take its share meanwhile, or where its
//! source finds something for the first time in a pool that is new itself.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    endpoint::Endpoint,
    pool::{Members, Pool},
};
use crate::config;

/// What each source found last: the config itself first, then its discoveries in their order.
#[derive(Debug)]
pub(super) struct Sources {
    lists: Vec<Option<Vec<config::Endpoint>>>,
    /// By source, why its last look found nothing.
    failures: Vec<Option<String>>,
    /// When the pool began.
    born: Instant,
    /// The next endpoint's number.
    next: usize,
}

impl Sources {
    pub(super) fn new(discoveries: usize, now: Instant) -> Self {
        Self { lists: vec![None; 1 + discoveries], failures: vec![None; 1 + discoveries], born: now, next: 0 }
    }

    /// Whether what the source finds now was there at the start, as far as anybody can know.
    fn begins(&self, source: usize, slow_start: Duration, now: Instant) -> bool {
        self.lists[source].is_none() && now.saturating_duration_since(self.born) < slow_start
    }

    /// All of them, each name once.
    fn all(&self) -> Vec<config::Endpoint> {
        let mut seen = HashSet::new();
        let every = self.lists.iter().flatten().flatten();
        every.filter(|endpoint| seen.insert(endpoint.name.clone())).cloned().collect()
    }
}

impl Pool {
    /// Takes in what a source has found.
    pub(super) fn found(&self, source: usize, endpoints: Vec<config::Endpoint>, now: Instant) {
        // Held until the set is in place, so that two sources do not undo one another. A list is replaced whole or not at all.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let at_start = sources.begins(source, self.config.balance.slow_start, now);
        sources.lists[source] = Some(endpoints);
        let before = self.members();
        let all = sources.all();
        let stays = |member: &Arc<Endpoint>| all.iter().any(|endpoint| member.is(endpoint));
        let spared = !at_start && before.iter().any(stays);
        let mut member = |endpoint: &config::Endpoint| {
            let stays = before.iter().find(|member| member.is(endpoint)).cloned();
            stays.unwrap_or_else(|| {
                sources.next += 1;
                let added = Endpoint::new(endpoint, self, sources.next, now);
                if spared {
                    added.begin(now);
                }
                Arc::new(added)
            })
        };
        let members: Members = all.iter().map(&mut member).collect();
        self.swap(&before, members);
    }

    /// Notes why a source found nothing; `None`: it did.
    pub(super) fn note_failure(&self, source: usize, reason: Option<&str>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.failures[source] = reason.map(Into::into);
    }

    /// By discovery, why its last look found nothing.
    pub(super) fn failures(&self) -> Vec<Option<String>> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.failures.iter().skip(1).cloned().collect()
    }

    fn swap(&self, before: &Members, members: Members) {
        let stays = |endpoint: &Arc<Endpoint>| members.iter().any(|member| Arc::ptr_eq(member, endpoint));
        let gone: Vec<_> = before.iter().filter(|endpoint| !stays(endpoint)).cloned().collect();
        self.balance.endpoints(members.len());
        self.members.store(Arc::new(members));
        for endpoint in gone {
            // Its series are another's where the same name came again, in another zone say.
            let renewed = self.members().iter().any(|member| member.name() == endpoint.name());
            endpoint.retire(renewed);
            tracing::info!(pool = %self.name, endpoint = %endpoint.name(), "endpoint left the pool");
        }
        self.changed.notify_one();
    }
}
