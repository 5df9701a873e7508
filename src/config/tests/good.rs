//! What good files mean.

use std::{sync::Arc, time::Duration};

use super::{FULL, good, read};
use crate::{
    config::{
        Column, Config, Consistency, Copies, Discovery, HedgeAfter, HotKeys, Inputs, L2, Limit, RedisMode, SaveTo,
    },
    infer::{Datatype, EntityType, FeatureType, PoolId, TierId, Value, outputs::Combine},
};

#[test]
fn the_readmes_first_configuration_warns_of_nothing() {
    let (_, rest) = include_str!("../../../README.md").split_once("`weir.yaml`:\n\n```yaml\n").unwrap();
    let (yaml, _) = rest.split_once("```").unwrap();
    let config = good(&yaml.replace("${REDIS_URL}", "redis://h:1"));
    assert_eq!((config.warnings, config.notices), (Vec::<String>::new(), Vec::new()));
}

#[test]
fn the_documented_file_says_what_it_says() {
    let config = good(FULL);
    assert_eq!(config.listen.http, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(config.listen.grpc, Some("0.0.0.0:8081".parse().unwrap()));
    assert_eq!(config.listen.admin_token.as_ref().unwrap().0, "t0ken");
    assert_eq!((config.listen.max_body, config.listen.max_rows), (64 << 20, 10_000));
    assert_eq!((config.workers, config.capacity.slots), (2, 200));
    assert_eq!(config.capacity.burst_pool, Some(PoolId(3)));

    let tiers: Vec<_> = config.tiers.iter().map(|t| (&*t.name, t.pool, t.reserved, t.max, t.queue)).collect();
    assert_eq!(
        tiers,
        [
            ("high", Some(PoolId(0)), 0.4, 0.5, 64),
            ("standard", Some(PoolId(1)), 0.3, 0.4, 128),
            ("best-effort", Some(PoolId(2)), 0.1, 0.3, 256)
        ]
    );
    assert_eq!(config.tiers[2].queue_timeout, Duration::from_millis(250));

    let pool = config.pool(PoolId(0));
    let endpoint = &pool.endpoints[0];
    assert_eq!(&*endpoint.http.as_ref().unwrap().authority, "127.0.0.1:9000");
    assert_eq!(endpoint.grpc.as_ref().unwrap().port, 9001);
    assert_eq!((pool.attempt_timeout, pool.max_in_flight), (Some(Duration::from_millis(80)), Some(64)));
    assert_eq!((pool.retry.max_retries, pool.retry.max_delay), (2, Duration::from_secs(1)));
    assert_eq!(pool.breaker.open_for, Duration::from_secs(30));
    assert_eq!(pool.breaker.max_open_for, pool.breaker.open_for, "it grows only where it is set");
    assert_eq!(pool.breaker.success_rate.to_bits(), 0.8_f64.to_bits());
    let hedge = pool.hedge.as_ref().unwrap();
    assert_eq!((&hedge.after, hedge.share), (&HedgeAfter::Percentile(95.0), 0.02));
    assert_eq!(config.drain.deadline, Duration::from_secs(30));
}

#[test]
fn the_documented_model_is_joined_as_written() {
    let config = good(FULL);
    let model = config.model(config.model_id("fraud-detector").unwrap());
    assert_eq!((model.tier, model.pool, model.explainer), (TierId(0), PoolId(0), Some(PoolId(1))));
    assert_eq!(
        (model.timeout, model.fallback.as_ref().map(|fallback| fallback.reserve)),
        (Duration::from_millis(200), Some(0.3))
    );
    assert_eq!(model.joins[0].select, [0, 1]);
    assert_eq!(model.joins[1].sources, [Arc::from("merchant_id")]);
    assert!(!model.joins[0].optional && model.joins[1].optional);
    let Some(Inputs::Matrix { name, datatype, columns }) = &model.inputs else { panic!("{:?}", model.inputs) };
    assert_eq!((&**name, *datatype), ("input-0", Datatype::Fp32));
    let shown: Vec<_> = columns.iter().map(|column| format!("{column:?}")).collect();
    assert_eq!(
        shown,
        [
            "Request(\"amount\")",
            "Feature { join: 0, select: 0 }",
            "Feature { join: 0, select: 1 }",
            "Feature { join: 1, select: 0 }"
        ]
    );
    let lite = config.model(config.model_id("fraud-lite").unwrap());
    assert_eq!(
        (lite.tier, lite.pool, &*lite.upstream, lite.fallback.is_none()),
        (TierId(1), PoolId(1), "fraud-lite", true)
    );
    assert!(lite.joins.is_empty() && lite.inputs.is_none());
    assert_eq!(config.model_id("other"), None);
}

#[test]
fn the_documented_store_is_read_as_written() {
    let config = good(FULL);
    let features = &config.features;
    assert_eq!(&*features.project, "fraud");
    let L2::Redis(redis) = &features.l2 else { panic!("{:?}", features.l2) };
    assert_eq!((redis.urls[0].0.as_str(), &redis.mode), ("redis://127.0.0.1:6379", &RedisMode::Single));
    assert_eq!((redis.ttl, redis.timeout), (Duration::from_secs(86_400), Duration::from_millis(20)));
    assert_eq!(features.l3.as_ref().unwrap().url, "s3://features/lookup");
    assert_eq!((features.l1.capacity, features.l1.stale_for), (100 << 20, Duration::from_secs(600)));
    assert_eq!((features.retry.max_retries, features.retry.jitter, features.retry_budget), (3, 0.1, 0.2));
    let user = &features.views[0];
    assert_eq!(user.entities, [(Arc::from("user_id"), EntityType::Int64)]);
    assert_eq!((user.ttl, user.max_age), (Duration::from_secs(300), Some(Duration::from_secs(86_400))));
    assert_eq!(user.consistency, Consistency::Ttl);
    assert_eq!((user.features[0].kind, user.features[0].default.clone()), (FeatureType::Int64, Value::Int64(0)));
    assert_eq!((&*user.features[1].name, user.features[1].length), ("avg_amount_7d", None));
}

#[test]
fn hot_keys_are_looked_for_where_they_are_named() {
    let read = |text: &str| good(&format!("features: {{hot_keys: {text}}}\n")).features.hot_keys.unwrap();
    let HotKeys { share, min_rate, copies } = read("{}");
    assert_eq!((share, min_rate, copies), (0.01, 100.0, Copies::Auto));
    let HotKeys { share, min_rate, copies } = read("{share: 0.001, min_rate: 1, copies: 31}");
    assert_eq!((share, min_rate, copies), (0.001, 1.0, Copies::Number(31)));
    assert_eq!(read("{copies: off}").copies, Copies::Off);
    assert!(good("features: {}\n").features.hot_keys.is_none());
}

#[test]
fn all_of_the_documented_file_is_acted_upon() {
    assert_eq!(good(FULL).notices, [""; 0]);
    let config = good(&FULL.replace("consistency: ttl ", "consistency: write_through "));
    assert!(config.features.views[0].reads_primary_only() && !config.features.views[1].reads_primary_only());
    assert_eq!(config.features.lease, Duration::from_secs(2));
}

#[test]
fn a_proxy_needs_one_pool_and_one_name() {
    let config = good("pools: {p: {endpoints: [http://h]}}\nmodels:\n  m:\n");
    assert_eq!(config.tiers.len(), 1);
    let tier = &config.tiers[0];
    assert_eq!((&*tier.name, tier.max, tier.reserved + config.capacity.shared), ("standard", 1.0, 1.0));
    assert_eq!((config.capacity.slots, &*config.features.project), (1000, "default"));
    let pool = &config.pools[0];
    assert_eq!((&*pool.health.path, pool.health.interval), ("/v2/health/ready", Duration::from_secs(5)));
    assert_eq!(pool.health.timeout, Duration::from_secs(1));
    let upstream = pool.endpoints[0].http.as_ref().unwrap();
    assert_eq!((&*upstream.authority, upstream.port), ("h", 80));
    assert!(pool.endpoints[0].grpc.is_none());
    assert_eq!(config.models[0].timeout, Duration::from_secs(5));
    assert!(config.metrics_aliases && !config.allow_repository && config.workers > 0);
    assert!(matches!(config.features.l2, L2::Embedded { path: None, .. }));
}

#[test]
fn a_pools_limit_is_learnt_where_it_says_so() {
    let limits = |text: &str| good(text).pools.iter().map(|pool| pool.limit).collect::<Vec<_>>();
    let text = "pools: {p: {endpoints: [http://h]}, q: {endpoints: [http://h], limit: adaptive}}";
    assert_eq!(limits(text), [Limit::None, Limit::Adaptive]);
}

#[test]
fn an_ensemble_needs_no_pool() {
    let config = good(
        "pools: {p: {endpoints: [http://h]}, q: {endpoints: [http://i]}}\nmodels:\n  e: {ensemble: {members: [b, a], combine: weighted, \
         weights: [2, 0.5]}}\n  a: {pool: p}\n  b: {pool: q}\n  v: {ensemble: {members: [a, b], combine: vote}}\n",
    );
    let model = |name: &str| config.model(config.model_id(name).unwrap());
    let ensemble = |name: &str| model(name).ensemble.as_ref().unwrap();
    let combined = |name: &str| (ensemble(name).combine, ensemble(name).weights.clone());
    assert_eq!(model("e").members(), ["b", "a"].map(|name| config.model_id(name).unwrap()));
    assert_eq!(model("e").pool, model("b").pool, "what is no prediction is asked of the first member");
    assert_eq!((combined("e"), combined("v")), ((Combine::Mean, vec![2.0, 0.5]), (Combine::Vote, vec![1.0; 2])));
    assert!(model("e").is_decoded() && model("e").is_held_whole() && !model("a").is_decoded());
    assert!(model("e").idempotent);
    let config = good(
        "pools: {p: {endpoints: [http://h:1], hedge: {}}}\nmodels:\n  e: {ensemble: {members: [a, b]}}\n  a: {pool: p}\n  \
         b: {pool: p, idempotent: false}\n",
    );
    assert!(!config.model(config.model_id("e").unwrap()).idempotent, "one of its members is not");
}

#[test]
fn feature_servers_are_an_online_store() {
    let config = good(
        "features: {l2: {feature_server: [http://a:1, 'http://b/'], max_in_flight: 7}, views: {v: {entities: {id: STRING}, \
         features: {x: {type: BOOL}}}}}",
    );
    let L2::FeatureServers(fleet) = &config.features.l2 else { panic!("{:?}", config.features.l2) };
    let servers: Vec<_> = fleet.servers.iter().map(|server| (&*server.authority, server.port)).collect();
    assert_eq!((servers, fleet.max_in_flight), (vec![("a:1", 1), ("b", 80)], 7));
    assert_eq!(fleet.timeout, Duration::from_millis(200), "it reads from further stores");
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    let one = good("features: {l2: {feature_server: http://a:1, timeout: 1s}}");
    assert!(matches!(one.features.l2, L2::FeatureServers(fleet) if fleet.timeout == Duration::from_secs(1)));
}

#[test]
fn a_feature_server_needs_no_models() {
    let config =
        good("models:\npools: {}\nfeatures: {views: {v: {entities: {id: STRING}, features: {x: {type: BOOL}}}}}");
    assert!(config.models.is_empty() && config.pools.is_empty());
    assert_eq!(config.features.views[0].ttl, Duration::from_secs(86_400));
    assert_eq!(config.features.views[0].features[0].default, Value::Bool(false));
}

#[test]
fn tiers_are_ordered_by_rank_and_a_model_takes_standard_else_the_lowest() {
    let pools = "pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: }\n";
    let named = good(&format!("{pools}tiers: {{batch: , best-effort: , standard: , high: }}"));
    let names: Vec<_> = named.tiers.iter().map(|tier| &*tier.name).collect();
    assert_eq!(names, ["high", "standard", "best-effort", "batch"]);
    assert_eq!(named.models[0].tier, TierId(1));
    assert_eq!((named.tiers[3].reserved, named.tiers[3].max), (0.0, 0.2));
    let other = good(&format!("{pools}tiers: {{high: , best-effort: }}"));
    assert_eq!(other.models[0].tier, TierId(1));
    assert_eq!((other.tiers[1].reserved, other.tiers[1].max), (0.1, 0.3));
    let one = good(&format!("{pools}tiers: {{high: {{queue: 3}}}}"));
    assert_eq!((one.tiers[0].reserved, one.tiers[0].max, one.tiers[0].queue), (0.8, 1.0, 3));
}

/// A file with one model that joins `user` (a: INT64, s: STRING, l: DOUBLE_LIST of 2) and `item` (a: FLOAT).
fn joined(inputs: &str) -> Config {
    good(&joined_text(inputs))
}

pub(super) fn joined_text(inputs: &str) -> String {
    format!(
        "pools: {{p: {{endpoints: [http://h:1]}}}}\n\
         models: {{m: {{features: [{{view: user, join: {{id: user_id}}, select: [s, l, a]}}, {{view: item, join: {{b: y, a: x}}}}]{inputs}}}}}\n\
         features:\n  views:\n    \
         user: {{entities: {{id: INT64}}, features: {{a: {{type: INT64}}, s: {{type: STRING}}, l: {{type: DOUBLE_LIST, default: [1, 2.5]}}}}}}\n    \
         item: {{entities: {{b: INT32, a: STRING}}, features: {{f: {{type: FLOAT_LIST, length: 3}}}}}}\n"
    )
}

#[test]
fn without_inputs_every_selected_feature_is_a_tensor() {
    let config = joined("");
    let Some(Inputs::Columns { columns }) = &config.models[0].inputs else { panic!() };
    let names: Vec<_> = columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names, ["s", "l", "a", "f"]);
    assert!(matches!(columns[3].column, Column::Feature { join: 1, select: 0 }));
    assert_eq!(config.models[0].joins[0].select, [1, 2, 0]);
    // Sources follow the view's sorted join keys, whatever order the file has.
    assert_eq!(config.models[0].joins[1].sources, [Arc::from("x"), Arc::from("y")]);
    let features = &config.features.views;
    assert_eq!(features[0].features[2].length, Some(2));
    assert_eq!(features[1].features[0].length, Some(3));
    assert_eq!(features[1].features[0].default, Value::FloatList([0.0; 3].into()));
}

