//! How the pools are, as the admin port shows it.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    admin,
    predict::{EndpointState, PoolState, Predict, Region},
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
    })
}

fn endpoint(state: &EndpointState) -> Value {
    let seconds = |left: Option<Duration>| left.map(|left| left.as_secs_f64());
    json!({
        "name": &*state.name,
        "zone": state.zone.as_deref(),
        "health": state.health,
        "breaker": {"state": state.breaker, "seconds_left": seconds(state.open_for)},
        "ejected_seconds_left": seconds(state.ejected_for),
        "in_flight": state.in_flight,
        "expected_seconds": state.expected,
        "weight": state.weight,
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
