//! Requests kept for later, for an operator.

use axum::{
    Json,
    extract::{Path, Query, State},
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
pub(super) struct Which {
    state: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(State(sources): Shared, Query(which): Query<Which>) -> Response {
    let standing = match which.state.as_deref().map(|name| (name, Standing::named(name))) {
        Some((name, None)) => {
            let allowed = Standing::ALL.map(Standing::name).join(", ");
            return refuse(StatusCode::BAD_REQUEST, &format!("state: no such state {name:?}; allowed: {allowed}"));
        }
        standing => standing.and_then(|(_, standing)| standing),
    };
    answer(&sources, Ask::List(standing, which.limit.unwrap_or(USUALLY).min(MOST))).await
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
