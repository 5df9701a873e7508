//! What is said of bad files, word for word.

use super::{FULL, bad, good, good::joined_text};

/// Parses the text and compares the problems with the lines, each ended by its place.
fn says(text: &str, lines: &[&str]) {
    assert_eq!(bad(text).join("\n"), lines.join("\n"));
}

const POOL: &str = "pools: {p: {endpoints: [http://h:1]}}\n";

#[test]
fn a_missing_secret_is_the_only_problem_of_the_documented_file() {
    says(
        &FULL.replace("/run/secrets/weir-admin", "/no/such/file"),
        &["listen.admin_token: cannot read the file; allowed: a readable UTF-8 file; given: ${file:/no/such/file} \
           (entity not found) (weir.yaml:1:84)"],
    );
    says(
        "listen: {admin_token: '${NOPE}'}\nmodels: {m: {upstream_model: '${', pool: '${a-b}'}}\n",
        &[
            "listen.admin_token: no such environment variable; allowed: one that is set; given: ${NOPE} (weir.yaml:1:23)",
            "models.m.upstream_model: `${` without `}`; allowed: ${VAR}, ${file:/path}, or $${ for the characters (weir.yaml:2:30)",
            "models.m.pool: not a reference; allowed: ${VAR}, ${file:/path}; given: ${a-b} (weir.yaml:2:42)",
        ],
    );
}

#[test]
fn files_that_cannot_be_read_at_all() {
    says("", &["the file is empty; allowed: a mapping of sections (weir.yaml:1:1)"]);
    says("# nothing\n---\n", &["the file is empty; allowed: a mapping of sections (weir.yaml:3:1)"]);
    says("- a\n", &["not a configuration; allowed: a mapping of sections; given: a list of 1 (weir.yaml:1:1)"]);
    says("a: 1\n---\nb: 1\n", &["a second document starts here; allowed: one document a file (weir.yaml:2:1)"]);
    says("models: {\n", &["not YAML: while parsing a node, did not find expected node content (weir.yaml:2:1)"]);
    says("models: &a {}\n", &["anchors and aliases are not supported; write the value out (weir.yaml:1:9)"]);
    says("models: !x {}\n", &["tags are not supported; write the value without `!…` (weir.yaml:1:9)"]);
    says("? [a]\n: b\n", &["a key that is a list or a mapping; allowed: text (weir.yaml:1:3)"]);
}

#[test]
fn unknown_and_duplicate_keys() {
    says(
        "worker: 2\nzzz: 1\nlisten: {http: 0.0.0.0:0, http: 0.0.0.0:1}\npools: {p: {endpoint: [http://h:1]}}\n",
        &[
            "worker: unknown key, did you mean `workers`?; allowed: allow_repository, capacity, drain, features, ladder, listen, \
             metrics, mlflow, models, pools, predictions, spool, tiers, workers, zone; given: worker (weir.yaml:1:1)",
            "zzz: unknown key; allowed: allow_repository, capacity, drain, features, ladder, listen, metrics, mlflow, models, pools, predictions, spool, \
             tiers, workers, zone; given: zzz (weir.yaml:2:1)",
            "listen.http: set twice; allowed: once; first set at line 3 (weir.yaml:3:27)",
            "pools.p.endpoint: unknown key, did you mean `endpoints`?; allowed: attempt_timeout, breaker, connect_timeout, endpoints, \
             failover, gpu, health, hedge, limit, max_in_flight, outlier, panic_threshold, region, retry, slow_start, zone; given: \
             endpoint (weir.yaml:4:13)",
        ],
    );
}

#[test]
fn wrong_types_are_all_found_at_once() {
    says(
        "workers: 0\ncapacity: {slots: many, shared: 1.5}\ndrain: {delay: 10, deadline: 1.5s}\nmetrics: {aliases: yes}\n\
         listen: {max_body: 64, admin_token: [secret], http: }\nladder: {mode: maybe}\nmodels: [m]\nspool: {max_entries: -1}\n",
        &[
            "workers: not a whole number in range; allowed: a whole number from 1 to 1024; given: 0 (weir.yaml:1:10)",
            "capacity.slots: not a whole number in range; allowed: a whole number from 1 to 1000000; given: many (weir.yaml:2:19)",
            "capacity.shared: not a ratio; allowed: a number from 0 to 1; given: 1.5 (weir.yaml:2:33)",
            "drain.delay: not a duration; allowed: a whole number and a unit of ms, s, m, h, d, such as 50ms or 5m, up to 36500d; given: 10 \
             (weir.yaml:3:16)",
            "drain.deadline: not a duration; allowed: a whole number and a unit of ms, s, m, h, d, such as 50ms or 5m, up to 36500d; given: 1.5s \
             (weir.yaml:3:30)",
            "metrics.aliases: not true or false; allowed: true, false; given: yes (weir.yaml:4:20)",
            "listen.max_body: not a size; allowed: a whole number and a unit of B, kB, KiB, MB, MiB, GB, GiB, TiB, such as 100MiB; \
             given: 64 (weir.yaml:5:20)",
            "listen.admin_token: not text; allowed: text, best as ${file:/path} or ${VAR}; given: *** (weir.yaml:5:37)",
            "listen.http: empty; allowed: text (in quotes where it looks like a number), or leave the key out (weir.yaml:5:47)",
            "ladder.mode: not one of the words; allowed: act, observe; given: maybe (weir.yaml:6:16)",
            "models: not a mapping; allowed: a mapping from names; given: a list of 1 (weir.yaml:7:9)",
            "spool.max_entries: not a whole number; allowed: a whole number of 1 or more; given: -1 (weir.yaml:8:22)",
        ],
    );
}

