//! Pools: endpoints that can be reached, and policies whose numbers hang together.

use crate::config::{
    Breaker, Health, Pool, Retry, Upstream,
    problems::Path,
    raw::{self, Profile, Span},
};

use super::{Check, POOL_NAMES, endpoints::Found, url};

impl Check<'_> {
    pub(super) fn pools(&mut self) -> Vec<Pool> {
        let raw = self.raw;
        raw.pools.iter().map(|(name, pool)| self.pool(name, pool)).collect()
    }

    fn pool(&mut self, name: &str, raw: &raw::Pool) -> Pool {
        let path = Path::of("pools").key(name);
        self.name(&path, name, &POOL_NAMES);
        let zone = raw.zone.as_ref().map(|zone| self.label(&path.key("zone"), zone));
        let Found { endpoints, discovery } = self.endpoints(&path.key("endpoints"), &raw.endpoints, zone.as_ref());
        self.later(&path, raw);
        let attempt = path.key("attempt_timeout");
        Pool {
            name: name.into(),
            endpoints,
            discovery,
            balance: self.balance(&path, raw),
            region: raw.region.as_ref().map(|region| self.label(&path.key("region"), region)),
            failover: raw.failover.as_ref().and_then(|failover| self.failover(&path, name, failover)),
            health: self.health(&path.key("health"), &raw.health),
            breaker: self.breaker(&path.key("breaker"), &raw.breaker),
            retry: self.retry(&path.key("retry"), raw.retry.profile()),
            retry_budget: raw.retry.budget.0,
            attempt_timeout: raw.attempt_timeout.map(|span| self.positive(&attempt, span)),
            connect_timeout: self.positive(&path.key("connect_timeout"), raw.connect_timeout),
            max_in_flight: raw.max_in_flight,
        }
    }

    pub(super) fn upstream(&mut self, path: &Path, text: &str) -> Option<Upstream> {
        url::upstream(text).map_err(|wrong| self.wrong(path, wrong, url::UPSTREAM)).ok()
    }

    fn health(&mut self, path: &Path, raw: &raw::Health) -> Health {
        let valid = raw.path.starts_with('/') && raw.path.parse::<http::uri::PathAndQuery>().is_ok();
        if !valid {
            self.wrong(&path.key("path"), "not a path", "a path that starts with /");
        }
        Health {
            path: raw.path.as_str().into(),
            interval: self.positive(&path.key("interval"), raw.interval),
            timeout: self.positive(&path.key("timeout"), raw.timeout),
        }
    }

    pub(super) fn breaker(&mut self, path: &Path, raw: &raw::Breaker) -> Breaker {
        if raw.max_open_for.is_some_and(|max| max < raw.open_for) {
            self.wrong(&path.key("max_open_for"), "less than open_for", format_args!("at least {}", raw.open_for));
        }
        Breaker {
            failure_threshold: raw.failure_threshold,
            window: self.positive(&path.key("window"), raw.window),
            open_for: self.positive(&path.key("open_for"), raw.open_for),
            half_open_requests: raw.half_open_requests,
            success_threshold: raw.success_threshold,
        }
    }

    pub(super) fn retry(&mut self, path: &Path, raw: Profile) -> Retry {
        if raw.max_delay < raw.initial_delay {
            let wrong = format!("less than initial_delay ({})", raw.initial_delay);
            self.wrong(&path.key("max_delay"), wrong, format_args!("at least {}", raw.initial_delay));
        }
        Retry {
            max_retries: raw.max_retries,
            initial_delay: raw.initial_delay.0,
            max_delay: raw.max_delay.0,
            multiplier: raw.multiplier,
            jitter: raw.jitter.0,
        }
    }

    /// What is checked though this version does not act upon it.
    fn later(&mut self, path: &Path, raw: &raw::Pool) {
        if let Some(hedge) = &raw.hedge {
            let percentile = hedge.after.strip_prefix('p').and_then(|p| p.parse::<u8>().ok());
            let fits = percentile.is_some_and(|p| (1..100).contains(&p)) || Span::parse(&hedge.after).is_some();
            if !fits {
                self.wrong(&path.key("hedge").key("after"), "not a time", "a percentile such as p95, or a duration");
            }
        }
        if let Some(metrics) = raw.gpu.as_ref().and_then(|gpu| gpu.metrics.as_ref())
            && metrics
                .parse::<http::Uri>()
                .ok()
                .is_none_or(|uri| uri.scheme_str() != Some("http") || uri.host().is_none())
        {
            self.wrong(&path.key("gpu").key("metrics"), "not a URL", "http://host:port/path");
        }
    }
}
