//! stub
use crate::{
    config::Config,
    features::FeatureSet,
    infer::{Error, InferRequest, Plan, Rest, WorkerId},
};
use bytes::Bytes;
#[derive(Debug)]
#[doc = "e"]
pub struct Enriched {
    pub(crate) request: InferRequest,
    pub(crate) body: Body,
    pub(crate) json_length: Option<usize>,
}
#[derive(Debug)]
#[doc = "e"]
pub enum Body {
    #[doc = ""]
    Stream {
        #[doc = ""]
        head: Bytes,
        #[doc = ""]
        rest: Rest,
    },
    #[doc = ""]
    Whole(Bytes),
}
impl Enriched {
    pub(crate) fn worker(&self) -> WorkerId {
        self.request.worker
    }
}
#[derive(Debug)]
#[doc = ""]
pub struct Enricher;
impl Enricher {
    pub(crate) fn new(_: &Config) -> Self {
        Self
    }
    pub(crate) fn enrich(&self, mut request: InferRequest, _: &FeatureSet, _: &Plan) -> Result<Enriched, Error> {
        let json_length = request.json_length;
        let body = match std::mem::replace(&mut request.payload, crate::infer::Payload::Retained(Bytes::new())) {
            crate::infer::Payload::Stream { head, rest } => Body::Stream { head, rest },
            crate::infer::Payload::Retained(b) => Body::Whole(b),
            _ => Body::Whole(Bytes::new()),
        };
        Ok(Enriched { request, body, json_length })
    }
}
pub(crate) mod rename {
    pub(crate) fn answer(
        _: crate::infer::Protocol,
        b: bytes::Bytes,
        _: &str,
        _: &str,
        l: Option<usize>,
    ) -> (bytes::Bytes, Option<usize>) {
        (b, l)
    }
}
