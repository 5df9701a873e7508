//! Bodies of the feature server's API, read in one pass: names borrowed, cells as ranges until somebody knows their type.
//!
//! A column's cells are kept up to a limit and counted beyond; columns that nobody wants are only counted. So a body costs a
//! small multiple of its length, whatever is in it. What does not fit the schema is told by `schema`, not here.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use crate::infer::{
    Error,
    decoded::{
        Span, Text,
        json::{self, Scanner},
        scalar::Scalar,
    },
};

/// Columns of cells: `entities`, or `df`.
#[derive(Debug, Default)]
pub(super) struct Frame<'a> {
    pub(super) columns: Vec<Column<'a>>,
}

/// One column.
#[derive(Debug)]
pub(super) struct Column<'a> {
    pub(super) name: Cow<'a, str>,
    body: &'a [u8],
    /// The first cells; none of a column that nobody wants.
    cells: Vec<Span>,
    /// All of them.
    pub(super) rows: usize,
}

/// What is kept of columns.
#[derive(Clone, Copy)]
pub(super) struct Keep<'k> {
    /// Whether somebody wants a column of that name.
    pub(super) wants: &'k dyn Fn(&str) -> bool,
    /// Cells of a column.
    pub(super) most: usize,
}

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is not UTF-8.
    Utf8,
    /// It is not JSON.
    Json,
    /// It is JSON of another form.
    Schema,
    /// It is longer than ranges reach.
    TooLong,
}

impl From<Error> for Unread {
    fn from(_: Error) -> Self {
        Self::Json
    }
}

/// `POST /get-online-features`.
#[derive(Debug, Default)]
pub(super) struct Online<'a> {
    pub(super) entities: Frame<'a>,
    service: Option<Cow<'a, str>>,
    pub(super) features: List<'a>,
    pub(super) full_names: bool,
    pub(super) versions: bool,
}

/// A list of texts, checked, and taken apart where somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    /// As it was written.
    pub(super) const fn raw(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn texts(self) -> Vec<Cow<'a, str>> {
        let mut texts = Vec::new();
        if !self.0.is_empty() {
            // It was walked before: nothing can be wrong.
            let _ = Scanner::new(self.0).array(|scanner| {
                texts.push(scanner.text("it")?.get(self.0));
                Ok(())
            });
        }
        texts
    }
}

/// `POST /push` and `POST /write-to-online-store`.
#[derive(Debug)]
pub(super) struct Push<'a> {
    /// Of the push source, or the view.
    pub(super) name: Cow<'a, str>,
    pub(super) frame: Frame<'a>,
    pub(super) to: Cow<'a, str>,
}

impl<'a> Column<'a> {
    /// A cell, of those that were kept.
    pub(super) fn cell(&self, row: usize) -> Scalar<'a> {
        Scalar::json(self.raw(row))
    }

    /// A cell as it was written.
    pub(super) fn raw(&self, row: usize) -> &'a [u8] {
        self.cells[row].of(self.body)
    }

    /// The cells that were kept.
    pub(super) fn cells(&self) -> impl ExactSizeIterator<Item = Scalar<'a>> {
        let body = self.body;
        self.cells.iter().map(move |cell| Scalar::json(cell.of(body)))
    }
}

impl Frame<'_> {
    /// How many rows the columns have; `None` where they do not agree, or there is none.
    pub(super) fn rows(&self) -> Option<usize> {
        let first = self.columns.first()?.rows;
        self.columns.iter().all(|column| column.rows == first).then_some(first)
    }
}

impl<'a> Online<'a> {
    /// Reads a body.
    pub(super) fn read(body: &'a [u8], keep: Keep<'_>) -> Result<Self, Unread> {
        let mut read = Self::default();
        let mut entities = false;
        members(body, |scanner, key| {
            match &*key {
                "entities" => {
                    read.entities = frame(body, scanner, keep)?;
                    entities = true;
                }
                "feature_service" => read.service = optional_text(body, scanner)?,
                "features" => read.features = texts(body, scanner)?,
                "full_feature_names" => read.full_names = boolean(body, scanner)?,
                "include_feature_view_version_metadata" => read.versions = boolean(body, scanner)?,
                _ => pass(scanner)?,
            }
            Ok(())
        })?;
        if entities { Ok(read) } else { Err(Unread::Schema) }
    }

    /// The service that is asked for; one without a name is none.
    pub(super) fn service(&self) -> Option<&str> {
        self.service.as_deref().filter(|name| !name.is_empty())
    }
}

