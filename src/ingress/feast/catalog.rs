//! What callers may name: views, features, services, push sources, join keys. Compiled from a config once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::recent::Recent;
use crate::{
    config::{Compat, Config, Features, PushSource, Service, Times, View},
    infer::ViewId,
};

/// The only join key of a view that has no entity, whose value is always the empty text.
pub(super) const DUMMY: &str = "__dummy_id";

#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) project: Arc<str>,
    pub(super) compat: Compat,
    pub(super) max_rows: usize,
    pub(super) max_body: u64,
    views: HashMap<Arc<str>, Listed>,
    by_id: Box<[Arc<View>]>,
    services: HashMap<Arc<str>, Service>,
    sources: HashMap<Arc<str>, PushSource>,
    /// By view, the columns of time that its rows are written with.
    times: Box<[Times]>,
    /// What the registry has and Weir does not serve, and why.
    unserved: HashMap<Arc<str>, Arc<str>>,
    /// Entities by name, and the join key of each.
    entities: HashMap<Arc<str>, Arc<str>>,
    /// Every join key of the project but the dummy.
    pub(super) join_keys: BTreeSet<Arc<str>>,
    /// Names under which a request may give a join key.
    keys: HashSet<Arc<str>>,
    /// Names that a column of a push may have.
    columns: HashSet<Arc<str>>,
    pub(super) recent: Recent,
}

#[derive(Debug)]
struct Listed {
    view: Arc<View>,
    features: HashMap<Arc<str>, usize>,
}

impl Catalog {
    pub(super) fn new(config: &Config) -> Self {
        let features = &config.features;
        let views = features.views.iter().map(|view| (Arc::clone(&view.name), Listed::new(view))).collect();
        let of_views = features.views.iter().flat_map(|view| view.entities.iter().map(|(name, _)| Arc::clone(name)));
        let of_entities = features.entity_names.iter().map(|(_, key)| Arc::clone(key));
        let join_keys: BTreeSet<Arc<str>> = of_views.chain(of_entities).filter(|key| **key != *DUMMY).collect();
        let projections = features.services.iter().flat_map(|service| &service.projections);
        let mut keys: HashSet<Arc<str>> = join_keys.iter().cloned().collect();
        keys.extend(features.entity_names.iter().map(|(name, _)| Arc::clone(name)));
        keys.extend(projections.flat_map(|projection| projection.columns.iter().cloned()));
        let mut columns: HashSet<Arc<str>> = join_keys.iter().cloned().collect();
        columns.extend(features.views.iter().flat_map(|view| view.features.iter().map(|f| Arc::clone(&f.name))));
        columns.extend(features.times.iter().map(|times| Arc::clone(&times.event)));
        Self {
            project: Arc::clone(&features.project),
            compat: features.compat,
            max_rows: config.listen.max_rows,
            max_body: config.listen.max_body,
            views,
            by_id: features.stored_views().into(),
            services: features.services.iter().map(|service| (Arc::clone(&service.name), service.clone())).collect(),
            sources: features.push_sources.iter().map(|source| (Arc::clone(&source.name), source.clone())).collect(),
            times: features.times.clone().into(),
            unserved: features.unserved.iter().cloned().collect(),
            entities: features.entity_names.iter().cloned().collect(),
            join_keys,
            keys,
            columns,
            recent: Recent::default(),
        }
    }

    pub(super) fn view(&self, name: &str) -> Option<&Arc<View>> {
        self.views.get(name).map(|listed| &listed.view)
    }

    pub(super) fn by_id(&self, id: ViewId) -> &Arc<View> {
        &self.by_id[id.index()]
    }

    /// The view that holds a service's precomputed vectors, where they are read.
    pub(super) fn vectors(&self, service: &str) -> Option<ViewId> {
        Features::vectors_of(&self.by_id, service)
    }

    /// Where in a view a feature is.
    pub(super) fn feature(&self, view: &str, feature: &str) -> Option<usize> {
        self.views.get(view)?.features.get(feature).copied()
    }

    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }

    pub(super) fn source(&self, name: &str) -> Option<&PushSource> {
        self.sources.get(name)
    }

    /// Why something of that name is not served, where there is something.
    pub(super) fn unserved(&self, name: &str) -> Option<&str> {
        self.unserved.get(name).map(|why| &**why)
    }

    /// The join key that an entity's name stands for.
    pub(super) fn join_key_of(&self, entity: &str) -> Option<&Arc<str>> {
        self.entities.get(entity)
    }

    /// Whether a request's column of that name may be a join key.
    pub(super) fn is_key(&self, name: &str) -> bool {
        self.keys.contains(name)
    }

    /// Whether a push has a use for a column of that name.
    pub(super) fn is_column(&self, name: &str) -> bool {
        self.columns.contains(name)
    }

    /// The columns of time that a view's rows are written with: its own, whatever source they are pushed to.
    pub(super) fn times(&self, view: ViewId) -> &Times {
        &self.times[view.index()]
    }

    /// Names of views, for messages: a few.
    pub(super) fn some_views(&self) -> String {
        const SHOWN: usize = 20;
        let mut names: Vec<&str> = self.by_id.iter().take(SHOWN).map(|view| &*view.name).collect();
        if self.by_id.len() > SHOWN {
            names.push("…");
        }
        names.join(", ")
    }
}

impl Listed {
    fn new(view: &Arc<View>) -> Self {
        let features = view.features.iter().enumerate().map(|(at, feature)| (Arc::clone(&feature.name), at));
        Self { view: Arc::clone(view), features: features.collect() }
    }
}