#[test]
fn what_must_be_given() {
    says(
        "pools: {p: {}, q: nope}\nmodels: {m: {features: [{view: v}], inputs: {name: x}, explainer: {}}}\nfeatures: {l3: {}}\n",
        &[
            "pools.p.endpoints: missing; allowed: a list of items that are each text (in quotes where it looks like a number), or a \
             mapping with dns, file, grpc, grpc_port, http, refresh, zone (weir.yaml:1:12)",
            "pools.q: not a mapping; allowed: a mapping with attempt_timeout, breaker, connect_timeout, endpoints, failover, gpu, \
             health, hedge, limit, max_in_flight, outlier, panic_threshold, region, retry, slow_start, zone; given: nope (weir.yaml:1:19)",
            "models.m.pool: no pool here, and none at tiers.standard.pool; allowed: p, q (weir.yaml:2:13)",
            "models.m.features[0].join: missing; allowed: a mapping from names (weir.yaml:2:25)",
            "models.m.features[0].view: no such view; allowed: none is declared; given: v (weir.yaml:2:32)",
            "models.m.inputs.as: missing; allowed: matrix, columns (weir.yaml:2:45)",
            "models.m.explainer.pool: missing; allowed: text (in quotes where it looks like a number) (weir.yaml:2:67)",
            "features.l3.url: missing; allowed: text (in quotes where it looks like a number) (weir.yaml:3:16)",
        ],
    );
}

#[test]
fn addresses() {
    says(
        "listen: {http: 0.0.0.0:80, grpc: 127.0.0.1:80, admin: localhost:9090}\n",
        &[
            "listen.grpc: the same address as listen.http; allowed: a port of its own; given: 127.0.0.1:80 (weir.yaml:1:34)",
            "listen.admin: not an address; allowed: ip:port, such as 0.0.0.0:8080 or [::1]:8080; given: localhost:9090 (weir.yaml:1:55)",
        ],
    );
}

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
fn references_that_lead_nowhere() {
    says(
        &format!(
            "{POOL}capacity: {{burst_pool: pp}}\ntiers: {{standard: {{pool: x}}}}\nmodels:\n  m: {{tier: standart, fallback: {{model: n}}}}\n  \
             n: {{pool: y, explainer: {{pool: z}}, fallback: {{model: m}}}}\n  a/b: {{fallback: {{model: o}}}}\n"
        ),
        &[
            "capacity.burst_pool: no such pool, did you mean `p`?; allowed: p; given: pp (weir.yaml:2:24)",
            "tiers.standard.pool: no such pool; allowed: p; given: x (weir.yaml:3:26)",
            "models.m.tier: no such tier, did you mean `standard`?; allowed: standard; given: standart (weir.yaml:5:13)",
            "models.m.fallback.model: falls back to itself in the end; allowed: a model whose fallbacks end elsewhere; given: n \
             (weir.yaml:5:41)",
            "models.n.pool: no such pool; allowed: p; given: y (weir.yaml:6:13)",
            "models.n.explainer.pool: no such pool; allowed: p; given: z (weir.yaml:6:34)",
            "models.n.fallback.model: falls back to itself in the end; allowed: a model whose fallbacks end elsewhere; given: m \
             (weir.yaml:6:56)",
            "models.a/b: not a model's name; allowed: visible ASCII characters without `/`, `:`, `?` and `#`, as it stands in URLs; given: a mapping with fallback \
             (weir.yaml:7:8)",
            "models.a/b.fallback.model: no such model; allowed: m, n, a/b; given: o (weir.yaml:7:27)",
        ],
    );
}

