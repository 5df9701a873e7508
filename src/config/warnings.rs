//! What a file says that is right and yet will not do what it seems to: told by `weir check` and at the start, never refused.
//!
//! Each reads `path.to.key: what; why it matters; what to do`.

use super::{Config, Consistency, Copies, Discovery, L2, Ladder, LadderMode, Model, Pool, RedisMode, SpoolStore, raw};
use crate::infer::PoolId;

/// All of them.
pub(super) fn of(config: &Config, raw: &raw::Root) -> Vec<String> {
    let pools = config.pools.iter().filter_map(|pool| zones_without_own(config, pool));
    let idle = (0..config.pools.len()).filter_map(|index| unused(config, index));
    let hedges = config.models.iter().filter_map(|model| hedge_that_never_runs(config, model));
    let queues = config.models.iter().filter_map(|model| queue_that_is_lost(config, model));
    let fallbacks = config.models.iter().filter_map(|model| fallback_that_fails_along(config, model));
    let ladder = ladder_without_rungs(config);
    let copies = copies_that_are_never_made(config);
    let strong = strong_through_servers(config);
    let features = copies.into_iter().chain(strong).chain(promotions_of_nothing(config));
    let lives = raw
        .features
        .iter()
        .flat_map(|features| features.views.names())
        .filter_map(|view| ttl_that_is_cut(config, raw, view));
    let registered = config.models.iter().filter_map(|model| registered_for_nothing(config, raw, model));
    pools
        .chain(idle)
        .chain(hedges)
        .chain(queues)
        .chain(fallbacks)
        .chain(ladder)
        .chain(features)
        .chain(lives)
        .chain(registered)
        .collect()
}

fn zones_without_own(config: &Config, pool: &Pool) -> Option<String> {
    let found = pool.discovery.iter().map(|discovery| match discovery {
        Discovery::Dns(dns) => &dns.zone,
        Discovery::File(file) => &file.zone,
    });
    let mut zones = pool.endpoints.iter().map(|endpoint| &endpoint.zone).chain(found).flatten();
    let zone = zones.next().filter(|_| pool.balance.own_zone.is_none() && !config.models.is_empty())?;
    Some(format!(
        "pools.{}: its endpoints have zones (such as {zone}) and the gateway has none; all zones are asked alike, across their borders; \
         set zone: at the top of the file, such as ${{ZONE}}",
        pool.name
    ))
}

/// Where no model at all is configured nothing is meant to be asked yet.
fn unused(config: &Config, index: usize) -> Option<String> {
    let id = PoolId(u32::try_from(index).ok()?);
    if config.models.is_empty() || is_used(config, id) {
        return None;
    }
    Some(format!(
        "pools.{}: no request ever goes there; its endpoints are checked for nobody; name it in a model's or its tier's pool, an explainer, \
         failover or capacity.burst_pool, or take it out",
        config.pool(id).name
    ))
}

/// Whether requests may come to a pool. Validated: failovers lead to an end.
fn is_used(config: &Config, pool: PoolId) -> bool {
    let of = |model: &Model| model.pool == pool || model.explainer == Some(pool) || config.burst(model) == Some(pool);
    let stands_in = |(index, each): (usize, &Pool)| {
        let is_target = each.failover.as_ref().is_some_and(|to| to.pool == pool);
        is_target && u32::try_from(index).is_ok_and(|index| is_used(config, PoolId(index)))
    };
    config.models.iter().any(of) || config.pools.iter().enumerate().any(stands_in)
}

fn hedge_that_never_runs(config: &Config, model: &Model) -> Option<String> {
    let pool = config.pool(model.pool);
    let never = pool.hedge.is_some() && !model.idempotent && model.ensemble.is_none();
    never.then(|| {
        format!(
            "models.{}.idempotent: false, and pools.{}.hedge is set; its requests are never hedged, since that asks twice; set idempotent: true \
             if asking twice changes nothing, or do not count on hedges for it",
            model.name, pool.name
        )
    })
}

