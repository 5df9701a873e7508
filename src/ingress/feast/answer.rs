//! The answer's JSON, written straight into one buffer, column by column.
//!
//! What all columns of a view have in common (their rows' times, and `PRESENT` as often as there are rows) is written once and
//! copied; a cell is judged where it is written. Nothing is allocated for a cell.

use super::{
    entity::Echo,
    plan::Part,
    request::Online,
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
pub(super) type Filled<'a, 'p> = (&'a Part<'p>, Option<&'a ViewRows>);

/// An answer being written.
struct Sheet {
    out: Vec<u8>,
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

/// Writes an answer.
pub(super) fn write(
    request: &Online<'_>,
    echoes: &[Echo<'_>],
    parts: &[Filled<'_, '_>],
    (rows, tells): (usize, Tells),
) -> Result<Vec<u8>, Unreadable> {
    let features: usize = parts.iter().map(|(part, _)| part.select.len()).sum();
    let mut sheet = Sheet::new(rows, echoes.len() + features, tells);
    for echo in echoes {
        sheet.echo(echo);
    }
    for (part, found) in parts {
        sheet.part(part, *found, request.full_names)?;
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
            names: Vec::with_capacity(columns * 32),
            rows,
            tells,
            present: repeated(Status::Present.text(), rows),
            epochs: repeated(&[b"\"", EPOCH, b"\""].concat(), rows),
            statuses: Vec::with_capacity(rows),
        }
    }

    fn begin(&mut self, name: &[&str]) {
        if !self.names.is_empty() {
            self.out.push(b',');
            self.names.push(b',');
        }
        match name {
            [name] => value::string(&mut self.names, name),
            parts => value::string(&mut self.names, &parts.concat()),
        }
        self.out.extend_from_slice(b"{\"values\":[");
    }

    fn statuses(&mut self) {
        self.out.extend_from_slice(b"],\"statuses\":[");
    }

    fn times(&mut self) {
        self.out.extend_from_slice(b"],\"event_timestamps\":[");
    }

    fn echo(&mut self, echo: &Echo<'_>) {
        self.begin(&[&echo.name]);
        echo.write(&mut self.out, self.rows);
        self.statuses();
        self.out.extend_from_slice(&self.present);
        self.times();
        self.out.extend_from_slice(&self.epochs);
        self.out.extend_from_slice(b"]}");
    }

    fn part(&mut self, part: &Part<'_>, found: Option<&ViewRows>, full_names: bool) -> Result<(), Unreadable> {
        let stamps: Vec<Option<Stamp>> =
            found.map_or_else(Vec::new, |rows| rows.found.iter().map(|found| self.stamp(found)).collect());
        let mut times = Vec::with_capacity(self.rows * 23);
        for row in 0..self.rows {
            let stamp = found.and_then(|rows| stamps[rows.at(row)].as_ref());
            put_time(&mut times, row, stamp);
        }
        for &feature in &part.select {
            let name = &*part.view.features[feature].name;
            if full_names {
                self.begin(&[part.name, "__", name])
            } else {
                self.begin(&[name])
            }
            match found {
                Some(rows) => self.column(rows, feature, (&stamps, &times))?,
                None => self.nothing(),
            }
            self.out.extend_from_slice(b"]}");
        }
        Ok(())
    }

    /// The time of a row's event; Feast's Python has it in microseconds.
    fn stamp(&self, found: &Found) -> Option<Stamp> {
        let Found::Row(row, _) = found else { return None };
        let time = row.event_time?;
        Some(Stamp::of(match self.tells {
            Tells::Truth | Tells::Age => time,
            Tells::Presence => time.saturating_add(500).div_euclid(1000) * 1000,
        }))
    }

    fn column(
        &mut self,
        rows: &ViewRows,
        feature: usize,
        (stamps, times): (&[Option<Stamp>], &[u8]),
    ) -> Result<(), Unreadable> {
        self.statuses.clear();
        let (mut plain, mut gaps) = (true, false);
        for row in 0..self.rows {
            if row > 0 {
                self.out.push(b',');
            }
            let status = self.tells.of(cell(&mut self.out, &rows.found[rows.at(row)], feature)?);
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
                put_time(&mut self.out, row, stamps[rows.at(row)].as_ref().filter(|_| there));
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

    fn end(mut self, versions: bool, parts: &[Filled<'_, '_>]) -> Vec<u8> {
        self.out.extend_from_slice(b"],\"metadata\":{\"feature_names\":[");
        self.out.extend_from_slice(&self.names);
        self.out.push(b']');
        if versions {
            self.out.extend_from_slice(b",\"feature_view_metadata\":[");
            for (at, (part, _)) in parts.iter().enumerate() {
                // Version 0, of a view that has no other, is left out.
                self.out.extend_from_slice(if at > 0 { b",{\"name\":" } else { b"{\"name\":" });
                value::string(&mut self.out, part.name);
                self.out.push(b'}');
            }
            self.out.push(b']');
        }
        self.out.extend_from_slice(b"}}");
        self.out
    }
}

/// Appends a cell's value; returns what it is.
fn cell(out: &mut Vec<u8>, found: &Found, feature: usize) -> Result<Status, Unreadable> {
    let Found::Row(row, age) = found else {
        out.extend_from_slice(b"null");
        return Ok(if matches!(found, Found::Unreadable) { Status::Invalid } else { Status::NotFound });
    };
    let Some(stored) = &row.values[feature] else {
        out.extend_from_slice(b"null");
        return Ok(Status::NotFound);
    };
    value::write(out, stored)?;
    Ok(match (age, stored) {
        (Age::Outside, _) => Status::Outside,
        (Age::Within, Value::Null) => Status::Null,
        (Age::Within, _) => Status::Present,
    })
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
