//! One request, from its head to its answer: routes it, and makes sure that whatever happens is answered.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method as Verb, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    body::ResponseBody,
    context::CallerHeaders,
    encode, feast, front,
    hold::Holds,
    infer as infer_http, later, local,
    route::{Route, route},
    rpc,
};
use crate::{
    infer::{Error, Kind, Method, Protocol, RawKey, WorkerId},
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
    pub(super) head: Parts,
    pub(super) body: Incoming,
    /// What its headers tell.
    pub(super) told: CallerHeaders,
    /// When its head was there.
    pub(super) began: Instant,
    /// What was read of its body already (`front`).
    pub(super) begun: hyper::Result<Bytes>,
    /// What it can be known by later, where `front` looked for it and found nothing.
    pub(super) as_came: Option<RawKey>,
}

impl Arrival {
    /// As services of others take it.
    pub(super) fn into_request(self) -> Request<Incoming> {
        Request::from_parts(self.head, self.body)
    }
}

/// Answers one request, always with a level and an id. A panic is a defect: it is logged, answered with 500, and costs no other request anything.
pub(super) fn serve(gateway: Arc<Gateway>, worker: WorkerId, request: Request<Incoming>) -> Answering {
    let (head, body) = request.into_parts();
    let told = CallerHeaders::by(&head.headers);
    let protocol = if told.grpc { Protocol::Grpc } else { Protocol::V2Json };
    let (id, began) = (told.id.clone(), Instant::now());
    let arrival = Box::new(Arrival { worker, head, body, told, began, begun: Ok(Bytes::new()), as_came: None });
    Answering { protocol, id, arrived: Some((gateway, arrival)), path: None }
}

/// A request that is being answered. It is moved, by hyper too: what is long is behind a box, where it was made.
pub(super) struct Answering {
    protocol: Protocol,
    /// What the caller calls it.
    id: Option<HeaderValue>,
    /// Until it is polled first.
    arrived: Option<(Arc<Gateway>, Box<Arrival>)>,
    path: Option<Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>>,
}

impl Answering {
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Response<ResponseBody>> {
        if let Some((gateway, mut arrival)) = self.arrived.take() {
            if let Some(response) = front::at_once(&gateway, &mut arrival, context) {
                return Poll::Ready(response);
            }
            self.path = Some(Box::pin(dispatch(gateway, arrival)));
        }
        let path = self.path.as_mut().expect("what has ended is not polled");
        let mut response = ready!(path.as_mut().poll(context));
        encode::complete(response.headers_mut(), self.id.as_ref());
        Poll::Ready(response)
    }
}

impl Future for Answering {
    type Output = Response<ResponseBody>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // What has panicked is not polled again.
        catch_unwind(AssertUnwindSafe(|| this.poll_answer(context))).unwrap_or_else(|_| {
            // The panic hook has logged where.
            let error = Error::new(Kind::Internal, "internal error: this is a defect in weir, and logged");
            let mut response = encode::error(&error, this.protocol, None);
            encode::complete(response.headers_mut(), this.id.as_ref());
            Poll::Ready(response)
        })
    }
}

#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
fn dispatch(gateway: Arc<Gateway>, arrival: Box<Arrival>) -> impl Future<Output = Response<ResponseBody>> + Send {
    async move {
        // The head's path is cheap to clone; routes borrow from it while the request is consumed.
        let path = arrival.head.uri.clone();
        // Boxed: what is not inference over HTTP, so that its future is no longer than it must be.
        let asked = match infer_http::Ask::of_prediction(route(path.path()), &arrival.told) {
            Ok(asked) => asked,
            Err(Route::V1Explain(model)) => {
                infer_http::Ask { protocol: Protocol::V1, method: Method::Explain, model, version: None }
            }
            Err(Route::Grpc(service, method)) => {
                return Box::pin(rpc::serve(&gateway, arrival, service, method)).await;
            }
            Err(Route::V2Model(model)) => {
                let ask = infer_http::Ask { protocol: Protocol::V2Json, method: Method::Other, model, version: None };
                return Box::pin(infer_http::forward(&gateway, arrival, ask)).await;
            }
            Err(Route::V2RepositoryModel(model)) if gateway.pipeline.config.allow_repository => {
                let ask = infer_http::Ask { protocol: Protocol::V2Json, method: Method::Other, model, version: None };
                return Box::pin(infer_http::forward(&gateway, arrival, ask)).await;
            }
            Err(Route::V2ModelReady(model)) => {
                return Box::pin(local::model_ready(&gateway, arrival, model)).await;
            }
            Err(Route::V1Async(id)) => return Box::pin(later::result(&gateway, &arrival, id)).await,
            Err(Route::V1Model(name)) => return Box::pin(local::v1_model(&gateway, &arrival, &name)).await,
            Err(Route::Feast(endpoint)) => return Box::pin(feast::serve(&gateway, arrival, endpoint)).await,
            Err(Route::Unknown) if arrival.told.grpc => return rpc::unknown(path.path()),
            Err(Route::Unknown) if gateway.feast.speaks_python() => return gateway.feast.not_found(),
            Err(other) => return local::answer(&gateway, &arrival.head, &other),
        };
        if arrival.head.method != Verb::POST {
            return method_not_allowed(&arrival.head.method, "POST");
        }
        infer_http::infer(&gateway, arrival, asked).await
    }
}

/// 405, saying what is allowed.
pub(super) fn method_not_allowed(used: &Verb, allowed: &'static str) -> Response<ResponseBody> {
    let error = Error::new(Kind::MethodNotAllowed, format!("method {used} is not allowed here; allowed: {allowed}"));
    let mut response = encode::error(&error, Protocol::V2Json, None);
    debug_assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allowed));
    response
}