/// A fallback model on the same pool helps against the model's own failures, not against the pool's.
fn fallback_that_fails_along(config: &Config, model: &Model) -> Option<String> {
    let fallback = model.fallback.as_ref()?;
    let simpler = config.model(fallback.model?);
    let has_rest = fallback.rule.is_some() || !fallback.default.is_empty();
    if simpler.pool != model.pool || has_rest || simpler.fallback.as_ref().is_some_and(|next| next.model.is_some()) {
        return None;
    }
    Some(format!(
        "models.{}.fallback.model: {} is on the same pool ({}), and nothing else answers; an outage of that pool is one of both; give it another \
         pool, or the model a rule or default outputs",
        model.name,
        simpler.name,
        config.pool(model.pool).name
    ))
}

/// Levels that change nothing but what is told.
fn ladder_without_rungs(config: &Config) -> Option<String> {
    let has_rungs = |model: &Model| !model.joins.is_empty() || model.low_priority || model.is_held_whole();
    if config.models.is_empty() || config.models.iter().any(has_rungs) || is_default(&config.ladder) {
        return None;
    }
    Some(
        "ladder: no model joins features, is low_priority or has a fallback; whatever the level, its answers are the same; give models a \
         fallback (a model, a rule, default outputs), or take the section out"
            .to_owned(),
    )
}

/// A view's `ttl` only shortens: where nothing but L1 keeps copies for so long, `l1.ttl` is what counts.
fn ttl_that_is_cut(config: &Config, raw: &raw::Root, name: &str) -> Option<String> {
    let (l1, ttl) = (&config.features.l1, raw.features.as_ref()?.views.get(name)?.ttl?);
    let view = config.features.views.iter().find(|view| *view.name == *name)?;
    // The embedded store keeps what it was given for the view's time.
    let is_cut = ttl.0 > l1.ttl
        && view.consistency != Consistency::Immutable
        && !matches!(config.features.l2, L2::Embedded { .. });
    is_cut.then(|| {
        format!(
            "features.views.{name}.ttl: {ttl}, and features.l1.ttl is {}; the shorter counts: a copy is good for {}; raise l1.ttl, or leave the \
             view's out",
            raw::Span(l1.ttl),
            raw::Span(l1.ttl)
        )
    })
}

/// Promotions drop predictions, and nothing else.
fn promotions_of_nothing(config: &Config) -> Option<String> {
    let is_idle = config.mlflow.is_some() && config.models.iter().all(|model| model.cache.is_none());
    is_idle.then(|| {
        "mlflow: no model has a cache, so a promotion changes nothing; nothing is dropped and no registered model is looked at; give models a \
         cache, or take the section out"
            .to_owned()
    })
}

/// A name by which nobody looks.
fn registered_for_nothing(config: &Config, raw: &raw::Root, model: &Model) -> Option<String> {
    raw.models.get(&model.name)?.registered_model.as_ref()?;
    let (what, remedy) = match (&config.mlflow, &model.cache) {
        (None, _) => ("there is no `mlflow`", "add the section mlflow, or take the key out"),
        (Some(_), None) => ("the model has no cache", "give it a cache, or take the key out"),
        (Some(_), Some(_)) => return None,
    };
    Some(format!(
        "models.{}.registered_model: set, and {what}; its promotions change nothing here; {remedy}",
        model.name
    ))
}

fn is_default(ladder: &Ladder) -> bool {
    let Ladder { mode, feature_p99, gpu_memory, enter_after, exit_after } = ladder;
    let raw = raw::Ladder::default();
    *mode == LadderMode::Act
        && (*feature_p99, *gpu_memory) == (raw.feature_p99.0, raw.gpu_memory.0)
        && (*enter_after, *exit_after) == (raw.enter_after.0, raw.exit_after.0)
}

