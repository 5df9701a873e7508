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
mod api;
mod catalog;
mod cell;
mod entity;
mod errors;
mod plan;
mod push;
mod recent;
mod request;
mod schema;
mod text;
mod time;
mod value;
mod vector;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method as Verb, Response, StatusCode};
use tokio::time::Instant;

use self::{
    api::Api,
    catalog::Catalog,
    errors::Refusal,
    request::{Keep, Online, Push},
};
use super::{
    body::ResponseBody,
    encode,
    hold::Hold,
    receive::{self, Extent, Received, receive},
    record,
    service::{Arrival, Gateway},
    status,
};
use crate::{
    config::{Compat, Config},
    features::online::Terms,
    infer::{EntityType, EntityValue, Error, Kind, RequestId, decoded::scalar::Scalar, headers::LEVEL},
    telemetry::{
        access,
        handles::{
            admission::Aliases,
            feast::{Endpoint, FeastHandles},
        },
    },
};

/// A join key's value as a push may write it, in JSON.
///
/// # Errors
///
/// What is wrong with it, in words.
pub(crate) fn entity_value(kind: EntityType, json: &[u8], compat: Compat) -> Result<EntityValue, String> {
    cell::entity(kind, &Scalar::json(json), compat).map_err(|wrong| wrong.told(kind.name(), kind.in_json()))
}

/// How long reading or writing rows may take, where the caller does not say.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The API for one config snapshot.
#[derive(Debug)]
pub(crate) struct Server {
    catalog: Catalog,
    /// What a push may wait for other gateways, beside what it takes anyway.
    lease: Duration,
    /// Shared by all snapshots.
    handles: Arc<FeastHandles>,
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
        let aliases = if config.metrics_aliases { Aliases::On } else { Aliases::Off };
        Self::of(config, Arc::new(FeastHandles::new(aliases)))
    }

    /// The same, for what the config has become.
    pub(crate) fn next(&self, config: &Config) -> Self {
        Self::of(config, Arc::clone(&self.handles))
    }

    fn of(config: &Config, handles: Arc<FeastHandles>) -> Self {
        let is_strong = config.features.views.iter().any(|view| view.reads_primary_only());
        let lease = if is_strong { config.features.lease } else { Duration::ZERO };
        Self { catalog: Catalog::new(config), lease, handles }
    }

    /// How long a caller that does not say otherwise waits: a push is not to fail while the lease of a gateway that is gone is waited out.
    fn timeout(&self, endpoint: Endpoint) -> Duration {
        match endpoint {
            Endpoint::Push | Endpoint::WriteToOnlineStore => TIMEOUT + self.lease,
            _ => TIMEOUT,
        }
    }

    /// Keeps the gauges current, `span` after the last time.
    pub(crate) fn maintain(&self, span: Duration) {
        self.handles.follow(span);
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
pub(super) async fn serve(gateway: &Arc<Gateway>, arrival: Box<Arrival>, endpoint: Endpoint) -> Response<ResponseBody> {
    let server = &gateway.feast;
    let began = arrival.began;
    let mut call = Call { handles: &server.handles, endpoint, began, status: status::CLIENT_CLOSED_REQUEST };
    let id = arrival.told.request_id();
    let answered = match received(gateway, arrival, (endpoint, began)).await {
        Ok(Asked::Health) => Ok(health(gateway)),
        Ok(Asked::Body((headers, body), terms, _held)) => {
            let api = Api { catalog: &server.catalog, store: &gateway.pipeline.features };
            api.answer(endpoint, (&headers, &body), terms, &id).await
        }
        Err(refusal) => Err(refusal),
    };
    let mut error = None;
    let log = gateway.records.log().filter(|_| endpoint != Endpoint::Health);
    let mut response = answered.unwrap_or_else(|refusal| {
        tracing::debug!(%id, endpoint = endpoint.path(), ?refusal, "refused");
        error = log.map(|_| refusal.told());
        refusal.response(server.catalog.compat)
    });
    encode::complete(response.headers_mut(), Some(&id.0));
    call.status = response.status();
    if let Some(log) = log {
        call.write(log, (&id, &response), error.as_deref());
    }
    response
}

impl Call<'_> {
    /// The line of an answered request, as every other request has one.
    fn write(&self, log: &access::Log, (id, response): (&RequestId, &Response<ResponseBody>), error: Option<&str>) {
        let header = |name: &HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        log.write(&access::Record {
            time_ms: record::now_ms(),
            request_id: &id.to_string(),
            protocol: "feast",
            endpoint: Some(self.endpoint.path()),
            model: None,
            tier: None,
            status: response.status().as_u16(),
            level: header(&LEVEL).and_then(|level| level.parse().ok()).unwrap_or_default(),
            degraded: header(&encode::DEGRADED),
            duration_us: record::micros(self.began.elapsed()),
            queue_us: None,
            features_us: None,
            model_us: None,
            error,
        });
    }
}

/// Refuses a method that an endpoint does not have.
fn allowed(method: &Verb, endpoint: Endpoint) -> Result<(), Refusal> {
    let (verb, allow) = if endpoint == Endpoint::Health { (Verb::GET, "GET") } else { (Verb::POST, "POST") };
    if *method == verb {
        return Ok(());
    }
    Err(Refusal::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed", Some(allow)))
}

/// A request whose body is there.
enum Asked<'a> {
    Health,
    Body((HeaderMap, Bytes), Terms, Hold<'a>),
}

async fn received(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    (endpoint, began): (Endpoint, Instant),
) -> Result<Asked<'_>, Refusal> {
    let Arrival { worker, head: mut parts, body, told, .. } = *arrival;
    allowed(&parts.method, endpoint)?;
    if endpoint == Endpoint::Health {
        return Ok(Asked::Health);
    }
    let by = told.deadline(gateway.feast.timeout(endpoint), began)?;
    let (limit, mut hold) = (gateway.feast.catalog.max_body, gateway.holds.hold());
    let bytes = match receive(body, Extent::Whole, receive::Terms { limit, deadline: by, hold: &mut hold }).await? {
        Received::Whole(bytes) => super::infer::inflated(&mut parts.headers, bytes, limit)?,
        Received::Longer(..) => return Err(Error::new(Kind::Internal, "a whole body was not read to its end").into()),
    };
    hold.whole(bytes.len() as u64)?;
    let caching = told.caching;
    Ok(Asked::Body((parts.headers, bytes), Terms { worker, caching, by }, hold))
}

/// 200 while this gateway is ready, with no body: what Feast's says.
fn health(gateway: &Gateway) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    if !(gateway.readiness)() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// Reads a body as `/get-online-features` and `/push` do; for fuzzing.
#[doc(hidden)]
pub fn read_any(body: &[u8]) {
    let keep = Keep { wants: &|_| true, most: 100 };
    match Online::read(body, keep) {
        Ok(online) => drop(online.features.texts()),
        Err(unread) => drop(schema::refusal(&unread, body, schema::GET_ONLINE_FEATURES)),
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
