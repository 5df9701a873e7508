//! `/push` and `/write-to-online-store`: rows into the online store, the newer event wins.
//!
//! Everything is checked before anything is written. What would go to the offline store is refused: a 200 says that the rows
//! are where they were sent.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    catalog::{Catalog, DUMMY},
    cell,
    errors::{Class, Refusal, list, repr},
    plan::refuse_unserved,
    request::{Column, Frame, Push},
};
use crate::{
    config::{Compat, Times, View},
    features::online::Offer,
    infer::{EntityKey, EntityValue, Error, Kind, ViewId, decoded::shown},
};

/// What is to be written: rows by view.
pub(super) type Batches = Vec<(ViewId, Vec<Offer>)>;

/// The rows of a push.
pub(super) fn pushed(catalog: &Catalog, push: &Push<'_>) -> Result<Batches, Refusal> {
    even(catalog, &push.frame)?;
    let offline = match &*push.to {
        "online" => false,
        "offline" | "online_and_offline" => true,
        other => return Err(unknown_target(other)),
    };
    let name = &*push.name;
    let Some(source) = catalog.source(name) else {
        refuse_unserved(catalog, "push source", name)?;
        let message = format!("Unable to find push source '{}'.", shown(name, 128));
        return Err(Refusal::Feast { class: Class::PushSource, message });
    };
    if offline {
        return Err(Error::new(
            Kind::Unimplemented,
            format!(
                "push to {:?}: weir does not write to the offline store, and wrote nothing; allowed: \"online\"",
                push.to
            ),
        )
        .into());
    }
    let rows = |id: &ViewId| rows(catalog, catalog.by_id(*id), &push.frame, catalog.times(*id));
    source.views.iter().map(|id| Ok((*id, rows(id)?))).collect()
}

/// The rows of a write to one view.
pub(super) fn written(catalog: &Catalog, write: &Push<'_>) -> Result<Batches, Refusal> {
    even(catalog, &write.frame)?;
    let name = &*write.name;
    let Some(view) = catalog.view(name) else {
        refuse_unserved(catalog, "view", name)?;
        let message = format!("Can't recognize feast object with a name {}", shown(name, 128));
        return Err(Refusal::Feast { class: Class::Object, message });
    };
    // A caller of this has the view's columns of time, or Feast's own client, which always sends `created`.
    let times = Times { created: None, ..catalog.times(view.id).clone() };
    Ok(vec![(view.id, rows(catalog, view, &write.frame, &times)?)])
}

fn even(catalog: &Catalog, frame: &Frame<'_>) -> Result<(), Refusal> {
    let rows = frame.columns.iter().map(|column| column.rows).max().unwrap_or_default();
    if rows > catalog.max_rows {
        let most = catalog.max_rows;
        let told = format!("too many rows: \"df\" has {rows}; allowed: at most {most} (listen.max_rows)");
        return Err(Error::invalid(told).into());
    }
    if frame.columns.is_empty() || frame.rows().is_some() {
        return Ok(());
    }
    let lengths: Vec<_> =
        frame.columns.iter().map(|c| format!("{} has {}", shown(&c.name, 64), c.rows)).take(20).collect();
    let told = format!("the columns of \"df\" must have as many values each: {}", lengths.join(", "));
    Err(Refusal::python("All arrays must be of the same length", told))
}

fn unknown_target(given: &str) -> Refusal {
    let given = shown(given, 64);
    Refusal::python(
        format!(
            "{given} is not a supported push format. Please specify one of these ['online', 'offline', 'online_and_offline']."
        ),
        format!("\"to\": {given:?} is none of: \"online\", \"offline\", \"online_and_offline\""),
    )
}

/// A view's rows of a frame. Columns that are not the view's are left alone.
fn rows(catalog: &Catalog, view: &Arc<View>, frame: &Frame<'_>, times: &Times) -> Result<Vec<Offer>, Refusal> {
    if frame.rows().unwrap_or_default() == 0 {
        return Ok(Vec::new());
    }
    let features = features(view, frame)?;
    if catalog.compat == Compat::FeastPython && is_all_null(&features) {
        return Ok(Vec::new());
    }
    let features = features.iter().zip(&view.features);
    let features: Vec<_> = features.map(|(column, feature)| (*column, feature)).collect();
    let keys = keys(view, frame)?;
    let event = timed(frame, &times.event)?;
    if let Some(created) = &times.created {
        timed(frame, created)?;
    }
    (0..event.rows).map(|row| offer(view, &keys, &features, (event, row, catalog.compat))).collect()
}

