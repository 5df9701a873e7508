//! YAML text into a tree that knows where each part stood.
//!
//! Scalars keep their text: what they are is decided where the schema says what they should be. Duplicate keys, keys that are
//! not scalars, a second document and an empty file are problems here; anchors, aliases and tags are refused, because a
//! configuration that says a thing once needs none.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::problems::{Path, Position, Problem, Problems};

/// A part of the file.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) position: Position,
    pub(crate) kind: Kind,
    /// Came from `${…}`: never shown.
    pub(crate) secret: bool,
}

/// What a part of the file is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// As written; `plain` scalars may be numbers, truth values or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// In the file's order, each key with its place.
    Map(Vec<(String, Position, Node)>),
}

/// What a plain scalar means under YAML's core schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
}

impl Node {
    /// What the scalar means; `None` for lists and maps.
    pub(crate) fn scalar(&self) -> Option<Scalar<'_>> {
        let Kind::Scalar { text, plain } = &self.kind else { return None };
        if !plain {
            return Some(Scalar::Text(text));
        }
        if text.is_empty() {
            return Some(Scalar::Null);
        }
        Some(match saphyr::Scalar::parse_from_cow(text.as_str().into()) {
            saphyr::Scalar::Null => Scalar::Null,
            saphyr::Scalar::Boolean(v) => Scalar::Bool(v),
            saphyr::Scalar::Integer(v) => Scalar::Int(v),
            saphyr::Scalar::FloatingPoint(v) => Scalar::Float(v.into_inner()),
            saphyr::Scalar::String(_) => Scalar::Text(text),
        })
    }

    /// Whether nothing stands here.
    pub(crate) fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// The value as it may be printed: `***` for what came from `${…}`, no password of a URL, not too long.
    pub(crate) fn shown(&self) -> String {
        match &self.kind {
            _ if self.secret => "***".to_owned(),
            Kind::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Kind::Scalar { text, plain } => {
                let text = shorten(&without_password(text));
                if *plain && !text.is_empty() { text } else { format!("{text:?}") }
            }
            Kind::List(items) => format!("a list of {}", items.len()),
            Kind::Map(entries) => {
                let keys: Vec<_> = entries.iter().map(|(key, ..)| key.as_str()).collect();
                shorten(&format!("a mapping with {}", if keys.is_empty() { "no keys".into() } else { keys.join(", ") }))
            }
        }
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(std::iter::once('…')).collect()
}

/// `redis://user:password@host` as `redis://***@host`.
pub(crate) fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://***{}", &rest[user.len()..]),
        None => text.to_owned(),
    }
}

/// Reads the one document of a file. Duplicate keys are appended to `problems`; the first of them stays.
///
/// # Errors
/// What keeps the file from being read at all: not YAML, empty, more than one document.
pub(crate) fn read(text: &str, file: &str, problems: &mut Vec<Problem>) -> Result<Node, Problems> {
    read_as(Whole::Sections, text, file, problems)
}

/// What a file is made of.
#[derive(Clone, Copy)]
pub(crate) enum Whole {
    /// A configuration.
    Sections,
    /// A list of endpoints.
    Endpoints,
}

impl Whole {
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Sections => ("a configuration", "a mapping of sections"),
            Self::Endpoints => ("a list", "a list of endpoints"),
        }
    }

    const fn fits(self, kind: &Kind) -> bool {
        matches!((self, kind), (Self::Sections, Kind::Map(_)) | (Self::Endpoints, Kind::List(_)))
    }
}

/// Reads the one document of a file that is such a whole.
///
/// # Errors
/// As [`read`], and where it is another.
pub(crate) fn read_as(whole: Whole, text: &str, file: &str, problems: &mut Vec<Problem>) -> Result<Node, Problems> {
    let mut reader = Reader { parser: Parser::new_from_str(text), problems, depth: 0 };
    let read = reader.document(whole).map_err(|fault| fault.of_a_tab(text));
    read.map_err(|Fault { position, text }| Problems::of_file(file, position, text))
}

struct Fault {
    position: Position,
    text: String,
}