#[test]
fn ensembles_that_make_no_sense() {
    let own = |key: &str, given: &str, at: u32| {
        format!(
            "models.e.{key}: set for an ensemble, which asks its members; allowed: the key at its members; given: {given} (weir.yaml:3:{at})"
        )
    };
    says(
        "pools: {p: {endpoints: [http://h:1]}}\nmodels:\n  e: {pool: p, upstream_model: x, idempotent: false, explainer: {pool: p}, cache: {}, ensemble: {members: [m]}}\n  m: {pool: p}\n",
        &[
            &own("pool", "p", 13),
            &own("upstream_model", "x", 32),
            &own("idempotent", "false", 47),
            &own("explainer", "a mapping with pool", 65),
            "models.e.cache: beside `idempotent: false`; allowed: a cache only where asking twice changes nothing; given: a mapping with \
             no keys (weir.yaml:3:83)",
            &own("cache", "a mapping with no keys", 83),
        ],
    );
    says(
        "pools: {p: {endpoints: [http://h:1]}}\nmodels:\n  a: {ensemble: {members: [a, m, n, m], combine: weighted, weights: [1, 0, 2]}}\n  \
         b: {ensemble: {members: []}}\n  c: {ensemble: {members: [b, m], weights: [1, 2]}}\n  m: {pool: p}\n",
        &[
            "models.a.ensemble.members[0]: no such other model; allowed: b, c, m; given: a (weir.yaml:3:28)",
            "models.a.ensemble.members[2]: no such other model; allowed: b, c, m; given: n (weir.yaml:3:34)",
            "models.a.ensemble.members[3]: a member already; allowed: each model once; combine: weighted lets one count more; given: m \
             (weir.yaml:3:37)",
            "models.a.ensemble.weights: 3 weights for 4 members; allowed: one a member; given: a list of 3 (weir.yaml:3:69)",
            "models.a.ensemble.weights[1]: not a weight; allowed: a number above 0; given: 0 (weir.yaml:3:73)",
            "models.b.ensemble.members: no member; allowed: at least one model; given: a list of 0 (weir.yaml:4:27)",
            "models.c.ensemble.members[0]: an ensemble itself; allowed: a model that is none; given: b (weir.yaml:5:28)",
            "models.c.ensemble.weights: weights that combine does not use; allowed: combine: weighted or vote, or no weights; given: a list of 2 \
             (weir.yaml:5:44)",
        ],
    );
}

#[test]
fn joins_and_columns_that_do_not_fit() {
    let matrix = |columns: &str| {
        joined_text(&format!(", inputs: {{as: matrix, name: t, datatype: FP32, columns: [{columns}]}}"))
    };
    says(
        &matrix("x, 'user:s', 'user:l', 'user:zip', 'nope:a', {name: q, from: x}"),
        &[
            "models.m.inputs.columns[1]: a feature of type STRING does not fit a matrix of FP32; allowed: a matrix of BYTES, or as: columns; given: \
             \"user:s\" (weir.yaml:2:173)",
            "models.m.inputs.columns[3]: not a selected feature; allowed: user:s, user:l, user:a, item:f, or a tensor of the request; \
             given: \"user:zip\" (weir.yaml:2:193)",
            "models.m.inputs.columns[4]: not a selected feature; allowed: user:s, user:l, user:a, item:f, or a tensor of the request; \
             given: \"nope:a\" (weir.yaml:2:205)",
            "models.m.inputs.columns[5]: a name for a matrix column; allowed: view:feature, or a tensor's name, alone; given: a mapping \
             with name, from (weir.yaml:2:215)",
        ],
    );
    says(
        &matrix("'user:a'").replace("FP32", "BYTES"),
        &[
            "models.m.inputs.columns[0]: a feature of type INT64 does not fit a matrix of BYTES; allowed: a matrix of any datatype but BYTES, or as: \
           columns; given: \"user:a\" (weir.yaml:2:171)",
        ],
    );
    says(
        &joined_text(", inputs: {as: matrix, datatype: F32}"),
        &[
            "models.m.inputs.columns: missing; allowed: a matrix has name, datatype and columns (weir.yaml:2:122)",
            "models.m.inputs.name: missing; allowed: a matrix has name, datatype and columns (weir.yaml:2:122)",
            "models.m.inputs.datatype: not a datatype; allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, \
             FP64, BF16, BYTES; given: F32 (weir.yaml:2:145)",
        ],
    );
    says(
        &joined_text(", inputs: {as: columns, name: x, columns: ['user:a', {name: a, from: 'item:f'}]}"),
        &[
            "models.m.inputs.name: of a matrix only; allowed: as: matrix, or leave the key out; given: x (weir.yaml:2:142)",
            "models.m.inputs.columns[1]: two tensors named a; allowed: another name, written in inputs.columns as {name: …, from: \
             \"item:f\"}; given: a mapping with name, from (weir.yaml:2:165)",
        ],
    );
    says(
        &joined_text("").replace(
            "item: {entities: {b: INT32, a: STRING}, features: {f:",
            "item: {entities: {b: INT32, a: STRING}, features: {a:",
        ),
        &[
            "models.m.features: two tensors named a; allowed: another name, written in inputs.columns as {name: …, from: \"item:a\"}; given: \
           a list of 2 (weir.yaml:2:24)",
        ],
    );
    says(
        &joined_text("").replace("{b: y, a: x}", "{b: y, c: x}").replace("[s, l, a]", "[s, s, zz]"),
        &[
            "models.m.features[0].select[1]: selected already; allowed: each feature once; given: s (weir.yaml:2:71)",
            "models.m.features[0].select[2]: no such feature; allowed: a, s, l; given: zz (weir.yaml:2:74)",
            "models.m.features[1].join: does not name join key a; allowed: every join key of item: a, b; given: a mapping with b, c \
             (weir.yaml:2:99)",
            "models.m.features[1].join.c: no such join key; allowed: a, b; given: c (weir.yaml:2:109)",
        ],
    );
    says(
        &format!("{POOL}models: {{m: {{inputs: {{as: columns}}}}}}\n"),
        &[
            "models.m.inputs: inputs of a model that joins nothing; allowed: inputs beside `features` only; given: a mapping with as \
           (weir.yaml:2:22)",
        ],
    );
}

