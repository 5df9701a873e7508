//! Inference over gRPC, on messages as bytes: nothing is decoded but the name of the model that is asked for.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method as Verb, Request, Response, header};
use hyper::body::Incoming;
use prost::Message as _;
use tokio::time::Instant;
use tower::Service as _;

use super::{
    body::ResponseBody,
    context::CallerHeaders,
    decode, encode, grpc,
    hold::Hold,
    infer as infer_http,
    later::{self, Wish},
    local,
    receive::{Extent, Received, Terms, first_message, read_message, read_on, read_on_if_room, receive},
    service::{Arrival, Gateway},
};
use crate::{
    infer::{
        Deadline, Error, InferRequest, Kind, Method, ModelId, Payload, Protocol, RequestId, WorkerId,
        hops::{self, Hop},
    },
    proto::inference,
};

/// The service of the Open Inference Protocol.
pub(crate) const SERVICE: &str = "inference.GRPCInferenceService";

/// How long a call about a model may take where no model's timeout is known yet.
const UNTIL_MODEL_IS_KNOWN: std::time::Duration = std::time::Duration::from_secs(30);

/// How long a stream may last where the caller sets no deadline.
const LONGEST_STREAM: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Answers one call.
pub(super) async fn serve(
    gateway: &Arc<Gateway>,
    arrival: Box<Arrival>,
    service: &str,
    method: &str,
) -> Response<ResponseBody> {
    if arrival.head.method != Verb::POST {
        return super::service::method_not_allowed(&arrival.head.method, "POST");
    }
    if service != SERVICE {
        return other_service(gateway, arrival.into_request()).await;
    }
    let id = arrival.told.request_id();
    let outcome = match method {
        "ServerLive" => message(gateway, arrival.body, &inference::ServerLiveResponse { live: true }).await,
        "ServerReady" => {
            message(gateway, arrival.body, &inference::ServerReadyResponse { ready: (gateway.readiness)() }).await
        }
        "ServerMetadata" => message(gateway, arrival.body, &server_metadata()).await,
        "ModelInfer" => return infer(gateway, arrival, id).await,
        "RepositoryModelLoad" | "RepositoryModelUnload" if !gateway.pipeline.config.allow_repository => {
            Err(Error::new(Kind::NotAllowed, local::REPOSITORY))
        }
        "RepositoryIndex" => Err(Error::new(
            Kind::Unimplemented,
            "weir has no repository to index; ask the model server, or ServerMetadata and ModelMetadata here",
        )),
        "RepositoryModelLoad" | "RepositoryModelUnload" => {
            return about_model(gateway, arrival, (id, Asks::REPOSITORY)).await;
        }
        "ModelStreamInfer" => return about_model(gateway, arrival, (id, Asks::STREAM)).await,
        _ => return about_model(gateway, arrival, (id, Asks::OTHER)).await,
    };
    outcome.unwrap_or_else(|error| encode::error(&error, Protocol::Grpc, Some(&id)))
}

/// A path that names no service.
pub(super) fn unknown(path: &str) -> Response<ResponseBody> {
    let error = Error::new(Kind::Unimplemented, format!("no such method {path:?}; allowed: those of {SERVICE}"));
    encode::error(&error, Protocol::Grpc, None)
}

fn server_metadata() -> inference::ServerMetadataResponse {
    inference::ServerMetadataResponse {
        name: "weir".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: local::EXTENSIONS.map(Into::into).into(),
    }
}

/// Answers with a message of Weir's own, once the request's is read.
async fn message(
    gateway: &Gateway,
    body: Incoming,
    answer: &impl prost::Message,
) -> Result<Response<ResponseBody>, Error> {
    const LONGEST: u64 = 64 * 1024;
    let deadline = Deadline::after(Instant::now(), UNTIL_MODEL_IS_KNOWN);
    let terms = Terms { limit: LONGEST, deadline, hold: &mut gateway.holds.hold() };
    receive(body, Extent::Whole, terms).await?;
    Ok(encode::grpc_message(&answer.encode_to_vec()))
}

/// Health and reflection are tonic's.
async fn other_service(gateway: &Gateway, request: Request<Incoming>) -> Response<ResponseBody> {
    let Ok(response) = gateway.services.clone().call(request).await;
    response.map(ResponseBody::Tonic)
}

