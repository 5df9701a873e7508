//! A kept request, asked again as it came, and what that came to.
//!
//! It runs under the lowest tier, due after its model's timeout, and only the full model's answer is its result: nothing stands in for
//! it, and one from stale or default features is none. A refusal that asking again does not change is its result, too, as its caller would have had it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::{context, decode, encode, infer as infer_http, rpc, service::Gateway, status};
use crate::{
    config::{Config, Model},
    infer::{
        Answer, AnswerBody, Deadline, Error, InferRequest, Kind, Level, Method, Payload, Protocol, WorkerId,
        headers::REQUEST_ID,
    },
    spool::{ReplayOutcome, Reply, Request},
};

/// Asks a kept request again.
///
/// # Cancel safety
///
/// Dropped, it may have reached its model.
pub(crate) async fn infer(gateway: &Gateway, kept: &Request, worker: WorkerId) -> ReplayOutcome {
    let limit = gateway.pipeline.config.listen.max_body;
    let outcome = match request(&gateway.pipeline.config, kept, worker) {
        Ok(request) => gateway.pipeline.infer_in_full(request).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(answer) if answer.level != Level::Full => {
            ReplayOutcome::retry(format!("answered at level {} only", answer.level.digit()))
        }
        Ok(answer) => match whole(answer, limit).await {
            Ok(answer) => told(answer, kept.protocol),
            Err(came) => came,
        },
        Err(error) => failed(&error, kept.protocol),
    }
}

/// An answer is the result, unless the same request may fare better another time.
fn told(answer: Answer, protocol: Protocol) -> ReplayOutcome {
    if answer.said(protocol).is_passing() {
        return ReplayOutcome::retry(format!("the model's server answered {}", encode::status_of(&answer, protocol)));
    }
    let Answer { status, headers, body, trailers, .. } = answer;
    let body = match body {
        AnswerBody::Whole(body) => body,
        AnswerBody::Stream(_) => Bytes::new(),
    };
    ReplayOutcome::Result(Box::new(Reply { status, headers, body, trailers }))
}

