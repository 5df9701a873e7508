//! The commands: a file's problems all at once, a schema, and a demo whose printed lines work as they stand.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    support::{
        process::{Folder, Spawned},
        weir::command,
    },
    world::{STORE, fraud_config},
};

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).stdin(Stdio::null()).output().expect("weir starts")
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn version_and_help() {
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert_eq!(said(&version).trim(), format!("weir {}", env!("CARGO_PKG_VERSION")));
    let help = said(&run(&["--help"]));
    for word in ["serve", "check", "schema", "demo", "offline", "-h, --help"] {
        assert!(help.contains(word), "{help}");
    }
    for arguments in [["serve", "--help"], ["offline", "--help"], ["check", "--help"]] {
        assert!(run(&arguments).status.success());
    }
    assert_eq!(run(&["nonsense"]).status.code(), Some(2));
}

#[test]
fn check_is_content_with_a_good_file() {
    let folder = Folder::new("check");
    let path = folder.write("weir.yaml", fraud_config("redis: [redis://127.0.0.1:6379]", ""));
    let output = run(&["check", "-c", &path.display().to_string()]);
    assert!(output.status.success(), "{}", said(&output));
}

/// What will not do what it seems to is a line each, and no failure.
#[test]
fn check_warns_and_is_content() {
    let folder = Folder::new("check");
    let missing = folder.path().join("endpoints.yaml");
    let text = format!(
        "pools:\n  p: {{zone: a, hedge: {{}}, endpoints: [\"http://h:1\"]}}\n  idle: {{endpoints: [{{file: {}}}]}}\nmodels:\n  m: {{pool: \
         p, idempotent: false}}\n",
        missing.display()
    );
    let output = run(&["check", "-c", &folder.write("weir.yaml", text).display().to_string()]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let warnings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    let paths: Vec<_> = warnings.iter().filter_map(|warning| warning.split(": ").next()).collect();
    assert_eq!(paths, ["pools.p", "pools.idle", "models.m.idempotent", "pools.idle.endpoints"], "{text}");
}

#[test]
fn check_prints_every_problem_at_once() {
    let folder = Folder::new("check");
    let path = folder.write(
        "weir.yaml",
        "pools:\n  a: {endpoints: [\"ftp://x\"]}\n  b: {endpoints: []}\nmodels:\n  m: {pool: nope, timeout: fast}\n  \
         n: {pool: a, tmeout: 1s}\nfeatures:\n  project: p\n  views:\n    v: {entities: {k: FLOAT}, features: {f: {type: INT65}}}\n",
    );
    let output = run(&["check", "-c", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    for (path, given) in [
        ("pools.a.endpoints", "ftp"),
        ("pools.b.endpoints", ""),
        ("models.m.pool", "nope"),
        ("models.m.timeout", "fast"),
        ("models.n.tmeout", "tmeout"),
        ("features.views.v.entities.k", "FLOAT"),
        ("features.views.v.features.f.type", "INT65"),
    ] {
        assert!(text.lines().any(|line| line.contains(path) && line.contains(given)), "no line about {path}:\n{text}");
    }
}

/// What librdkafka would refuse at the start, without a broker.
#[test]
fn check_has_librdkafka_judge_its_properties() {
    let folder = Folder::new("check");
    let checked = |properties: &str| {
        let kafka = format!("brokers: [\"127.0.0.1:1\"], topic: t, librdkafka: {{{properties}}}");
        let text = format!("features: {{project: p, invalidate: {{kafka: {{{kafka}}}}}}}\n");
        run(&["check", "-c", &folder.write("weir.yaml", text).display().to_string()])
    };
    let good = checked("client.id: weir-eu");
    assert!(good.status.success(), "{}", said(&good));
    for (properties, told) in [
        ("client.idd: x", "No such configuration property: \"client.idd\""),
        ("session.timeout.ms: \"400000\"", "max.poll.interval.ms"),
    ] {
        let refused = checked(properties);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        let text = said(&refused);
        assert!(text.contains("features.invalidate.kafka") && text.contains(told), "{text}");
    }
}

#[test]
fn a_file_that_is_none() {
    let folder = Folder::new("check");
    let path = folder.write("weir.yaml", "pools: [\n");
    let output = run(&["check", "-c", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for command in ["check", "serve"] {
        let output = run(&[command, "-c", "/does/not/exist.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("/does/not/exist.yaml"), "{}", said(&output));
    }
}

/// A start that cannot go on says which key, or which variable, is in the way.
#[test]
fn a_file_that_serve_cannot_make_is_named() {
    let folder = Folder::new("serve");
    let file = folder.path().join("none/file").display().to_string();
    let serve = |name: &str, sections: &str, log: &str| {
        let text = format!("listen: {{http: \"127.0.0.1:0\", grpc: none, admin: \"127.0.0.1:0\"}}\n{sections}\n");
        let path = folder.write(name, text);
        let mut serve = command();
        serve.args(["serve", "-c"]).arg(path).env("WEIR_ACCESS_LOG", log).stdin(Stdio::null());
        let output = serve.output().expect("weir starts");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    };
    for (sections, log, told) in [
        (format!("spool: {{path: {file}}}"), "off", format!("spool.path: {file} cannot be opened")),
        (format!("features: {{project: p, l2: {{path: {file}}}}}"), "off", format!("features.l2: cannot open {file}")),
        (String::new(), &*file, format!("WEIR_ACCESS_LOG={file}: No such file")),
    ] {
        let text = serve("weir.yaml", &sections, log);
        assert!(text.contains(&told), "{told}: {text}");
    }
}

#[test]
fn the_schema_is_a_json_schema() {
    let output = run(&["schema"]);
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(schema["$schema"].as_str().is_some_and(|uri| uri.contains("json-schema.org")), "{}", schema["$schema"]);
    for key in ["listen", "pools", "models", "features", "drain"] {
        assert!(schema["properties"][key].is_object(), "no {key}");
    }
}

#[test]
fn offline_build_says_what_it_built_and_what_was_wrong() {
    let folder = Folder::new("offline");
    let config = folder.write("weir.yaml", fraud_config("redis: [redis://127.0.0.1:6379]", ""));
    let to = format!("file://{}", folder.path().join("lookup").display());
    let from = format!("file://{}", STORE.1.parquet("user_stats").display());
    let config = config.display().to_string();
    let build =
        |view: &str, from: &str| run(&["offline", "build", "-c", &config, "--view", view, "--from", from, "--to", &to]);
    let output = build("user_stats", &from);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("20"), "it says how many rows: {}", said(&output));
    assert!(folder.path().join("lookup").read_dir().is_ok_and(|mut entries| entries.next().is_some()));

    let output = build("nope", &from);
    assert!(!output.status.success() && said(&output).contains("nope"), "{}", said(&output));
    assert!(said(&output).contains("user_stats"), "it says which views there are: {}", said(&output));
    let missing = format!("file://{}/missing.parquet", folder.path().display());
    let output = build("user_stats", &missing);
    assert!(!output.status.success() && said(&output).contains("missing.parquet"), "{}", said(&output));
    // The wrong view's file: the column that is missing is named.
    let wrong = format!("file://{}", STORE.1.parquet("merchant_stats").display());
    let output = build("user_stats", &wrong);
    assert!(!output.status.success() && said(&output).contains("user_id"), "{}", said(&output));
}

/// The curl lines that the demo printed.
fn curl_lines(log: &str) -> Vec<String> {
    let lines = log.lines().map(str::trim).map(|line| line.trim_start_matches("$ "));
    lines.filter(|line| line.starts_with("curl ")).map(ToOwned::to_owned).collect()
}

/// Runs a printed line as a user would paste it; status, headers and body.
#[track_caller]
fn paste(line: &str) -> (u16, String) {
    let line = format!("{} --silent --show-error --include --max-time 20 --write-out '\\n%{{http_code}}'", line);
    let output = Command::new("bash").args(["-c", &line]).stdin(Stdio::null()).output().expect("bash is there");
    assert!(output.status.success(), "{line}: {}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.lines().last().and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{line}: {text}")), text)
}

#[test]
fn the_demo_is_what_it_says() {
    let folder = Folder::new("demo");
    // From any directory, and wherever it was started with whatever ports taken: it prints where it listens.
    let mut demo = Spawned::start("demo", command().arg("demo").current_dir(folder.path()), folder.path());
    let lines = demo.ready("three curl lines", |process| {
        let lines = curl_lines(&process.log());
        (lines.len() >= 3).then_some(lines)
    });
    let mut from_l3 = false;
    for line in &lines {
        let (status, first) = paste(line);
        assert_eq!(status, 200, "{line}: {first}");
        let (status, second) = paste(line);
        assert_eq!(status, 200, "{line}: {second}");
        let cache = |text: &str| {
            let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with("cache-status:"));
            line.unwrap_or_default().to_ascii_lowercase()
        };
        if cache(&first).contains("weir-l3; hit") {
            assert!(cache(&second).contains("weir-l1; hit"), "{second}");
            from_l3 = true;
        }
    }
    assert!(from_l3, "one line scores a user whose features come from L3 first:\n{}", demo.log());
    assert_eq!(demo.ended(), None, "it keeps running");
    demo.signal("TERM");
    assert_eq!(demo.wait(Duration::from_secs(60)).code(), Some(0), "{}", demo.log());
}

#[test]
fn the_demo_ends_on_ctrl_c_too() {
    let folder = Folder::new("demo");
    let mut demo = Spawned::start("demo", command().arg("demo").current_dir(folder.path()), folder.path());
    demo.ready("a curl line", |process| (!curl_lines(&process.log()).is_empty()).then_some(()));
    demo.signal("INT");
    assert_eq!(demo.wait(Duration::from_secs(60)).code(), Some(0), "{}", demo.log());
}
