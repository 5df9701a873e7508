//! The task that looks for hot keys and tends them, and what operators see of them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{
    features::{Store, hot_keys::ShownKey},
    infer::WorkerId,
    ingress::service::Gateway,
};

/// Tends them, whichever snapshot's they are. Ends at once where nobody looks for any.
pub(super) async fn tend(gateway: Arc<ArcSwap<Gateway>>, control: WorkerId) {
    loop {
        let store = Arc::clone(&gateway.load_full().pipeline.features);
        let Some(next) = store.tend_hot_keys(control).await else { return };
        store.rest_hot_keys(next).await;
    }
}

/// The hot keys, hottest first; `null` where nobody looks for any.
pub(super) fn states(store: &Store) -> Value {
    let Some(shown) = store.hot_keys() else { return Value::Null };
    json!({
        "keys": shown.keys.iter().map(key).collect::<Value>(),
        "reads_per_second": shown.rate,
        "gateways": shown.gateways,
    })
}

fn key(shown: &ShownKey) -> Value {
    json!({
        "view": &*shown.key.0,
        "entity": shown.key.1.to_string(),
        "share": shown.share,
        "rate": shown.rate,
        "copies": shown.copies,
        "since": DateTime::<Utc>::from(shown.since).to_rfc3339_opts(SecondsFormat::Millis, true),
    })
}
