//! Feast's registry, from its bytes to what Weir serves of it.
//!
//! ```text
//! bytes ─► messages ─► one project's objects ─┬─► views, services, push sources, entities' names
//!                                             └─► unserved: by name, with the reason
//! ```
//!
//! Bytes that are no registry are refused whole. What is in a registry never is: an object that Weir cannot serve is left out by
//! name, and the others are served. Pure: who fetches the bytes, and when, is decided elsewhere.

mod services;
#[cfg(test)]
mod tests;
mod views;
mod wire;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;

use self::views::{DUMMY_ENTITY, Spec};
use super::{PushSource, Service, Times, View};
use crate::infer::ViewId;

/// How a registry is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    /// The project whose objects are served; `None`: the only one.
    pub(crate) project: Option<&'a str>,
    /// Whether Feast keeps the versions of a view apart in the online store.
    pub(crate) versions: Versions,
    /// How long a cached copy of a row is good.
    pub(crate) keep: Duration,
}

/// Under which names Feast stores rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versions {
    /// The view's name, whatever its version.
    Together,
    /// `<view>_v<N>` from the first change on (`enable_online_feature_view_versioning`).
    Apart,
}

/// What one project of a registry has.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) project: Arc<str>,
    /// In the registry's order; a view's position is its id.
    pub(crate) views: Vec<Arc<View>>,
    pub(crate) services: Vec<Service>,
    pub(crate) push_sources: Vec<PushSource>,
    /// By view.
    pub(crate) times: Vec<Times>,
    pub(crate) entity_names: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) unserved: Vec<(Arc<str>, Arc<str>)>,
}

/// Why a registry is refused. Says what is wrong; [`Refused::allowed`] says what is allowed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    /// The bytes are no message of this kind.
    #[error("not a Feast registry: {0}")]
    Bytes(prost::DecodeError),
    /// The message lacks what every registry begins with; an empty file does.
    #[error("not a Feast registry: no registry_schema_version in its {0} bytes")]
    Unmarked(usize),
    /// Nothing in it says what project it is of.
    #[error("a registry without any project")]
    Empty,
    /// Which one is meant?
    #[error("a registry of {} projects, and features.project names none", .0.len())]
    Ambiguous(Vec<String>),
    /// Not the one that is asked for.
    #[error("no project {project:?} in the registry")]
    Absent {
        /// As the file has it.
        project: String,
        /// What the registry has.
        known: Vec<String>,
    },
}

impl Refused {
    /// What would be taken.
    pub(crate) fn allowed(&self) -> String {
        match self {
            Self::Bytes(_) | Self::Unmarked(_) => {
                "a serialized feast.core.Registry, as `feast apply` writes it".to_owned()
            }
            Self::Empty => "a registry that `feast apply` was run on".to_owned(),
            Self::Ambiguous(known) => format!("features.project as one of {}", known.join(", ")),
            Self::Absent { known, .. } => known.join(", "),
        }
    }
}

/// Reads a registry.
///
/// # Errors
/// The bytes are no registry, or not one of that project.
pub(crate) fn read(bytes: &[u8], reading: &Reading<'_>) -> Result<Contents, Refused> {
    let registry = wire::Registry::decode(bytes).map_err(Refused::Bytes)?;
    if registry.schema_version.is_empty() {
        return Err(Refused::Unmarked(bytes.len()));
    }
    let project = project(&registry, reading.project)?;
    let mut contents = Contents {
        project: project.as_str().into(),
        views: Vec::new(),
        services: Vec::new(),
        push_sources: Vec::new(),
        times: Vec::new(),
        entity_names: Vec::new(),
        unserved: Vec::new(),
    };
    contents.take_views(&registry, reading);
    contents.take_others(&registry);
    contents.take_services(&registry);
    contents.take_entities(&registry);
    Ok(contents)
}

