//! Tiers, pools and endpoints.

use super::*;

#[test]
fn shares_that_do_not_add_up() {
    says(
        &format!("{POOL}tiers:\n  high: {{reserved: 0.6}}\n  standard: {{reserved: 0.3, max: 0.6}}\n"),
        &[
            "tiers: reserved high 0.6 + standard 0.3 and shared 0.2 sum to 1.1; allowed: at most 1; given: a mapping with high, standard \
             (weir.yaml:3:3)",
            "tiers.standard.max: a max of 0.6 cannot be; allowed: from its reserved share (0.3) to reserved + capacity.shared (0.5); \
             given: 0.6 (weir.yaml:4:34)",
        ],
    );
    says(
        &format!("capacity: {{slots: 2}}\n{POOL}tiers: {{high: , best-effort: }}\n"),
        &[
            "tiers.best-effort: 0.3 of 2 slots is not one slot; allowed: a larger max, or more capacity.slots; given: a mapping with no \
           keys (weir.yaml:3:17)",
        ],
    );
}

#[test]
fn endpoints_that_cannot_be_reached() {
    says(
        "pools:\n  p:\n    endpoints:\n    - https://h:1\n    - {zone: a}\n    - h:1\n    - http://h:1/v2\n    - http://h:0\n    - {dns: h}\n    \
         - {http: http://h:1, dns: h:1}\n    - http://h:1\n    - http://h:1\n  q: {endpoints: []}\n",
        &[
            "pools.p.endpoints[0]: https:// is not supported; allowed: http://host:port; given: https://h:1 (weir.yaml:4:7)",
            "pools.p.endpoints[1]: neither an HTTP nor a gRPC port; allowed: http, grpc or both; or dns; or file; given: a mapping \
             with zone (weir.yaml:5:7)",
            "pools.p.endpoints[2]: not a URL; allowed: http://host:port; given: h:1 (weir.yaml:6:7)",
            "pools.p.endpoints[3]: a URL with more than a host and a port; allowed: http://host:port; given: http://h:1/v2 (weir.yaml:7:7)",
            "pools.p.endpoints[4]: not a port from 1 to 65535; allowed: http://host:port; given: http://h:0 (weir.yaml:8:7)",
            "pools.p.endpoints[5].dns: no port; allowed: host:port; given: h (weir.yaml:9:13)",
            "pools.p.endpoints[6].dns: both http and dns name the HTTP port; allowed: one of them; given: h:1 (weir.yaml:10:31)",
            "pools.p.endpoints[8]: h:1 is in this pool already; allowed: each address once; given: http://h:1 (weir.yaml:12:7)",
            "pools.q.endpoints: no endpoint; allowed: at least one; given: a list of 0 (weir.yaml:13:18)",
        ],
    );
}

#[test]
fn policies_whose_numbers_do_not_hang_together() {
    says(
        "pools:\n  p:\n    endpoints: [http://h:1]\n    health: {path: ready, interval: 0s}\n    breaker: {open_for: 1m, max_open_for: 10s}\n    \
         retry: {initial_delay: 2s, max_delay: 1s, multiplier: 0.5}\n    hedge: {after: soon}\n    failover: q\n    gpu: {metrics: dcgm}\n",
        &[
            "pools.p.health.path: not a path; allowed: a path that starts with /; given: ready (weir.yaml:4:20)",
            "pools.p.health.interval: zero; allowed: more than 0s; given: 0s (weir.yaml:4:37)",
            "pools.p.breaker.max_open_for: less than open_for; allowed: at least 1m; given: 10s (weir.yaml:5:43)",
            "pools.p.retry.max_delay: less than initial_delay (2s); allowed: at least 2s; given: 1s (weir.yaml:6:43)",
            "pools.p.retry.multiplier: not a number in range; allowed: a number from 1 to 100; given: 0.5 (weir.yaml:6:59)",
            "pools.p.hedge.after: not a time; allowed: a percentile from p50 to p99.9, such as p95, or a duration of at least 1ms; given: soon (weir.yaml:7:20)",
            "pools.p.failover: no such pool; allowed: p; given: q (weir.yaml:8:15)",
            "pools.p.gpu.metrics: not a URL; allowed: http://host:port/path; given: dcgm (weir.yaml:9:20)",
        ],
    );
}