fn failed(error: &Error, protocol: Protocol) -> ReplayOutcome {
    ReplayOutcome::of_error(error).unwrap_or_else(|| ReplayOutcome::Result(Box::new(refusal(error, protocol))))
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

/// An answer, whole: one that came in pieces may say at its end only how it went.
async fn whole(answer: Answer, limit: u64) -> Result<Answer, ReplayOutcome> {
    let Answer { body: AnswerBody::Stream(mut stream), mut trailers, .. } = answer else { return Ok(answer) };
    let mut body = BytesMut::new();
    while let Some(frame) = stream.frame().await {
        match frame.map_err(|error| ReplayOutcome::retry(error.to_string()))?.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
        if body.len() as u64 > limit {
            return Err(ReplayOutcome::Park(format!("its answer is longer than the {limit} bytes of listen.max_body")));
        }
    }
    Ok(Answer { body: AnswerBody::Whole(body.freeze()), trailers, ..answer })
}

/// The request as it came, but under the lowest tier and due after its model's timeout.
fn request(config: &Config, kept: &Request, worker: WorkerId) -> Result<Box<InferRequest>, Error> {
    let id = config.model_id(&kept.model);
    let id =
        id.ok_or_else(|| Error::new(Kind::NotFound, format!("model {:?} is not configured any more", kept.model)))?;
    let model = config.model(id);
    let mut headers = kept.headers.clone();
    Ok(Box::new(InferRequest {
        id: context::id_or_new(headers.get(REQUEST_ID)),
        worker,
        protocol: kept.protocol,
        method: kept.method,
        verb: kept.verb.clone(),
        path: kept.path.clone(),
        model: id,
        version: kept.version.as_deref().map(Into::into),
        tier: model.tier.max(config.lowest_tier()),
        deadline: Deadline::after(Instant::now(), model.timeout),
        caching: context::CallerHeaders::by(&headers).caching,
        payload: payload(config, model, kept, &mut headers)?,
        headers: headers.into(),
        json_length: kept.json_length,
        as_came: None,
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

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;
    use crate::{fixture, infer::TierId};

    fn kept(model: &str, protocol: Protocol, body: &'static [u8]) -> Request {
        Request {
            model: model.into(),
            version: None,
            protocol,
            method: Method::Predict,
            verb: http::Method::POST,
            path: PathAndQuery::from_static("/v2/models/fraud/infer"),
            tier: "high".into(),
            headers: HeaderMap::new(),
            asker: crate::spool::Asker::default(),
            json_length: None,
            body: Bytes::from_static(body),
        }
    }

    #[tokio::test]
    async fn it_is_asked_as_it_came_under_the_lowest_tier() {
        let config = fixture::config();
        let request = |kept: &Request| request(&config, kept, WorkerId(0));
        let lite = request(&kept("lite", Protocol::V2Json, b"any bytes")).unwrap();
        assert_eq!(lite.tier, TierId(1));
        assert!(matches!(&lite.payload, Payload::Retained(body) if &**body == b"any bytes"));
        let fraud = request(&kept("fraud", Protocol::V2Json, br#"{"inputs":[]}"#)).unwrap();
        assert!(
            matches!(fraud.payload, Payload::Decoded(_)) && fraud.tier == TierId(1),
            "the tier is `standard`, not `high`"
        );
        assert_eq!(request(&kept("gone", Protocol::V1, b"")).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(request(&kept("fraud", Protocol::V1, b"no JSON")).unwrap_err().kind(), Kind::InvalidRequest);
    }

    #[test]
    fn what_asking_again_may_mend_is_no_result() {
        let came = |kind| failed(&Error::new(kind, "so"), Protocol::V2Json);
        for kind in [Kind::Shed, Kind::Unavailable] {
            assert!(matches!(came(kind), ReplayOutcome::Defer(_)), "{kind:?}");
        }
        for kind in [Kind::BackendFailed, Kind::DeadlineExceeded, Kind::Internal] {
            assert!(matches!(came(kind), ReplayOutcome::Retry { acted: true, .. }), "{kind:?}");
            assert!(
                matches!(came(kind).at_most_once(), ReplayOutcome::Park(why) if why.starts_with("so; the model may have acted"))
            );
        }
        for (acted, kind) in [(false, Kind::BackendFailed), (true, Kind::Unavailable)] {
            let came = failed(&Error::new(kind, "so").with_acted(acted), Protocol::V2Json);
            assert!(matches!(&came, ReplayOutcome::Retry { acted: told, .. } if *told == acted), "{kind:?}");
            assert_eq!(
                matches!(came.at_most_once(), ReplayOutcome::Park(_)),
                acted,
                "{kind:?}: where nothing was sent, again"
            );
        }
        for (kind, status) in [(Kind::InvalidRequest, 400), (Kind::NotFound, 404), (Kind::Unimplemented, 501)] {
            let ReplayOutcome::Result(reply) = came(kind) else { panic!("{kind:?} is a result") };
            assert_eq!((reply.status.as_u16(), &*reply.body), (status, &br#"{"error":"so"}"#[..]));
        }
        let ReplayOutcome::Result(reply) = failed(&Error::invalid("so"), Protocol::Grpc) else { panic!("a result") };
        assert_eq!(reply.headers["grpc-status"], "3");
    }

    #[tokio::test]
    async fn a_streamed_answer_is_kept_whole_up_to_a_limit() {
        let answer = |code: &'static str| {
            let frames =
                ["one ", "two"].map(|part| Ok::<_, Error>(http_body::Frame::data(Bytes::from_static(part.as_bytes()))));
            let status = (header::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code));
            let trailers = http_body::Frame::trailers(HeaderMap::from_iter([status]));
            let frames = futures_util::stream::iter(frames.into_iter().chain([Ok(trailers)]));
            answered(AnswerBody::Stream(http_body_util::StreamBody::new(frames).boxed_unsync()))
        };
        let ReplayOutcome::Result(reply) = told(whole(answer("0"), 7).await.unwrap(), Protocol::Grpc) else {
            panic!("a result")
        };
        assert_eq!((&*reply.body, reply.trailers.unwrap().len()), (&b"one two"[..], 1));
        let longer = whole(answer("0"), 6).await;
        assert!(matches!(longer, Err(ReplayOutcome::Park(why)) if why.contains("longer than the 6 bytes")));
        // A stream says at its end that it failed.
        for (code, status) in [("1", "499"), ("10", "409"), ("14", "503")] {
            let came = told(whole(answer(code), 7).await.unwrap(), Protocol::Grpc);
            assert!(matches!(&came, ReplayOutcome::Retry { why, .. } if why.contains(status)), "{code}: {came:?}");
        }
        assert!(matches!(told(whole(answer("3"), 7).await.unwrap(), Protocol::Grpc), ReplayOutcome::Result(_)));
    }

    #[test]
    fn an_answer_that_says_nothing_of_the_request_is_no_result() {
        for (status, passes) in [
            (200, false),
            (302, false),
            (400, false),
            (404, false),
            (501, false),
            (408, true),
            (425, true),
            (429, true),
            (500, true),
            (503, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let came = told(Answer { status, ..answered(AnswerBody::Whole(Bytes::new())) }, Protocol::V1);
            assert_eq!(matches!(came, ReplayOutcome::Retry { acted: true, .. }), passes, "{status}");
            assert_eq!(matches!(came, ReplayOutcome::Result(_)), !passes, "{status}");
        }
    }

    fn answered(body: AnswerBody) -> Answer {
        Answer { body, ..Answer::whole(StatusCode::OK, HeaderMap::new(), Bytes::new()) }
    }
}
