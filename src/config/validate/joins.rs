//! What models join: views and services that exist, features that a tensor can hold, join keys that something carries.

use std::sync::Arc;

use super::{Check, Views, no_such, one_of};
use crate::{
    config::{Features, Join, Projection, View, problems::Path, raw},
    infer::FeatureType,
};

/// Of which joins it is not known what they select, because something is wrong with them: nothing is said of columns that name
/// them.
#[derive(Debug)]
pub(super) enum Unsure {
    /// Those of these labels.
    Of(Vec<Arc<str>>),
    /// Any.
    All,
}

impl Unsure {
    pub(super) fn includes(&self, label: &str) -> bool {
        match self {
            Self::Of(labels) => labels.iter().any(|unsure| **unsure == *label),
            Self::All => true,
        }
    }

    fn add(&mut self, label: &str) {
        if let Self::Of(labels) = self {
            labels.push(label.into());
        }
    }

    pub(super) const fn is_none(&self) -> bool {
        matches!(self, Self::Of(labels) if labels.is_empty())
    }
}

impl Check<'_> {
    /// The joins, as far as they can be made out.
    pub(super) fn joins(&mut self, path: &Path, raw: &raw::Joined, features: &Features) -> (Vec<Join>, Unsure) {
        if self.views == Views::Unknown {
            return (Vec::new(), Unsure::All);
        }
        let mut unsure = Unsure::Of(Vec::new());
        let joins = match raw {
            raw::Joined::Views(views) => self.views(path, views, (features, &mut unsure)),
            raw::Joined::Service(raw) => {
                let joins = self.service(&path.key("service"), &raw.service, features);
                if joins.is_empty() {
                    unsure = Unsure::All;
                }
                joins
            }
        };
        // An item whose shape is wrong is not there.
        let broken = self.broken.iter().any(|broken| broken.overlaps(path));
        (joins, if broken { Unsure::All } else { unsure })
    }

    fn views(&mut self, path: &Path, raw: &[raw::Join], (features, unsure): (&Features, &mut Unsure)) -> Vec<Join> {
        let mut joins: Vec<Join> = Vec::with_capacity(raw.len());
        for (i, join) in raw.iter().enumerate() {
            let path = path.item(i);
            let at = path.key("view");
            let Some(view) = self.view_named(&at, &join.view, features) else {
                unsure.add(&join.view);
                continue;
            };
            if joins.iter().any(|other| other.view == view.id) {
                self.wrong(&at, "joined already", "each view once a model; more often by a service with aliases");
            }
            let sources = self.sources(&path.key("join"), join, view);
            let select = self.select(&path.key("select"), join, view);
            if self.is_broken(&path.key("select")) {
                unsure.add(&view.name);
            }
            self.holdable(&path, view, &select);
            let label = Arc::clone(&view.name);
            joins.push(Join { view: view.id, label, sources, select, optional: join.optional });
        }
        joins
    }

    fn view_named<'f>(&mut self, path: &Path, name: &str, features: &'f Features) -> Option<&'f Arc<View>> {
        if let Some(reason) = unserved(name, features) {
            self.wrong(path, format_args!("not served: {reason}"), "a view that is");
            return None;
        }
        let position = self.find(path, "view", name, features.views.iter().map(|view| &*view.name))?;
        Some(&features.views[position])
    }

    /// A service's projections, in its order.
    fn service(&mut self, path: &Path, name: &str, features: &Features) -> Vec<Join> {
        if let Some(reason) = unserved(name, features) {
            self.wrong(path, format_args!("not served: {reason}"), "a service that is");
            return Vec::new();
        }
        if features.registry.is_none() {
            self.wrong(path, "a service without a registry", "a service of `features.registry`, or a list of views");
            return Vec::new();
        }
        let names = features.services.iter().map(|service| &*service.name);
        let Some(position) = self.find(path, "service", name, names) else { return Vec::new() };
        let mut joins: Vec<Join> = Vec::new();
        for projection in &features.services[position].projections {
            let view = &features.views[projection.view.index()];
            let join = Join::of(projection, view);
            if joins.iter().any(|other| other.label == join.label) {
                let wrong = format!("a service that calls two of its views {}", join.label);
                self.wrong(path, wrong, "a service whose views have aliases of their own");
            }
            self.holdable(path, view, &join.select);
            joins.push(join);
        }
        joins
    }

    fn sources(&mut self, path: &Path, join: &raw::Join, view: &View) -> Vec<Arc<str>> {
        if self.is_broken(&Path::of("features").key("views").key(&view.name).key("entities")) {
            return Vec::new();
        }
        let keys = || view.entities.iter().map(|(key, _)| &**key);
        for (key, source) in join.join.iter() {
            let at = path.key(key);
            if !keys().any(|known| known == key) {
                self.wrong_key(&at, key, no_such("join key", key, keys()), one_of(keys()));
            } else if source.is_empty() {
                self.wrong(&at, "empty", "the name of an input tensor, instance key or request parameter");
            }
        }
        let missing: Vec<_> = keys().filter(|key| join.join.get(key).is_none()).collect();
        // The one row for everybody is found without.
        if !missing.is_empty() && !view.is_entityless() {
            let wrong = format!("does not name join key {}", missing.join(", "));
            self.wrong(path, wrong, format_args!("every join key of {}: {}", view.name, one_of(keys())));
        }
        keys().filter_map(|key| join.join.get(key)).map(|source| source.as_str().into()).collect()
    }

    fn select(&mut self, path: &Path, join: &raw::Join, view: &View) -> Vec<usize> {
        let Some(select) = &join.select else { return (0..view.features.len()).collect() };
        if select.is_empty() {
            self.wrong(path, "no feature selected", "at least one, or leave the key out for all");
        }
        let mut positions = Vec::with_capacity(select.len());
        for (i, name) in select.iter().enumerate() {
            let names = view.features.iter().map(|feature| &*feature.name);
            let Some(position) = self.find(&path.item(i), "feature", name, names) else { continue };
            if positions.contains(&position) {
                self.wrong(&path.item(i), "selected already", "each feature once");
            } else {
                positions.push(position);
            }
        }
        positions
    }

    /// Records a problem for every selected feature that no tensor holds.
    fn holdable(&mut self, path: &Path, view: &View, select: &[usize]) {
        let holds = |feature: &crate::config::Feature| feature.kind != FeatureType::Opaque;
        for feature in select.iter().map(|feature| &view.features[*feature]).filter(|feature| !holds(feature)) {
            let wrong = format!("{}:{} is of a type that no tensor can hold", view.name, feature.name);
            let others = one_of(view.features.iter().filter(|other| holds(other)).map(|other| &*other.name));
            self.wrong(path, wrong, format_args!("of {}: {others}", view.name));
        }
    }
}

impl Join {
    fn of(projection: &Projection, view: &View) -> Self {
        Self {
            view: projection.view,
            label: projection.alias.clone().unwrap_or_else(|| Arc::clone(&view.name)),
            sources: if view.is_entityless() { Vec::new() } else { projection.columns.clone() },
            select: projection.select.clone(),
            optional: false,
        }
    }
}

/// Why what the registry has of that name is not served. A name that two have is the first one's, which is.
fn unserved<'f>(name: &str, features: &'f Features) -> Option<&'f str> {
    let served = features.views.iter().any(|view| *view.name == *name)
        || features.services.iter().any(|service| *service.name == *name && !service.projections.is_empty());
    let found = features.unserved.iter().find(|(unserved, _)| !served && **unserved == *name);
    found.map(|(_, reason)| &**reason)
}