#[test]
fn columns_may_be_renamed_and_request_tensors_kept() {
    let config = joined(", inputs: {as: columns, columns: [user_id, 'input:0', {name: t, from: 'user:a'}, 'item:f']}");
    let Some(Inputs::Columns { columns }) = &config.models[0].inputs else { panic!() };
    let shown: Vec<_> = columns.iter().map(|c| format!("{}={:?}", c.name, c.column)).collect();
    assert_eq!(
        shown,
        [
            "user_id=Request(\"user_id\")",
            "input:0=Request(\"input:0\")",
            "t=Feature { join: 0, select: 2 }",
            "f=Feature { join: 1, select: 0 }"
        ]
    );
}

#[test]
fn secrets_and_numbers_come_from_variables_and_files() {
    let text = "listen: {admin_token: 'Bearer ${TOKEN}$${x}'}\nfeatures: {project: p, l2: {redis: '${TOKEN}'}}\n";
    let problems = read(text).map(|_| ()).unwrap_err().to_string();
    assert!(
        problems.contains("features.l2.redis: not a URL") && problems.ends_with("given: *** (weir.yaml:2:36)"),
        "{problems}"
    );
    let config = good(&text.replace("'${TOKEN}'}", "'redis://:${TOKEN}@h/2'}"));
    assert_eq!(config.listen.admin_token.as_ref().unwrap().0, "Bearer s3cret${x}");
    assert!(!format!("{config:?}").contains("s3cret"));
    let var = |_: &str| Some("7".to_owned());
    let sources = crate::config::substitute::Sources { var: &var, file: &|_| Ok(String::new()) };
    let loaded = crate::config::load::parse("workers: ${N}\nlisten: {admin_token: '${N}'}", "t", &sources).unwrap();
    assert_eq!(loaded.config.workers, 7);
    assert_eq!(loaded.config.listen.admin_token.unwrap().0, "7");
    assert!(loaded.explained.contains("workers: ***  (set)"), "{}", loaded.explained);
}

