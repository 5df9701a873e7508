//! Feast's feature server: its HTTP API, from the caller's body to the store and back.
//!
//! ```text
//! body ─► request ─► plan (what is named) ─► entity (keys) ─► store.read ─► answer (JSON)
//!              │                                                   └─ a view that could not be read: 503, never nulls
//!              └──► push (rows) ─► store.push ─► 200 once they are stored
//! ```
//!
//! Statuses are told truthfully, or as Feast's Python server tells them (`features.compat`); errors have the form that Feast's
//! clients understand (`errors`, `schema`). What Weir does not do (on-demand views, precomputed vectors' times, materialization,
//! offline writes) is refused by name.

mod answer;
mod catalog;
mod cell;
mod entity;
mod errors;
mod plan;
mod push;
mod request;
mod schema;
mod time;
mod value;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::Instant;

use self::{
    catalog::Catalog,
    entity::Keys,
    errors::{Class, Refusal, repr},
    request::{Keep, Online, Push},
};
use super::{
    body::ResponseBody,
    context, encode,
    receive::{Extent, Received, receive},
    service::Gateway,
    status,
};
use crate::{
    config::{Compat, Config},
    features::online::{PushError, Reading, Terms, ViewRows, Wish},
    infer::{Answer, AnswerBody, EntityColumn, EntityValue, Error, Kind, Protocol, RequestId, Timings, WorkerId},
    telemetry::handles::feast::{Endpoint, FeastHandles},
};

/// How long a caller that does not say otherwise waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// When to come back to a store that could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The API for one config snapshot.
#[derive(Debug)]
pub(crate) struct Server {
    catalog: Catalog,
    handles: FeastHandles,
}

/// A request being answered. Dropped without an end, the caller went away.
struct Call<'a> {
    handles: &'a FeastHandles,
    endpoint: Endpoint,
    began: Instant,
    status: StatusCode,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.handles.request(self.endpoint, self.status, self.began.elapsed());
    }
}

impl Server {
    pub(crate) fn new(config: &Config) -> Self {
        Self { catalog: Catalog::new(config), handles: FeastHandles::default() }
    }

    /// Whether answers are to be those of Feast's Python server.
    pub(super) fn speaks_python(&self) -> bool {
        self.catalog.compat == Compat::FeastPython
    }

    /// FastAPI's 404 for a path that there is not.
    pub(super) fn not_found(&self) -> Response<ResponseBody> {
        Refusal::detail(StatusCode::NOT_FOUND, "Not Found", None).response(self.catalog.compat)
    }
}

/// Answers a request of the API.
pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    worker: WorkerId,
    request: Request<Incoming>,
    endpoint: Endpoint,
) -> Response<ResponseBody> {
    let server = &gateway.feast;
    let began = Instant::now();
    let mut call = Call { handles: &server.handles, endpoint, began, status: status::CLIENT_CLOSED_REQUEST };
    let (parts, body) = request.into_parts();
    let id = context::request_id(&parts.headers);
    let answered = match received(&server.catalog, parts, body, (endpoint, began)).await {
        Ok(Asked::Health) => Ok(health(gateway)),
        Ok(Asked::Body(body, terms)) => {
            let terms = Terms { worker, ..terms };
            answer(gateway, endpoint, &body, terms, &id).await
        }
        Err(refusal) => Err(refusal),
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        tracing::debug!(%id, endpoint = endpoint.path(), ?refusal, "refused");
        refusal.response(server.catalog.compat)
    });
    encode::complete(response.headers_mut(), Some(&id.0));
    call.status = response.status();
    response
}

/// A request whose body is there.
enum Asked {
    Health,
    Body(Bytes, Terms),
}

async fn received(
    catalog: &Catalog,
    mut parts: Parts,
    body: Incoming,
    (endpoint, began): (Endpoint, Instant),
) -> Result<Asked, Refusal> {
    let (verb, allow) = if endpoint == Endpoint::Health { (Verb::GET, "GET") } else { (Verb::POST, "POST") };
    if parts.method != verb {
        return Err(Refusal::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed", Some(allow)));
    }
    if endpoint == Endpoint::Health {
        return Ok(Asked::Health);
    }
    let by = context::deadline(&parts.headers, TIMEOUT, began)?;
    let limit = catalog.max_body;
    let bytes = match receive(body, Extent::Whole, limit, by).await? {
        Received::Whole(bytes) => super::infer::inflated(&mut parts.headers, bytes, limit)?,
        Received::Longer(..) => return Err(Error::new(Kind::Internal, "a whole body was not read to its end").into()),
    };
    if !is_json(&parts.headers) {
        return Err(schema::not_json(&bytes));
    }
    let caching = context::caching(&parts.headers);
    Ok(Asked::Body(bytes, Terms { worker: WorkerId(0), caching, by }))
}

/// Whether a body is sent as JSON; one whose type is not said is.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return true };
    let given = given.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let given = given.trim_ascii().to_ascii_lowercase();
    given.strip_prefix(b"application/").is_some_and(|kind| kind == b"json" || kind.ends_with(b"+json"))
}

