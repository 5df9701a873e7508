//! What a message says: which rows changed.
//!
//! ```text
//! {"view": "user_stats", "entity": {"user_id": 1001}}                          one row of a view
//! {"push_source_name": "user_stats", "df": {"user_id": [1001, 1002], …}}        rows of a push source's views, as /push takes them
//! {"feature_view_name": "user_stats", "df": {…}}                               rows of a view, as /write-to-online-store takes them
//! ```
//!
//! Join keys are read as `/push` reads them, so that the same JSON is the same row. All else, such as `event_timestamp` and features, is
//! passed over. A push that went to the offline store alone (`"to": "offline"`) changes no row.

use std::{borrow::Cow, collections::HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::{
    config::{Config, View},
    infer::{EntityKey, EntityValue, ViewId},
    ingress::feast::entity_value,
};

/// Rows that are out of date.
pub(super) type Rows = Vec<(ViewId, EntityKey)>;

/// What is not a notice.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// It is about something that this gateway does not serve: no fault of the message.
    #[error("no {what} is called {name:?} here")]
    Unknown { what: &'static str, name: String },
    /// It cannot be read.
    #[error("{0}")]
    Malformed(String),
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    view: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    entity: Option<HashMap<Cow<'a, str>, &'a RawValue>>,
    #[serde(borrow, default)]
    push_source_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    feature_view_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    df: Option<Frame<'a>>,
    #[serde(borrow, default)]
    to: Option<Cow<'a, str>>,
}

/// Columns, a cell a row.
type Frame<'a> = HashMap<Cow<'a, str>, Vec<&'a RawValue>>;

/// The rows that a message is about.
///
/// # Errors
///
/// It is no notice, or about nothing that is served here.
pub(super) fn read(payload: &[u8], config: &Config) -> Result<Rows, Wrong> {
    let message: Message<'_> = serde_json::from_slice(payload).map_err(|error| Wrong::Malformed(error.to_string()))?;
    match message {
        Message { view: Some(view), entity, .. } => {
            let view = named(config, &view)?;
            let entity = entity.unwrap_or_default();
            Ok(vec![(view.id, key(view, config, |name| entity.get(name).copied())?)])
        }
        Message { push_source_name: Some(source), df: Some(frame), to, .. } => {
            let views = pushed_to(config, &source)?;
            rows(config, views, &frame, to.as_deref())
        }
        Message { feature_view_name: Some(view), df: Some(frame), to, .. } => {
            let view = named(config, &view)?.id;
            rows(config, &[view], &frame, to.as_deref())
        }
        _ => Err(Wrong::Malformed("neither \"view\" with \"entity\" nor \"push_source_name\" with \"df\"".to_owned())),
    }
}

fn named<'c>(config: &'c Config, name: &str) -> Result<&'c View, Wrong> {
    let found = config.features.views.iter().find(|view| &*view.name == name);
    found.map(AsRef::as_ref).ok_or_else(|| Wrong::Unknown { what: "view", name: shown(name) })
}

fn pushed_to<'c>(config: &'c Config, name: &str) -> Result<&'c [ViewId], Wrong> {
    let found = config.features.push_sources.iter().find(|source| &*source.name == name);
    found.map(|source| &*source.views).ok_or_else(|| Wrong::Unknown { what: "push source", name: shown(name) })
}

fn rows(config: &Config, views: &[ViewId], frame: &Frame<'_>, to: Option<&str>) -> Result<Rows, Wrong> {
    if to == Some("offline") {
        return Ok(Vec::new());
    }
    let mut columns = frame.values().map(Vec::len);
    let count = columns.next().unwrap_or_default();
    if columns.any(|other| other != count) {
        return Err(Wrong::Malformed("the columns of \"df\" are not of one length".to_owned()));
    }
    let row = |view: &ViewId, at: usize| {
        let of = config.view(*view);
        Ok((*view, key(of, config, |name| frame.get(name).and_then(|column| column.get(at).copied()))?))
    };
    views.iter().flat_map(|view| (0..count).map(move |at| (view, at))).map(|(view, at)| row(view, at)).collect()
}

/// The key of the row whose join keys have those values.
fn key<'a>(view: &View, config: &Config, cell: impl Fn(&str) -> Option<&'a RawValue>) -> Result<EntityKey, Wrong> {
    let mut values = SmallVec::<[EntityValue; 2]>::new();
    for (name, kind) in &view.entities {
        values.push(match cell(name) {
            // All have the same.
            _ if view.is_entityless() => EntityValue::String(String::new()),
            Some(cell) => entity_value(*kind, cell.get().as_bytes(), config.features.compat)
                .map_err(|wrong| Wrong::Malformed(format!("join key {name} of view {}: {wrong}", view.name)))?,
            None => return Err(Wrong::Malformed(format!("no join key {name} of view {}", view.name))),
        });
    }
    let names = view.entities.iter().map(|(name, _)| &**name);
    let pairs: SmallVec<[(&str, &EntityValue); 2]> = names.zip(&values).collect();
    Ok(EntityKey::new(pairs.iter().copied()))
}

fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}