#[test]
fn an_ensembles_own_pool_is_none() {
    let text = "pools: {p: {endpoints: [http://h:1]}}\nmodels: {e: {ensemble: {members: [m]}}, m: {pool: p}}";
    let explained = read(text).unwrap_or_else(|problems| panic!("{problems}")).explained;
    for line in [
        "models.e.pool: its members'  (default)",
        "models.e.upstream_model: its members'  (default)",
        "models.e.inputs: its members'  (default)",
        "models.e.ensemble.combine: mean  (default)",
    ] {
        assert!(explained.lines().any(|each| each == line), "{line} is not in\n{explained}");
    }
}

#[test]
fn every_key_is_explained_and_no_secret_shown() {
    let explained = read(&FULL.replace("redis://127", "redis://u:pw@127")).unwrap().explained;
    for line in [
        "listen.admin_token: ***  (set)",
        "pools.gpu-b.connect_timeout: 1s  (default)",
        "models.fraud-lite.pool: gpu-b  (default)",
        "features.l2.redis: [redis://***@127.0.0.1:6379]  (set)",
        "tiers.high.reserved: 0.40  (set)",
    ] {
        assert!(explained.lines().any(|l| l == line), "{line}\n{explained}");
    }
    assert!(!explained.contains("t0ken") && !explained.contains("pw"));
}