#[test]
fn views_whose_types_and_defaults_do_not_fit() {
    says(
        "features:\n  views:\n    a:b: {entities: {}, features: {}}\n    v:\n      entities: {id: FLOAT}\n      features:\n        \
         a: {type: INT32, default: 3000000000}\n        b: {type: DOUBLE_LIST, length: 3, default: [1]}\n        c: {type: STRING, length: 2}\n        \
         d: {type: MAP}\n        e: {type: INT}\n        f: {type: BOOL, default: 0}\n        g: {default: 1}\n",
        &[
            "features.views.a:b: not a view's name; allowed: ASCII letters, digits, `_`, `-` and `.`; given: a mapping with \
             entities, features (weir.yaml:3:10)",
            "features.views.a:b.entities: no join key; allowed: at least one, each with its type; given: a mapping with no keys \
             (weir.yaml:3:21)",
            "features.views.a:b.features: no feature; allowed: at least one, each with its type; given: a mapping with no keys \
             (weir.yaml:3:35)",
            "features.views.v.entities.id: not an entity type; allowed: BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP; given: FLOAT \
             (weir.yaml:5:22)",
            "features.views.v.features.a.default: does not fit INT32; allowed: a whole number of 32 bits; given: 3000000000 \
             (weir.yaml:7:35)",
            "features.views.v.features.b.default: 1 elements; allowed: 3, as `length` says; given: a list of 1 (weir.yaml:8:52)",
            "features.views.v.features.c.length: STRING is not a list; allowed: length on a list type only; given: 2 (weir.yaml:9:35)",
            "features.views.v.features.d.type: a type that no tensor can hold; allowed: BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL, \
             UNIX_TIMESTAMP, JSON, UUID, TIME_UUID, DECIMAL, each also with _LIST; given: MAP (weir.yaml:10:19)",
            "features.views.v.features.e.type: not a feature type; allowed: BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL, \
             UNIX_TIMESTAMP, JSON, UUID, TIME_UUID, DECIMAL, each also with _LIST; given: INT (weir.yaml:11:19)",
            "features.views.v.features.f.default: does not fit BOOL; allowed: true, false; given: 0 (weir.yaml:12:34)",
            "features.views.v.features.g.type: missing; allowed: text (in quotes where it looks like a number) (weir.yaml:13:12)",
        ],
    );
}

#[test]
fn stores_that_cannot_be_reached() {
    says(
        "features:\n  l2: {redis: ['redis://u:pw@h:1', 'http://u:pw@h/x', 'redis://h:port'], path: /x}\n  l3: {url: ftp://x}\n",
        &[
            "features.project: missing; allowed: the Feast project whose rows are in Redis (weir.yaml:2:3)",
            "features.l2.redis: several servers in mode single; allowed: one URL, or mode: cluster, or mode: sentinel; given: a list of 3 (weir.yaml:2:15)",
            "features.l2.redis[1]: http:// is not Redis; allowed: redis://[user:password@]host[:port][/db], or rediss:// for TLS; given: \
             \"http://***@h/x\" (weir.yaml:2:36)",
            "features.l2.redis[2]: not a Redis URL; allowed: redis://[user:password@]host[:port][/db], or rediss:// for TLS; given: \
             \"redis://h:port\" (weir.yaml:2:55)",
            "features.l2.path: beside `redis`; allowed: one online store; given: /x (weir.yaml:2:80)",
            "features.l3.url: ftp:// is not an object store; allowed: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, \
             file:///folder; given: ftp://x (weir.yaml:3:13)",
        ],
    );
    says(
        "features: {project: p, l2: {redis: 'redis://h/2', mode: cluster, dr: {redis: h}}, l3: {url: 's3:///x'}}\n",
        &[
            "features.l2.redis: database 2 of a cluster, which has 0 only; allowed: redis://[user:password@]host[:port][/db], or rediss:// \
             for TLS; given: \"redis://h/2\" (weir.yaml:1:36)",
            "features.l2.dr.redis: not a URL; allowed: redis://[user:password@]host[:port][/db], or rediss:// for TLS; given: h \
             (weir.yaml:1:78)",
            "features.l3.url: no bucket; allowed: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder; given: \
             \"s3:///x\" (weir.yaml:1:93)",
        ],
    );
}

