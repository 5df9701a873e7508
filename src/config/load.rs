//! From a file, or its text, to a [`Config`] or to everything that is wrong.
//!
//! ```text
//! bytes → tree with positions → `${…}` → shape against the schema → types ──► Draft ──► meaning ──► Config
//!                                                          Feast's registry, where it is named ──┘
//! ```
//!
//! Reading the tree can end it; all later steps report everything they find. A [`Draft`] can be finished again and again, each time
//! with what the registry has become.

use std::{fs, path};

use serde::Deserialize;

use super::{
    Config, explain,
    problems::{Path, Position, Problem, Problems},
    raw::Root,
    schema,
    shape::Shape,
    substitute::{Sources, substitute},
    tree, validate, warnings,
};

/// A configuration, and how each of its keys came about.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// A line a key: value, default or set.
    pub(crate) explained: String,
}

/// A file that was read, and of which everything is known but what Feast's registry says.
#[derive(Debug)]
pub(crate) struct Draft {
    /// What problems call the file.
    name: String,
    raw: Root,
    shape: Shape,
    problems: Vec<Problem>,
}

/// Feast's registry, as far as it could be had.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Supplied<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// Nothing, and why.
    Nothing(&'a str),
}

impl Config {
    /// Reads the text of a file that names no registry; `name` is what problems call it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problems> {
        parse(text, name, &system()).map(|loaded| loaded.config)
    }

    /// Reads the text of a file that names a registry, of which these are the bytes.
    ///
    /// # Errors
    /// Everything that is wrong with the file, and with the registry.
    pub fn parse_with_registry(text: &str, name: &str, registry: &[u8]) -> Result<Self, Problems> {
        let draft = Draft::parse(text, name, &system())?;
        draft.finish(Supplied::Bytes(registry)).map(|loaded| loaded.config)
    }
}

/// Reads text that names no registry, with the given sources for `${…}`.
pub(crate) fn parse(text: &str, name: &str, sources: &Sources<'_>) -> Result<Loaded, Problems> {
    Draft::parse(text, name, sources)?.finish(Supplied::Nothing("nobody fetched it"))
}

fn system() -> Sources<'static> {
    Sources { var: &|name| std::env::var(name).ok(), file: &|path| fs::read_to_string(path) }
}

impl Draft {
    /// Reads a file.
    ///
    /// # Errors
    /// What keeps it from being read at all; other problems are told when the draft is finished.
    pub(crate) fn load(path: &path::Path) -> Result<Self, Problems> {
        let name = path.display().to_string();
        let start = Position { line: 1, column: 1 };
        let bytes =
            fs::read(path).map_err(|error| Problems::of_file(&name, start, format!("cannot be read: {error}")))?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let line = 1 + before.iter().filter(|b| **b == b'\n').count();
            let column = 1 + String::from_utf8_lossy(&before[line_start..]).chars().count();
            Problems::of_file(&name, Position { line, column }, "not UTF-8; allowed: UTF-8 text".to_owned())
        })?;
        Self::parse(text, &name, &system())
    }

    /// Reads text, with the given sources for `${…}`.
    pub(super) fn parse(text: &str, name: &str, sources: &Sources<'_>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut root = tree::read(text, name, &mut problems)?;
        substitute(&mut root, &Path::default(), sources, &mut problems);
        let mut shape = Shape::default();
        shape.check(&mut root, schema::inlined());
        problems.append(&mut shape.problems);
        match Root::deserialize(&root) {
            Ok(raw) => Ok(Self { name: name.to_owned(), raw, shape, problems }),
            Err(error) => {
                problems.push(Problem { position: root.position, path: Path::default(), text: format!("{error}") });
                Err(Problems::new(name, problems))
            }
        }
    }

    /// Where Feast's registry is, if the file names one.
    pub(crate) fn registry(&self) -> Option<&str> {
        self.raw.features.as_ref()?.registry.as_deref()
    }

    /// What the file means, with the registry where it names one.
    ///
    /// # Errors
    /// Everything that is wrong with the file, and with the registry.
    pub(crate) fn finish(&self, registry: Supplied<'_>) -> Result<Loaded, Problems> {
        let mut problems = self.problems.clone();
        let broken: Vec<Path> =
            problems.iter().map(|problem| problem.path.clone()).chain(self.shape.meant.iter().cloned()).collect();
        let (mut config, mut meaning) = validate::validate(&self.raw, &self.shape.places, &broken, registry);
        problems.append(&mut meaning);
        if !problems.is_empty() {
            return Err(Problems::new(&self.name, problems));
        }
        if config.features.l1.mode == super::L1Mode::Observe {
            let told = "features.l1.mode: observe: L1 is compared only, and serves nothing, stale rows neither";
            config.notices.push(told.into());
        }
        config.warnings = warnings::of(&config, &self.raw);
        Ok(Loaded { explained: explain::explain(&self.raw, &self.shape.places, &config), config })
    }
}
