//! How a pool's requests are spread, and which pool takes over from which.

use crate::config::{Balance, Failover, Outlier, problems::Path, raw};

use super::Check;

impl Check<'_> {
    pub(super) fn balance(&mut self, path: &Path, raw: &raw::Pool) -> Balance {
        let own_zone = self.raw.zone.as_deref().map(Into::into);
        let outlier = self.outlier(&path.key("outlier"), &raw.outlier);
        Balance { own_zone, panic_threshold: raw.panic_threshold.0, slow_start: raw.slow_start.0, outlier }
    }

    fn outlier(&mut self, path: &Path, raw: &raw::Outlier) -> Outlier {
        if raw.max_ejection < raw.base_ejection {
            let allowed = format!("at least {}", raw.base_ejection);
            self.wrong(&path.key("max_ejection"), "less than base_ejection", allowed);
        }
        Outlier {
            interval: self.positive(&path.key("interval"), raw.interval),
            base_ejection: self.positive(&path.key("base_ejection"), raw.base_ejection),
            max_ejection: raw.max_ejection.0,
            max_ejected: raw.max_ejected.0,
            latency: raw.latency,
            latency_floor: raw.latency_floor.0,
            failures: raw.failures.0,
        }
    }

    /// `path` and `name` are of the pool that it takes over from.
    pub(super) fn failover(&mut self, path: &Path, name: &str, raw: &raw::Failover) -> Option<Failover> {
        let at = path.key("failover");
        let fallback = raw::FailoverRule::default();
        let (rule, at) = match raw {
            raw::Failover::Rule(rule) => (rule, at.key("pool")),
            raw::Failover::Pool(_) => (&fallback, at),
        };
        let target = raw.pool()?;
        let pool = self.pool_named(&at, target)?;
        if self.leads_back(name, target) {
            self.wrong(&at, format_args!("it leads back to {name}"), "a pool that does not");
        }
        Some(Failover { pool, threshold: rule.threshold.0, back_after: rule.back_after.0 })
    }

    /// Whether, going from pool to the one that takes over for it, one comes from `target` to `name`.
    fn leads_back(&self, name: &str, target: &str) -> bool {
        let next = |at: &str| {
            let found = self.raw.pools.iter().find(|(name, _)| *name == at);
            found.and_then(|(_, pool)| pool.failover.as_ref()?.pool())
        };
        let mut at = Some(target);
        for _ in 0..=self.raw.pools.iter().count() {
            match at {
                Some(pool) if pool == name => return true,
                Some(pool) => at = next(pool),
                None => return false,
            }
        }
        // A circle further on, which is told of its own members.
        false
    }
}
