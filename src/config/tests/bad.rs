//! What is said of bad files, word for word.

mod capacity;
mod models;
mod stores;

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
