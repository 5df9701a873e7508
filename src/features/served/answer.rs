//! What is answered: rows out of the body of `/get-online-features`, in the order of the question's keys.
//!
//! A Weir says what is null and what is not there. Feast's own server says `PRESENT` to everything; there a null whose event
//! was at the epoch is what was never written. A cell that cannot be read makes its row unreadable, and no other.

use std::time::Duration;

use chrono::DateTime;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::cell;
use crate::{
    features::{Row, feast::Malformed},
    infer::{FeatureType, Value},
};

/// What was not the best about a Weir's answer.
const DEGRADED: HeaderName = HeaderName::from_static("weir-degraded");

/// What stands where there is no time to tell.
const EPOCH: &str = "1970-01-01T00:00:00Z";

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    results: Vec<Column<'a>>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    feature_names: Vec<String>,
}

/// Some servers leave out statuses and times.
#[derive(Deserialize)]
struct Column<'a> {
    #[serde(borrow)]
    values: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    statuses: Vec<&'a str>,
    #[serde(borrow, default)]
    event_timestamps: Vec<&'a str>,
}

type Rows = Vec<Result<Option<Row>, Malformed>>;

/// A feature: what answers call it, and what its values are.
#[derive(Debug)]
pub(super) struct RequestedFeature {
    pub(super) name: String,
    pub(super) kind: FeatureType,
}

/// The rows that a body tells of a view's features, as many as were asked for.
///
/// # Errors
///
/// What is wrong with the body as a whole.
pub(super) fn rows(features: &[RequestedFeature], body: &[u8], count: usize) -> Result<Rows, &'static str> {
    let body: Body<'_> = serde_json::from_slice(body).map_err(|_| "the answer is not Feast's JSON")?;
    let mut columns = Vec::with_capacity(features.len());
    for feature in features {
        // Join keys come first, and could have a feature's name.
        let at = body.metadata.feature_names.iter().rposition(|told| *told == feature.name);
        let column = at.and_then(|at| body.results.get(at)).ok_or("the answer lacks a feature")?;
        if !column.is_of(count) {
            return Err("the answer has another number of rows than was asked for");
        }
        columns.push((feature.kind, column));
    }
    Ok((0..count).map(|at| row(&columns, at)).collect())
}

impl Column<'_> {
    fn is_of(&self, count: usize) -> bool {
        let fits = |length: usize| length == 0 || length == count;
        self.values.len() == count && fits(self.statuses.len()) && fits(self.event_timestamps.len())
    }
}

fn row(columns: &[(FeatureType, &Column<'_>)], at: usize) -> Result<Option<Row>, Malformed> {
    let (mut values, mut event_time) = (Vec::with_capacity(columns.len()), None);
    for (kind, column) in columns {
        let told = column.event_timestamps.get(at).copied().filter(|time| !time.is_empty() && *time != EPOCH);
        // All features of a row are of one event.
        if let (None, Some(time)) = (event_time, told) {
            event_time = Some(nanos(time)?);
        }
        let status = column.statuses.get(at).copied().unwrap_or("PRESENT");
        values.push(value(*kind, column.values[at].get(), (status, told.is_some()))?);
    }
    // A row of which nothing was ever written is told as none.
    Ok(values.iter().any(Option::is_some).then(|| Row::new(event_time, values.into())))
}

/// A cell's value; `None`: never written.
fn value(kind: FeatureType, raw: &str, (status, timed): (&str, bool)) -> Result<Option<Value>, Malformed> {
    match status {
        "NOT_FOUND" => Ok(None),
        "PRESENT" if raw == "null" && !timed => Ok(None),
        "PRESENT" | "NULL_VALUE" | "OUTSIDE_MAX_AGE" => {
            cell::value(kind, raw).map(Some).ok_or(Malformed::Served("a value"))
        }
        _ => Err(Malformed::Served("a cell's status")),
    }
}

/// How long a Weir has had the oldest of the view's rows that it served past their time, for want of better ones.
pub(super) fn stale(headers: &HeaderMap, view: &str) -> Option<Duration> {
    let told = headers.get_all(DEGRADED).iter().filter_map(|value| value.to_str().ok());
    told.flat_map(|value| value.split(',')).filter_map(|member| stale_age(member, view)).max()
}

/// The age in `stale;view=V;age=SECONDS`.
fn stale_age(member: &str, view: &str) -> Option<Duration> {
    let mut parts = member.split(';').map(str::trim);
    (parts.next() == Some("stale")).then_some(())?;
    let parameter = |name: &str| parts.clone().find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    (parameter("view") == Some(view)).then_some(())?;
    parameter("age")?.parse().ok().map(Duration::from_secs)
}

/// Nanoseconds since the epoch; times that they cannot tell are the nearest that they can, as those that are stored.
fn nanos(text: &str) -> Result<i64, Malformed> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| Malformed::Served("an event's time"))?;
    let nanos = i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos());
    Ok(nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

/// Reads any bytes as an answer about two rows of a view with a feature of each type. For fuzzing: whatever the bytes, rows or a
/// word.
#[must_use]
pub fn read_any(bytes: &[u8]) -> String {
    let feature = |kind: &FeatureType| RequestedFeature { name: kind.name().to_owned(), kind: *kind };
    let features: Vec<_> = FeatureType::ALL.iter().chain([&FeatureType::Opaque]).map(feature).collect();
    let one_by_one = features.iter().map(|feature| rows(std::slice::from_ref(feature), bytes, 2));
    format!("{:?} {:?}", rows(&features, bytes, 2), one_by_one.collect::<Vec<_>>())
}