fn find<'a>(frame: &'a Frame<'a>, name: &str) -> Option<&'a Column<'a>> {
    frame.columns.iter().find(|column| column.name == name)
}

fn features<'a>(view: &View, frame: &'a Frame<'a>) -> Result<Vec<&'a Column<'a>>, Refusal> {
    let found: Vec<_> = view.features.iter().filter_map(|feature| find(frame, &feature.name)).collect();
    if found.len() == view.features.len() {
        return Ok(found);
    }
    let absent = |name: &&str| find(frame, name).is_none();
    let missing: Vec<&str> = view.features.iter().map(|feature| &*feature.name).filter(absent).collect();
    let told = format!("\"df\" lacks columns of view {}: {}", view.name, missing.join(", "));
    let names = list(missing.iter().copied());
    let text = if found.is_empty() {
        format!("None of [Index({names}, dtype='object')] are in the [columns]")
    } else {
        format!("{names} not in index")
    };
    Err(Refusal::python(repr(&text), told))
}

fn is_all_null(features: &[&Column<'_>]) -> bool {
    features.iter().all(|column| (0..column.rows).all(|row| column.raw(row) == b"null"))
}

/// The columns of a view's join keys; `None` for the one that is always the same.
fn keys<'a>(view: &View, frame: &'a Frame<'a>) -> Result<Vec<Option<&'a Column<'a>>>, Refusal> {
    let key = |name: &str| match find(frame, name) {
        // Whatever it was sent with: Feast's own frames have it.
        _ if name == DUMMY => Ok(None),
        Some(column) => Ok(Some(column)),
        None => {
            let text = format!("Column {name} not found in table");
            Err(Refusal::python(text, format!("\"df\" lacks the join key {name} of view {}", view.name)))
        }
    };
    view.entities.iter().map(|(name, _)| key(name)).collect()
}

/// A column of time.
fn timed<'a>(frame: &'a Frame<'a>, name: &str) -> Result<&'a Column<'a>, Refusal> {
    find(frame, name).ok_or_else(|| {
        let text = repr(&format!("Field \"{name}\" does not exist in schema"));
        Refusal::python(text, format!("\"df\" lacks the column {name:?}, which the source declares"))
    })
}

fn offer(
    view: &View,
    keys: &[Option<&Column<'_>>],
    features: &[(&Column<'_>, &crate::config::Feature)],
    (event, row, compat): (&Column<'_>, usize, Compat),
) -> Result<Offer, Refusal> {
    let wrong = |column: &str, wrong: &cell::Wrong, kind: &str, allowed: &str| {
        let column = shown(column, 64);
        Refusal::python(wrong.python(), format!("df.{column}[{row}]: {}", wrong.told(kind, allowed)))
    };
    let mut values = SmallVec::<[EntityValue; 2]>::new();
    for (column, (name, kind)) in keys.iter().zip(&view.entities) {
        values.push(match column {
            Some(column) => cell::entity(*kind, &column.cell(row), compat)
                .map_err(|error| wrong(name, &error, kind.name(), kind.in_json()))?,
            None => EntityValue::String(String::new()),
        });
    }
    let pairs: SmallVec<[(&str, &EntityValue); 2]> =
        view.entities.iter().map(|(name, _)| &**name).zip(&values).collect();
    let stored = features.iter().map(|(column, feature)| {
        let kind = feature.kind;
        cell::feature(kind, column.raw(row))
            .map(Some)
            .map_err(|error| wrong(&feature.name, &error, kind.name(), cell::feature_cells(kind)))
    });
    let event_time = cell::event_time(&event.cell(row))
        .map_err(|error| wrong(&event.name, &error, "a time", "ISO 8601, or nanoseconds since 1970"))?;
    Ok(Offer { key: EntityKey::new(pairs.iter().copied()), event_time, values: stored.collect::<Result<_, _>>()? })
}
