//! Who may name whom: the layers of the source tree, as a table that this test reads the source against.
//!
//! A module's layer is its first path component. `crate::…` paths and the `super::…` paths that leave a top-level module are
//! resolved; comments, strings and test code are not read. Test code may name anything.

#![expect(clippy::panic, reason = "that is how a test fails")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What everybody on the path may name: the vocabulary, the validated config, metric handles, the mechanisms.
const BELOW: &[&str] = &["infer", "config", "telemetry", "resilience"];

/// Where background work is started, so that the drain waits for it: the one thing of a higher layer that is named from below.
const TASKS: &str = "app::Tasks";

/// Module, what of [`BELOW`] it may name, and what else: a module, or one type of it.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    // Vocabulary and mechanisms.
    ("infer", &[], &[]),
    ("proto", &[], &[]),
    ("resilience", &["config"], &[]),
    ("config", &["infer"], &[]),
    // It says what a breaker did in the breaker's words.
    ("telemetry", &["infer", "config"], &["resilience::breaker"]),
    ("redis_link", &["config"], &[]),
    // Stages: of each other, only the type that the one before hands on.
    ("ladder", BELOW, &[]),
    ("admission", BELOW, &[]),
    ("features", BELOW, &[]),
    ("enrich", BELOW, &["features::FeatureSet"]),
    ("predictions", BELOW, &["enrich::Enriched", "enrich::Body", "redis_link"]),
    ("promotions", BELOW, &["predictions::Predictions"]),
    ("predict", BELOW, &["enrich::Enriched", "enrich::Body", "admission::Permit"]),
    // The path, and what carries requests to it.
    ("pipeline", BELOW, &["ladder", "admission", "features", "enrich", "predictions", "predict"]),
    // The feature server's API reads and writes rows through the pipeline's store; this is what it calls them.
    ("ingress", BELOW, &["pipeline", "proto", "features::online", "features::Store", "spool"]),
    ("kafka", BELOW, &["features::Store", "features::invalidate", "ingress::feast"]),
    ("admin", BELOW, &["pipeline", "promotions", "spool"]),
    ("spool", BELOW, &["redis_link"]),
];

/// These compose everything.
const ABOVE: &[&str] = &["main", "lib", "cli", "app", "demo"];

/// What benches and fuzz targets need of a module's inside: built with it, used by nothing of the gateway.
const FOR_BENCHES: &[&[&str]] =
    &[&["enrich", "sample"], &["ladder", "sample"], &["features", "tiered", "sample"], &["cli", "offline", "measure"]];

/// Lines a file may have, tests apart.
const LONGEST_FILE: usize = 600;

struct Source {
    path: PathBuf,
    /// `["features", "row"]`
    module: Vec<String>,
    /// Without test modules.
    text: String,
}