impl<'a> Push<'a> {
    /// Reads a body in which `named` says what is written to.
    pub(super) fn read(body: &'a [u8], named: &str, keep: Keep<'_>) -> Result<Self, Unread> {
        let (mut name, mut found, mut to) = (None, None, Cow::Borrowed("online"));
        members(body, |scanner, key| {
            match &*key {
                key if key == named => name = Some(text(body, scanner)?),
                "df" => found = Some(frame(body, scanner, keep)?),
                "to" => to = text(body, scanner)?,
                "allow_registry_cache" | "transform_on_write" => {
                    boolean(body, scanner)?;
                }
                _ => pass(scanner)?,
            }
            Ok(())
        })?;
        let (Some(name), Some(frame)) = (name, found) else { return Err(Unread::Schema) };
        Ok(Self { name, frame, to })
    }
}

/// Walks the members of the object that the body must be.
fn members<'a>(
    body: &'a [u8],
    mut visit: impl FnMut(&mut Scanner<'a>, Cow<'a, str>) -> Result<(), Unread>,
) -> Result<(), Unread> {
    if u32::try_from(body.len()).is_err() {
        return Err(Unread::TooLong);
    }
    json::utf8(body).map_err(|_| Unread::Utf8)?;
    let mut scanner = Scanner::new(body);
    scanner.space();
    if scanner.peek() != Some(b'{') {
        scanner.value()?;
        scanner.end()?;
        return Err(Unread::Schema);
    }
    let mut unread = None;
    scanner.object(|scanner, key| {
        if unread.is_some() {
            return scanner.value().map(drop);
        }
        let began = *scanner;
        match visit(scanner, key.get(body)) {
            Ok(()) => Ok(()),
            // The rest is still to be found JSON.
            Err(other) => {
                *scanner = began;
                unread = Some(other);
                scanner.value().map(drop)
            }
        }
    })?;
    scanner.end()?;
    unread.map_or(Ok(()), Err)
}

fn pass(scanner: &mut Scanner<'_>) -> Result<(), Unread> {
    Ok(scanner.value().map(drop)?)
}

fn frame<'a>(body: &'a [u8], scanner: &mut Scanner<'a>, keep: Keep<'_>) -> Result<Frame<'a>, Unread> {
    if scanner.peek() != Some(b'{') {
        return Err(Unread::Schema);
    }
    let mut frame = Frame::default();
    let mut lists = true;
    // By name: a body may have as many columns as it has room for.
    let mut places = HashMap::new();
    scanner.object(|scanner, key| {
        if scanner.peek() != Some(b'[') {
            lists = false;
            return scanner.value().map(drop);
        }
        let column = column(body, scanner, key, keep)?;
        // Of a name given twice the last counts, in the first one's place.
        match places.entry(column.name.clone()) {
            Entry::Occupied(place) => frame.columns[*place.get()] = column,
            Entry::Vacant(place) => {
                place.insert(frame.columns.len());
                frame.columns.push(column);
            }
        }
        Ok(())
    })?;
    if lists { Ok(frame) } else { Err(Unread::Schema) }
}

fn column<'a>(body: &'a [u8], scanner: &mut Scanner<'a>, key: Text, keep: Keep<'_>) -> Result<Column<'a>, Error> {
    let name = key.get(body);
    let most = if (keep.wants)(&name) { keep.most } else { 0 };
    let (mut cells, mut rows) = (Vec::new(), 0);
    scanner.array(|scanner| {
        let span = scanner.span()?;
        if rows < most {
            cells.push(span);
        }
        rows += 1;
        Ok(())
    })?;
    Ok(Column { name, body, cells, rows })
}

fn text<'a>(body: &'a [u8], scanner: &mut Scanner<'a>) -> Result<Cow<'a, str>, Unread> {
    if scanner.peek() != Some(b'"') {
        return Err(Unread::Schema);
    }
    Ok(scanner.text("it")?.get(body))
}

fn optional_text<'a>(body: &'a [u8], scanner: &mut Scanner<'a>) -> Result<Option<Cow<'a, str>>, Unread> {
    if scanner.peek() == Some(b'n') {
        return pass(scanner).map(|()| None);
    }
    text(body, scanner).map(Some)
}

