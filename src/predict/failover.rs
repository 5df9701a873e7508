//! Which pool does another's work, and whether a region could do its own.
//!
//! Looked at twice a second, from health checks and breakers alone, so that a region that is gone is noticed without a request.

use std::{
    iter,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use super::{Predict, discovery, health, pool::Pool, survey};
use crate::{
    config,
    infer::{Asker, PoolId, Protocol, WorkerId},
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
                // A backup is as well as who does its work.
                self.decide(pool, (&mut failover, &self.pools[self.acting(to.pool).index()]), now);
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

    /// The pool that is to be asked for what is `home`'s to do: where its failovers lead, or, while that has nobody to ask and it
    /// is not decided yet, the first on the way that has: behind that one, then before it.
    pub(crate) fn able(&self, home: PoolId, protocol: Protocol, now: Instant) -> PoolId {
        if self.pools[home.index()].config.failover.is_none() {
            return home;
        }
        let acting = self.acting(home);
        let may = |pool: &PoolId| self.may_ask(*pool, protocol, now);
        self.way(acting).chain(self.way(home)).find(may).unwrap_or(acting)
    }

    /// Whether the pool has an endpoint that can be asked now; it may have changed by the time one is.
    pub(crate) fn may_ask(&self, pool: PoolId, protocol: Protocol, now: Instant) -> bool {
        self.pools[pool.index()].may_be_asked(protocol, Asker::Caller, now)
    }

    /// The same for what was kept for later.
    pub(crate) fn may_replay(&self, pool: PoolId, protocol: Protocol, now: Instant) -> bool {
        self.pools[pool.index()].may_be_asked(protocol, Asker::Spool, now)
    }

    /// The pool that does this one's work now.
    pub(super) fn acting(&self, home: PoolId) -> PoolId {
        let stays = |pool: &PoolId| !self.pools[pool.index()].failed_over.load(Ordering::Relaxed);
        // One that fails over has somebody to do so to.
        self.way(home).find(stays).unwrap_or(home)
    }

    /// How soon one of the pools that could do `home`'s work can be asked again.
    pub(super) fn back_in(&self, home: PoolId, protocol: Protocol, now: Instant) -> Option<Duration> {
        self.way(home).filter_map(|pool| self.pools[pool.index()].back_in(protocol, now)).min()
    }

    /// The pool, the one that takes over for it, and so on. Validated: it leads to an end.
    fn way(&self, first: PoolId) -> impl Iterator<Item = PoolId> {
        iter::successors(Some(first), |pool| Some(self.pools[pool.index()].config.failover.as_ref()?.pool))
    }

    /// What keeps this from being ready: awaited pools of which no endpoint has answered, nor one of the pool that takes over. A
    /// pool's words are always the same.
    pub(crate) fn missing(&self) -> Vec<String> {
        let silent = self.pools.iter().zip(&self.awaited).filter(|(pool, awaited)| **awaited && self.is_silent(pool));
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

/// What keeps each endpoint from counting as healthy, where something does.
fn troubles(pool: &Pool, now: Instant) -> String {
    let members = pool.members();
    if members.is_empty() {
        return pool.names();
    }
    let told = members.iter().filter_map(|each| Some(format!("{}: {}", each.name(), each.trouble(now)?)));
    told.collect::<Vec<_>>().join(", ")
}

/// What a pool lacks; `None`: nothing.
fn lacking(pool: &Pool, now: Instant) -> Option<String> {
    let share = if pool.passing() == 0 { 0.0 } else { pool.available(now).unwrap_or_default() };
    let least = pool.config.failover.as_ref().map_or(ENOUGH, |failover| failover.threshold);
    let is_lacking = share < least || share <= 0.0;
    is_lacking.then(|| {
        let troubles = troubles(pool, now);
        format!(
            "pool {:?}: the healthy share of its endpoints is {share:.2}; enough is {least:.2} ({troubles})",
            pool.name
        )
    })
}

/// By pool, whether a start waits for it: models run on it, not all of them of low priority. Pools that help out (burst, failover),
/// explain, or serve nobody may be scaled to nothing, and must not keep the others from serving.
pub(super) fn awaited(config: &config::Config) -> Vec<bool> {
    let is_low = |model: &config::Model| config.tiers[model.tier.index()].low_priority;
    // Where there are no others, those of low priority are what it is there for.
    let all_low = config.models.iter().all(is_low);
    let mut awaited = vec![false; config.pools.len()];
    for model in config.models.iter().filter(|model| all_low || !is_low(model)) {
        awaited[model.pool.index()] = true;
        model.members().iter().for_each(|member| awaited[config.model(*member).pool.index()] = true);
    }
    awaited
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaited_of(text: &str) -> String {
        let config = config::Config::parse(text, "t").unwrap();
        let pools = config.pools.iter().zip(awaited(&config)).filter(|(_, awaited)| *awaited);
        pools.map(|(pool, _)| &*pool.name).collect::<Vec<_>>().join(" ")
    }

    const POOLS: &str = "pools:\n  a: {endpoints: [http://h:1], failover: dr}\n  b: {endpoints: [http://h:2]}\n  \
                         dr: {endpoints: [http://h:3]}\n  burst: {endpoints: [http://h:4]}\n  e: {endpoints: [http://h:5]}\n  \
                         idle: {endpoints: [http://h:6]}\n";

    #[test]
    fn a_start_waits_for_pools_that_models_run_on() {
        let high =
            "capacity: {burst_pool: burst}\ntiers:\n  high: {pool: a}\n  best-effort: {pool: b, low_priority: true}\n";
        for (models, expected) in [
            ("m: {tier: high, explainer: {pool: e}}", "a"),
            // Nobody else is served.
            ("m: {tier: best-effort}", "b"),
            ("m: {tier: high}, n: {tier: best-effort}", "a"),
            ("m: {tier: high}, n: {tier: high, pool: b}", "a b"),
            // It takes over for another, and has models of its own.
            ("m: {tier: high}, n: {tier: high, pool: dr}", "a dr"),
            // An ensemble needs its members, whatever their tiers.
            ("m: {tier: high, ensemble: {members: [n, o]}}, n: {tier: high}, o: {tier: best-effort}", "a b"),
            ("", ""),
        ] {
            assert_eq!(awaited_of(&format!("{POOLS}{high}models: {{{models}}}")), expected, "{models}");
        }
    }
}
