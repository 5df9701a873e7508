//! The layers of the feature store: one online store, URLs that name one.

use std::{path::PathBuf, time::Duration};

use super::{Check, url};
use crate::config::{
    Copies, FeatureServers, HotKeys, L1, L1Mode, L2, L3, Redis, RedisMode, SaveTo, Secret, Upstream, WarmStart,
    problems::Path,
    raw::{self, OneOrMany, Span},
};

impl Check<'_> {
    pub(super) fn l1(&mut self, path: &Path, raw: &raw::L1) -> L1 {
        L1 {
            mode: match raw.mode {
                raw::L1Mode::Serve => L1Mode::Serve,
                raw::L1Mode::Observe => L1Mode::Observe,
            },
            capacity: raw.capacity.0,
            ttl: self.positive(&path.key("ttl"), raw.ttl),
            stale_for: raw.stale_for.0,
            negative_ttl: raw.negative_ttl.0,
            warm_start: raw.warm_start.as_ref().map(|warm| self.warm_start(path, warm, raw)),
        }
    }

    fn warm_start(&mut self, path: &Path, raw: &raw::WarmStart, l1: &raw::L1) -> WarmStart {
        if l1.capacity.0 == 0 {
            self.wrong(&path.key("capacity"), "off, beside `warm_start`", "more than 0B, or no warm start");
        }
        let path = &path.key("warm_start");
        WarmStart {
            save_to: self.save_to(&path.key("save_to"), &raw.save_to),
            max_keys: raw.max_keys as usize,
            save_every: raw.save_every.0,
            timeout: self.positive(&path.key("timeout"), raw.timeout),
        }
    }

    pub(super) fn hot_keys(raw: &raw::HotKeys) -> HotKeys {
        let copies = match &raw.copies {
            raw::Copies::Number(count) => Copies::Number(*count),
            raw::Copies::Word(raw::CopiesWord::Auto) => Copies::Auto,
            raw::Copies::Word(raw::CopiesWord::Off) => Copies::Off,
        };
        HotKeys { share: raw.share.0, min_rate: raw.min_rate.into(), copies }
    }

    fn save_to(&mut self, path: &Path, given: &str) -> SaveTo {
        const ALLOWED: &str = "l2, or the path of a file";
        let in_redis = self.raw.features.as_ref().is_some_and(|features| features.l2.redis.is_some());
        match given {
            "" => self.wrong(path, "empty", ALLOWED),
            "l2" if !in_redis => self.wrong(path, "there is no `l2.redis`", "the path of a file"),
            url if url.contains("://") => self.wrong(path, "a URL", ALLOWED),
            _ => {}
        }
        if given == "l2" { SaveTo::L2 } else { SaveTo::File(given.into()) }
    }

    pub(super) fn l2(&mut self, path: &Path, raw: &raw::L2) -> L2 {
        let ttl = self.positive(&path.key("ttl"), raw.ttl);
        let usual = Span::ms(if raw.feature_server.is_some() { 200 } else { 20 });
        let timeout = self.positive(&path.key("timeout"), raw.timeout.unwrap_or(usual));
        let servers = raw.feature_server.as_ref().map(|urls| self.feature_servers(&path.key("feature_server"), urls));
        let (dr, replicas) = (raw.dr.as_ref().map(|dr| self.dr(path, raw, dr)), self.replicas(path, raw));
        let Some(redis) = &raw.redis else {
            if raw.mode != raw::RedisMode::Single {
                self.wrong(&path.key("mode"), "a mode without a Redis", "mode beside `redis` only");
            }
            self.needs_redis(path, raw);
            let embedded = L2::Embedded { path: raw.path.as_ref().map(Into::into), ttl };
            return servers.map_or(embedded, |servers| self.served(path, raw, (servers, timeout)));
        };
        self.redis_urls(&path.key("redis"), redis, raw.mode);
        for (key, set) in [("path", raw.path.is_some()), ("feature_server", raw.feature_server.is_some())] {
            if set {
                self.wrong(&path.key(key), "beside `redis`", "one online store");
            }
        }
        L2::Redis(Redis {
            urls: redis.as_slice().iter().cloned().map(Secret).collect(),
            mode: self.redis_mode(path, raw),
            ca: self.authorities(path, raw, redis),
            ttl,
            timeout,
            connections: raw.connections as usize,
            max_in_flight: raw.max_in_flight,
            replicas: replicas.map(Box::new),
            dr: dr.map(Box::new),
        })
    }

    fn redis_mode(&mut self, path: &Path, raw: &raw::L2) -> RedisMode {
        let (at, given) = (path.key("master"), raw.master.as_deref());
        match (raw.mode, given) {
            (raw::RedisMode::Sentinel, None | Some("")) => {
                self.wrong(&at, "missing", "the name that the sentinels know the master by");
            }
            (raw::RedisMode::Single | raw::RedisMode::Cluster, Some(_)) => {
                self.wrong(&at, "a master without sentinels", "master beside `mode: sentinel` only");
            }
            _ => {}
        }
        match raw.mode {
            raw::RedisMode::Single => RedisMode::Single,
            raw::RedisMode::Cluster => RedisMode::Cluster,
            raw::RedisMode::Sentinel => RedisMode::Sentinel { master: given.unwrap_or_default().into() },
        }
    }

    fn authorities(&mut self, path: &Path, raw: &raw::L2, redis: &OneOrMany) -> Option<PathBuf> {
        let ca = raw.ca.as_ref()?;
        let encrypted = redis.as_slice().iter().any(|url| url.starts_with("rediss://"));
        if ca.is_empty() {
            self.wrong(&path.key("ca"), "empty", "a PEM file of certificates");
        } else if !encrypted {
            self.wrong(&path.key("ca"), "nothing is encrypted", "ca beside a rediss:// URL only");
        }
        Some(ca.into())
    }

    pub(super) fn l3(&mut self, path: &Path, raw: &raw::L3) -> L3 {
        if let Err(wrong) = url::object_store(&raw.url) {
            self.wrong(&path.key("url"), wrong, url::OBJECT_STORE);
        }
        L3 { url: raw.url.clone(), timeout: self.positive(&path.key("timeout"), raw.timeout) }
    }

    pub(super) fn redis_urls(&mut self, path: &Path, urls: &OneOrMany, mode: raw::RedisMode) {
        let check = |url: &str| match url::redis(url)? {
            db if db != 0 && mode == raw::RedisMode::Cluster => {
                Err(format!("database {db} of a cluster, which has 0 only"))
            }
            _ => Ok(()),
        };
        self.each(path, urls, check, url::REDIS);
        if mode == raw::RedisMode::Single && urls.as_slice().len() > 1 {
            self.wrong(path, "several servers in mode single", "one URL, or mode: cluster, or mode: sentinel");
        }
    }

    /// The servers of URLs that are right, each once: a server's breaker and metrics are its own.
    fn feature_servers(&mut self, path: &Path, urls: &OneOrMany) -> Vec<Upstream> {
        self.each(path, urls, |url| url::upstream(url).map(|_| ()), url::UPSTREAM);
        let mut servers = Vec::<Upstream>::new();
        for (i, url) in urls.as_slice().iter().enumerate() {
            let Ok(server) = url::upstream(url) else { continue };
            if servers.iter().any(|known| known.host == server.host && known.port == server.port) {
                self.wrong(&path.item(i), "the same server twice", "each once");
            } else {
                servers.push(server);
            }
        }
        servers
    }

    fn served(&mut self, path: &Path, raw: &raw::L2, (servers, timeout): (Vec<Upstream>, Duration)) -> L2 {
        if raw.path.is_some() {
            self.wrong(&path.key("path"), "beside `feature_server`", "one online store");
        }
        L2::FeatureServers(FeatureServers { servers, timeout, max_in_flight: raw.max_in_flight })
    }

    fn each(&mut self, path: &Path, urls: &OneOrMany, check: impl Fn(&str) -> Result<(), String>, allowed: &str) {
        if urls.as_slice().is_empty() {
            self.wrong(path, "no URL", allowed);
        }
        for (i, url) in urls.as_slice().iter().enumerate() {
            if let Err(wrong) = check(url) {
                let path = if urls.is_one() { path.clone() } else { path.item(i) };
                self.wrong(&path, wrong, allowed);
            }
        }
    }
}
