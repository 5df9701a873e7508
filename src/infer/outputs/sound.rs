//! Whether a body is an answer of its protocol at all: at a glance, before it is told, and in full, before it is kept and told again.
//!
//! A server that fails in the middle of its work may say 200 with half an answer, or with a page of the proxy before it. What tensors hold
//! is not looked at: that is for who asked for them. A body over HTTP that is compressed by other means than gzip is not read.

use bytes::Bytes;
use http::{HeaderMap, header};
use serde::{Deserialize, de::IgnoredAny};

use crate::infer::{
    Protocol,
    decoded::{
        frame::{FRAME, unframe},
        inflate::gunzip,
        wire::{Fault, Fields, Wire},
    },
    headers::JSON_LENGTH,
};

/// The longest answer that is decompressed to be looked at.
const LARGEST: u64 = 64 << 20;

/// `ModelInferResponse.outputs`.
const OUTPUTS: u32 = 5;

/// V1's answer.
#[derive(Deserialize)]
struct Predictions {
    #[serde(rename = "predictions")]
    _predictions: IgnoredAny,
}

/// V2's answer, as far as it says how long it is.
#[derive(Deserialize)]
struct Outputs {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    binary_data_size: Option<u64>,
}

/// Whether a body may be an answer, from both of its ends: JSON as V1 and V2 have it, or a gRPC message of whole fields. Costs no more for a
/// long one (of gRPC, for large tensors). What is compressed may be one.
#[must_use]
pub(crate) fn may_be_answer(protocol: Protocol, headers: &HeaderMap, body: &[u8]) -> bool {
    match protocol {
        Protocol::Grpc => match body.split_at_checked(FRAME) {
            Some(([0, ..], message)) => Fields::all(message).all_read().is_ok(),
            framed => framed.is_some(),
        },
        _ if is_encoded(headers) => true,
        Protocol::V1 | Protocol::V2Json | Protocol::V2Binary => json(protocol, headers, body)
            .is_some_and(|(json, _)| matches!(json.trim_ascii(), [b'{', .., b'}'] | [b'[', .., b']'])),
    }
}

/// Whether a body is an answer, whole: of V1 a JSON object with `predictions`, of V2 one with `outputs` that claim all data behind it and no
/// more, of gRPC a message that can be read.
#[must_use]
pub(crate) fn is_answer(protocol: Protocol, headers: &HeaderMap, body: &Bytes) -> bool {
    if protocol == Protocol::Grpc {
        let encoding = headers.get("grpc-encoding").map(|value| value.to_str().unwrap_or("?"));
        return unframe(body.clone(), encoding, LARGEST).is_ok_and(|message| is_response(&message));
    }
    let Some(body) = plain(headers, body) else { return false };
    let Some((json, data)) = json(protocol, headers, &body) else { return false };
    let Some(text) = object(json) else { return false };
    if protocol == Protocol::V1 { serde_json::from_str::<Predictions>(text).is_ok() } else { claims(text, data.len()) }
}

/// The JSON of a body, and the data behind it.
fn json<'b>(protocol: Protocol, headers: &HeaderMap, body: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
    match headers.get(JSON_LENGTH).filter(|_| protocol != Protocol::V1) {
        Some(length) => body.split_at_checked(length.to_str().ok()?.parse().ok()?),
        None => Some((body, &[])),
    }
}

/// The text of what begins as an object does: a structure is read from an array, too.
fn object(json: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(json).ok()?;
    text.trim_ascii_start().starts_with('{').then_some(text)
}

/// Whether it is a V2 answer whose outputs have that many bytes behind the JSON.
fn claims(json: &str, bytes: usize) -> bool {
    let Ok(Outputs { outputs }) = serde_json::from_str(json) else { return false };
    let sizes = outputs.iter().filter_map(|output| output.parameters.as_ref()?.binary_data_size);
    sizes.map(u128::from).sum::<u128>() == bytes as u128
}

/// Whether it is a `ModelInferResponse`, as far as its outputs' own fields.
fn is_response(message: &[u8]) -> bool {
    let mut fields = Fields::all(message);
    loop {
        match fields.next() {
            Ok(None) => return true,
            Ok(Some(field)) if field.number == OUTPUTS => {
                let Wire::Bytes(span) = field.value else { return false };
                if Fields::new(message, span).all_read().is_err() {
                    return false;
                }
            }
            Ok(Some(_)) => {}
            Err(_) => return false,
        }
    }
}

/// The body as it was before it was compressed; `None`: not by gzip, or not whole.
fn plain(headers: &HeaderMap, body: &Bytes) -> Option<Bytes> {
    if !is_encoded(headers) {
        return Some(body.clone());
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let is_gzip = encodings.next().is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"gzip"));
    (is_gzip && encodings.next().is_none()).then(|| gunzip(body, LARGEST).ok()).flatten()
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
}