/// 200 while this gateway is ready, with no body: what Feast's says.
fn health(gateway: &Gateway) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    if !(gateway.readiness)() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn answer(
    gateway: &Gateway,
    endpoint: Endpoint,
    body: &[u8],
    terms: Terms,
    id: &RequestId,
) -> Result<Response<ResponseBody>, Refusal> {
    let catalog = &gateway.feast.catalog;
    match endpoint {
        Endpoint::GetOnlineFeatures => online(gateway, body, terms, id).await,
        Endpoint::Push => {
            let fields = schema::PUSH;
            let push = read_push(catalog, body, "push_source_name", fields)?;
            store(gateway, push::pushed(catalog, &push)?, terms).await?;
            Ok(Response::new(ResponseBody::empty()))
        }
        Endpoint::WriteToOnlineStore => {
            let fields = schema::WRITE_TO_ONLINE_STORE;
            let write = read_push(catalog, body, "feature_view_name", fields)?;
            store(gateway, push::written(catalog, &write)?, terms).await?;
            Ok(encode::json(StatusCode::OK, &serde_json::Value::Null))
        }
        Endpoint::Health => Ok(health(gateway)),
        Endpoint::Materialize | Endpoint::MaterializeIncremental => Err(materialize(catalog, endpoint, body)),
    }
}

fn read_push<'a>(
    catalog: &Catalog,
    body: &'a [u8],
    named: &str,
    fields: &[schema::Field],
) -> Result<Push<'a>, Refusal> {
    let keep = Keep { wants: &|name| catalog.is_column(name), most: catalog.max_rows };
    Push::read(body, named, keep).map_err(|unread| schema::refusal(&unread, body, fields))
}

/// `POST /get-online-features`.
async fn online(
    gateway: &Gateway,
    body: &[u8],
    terms: Terms,
    id: &RequestId,
) -> Result<Response<ResponseBody>, Refusal> {
    let began = Instant::now();
    let catalog = &gateway.feast.catalog;
    let keep = Keep { wants: &|name| catalog.is_key(name), most: catalog.max_rows };
    let request =
        Online::read(body, keep).map_err(|unread| schema::refusal(&unread, body, schema::GET_ONLINE_FEATURES))?;
    let parts = plan::resolve(catalog, &request)?;
    let (echoes, rows) = entity::columns(catalog, &parts, &request.entities)?;
    let nobody = EntityColumn::Same(EntityValue::String(String::new()));
    let mut keys = Vec::with_capacity(parts.len());
    for part in &parts {
        keys.push(entity::keys(catalog, part, &echoes, &nobody, rows)?);
    }
    let wishes: Vec<Wish<'_>> = parts.iter().zip(&keys).filter_map(|(part, keys)| wish(part, keys)).collect();
    let reading = gateway.pipeline.features.read(rows, &wishes, terms).await;
    complete(&reading)?;
    let mut read = reading.views.iter();
    let filled: Vec<_> = parts
        .iter()
        .zip(&keys)
        .map(|(part, keys)| (part, if matches!(keys, Keys::All(_)) { read.next() } else { None }))
        .collect();
    let written = answer::write(&request, &echoes, &filled, (rows, catalog.compat));
    let written = written.map_err(|_| unreadable())?;
    Ok(dressed(written, reading, began.elapsed(), id))
}

fn wish<'a>(part: &plan::Part<'_>, keys: &'a Keys<'a>) -> Option<Wish<'a>> {
    match keys {
        Keys::All(columns) => Some(Wish { view: part.view.id, columns }),
        Keys::Partial => None,
    }
}

