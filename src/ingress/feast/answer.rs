//! The answer's JSON, written straight into one buffer, column by column.
//!
//! What all columns of a view have in common (their rows' times, and `PRESENT` as often as there are rows) is written once and
//! copied; a cell is judged where it is written. Nothing is allocated for a cell.

use super::{
    entity::Echo,
    plan::{Part, Plan},
    request::Online,
    text::{Cell, Text},
    time::{EPOCH, Stamp},
    value::{self, Unreadable},
};
use crate::{
    features::online::{Age, Found, ViewRows},
    infer::Value,
};

/// The most room that is made before anything is written.
const MOST_ROOM: usize = 1 << 20;

/// What a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Present,
    Null,
    NotFound,
    Outside,
    /// What is stored cannot be read: the status that Feast's clients make of any they do not know.
    Invalid,
}

impl Status {
    const fn text(self) -> &'static [u8] {
        match self {
            Self::Present => b"\"PRESENT\"",
            Self::Null => b"\"NULL_VALUE\"",
            Self::NotFound => b"\"NOT_FOUND\"",
            Self::Outside => b"\"OUTSIDE_MAX_AGE\"",
            Self::Invalid => b"\"INVALID\"",
        }
    }
}

/// What is told of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tells {
    /// What is so.
    Truth,
    /// `PRESENT`, as Feast's Python has it.
    Presence,
    /// The same, but of rows too old, as Feast's Python has it of precomputed vectors.
    Age,
}

impl Tells {
    const fn of(self, status: Status) -> Status {
        match (self, status) {
            (Self::Truth, status) => status,
            // Feast's own would have no answer at all.
            (_, Status::Invalid) => Status::Invalid,
            (Self::Age, Status::Outside) => Status::Outside,
            (Self::Age | Self::Presence, _) => Status::Present,
        }
    }
}

/// One view's share of an answer and its rows; `None`: its keys cannot exist.
pub(super) type Filled<'a> = (&'a Part, Option<&'a ViewRows>);

/// What there is under one key, and what of it is the same in all columns.
struct Line<'a> {
    found: &'a Found,
    text: Option<Text<'a>>,
    stamp: Option<Stamp>,
}

/// An answer being written.
struct Sheet {
    out: Vec<u8>,
    /// Whether there is a column already.
    begun: bool,
    /// The members of `metadata.feature_names`.
    names: Vec<u8>,
    rows: usize,
    tells: Tells,
    /// `"PRESENT",…`, one a row.
    present: Vec<u8>,
    /// The epoch, one a row.
    epochs: Vec<u8>,
    /// Statuses of the column at hand.
    statuses: Vec<Status>,
}

/// The longest answer, in bytes.
pub(super) const LONGEST: usize = 256 << 20;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// What is stored is no value.
    Unreadable,
    /// It would be longer than [`LONGEST`].
    TooLong,
}

impl From<Unreadable> for Unwritten {
    fn from(Unreadable: Unreadable) -> Self {
        Self::Unreadable
    }
}