/// A sidecar hears of no push: it keeps no such row, and cannot promise what the servers promise.
fn strong_through_servers(config: &Config) -> Option<String> {
    let mut views = config.features.views.iter();
    let view = views.find(|view| view.consistency == Consistency::WriteThrough)?;
    matches!(config.features.l2, L2::FeatureServers(_)).then(|| {
        format!(
            "features.views.{}.consistency: write_through, and rows are read through features.l2.feature_server; none is kept here, and what a \
             server holds is believed; set consistency: ttl to keep rows, or read Redis for what write_through promises",
            view.name
        )
    })
}

fn queue_that_is_lost(config: &Config, model: &Model) -> Option<String> {
    let is_lost = model.queue_on_reject && matches!(config.spool.store, SpoolStore::Embedded { path: None });
    is_lost.then(|| {
        format!(
            "models.{}.queue_on_reject: true, and the spool is in memory; what is queued is lost when the process ends; set spool.path, or \
             features.l2.redis",
            model.name
        )
    })
}

/// Only a cluster has other masters.
fn copies_that_are_never_made(config: &Config) -> Option<String> {
    let features = &config.features;
    let is_asked_for = features.hot_keys.is_some_and(|hot| matches!(hot.copies, Copies::Number(_)));
    let is_cluster = matches!(&features.l2, L2::Redis(redis) if redis.mode == RedisMode::Cluster);
    (is_asked_for && !is_cluster).then(|| {
        "features.hot_keys.copies: a number, and features.l2 is no Redis Cluster; there are no other masters to copy a key to; set \
         l2.mode: cluster where it is one, or leave copies out"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(text: &str) -> Vec<String> {
        let warnings = Config::parse(text, "t").unwrap().warnings;
        let paths = warnings.iter().map(|warning| warning.split(": ").next().unwrap_or_default().to_owned());
        paths.collect()
    }

    #[test]
    fn each_is_told_where_it_is() {
        for (text, paths) in [
            ("pools: {p: {zone: a, endpoints: [http://h:1]}}\nmodels: {m: }", &["pools.p"][..]),
            ("pools: {p: {endpoints: [{http: 'http://h:1', zone: a}]}}\nmodels: {m: }", &["pools.p"]),
            ("pools: {p: {endpoints: [{dns: 'h:1', zone: a}]}}\nmodels: {m: }", &["pools.p"]),
            ("zone: a\npools: {p: {zone: a, endpoints: [http://h:1]}}\nmodels: {m: }", &[]),
            (
                "pools: {p: {endpoints: [http://h:1]}, q: {endpoints: [http://h:2]}}\nmodels: {m: {pool: p}}",
                &["pools.q"],
            ),
            // Whoever would take over for a pool that nobody uses is not used either.
            (
                "pools: {p: {endpoints: [http://h:1]}, q: {endpoints: [http://h:2], failover: r}, r: {endpoints: [http://h:3]}}\n\
                 models: {m: {pool: p}}",
                &["pools.q", "pools.r"],
            ),
            (
                "capacity: {burst_pool: b}\ntiers: {high: {pool: p}}\npools: {p: {endpoints: [http://h:1], failover: f}, f: {endpoints: \
                 [http://h:2]}, b: {endpoints: [http://h:3]}, e: {endpoints: [http://h:4]}}\nmodels: {m: {explainer: {pool: e}}}",
                &[],
            ),
            ("pools: {p: {endpoints: [http://h:1]}}", &[]),
            ("mlflow: {secret: s}\npools: {p: {endpoints: [http://h:1]}}\nmodels: {m: }", &["mlflow"]),
            ("mlflow: {secret: s}\npools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {cache: {}}}", &[]),
            (
                "pools: {p: {endpoints: [http://h:1], hedge: {}}}\nmodels: {m: {idempotent: false}, n: }",
                &["models.m.idempotent"],
            ),
            (
                "pools: {p: {endpoints: [http://h:1], hedge: {}}}\nmodels: {m: {idempotent: false}, n: , e: {ensemble: {members: [n, m]}}}",
                &["models.m.idempotent"],
            ),
            (
                "pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {fallback: {model: n}}, n: }",
                &["models.m.fallback.model"],
            ),
            (
                "pools: {p: {endpoints: [http://h:1]}, q: {endpoints: [http://h:2]}}\nmodels: {m: {pool: p, fallback: {model: n}}, n: {pool: q}}",
                &[],
            ),
            (
                "pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {fallback: {model: n, default: {outputs: [{name: a, datatype: FP32, shape: [1], \
                 data: [1]}]}}}, n: }",
                &[],
            ),
            ("ladder: {enter_after: 2s}\npools: {p: {endpoints: [http://h:1]}}\nmodels: {m: }", &["ladder"]),
            ("ladder: {enter_after: 1s}\npools: {p: {endpoints: [http://h:1]}}\nmodels: {m: }", &[]),
            (
                "ladder: {enter_after: 2s}\npools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {low_priority: true}}",
                &[],
            ),
            (
                "pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {queue_on_reject: true}}",
                &["models.m.queue_on_reject"],
            ),
            ("pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {queue_on_reject: true}}\nspool: {path: /x}", &[]),
            ("features: {hot_keys: {copies: 2}}", &["features.hot_keys.copies"]),
            ("features: {hot_keys: {}}", &[]),
            ("features: {project: p, hot_keys: {copies: 2}, l2: {redis: 'redis://h:1', mode: cluster}}", &[]),
            (
                "features: {l2: {feature_server: 'http://h:1'}, views: {u: {entities: {i: INT64}, features: {f: {type: INT64}}}, v: {entities: \
                 {i: INT64}, features: {f: {type: INT64}}, consistency: write_through}}}",
                &["features.views.v.consistency"],
            ),
            (
                "features: {l2: {feature_server: 'http://h:1'}, views: {v: {entities: {i: INT64}, features: {f: {type: INT64}}}}}",
                &[],
            ),
            (
                "features: {views: {v: {entities: {i: INT64}, features: {f: {type: INT64}}, consistency: write_through}}}",
                &[],
            ),
        ] {
            assert_eq!(warned(text), paths, "{text}");
        }
    }

    #[test]
    fn a_ttl_that_is_cut_is_told() {
        let with = |l2: &str, view: &str| {
            format!(
                "features: {{project: p, {l2}, views: {{v: {{entities: {{i: INT64}}, features: {{f: {{type: INT64}}}}, {view}}}}}}}"
            )
        };
        let redis = "l1: {ttl: 60s}, l2: {redis: 'redis://h:1'}";
        assert_eq!(warned(&with(redis, "ttl: 5m")), ["features.views.v.ttl"]);
        let told = Config::parse(&with(redis, "ttl: 5m"), "t").unwrap().warnings.concat();
        assert!(told.contains(".ttl: 5m, and features.l1.ttl is 1m; the shorter counts"), "{told}");
        for (l2, view) in [
            (redis, "ttl: 60s"),
            (redis, "max_age: 1h"),
            (redis, "ttl: 5m, consistency: immutable"),
            ("l1: {ttl: 1h}, l2: {redis: 'redis://h:1'}", "ttl: 5m"),
            ("l1: {ttl: 60s}, l2: {path: /x}", "ttl: 5m"),
        ] {
            assert!(warned(&with(l2, view)).is_empty(), "{l2} {view}");
        }
    }

    #[test]
    fn a_registered_model_is_looked_up_for_a_cache_by_mlflow() {
        for (text, paths) in [
            (
                "pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {registered_model: r, cache: {}}}",
                &["models.m.registered_model"][..],
            ),
            (
                "mlflow: {secret: s}\npools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {registered_model: r}, n: {cache: {}}}",
                &["models.m.registered_model"],
            ),
            (
                "mlflow: {secret: s}\npools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {registered_model: r, cache: {}}}",
                &[],
            ),
        ] {
            assert_eq!(warned(text), paths, "{text}");
        }
        let text = "pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {registered_model: r, cache: {}}}";
        assert_eq!(
            Config::parse(text, "t").unwrap().warnings,
            [
                "models.m.registered_model: set, and there is no `mlflow`; its promotions change nothing here; add the section mlflow, or take the \
              key out"
            ]
        );
    }
}
