//! Feast's precomputed vectors: each service that has them has a view of its own in the store, `__precomputed__<service>`.
//!
//! They are read only where answers are to be those of Feast's Python server: the rows that they were made of are as new or
//! newer.

use std::{sync::Arc, time::Duration};

use super::{Compat, Consistency, Feature, Features, L2, View};
use crate::infer::{FeatureType, Value, ViewId};

/// What Feast prefixes a service's name with.
const PREFIX: &str = "__precomputed__";

impl Features {
    /// The views that the store has: those of the config, then one a precomputed service whose vectors are read.
    pub(crate) fn stored_views(&self) -> Vec<Arc<View>> {
        let mut views = self.views.clone();
        // A feature server answers for a service's vectors; it does not give them away.
        let stored_here = !matches!(self.l2, L2::FeatureServers(_));
        if self.compat == Compat::FeastPython && stored_here {
            for service in self.services.iter().filter(|service| service.precomputed) {
                let id = ViewId(u32::try_from(views.len()).unwrap_or(u32::MAX));
                let parts = service.projections.iter().map(|projection| &self.views[projection.view.index()]);
                let ttl = parts.clone().map(|view| view.ttl).min().unwrap_or(Duration::MAX);
                let entities = parts.clone().next().map(|view| view.entities.clone()).unwrap_or_default();
                views.push(Arc::new(vector(id, &service.name, entities, ttl)));
            }
        }
        views
    }

    /// The view that holds a service's vectors, where they are read.
    pub(crate) fn vectors_of(views: &[Arc<View>], service: &str) -> Option<ViewId> {
        let named = |view: &&Arc<View>| view.name.strip_prefix(PREFIX) == Some(service);
        views.iter().find(named).map(|view| view.id)
    }
}

fn vector(id: ViewId, service: &str, entities: Vec<(Arc<str>, crate::infer::EntityType)>, ttl: Duration) -> View {
    let feature = Feature { name: "vector".into(), kind: FeatureType::Bytes, default: Value::Null, length: None };
    let name: Arc<str> = format!("{PREFIX}{service}").into();
    View {
        id,
        stored: Arc::clone(&name),
        name,
        entities,
        features: vec![feature],
        ttl,
        max_age: None,
        consistency: Consistency::Ttl,
    }
}
