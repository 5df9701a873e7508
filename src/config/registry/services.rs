//! A feature service of the registry: its projections of views, or why it cannot be served.

use std::{collections::HashMap, sync::Arc};

use super::wire;
use crate::config::{Projection, View};

/// What services may refer to.
pub(super) struct Known<'a> {
    /// Those that are served.
    pub(super) views: &'a HashMap<Arc<str>, Arc<View>>,
    /// Every view's current version.
    pub(super) versions: &'a HashMap<&'a str, i32>,
    /// What is not served, and why.
    pub(super) unserved: &'a [(Arc<str>, Arc<str>)],
}

/// All of a service's projections; one that cannot be served leaves none, since an answer without it would not be the service's.
pub(super) fn projections(spec: &wire::FeatureServiceSpec, known: &Known<'_>) -> Result<Vec<Projection>, String> {
    if spec.features.is_empty() {
        return Err("no features".to_owned());
    }
    spec.features.iter().map(|projection| one(projection, known)).collect()
}

fn one(projection: &wire::Projection, known: &Known<'_>) -> Result<Projection, String> {
    let name = projection.view.as_str();
    let Some(view) = known.views.get(name) else {
        let reason = known.unserved.iter().find(|(unserved, _)| **unserved == *name);
        return Err(match reason {
            Some((_, reason)) => format!("its view {name} is not served: {reason}"),
            None => format!("its view {name} is not in the registry"),
        });
    };
    let current = known.versions.get(name).copied().unwrap_or(0);
    if let Some(pinned) = projection.version_tag.filter(|pinned| *pinned != current) {
        return Err(format!("it pins version {pinned} of view {name}, and only the current one, {current}, is served"));
    }
    if projection.columns.is_empty() {
        return Err(format!("it selects no feature of view {name}"));
    }
    let position = |column: &wire::Feature| {
        let found = view.features.iter().position(|feature| *feature.name == *column.name);
        found.ok_or_else(|| format!("its feature {name}:{} is not in the view", column.name))
    };
    let column =
        |key: &Arc<str>| projection.join_key_map.get(&**key).map_or_else(|| Arc::clone(key), |to| to.as_str().into());
    Ok(Projection {
        view: view.id,
        alias: Some(projection.alias.as_str()).filter(|alias| !alias.is_empty()).map(Into::into),
        columns: view.entities.iter().map(|(key, _)| column(key)).collect(),
        select: projection.columns.iter().map(position).collect::<Result<_, _>>()?,
    })
}