/// The project to serve.
fn project(registry: &wire::Registry, asked: Option<&str>) -> Result<String, Refused> {
    let named = registry.projects.iter().filter_map(|project| Some(project.spec.as_ref()?.name.as_str()));
    let views = registry.feature_views.iter().filter_map(|view| Some(view.spec.as_ref()?.project.as_str()));
    let streams = registry.stream_feature_views.iter().filter_map(|view| Some(view.spec.as_ref()?.project.as_str()));
    let services = registry.feature_services.iter().filter_map(|one| Some(one.spec.as_ref()?.project.as_str()));
    let known: BTreeSet<&str> =
        named.chain(views).chain(streams).chain(services).filter(|name| !name.is_empty()).collect();
    let owned = || known.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    match (asked, known.len()) {
        (_, 0) => Err(Refused::Empty),
        (Some(asked), _) if known.contains(asked) => Ok(asked.to_owned()),
        (Some(asked), _) => Err(Refused::Absent { project: asked.to_owned(), known: owned() }),
        (None, 1) => Ok(owned().swap_remove(0)),
        (None, _) => Err(Refused::Ambiguous(owned())),
    }
}

impl Contents {
    fn leave_out(&mut self, name: &str, reason: impl Into<Arc<str>>) {
        self.unserved.push((name.into(), reason.into()));
    }

    /// Feature views and stream feature views.
    fn take_views(&mut self, registry: &wire::Registry, reading: &Reading<'_>) {
        let entities = views::entities(registry, &self.project);
        let plain = registry.feature_views.iter().filter_map(Spec::of_view);
        let streams = registry.stream_feature_views.iter().filter_map(Spec::of_stream);
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let project = Arc::clone(&self.project);
        for spec in plain.chain(streams).filter(|spec| *spec.project == *project) {
            if !seen.insert(spec.name) {
                self.leave_out(spec.name, "a second view of that name; the first is served");
                continue;
            }
            let id = ViewId(u32::try_from(self.views.len()).unwrap_or(u32::MAX));
            match spec.view(id, &entities, reading) {
                Ok(view) => {
                    self.views.push(Arc::new(view));
                    self.times.push(spec.times());
                    self.take_push_source(&spec, id);
                }
                Err(reason) => self.leave_out(spec.name, reason),
            }
        }
    }

    /// The source that rows of a view are pushed to, if it has one.
    fn take_push_source(&mut self, spec: &Spec<'_>, view: ViewId) {
        let Some(stream) = spec.push_source() else { return };
        match self.push_sources.iter_mut().find(|source| *source.name == *stream.name) {
            Some(known) => known.views.push(view),
            None => self.push_sources.push(PushSource { name: stream.name.as_str().into(), views: vec![view] }),
        }
    }

    /// Views of kinds that are not served.
    fn take_others(&mut self, registry: &wire::Registry) {
        let kinds = [
            (&registry.on_demand_feature_views, "an on-demand feature view, which takes Python to compute"),
            (&registry.label_views, "a label view"),
        ];
        for (objects, reason) in kinds {
            for spec in objects.iter().filter_map(|object| object.spec.as_ref()) {
                if *spec.project == *self.project {
                    self.leave_out(&spec.name, reason);
                }
            }
        }
    }

    fn take_services(&mut self, registry: &wire::Registry) {
        let by_name: HashMap<Arc<str>, Arc<View>> =
            self.views.iter().map(|view| (Arc::clone(&view.name), Arc::clone(view))).collect();
        let versions: HashMap<&str, i32> = views::versions(registry, &self.project).collect();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for spec in registry.feature_services.iter().filter_map(|service| service.spec.as_ref()) {
            if *spec.project != *self.project {
                continue;
            }
            if !seen.insert(&spec.name) {
                self.leave_out(&spec.name, "a second service of that name; the first is served");
                continue;
            }
            let known = services::Known { views: &by_name, versions: &versions, unserved: &self.unserved };
            let projections = services::projections(spec, &known).unwrap_or_else(|reason| {
                self.leave_out(&spec.name, reason);
                Vec::new()
            });
            let name = spec.name.as_str().into();
            self.services.push(Service { name, projections, precomputed: spec.precompute_online });
        }
    }

    fn take_entities(&mut self, registry: &wire::Registry) {
        let mut names: Vec<_> = views::entities(registry, &self.project)
            .into_iter()
            .filter(|(name, _)| *name != DUMMY_ENTITY)
            .map(|(name, entity)| (Arc::from(name), Arc::from(entity.join_key())))
            .collect();
        names.sort();
        self.entity_names = names;
    }
}
