//! What the tests of this stage share: views, rows, and real Redis servers.

pub(crate) mod servers;

use std::{sync::Arc, time::Duration};

use super::{Row, l2::Ask};
pub(super) use crate::fixture::breaker;
use crate::{
    config::{self, Consistency, Feature, View},
    infer::{EntityKey, EntityType, EntityValue, FeatureType, Value, ViewId},
};

/// A view to be filled in; one INT64 entity `user` and one INT64 feature `f` (default -1) unless told otherwise.
pub(super) struct ViewBuilder(View);

pub(super) fn view(name: &str) -> ViewBuilder {
    ViewBuilder(View {
        id: ViewId(0),
        name: name.into(),
        stored: name.into(),
        entities: vec![("user".into(), EntityType::Int64)],
        features: vec![feature("f")],
        ttl: Duration::from_secs(300),
        max_age: None,
        consistency: Consistency::Ttl,
    })
}

fn feature(name: &str) -> Feature {
    Feature { name: name.into(), kind: FeatureType::Int64, default: Value::Int64(-1), length: None }
}

impl ViewBuilder {
    pub(super) fn id(mut self, id: u32) -> Self {
        self.0.id = ViewId(id);
        self
    }

    pub(super) fn entities(mut self, entities: &[(&str, EntityType)]) -> Self {
        self.0.entities = entities.iter().map(|(name, kind)| ((*name).into(), *kind)).collect();
        self
    }

    pub(super) fn features(mut self, names: &[&str]) -> Self {
        self.0.features = names.iter().map(|name| feature(name)).collect();
        self
    }

    pub(super) fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = ttl;
        self
    }

    pub(super) fn max_age(mut self, max_age: Duration) -> Self {
        self.0.max_age = Some(max_age);
        self
    }

    pub(super) fn consistency(mut self, consistency: Consistency) -> Self {
        self.0.consistency = consistency;
        self
    }

    pub(super) fn build(self) -> Arc<View> {
        Arc::new(self.0)
    }
}

/// The key of an entity of the builder's default type.
pub(super) fn key(user: i64) -> EntityKey {
    EntityKey::new([("user", &EntityValue::Int64(user))].into_iter())
}

pub(super) fn ask(view: &Arc<View>, user: i64) -> Ask {
    Ask { view: Arc::clone(view), key: key(user) }
}

/// A row whose event was at that second.
pub(super) fn row(second: i64, values: impl IntoIterator<Item = Option<Value>>) -> Row {
    Row::new(Some(second * 1_000_000_000), values.into_iter().collect())
}

pub(super) fn int(value: i64) -> Option<Value> {
    Some(Value::Int64(value))
}

pub(super) fn features(project: &str, views: &[Arc<View>], l2: config::L2, l3: Option<config::L3>) -> config::Features {
    config::Features {
        project: project.into(),
        views: views.to_vec(),
        registry: None,
        services: Vec::new(),
        push_sources: Vec::new(),
        times: Vec::new(),
        entity_names: Vec::new(),
        unserved: Vec::new(),
        compat: config::Compat::Truthful,
        l1: config::L1 {
            mode: config::L1Mode::Serve,
            capacity: 1 << 20,
            ttl: Duration::from_secs(60),
            stale_for: Duration::from_secs(600),
            negative_ttl: Duration::from_secs(5),
            warm_start: None,
        },
        l2,
        l3,
        lease: Duration::from_secs(2),
        retry: config::Retry {
            max_retries: 3,
            initial_delay: Duration::from_millis(50),
            max_delay: Duration::from_millis(500),
            multiplier: 2.0,
            jitter: 0.1,
        },
        retry_budget: 0.2,
        breaker: breaker(),
        hot_keys: None,
        kafka: None,
        invalidate: config::Invalidate::default(),
    }
}

pub(super) fn config(features: config::Features, models: Vec<config::Model>) -> config::Config {
    let nowhere = ([127, 0, 0, 1], 0).into();
    config::Config {
        allow_repository: false,
        mlflow: None,
        listen: config::Listen {
            http: nowhere,
            grpc: None,
            admin: nowhere,
            admin_token: None,
            max_body: 1 << 20,
            hold_body: 64 << 10,
            hold_bodies: 4 << 20,
            max_rows: 4,
            idle_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(10),
            max_connection_age: Duration::from_secs(600),
        },
        workers: 2,
        capacity: config::Capacity { slots: 1, shared: 0.2, burst_pool: None },
        tiers: Vec::new(),
        pools: Vec::new(),
        models,
        ladder: crate::fixture::ladder(),
        predictions: config::Predictions { capacity: 0, l2: None },
        model_ids: rapidhash::RapidHashMap::default(),
        drain: config::Drain { delay: Duration::ZERO, deadline: Duration::ZERO },
        spool: config::Spool {
            store: config::SpoolStore::Embedded { path: None },
            keep_for: Duration::from_secs(60),
            max_entries: 1,
            max_bytes: 1,
            retry: features.retry.clone(),
            log: true,
        },
        features,
        metrics_aliases: false,
        notices: Vec::new(),
        warnings: Vec::new(),
    }
}
