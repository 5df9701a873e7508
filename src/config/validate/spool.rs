//! Requests kept for later: where, and for how long.

use super::Check;
use crate::config::{Features, L2, Spool, SpoolStore, problems::Path};

impl Check<'_> {
    pub(super) fn spool(&mut self, features: &Features) -> Spool {
        let (path, raw) = (Path::of("spool"), &self.raw.spool);
        match &raw.path {
            Some(file) if file.is_empty() => self.wrong(&path.key("path"), "empty", "the path of a file"),
            Some(_) if matches!(features.l2, L2::Redis(_)) => {
                self.wrong(&path.key("path"), "beside `features.l2.redis`, which has the spool", "one store");
            }
            _ => {}
        }
        let store = match &features.l2 {
            L2::Redis(redis) => SpoolStore::Redis { redis: redis.clone(), project: features.project.clone() },
            _ => SpoolStore::Embedded { path: raw.path.as_ref().map(Into::into) },
        };
        if raw.max_bytes.0 == 0 {
            self.wrong(&path.key("max_bytes"), "zero", "more than 0B");
        }
        Spool {
            store,
            keep_for: self.positive(&path.key("keep_for"), raw.keep_for),
            max_entries: raw.max_entries,
            max_bytes: raw.max_bytes.0,
            retry: self.retry(&path.key("retry"), raw.retry.profile()),
            log: raw.log,
        }
    }
}