#[test]
fn sentinels_and_authorities_that_lack_something() {
    let l2 = |text: &str| format!("features: {{project: p, l2: {{redis: 'redis://h', {text}}}}}\n");
    let refused = |text: &str, begins: &str| {
        let problems = bad(text);
        assert!(problems.len() == 1 && problems[0].starts_with(begins), "{problems:#?}");
    };
    refused(&l2("mode: sentinel"), "features.l2.master: missing; allowed: the name that the sentinels know");
    refused(&l2("mode: cluster, master: m"), "features.l2.master: a master without sentinels");
    refused(&l2("ca: /ca.pem"), "features.l2.ca: nothing is encrypted; allowed: ca beside a rediss:// URL only");
    refused("features: {l2: {mode: sentinel, master: m}}\n", "features.l2.mode: a mode without a Redis");
    refused(&l2("connections: 0"), "features.l2.connections: ");
    refused(&l2("max_in_flight: 0"), "features.l2.max_in_flight: ");
}

#[test]
fn default_answers_that_are_no_tensors() {
    says(
        &format!(
            "{POOL}models: {{m: {{fallback: {{rule: ' ', default: {{outputs: [{{name: a, datatype: F32, shape: [1], data: [1]}}, \
             {{name: b, datatype: UINT8, shape: [2, 1], data: [1, 300, x]}}, {{name: b, datatype: BYTES, shape: [0], data: []}}]}}}}}}}}\n"
        ),
        &[
            "models.m.fallback.rule: empty; allowed: a CEL expression; given: \" \" (weir.yaml:2:31)",
            "models.m.fallback.default.outputs[0].datatype: not a datatype; allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, \
             INT32, INT64, FP16, FP32, FP64, BF16, BYTES; given: F32 (weir.yaml:2:76)",
            "models.m.fallback.default.outputs[1].data: 3 elements for shape [2, 1]; allowed: as many as the shape's dimensions multiply \
             to; given: a list of 3 (weir.yaml:2:153)",
            "models.m.fallback.default.outputs[1].data[1]: does not fit UINT8; allowed: a whole number that the datatype holds; given: 300 \
             (weir.yaml:2:157)",
            "models.m.fallback.default.outputs[1].data[2]: does not fit UINT8; allowed: a whole number that the datatype holds; given: x \
             (weir.yaml:2:162)",
            "models.m.fallback.default.outputs[2].name: two tensors of one name; allowed: each name once; given: b (weir.yaml:2:174)",
        ],
    );
}

#[test]
fn a_list_in_a_matrix_needs_a_length() {
    let inputs = ", inputs: {as: matrix, name: x, datatype: FP32, columns: ['user:l', 'item:f']}";
    let text = |length: &str| joined_text(inputs).replace(", length: 3", length).replace(", default: [1, 2.5]", length);
    let lines = bad(&text(""));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with(
            "features.views.user.features.l: a list of unknown length, and a model's matrix needs it: a missing row would \
             have another width; allowed: length, or a default of as many elements; given: "
        ),
        "{}",
        lines[0]
    );
    assert!(lines[1].starts_with("features.views.item.features.f: a list of unknown length"), "{}", lines[1]);
    super::good(&text(", length: 2"));
    super::good(&text(", default: [1.5]"));
    super::good(&joined_text("").replace(", length: 3", ""));
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
fn names_that_headers_paths_and_metadata_cannot_carry() {
    let view = |name: &str| {
        let entry = "{entities: {a: INT64}, features: {f: {type: INT64}}}";
        format!("features: {{views: {{\"{name}\": {entry}}}}}\n")
    };
    let model = |name: &str| format!("{POOL}models: {{\"{name}\": {{}}}}\n");
    let tier = |name: &str| format!("{POOL}tiers: {{\"{name}\": }}\n");
    let pool = |name: &str| format!("pools: {{\"{name}\": {{endpoints: [http://h:1]}}}}\n");
    let refused = |text: String, told: &str| {
        let lines = bad(&text);
        assert!(lines.len() == 1 && lines[0].contains(told), "{text}{lines:?}");
    };
    for name in ["", "a:b", "a b", "a/b", "größe", "a;b", "a\\nb"] {
        refused(view(name), "not a view's name; allowed: ASCII letters, digits, `_`, `-` and `.`; given: ");
    }
    for name in ["", "a:b", "a b", "a/b", "größe", "a?b", "a#b", "a\\nb"] {
        refused(model(name), "not a model's name; allowed: visible ASCII characters without `/`, `:`, `?` and `#`");
    }
    for name in ["", "a b", "größe", "a\\nb", "a\\tb"] {
        refused(tier(name), "not a tier's name; allowed: visible ASCII characters; given: ");
        refused(pool(name), "not a pool's name; allowed: visible ASCII characters; given: ");
    }
    for text in [view("a_b-c.1"), model("a_b-c.1@x"), tier("best-effort"), pool("gpu-a")] {
        super::good(&text);
    }
}

