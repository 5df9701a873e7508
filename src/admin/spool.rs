//! Requests kept for later, for an operator.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::{Shared, Sources, refuse};
use crate::spool::{
    self, Standing,
    desk::{Ask, Told},
};

/// Entries that are listed where nothing else is asked for, and at most.
const USUALLY: usize = 100;
const MOST: usize = 10_000;

/// Which entries.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    state: Option<String>,
    limit: Option<String>,
}

impl Which {
    fn limit(&self) -> Result<usize, String> {
        let Some(text) = &self.limit else { return Ok(USUALLY) };
        let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
        limit.ok_or_else(|| format!("limit: {text:?}; allowed: a whole number from 1 to {MOST}"))
    }
}

pub(super) async fn list(State(sources): Shared, which: Result<Query<Which>, QueryRejection>) -> Response {
    let which = match which {
        Ok(Query(which)) => which,
        Err(wrong) => return refuse(StatusCode::BAD_REQUEST, &wrong.body_text()),
    };
    let limit = match which.limit() {
        Ok(limit) => limit,
        Err(wrong) => return refuse(StatusCode::BAD_REQUEST, &wrong),
    };
    let standing = match which.state.as_deref().map(|name| (name, Standing::named(name))) {
        Some((name, None)) => {
            let allowed = Standing::ALL.map(Standing::name).join(", ");
            return refuse(StatusCode::BAD_REQUEST, &format!("state: no such state {name:?}; allowed: {allowed}"));
        }
        standing => standing.and_then(|(_, standing)| standing),
    };
    answer(&sources, Ask::List(standing, limit)).await
}

pub(super) async fn show(State(sources): Shared, Path(id): Path<String>) -> Response {
    answer(&sources, Ask::Show(id.into())).await
}

pub(super) async fn replay(State(sources): Shared, Path(id): Path<String>) -> Response {
    answer(&sources, Ask::Replay(id.into())).await
}

pub(super) async fn forget(State(sources): Shared, Path(id): Path<String>) -> Response {
    answer(&sources, Ask::Forget(id.into())).await
}

async fn answer(sources: &Sources, ask: Ask) -> Response {
    match sources.spool.tell(ask, spool::now()).await {
        Ok(Told::This(told)) => Json(told).into_response(),
        Ok(Told::Nothing) => refuse(StatusCode::NOT_FOUND, "no such entry"),
        Ok(Told::Not(standing)) => {
            let error = format!("not while it is {}; allowed: waiting, parked", standing.name());
            (StatusCode::CONFLICT, Json(json!({ "error": error, "state": standing.name() }))).into_response()
        }
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}
