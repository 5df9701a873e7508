//! A request's columns as join keys: coerced to the types of the views that use them, echoed as they then are.

use std::borrow::Cow;

use super::{
    catalog::{Catalog, DUMMY},
    cell,
    errors::{Refusal, list, repr},
    plan::Part,
    request::{Column, Frame},
    value,
};
use crate::{
    config::Compat,
    infer::{EntityColumn, EntityType, EntityValue, Error, decoded::shown},
};

/// A column that the answer gives back.
#[derive(Debug)]
pub(super) struct Echo<'a> {
    /// The join key's name in the request.
    pub(super) name: Cow<'a, str>,
    given: Given<'a>,
}

#[derive(Debug)]
enum Given<'a> {
    /// A join key of what is asked for.
    Key(EntityColumn, Option<usize>),
    /// Another of the project's, as it was written.
    Other(&'a Column<'a>),
}

/// The columns of a part's keys.
#[derive(Debug)]
pub(super) enum Keys<'a> {
    /// One for each of the view's join keys.
    All(Vec<&'a EntityColumn>),
    /// Some are not given: such a key cannot exist.
    Partial,
}

/// The columns that name entities of the project, and how many rows they have.
pub(super) fn columns<'a>(
    catalog: &Catalog,
    parts: &[Part],
    frame: &'a Frame<'a>,
) -> Result<(Vec<Echo<'a>>, usize), Refusal> {
    if frame.columns.is_empty() {
        let told = "\"entities\" has no column; allowed: the join keys, each with a list of values";
        return Err(Refusal::python(repr("pop from an empty set"), told));
    }
    let rows = frame.columns.iter().map(|column| column.rows).max().unwrap_or_default();
    if rows > catalog.max_rows {
        let most = catalog.max_rows;
        return Err(Error::invalid(format!(
            "too many rows: the request has {rows}; allowed: at most {most} (listen.max_rows)"
        ))
        .into());
    }
    let mut echoes = Vec::<Echo<'a>>::with_capacity(frame.columns.len());
    for column in &frame.columns {
        let Some(name) = join_key(catalog, parts, &column.name) else { continue };
        let given = match one_kind(parts, &name)? {
            Some(kind) => typed(column, kind, catalog.compat)?,
            None => Given::Other(column),
        };
        match echoes.iter_mut().find(|echo| echo.name == name) {
            Some(echo) => echo.given = given,
            None => echoes.push(Echo { name, given }),
        }
    }
    if frame.rows().is_none() {
        let lengths: Vec<_> =
            frame.columns.iter().map(|c| format!("{} has {}", shown(&c.name, 64), c.rows)).take(20).collect();
        let told = format!("the columns of \"entities\" must have as many values each: {}", lengths.join(", "));
        return Err(Refusal::python("All entity rows must have the same columns.", told));
    }
    Ok((echoes, rows))
}

/// The join key that a request's column stands for.
fn join_key<'a>(catalog: &Catalog, parts: &[Part], name: &'a Cow<'a, str>) -> Option<Cow<'a, str>> {
    if catalog.join_keys.contains(&**name) || kind(parts, name).is_some() {
        return Some(Cow::Borrowed(name));
    }
    catalog.join_key_of(name).map(|key| Cow::Owned(key.to_string()))
}

/// The type that all parts declare that use a column: it is read once.
fn one_kind(parts: &[Part], name: &str) -> Result<Option<EntityType>, Refusal> {
    let Some(first) = kind(parts, name) else { return Ok(None) };
    for part in parts {
        let at = part.columns.iter().position(|column| **column == *name);
        if let Some(other) = at.map(|at| part.view.entities[at].1).filter(|other| *other != first) {
            let message = format!(
                "{name} is {} in one of the views and {} in view {}; allowed: to ask for them apart",
                first.name(),
                other.name(),
                part.view.name
            );
            return Err(Refusal::python(repr(&message), message));
        }
    }
    Ok(Some(first))
}

/// The declared type of a column, where a part uses it.
fn kind(parts: &[Part], name: &str) -> Option<EntityType> {
    parts.iter().find_map(|part| {
        let at = part.columns.iter().position(|column| **column == *name)?;
        (name != DUMMY).then(|| part.view.entities[at].1)
    })
}