#[test]
fn numbers_that_would_stop_or_spin_the_process() {
    let refused = |text: &str, path: &str| {
        let lines = bad(text);
        assert!(lines.len() == 1 && lines[0].starts_with(path), "{text}{lines:?}");
    };
    for number in ["0", "1025", "-1", ".inf"] {
        refused(&format!("workers: {number}\n"), "workers: ");
    }
    for number in [".nan", "NaN", ".inf", "-.inf", "1e999", "-0.1", "1.1"] {
        refused(&format!("capacity: {{shared: {number}}}\n"), "capacity.shared: not a ratio");
    }
    let pool = |keys: &str| format!("pools: {{p: {{endpoints: [http://h:1], {keys}}}}}\n");
    for number in [".nan", "-0.1", "1.1"] {
        refused(&pool(&format!("breaker: {{success_rate: {number}}}")), "pools.p.breaker.success_rate: not a ratio");
    }
    super::good(&pool("breaker: {success_rate: 0}"));
    for number in [".nan", ".inf", "1e999", "0.5"] {
        refused(&pool(&format!("retry: {{multiplier: {number}}}")), "pools.p.retry.multiplier: ");
    }
    for span in ["0s", "10000000h", "36501d", "99999999999999999999d"] {
        refused(&pool(&format!("health: {{interval: {span}}}")), "pools.p.health.interval: ");
        refused(&pool(&format!("health: {{timeout: {span}}}")), "pools.p.health.timeout: ");
        refused(&pool(&format!("attempt_timeout: {span}")), "pools.p.attempt_timeout: ");
        refused(&pool(&format!("breaker: {{window: {span}}}")), "pools.p.breaker.window: ");
        refused(&format!("listen: {{idle_timeout: {span}}}\n"), "listen.idle_timeout: ");
        refused(&format!("listen: {{max_connection_age: {span}}}\n"), "listen.max_connection_age: ");
        refused(&format!("listen: {{send_timeout: {span}}}\n"), "listen.send_timeout: ");
        refused(&format!("{POOL}models: {{m: {{timeout: {span}}}}}\n"), "models.m.timeout: ");
    }
    super::good(&pool("health: {interval: 36500d}"));
    refused("listen: {hold_bodies: 1MiB}\n", "listen.hold_bodies: less than listen.max_body");
    refused("listen: {max_rows: 0}\n", "listen.max_rows: ");
}

#[test]
fn lookup_files_know_no_versions_of_a_view() {
    says(
        "features: {versioned_views: true, l3: {url: 'file:///lookup'}}\n",
        &[
            "features.versioned_views: beside `l3`: a lookup file is of a view, whatever its version; allowed: one or the other; given: \
           true (weir.yaml:1:29)",
        ],
    );
}

#[test]
fn nobody_is_listened_to_without_a_redis() {
    says(
        "features: {invalidate: {tracking: true}}\n",
        &[
            "features.invalidate.tracking: there is no `l2.redis`; allowed: true beside `l2.redis` only; given: true (weir.yaml:1:35)",
        ],
    );
    let text = "features: {project: p, l2: {redis: 'redis://h'}, invalidate: {tracking: true}}\n";
    let config = good(text);
    assert!(config.features.invalidate.tracking && config.notices.is_empty(), "{:?}", config.notices);
}

#[test]
fn hot_keys_of_no_share_or_too_many_copies() {
    says(
        "features: {hot_keys: {share: 0.0009, min_rate: 0, copies: 32}}\n",
        &[
            "features.hot_keys.share: not a number in range; allowed: a number from 0.001 to 1; given: 0.0009 (weir.yaml:1:30)",
            "features.hot_keys.min_rate: not a whole number; allowed: a whole number of 1 or more; given: 0 (weir.yaml:1:48)",
            "features.hot_keys.copies: not a whole number in range or one of the words; allowed: a whole number from 1 to 31, or auto, off; \
             given: 32 (weir.yaml:1:59)",
        ],
    );
    for given in ["many", "0"] {
        let problems = bad(&format!("features: {{hot_keys: {{copies: {given}}}}}\n"));
        assert!(
            problems[0]
                .starts_with("features.hot_keys.copies: not a whole number in range or one of the words; allowed: "),
            "{problems:?}"
        );
    }
}

