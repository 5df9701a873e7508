//! Everything that is wrong with a configuration file, each with the path of its key and its place in the file.
//!
//! A problem reads `path.to.key: what is wrong; allowed: …; given: … (file:line:column)`. A value that came from
//! `${…}`, and the password in a URL, are never shown.

use std::{collections::HashMap, fmt};

/// The path of a key: `models.fraud.features[0].view`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Path(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Segment {
    Key(String),
    Index(usize),
}

impl Segment {
    fn as_key(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key),
            Self::Index(_) => None,
        }
    }
}

impl Path {
    /// The path of a top-level key.
    pub(crate) fn of(key: &str) -> Self {
        Self::default().key(key)
    }

    /// The path of a key below this one.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The path of a list's item.
    pub(crate) fn item(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The path one up; `None` at the top.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// The keys, outermost first; empty for a path through a list.
    pub(crate) fn keys(&self) -> Vec<&str> {
        self.0.iter().map(Segment::as_key).collect::<Option<_>>().unwrap_or_default()
    }

    /// Whether one of the two holds the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    let plain = !key.is_empty() && !key.contains(|c: char| ".[]\"".contains(c) || c.is_whitespace());
                    if plain { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

/// A place in the file, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Where each key of the file is, and what was given there.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<Path, (Position, String)>);

impl Places {
    /// Remembers a key.
    pub(crate) fn insert(&mut self, path: Path, position: Position, given: String) {
        self.0.insert(path, (position, given));
    }

    /// Whether the file sets the key.
    pub(crate) fn is_set(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// What the file gives for the key, fit to be shown.
    pub(crate) fn given(&self, path: &Path) -> Option<&str> {
        self.0.get(path).map(|(_, given)| given.as_str())
    }

    /// Where the key is, or else the nearest key that holds it.
    pub(crate) fn position(&self, path: &Path) -> Position {
        let mut path = path.clone();
        loop {
            if let Some((position, _)) = self.0.get(&path) {
                return *position;
            }
            match path.parent() {
                Some(parent) => path = parent,
                None => return Position { line: 1, column: 1 },
            }
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) position: Position,
    pub(crate) path: Path,
    /// What is wrong; what is allowed; what was given.
    pub(crate) text: String,
}

/// Everything that is wrong with a configuration, in the file's order; prints as one line each.
#[derive(Debug)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// Sorts the problems by place; two of the same words at the same key are one.
    pub(crate) fn new(file: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by(|a, b| (a.position, &a.path, &a.text).cmp(&(b.position, &b.path, &b.text)));
        list.dedup_by(|a, b| a.path == b.path && a.text == b.text);
        Self { file: file.to_owned(), list }
    }

    /// One problem that concerns the file as a whole.
    pub(crate) fn of_file(file: &str, position: Position, text: String) -> Self {
        Self { file: file.to_owned(), list: vec![Problem { position, path: Path::default(), text }] }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none; never so where `Config::parse` returned it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { position, path, text }) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            if *path != Path::default() {
                write!(f, "{path}: ")?;
            }
            write!(f, "{text} ({}:{}:{})", self.file, position.line, position.column)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
