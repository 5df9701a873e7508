//! How promotions are heard of, and what a model is called there.

use std::time::Duration;

use super::{bad, good, read};
use crate::config::MlflowAccess;

const MODELS: &str = "pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {pool: p, upstream_model: up}, n: {pool: p, registered_model: r}, o: {pool: p}}\n";

#[test]
fn a_model_is_registered_as_what_it_says_else_as_its_pool_calls_it() {
    let config = good(MODELS);
    let names: Vec<_> = config.models.iter().map(|model| &*model.registered).collect();
    assert_eq!(names, ["up", "r", "o"]);
    assert!(config.mlflow.is_none());
    let explained = read(MODELS).unwrap().explained;
    assert!(explained.contains("models.m.registered_model: up  (default)"), "{explained}");
}

#[test]
fn a_webhook_a_server_or_both() {
    let webhook = good(&format!("{MODELS}mlflow: {{secret: s}}")).mlflow.unwrap();
    assert_eq!((webhook.tolerance, webhook.server.is_none()), (Duration::from_secs(300), true));
    assert!(webhook.counts("anything"));
    let both = format!(
        "{MODELS}mlflow: {{secret: '${{TOKEN}}', url: 'https://mlflow.example/base/', token: '${{TOKEN}}', reconcile_every: 30s, aliases: [champion, v1x, '12']}}"
    );
    let config = good(&both);
    assert!(!format!("{config:?}").contains("s3cret"));
    let mlflow = config.mlflow.unwrap();
    assert!(mlflow.counts("champion") && !mlflow.counts("shadow"));
    let server = mlflow.server.unwrap();
    assert_eq!((&*server.url, server.every), ("https://mlflow.example/base", Duration::from_secs(30)));
    assert!(matches!(server.access, MlflowAccess::Bearer(_)));
    assert!(!read(&both).unwrap().explained.contains("s3cret"));
}

#[test]
fn what_hears_of_nothing_is_refused() {
    for (keys, told) in [
        ("{}", "mlflow: neither `secret` nor `url`, so that no promotion is heard of; allowed: one of them, or both"),
        ("{secret: ''}", "mlflow.secret: empty; allowed: text, best as ${file:/path} or ${VAR}, or leave the key out"),
        ("{secret: s, tolerance: 0s}", "mlflow.tolerance: too short; allowed: 1s or more; given: 0s"),
        ("{secret: s, aliases: []}", "mlflow.aliases: none, so that nothing is a promotion; allowed: at least one"),
        ("{secret: s, token: t}", "mlflow: access without a `url`"),
        ("{url: 'mlflow:5000'}", "mlflow.url: not a URL; allowed: http://host[:port][/path], or https://"),
        ("{url: 'ftp://mlflow'}", "mlflow.url: ftp:// is not supported"),
        ("{url: 'http://u:p@mlflow'}", "mlflow.url: a URL with more than a host, a port and a path"),
        ("{url: 'http://m', reconcile_every: 10ms}", "mlflow.reconcile_every: too short; allowed: 1s or more"),
        (
            "{secret: s, aliases: [champion, 'a b']}",
            "mlflow.aliases[1]: not an alias that a version can have, so that it is never set; allowed: up to 255 letters, digits, `_` and `-`, \
             other than `latest`, and `v` and a number, as MLflow has it; given: \"a b\"",
        ),
        ("{secret: s, aliases: [Latest]}", "mlflow.aliases[0]: not an alias that a version can have"),
        ("{secret: s, aliases: [v12]}", "mlflow.aliases[0]: not an alias that a version can have"),
        ("{secret: s, aliases: ['']}", "mlflow.aliases[0]: not an alias that a version can have"),
        ("{secret: s, aliases: [a, b, a]}", "mlflow.aliases[2]: named twice; allowed: each alias once; given: a "),
        (
            "{url: 'http://m', username: u}",
            "mlflow.username: without its `password`; allowed: a token alone, or username and password, or none of them; given: u ",
        ),
        ("{url: 'http://m', username: '', password: p}", "mlflow.username: empty; allowed: a token alone"),
        ("{url: 'http://m', password: p}", "mlflow.password: without its `username`; allowed: a token alone"),
        (
            "{url: 'http://m', token: t, username: u, password: p}",
            "mlflow.token: beside `username` or `password`: two ways to be known; allowed: a token alone",
        ),
        ("{url: 'http://m', timeout: 0s}", "mlflow.timeout: zero"),
    ] {
        let problems = bad(&format!("{MODELS}mlflow: {keys}"));
        assert!(problems.len() == 1 && problems[0].starts_with(told), "{keys}: {problems:?}");
    }
    let problems = bad("pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {pool: p, registered_model: ''}}\n");
    assert!(problems[0].starts_with("models.m.registered_model: empty"), "{problems:?}");
}