async fn infer(gateway: &Arc<Gateway>, arrival: Box<Arrival>, id: RequestId) -> Response<ResponseBody> {
    let began = arrival.began;
    let addressed = address(gateway, arrival, Asks::PREDICT, began).await;
    let model = addressed.as_ref().ok().map(|addressed| addressed.model);
    let mut call = gateway.records.begin(model, Protocol::Grpc, began);
    let wish = addressed.as_ref().map_or_else(|_| Wish::default(), |addressed| Wish::by(&addressed.told));
    let prepared = match addressed {
        Ok(addressed) => addressed.prepare(gateway, id.clone(), (Method::Predict, &wish)).await,
        Err(error) => Err(error),
    };
    let outcome = match prepared {
        Ok((request, _held)) => {
            call.runs_under(request.tier);
            later::infer(gateway, request, wish).await
        }
        Err(error) => Err(error),
    };
    call.end(&id, outcome.as_ref());
    infer_http::finish(outcome, Protocol::Grpc, id)
}

/// Forwards a call that names a model in its first field: readiness, metadata, configuration, statistics, streams.
async fn about_model(
    gateway: &Arc<Gateway>,
    arrival: Box<Arrival>,
    (id, asks): (RequestId, Asks),
) -> Response<ResponseBody> {
    let began = arrival.began;
    let prepared = match address(gateway, arrival, asks, began).await {
        Ok(addressed) => addressed.prepare(gateway, id.clone(), (asks.method, &Wish::default())).await,
        Err(error) => Err(error),
    };
    let outcome = match prepared {
        Ok((request, _held)) => gateway.pipeline.forward(request).await,
        Err(error) => Err(error),
    };
    infer_http::finish(outcome, Protocol::Grpc, id)
}

/// What a call is about and where its message names the model.
#[derive(Clone, Copy)]
struct Asks {
    method: Method,
    naming: Naming,
}

/// The field that names the model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// As in all of the protocol's own messages.
    First,
    /// As in those about the repository, whose first is the repository's name.
    Second,
}

impl Asks {
    const PREDICT: Self = Self { method: Method::Predict, naming: Naming::First };
    const OTHER: Self = Self { method: Method::Other, naming: Naming::First };
    const STREAM: Self = Self { method: Method::Stream, naming: Naming::First };
    const REPOSITORY: Self = Self { method: Method::Other, naming: Naming::Second };
}

/// What is read of `RepositoryModelLoadRequest` and `RepositoryModelUnloadRequest`.
#[derive(prost::Message)]
struct RepositoryModel {
    #[prost(string, tag = "2")]
    model_name: String,
}

fn repository_model(message: &[u8]) -> Result<String, Error> {
    let named = RepositoryModel::decode(message);
    named.map(|named| named.model_name).map_err(|error| Error::invalid(format!("invalid gRPC message: {error}")))
}

/// A call whose model is known.
struct Addressed<'a> {
    worker: WorkerId,
    head: http::request::Parts,
    told: CallerHeaders,
    received: Received,
    hold: Hold<'a>,
    model: ModelId,
    version: Option<Box<str>>,
    deadline: Deadline,
}

/// Reads as much of the call as it takes to know its model.
async fn address<'a>(
    gateway: &'a Gateway,
    arrival: Box<Arrival>,
    asks: Asks,
    now: Instant,
) -> Result<Addressed<'a>, Error> {
    let Arrival { worker, head, body, told, .. } = *arrival;
    let limit = gateway.pipeline.config.listen.max_body;
    let patience = told.deadline(UNTIL_MODEL_IS_KNOWN, now)?;
    let encoding = grpc_encoding(&head.headers)?;
    let held = gateway.pipeline.config.listen.hold_body;
    let extent = if asks.method == Method::Stream { Extent::Frame } else { Extent::Front(held) };
    let mut hold = gateway.holds.hold();
    let mut received = receive(body, extent, Terms { limit, deadline: patience, hold: &mut hold }).await?;
    let mut named = match &received {
        Received::Longer(framed, _) if asks.naming == Naming::First => {
            front(framed)?.map(|asked| named(gateway, asked)).transpose()?
        }
        Received::Whole(_) | Received::Longer(..) => None,
    };
    if named.is_none() {
        // Short, or compressed, or the name stands behind the tensors: the whole message tells.
        let terms = Terms { limit, deadline: patience, hold: &mut hold };
        received = match received {
            Received::Whole(framed) => Received::Whole(framed),
            Received::Longer(framed, rest) if asks.method == Method::Stream => {
                read_message(framed, rest, terms).await?
            }
            Received::Longer(framed, rest) => Received::Whole(read_on(framed, rest, terms).await?),
        };
        let message = grpc::unframe(received.message(asks.method), encoding.as_deref(), limit)?;
        named = match asks.naming {
            Naming::First => {
                grpc::model_of(&message, message.len())?.map(|asked| self::named(gateway, asked)).transpose()?
            }
            Naming::Second => Some((infer_http::model(gateway, &repository_model(&message)?)?, None)),
        };
    }
    let (model, version) = named.ok_or_else(|| Error::invalid("the message names no model"))?;
    let longest = match asks.method {
        Method::Stream => LONGEST_STREAM,
        _ => gateway.pipeline.config.model(model).timeout,
    };
    let deadline = told.deadline(longest, now)?;
    Ok(Addressed { worker, head, told, received, hold, model, version, deadline })
}

