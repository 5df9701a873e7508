//! Inference over HTTP: V1, V2 JSON and V2 with binary tensors.

use std::{borrow::Cow, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Response, header, request::Parts, uri::PathAndQuery};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    body::ResponseBody,
    context::CallerHeaders,
    decode, encode,
    front::{self, Came},
    hold::Hold,
    later::{self, Wish},
    receive::{Extent, Received, Terms, broken, receive_begun},
    route::Route,
    service::{Arrival, Gateway},
};
use crate::infer::{
    Answer, Caching, Deadline, Error, InferRequest, Kind, Method, ModelId, Payload, Protocol, RawKey, RequestId,
    TierId, WorkerId,
    decoded::shown,
    hops::{self, Hop},
};

/// What a path asked for.
pub(super) struct Ask<'a> {
    pub(super) protocol: Protocol,
    pub(super) method: Method,
    pub(super) model: Cow<'a, str>,
    pub(super) version: Option<&'a str>,
}

impl<'a> Ask<'a> {
    /// What most paths ask for.
    ///
    /// # Errors
    ///
    /// The path asks for something else.
    pub(super) fn of_prediction(route: Route<'a>, told: &CallerHeaders) -> Result<Self, Route<'a>> {
        let (protocol, model, version) = match route {
            Route::V1Predict(model) => (Protocol::V1, model, None),
            Route::V2Infer(model, version) if told.json_length().is_some() => (Protocol::V2Binary, model, version),
            Route::V2Infer(model, version) => (Protocol::V2Json, model, version),
            other => return Err(other),
        };
        Ok(Self { protocol, method: Method::Predict, model, version })
    }
}

/// Answers an inference request.
#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
pub(super) fn infer<'a>(
    gateway: &'a Arc<Gateway>,
    mut arrival: Box<Arrival>,
    ask: Ask<'a>,
) -> impl Future<Output = Response<ResponseBody>> + Send + 'a {
    async move {
        let began = arrival.began;
        let id = arrival.told.request_id();
        let protocol = ask.protocol;
        let model = gateway.pipeline.config.model_id(&ask.model);
        let mut call = gateway.records.begin(model, protocol, began);
        let wish = Wish::by(&arrival.told);
        let body = (arrival.begun, arrival.body);
        let head = Head { parts: &mut arrival.head, told: &arrival.told };
        let outcome = match arrive(gateway, head, body, (&ask, &wish), began).await {
            Ok(arrived) => {
                call.runs_under(arrived.tier);
                let looked_up = match (arrival.as_came.take(), arrived.came(&ask, &arrival.head, &arrival.told)) {
                    (None, Some(came)) => front::told_before(gateway, &came, began),
                    (key, Some(_)) => ControlFlow::Continue(key),
                    (_, None) => ControlFlow::Continue(None),
                };
                match looked_up {
                    ControlFlow::Break(again) => {
                        call.end_as_before(&id);
                        return encode::told_before(again, id);
                    }
                    ControlFlow::Continue(as_came) => {
                        let (request, _held) =
                            arrived.request((arrival.worker, arrival.head), &ask, id.clone(), as_came);
                        // Boxed: the path is most of the room that a request takes, and one that walks none does not carry it.
                        Box::pin(later::infer(gateway, request, wish)).await
                    }
                }
            }
            Err(error) => Err(error),
        };
        call.end(&id, outcome.as_ref());
        finish(outcome, protocol, id)
    }
}

/// Forwards what is no inference to the model's pool.
pub(super) async fn forward(gateway: &Arc<Gateway>, arrival: Box<Arrival>, ask: Ask<'_>) -> Response<ResponseBody> {
    let Arrival { worker, mut head, body, told, began, begun, .. } = *arrival;
    let id = told.request_id();
    let protocol = ask.protocol;
    // Nothing that is no inference is kept for later.
    let asked = (&ask, &Wish::default());
    let outcome = match arrive(gateway, Head { parts: &mut head, told: &told }, (begun, body), asked, began).await {
        Ok(arrived) => {
            let (request, _held) = arrived.request((worker, head), &ask, id.clone(), None);
            gateway.pipeline.forward(request).await
        }
        Err(error) => Err(error),
    };
    finish(outcome, protocol, id)
}

/// Encodes an outcome.
pub(super) fn finish(outcome: Result<Answer, Error>, protocol: Protocol, id: RequestId) -> Response<ResponseBody> {
    match outcome {
        Ok(answer) => encode::answer(answer, protocol, id),
        Err(error) => {
            tracing::debug!(%id, kind = ?error.kind(), %error, source = ?std::error::Error::source(&error), "refused");
            encode::error(&error, protocol, Some(&id))
        }
    }
}

/// A request the path can take, and the room that its body takes until it is answered.
pub(super) type Prepared<'a> = (Box<InferRequest>, Hold<'a>);

/// A request's head, and what it tells.
struct Head<'a> {
    parts: &'a mut Parts,
    told: &'a CallerHeaders,
}

/// What there is of a request beside its head, once its body is there as far as it is needed.
struct Arrived<'a> {
    model: ModelId,
    tier: TierId,
    deadline: Deadline,
    caching: Caching,
    json_length: Option<usize>,
    payload: Payload,
    hold: Hold<'a>,
}

