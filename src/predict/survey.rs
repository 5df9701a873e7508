//! What is known of a pool as a whole, looked through twice a second: who is back from an ejection and who is ejected, whether so few
//! are healthy that all must be asked, and what part of the requests the gateway's own zone can take.
//!
//! Only this writes what it finds; requests load it. It is at most half a second old.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    endpoint::Endpoint,
    pool::{Members, NO_ZONE, Pool, WHOLE},
};
use crate::{
    config,
    resilience::{
        outlier,
        spill::{Hosts, own_part},
    },
    telemetry::handles::balance::Ejection,
};

/// How often a pool is looked through.
pub(super) const EVERY: Duration = Duration::from_millis(500);

/// What one look hands on to the next.
pub(super) struct Survey {
    policy: outlier::Policy,
    /// When the interval ends in which outliers are looked for.
    judge_at: Instant,
    /// Whether it ever had an endpoint.
    known: bool,
    /// Whether nobody can be asked.
    out: bool,
}

impl Survey {
    pub(super) fn new(config: &config::Pool, now: Instant) -> Self {
        let outlier = &config.balance.outlier;
        let policy = outlier::Policy {
            base_ejection: outlier.base_ejection,
            max_ejection: outlier.max_ejection,
            max_ejected: outlier.max_ejected,
            latency: outlier.latency,
            latency_floor: outlier.latency_floor,
            failures: outlier.failures,
        };
        Self { policy, judge_at: now + outlier.interval, known: false, out: false }
    }
}

const fn labelled(reason: outlier::Reason) -> Ejection {
    match reason {
        outlier::Reason::Failures => Ejection::Failures,
        outlier::Reason::SuccessRate => Ejection::SuccessRate,
        outlier::Reason::Latency => Ejection::Latency,
    }
}

/// Tells each endpoint what a request takes at those that are well: half of them are no faster. What was known is kept while none is.
fn note_usual(members: &Members, now: Instant) {
    let well = members.iter().filter(|endpoint| !endpoint.is_out() && endpoint.is_healthy());
    let mut usual: Vec<_> = well.map(|endpoint| endpoint.estimate(now)).filter(|seconds| *seconds > 0.0).collect();
    usual.sort_unstable_by(f64::total_cmp);
    // Of two in the middle the faster: one that is taken for as fast as the slowest of two would only get its turns by chance.
    if let Some(seconds) = usual.len().checked_sub(1).map(|last| usual[last / 2]) {
        members.iter().for_each(|endpoint| endpoint.compare_with(seconds));
    }
}

impl Pool {
    /// Looks the endpoints through.
    pub(super) fn look(&self, now: Instant) {
        // A look that panicked has judged or has not.
        let mut survey = self.survey.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members();
        for endpoint in members.iter().filter(|endpoint| endpoint.release(now)) {
            tracing::info!(pool = %self.name, endpoint = %endpoint.name(), "endpoint is back from its ejection");
        }
        if now >= survey.judge_at {
            survey.judge_at = now + self.config.balance.outlier.interval;
            self.judge(&survey.policy, &members, now);
        }
        note_usual(&members, now);
        self.note_health(&members);
        self.note_outage(&mut survey, &members, now);
        self.own_part.store(self.part_here(&members, now), Ordering::Relaxed);
    }

    fn judge(&self, policy: &outlier::Policy, members: &Members, now: Instant) {
        let mut hosts: Vec<_> = members.iter().map(|endpoint| endpoint.interval()).collect();
        for (at, reason) in policy.judge(&mut hosts, now) {
            let (name, host) = (members[at].name(), &hosts[at]);
            let reason = labelled(reason);
            self.balance.ejection(reason);
            let seconds = host.record.until().map_or(0, |until| (until - now).as_secs());
            let (answers, failures) = (host.answers.count, host.failures);
            let median_ms = host.answers.median.as_millis();
            tracing::warn!(pool = %self.name, endpoint = %name, reason = reason.label(), seconds, answers, failures, median_ms, "endpoint ejected");
        }
        members.iter().zip(&hosts).for_each(|(endpoint, host)| endpoint.set_record(host.record));
    }

    fn note_health(&self, members: &Members) {
        let mut hosts = Hosts::default();
        members.iter().for_each(|endpoint| hosts.count(endpoint.is_healthy()));
        let panicking = hosts.share().is_some_and(|share| share < self.config.balance.panic_threshold);
        self.balance.panicking(panicking);
        if self.panicking.swap(panicking, Ordering::Relaxed) != panicking {
            let (healthy, all) = (hosts.healthy, hosts.all);
            if panicking {
                tracing::warn!(pool = %self.name, healthy, all, "too few healthy endpoints: all are asked");
            } else {
                tracing::info!(pool = %self.name, healthy, all, "enough healthy endpoints again: only those are asked");
            }
        }
    }

    /// Tells once that none is left that is well, and once that one is again: a breaker that only lets a probe by is neither.
    fn note_outage(&self, survey: &mut Survey, members: &Members, now: Instant) {
        survey.known |= !members.is_empty();
        let well = |endpoint: &Arc<Endpoint>| {
            endpoint.is_healthy()
                && if survey.out { endpoint.breaker.is_closed() } else { endpoint.breaker.would_admit(now) }
        };
        let out = survey.known && !members.iter().any(well);
        if std::mem::replace(&mut survey.out, out) == out {
            return;
        }
        let all = members.len();
        if out {
            tracing::warn!(pool = %self.name, all, "outage: no endpoint of the pool passes its checks and lets requests by");
        } else {
            tracing::info!(pool = %self.name, all, "outage over: an endpoint of the pool takes requests again");
        }
    }

    fn part_here(&self, members: &Members, now: Instant) -> u32 {
        let (mut own, mut others) = (Hosts::default(), Hosts::default());
        for endpoint in members.iter() {
            let side = if endpoint.is_own { &mut own } else { &mut others };
            side.count(endpoint.is_available(now));
        }
        if own.all == 0 || others.all == 0 {
            return NO_ZONE;
        }
        (own_part(own, others) * f64::from(WHOLE)) as u32
    }

    /// The share of the endpoints that a request could go to; `None` while none is known.
    pub(super) fn available(&self, now: Instant) -> Option<f64> {
        let mut hosts = Hosts::default();
        self.members().iter().for_each(|endpoint| hosts.count(endpoint.is_available(now)));
        hosts.share()
    }
}
