//! How the pools are, as the admin port shows it: times in seconds, shares as ratios, and the fields' names say so.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    admin,
    predict::{DiscoveryState, EndpointState, PoolState, Predict, Region},
};

/// Each pool by name, with its endpoints.
pub(super) fn states(predict: &Predict) -> Value {
    let states = predict.states(Instant::now()).into_iter();
    states.map(|state| (state.name.to_string(), pool(&state))).collect::<serde_json::Map<_, _>>().into()
}

fn pool(state: &PoolState) -> Value {
    json!({
        "region": state.region.as_deref(),
        "panic": state.panicking,
        "failed_over_to": state.failed_over_to.as_deref(),
        "endpoints": state.endpoints.iter().map(endpoint).collect::<Value>(),
        "discovery": state.discovery.iter().map(discovery).collect::<Value>(),
    })
}

fn discovery(state: &DiscoveryState) -> Value {
    json!({"source": state.source, "failure": state.failure})
}

fn endpoint(state: &EndpointState) -> Value {
    let seconds = |left: Option<Duration>| left.map(|left| left.as_secs_f64());
    json!({
        "name": &*state.name,
        "zone": state.zone.as_deref(),
        "health": state.health,
        "breaker": {"state": state.breaker, "open_seconds": seconds(state.open_for)},
        "ejected_seconds": seconds(state.ejected_for),
        "in_flight": state.in_flight,
        "round_trip_seconds": state.expected,
        "weight_ratio": state.weight,
    })
}

/// How a region is.
pub(super) fn region(predict: &Arc<Predict>, name: &str) -> admin::Region {
    match predict.region(name, Instant::now()) {
        Region::Ready => admin::Region::Ready,
        Region::Missing(missing) => admin::Region::Missing(missing),
        Region::Unknown(known) => admin::Region::Unknown(known.iter().map(ToString::to_string).collect()),
    }
}