/// Writes an answer.
pub(super) fn write(
    (request, plan): (&Online<'_>, &Plan),
    echoes: &[Echo<'_>],
    parts: &[Filled<'_>],
    (rows, tells): (usize, Tells),
) -> Result<Vec<u8>, Unwritten> {
    let features: usize = parts.iter().map(|(part, _)| part.select.len()).sum();
    let mut sheet = Sheet::new(rows, echoes.len() + features, tells);
    for echo in echoes {
        sheet.echo(echo);
    }
    sheet.name(&plan.names);
    for (part, found) in parts {
        sheet.part(part, *found)?;
    }
    Ok(sheet.end(request.versions, parts))
}

impl Sheet {
    fn new(rows: usize, columns: usize, tells: Tells) -> Self {
        // A cell takes some 12 bytes for its status, 23 for its time, and a number.
        let mut out = Vec::with_capacity((256 + columns * (64 + rows * 48)).min(MOST_ROOM));
        out.extend_from_slice(b"{\"results\":[");
        Self {
            out,
            begun: false,
            names: Vec::with_capacity(columns * 32),
            rows,
            tells,
            present: repeated(Status::Present.text(), rows),
            epochs: repeated(&[b"\"", EPOCH, b"\""].concat(), rows),
            statuses: Vec::with_capacity(rows),
        }
    }

    fn begin(&mut self) {
        self.out.extend_from_slice(if self.begun { b",{\"values\":[" } else { b"{\"values\":[" });
        self.begun = true;
    }

    /// Adds to the names of columns.
    fn name(&mut self, names: &[u8]) {
        if !self.names.is_empty() && !names.is_empty() {
            self.names.push(b',');
        }
        self.names.extend_from_slice(names);
    }

    fn statuses(&mut self) {
        self.out.extend_from_slice(b"],\"statuses\":[");
    }

    fn times(&mut self) {
        self.out.extend_from_slice(b"],\"event_timestamps\":[");
    }

    fn echo(&mut self, echo: &Echo<'_>) {
        let mut name = Vec::with_capacity(echo.name.len() + 2);
        value::string(&mut name, &echo.name);
        self.name(&name);
        self.begin();
        echo.write(&mut self.out, self.rows);
        self.statuses();
        self.out.extend_from_slice(&self.present);
        self.times();
        self.out.extend_from_slice(&self.epochs);
        self.out.extend_from_slice(b"]}");
    }

    fn part(&mut self, part: &Part, found: Option<&ViewRows>) -> Result<(), Unwritten> {
        let lines = found.map_or_else(Vec::new, |rows| self.lines(&rows.found));
        let mut times = Vec::with_capacity(self.rows * 23);
        for row in 0..self.rows {
            let stamp = found.and_then(|rows| lines[rows.at(row)].stamp.as_ref());
            put_time(&mut times, row, stamp);
        }
        for &feature in &part.select {
            self.begin();
            match found {
                Some(rows) => self.column(rows, feature, (&lines, &times))?,
                None => self.nothing(),
            }
            self.out.extend_from_slice(b"]}");
        }
        Ok(())
    }

    fn lines<'a>(&self, found: &'a [Found]) -> Vec<Line<'a>> {
        let mut last = None;
        let line = |found: &'a Found| {
            let Found::Row(row, _) = found else { return Line { found, text: None, stamp: None } };
            // Rows that were written together have one time.
            let stamp = row.event_time.map(|time| match last {
                Some((known, stamp)) if known == time => stamp,
                _ => last.insert((time, self.stamp(time))).1,
            });
            Line { found, text: Text::of(row), stamp }
        };
        found.iter().map(line).collect()
    }

    /// The time of a row's event; Feast's Python has it in microseconds.
    fn stamp(&self, time: i64) -> Stamp {
        Stamp::of(match self.tells {
            Tells::Truth | Tells::Age => time,
            Tells::Presence => time.saturating_add(500).div_euclid(1000) * 1000,
        })
    }

    fn column(
        &mut self,
        rows: &ViewRows,
        feature: usize,
        (lines, times): (&[Line<'_>], &[u8]),
    ) -> Result<(), Unwritten> {
        self.statuses.clear();
        let (mut plain, mut gaps) = (true, false);
        for row in 0..self.rows {
            if row > 0 {
                self.out.push(b',');
            }
            let status = self.tells.of(cell(&mut self.out, &lines[rows.at(row)], feature)?);
            // One long row may be asked for many times over.
            if self.out.len() > LONGEST {
                return Err(Unwritten::TooLong);
            }
            plain &= status == Status::Present;
            gaps |= matches!(status, Status::NotFound | Status::Invalid);
            self.statuses.push(status);
        }
        self.statuses();
        if plain {
            self.out.extend_from_slice(&self.present);
        } else {
            for (row, status) in self.statuses.iter().enumerate() {
                if row > 0 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(status.text());
            }
        }
        self.times();
        if !gaps {
            self.out.extend_from_slice(times);
        } else {
            // What is not there has no time.
            for row in 0..self.rows {
                let there = !matches!(self.statuses[row], Status::NotFound | Status::Invalid);
                put_time(&mut self.out, row, lines[rows.at(row)].stamp.as_ref().filter(|_| there));
            }
        }
        Ok(())
    }

    /// A column of which nothing can exist.
    fn nothing(&mut self) {
        self.out.extend_from_slice(&repeated(b"null", self.rows));
        self.statuses();
        match self.tells.of(Status::NotFound) {
            Status::Present => self.out.extend_from_slice(&self.present),
            status => self.out.extend_from_slice(&repeated(status.text(), self.rows)),
        }
        self.times();
        self.out.extend_from_slice(&self.epochs);
    }

    fn end(mut self, versions: bool, parts: &[Filled<'_>]) -> Vec<u8> {
        self.out.extend_from_slice(b"],\"metadata\":{\"feature_names\":[");
        self.out.extend_from_slice(&self.names);
        self.out.push(b']');
        if versions {
            self.out.extend_from_slice(b",\"feature_view_metadata\":[");
            for (at, (part, _)) in parts.iter().enumerate() {
                // Version 0, of a view that has no other, is left out.
                self.out.extend_from_slice(if at > 0 { b",{\"name\":" } else { b"{\"name\":" });
                value::string(&mut self.out, &part.name);
                self.out.push(b'}');
            }
            self.out.push(b']');
        }
        self.out.extend_from_slice(b"}}");
        self.out
    }
}

/// Appends a cell's value; returns what it is.
fn cell(out: &mut Vec<u8>, line: &Line<'_>, feature: usize) -> Result<Status, Unreadable> {
    let Found::Row(row, age) = line.found else {
        out.extend_from_slice(b"null");
        return Ok(if matches!(line.found, Found::Unreadable) { Status::Invalid } else { Status::NotFound });
    };
    let status = match line.text {
        Some(text) => match text.cell(feature) {
            Cell::Value(text) => {
                out.extend_from_slice(text);
                Status::Present
            }
            Cell::Null => null(out, Status::Null),
            Cell::Absent => null(out, Status::NotFound),
        },
        None => match &row.values[feature] {
            None => null(out, Status::NotFound),
            Some(Value::Null) => null(out, Status::Null),
            Some(stored) => {
                value::write(out, stored)?;
                Status::Present
            }
        },
    };
    Ok(if *age == Age::Outside && status != Status::NotFound { Status::Outside } else { status })
}

fn null(out: &mut Vec<u8>, status: Status) -> Status {
    out.extend_from_slice(b"null");
    status
}

fn put_time(out: &mut Vec<u8>, row: usize, stamp: Option<&Stamp>) {
    out.extend_from_slice(if row > 0 { b",\"" } else { b"\"" });
    out.extend_from_slice(stamp.map_or(EPOCH, Stamp::bytes));
    out.push(b'"');
}

fn repeated(text: &[u8], rows: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows * (text.len() + 1));
    for row in 0..rows {
        if row > 0 {
            out.push(b',');
        }
        out.extend_from_slice(text);
    }
    out
}
