//! What Weir answers itself: its health, its metadata, the models it serves.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, Method as Verb, Response, StatusCode, header, request::Parts};
use serde_json::json;

use super::{
    body::ResponseBody,
    encode, infer as infer_http,
    route::Route,
    service::{Arrival, Gateway, method_not_allowed},
};
use crate::infer::{Error, Kind, Method, Protocol};

/// Why the repository is left alone.
pub(super) const REPOSITORY: &str = "the model repository is not changed through weir: load and unload models at the model \
     server, or set allow_repository: true";

/// The extensions Weir itself speaks.
pub(super) const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

/// Answers everything that needs no model server.
pub(super) fn answer(gateway: &Gateway, head: &Parts, route: &Route<'_>) -> Response<ResponseBody> {
    let known =
        !matches!(route, Route::Unknown | Route::Refused(_) | Route::V2Repository | Route::V2RepositoryModel(_));
    if known && head.method != Verb::GET && head.method != Verb::HEAD {
        return method_not_allowed(&head.method, "GET, HEAD");
    }
    match route {
        Route::V2Server => encode::json(
            StatusCode::OK,
            &json!({ "name": "weir", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS }),
        ),
        Route::V2Live => encode::json(StatusCode::OK, &json!({ "live": true })),
        Route::V2Ready => ready(&json!({ "ready": true }), (gateway.readiness)()),
        Route::V1Models => {
            let names: Vec<&str> = gateway.pipeline.config.models.iter().map(|model| &*model.name).collect();
            encode::json(StatusCode::OK, &json!({ "models": names }))
        }
        Route::V2Repository | Route::V2RepositoryModel(_) => refuse(Kind::NotAllowed, REPOSITORY),
        Route::Refused(why) => refuse(Kind::InvalidRequest, why),
        _ => refuse(Kind::NotFound, &unknown_path(head.uri.path())),
    }
}

fn unknown_path(path: &str) -> String {
    format!(
        "no such path {path:?}; allowed: /v1/models[/{{model}}[:predict|:explain]], /v1/async/{{id}}, /v2[/health/live|/health/ready], \
         /v2/models/{{model}}[/versions/{{version}}][/infer|/ready], gRPC inference.GRPCInferenceService, \
         /get-online-features, /push, /write-to-online-store, /health"
    )
}

/// The V2 protocol's `ready`, with a body: an empty 200 crashes KServe's own REST client.
fn ready(body: &serde_json::Value, is_ready: bool) -> Response<ResponseBody> {
    if is_ready {
        return encode::json(StatusCode::OK, body);
    }
    let mut body = body.clone();
    body["ready"] = false.into();
    encode::json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// Whether the model's pool is healthy at this moment: that of the last check may be gone. V1 model servers differ too much in
/// what they say of a model to be asked themselves.
pub(super) async fn v1_model(gateway: &Gateway, arrival: &Arrival, name: &str) -> Response<ResponseBody> {
    let verb = &arrival.head.method;
    if verb != Verb::GET && verb != Verb::HEAD {
        return method_not_allowed(verb, "GET, HEAD");
    }
    match infer_http::model(gateway, name) {
        Ok(id) => {
            let pool = gateway.pipeline.config.model(id).pool;
            let is_ready = gateway.pipeline.predict.is_ready(pool, arrival.worker).await;
            ready(&json!({ "name": name, "ready": true }), is_ready)
        }
        Err(error) => encode::error(&error, Protocol::V1, None),
    }
}

/// The model server's own word, given a body where it says 200 with none.
pub(super) async fn model_ready(
    gateway: &Arc<Gateway>,
    arrival: Box<Arrival>,
    model: Cow<'_, str>,
) -> Response<ResponseBody> {
    let verb = &arrival.head.method;
    if verb != Verb::GET && verb != Verb::HEAD {
        return method_not_allowed(verb, "GET, HEAD");
    }
    let name = model.clone();
    let ask = infer_http::Ask { protocol: Protocol::V2Json, method: Method::Other, model, version: None };
    let mut response = infer_http::forward(gateway, arrival, ask).await;
    if response.status() == StatusCode::OK && http_body::Body::is_end_stream(response.body()) {
        *response.body_mut() = ResponseBody::whole(json!({ "name": name, "ready": true }).to_string().into());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // That of the body there was.
        headers.remove(header::CONTENT_LENGTH);
    }
    response
}

fn refuse(kind: Kind, message: &str) -> Response<ResponseBody> {
    encode::error(&Error::new(kind, message), Protocol::V2Json, None)
}
