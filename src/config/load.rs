//! From a file, or its text, to a [`Config`] or to everything that is wrong.
//!
//! The order: bytes → tree with positions → `${…}` → shape against the schema → types → meaning. The first two can end it; all
//! others report everything they find.

use std::{fs, path};

use serde::Deserialize;

use super::{
    Config, explain,
    problems::{Path, Position, Problem, Problems},
    raw::Root,
    schema,
    shape::Shape,
    substitute::{Sources, substitute},
    tree, validate,
};

/// A configuration, and how each of its keys came about.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// A line a key: value, default or set, reload class.
    pub(crate) explained: String,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &path::Path) -> Result<Self, Problems> {
        load(path).map(|loaded| loaded.config)
    }

    /// Reads the text of a file; `name` is what problems call it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problems> {
        parse(text, name, &system()).map(|loaded| loaded.config)
    }
}

/// Reads a file, explained.
pub(crate) fn load(path: &path::Path) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let start = Position { line: 1, column: 1 };
    let bytes = fs::read(path).map_err(|error| Problems::of_file(&name, start, format!("cannot be read: {error}")))?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let column = 1 + String::from_utf8_lossy(&before[line_start..]).chars().count();
        Problems::of_file(&name, Position { line, column }, "not UTF-8; allowed: UTF-8 text".to_owned())
    })?;
    parse(text, &name, &system())
}

fn system() -> Sources<'static> {
    Sources { var: &|name| std::env::var(name).ok(), file: &|path| fs::read_to_string(path) }
}

/// Reads text, with the given sources for `${…}`.
pub(crate) fn parse(text: &str, name: &str, sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut root = tree::read(text, name, &mut problems)?;
    substitute(&mut root, &Path::default(), sources, &mut problems);
    let mut shape = Shape::default();
    shape.check(&mut root, schema::inlined());
    problems.append(&mut shape.problems);
    let raw = match Root::deserialize(&root) {
        Ok(raw) => raw,
        Err(error) => {
            problems.push(Problem { position: root.position, path: Path::default(), text: format!("{error}") });
            return Err(Problems::new(name, problems));
        }
    };
    let broken: Vec<Path> = problems.iter().map(|problem| problem.path.clone()).chain(shape.meant).collect();
    let (mut config, mut meaning) = validate::validate(&raw, &shape.places, &broken);
    problems.append(&mut meaning);
    if !problems.is_empty() {
        return Err(Problems::new(name, problems));
    }
    config.notices = shape.notices;
    Ok(Loaded { explained: explain::explain(&raw, &shape.places, &config), config })
}