/// Judges the head, and reads the body.
#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
fn arrive<'a>(
    gateway: &'a Gateway,
    Head { parts, told }: Head<'_>,
    (begun, body): (hyper::Result<Bytes>, Incoming),
    (ask, wish): (&Ask<'_>, &Wish),
    began: Instant,
) -> impl Future<Output = Result<Arrived<'a>, Error>> + Send {
    async move {
        let config = &gateway.pipeline.config;
        let model_id = config.model_id(&ask.model).ok_or_else(|| unknown_model(gateway, &ask.model))?;
        let model = config.model(model_id);
        if ask.method == Method::Explain && model.explainer.is_none() {
            return Err(no_explainer(&model.name));
        }
        let deadline = told.deadline(model.timeout, began)?;
        let tier = told.tier(config, model)?;
        let json_length = json_length(told, ask.protocol)?;
        let joins = match ask.method {
            Method::Predict => config.is_decoded(model),
            Method::Explain => model.is_decoded(),
            Method::Other | Method::Stream => false,
        };
        let extent = match ask.method {
            _ if joins => Extent::Whole,
            Method::Predict | Method::Explain if wish.may_queue(model) => Extent::Whole,
            Method::Predict if model.ensemble.is_some() => Extent::Whole,
            Method::Predict if model.is_held_whole() => Extent::WholeIfRoom,
            _ => Extent::Beginning(config.listen.hold_body),
        };
        let limit = config.listen.max_body;
        let mut hold = gateway.holds.hold();
        let begun = begun.map_err(|error| broken(error.into(), limit))?;
        let payload = match receive_begun((begun, body), extent, Terms { limit, deadline, hold: &mut hold }).await? {
            Received::Whole(bytes) if joins => {
                let bytes = inflated(&mut parts.headers, bytes, limit)?;
                hold.whole(bytes.len() as u64)?;
                Payload::Decoded(Arc::new(decode::decode(ask.protocol, bytes, json_length)?))
            }
            Received::Whole(bytes) => Payload::Retained(bytes),
            Received::Longer(head, rest) => Payload::Stream { head, rest },
        };
        Ok(Arrived { model: model_id, tier, deadline, caching: told.caching, json_length, payload, hold })
    }
}

impl<'a> Arrived<'a> {
    /// What it may be known by, where all of it is there as it came.
    fn came<'b>(&'b self, ask: &'b Ask<'b>, head: &'b Parts, told: &'b CallerHeaders) -> Option<Came<'b>> {
        let &Self { model, json_length, .. } = self;
        let Payload::Retained(body) = &self.payload else { return None };
        Some(Came { model, ask, head, told, json_length, body })
    }

    /// A request that the path can take.
    fn request(
        self,
        (worker, parts): (WorkerId, Parts),
        ask: &Ask<'_>,
        id: RequestId,
        as_came: Option<RawKey>,
    ) -> Prepared<'a> {
        let Self { model, tier, deadline, caching, json_length, payload, hold } = self;
        let mut headers = parts.headers;
        hops::strip(&mut headers, Hop::Request);
        let request = Box::new(InferRequest {
            id,
            worker,
            protocol: ask.protocol,
            method: ask.method,
            verb: parts.method,
            path: parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")),
            model,
            version: ask.version.map(Into::into),
            tier,
            deadline,
            caching,
            headers: headers.into(),
            json_length,
            payload,
            as_came,
        });
        (request, hold)
    }
}

/// The 404 for a model that is not configured.
pub(super) fn unknown_model(gateway: &Gateway, name: &str) -> Error {
    const SHOWN: usize = 20;
    let models = &gateway.pipeline.config.models;
    let mut names: Vec<&str> = models.iter().take(SHOWN).map(|model| &*model.name).collect();
    if models.len() > SHOWN {
        names.push("…");
    }
    let allowed = if names.is_empty() { "none is configured".to_owned() } else { names.join(", ") };
    // A name from a gRPC message may be as long as the message.
    let told = shown(name, decode::NAME);
    Error::new(Kind::NotFound, format!("unknown model {told:?}; configured: {allowed}"))
}

fn no_explainer(model: &str) -> Error {
    let message =
        format!("model {model:?} has no explainer: set models.{model}.explainer.pool to those who answer :explain");
    Error::new(Kind::Unimplemented, message)
}

pub(super) fn json_length(told: &CallerHeaders, protocol: Protocol) -> Result<Option<usize>, Error> {
    if protocol != Protocol::V2Binary {
        return Ok(None);
    }
    let value = told.json_length();
    let length = value.and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        Error::invalid(format!(
            "header inference-header-content-length: {} is no length; allowed: the bytes of JSON before the tensors",
            value.map_or_else(|| "\"\"".to_owned(), |value| format!("{value:?}"))
        ))
    })
}

/// Undoes gzip where the body must be read.
pub(super) fn inflated(headers: &mut HeaderMap, body: Bytes, limit: u64) -> Result<Bytes, Error> {
    decode::inflated(body, headers.remove(header::CONTENT_ENCODING).as_ref(), limit)
}

/// A model by name, or the caller's 404.
pub(super) fn model(gateway: &Gateway, name: &str) -> Result<ModelId, Error> {
    gateway.pipeline.config.model_id(name).ok_or_else(|| unknown_model(gateway, name))
}