impl Fault {
    /// The parser says of a tab that something is missing, there or on the line after, and within a text that goes on for lines
    /// where that began.
    fn of_a_tab(self, file: &str) -> Self {
        if !self.text.starts_with(NOT_YAML) {
            return self;
        }
        let Position { line: here, column } = self.position;
        let indented = |line: &usize| {
            let text = file.lines().nth(line.checked_sub(1)?)?;
            let column = text.chars().take_while(|c| c.is_whitespace()).position(|c| c == '\t')? + 1;
            Some(Position { line: *line, column })
        };
        let after = if self.text.ends_with("found a tab") { here + 1 } else { here };
        let at = [here, here - 1, after].iter().find_map(indented);
        // Behind a colon, of which the parser tells what follows the tab.
        let is_tab =
            |column: &usize| file.lines().nth(here - 1)?.chars().nth(column.checked_sub(1)?).filter(|c| *c == '\t');
        let behind = || [column, column - 1].into_iter().find(|at| is_tab(at).is_some());
        let at = at.or_else(|| behind().map(|column| Position { line: here, column }));
        at.map_or(self, |position| Self {
            position,
            text: format!("line {}: a tab; YAML indents with spaces", position.line),
        })
    }
}

const NOT_YAML: &str = "not YAML";

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        let mark = error.marker();
        let position = Position { line: mark.line().max(1), column: mark.col() + 1 };
        Self { position, text: format!("{NOT_YAML}: {}", error.info()) }
    }
}

struct Reader<'a, 'p> {
    parser: Parser<'a, StrInput<'a>>,
    problems: &'p mut Vec<Problem>,
    depth: usize,
}

/// Deeper than any configuration, and far from the stack's end.
const DEEPEST: usize = 64;

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Result<(Event<'a>, Position), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(span))),
            Some(Err(error)) => Err(error.into()),
            None => Ok((Event::StreamEnd, Position { line: 1, column: 1 })),
        }
    }

    fn document(&mut self, whole: Whole) -> Result<Node, Fault> {
        let (name, allowed) = whole.words();
        let empty = |position| Fault { position, text: format!("the file is empty; allowed: {allowed}") };
        let mut root = None;
        loop {
            let (event, position) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    let text = "a second document starts here; allowed: one document a file".to_owned();
                    return Err(Fault { position, text });
                }
                Event::DocumentStart(_) => {
                    let (event, position) = self.next()?;
                    root = Some(self.node(event, position, &Path::default())?);
                }
                _ => {}
            }
        }
        let root = root.ok_or_else(|| empty(Position { line: 1, column: 1 }))?;
        match &root.kind {
            kind if whole.fits(kind) => Ok(root),
            _ if root.is_null() => Err(empty(root.position)),
            _ => {
                let text = format!("not {name}; allowed: {allowed}; given: {}", root.shown());
                Err(Fault { position: root.position, text })
            }
        }
    }

    fn node(&mut self, event: Event<'a>, position: Position, path: &Path) -> Result<Node, Fault> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Fault { position, text: format!("nested deeper than {DEEPEST} levels") });
        }
        refuse_extras(&event, position)?;
        let kind = match event {
            Event::Scalar(text, style, ..) => {
                Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => self.list(path)?,
            Event::MappingStart(..) => self.map(path)?,
            other => return Err(Fault { position, text: format!("not YAML: unexpected {other:?}") }),
        };
        self.depth -= 1;
        Ok(Node { position, kind, secret: false })
    }

    fn list(&mut self, path: &Path) -> Result<Kind, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, position) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Kind::List(items));
            }
            let item = self.node(event, position, &path.item(items.len()))?;
            items.push(item);
        }
    }

    fn map(&mut self, path: &Path) -> Result<Kind, Fault> {
        let mut entries: Vec<(String, Position, Node)> = Vec::new();
        loop {
            let (event, position) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Kind::Map(entries));
            }
            refuse_extras(&event, position)?;
            let Event::Scalar(key, ..) = event else {
                return Err(Fault { position, text: "a key that is a list or a mapping; allowed: text".to_owned() });
            };
            let key = key.into_owned();
            let path = path.key(&key);
            let (event, value_position) = self.next()?;
            let value = self.node(event, value_position, &path)?;
            match entries.iter().find(|(other, ..)| *other == key) {
                Some((_, first, _)) => {
                    let text = format!("set twice; allowed: once; first set at line {}", first.line);
                    self.problems.push(Problem { position, path, text });
                }
                None => entries.push((key, position, value)),
            }
        }
    }
}

fn refuse_extras(event: &Event<'_>, position: Position) -> Result<(), Fault> {
    let (anchor, tag) = match event {
        Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
            (*anchor, tag.is_some())
        }
        Event::Alias(_) => (1, false),
        _ => (0, false),
    };
    if anchor != 0 {
        return Err(Fault { position, text: "anchors and aliases are not supported; write the value out".to_owned() });
    }
    if tag {
        return Err(Fault { position, text: "tags are not supported; write the value without `!…`".to_owned() });
    }
    Ok(())
}

fn place(span: Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}
