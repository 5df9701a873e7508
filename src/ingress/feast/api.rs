//! What each endpoint does with a body, on a catalog and a store.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::time::Instant;

use super::{
    answer::{self, Tells, Unwritten},
    catalog::Catalog,
    entity::{self, Keys},
    errors::{Class, Refusal, repr},
    plan::{self, Plan},
    push,
    request::{Keep, Online, Push, Unread},
    schema, time, vector,
};
use crate::{
    config::Compat,
    features::{
        Store,
        online::{PushError, Reading, Terms, ViewRows, Wish},
    },
    infer::{
        Answer, AnswerBody, EntityColumn, EntityValue, Error, Kind, Protocol, RequestId, Timings, Verdict, ViewId,
    },
    ingress::{body::ResponseBody, encode},
    telemetry::handles::feast::Endpoint,
};

/// When to come back to a store that could not be read, where nothing says better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the endpoints work on.
#[derive(Clone, Copy)]
pub(super) struct Api<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) store: &'a Store,
}

impl Api<'_> {
    /// Answers a request of an endpoint that has a body.
    pub(super) async fn answer(
        self,
        endpoint: Endpoint,
        (headers, body): (&HeaderMap, &[u8]),
        terms: Terms,
        id: &RequestId,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let catalog = self.catalog;
        if matches!(endpoint, Endpoint::Push | Endpoint::WriteToOnlineStore) {
            // Before the body is looked at: no body would be taken.
            self.store.accepts_pushes().map_err(|error| read_only(&error))?;
        }
        if !is_json(headers) {
            return Err(schema::not_json(body));
        }
        match endpoint {
            Endpoint::GetOnlineFeatures => self.online(body, terms, id).await,
            Endpoint::Push => {
                let fields = schema::PUSH;
                let push = read_push(catalog, body, "push_source_name", fields)?;
                self.write(push::pushed(catalog, &push)?, terms).await?;
                Ok(Response::new(ResponseBody::empty()))
            }
            Endpoint::WriteToOnlineStore => {
                let fields = schema::WRITE_TO_ONLINE_STORE;
                let write = read_push(catalog, body, "feature_view_name", fields)?;
                self.write(push::written(catalog, &write)?, terms).await?;
                Ok(encode::json(StatusCode::OK, &serde_json::Value::Null))
            }
            Endpoint::Health => Ok(Response::new(ResponseBody::empty())),
            Endpoint::Materialize | Endpoint::MaterializeIncremental => Err(materialize(catalog, endpoint, body)),
        }
    }

    /// `POST /get-online-features`.
    async fn online(self, body: &[u8], terms: Terms, id: &RequestId) -> Result<Response<ResponseBody>, Refusal> {
        let began = Instant::now();
        let catalog = self.catalog;
        let keep = Keep { wants: &|name| catalog.is_key(name), most: catalog.max_rows };
        let request =
            Online::read(body, keep).map_err(|unread| schema::refusal(&unread, body, schema::GET_ONLINE_FEATURES))?;
        let plan = plan::resolve(catalog, &request)?;
        let Plan { parts, vectors, .. } = &*plan;
        let (echoes, rows) = entity::columns(catalog, parts, &request.entities)?;
        within_limit(parts, rows)?;
        let nobody = EntityColumn::Same(EntityValue::String(String::new()));
        let mut keys = Vec::with_capacity(parts.len());
        for part in parts {
            keys.push(entity::keys(catalog, part, &echoes, &nobody, rows)?);
        }
        let wishes: Vec<Wish<'_>> = match (vectors, keys.first()) {
            (Some(view), Some(keys)) => wish(*view, keys).into_iter().collect(),
            _ => parts.iter().zip(&keys).filter_map(|(part, keys)| wish(part.view.id, keys)).collect(),
        };
        let mut reading = self.store.read(rows, &wishes, terms).await;
        complete(&reading)?;
        if vectors.is_some() {
            let of_vectors = reading.views.first().and_then(|found| vector::rows(parts, found));
            reading.views = of_vectors.ok_or_else(|| plan::no_vectors(request.service().unwrap_or_default()))?;
        }
        let mut read = reading.views.iter();
        let filled: Vec<_> = parts
            .iter()
            .zip(&keys)
            .map(|(part, keys)| (part, if matches!(keys, Keys::All(_)) { read.next() } else { None }))
            .collect();
        let tells = match (catalog.compat, vectors) {
            (Compat::Truthful, _) => Tells::Truth,
            (Compat::FeastPython, None) => Tells::Presence,
            (Compat::FeastPython, Some(_)) => Tells::Age,
        };
        let written = answer::write((&request, &plan), &echoes, &filled, (rows, tells));
        let written = written.map_err(|unwritten| match unwritten {
            Unwritten::Unreadable => unreadable(),
            Unwritten::TooLong => too_long(),
        })?;
        Ok(dressed(written, reading, began.elapsed(), id))
    }

    /// Writes a push's rows, view by view.
    async fn write(self, batches: push::Batches, terms: Terms) -> Result<(), Refusal> {
        for (view, rows) in batches {
            let pushed = self.store.push(terms.worker, view, rows, terms.by).await;
            pushed.map_err(|error| self.not_pushed(view, error))?;
        }
        Ok(())
    }

    /// What the store said is for the log: it names servers.
    fn not_pushed(self, view: ViewId, error: PushError) -> Refusal {
        if matches!(error, PushError::ReadOnly) {
            return read_only(&error);
        }
        let view = &self.catalog.by_id(view).name;
        let kind = if error.is_late() { Kind::DeadlineExceeded } else { Kind::Unavailable };
        let stored =
            if error.is_unwritten() { "none of its rows was stored" } else { "rows may have been stored in part" };
        let message = format!("view {view}: {error}; {stored}, and pushing them again is safe");
        let after = again(error.until(), Instant::now());
        Error::new(kind, message).with_retry_after(after).with_source(error).into()
    }
}

