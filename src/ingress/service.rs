//! One request, from its head to its answer: routes it, and makes sure that whatever happens is answered.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use http::{Method as Verb, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    body::ResponseBody,
    context::CallerHeaders,
    encode, feast,
    hold::Holds,
    infer as infer_http, later, local,
    route::{Route, route},
    rpc,
};
use crate::{
    infer::{Error, Kind, Method, Protocol, WorkerId},
    pipeline::Pipeline,
    spool::Spool,
};

/// Everything a request needs; one per config snapshot, shared by the workers.
pub(crate) struct Gateway {
    pub(crate) pipeline: Pipeline,
    pub(crate) records: super::record::Records,
    /// What bodies may be held, over all snapshots.
    pub(crate) holds: Arc<Holds>,
    pub(crate) feast: feast::Server,
    /// Requests kept for later.
    pub(crate) spool: Arc<Spool>,
    /// `grpc.health.v1` and reflection.
    pub(crate) services: tonic::service::Routes,
    /// Whether this gateway would answer `/readyz` with 200.
    pub(crate) readiness: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// A request as it arrived. It goes boxed from hand to hand: each future it passes through would have room of its own for it, and all of
/// that is moved with the outermost.
pub(super) struct Arrival {
    /// The worker that serves its connection.
    pub(super) worker: WorkerId,
    pub(super) request: Request<Incoming>,
    /// What its headers tell.
    pub(super) told: CallerHeaders,
}

/// Answers one request, always with a level and an id. A panic is a defect: it is logged, answered with 500, and costs no other request anything.
pub(super) async fn serve(
    gateway: Arc<Gateway>,
    worker: WorkerId,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let told = CallerHeaders::by(request.headers());
    let protocol = if told.grpc { Protocol::Grpc } else { Protocol::V2Json };
    let id = told.id.clone();
    let arrival = Box::new(Arrival { worker, request, told });
    let answered = AssertUnwindSafe(dispatch(&gateway, arrival)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        // The panic hook has logged where.
        encode::error(
            &Error::new(Kind::Internal, "internal error: this is a defect in weir, and logged"),
            protocol,
            None,
        )
    });
    encode::complete(response.headers_mut(), id.as_ref());
    Ok(response)
}

async fn dispatch(gateway: &Arc<Gateway>, arrival: Box<Arrival>) -> Response<ResponseBody> {
    // The head's path is cheap to clone; routes borrow from it while the request is consumed.
    let path = arrival.request.uri().clone();
    // Boxed: what is not inference over HTTP, so that its future is no longer than it must be.
    let asked = match route(path.path()) {
        Route::Grpc(service, method) => {
            return Box::pin(rpc::serve(gateway, arrival, service, method)).await;
        }
        Route::V1Predict(model) => {
            infer_http::Ask { protocol: Protocol::V1, method: Method::Predict, model, version: None }
        }
        Route::V1Explain(model) => {
            infer_http::Ask { protocol: Protocol::V1, method: Method::Explain, model, version: None }
        }
        Route::V2Infer(model, version) => {
            let protocol = if arrival.told.json_length().is_some() { Protocol::V2Binary } else { Protocol::V2Json };
            infer_http::Ask { protocol, method: Method::Predict, model, version }
        }
        Route::V2Model(model) => {
            let ask = infer_http::Ask { protocol: Protocol::V2Json, method: Method::Other, model, version: None };
            return Box::pin(infer_http::forward(gateway, arrival, ask)).await;
        }
        Route::V2RepositoryModel(model) if gateway.pipeline.config.allow_repository => {
            let ask = infer_http::Ask { protocol: Protocol::V2Json, method: Method::Other, model, version: None };
            return Box::pin(infer_http::forward(gateway, arrival, ask)).await;
        }
        Route::V2ModelReady(model) => {
            return Box::pin(local::model_ready(gateway, arrival, model)).await;
        }
        Route::V1Async(id) => return Box::pin(later::result(gateway, &arrival, id)).await,
        Route::V1Model(name) => return Box::pin(local::v1_model(gateway, &arrival, &name)).await,
        Route::Feast(endpoint) => return Box::pin(feast::serve(gateway, arrival, endpoint)).await,
        Route::Unknown if arrival.told.grpc => return rpc::unknown(path.path()),
        Route::Unknown if gateway.feast.speaks_python() => return gateway.feast.not_found(),
        other => return local::answer(gateway, &arrival.request, &other),
    };
    if arrival.request.method() != Verb::POST {
        return method_not_allowed(arrival.request.method(), "POST");
    }
    infer_http::infer(gateway, arrival, asked).await
}

/// 405, saying what is allowed.
pub(super) fn method_not_allowed(used: &Verb, allowed: &'static str) -> Response<ResponseBody> {
    let error = Error::new(Kind::MethodNotAllowed, format!("method {used} is not allowed here; allowed: {allowed}"));
    let mut response = encode::error(&error, Protocol::V2Json, None);
    debug_assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allowed));
    response
}