#[test]
fn a_warm_start_without_a_place_or_a_cache() {
    says(
        "features: {l1: {warm_start: {}}}\n",
        &[
            "features.l1.warm_start.save_to: missing; allowed: text (in quotes where it looks like a number) (weir.yaml:1:29)",
        ],
    );
    for length in ["499ms", "11s"] {
        let line = format!("features.lease: out of range; allowed: 500ms to 10s; given: {length} (weir.yaml:2:10)");
        says(&format!("features:\n  lease: {length}\n"), &[&line]);
    }
    says(
        "features:\n  l1:\n    capacity: 0B\n    warm_start: {save_to: l2, max_keys: 0, save_every: 500ms, timeout: 0s}\n",
        &[
            "features.l1.capacity: off, beside `warm_start`; allowed: more than 0B, or no warm start; given: 0B (weir.yaml:3:15)",
            "features.l1.warm_start.save_to: there is no `l2.redis`; allowed: the path of a file; given: l2 (weir.yaml:4:27)",
            "features.l1.warm_start.max_keys: not a whole number in range; allowed: a whole number from 1 to 100000; given: 0 \
             (weir.yaml:4:41)",
            "features.l1.warm_start.save_every: too short; allowed: 1s or more; given: 500ms (weir.yaml:4:56)",
            "features.l1.warm_start.timeout: zero; allowed: more than 0s; given: 0s (weir.yaml:4:72)",
        ],
    );
    for (given, wrong) in [("''", "empty"), ("s3://bucket/keys", "a URL")] {
        let problems = bad(&format!("features: {{l1: {{warm_start: {{save_to: {given}}}}}}}\n"));
        assert!(problems[0].starts_with(&format!("features.l1.warm_start.save_to: {wrong}; ")), "{problems:?}");
    }
}

#[test]
fn what_is_wrong_with_joins_hides_nothing_of_the_inputs() {
    let inputs = ", inputs: {as: matrix, name: t, datatype: FP3, columns: ['user:q', 'item:q', 'itm:f', 'user:a']}";
    let text = joined_text(inputs).replace("view: item", "view: itm").replace("{id: user_id}", "{idd: user_id}");
    let problems = bad(&text);
    let paths: Vec<_> = problems.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        paths,
        [
            "models.m.features[0].join: does not name join key id; allowed",
            "models.m.features[0].join.idd: no such join key, did you mean `id`?; allowed",
            "models.m.features[1].view: no such view, did you mean `item`?; allowed",
            "models.m.inputs.datatype: not a datatype; allowed",
            "models.m.inputs.columns[0]: not a selected feature; allowed",
            "models.m.inputs.columns[1]: not a selected feature; allowed",
        ],
        "{problems:#?}"
    );
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

#[test]
fn feature_servers_are_plain_different_and_alone() {
    says(
        "features:\n  l1: {warm_start: {save_to: l2}}\n  l2: {feature_server: ['https://a:1', http://b:1, 'http://b:1/', \
         http://c/x], path: p}\n",
        &[
            "features.l1.warm_start.save_to: there is no `l2.redis`; allowed: the path of a file; given: l2 (weir.yaml:2:30)",
            "features.l2.feature_server[0]: https:// is not supported; allowed: http://host:port; given: \"https://a:1\" \
             (weir.yaml:3:25)",
            "features.l2.feature_server[2]: the same server twice; allowed: each once; given: \"http://b:1/\" (weir.yaml:3:52)",
            "features.l2.feature_server[3]: a URL with more than a host and a port; allowed: http://host:port; given: \
             http://c/x (weir.yaml:3:67)",
            "features.l2.path: beside `feature_server`; allowed: one online store; given: p (weir.yaml:3:86)",
        ],
    );
    let both = bad("features: {project: p, l2: {redis: 'redis://r', feature_server: 'http://b:1'}}\n");
    let told =
        "features.l2.feature_server: beside `redis`; allowed: one online store; given: \"http://b:1\" (weir.yaml:1:65)";
    assert_eq!(both, [told]);
    let none = bad("features: {l2: {feature_server: []}}\n");
    assert!(none[0].starts_with("features.l2.feature_server: no URL; allowed: http://host:port"), "{none:?}");
}

#[test]
fn rules_that_cannot_answer() {
    let text = format!(
        "{POOL}features:\n  views:\n    a: {{entities: {{u: INT64}}, features: {{x: {{type: FLOAT}}, y: {{type: FLOAT}}}}}}\n    b: {{entities: {{u: \
         INT64}}, features: {{x: {{type: FLOAT}}}}}}\nmodels:\n  m:\n    features: [{{view: a, join: {{u: u}}}}, {{view: b, join: {{u: u}}}}]\n    inputs: \
         {{as: matrix, name: i, datatype: FP32, columns: [a:x]}}\n    fallback:\n      rule: 'x + b.x + y > 1.0 ? 1.0 : 0.0'\n      default: {{outputs: \
         [{{name: s, datatype: FP32, shape: [2], data: [1, 2]}}]}}\n"
    );
    let said = bad(&text);
    let (shape, rule) = (
        "models.m.fallback.default.outputs[0].shape: no row's",
        "models.m.fallback.rule: x is a feature of several views; allowed: a.x, b.x",
    );
    assert!(
        said.len() == 2 && [shape, rule].iter().all(|told| said.iter().any(|line| line.starts_with(told))),
        "{said:#?}"
    );
    good(
        &text.replace("rule: 'x +", "rule: 'a.x +").replace("shape: [2], data: [1, 2]", "shape: [1, 2], data: [1, 2]"),
    );
}

