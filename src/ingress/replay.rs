//! A kept request, asked again as it came, and what that came to.
//!
//! It runs under the lowest tier, due after its model's timeout, and only the full model's answer is its result: nothing stands in for
//! it, and one from stale or default features is none. A refusal that asking again does not change is its result, too, as its caller would have had it.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::{context, decode, encode, infer as infer_http, rpc, service::Gateway, status};
use crate::{
    config::{Config, Model},
    infer::{
        Answer, AnswerBody, Caching, Deadline, Error, InferRequest, Kind, Level, Method, Payload, Protocol, TierId,
        WorkerId, headers::REQUEST_ID,
    },
    spool::{Reply, Request},
};

/// What a replay came to.
#[derive(Debug)]
pub(crate) enum Came {
    /// Its result.
    To(Reply),
    /// None, but another try may bring one.
    ToNothing(String),
    /// None, nor will another try.
    ToNoUse(String),
    /// It did not reach the model; the same may hold for that long.
    NoFurther(Duration),
}

/// How long a request is left alone that did not reach its model, where nothing says when it may.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// Asks a kept request again.
///
/// # Cancel safety
///
/// Dropped, it may have reached its model.
pub(crate) async fn infer(gateway: &Gateway, kept: &Request, worker: WorkerId) -> Came {
    let limit = gateway.pipeline.config.listen.max_body;
    let outcome = match request(&gateway.pipeline.config, kept, worker) {
        Ok(request) => gateway.pipeline.infer_in_full(request).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(answer) if answer.level != Level::Full => {
            Came::ToNothing(format!("answered at level {} only", answer.level.digit()))
        }
        Ok(answer) if is_passing(encode::status_of(&answer, kept.protocol)) => {
            Came::ToNothing(format!("the model's server answered {}", encode::status_of(&answer, kept.protocol)))
        }
        Ok(answer) => match reply(answer, limit).await {
            Ok(reply) => Came::To(reply),
            Err(came) => came,
        },
        Err(error) => failed(&error, kept.protocol),
    }
}

/// Whether the same request may fare better another time.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn failed(error: &Error, protocol: Protocol) -> Came {
    match error.kind() {
        Kind::Shed | Kind::Unavailable | Kind::Cancelled => Came::NoFurther(error.retry_after().unwrap_or(LEFT_ALONE)),
        Kind::DeadlineExceeded | Kind::BackendFailed | Kind::Internal | Kind::RequestTimeout | Kind::SpoolFull => {
            Came::ToNothing(error.to_string())
        }
        Kind::InvalidRequest
        | Kind::TooLarge
        | Kind::NotFound
        | Kind::MethodNotAllowed
        | Kind::UnsupportedMediaType
        | Kind::Unauthenticated
        | Kind::NotAllowed
        | Kind::KeyReused
        | Kind::Unimplemented => Came::To(refusal(error, protocol)),
    }
}

/// A refusal as its caller would have had it.
fn refusal(error: &Error, protocol: Protocol) -> Reply {
    let row = status::of(error.kind());
    if protocol == Protocol::Grpc {
        let headers = encode::grpc_status(row.grpc, &error.to_string());
        return Reply { status: StatusCode::OK, headers, body: Bytes::new(), trailers: None };
    }
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::json!({ "error": error.to_string() }).to_string().into();
    Reply { status: row.http, headers: HeaderMap::from_iter([content_type]), body, trailers: None }
}

/// An answer, whole.
async fn reply(answer: Answer, limit: u64) -> Result<Reply, Came> {
    let Answer { status, headers, body, trailers, .. } = answer;
    let mut stream = match body {
        AnswerBody::Whole(body) => return Ok(Reply { status, headers, body, trailers }),
        AnswerBody::Stream(stream) => stream,
    };
    let (mut body, mut trailers) = (BytesMut::new(), trailers);
    while let Some(frame) = stream.frame().await {
        match frame.map_err(|error| Came::ToNothing(error.to_string()))?.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
        if body.len() as u64 > limit {
            return Err(Came::ToNoUse(format!("its answer is longer than the {limit} bytes of listen.max_body")));
        }
    }
    Ok(Reply { status, headers, body: body.freeze(), trailers })
}

/// The request as it came, but under the lowest tier and due after its model's timeout.
fn request(config: &Config, kept: &Request, worker: WorkerId) -> Result<Box<InferRequest>, Error> {
    let id = config.model_id(&kept.model);
    let id =
        id.ok_or_else(|| Error::new(Kind::NotFound, format!("model {:?} is not configured any more", kept.model)))?;
    let model = config.model(id);
    let mut headers = kept.headers.clone();
    let lowest = TierId(u32::try_from(config.tiers.len().saturating_sub(1)).unwrap_or(0));
    Ok(Box::new(InferRequest {
        id: context::id_or_new(headers.get(REQUEST_ID)),
        worker,
        protocol: kept.protocol,
        method: kept.method,
        verb: kept.verb.clone(),
        path: kept.path.clone(),
        model: id,
        version: kept.version.as_deref().map(Into::into),
        tier: model.tier.max(lowest),
        deadline: Deadline::after(Instant::now(), model.timeout),
        caching: Caching::Allowed,
        payload: payload(config, model, kept, &mut headers)?,
        headers,
        json_length: kept.json_length,
    }))
}

fn payload(config: &Config, model: &Model, kept: &Request, headers: &mut HeaderMap) -> Result<Payload, Error> {
    let (body, limit) = (kept.body.clone(), config.listen.max_body);
    if model.joins.is_empty() || !matches!(kept.method, Method::Predict | Method::Explain) {
        return Ok(Payload::Retained(body));
    }
    let plain = match kept.protocol {
        Protocol::Grpc => rpc::unframed(headers, body, limit)?,
        _ => infer_http::inflated(headers, body, limit)?,
    };
    Ok(Payload::Decoded(Arc::new(decode::decode(kept.protocol, plain, kept.json_length)?)))
}