fn texts<'a>(body: &'a [u8], scanner: &mut Scanner<'a>) -> Result<List<'a>, Unread> {
    if scanner.peek() != Some(b'[') {
        return Err(Unread::Schema);
    }
    let mut fits = true;
    let list = scanner.array(|scanner| {
        if scanner.peek() != Some(b'"') {
            fits = false;
            return scanner.value().map(drop);
        }
        scanner.text("it").map(drop)
    })?;
    if fits { Ok(List(list.of(body))) } else { Err(Unread::Schema) }
}

fn boolean(body: &[u8], scanner: &mut Scanner<'_>) -> Result<bool, Unread> {
    let span = scanner.span()?;
    truth(&Scalar::json(span.of(body))).ok_or(Unread::Schema)
}

/// What pydantic takes for a boolean.
pub(super) fn truth(scalar: &Scalar<'_>) -> Option<bool> {
    match scalar {
        Scalar::Bool(truth) => Some(*truth),
        Scalar::Number("1" | "1.0") => Some(true),
        Scalar::Number("0" | "0.0") => Some(false),
        Scalar::Text(text) => match text.to_ascii_lowercase().as_str() {
            "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
            "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Keep<'_> = Keep { wants: &|_| true, most: 3 };

    #[test]
    fn cells_are_kept_up_to_the_limit_and_counted_beyond() {
        let body = br#"{"entities": {"a": [1, "x", null, [2]], "b": [true]}, "features": ["v:f"], "bogus": {"x": 1}}"#;
        let read = Online::read(body, ALL).unwrap();
        let columns = &read.entities.columns;
        assert_eq!((columns[0].rows, columns[0].cells().len()), (4, 3));
        assert_eq!(columns[0].cell(1), Scalar::Text("x".into()));
        assert_eq!(read.entities.rows(), None);
        assert_eq!(read.features.texts(), ["v:f"]);
        let nobody = Keep { wants: &|name| name == "b", most: 3 };
        let read = Online::read(body, nobody).unwrap();
        assert_eq!((read.entities.columns[0].rows, read.entities.columns[0].cells().len()), (4, 0));
    }

    #[test]
    fn a_name_given_twice_counts_as_its_last() {
        let body = br#"{"entities": {"a": [1], "b": [2], "a": [3, 4]}, "entities": {"a": [1, 2], "a": [5]}}"#;
        let read = Online::read(body, ALL).unwrap();
        assert_eq!(read.entities.columns.len(), 1);
        assert_eq!(read.entities.columns[0].cell(0), Scalar::Number("5"));
    }

    #[test]
    fn what_does_not_fit_is_told_apart_from_what_is_no_json() {
        for (body, schema) in [
            (&br#"{"entities": []}"#[..], true),
            (br#"{"entities": {"a": 1}}"#, true),
            (br#"{"features": ["v:f"]}"#, true),
            (br#"{"entities": {}, "features": [1]}"#, true),
            (br#"{"entities": {}, "full_feature_names": "maybe"}"#, true),
            (b"[1]", true),
            (b"null", true),
            (br#"{"entities": [}"#, false),
            (br#"{"entities": {}"#, false),
            (br#"{"entities": {}} x"#, false),
            (br#"{"entities": {"a": [NaN]}}"#, false),
            (b"", false),
        ] {
            let unread = Online::read(body, ALL).expect_err("unfit");
            assert_eq!(matches!(unread, Unread::Schema), schema, "{}", String::from_utf8_lossy(body));
        }
        assert!(matches!(Online::read(b"{\"a\": \"\xff\"}", ALL), Err(Unread::Utf8)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Online::read(&bytes, ALL);
            let _ = Push::read(&bytes, "push_source_name", ALL);
        }

        #[test]
        fn a_body_says_what_was_written(
            names in proptest::collection::vec("[a-z\"\\\\ü]{0,5}", 0..4),
            rows in 0usize..3,
            full: bool,
        ) {
            let mut names = names;
            names.sort();
            names.dedup();
            let column: Vec<i64> = (0..rows as i64).collect();
            let entities: serde_json::Map<_, _> =
                names.iter().map(|name| (name.clone(), serde_json::json!(column))).collect();
            let body = serde_json::json!({
                "entities": entities, "features": names, "full_feature_names": full, "feature_service": null,
            });
            let body = body.to_string();
            let read = Online::read(body.as_bytes(), ALL).unwrap();
            prop_assert_eq!(&read.features.texts(), &names);
            prop_assert_eq!(read.full_names, full);
            let told: Vec<&str> = read.entities.columns.iter().map(|column| &*column.name).collect();
            prop_assert_eq!(told, names.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert!(read.entities.columns.iter().all(|column| column.rows == rows));
        }
    }
}