fn read_only(error: &PushError) -> Refusal {
    Error::new(Kind::Unimplemented, format!("weir wrote nothing: {error}")).into()
}

/// A cell costs its caller next to nothing: a few names and rows make many.
fn within_limit(parts: &[plan::Part], rows: usize) -> Result<(), Refusal> {
    const MOST: usize = 1_000_000;
    let features = parts.iter().map(|part| part.select.len()).sum::<usize>();
    if rows.saturating_mul(features) <= MOST {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "too many cells: {rows} rows of {features} features; allowed: at most {MOST} cells a request"
    ))
    .into())
}

/// Whether a body is sent as JSON; one whose type is not said is.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return true };
    let given = given.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let given = given.trim_ascii().to_ascii_lowercase();
    given.strip_prefix(b"application/").is_some_and(|kind| kind == b"json" || kind.ends_with(b"+json"))
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

fn wish<'a>(view: ViewId, keys: &'a Keys<'a>) -> Option<Wish<'a>> {
    match keys {
        Keys::All(columns) => Some(Wish { view, columns }),
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
        "the online store could not be read in time for {}, and no recent row is at hand; try again",
        names.join(", ")
    );
    Err(Error::new(Kind::Unavailable, message).with_retry_after(again(reading.until(), Instant::now())).into())
}

/// How long until it is worth coming back: until a breaker lets a probe by, where that is all that is in the way.
fn again(until: Option<Instant>, now: Instant) -> Duration {
    until.map_or(RETRY_AFTER, |until| until.saturating_duration_since(now).max(RETRY_AFTER))
}

fn too_long() -> Refusal {
    let most = answer::LONGEST >> 20;
    Error::invalid(format!("the answer would be longer than {most} MiB: ask for fewer entities or features")).into()
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
        verdict: Verdict::Good,
        level: reading.level,
        degraded: reading.degraded,
        caches: reading.caches,
        timings: Timings { features: took, ..Timings::default() },
    };
    encode::answer(answer, Protocol::V2Json, id.clone())
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
        return schema::refusal(&Unread::Schema, body, schema::MATERIALIZE_INCREMENTAL);
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

fn unread(body: &[u8]) -> Unread {
    match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        Ok(_) => Unread::Schema,
        Err(_) => Unread::Json,
    }
}