#[test]
fn a_burst_pool_that_serves_nobody() {
    says(
        "pools: {p: {endpoints: [http://h:1]}, b: {endpoints: [http://h:2]}}\ncapacity: {burst_pool: b}\n\
         models: {m: {pool: p}}\n",
        &[
            "capacity.burst_pool: no model would run on it: it serves models on their tier's pool, and none runs on one but this; \
           allowed: a pool beside those of the tiers, whose models name none; given: b (weir.yaml:2:24)",
        ],
    );
}

#[test]
fn endpoints_that_cannot_be_found() {
    says(
        "zone: a b\npools:\n  p:\n    endpoints:\n    - {dns: h:1, grpc: http://i:2}\n    - {http: http://h:1, grpc_port: 2, refresh: 1s}\n    \
         - {file: e.yaml, dns: h:3}\n    - {dns: h:4, refresh: 0s}\nmodels: {m: }\n",
        &[
            "zone: not a zone or region's name; allowed: visible ASCII characters; given: a b (weir.yaml:1:7)",
            "pools.p.endpoints[0].grpc: another host than dns; allowed: http://h:port, or grpc_port; given: http://i:2 (weir.yaml:5:24)",
            "pools.p.endpoints[1].grpc_port: there is no dns whose addresses it could belong to; allowed: beside dns; given: 2 (weir.yaml:6:37)",
            "pools.p.endpoints[1].refresh: there is no dns to resolve; allowed: beside dns; given: 1s (weir.yaml:6:49)",
            "pools.p.endpoints[2].file: an endpoint's ports stand beside the file; allowed: file and zone, or ports and zone; given: e.yaml \
             (weir.yaml:7:14)",
            "pools.p.endpoints[3].refresh: zero; allowed: more than 0s; given: 0s (weir.yaml:8:27)",
        ],
    );
}

#[test]
fn pools_that_take_over_from_one_another() {
    let pool = |name: &str, to: &str| format!("  {name}: {{endpoints: [http://h:1], failover: {to}}}\n");
    says(
        &format!(
            "pools:\n{}{}{}  d: {{endpoints: [http://h:1], outlier: {{base_ejection: 1m, max_ejection: 30s}}}}\nmodels: {{m: {{pool: a}}}}\n",
            pool("a", "{pool: b, threshold: 0.3}"),
            pool("b", "a"),
            pool("c", "d"),
        ),
        &[
            "pools.a.failover.pool: it leads back to a; allowed: a pool that does not; given: b (weir.yaml:2:49)",
            "pools.b.failover: it leads back to b; allowed: a pool that does not; given: a (weir.yaml:3:42)",
            "pools.d.outlier.max_ejection: less than base_ejection; allowed: at least 1m; given: 30s (weir.yaml:5:75)",
        ],
    );
}

#[test]
fn more_tiers_than_one_word_counts() {
    let tiers = |count: usize| {
        let list: Vec<_> = (0..count).map(|i| format!("t{i}: ")).collect();
        format!("{POOL}tiers: {{{}}}\n", list.join(", "))
    };
    let lines = bad(&tiers(9));
    let expected = "tiers: 9 tiers whose maxima need 72 bits of slot counters together; allowed: 64 bits, such as three tiers \
                    of two million slots, four of 65535, eight of 255; given: ";
    assert!(lines.len() == 1 && lines[0].starts_with(expected), "{lines:?}");
    let config = super::good(&tiers(8));
    crate::admission::Door::new(&config).map(drop).expect("what is allowed can be served");
}

#[test]
fn a_hedge_is_part_of_the_retry_budget_and_comes_at_a_time() {
    let pool = |hedge: &str| format!("pools: {{p: {{endpoints: [http://h:1], hedge: {{{hedge}}}}}}}\n");
    says(
        &pool("share: 0.3"),
        &[
            "pools.p.hedge.share: more than retry.budget (0.2), which it is part of; allowed: 0 to 0.2; given: 0.3 (weir.yaml:1:53)",
        ],
    );
    for after in ["p49", "p99.95", "pNaN", "p", "0s", "95"] {
        let problems = super::bad(&pool(&format!("after: \"{after}\"")));
        assert!(problems.iter().any(|problem| problem.starts_with("pools.p.hedge.after: ")), "{after}: {problems:?}");
    }
    for after in ["p50", "p99.9", "1ms"] {
        super::good(&pool(&format!("after: {after}")));
    }
}
