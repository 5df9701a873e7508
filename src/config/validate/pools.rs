//! Pools: endpoints that can be reached, and policies whose numbers hang together.

use crate::config::{
    Breaker, Gpu, Health, Hedge, HedgeAfter, Limit, Pool, Retry, Upstream,
    problems::Path,
    raw::{self, Profile, Ratio, Span},
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
            hedge: raw.hedge.as_ref().and_then(|hedge| self.hedge(&path.key("hedge"), hedge, raw.retry.budget)),
            attempt_timeout: raw.attempt_timeout.map(|span| self.positive(&attempt, span)),
            connect_timeout: self.positive(&path.key("connect_timeout"), raw.connect_timeout),
            max_in_flight: raw.max_in_flight,
            limit: raw.limit.map_or(Limit::None, |raw::Limit::Adaptive| Limit::Adaptive),
            gpu: raw.gpu.as_ref().and_then(|gpu| self.gpu(&path.key("gpu"), gpu)),
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
        let open_for = self.positive(&path.key("open_for"), raw.open_for);
        Breaker {
            failure_threshold: raw.failure_threshold,
            window: self.positive(&path.key("window"), raw.window),
            success_rate: raw.success_rate.0,
            open_for,
            max_open_for: raw.max_open_for.map_or(open_for, |max| max.0),
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

    fn hedge(&mut self, path: &Path, raw: &raw::Hedge, budget: Ratio) -> Option<Hedge> {
        if raw.share > budget {
            let wrong = format!("more than retry.budget ({}), which it is part of", budget.0);
            self.wrong(&path.key("share"), wrong, format_args!("0 to {}", budget.0));
        }
        let after = moment(&raw.after);
        if after.is_none() {
            let allowed = "a percentile from p50 to p99.9, such as p95, or a duration of at least 1ms";
            self.wrong(&path.key("after"), "not a time", allowed);
        }
        Some(Hedge { after: after?, share: raw.share.0 })
    }

    fn gpu(&mut self, path: &Path, raw: &raw::Gpu) -> Option<Gpu> {
        let (at, text) = (path.key("metrics"), raw.metrics.as_deref()?);
        let uri = text.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"));
        let server =
            uri.as_ref().and_then(http::Uri::authority).and_then(|at| url::host_port(at.as_str(), Some(80)).ok());
        if server.is_none() {
            self.wrong(&at, "not a URL", "http://host:port/path");
        }
        let path_of = |uri: http::Uri| uri.path_and_query().map_or_else(|| "/".into(), |path| path.as_str().into());
        Some(Gpu {
            server: server?,
            path: uri.map(path_of)?,
            interval: self.positive(&path.key("interval"), raw.interval),
        })
    }
}

/// The moment that a hedge's `after` says.
fn moment(text: &str) -> Option<HedgeAfter> {
    match text.strip_prefix('p') {
        Some(percentile) => {
            let percentile = percentile.parse().ok().filter(|percentile| (50.0..=99.9).contains(percentile))?;
            Some(HedgeAfter::Percentile(percentile))
        }
        None => Span::parse(text).filter(|span| !span.0.is_zero()).map(|span| HedgeAfter::Fixed(span.0)),
    }
}