#[test]
fn every_module_names_only_what_lies_below() {
    let mut problems = Vec::new();
    for source in sources() {
        let layer = source.module[0].as_str();
        if ABOVE.contains(&layer) {
            continue;
        }
        let Some((_, below, handed)) = LAYERS.iter().find(|(name, ..)| *name == layer) else {
            problems.push(format!("{}: module {layer:?} is not in the table of layers", source.path.display()));
            continue;
        };
        for named in names(&source) {
            let module = named.split("::").next().unwrap_or_default();
            let allowed = module == layer
                || below.contains(&module)
                || (named.starts_with(TASKS) && below.contains(&"resilience"))
                || handed.iter().any(|allowed| named == *allowed || named.starts_with(&format!("{allowed}::")));
            if !allowed {
                problems.push(format!("{}: {layer} may not name {named}", source.path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut problems = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LONGEST_FILE {
            problems.push(format!("{}: {lines} lines, at most {LONGEST_FILE}", source.path.display()));
        }
        if !source.text.starts_with("//!") {
            problems.push(format!("{}: does not open with //!", source.path.display()));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn functions_are_kept_short_by_clippy() {
    let manifest = read("Cargo.toml");
    for lint in ["too_many_lines = \"deny\"", "too_many_arguments = \"deny\""] {
        assert!(manifest.contains(lint), "Cargo.toml no longer has {lint}");
    }
    assert!(read("clippy.toml").contains("too-many-lines-threshold = 80"), "clippy.toml no longer stops at 80 lines");
}

#[test]
fn test_modules_are_not_read() {
    let text =
        "//! x\n#[cfg(test)]\nmod grid;\nuse crate::a;\n#[cfg(test)]\nmod tests {\n    use crate::b;\n}\nuse crate::c;";
    let Tests { text, files } = without_tests(text);
    assert_eq!(text, "//! x\nuse crate::a;\nuse crate::c;");
    assert_eq!(files, ["grid"]);
}

#[test]
fn paths_are_found_however_they_are_written() {
    let text = r#"
        use crate::{config::{self, View}, infer::*}; // crate::comment
        use super::super::features::row::Row;
        use super::sibling;
        fn f() -> crate::predict::Prediction { let text = "crate::text"; crate::enrich::run(b'"', '"') }
        use crate::{ladder, admission::Permit as P};
        /* crate::block */
    "#;
    let module = vec!["predict".into(), "attempt".into()];
    let source = Source { path: "x.rs".into(), module, text: text.into() };
    let expected = [
        "admission::Permit",
        "config",
        "config::View",
        "enrich::run",
        "features::row::Row",
        "infer",
        "ladder",
        "predict::Prediction",
        "predict::sibling",
    ];
    assert_eq!(names(&source).into_iter().collect::<Vec<_>>(), expected);
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every source file that is not a test's.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut for_tests) = (Vec::new(), Vec::new());
    for path in files(&root) {
        let text = fs::read_to_string(&path).expect("source is text");
        let relative = path.strip_prefix(&root).expect("it is under src").with_extension("");
        let mut module: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.len() > 1 && module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let tests = without_tests(&text);
        let parent = if module == ["lib"] || module == ["main"] { Vec::new() } else { module.clone() };
        for_tests.extend(tests.files.into_iter().map(|name| [parent.as_slice(), &[name]].concat()));
        found.push(Source { path, module, text: tests.text });
    }
    found.retain(|source| {
        !FOR_BENCHES.contains(&source.module.iter().map(String::as_str).collect::<Vec<_>>().as_slice())
    });
    found.retain(|source| !for_tests.iter().any(|module| source.module.starts_with(module)));
    assert!(!found.is_empty());
    found
}

/// The Rust files under a folder.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the source tree").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// What one file declares for tests only.
struct Tests {
    /// The text without its inline test modules.
    text: String,
    /// Names of the files declared as `#[cfg(test)] mod name;`.
    files: Vec<String>,
}

/// Takes test modules out: inline ones to their closing brace, others by name.
fn without_tests(text: &str) -> Tests {
    let (mut kept, mut files) = (Vec::new(), Vec::new());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let module = lines.peek().and_then(|next| module_name(next)).filter(|_| line.trim() == "#[cfg(test)]");
        let Some(name) = module else {
            kept.push(line);
            continue;
        };
        let declared = lines.next().unwrap_or_default();
        if declared.ends_with(';') {
            files.push(name.to_owned());
        } else {
            // rustfmt puts the closing brace where the declaration began.
            let indent = &declared[..declared.len() - declared.trim_start().len()];
            let close = format!("{indent}}}");
            lines.by_ref().find(|line| *line == close);
        }
    }
    Tests { text: kept.join("\n"), files }
}

fn module_name(line: &str) -> Option<&str> {
    let rest =
        line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").strip_prefix("mod ")?;
    Some(rest.trim_end_matches([' ', '{', ';']))
}

/// Every path into the crate that the source names, without the leading `crate::`.
fn names(source: &Source) -> BTreeSet<String> {
    let tokens = tokens(&source.text);
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let preceded = at > 0 && (tokens[at - 1] == "::" || tokens[at - 1] == "$");
        let base = match tokens[at].as_str() {
            "crate" if !preceded => Some((Vec::new(), at + 1)),
            "super" if !preceded => Some(climb(&source.module, &tokens, at)),
            _ => None,
        };
        at = match base {
            Some((base, next)) if tokens.get(next).is_some_and(|token| token == "::") => {
                path(&tokens, next + 1, &base, &mut found)
            }
            _ => at + 1,
        };
    }
    found
}

/// Where `super::super` leads, and the token after it.
fn climb(module: &[String], tokens: &[String], mut at: usize) -> (Vec<String>, usize) {
    let mut base = module.to_vec();
    base.pop();
    while tokens.get(at + 1).is_some_and(|token| token == "::")
        && tokens.get(at + 2).is_some_and(|token| token == "super")
    {
        base.pop();
        at += 2;
    }
    (base, at + 1)
}

/// Collects the path, or tree of paths, that begins at `at` below `base`; the token after it.
fn path(tokens: &[String], mut at: usize, base: &[String], found: &mut BTreeSet<String>) -> usize {
    let mut path = base.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = self::path(tokens, at, &path, found);
                    if tokens.get(at).is_some_and(|token| token == "as") {
                        at += 2;
                    }
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some("*" | "self") => at += 1,
            Some(name) if is_identifier(name) => {
                path.push(name.to_owned());
                at += 1;
            }
            // Something that the grammar of paths does not know: go on after it.
            _ => return at + 1,
        }
        if tokens.get(at).is_some_and(|token| token == "::") {
            at += 1;
        } else {
            if !path.is_empty() {
                found.insert(path.join("::"));
            }
            return at;
        }
    }
}

fn is_identifier(token: &str) -> bool {
    token.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
}

/// Identifiers, `::` and single characters, without comments, strings and character literals.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let rest = &chars[at..];
        at += match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => find(rest, &['*', '/']),
            ['r', '#', '"', ..] => find(rest, &['"', '#']),
            ['r', '"', ..] => 2 + rest[2..].iter().position(|c| *c == '"').map_or(rest.len() - 2, |end| end + 1),
            ['"', ..] => string_length(rest),
            ['\'', '\\', ..] => 3 + rest[3..].iter().position(|c| *c == '\'').map_or(0, |end| end + 1),
            ['\'', _, '\'', ..] => 3,
            [':', ':', ..] => {
                tokens.push("::".into());
                2
            }
            [first, ..] if first.is_alphabetic() || *first == '_' => {
                let length = rest.iter().position(|c| !(c.is_alphanumeric() || *c == '_')).unwrap_or(rest.len());
                tokens.push(rest[..length].iter().collect());
                length
            }
            [first, ..] => {
                if !first.is_whitespace() {
                    tokens.push(first.to_string());
                }
                1
            }
            [] => 1,
        };
    }
    tokens
}

/// The length up to and with the end mark.
fn find(rest: &[char], end: &[char]) -> usize {
    rest[2..].windows(end.len()).position(|window| window == end).map_or(rest.len(), |at| at + 2 + end.len())
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}