impl Received {
    /// The framed message that names the model: of a stream the first, else all there is.
    fn message(&self, method: Method) -> Bytes {
        let (Self::Whole(framed) | Self::Longer(framed, _)) = self;
        match first_message(framed) {
            Some(end) if method == Method::Stream => framed.slice(..end.min(framed.len())),
            _ => framed.clone(),
        }
    }
}

fn named(gateway: &Gateway, asked: grpc::ModelRef<'_>) -> Result<(ModelId, Option<Box<str>>), Error> {
    Ok((infer_http::model(gateway, asked.name)?, asked.version.map(Into::into)))
}

/// Who is asked, from the front of a framed body; `None` where the front does not tell.
fn front(framed: &[u8]) -> Result<Option<grpc::ModelRef<'_>>, Error> {
    match framed.split_first_chunk::<{ grpc::FRAME }>() {
        Some((&[0, a, b, c, d], message)) => grpc::model_of(message, u32::from_be_bytes([a, b, c, d]) as usize),
        _ => Ok(None),
    }
}

fn grpc_encoding(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Error> {
    match headers.get("grpc-encoding").map(http::HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(encoding)) => Ok(Some(Cow::Borrowed(encoding))),
        Some(Err(_)) => Err(Error::invalid("header grpc-encoding is no text; allowed: identity, gzip")),
    }
}

impl<'a> Addressed<'a> {
    async fn prepare(
        mut self,
        gateway: &Gateway,
        id: RequestId,
        (method, wish): (Method, &Wish),
    ) -> Result<infer_http::Prepared<'a>, Error> {
        let config = &gateway.pipeline.config;
        let model = config.model(self.model);
        let limit = config.listen.max_body;
        let mut headers = self.head.headers;
        let tier = self.told.tier(config, model)?;
        let joins = method == Method::Predict && config.is_decoded(model);
        let (queued, held) = (wish.may_queue(model) || model.ensemble.is_some(), model.is_held_whole());
        let payload = if joins {
            let framed = match self.received {
                Received::Whole(framed) => framed,
                Received::Longer(framed, rest) => {
                    let terms = Terms { limit, deadline: self.deadline, hold: &mut self.hold };
                    read_on(framed, rest, terms).await?
                }
            };
            let message = unframed(&mut headers, framed, limit)?;
            self.hold.whole(message.len() as u64)?;
            Payload::Decoded(Arc::new(decode::decode(Protocol::Grpc, message, None)?))
        } else {
            match self.received {
                Received::Whole(framed) => Payload::Retained(framed),
                Received::Longer(framed, rest) if (queued || held) && method == Method::Predict => {
                    let terms = Terms { limit, deadline: self.deadline, hold: &mut self.hold };
                    if queued {
                        Payload::Retained(read_on(framed, rest, terms).await?)
                    } else {
                        read_on_if_room(framed, rest, terms).await?.into()
                    }
                }
                Received::Longer(head, rest) => Payload::Stream { head, rest },
            }
        };
        hops::strip(&mut headers, Hop::Request);
        let path = self.head.uri.into_parts().path_and_query;
        let request = Box::new(InferRequest {
            id,
            worker: self.worker,
            protocol: Protocol::Grpc,
            method,
            verb: Verb::POST,
            path: path.ok_or_else(|| Error::invalid("the request has no path"))?,
            model: self.model,
            version: self.version,
            tier,
            deadline: self.deadline,
            caching: self.told.caching,
            headers: headers.into(),
            json_length: None,
            payload,
            as_came: None,
        });
        Ok((request, self.hold))
    }
}

/// The bare message; what goes out is not compressed again.
pub(super) fn unframed(headers: &mut HeaderMap, framed: Bytes, limit: u64) -> Result<Bytes, Error> {
    let message = grpc::unframe(framed, grpc_encoding(headers)?.as_deref(), limit)?;
    headers.remove("grpc-encoding");
    headers.remove(header::CONTENT_ENCODING);
    Ok(message)
}
