//! Which pool does another's work, and whether a region could do its own.
//!
//! Looked at twice a second, from health checks and breakers alone, so that a region that is gone is noticed without a request.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use tokio::time::{Instant, MissedTickBehavior};

use super::{Predict, discovery, health, pool::Pool, survey};
use crate::{
    config,
    infer::{PoolId, WorkerId},
    resilience::failover::Failover,
};

/// The healthy share that a region's pool must have where its failover names none.
const ENOUGH: f64 = 0.5;

/// By pool, whether another takes over.
pub(super) type Failovers = Vec<Option<Mutex<Failover>>>;

pub(super) fn failovers(pools: &[config::Pool]) -> Failovers {
    let of = |pool: &config::Pool| {
        let failover = pool.failover.as_ref()?;
        Some(Mutex::new(Failover::new(failover.threshold, failover.back_after)))
    };
    pools.iter().map(of).collect()
}

/// Whether a region's pools have enough healthy endpoints.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// All have.
    Ready,
    /// What is not, a line a pool.
    Missing(Vec<String>),
    /// There is no such region; these there are.
    Unknown(Vec<Arc<str>>),
}

impl Predict {
    /// Finds endpoints, checks their health, reads their GPU memory and looks the pools through until the tasks are cancelled.
    pub(crate) fn watch(self: &Arc<Self>, worker: WorkerId) {
        for index in 0..self.pools.len() {
            for source in 1..=self.pools[index].config.discovery.len() {
                let this = self.clone();
                self.tasks.background(async move { discovery::follow(&this.pools[index], source).await });
            }
            let this = self.clone();
            self.tasks.background(async move { health::watch(&this.pools[index], worker, &this.tasks).await });
            let this = self.clone();
            self.tasks.background(async move {
                if let Some(gpu) = &this.pools[index].gpu {
                    gpu.watch().await;
                }
            });
        }
        let this = self.clone();
        self.tasks.background(async move {
            let mut ticks = tokio::time::interval(survey::EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                this.look(Instant::now());
            }
        });
    }

    pub(super) fn look(&self, now: Instant) {
        self.pools.iter().for_each(|pool| pool.look(now));
        for (pool, failover) in self.pools.iter().zip(&self.failovers) {
            if let (Some(failover), Some(to)) = (failover, &pool.config.failover) {
                // Looked at here only; its state is whole between looks.
                let mut failover = failover.lock().unwrap_or_else(PoisonError::into_inner);
                self.decide(pool, (&mut failover, &self.pools[to.pool.index()]), now);
            }
        }
    }

    fn decide(&self, pool: &Pool, (failover, backup): (&mut Failover, &Pool), now: Instant) {
        let (share, there) = (pool.available(now), backup.available(now));
        let over = failover.look(share, there, now);
        if pool.failed_over.swap(over, Ordering::Relaxed) == over {
            return;
        }
        pool.balance.failed_over(over);
        let (share, backup) = (share.unwrap_or(1.0), &backup.name);
        if over {
            tracing::warn!(pool = %pool.name, share, %backup, "pool fails over: too few of its endpoints are healthy");
        } else {
            tracing::info!(pool = %pool.name, share, %backup, "pool is back from its failover");
        }
    }

    /// The pool that does this one's work now. Validated: going from one to the next leads to an end.
    pub(super) fn acting(&self, pool: PoolId) -> &Pool {
        let mut pool = &self.pools[pool.index()];
        while pool.failed_over.load(Ordering::Relaxed)
            && let Some(failover) = &pool.config.failover
        {
            pool = &self.pools[failover.pool.index()];
        }
        pool
    }

    /// What keeps this from being ready: pools of which no endpoint has answered, nor one of the pool that takes over. One that only
    /// stands by for another is not waited for. A pool's words are always the same.
    pub(crate) fn missing(&self) -> Vec<String> {
        let silent = self.pools.iter().zip(&self.standby).filter(|(pool, standby)| !**standby && self.is_silent(pool));
        silent
            .map(|(pool, _)| {
                format!("pool {:?}: no endpoint passes its health check ({})", pool.name, pool.described())
            })
            .collect()
    }

    fn is_silent(&self, pool: &Pool) -> bool {
        let backup = pool.config.failover.as_ref().map(|failover| &self.pools[failover.pool.index()]);
        pool.passing() == 0 && backup.is_none_or(|backup| self.is_silent(backup))
    }

    /// How a region's pools are.
    pub(crate) fn region(&self, name: &str, now: Instant) -> Region {
        let regions = || self.pools.iter().filter_map(|pool| Some((pool.config.region.as_ref()?, pool)));
        let mut known: Vec<_> = regions().map(|(region, _)| region.clone()).collect();
        known.sort_unstable();
        known.dedup();
        if !known.iter().any(|region| **region == *name) {
            return Region::Unknown(known);
        }
        let of_region = regions().filter(|(region, _)| ***region == *name);
        let missing: Vec<_> = of_region.filter_map(|(_, pool)| lacking(pool, now)).collect();
        if missing.is_empty() { Region::Ready } else { Region::Missing(missing) }
    }
}

/// What a pool lacks; `None`: nothing.
fn lacking(pool: &Pool, now: Instant) -> Option<String> {
    let share = if pool.passing() == 0 { 0.0 } else { pool.available(now).unwrap_or_default() };
    let least = pool.config.failover.as_ref().map_or(ENOUGH, |failover| failover.threshold);
    let reason = format!(
        "pool {:?}: {:.0} % of its endpoints are healthy; enough are {:.0} % ({})",
        pool.name,
        share * 100.0,
        least * 100.0,
        pool.names()
    );
    (share < least || share <= 0.0).then_some(reason)
}

/// By pool, whether all that it is for is to take over for another.
pub(super) fn standby(config: &config::Config) -> Vec<bool> {
    let id = |index: usize| u32::try_from(index).map(PoolId);
    let used = |pool: PoolId| config.models.iter().any(|model| model.pool == pool || model.explainer == Some(pool));
    let stands_by =
        |pool: PoolId| config.pools.iter().any(|each| each.failover.as_ref().is_some_and(|to| to.pool == pool));
    (0..config.pools.len()).map(|index| id(index).is_ok_and(|pool| stands_by(pool) && !used(pool))).collect()
}