impl Fields<'_> {
    /// Reads them to the end.
    fn all_read(mut self) -> Result<(), Fault> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use prost::Message as _;

    use super::*;
    use crate::infer::decoded::{
        frame::frame,
        proto::{InferTensor, ModelInferResponse},
    };

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// Whether it may be an answer, and whether it is one.
    fn judged(protocol: Protocol, fields: &[(&'static str, &str)], body: &[u8]) -> (bool, bool) {
        let headers = headers(fields);
        let judged =
            (may_be_answer(protocol, &headers, body), is_answer(protocol, &headers, &Bytes::copy_from_slice(body)));
        assert!(judged.0 || !judged.1, "what is one may be one: {body:?}");
        judged
    }

    #[test]
    fn json_is_an_answer_where_it_is_whole_and_says_what_the_protocol_does() {
        const NOTHING: (bool, bool) = (false, false);
        const NO_ANSWER: (bool, bool) = (true, false);
        const ANSWER: (bool, bool) = (true, true);
        for (body, of_v1, of_v2) in [
            ("", NOTHING, NOTHING),
            ("xyz", NOTHING, NOTHING),
            ("<html></html>", NOTHING, NOTHING),
            ("{\"predictions\":[1", NOTHING, NOTHING),
            ("{", NOTHING, NOTHING),
            ("{\"predictions\":[1}", NO_ANSWER, NO_ANSWER),
            ("{}", NO_ANSWER, NO_ANSWER),
            ("{\"error\":\"out of memory\"}", NO_ANSWER, NO_ANSWER),
            ("[{\"predictions\":[]}]", NO_ANSWER, NO_ANSWER),
            ("[[]]", NO_ANSWER, NO_ANSWER),
            (" {\"predictions\": [{\"a\":[1.5,null]}], \"n\":{}}\n", ANSWER, NO_ANSWER),
            ("{\"predictions\":[]}{}", NO_ANSWER, NO_ANSWER),
            ("{\"predictions\":[NaN]}", NO_ANSWER, NO_ANSWER),
            ("{\"id\":\"a\",\"outputs\":[]}", NO_ANSWER, ANSWER),
            ("{\"outputs\":[{\"name\":\"y\",\"parameters\":{\"p\":[1]},\"data\":[1]}]}", NO_ANSWER, ANSWER),
            ("{\"outputs\":[{\"parameters\":null}]}", NO_ANSWER, ANSWER),
            ("{\"outputs\":{}}", NO_ANSWER, NO_ANSWER),
            ("{\"outputs\":[],\"outputs\":[]}", NO_ANSWER, NO_ANSWER),
            ("{\"outputs\":[{\"parameters\":{\"binary_data_size\":4}}]}", NO_ANSWER, NO_ANSWER),
        ] {
            assert_eq!(judged(Protocol::V1, &[], body.as_bytes()), of_v1, "{body}");
            assert_eq!(judged(Protocol::V2Json, &[], body.as_bytes()), of_v2, "{body}");
            assert_eq!(judged(Protocol::V2Binary, &[], body.as_bytes()), of_v2, "{body}");
        }
    }

    #[test]
    fn binary_data_is_all_that_the_outputs_claim() {
        let json =
            r#"{"outputs":[{"parameters":{"binary_data_size":4}},{"data":[1]},{"parameters":{"binary_data_size":2}}]}"#;
        let length = json.len();
        for (length, tail, expected) in [
            (length.to_string(), 6, (true, true)),
            (length.to_string(), 5, (true, false)),
            (length.to_string(), 7, (true, false)),
            ((length - 1).to_string(), 6, (false, false)),
            ((length + 7).to_string(), 6, (false, false)),
            ("many".to_owned(), 6, (false, false)),
        ] {
            let body = [json.as_bytes(), &vec![7; tail]].concat();
            for protocol in [Protocol::V2Json, Protocol::V2Binary] {
                let judged = judged(protocol, &[("inference-header-content-length", &length)], &body);
                assert_eq!(judged, expected, "{length} {tail}");
            }
        }
    }

    #[test]
    fn what_is_compressed_is_judged_by_what_it_was() {
        let gzip = |body: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(body.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let (well, ill) = (gzip("{\"predictions\":[]}"), gzip("xyz"));
        for (encoding, body, expected) in [
            ("gzip", &well[..], true),
            ("GZIP", &well, true),
            ("gzip", &ill, false),
            ("gzip", &well[..well.len() - 9], false),
            ("gzip", b"{\"predictions\":[]}", false),
            ("br", &well, false),
            ("identity", b"{\"predictions\":[]}", true),
        ] {
            let judged = judged(Protocol::V1, &[("content-encoding", encoding)], body);
            assert_eq!(judged, (true, expected), "{encoding} {body:?}");
        }
        let twice = [("content-encoding", "gzip"), ("content-encoding", "gzip")];
        assert!(!judged(Protocol::V1, &twice, &well).1);
        // A message that says it is compressed, by what its headers say.
        let message = ModelInferResponse { model_name: "m".into(), ..Default::default() }.encode_to_vec();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&message).unwrap();
        let mut framed = frame(&encoder.finish().unwrap()).to_vec();
        framed[0] = 1;
        assert_eq!(judged(Protocol::Grpc, &[("grpc-encoding", "gzip")], &framed), (true, true));
        assert_eq!(judged(Protocol::Grpc, &[], &framed), (true, false));
    }

    #[test]
    fn a_message_is_an_answer_where_all_of_it_can_be_read() {
        let output = InferTensor { name: "y".into(), ..Default::default() };
        let response = ModelInferResponse {
            model_name: "m".into(),
            outputs: vec![output],
            raw_output_contents: vec![b"1234".to_vec()],
            ..Default::default()
        };
        let whole = response.encode_to_vec();
        let judged = |message: &[u8]| judged(Protocol::Grpc, &[], &frame(message));
        assert_eq!(judged(&whole), (true, true));
        assert_eq!(judged(b""), (true, true), "a message of no fields");
        assert_eq!(judged(&whole[..whole.len() - 1]), (false, false));
        assert_eq!(judged(b"<html>"), (false, false));
        assert_eq!(judged(b"\x2a\x02\x0a\x09"), (true, false), "an output that ends too soon");
        assert_eq!(judged(b"\x28\x01"), (true, false), "an output that is a number");
        assert!(!may_be_answer(Protocol::Grpc, &HeaderMap::new(), b""), "no message at all");
        assert!(!is_answer(Protocol::Grpc, &HeaderMap::new(), &[frame(&whole), frame(&whole)].concat().into()));
    }
}
