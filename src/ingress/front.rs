//! A request that came before byte for byte, and is told what it was told then.
//!
//! Most requests come with their bodies: such a one is answered where it is polled first, and nothing is built for the path that it would
//! walk. One whose body comes later is looked up on its way, once that is there.

use std::{
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method as Verb, Response, request::Parts, uri::PathAndQuery};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{
    body::ResponseBody,
    context::CallerHeaders,
    encode,
    infer::{Ask, json_length},
    route::route,
    service::{Arrival, Gateway},
};
use crate::{
    infer::{Method, ModelId, RawKey, RawRequest},
    pipeline::Told,
};

/// A request as far as it says what it was told.
pub(super) struct Came<'a> {
    pub(super) model: ModelId,
    pub(super) ask: &'a Ask<'a>,
    pub(super) head: &'a Parts,
    pub(super) told: &'a CallerHeaders,
    pub(super) json_length: Option<usize>,
    pub(super) body: &'a [u8],
}

/// Answers a request that is there whole and came before. `None`: it is to walk its path; what was read of its body is in `arrival` then.
pub(super) fn at_once(
    gateway: &Gateway,
    arrival: &mut Arrival,
    context: &mut Context<'_>,
) -> Option<Response<ResponseBody>> {
    let Arrival { head, body, told, began, begun, as_came, .. } = arrival;
    let (pipeline, began) = (&gateway.pipeline, *began);
    if !pipeline.predictions.has_front() || head.method != Verb::POST {
        return None;
    }
    let ask = Ask::of_prediction(route(head.uri.path()), told).ok()?;
    let config = &*pipeline.config;
    let model = config.model_id(&ask.model)?;
    // What is wrong with a head is said on the path.
    let tier = told.tier(config, config.model(model)).ok()?;
    told.deadline(config.model(model).timeout, began).ok()?;
    let json_length = json_length(told, ask.protocol).ok()?;
    let most = pipeline.predictions.known_up_to(model).filter(|_| is_known_by_bytes(&ask, told))?;
    // What must be decoded, be it for a model that stands in, is known by what that finds.
    if config.is_decoded(config.model(model)) {
        return None;
    }
    *begun = read(body, most.min(config.listen.max_body), context);
    let body = begun.as_ref().ok().filter(|begun| !begun.is_empty() && body.is_end_stream())?;
    match told_before(gateway, &Came { model, ask: &ask, head, told, json_length, body }, began) {
        ControlFlow::Break(again) => {
            let id = told.request_id();
            let mut call = gateway.records.begin(Some(model), ask.protocol, began);
            call.runs_under(tier);
            call.end_as_before(&id);
            Some(encode::told_before(again, id))
        }
        ControlFlow::Continue(key) => {
            *as_came = key;
            None
        }
    }
}

/// What the same bytes were told before; else what these can be known by later.
pub(super) fn told_before(
    gateway: &Gateway,
    &Came { model, ask, head, told, json_length, body }: &Came<'_>,
    began: tokio::time::Instant,
) -> ControlFlow<Told, Option<RawKey>> {
    if !is_known_by_bytes(ask, told) {
        return ControlFlow::Continue(None);
    }
    let came = RawRequest {
        model,
        protocol: ask.protocol,
        path: head.uri.path_and_query().map_or("/", PathAndQuery::as_str),
        headers: &head.headers,
        json_length,
        body,
    };
    gateway.pipeline.told_before(&came, began)
}

/// Whether the same bytes ask for the same. Under a key of its caller's a request is told what that one was told.
fn is_known_by_bytes(ask: &Ask<'_>, told: &CallerHeaders) -> bool {
    ask.method == Method::Predict
        && !told.caching.bypasses()
        && !told.prefers_async()
        && told.idempotency_key().is_none()
}

/// What is there of a body that is no longer than `most`. One that does not say how long it is, or is longer, is left alone.
fn read(body: &mut Incoming, most: u64, context: &mut Context<'_>) -> hyper::Result<Bytes> {
    if body.size_hint().exact().is_none_or(|length| length > most) {
        return Ok(Bytes::new());
    }
    match Pin::new(body).poll_frame(context) {
        Poll::Ready(Some(frame)) => frame.map(|frame| frame.into_data().unwrap_or_default()),
        Poll::Ready(None) | Poll::Pending => Ok(Bytes::new()),
    }
}