#[test]
fn rules_whose_answers_do_not_fit() {
    let with = |rule: &str, datatype: &str, data: &str| {
        format!(
            "{POOL}models:\n  m: {{fallback: {{rule: '{rule}', default: {{outputs: [{{name: s, datatype: {datatype}, shape: [1], data: [{data}]}}]}}}}}}\n"
        )
    };
    for (rule, datatype, data) in [
        ("\"abc\"", "FP32", "1"),
        ("a > 1.0 ? 0.5 : \"no\"", "FP32", "1"),
        ("0.5", "INT64", "1"),
        ("\"yes\"", "BOOL", "true"),
    ] {
        let said = bad(&with(rule, datatype, data));
        let told = "models.m.fallback.rule: does not fit the output that it fills: tensor \"s\": element 0: ";
        assert!(
            said.len() == 1 && said[0].starts_with(told) && said[0].contains("; allowed: answers that are "),
            "{said:#?}"
        );
    }
    let null = bad(&with("a > 1.0 ? null : 0.5", "FP32", "1"));
    assert!(
        null[0].starts_with("models.m.fallback.rule: does not fit the output that it fills: null is no element; "),
        "{null:?}"
    );
    for (rule, datatype, data) in [
        ("1", "FP32", "1"),
        ("a > 1.0 ? 0.5 : b", "FP32", "1"),
        ("\"abc\"", "BYTES", "x"),
        ("a", "INT64", "1"),
        ("true", "BOOL", "true"),
    ] {
        good(&with(rule, datatype, data));
    }
}

#[test]
fn a_spool_has_one_place_and_a_time() {
    says(
        "spool:\n  path: \"\"\n  keep_for: 0s\n",
        &[
            "spool.path: empty; allowed: the path of a file; given: \"\" (weir.yaml:2:9)",
            "spool.keep_for: zero; allowed: more than 0s; given: 0s (weir.yaml:3:13)",
        ],
    );
    says(
        "features: {project: p, l2: {redis: redis://h}}\nspool: {path: /x}\n",
        &[
            "spool.path: beside `features.l2.redis`, which has the spool; allowed: one store; given: /x (weir.yaml:2:15)",
        ],
    );
}

#[test]
fn copies_that_cannot_be_read() {
    let l2 = |text: &str| format!("features: {{project: p, l2: {{redis: 'redis://h', {text}}}}}\n");
    let refused = |text: &str, begins: &str| {
        let problems = bad(text);
        assert!(problems.len() == 1 && problems[0].starts_with(begins), "{problems:#?}");
    };
    refused(
        &l2("read_from: replica"),
        "features.l2.read_from: one server in mode single; allowed: primary, or mode: cluster or mode: sentinel",
    );
    refused(
        &l2("mode: cluster, read_from: replica, max_lag: 99ms"),
        "features.l2.max_lag: too short; allowed: 100ms or more",
    );
    refused(
        &l2("mode: cluster, max_lag: 2s"),
        "features.l2.max_lag: no replica is read; allowed: max_lag beside `read_from: replica` or `nearest` only; given: 2s",
    );
    refused(
        &l2("mode: cluster, read_from: nearest, zones: 10.0.1."),
        "features.l2.zones: not a mapping; allowed: a mapping from what servers' addresses begin with to their zones, such as {10.0.1.: a}; \
         given: 10.0.1.",
    );
    refused(&l2("mode: cluster, read_from: replica, zones: {10.: a}"), "features.l2.zones: nothing is read by them");
    refused(
        &l2("mode: cluster, read_from: nearest, zones: {10.: a}"),
        "features.l2.zones: the gateway has no zone of its own",
    );
    refused(
        "features: {l2: {read_from: nearest}}\n",
        "features.l2.read_from: without a Redis; allowed: read_from beside `redis` only",
    );
    refused(
        "features: {l2: {dr: {redis: 'redis://g'}}}\n",
        "features.l2.dr: without a Redis; allowed: dr beside `redis` only",
    );
    refused(&l2("dr: {}"), "features.l2.dr.redis: missing");
    refused(
        &l2("dr: {redis: 'redis://h'}"),
        "features.l2.dr.redis: a server of `l2.redis` itself; allowed: another Redis",
    );
    refused(&l2("dr: {redis: ['redis://g', 'redis://i']}"), "features.l2.dr.redis: several servers in mode single");
    refused(
        &l2("dr: {redis: 'redis://g', failover_after: 999ms}"),
        "features.l2.dr.failover_after: too short; allowed: 1s or more",
    );
    refused(&l2("dr: {redis: 'redis://g', back_after: 0s}"), "features.l2.dr.back_after: ");
}
