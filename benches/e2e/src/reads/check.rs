//! Checks that a setup answers what was written, before and after it is measured: every value of every row of both views.
//!
//! A row that is missing, late or another's is an error, and so is one that came from a cache which the setup is not to use,
//! or did not come from the one that it is.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::data::{self, EVENT_TIME, View};
use crate::{
    caller::Caller,
    resp::{Client, Part, Replies},
};

/// Where rows have to come from, as the answer's `cache-status` says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    /// A server that does not say.
    Unsaid,
    Redis,
    /// L1, or Redis where L1 had not read the row yet.
    L1Filling,
    L1,
}

/// Rows a request of the check.
const BATCH: usize = 100;

/// Reads every row of the views through an HTTP server.
pub(crate) fn served(server: SocketAddr, views: &[&View], source: Source) -> Result<()> {
    let mut caller = Caller::connect(server)?;
    for view in views {
        for ids in view.ids().chunks(BATCH) {
            rows(&mut caller, view, ids, source)?;
        }
    }
    Ok(())
}

/// Reads the rows of `ids`.
pub(crate) fn rows(caller: &mut Caller, view: &View, ids: &[i64], source: Source) -> Result<()> {
    let answer = caller.call(&view.http(ids))?;
    ensure!(answer.status == 200, "answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    comes_from(answer.header("cache-status"), source)?;
    let body = serde_json::from_slice(&answer.body).context("the answer is no JSON")?;
    has_rows(&body, view, ids)
}

/// Reads every row of the views from Redis.
pub(crate) fn stored(redis: SocketAddr, views: &[&View]) -> Result<()> {
    let mut client = Client::connect(redis)?;
    for view in views {
        for ids in view.ids().chunks(BATCH) {
            let bytes = client.ask(&view.pipeline(ids), ids.len())?;
            are_rows(&bytes, view, ids)?;
        }
    }
    Ok(())
}

fn comes_from(status: Option<&str>, source: Source) -> Result<()> {
    let told = status.unwrap_or("absent");
    let right = match source {
        Source::Unsaid => status.is_none(),
        Source::Redis => told.contains("weir-l2; hit") && !told.contains("weir-l1; hit"),
        Source::L1Filling => told.contains("weir-l1; hit") || told.contains("weir-l2; hit"),
        Source::L1 => told == "weir-l1; hit",
    };
    ensure!(right, "cache-status is {told}, where rows have to come from {source:?}");
    Ok(())
}

/// The columns are found by their names: Feast gives them in another order at every start.
fn has_rows(answer: &Value, view: &View, ids: &[i64]) -> Result<()> {
    let names = answer["metadata"]["feature_names"].as_array().context("no feature_names")?;
    let columns = answer["results"].as_array().context("no results")?;
    ensure!(names.len() == view.features + 1 && columns.len() == names.len(), "{} columns", columns.len());
    let column = |name: &str| {
        let at = names.iter().position(|given| given == name).with_context(|| format!("no column {name}"))?;
        let values = columns[at]["values"].as_array().context("no values")?;
        ensure!(values.len() == ids.len(), "{name} has {} rows", values.len());
        Ok((&columns[at], values))
    };
    let (_, entities) = column(view.join_key)?;
    ensure!(entities.iter().zip(ids).all(|(given, id)| given == id), "other entities than were asked for");
    for index in 0..view.features {
        let name = data::feature(index);
        let (column, values) = column(&name)?;
        for (value, &id) in values.iter().zip(ids) {
            ensure!(data::value(id, index).is(value), "{}:{name} of {id} is {value}", view.name);
        }
        is_all(&column["statuses"], "PRESENT", ids.len())?;
        is_all(&column["event_timestamps"], EVENT_TIME, ids.len())?;
    }
    Ok(())
}

fn is_all(values: &Value, expected: &str, rows: usize) -> Result<()> {
    let values = values.as_array().context("neither statuses nor times")?;
    let other = values.iter().find(|value| *value != expected);
    ensure!(values.len() == rows && other.is_none(), "{} of {expected}, with {other:?}", values.len());
    Ok(())
}

fn are_rows(bytes: &[u8], view: &View, ids: &[i64]) -> Result<()> {
    let mut replies = Replies::new(ids.len());
    for &id in ids {
        let array = replies.next(bytes)?;
        ensure!(array == Some(Part::Array(view.features + 1)), "row {id}: {array:?}");
        for (index, stored) in view.stored(id).enumerate() {
            let Some(Part::Text(Some(at))) = replies.next(bytes)? else {
                anyhow::bail!("{} of {id}: field {index} is not there", view.name)
            };
            ensure!(bytes[at.clone()] == stored, "{} of {id}: field {index} is {:02x?}", view.name, &bytes[at]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::data::NARROW, *};

    const VIEW: View = View { features: 2, ..NARROW };

    fn answer() -> Value {
        let column = |values: Value| json!({"values": values, "statuses": (["PRESENT"; 2]), "event_timestamps": ([EVENT_TIME; 2])});
        json!({
            "results": [column(json!([7, 9])), column(json!([3.875, 4.75])), column(json!([3.0625, 3.9375]))],
            "metadata": {"feature_names": ["user_id", "f1", "f0"]},
        })
    }

    #[test]
    fn columns_count_by_name_and_every_value_counts() {
        has_rows(&answer(), &VIEW, &[7, 9]).unwrap();
        has_rows(&answer(), &VIEW, &[7, 8]).unwrap_err();
        has_rows(&answer(), &VIEW, &[7]).unwrap_err();
        let spoilt = [
            ("/results/1/values/1", json!(4.7500001)),
            ("/results/2/values/0", json!(null)),
            ("/results/1/statuses/0", json!("NOT_FOUND")),
            ("/results/2/event_timestamps/1", json!("1970-01-01T00:00:00Z")),
            ("/metadata/feature_names/2", json!("f2")),
        ];
        for (pointer, value) in spoilt {
            let mut answer = answer();
            *answer.pointer_mut(pointer).unwrap() = value;
            has_rows(&answer, &VIEW, &[7, 9]).expect_err(pointer);
        }
    }

    #[test]
    fn a_cache_is_used_where_it_is_measured_and_nowhere_else() {
        let missed = Some("weir-l1; fwd=miss, weir-l2; hit");
        let mixed = Some("weir-l1; hit, weir-l2; hit");
        let table = [
            (Source::Redis, Some("weir-l2; hit"), true),
            (Source::Redis, missed, true),
            (Source::Redis, mixed, false),
            (Source::Redis, Some("weir-l1; hit"), false),
            (Source::Redis, None, false),
            (Source::L1Filling, missed, true),
            (Source::L1, missed, false),
            (Source::L1, mixed, false),
            (Source::L1, Some("weir-l1; hit"), true),
            (Source::Unsaid, None, true),
            (Source::Unsaid, missed, false),
        ];
        for (source, told, right) in table {
            assert_eq!(comes_from(told, source).is_ok(), right, "{source:?} {told:?}");
        }
    }

    #[test]
    fn what_redis_holds_is_compared_byte_by_byte() {
        let reply = |id: i64| {
            let values: Vec<Vec<u8>> = VIEW.stored(id).collect();
            crate::resp::command(&values)
        };
        are_rows(&[reply(7), reply(9)].concat(), &VIEW, &[7, 9]).unwrap();
        are_rows(&[reply(7), reply(9)].concat(), &VIEW, &[9, 7]).unwrap_err();
        let short = crate::resp::command(&VIEW.stored(7).take(2).collect::<Vec<_>>());
        are_rows(&short, &VIEW, &[7]).unwrap_err();
        are_rows(b"*3\r\n$-1\r\n$-1\r\n$-1\r\n", &VIEW, &[7]).unwrap_err();
    }
}