/// What could not be read is not told as what is not there.
fn complete(reading: &Reading) -> Result<(), Refusal> {
    let incomplete = |rows: &&ViewRows| rows.is_incomplete();
    let mut names: Vec<&str> = reading.views.iter().filter(incomplete).map(|rows| &*rows.view.name).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the online store could not be read in time for {}, and no row of lately is at hand; try again",
        names.join(", ")
    );
    Err(Error::new(Kind::Unavailable, message).with_retry_after(RETRY_AFTER).into())
}

fn unreadable() -> Refusal {
    Error::new(Kind::Internal, "a stored value is not a feast.types.Value that can be written as JSON").into()
}

/// The answer with the headers that every answer has.
fn dressed(body: Vec<u8>, reading: Reading, took: Duration, id: &RequestId) -> Response<ResponseBody> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = Answer {
        status: StatusCode::OK,
        headers,
        body: AnswerBody::Whole(body.into()),
        trailers: None,
        level: reading.level,
        degraded: reading.degraded,
        caches: reading.caches,
        timings: Timings { features: took, ..Timings::default() },
    };
    encode::answer(answer, Protocol::V2Json, id)
}

/// Writes a push's rows, view by view.
async fn store(gateway: &Gateway, batches: push::Batches, terms: Terms) -> Result<(), Refusal> {
    for (view, rows) in batches {
        let pushed = gateway.pipeline.features.push(terms.worker, view, rows, terms.by).await;
        pushed.map_err(|error| not_pushed(gateway, view, error))?;
    }
    Ok(())
}

fn not_pushed(gateway: &Gateway, view: crate::infer::ViewId, error: PushError) -> Refusal {
    let view = &gateway.feast.catalog.by_id(view).name;
    let kind = if matches!(error, PushError::Late) { Kind::DeadlineExceeded } else { Kind::Unavailable };
    let message = format!("view {view}: {error}; rows may have been stored in part, and pushing them again is safe");
    Error::new(kind, message).with_retry_after(RETRY_AFTER).with_source(error).into()
}

/// Weir does not materialize; a request that Feast would refuse is refused as Feast does.
fn materialize(catalog: &Catalog, endpoint: Endpoint, body: &[u8]) -> Refusal {
    #[derive(serde::Deserialize)]
    struct Asked {
        start_ts: Option<String>,
        end_ts: Option<String>,
        feature_views: Option<Vec<String>>,
    }
    let Ok(asked) = serde_json::from_slice::<Asked>(body) else {
        return schema::refusal(&unread(body), body, schema::MATERIALIZE_INCREMENTAL);
    };
    if endpoint == Endpoint::MaterializeIncremental && asked.end_ts.is_none() {
        return schema::refusal(&request::Unread::Schema, body, schema::MATERIALIZE_INCREMENTAL);
    }
    for name in asked.feature_views.iter().flatten() {
        if catalog.view(name).is_none() && catalog.unserved(name).is_none() {
            let message = format!("Feature view {name} does not exist in project {}", catalog.project);
            return Refusal::Feast { class: Class::FeatureView, message };
        }
    }
    for text in [asked.start_ts, asked.end_ts].into_iter().flatten() {
        if time::parse(&text).is_none() {
            let python = format!("Invalid timestamp format: Unknown string format: {text}");
            return Refusal::python(python, format!("{} is no time; allowed: ISO 8601", repr(&text)));
        }
    }
    let message = format!(
        "{} is not served by weir, which reads what Feast materialized: run `feast materialize` against the same Redis",
        endpoint.path()
    );
    Error::new(Kind::Unimplemented, message).into()
}

fn unread(body: &[u8]) -> request::Unread {
    match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        Ok(_) => request::Unread::Schema,
        Err(_) => request::Unread::Json,
    }
}

/// Reads a body as `/get-online-features` and `/push` do; for fuzzing.
#[doc(hidden)]
pub fn read_any(body: &[u8]) {
    let keep = Keep { wants: &|_| true, most: 100 };
    if let Err(unread) = Online::read(body, keep) {
        let _ = schema::refusal(&unread, body, schema::GET_ONLINE_FEATURES);
    }
    if let Ok(push) = Push::read(body, "push_source_name", keep) {
        for column in &push.frame.columns {
            for row in 0..column.rows.min(100) {
                for kind in crate::infer::FeatureType::ALL {
                    let _ = cell::feature(*kind, column.raw(row));
                }
                let _ = cell::event_time(&column.cell(row));
            }
        }
    }
}

#[cfg(test)]
mod tests;