#[test]
fn a_kserve_service_is_named_by_dns() {
    for grpc in ["grpc: 'http://fraud-predictor.ml.svc:8081'", "grpc_port: 8081"] {
        let config = good(&format!(
            "pools: {{p: {{zone: b, endpoints: [{{dns: 'fraud-predictor.ml.svc:8080', {grpc}}}]}}}}\nmodels: {{m: }}"
        ));
        let pool = &config.pools[0];
        let [Discovery::Dns(dns)] = &pool.discovery[..] else { panic!("{pool:?}") };
        assert_eq!(
            (&*dns.http.authority, &*dns.http.host, dns.http.port, dns.grpc_port),
            ("fraud-predictor.ml.svc:8080", "fraud-predictor.ml.svc", 8080, Some(8081))
        );
        assert_eq!((dns.refresh, dns.zone.as_deref()), (Duration::from_secs(5), Some("b")));
        assert!(pool.endpoints.is_empty() && config.notices.is_empty());
    }
}

#[test]
fn zones_regions_and_who_takes_over_are_read() {
    let config = good(
        "zone: '${TOKEN}'\npools:\n  a: {zone: x, region: east, failover: {pool: b, threshold: 0.3}, endpoints: [http://h:1, {http: \
         'http://h:2', zone: y}, {file: e.yaml}]}\n  b: {endpoints: [http://h:3]}\nmodels: {m: {pool: a}}",
    );
    let [a, b] = &config.pools[..] else { panic!("{:?}", config.pools) };
    let zones: Vec<_> = a.endpoints.iter().map(|endpoint| endpoint.zone.as_deref()).collect();
    assert_eq!((zones, a.region.as_deref()), (vec![Some("x"), Some("y")], Some("east")));
    assert_eq!(a.balance.own_zone.as_deref(), Some("s3cret"));
    let failover = a.failover.as_ref().unwrap();
    assert_eq!((failover.pool, failover.threshold), (PoolId(1), 0.3));
    assert_eq!(failover.back_after, Duration::from_secs(10));
    assert!(matches!(&a.discovery[..], [Discovery::File(file)] if file.path.ends_with("e.yaml")));
    assert_eq!((b.balance.panic_threshold, b.balance.slow_start), (0.5, Duration::from_secs(10)));
    assert_eq!((b.balance.outlier.latency, b.balance.outlier.max_ejected), (3.0, 0.5));
    assert!(config.notices.is_empty());
}