fn typed<'a>(column: &Column<'_>, kind: EntityType, compat: Compat) -> Result<Given<'a>, Refusal> {
    let (mut values, mut null) = (Vec::with_capacity(column.rows), None);
    for (row, given) in column.cells().enumerate() {
        values.push(match cell::entity(kind, &given, compat) {
            Ok(value) => value,
            Err(cell::Wrong::Null) => {
                null = null.or(Some(row));
                EntityValue::Int64(0)
            }
            Err(wrong) => {
                let told = wrong.told(kind.name(), kind.in_json());
                let name = shown(&column.name, 64);
                return Err(Refusal::python(wrong.python(), format!("entities.{name}[{row}]: {told}")));
            }
        });
    }
    Ok(Given::Key(EntityColumn::Rows(values), null))
}

/// The columns of a part's keys.
pub(super) fn keys<'a>(
    catalog: &Catalog,
    part: &Part,
    echoes: &'a [Echo<'_>],
    nobody: &'a EntityColumn,
    rows: usize,
) -> Result<Keys<'a>, Refusal> {
    if part.columns.iter().all(|column| **column == *DUMMY) && rows > 0 {
        return Ok(Keys::All(vec![nobody]));
    }
    let mut found = Vec::with_capacity(part.columns.len());
    for name in &part.columns {
        if let Some(Echo { given: Given::Key(column, null), .. }) = echoes.iter().find(|echo| echo.name == **name) {
            if let Some(row) = null {
                let told = cell::Wrong::Null.told("a join key", "one value");
                return Err(Refusal::python(cell::Wrong::Null.python(), format!("entities.{name}[{row}]: {told}")));
            }
            found.push(column);
        }
    }
    if found.is_empty() || rows == 0 {
        return Err(missing(catalog, part, echoes, rows));
    }
    Ok(if found.len() == part.columns.len() { Keys::All(found) } else { Keys::Partial })
}

/// No join key of a view is given.
fn missing(catalog: &Catalog, part: &Part, echoes: &[Echo<'_>], rows: usize) -> Refusal {
    let given =
        |key: &str| part.columns.iter().any(|column| **column == *key) && echoes.iter().any(|echo| echo.name == key);
    let mut expected: Vec<&str> = catalog.join_keys.iter().map(|key| &**key).collect();
    expected.extend(part.columns.iter().map(|column| &**column).filter(|column| *column != DUMMY));
    expected.sort_unstable();
    expected.dedup();
    let missing: Vec<&str> = expected.iter().copied().filter(|key| !given(key)).collect();
    let empty = expected.iter().copied().filter(|key| rows == 0 || !given(key));
    let text = format!(
        "Missing join key values for keys: {}. No values provided for keys: {}. Provided join_key_values: {}",
        list(missing.iter().copied()),
        list(empty),
        list(echoes.iter().map(|echo| &*echo.name)),
    );
    let needed = part.columns.join(", ");
    let told = format!("view {} needs values of {needed}; \"entities\" has none", part.name);
    Refusal::python(repr(&text), told)
}

impl Echo<'_> {
    /// Appends the values, separated by commas.
    pub(super) fn write(&self, out: &mut Vec<u8>, rows: usize) {
        for row in 0..rows {
            if row > 0 {
                out.push(b',');
            }
            match &self.given {
                Given::Key(_, Some(null)) if row == *null => out.extend_from_slice(b"null"),
                Given::Key(column, _) => write(out, column.get(row)),
                Given::Other(column) => out.extend_from_slice(column.raw(row)),
            }
        }
    }
}

fn write(out: &mut Vec<u8>, key: Option<&EntityValue>) {
    match key {
        Some(EntityValue::Bytes(bytes)) => value::base64(out, bytes),
        Some(EntityValue::String(text)) => value::string(out, text),
        Some(EntityValue::Int32(number)) => value::integer(out, i64::from(*number)),
        Some(EntityValue::Int64(number) | EntityValue::UnixTimestamp(number)) => value::integer(out, *number),
        None => out.extend_from_slice(b"null"),
    }
}
