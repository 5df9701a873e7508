//! MLflow's webhook: for anyone who knows its secret, since it comes from outside the pod.
//!
//! MLflow sends a delivery again (at most three times, within seconds) only where it is answered 429 or 5xx, which nothing here is.

use std::time::{Duration, SystemTime};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::{Shared, refuse};
use crate::promotions::{Delivery, Heard, Refused};

/// The longest body: MLflow's are a few hundred bytes.
const LONGEST: usize = 64 << 10;
/// How long one may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn mlflow(State(sources): Shared, headers: HeaderMap, body: Body) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = match tokio::time::timeout(PATIENCE, to_bytes(body, LONGEST)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 65536 bytes, or did not end");
        }
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come within 10 s"),
    };
    let delivery = Delivery {
        id: header("x-mlflow-delivery-id"),
        timestamp: header("x-mlflow-timestamp"),
        signature: header("x-mlflow-signature"),
        body: &body,
    };
    match sources.promotions.deliver(delivery, SystemTime::now()) {
        Ok(heard) => Json(told(heard)).into_response(),
        Err(refused) => refuse(status(&refused), &refused.to_string()),
    }
}

fn told(heard: Heard) -> serde_json::Value {
    match heard {
        Heard::Promoted { registered, dropped, not_kept } => {
            json!({"registered_model": registered, "predictions": {"dropped": names(&dropped), "not kept": names(&not_kept)}})
        }
        Heard::Ignored(why) => json!({"ignored": why}),
        Heard::Duplicate => json!({"ignored": "this delivery came before"}),
    }
}

fn names(names: &[std::sync::Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

const fn status(refused: &Refused) -> StatusCode {
    match refused {
        Refused::Unconfigured => StatusCode::NOT_FOUND,
        Refused::Unsigned | Refused::Late(_) => StatusCode::UNAUTHORIZED,
        Refused::Malformed(_) => StatusCode::BAD_REQUEST,
    }
}
