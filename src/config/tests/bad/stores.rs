//! Views, and the stores that features and requests are kept in.

use super::*;

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