#[test]
fn every_example_is_good() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let yaml: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    assert!(yaml.len() >= 4, "{yaml:?}");
    for path in yaml {
        let text = std::fs::read_to_string(&path).unwrap().replace("${REDIS_PASSWORD}", "${TOKEN}");
        let config = good(&text);
        assert!(config.notices.is_empty(), "{}: {:?}", path.display(), config.notices);
    }
}

#[test]
fn a_warm_start_needs_a_place_only() {
    let parsed = |warm: &str| {
        let text = format!("features: {{project: p, l2: {{redis: 'redis://h'}}, l1: {{warm_start: {{{warm}}}}}}}");
        good(&text).features.l1.warm_start.expect("it is set")
    };
    let warm = parsed("save_to: l2");
    assert_eq!((warm.save_to, warm.max_keys), (SaveTo::L2, 10_000));
    assert_eq!((warm.save_every, warm.timeout), (Duration::from_secs(60), Duration::from_secs(5)));
    let warm = parsed("save_to: ./l2, max_keys: 7, save_every: 1s, timeout: 50ms");
    assert_eq!((warm.save_to, warm.max_keys), (SaveTo::File("./l2".into()), 7));
    assert!(
        good("features: {views: {v: {entities: {k: STRING}, features: {f: {type: BOOL}}}}}")
            .features
            .l1
            .warm_start
            .is_none()
    );
}

