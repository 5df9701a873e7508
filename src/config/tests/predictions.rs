//! Where predictions are kept, and of whom.

use std::time::Duration;

use super::{FULL, bad, good};

#[test]
fn the_documented_cache_is_read_as_written() {
    let config = good(FULL);
    let cache = config.models[0].cache.as_ref().unwrap();
    assert_eq!((cache.ttl, cache.keep_for), (Duration::from_secs(30), Duration::from_secs(3600)));
    assert_eq!((cache.entity.as_deref(), cache.headers.len()), (Some("user_id"), 0));
    assert_eq!(config.predictions.capacity, 64 << 20);
    let shared = config.predictions.l2.unwrap();
    assert_eq!((&*shared.project, shared.redis.urls[0].0.as_str()), ("fraud", "redis://127.0.0.1:6379"));
}

#[test]
fn they_are_shared_where_there_are_any_a_redis_and_leave() {
    let text = |cache: &str, l2: &str, predictions: &str| {
        format!(
            "pools: {{p: {{endpoints: [http://h:1]}}}}\nmodels: {{m: {{pool: p{cache}}}}}\nfeatures: {{project: p, l2: {{{l2}}}}}\n{predictions}"
        )
    };
    let redis = "redis: 'redis://r'";
    for (cache, l2, predictions, shared) in [
        (", cache: {}", redis, "", true),
        ("", redis, "", false),
        (", cache: {}", "", "", false),
        (", cache: {}", redis, "predictions: {l2: false}\n", false),
    ] {
        assert_eq!(good(&text(cache, l2, predictions)).predictions.l2.is_some(), shared, "{cache} {l2} {predictions}");
    }
}

#[test]
fn a_cache_that_could_answer_wrong_is_refused() {
    let model = |keys: &str| format!("pools: {{p: {{endpoints: [http://h:1]}}}}\nmodels: {{m: {{pool: p, {keys}}}}}\n");
    for (keys, told) in [
        ("cache: {ttl: 2h}", "models.m.cache.keep_for: less than ttl (2h); allowed: at least 2h"),
        ("cache: {ttl: 0s}", "models.m.cache.ttl: "),
        (
            "idempotent: false, cache: {}",
            "models.m.cache: beside `idempotent: false`; allowed: a cache only where asking twice changes nothing",
        ),
        (
            "cache: {headers: [x-a, 'x b']}",
            "models.m.cache.headers[1]: not a header's name; allowed: letters, digits and -, as in x-tenant; given: \"x b\"",
        ),
    ] {
        let problems = bad(&model(keys));
        assert!(problems.len() == 1 && problems[0].starts_with(told), "{keys}: {problems:?}");
    }
}
