//! Where rows are read beside a Redis's masters: its replicas, and the Redis that takes over for it.

use super::Check;
use crate::config::{
    self, Dr, Replicas, Secret,
    problems::Path,
    raw::{self, OneOrMany, ReadFrom, RedisMode},
};

impl Check<'_> {
    pub(super) fn replicas(&mut self, path: &Path, raw: &raw::L2) -> Option<Replicas> {
        let max_lag = path.key("max_lag");
        if raw.read_from == ReadFrom::Primary && self.places.is_set(&max_lag) {
            self.wrong(&max_lag, "no replica is read", "max_lag beside `read_from: replica` or `nearest` only");
        }
        let zones = self.redis_zones(path, raw);
        let from = match raw.read_from {
            ReadFrom::Primary => return None,
            ReadFrom::Replica => config::ReadFrom::Replicas,
            ReadFrom::Nearest => config::ReadFrom::Nearest,
        };
        if raw.redis.is_some() && raw.mode == RedisMode::Single {
            let allowed = "primary, or mode: cluster or mode: sentinel, which tell of replicas";
            self.wrong(&path.key("read_from"), "one server in mode single", allowed);
        }
        let own_zone = self.raw.zone.as_deref().map(Into::into);
        Some(Replicas { from, max_lag: raw.max_lag.0, own_zone, zones })
    }

    fn redis_zones(&mut self, path: &Path, raw: &raw::L2) -> Vec<(String, std::sync::Arc<str>)> {
        let (at, zones) = (path.key("zones"), &raw.zones.0);
        if !zones.is_empty() && raw.read_from != ReadFrom::Nearest {
            self.wrong(&at, "nothing is read by them", "zones beside `read_from: nearest` only");
        } else if !zones.is_empty() && self.raw.zone.is_none() {
            self.wrong(&at, "the gateway has no zone of its own", "zones beside a `zone` at the top of the file");
        }
        let mut read = |(begins, zone): &(String, String)| {
            if begins.is_empty() {
                self.wrong(&at, "an empty name", "what addresses begin with, as 10.0.1. or redis-a-");
            }
            (begins.clone(), self.label(&at.key(begins), zone))
        };
        zones.iter().map(&mut read).collect()
    }

    pub(super) fn dr(&mut self, path: &Path, raw: &raw::L2, dr: &raw::Dr) -> Dr {
        let path = &path.key("dr");
        let urls = dr.redis.as_ref().map_or(&[][..], OneOrMany::as_slice);
        if let Some(redis) = &dr.redis {
            self.redis_urls(&path.key("redis"), redis, raw.mode);
        } else {
            self.wrong(&path.key("redis"), "missing", super::url::REDIS);
        }
        let of_first = raw.redis.as_ref().map_or(&[][..], OneOrMany::as_slice);
        if urls.iter().any(|url| of_first.contains(url)) {
            self.wrong(&path.key("redis"), "a server of `l2.redis` itself", "another Redis");
        }
        let urls = urls.iter().cloned().map(Secret).collect();
        let back_after = self.positive(&path.key("back_after"), dr.back_after);
        Dr { urls, failover_after: dr.failover_after.0, back_after }
    }

    /// What only a Redis has.
    pub(super) fn needs_redis(&mut self, path: &Path, raw: &raw::L2) {
        for (key, set) in [("dr", raw.dr.is_some()), ("read_from", raw.read_from != ReadFrom::Primary)] {
            if set {
                self.wrong(&path.key(key), "without a Redis", format!("{key} beside `redis` only"));
            }
        }
    }
}