/// What keeps a pool going is seen without having been set, and an effective value where there is no one default.
#[test]
fn the_policies_that_apply_to_a_pool_are_explained() {
    let text = "pools: {p: {endpoints: [http://h:1]}, q: {endpoints: [http://h:2], hedge: {}}}\nmodels: {m: {pool: p}}";
    let explained = super::read(text).unwrap_or_else(|problems| panic!("{problems}")).explained;
    for line in [
        "pools.p.breaker.failure_threshold: 5  (default)",
        "pools.p.breaker.success_rate: 0.8  (default)",
        "pools.p.breaker.open_for: 30s  (default)",
        "pools.p.breaker.max_open_for: as open_for  (default)",
        "pools.p.retry.max_retries: 2  (default)",
        "pools.p.retry.budget: 0.2  (default)",
        "pools.p.hedge: off  (default)",
        "pools.q.hedge.after: p95  (default)",
        "pools.q.hedge.share: 0.02  (default)",
        "pools.p.attempt_timeout: until the deadline  (default)",
        "pools.p.max_in_flight: no limit  (default)",
        "pools.p.limit: as many as the tiers' slots  (default)",
        "pools.p.outlier.max_ejected: 0.5  (default)",
        "pools.p.panic_threshold: 0.5  (default)",
        "pools.p.slow_start: 10s  (default)",
        "pools.p.failover: none  (default)",
        "models.m.idempotent: true  (default)",
    ] {
        assert!(explained.lines().any(|each| each == line), "{line} is not in\n{explained}");
    }
}

#[test]
fn copies_of_rows_are_read_as_the_file_says() {
    let text = |l2: &str| format!("zone: a\nfeatures: {{project: p, l2: {{redis: 'redis://h', {l2}}}}}\n");
    let redis = |l2: &str| match good(&text(l2)).features.l2 {
        L2::Redis(redis) => redis,
        other => panic!("{other:?}"),
    };
    let plain = redis("mode: single");
    assert!(plain.replicas.is_none() && plain.dr.is_none());
    let replicas = redis("mode: cluster, read_from: replica").replicas.unwrap();
    assert_eq!((replicas.from, replicas.max_lag), (crate::config::ReadFrom::Replicas, Duration::from_secs(1)));
    let l2 = "mode: cluster, read_from: nearest, max_lag: 100ms, zones: {10.0.1.: a}, dr: {redis: ['redis://g', 'redis://i']}";
    let redis = redis(l2);
    let (replicas, dr) = (redis.replicas.unwrap(), redis.dr.unwrap());
    assert_eq!((replicas.from, replicas.own_zone.as_deref()), (crate::config::ReadFrom::Nearest, Some("a")));
    assert_eq!(replicas.zones, [("10.0.1.".to_owned(), Arc::from("a"))]);
    assert_eq!(
        (dr.urls.len(), dr.failover_after, dr.back_after),
        (2, Duration::from_secs(15), Duration::from_secs(10))
    );
    assert!(good(&text(l2)).notices.is_empty());
}
