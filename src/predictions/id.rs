//! Where the `id` lies: in a request, which is another one only by it, and in an answer, which a hit gives another one.
//!
//! An id counts as the request's own, and is left out of the key, where it is one non-empty string of characters that every encoder
//! writes as they are. Whatever else is there (none, an empty one, one with escapes, two, a body that cannot be read) stays part of the
//! key, so that an answer is handed out as it came: it is right for exactly that.

use std::ops::Range;

use bytes::Bytes;

use crate::infer::{
    Protocol,
    decoded::{
        Span,
        json::{self, Scanner},
        member_span,
        wire::{Fields, Wire, put_bytes},
    },
};

/// Bytes before a gRPC message: a flag and the length.
pub(super) const FRAME: usize = 5;

/// `id` of `ModelInferRequest` and of `ModelInferResponse`.
const FIELD: u32 = 3;
/// What else a `ModelInferRequest` says that is read elsewhere: `model_name`, `parameters`, `inputs` and `raw_input_contents`.
const ELSEWHERE: [u32; 4] = [1, 4, 5, 7];

/// A request's body around its id.
#[derive(Debug)]
pub(super) struct Split {
    /// What lies before it.
    pub(super) before: Range<usize>,
    /// What lies behind it.
    pub(super) after: Range<usize>,
    /// The request's own; `None`: what id there may be lies in `before`.
    pub(super) id: Option<Bytes>,
    /// What it says beside its own id, its inputs and its parameters: the outputs that it asks for, in gRPC the model's version, and
    /// whatever nobody but the model knows.
    pub(super) rest: Vec<Range<usize>>,
}

/// Where an answer's id lies: inside the quotes, or the whole field of a gRPC message.
pub(super) type Place = Range<usize>;

/// An answer's id is not the request's, or cannot be found: nobody knows what it would be for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unlike;

impl Split {
    /// Of a body as it goes out to the model, or as it came; in gRPC with its frame.
    pub(super) fn of(protocol: Protocol, body: &Bytes, json_length: Option<usize>) -> Self {
        let whole = || Self::without_id(body);
        match protocol {
            Protocol::V1 => Self { rest: members(body, "instances").map(Members::all).unwrap_or_default(), ..whole() },
            Protocol::V2Json => json_split(body, body.len()).unwrap_or_else(whole),
            Protocol::V2Binary => {
                json_length.and_then(|length| json_split(body, length.min(body.len()))).unwrap_or_else(whole)
            }
            Protocol::Grpc => framed(body).and_then(|at| message_split(body, at)).unwrap_or_else(whole),
        }
    }

    /// The same, of which only the id is wanted.
    pub(super) fn around_id(protocol: Protocol, body: &Bytes, json_length: Option<usize>) -> Self {
        let text = match protocol {
            Protocol::V2Json => Some(&body[..]),
            Protocol::V2Binary => json_length.and_then(|length| body.get(..length)),
            Protocol::V1 => return Self::without_id(body),
            Protocol::Grpc => None,
        };
        if text.is_some_and(has_no_id) {
            return Self::without_id(body);
        }
        Self::of(protocol, body, json_length)
    }

    fn without_id(body: &Bytes) -> Self {
        Self { before: 0..body.len(), after: body.len()..body.len(), id: None, rest: Vec::new() }
    }

    /// Of a gRPC message without its frame.
    pub(super) fn of_message(message: &Bytes) -> Option<Self> {
        message_split(message, 0)
    }
}

/// As long as it is nowhere written, neither as it is nor with escapes, there is none: to see that takes less than to read all.
fn has_no_id(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"\"id\"").is_none() && memchr::memchr(b'\\', text).is_none()
}

fn json_split(body: &Bytes, length: usize) -> Option<Split> {
    let found = members(&body[..length], "inputs")?;
    let [(_, Some(span))] = *found.ids else {
        return Some(Split { rest: found.all(), ..Split::without_id(body) });
    };
    let (before, after, id) = (0..span.start(), span.end()..body.len(), Some(body.slice(span.range())));
    Some(Split { before, after, id, rest: found.others })
}

/// What is of interest of a JSON object's members.
struct Members {
    /// Each `id`, name and value, and the inside of a string that is written as it is.
    ids: Vec<(Span, Option<Span>)>,
    /// The others, name and value, but for inputs and parameters.
    others: Vec<Range<usize>>,
}

impl Members {
    /// With what is no request's own id.
    fn all(mut self) -> Vec<Range<usize>> {
        self.others.extend(self.ids.iter().map(|(id, _)| id.range()));
        self.others
    }
}

/// `rows`: the member that holds the inputs.
fn members(text: &[u8], rows: &str) -> Option<Members> {
    json::utf8(text).ok()?;
    let mut scanner = Scanner::new(text);
    scanner.space();
    if scanner.peek() != Some(b'{') {
        return None;
    }
    let mut found = Members { ids: Vec::new(), others: Vec::new() };
    let walked = scanner.object(|scanner, key| {
        let value = scanner.span()?;
        if key.is(text, "id") {
            found.ids.push((member_span(key, value), inside(text, value)));
            return Ok(());
        }
        // Of parameters that are some, decoders know the parts.
        let are_parameters = key.is(text, "parameters") && value.of(text).starts_with(b"{");
        if !key.is(text, rows) && !are_parameters {
            found.others.push(member_span(key, value).range());
        }
        Ok(())
    });
    walked.and_then(|_| scanner.end()).ok().map(|()| found)
}

/// The inside of a string whose every character is written as it is.
fn inside(text: &[u8], value: Span) -> Option<Span> {
    match value.of(text) {
        [b'"', inside @ .., b'"'] if is_plain(inside) => Some(Span::new(value.start() + 1, value.end() - 1)),
        _ => None,
    }
}

/// Encoders differ in what they escape: slashes, what HTML means something by, all that is not ASCII.
fn is_plain(id: &[u8]) -> bool {
    let plain =
        |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'/' | b'<' | b'>' | b'&' | b'\'');
    !id.is_empty() && id.iter().all(plain)
}

/// Where the one uncompressed message of a body begins.
fn framed(body: &[u8]) -> Option<usize> {
    match body.split_first_chunk::<FRAME>() {
        Some((&[0, a, b, c, d], message)) if message.len() == u32::from_be_bytes([a, b, c, d]) as usize => Some(FRAME),
        _ => None,
    }
}

fn message_split(body: &Bytes, at: usize) -> Option<Split> {
    let Fieldset { ids, others } = fields(&body[at..])?;
    let moved = |span: Span| at + span.start()..at + span.end();
    let mut rest: Vec<_> = others.into_iter().map(moved).collect();
    let (before, after, id) = match ids.as_slice() {
        [(record, value)] if is_plain(&body[moved(*value)]) => {
            (at..at + record.start(), at + record.end()..body.len(), Some(body.slice(moved(*value))))
        }
        ids => {
            rest.extend(ids.iter().map(|(record, _)| moved(*record)));
            (at..body.len(), body.len()..body.len(), None)
        }
    };
    Some(Split { before, after, id, rest })
}

/// What is of interest of a message's fields.
struct Fieldset {
    /// Of each `id`, the field and its value.
    ids: Vec<(Span, Span)>,
    /// The others, but for those that are read elsewhere.
    others: Vec<Span>,
}

fn fields(message: &[u8]) -> Option<Fieldset> {
    u32::try_from(message.len()).ok()?;
    let mut found = Fieldset { ids: Vec::new(), others: Vec::new() };
    let mut fields = Fields::all(message);
    while let Some(field) = fields.next().ok()? {
        match field.value {
            Wire::Bytes(value) if field.number == FIELD => found.ids.push((field.span, value)),
            _ if ELSEWHERE.contains(&field.number) => {}
            _ => found.others.push(field.span),
        }
    }
    Some(found)
}

/// Where an answer says the id of its request; `None`: it says none.
pub(super) fn place(
    protocol: Protocol,
    body: &[u8],
    json_length: Option<usize>,
    id: &[u8],
) -> Result<Option<Place>, Unlike> {
    let (found, said) = match protocol {
        Protocol::V1 => return Ok(None),
        Protocol::V2Json | Protocol::V2Binary => {
            let text = body.get(..json_length.unwrap_or(body.len())).ok_or(Unlike)?;
            match members(text, "outputs").ok_or(Unlike)?.ids.as_slice() {
                [] => return Ok(None),
                [(_, Some(span))] => (span.range(), span.of(text)),
                _ => return Err(Unlike),
            }
        }
        Protocol::Grpc => {
            let at = framed(body).ok_or(Unlike)?;
            match fields(&body[at..]).ok_or(Unlike)?.ids.as_slice() {
                [] => return Ok(None),
                [(record, value)] => (at + record.start()..at + record.end(), value.of(&body[at..])),
                _ => return Err(Unlike),
            }
        }
    };
    if said == id { Ok(Some(found)) } else { Err(Unlike) }
}

/// The same answer with another id. Returns it and, in the binary extension, the length of its JSON.
pub(super) fn replaced(
    protocol: Protocol,
    body: &Bytes,
    (place, json_length): (&Place, Option<usize>),
    id: &[u8],
) -> (Bytes, Option<usize>) {
    let (before, after) = (&body[..place.start], &body[place.end..]);
    if protocol != Protocol::Grpc {
        let length = json_length.map(|length| length - place.len() + id.len());
        return ([before, id, after].concat().into(), length);
    }
    let mut out = Vec::with_capacity(body.len() + id.len() + FRAME);
    out.extend_from_slice(before);
    put_bytes(&mut out, FIELD, id);
    out.extend_from_slice(after);
    let length = u32::try_from(out.len() - FRAME).unwrap_or(u32::MAX).to_be_bytes();
    out[1..FRAME].copy_from_slice(&length);
    (out.into(), json_length)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::inference as pb;

    fn split(body: &str) -> (String, Option<String>) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let split = Split::of(Protocol::V2Json, &body, None);
        let quick = Split::around_id(Protocol::V2Json, &body, None);
        assert_eq!((&quick.before, &quick.after, &quick.id), (&split.before, &split.after, &split.id), "{body:?}");
        let around = [&body[split.before], b"|", &body[split.after]].concat();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&around), split.id.map(|id| text(&id)))
    }

    #[test]
    fn only_an_id_that_everybody_writes_alike_is_left_out() {
        for (body, around, id) in [
            (r#"{"id":"a-1","inputs":[]}"#, r#"{"id":"|","inputs":[]}"#, Some("a-1")),
            (r#" {"x":{"id":"n"}, "\u0069d" : "a"} "#, r#" {"x":{"id":"n"}, "\u0069d" : "|"} "#, Some("a")),
            (r#"{"inputs":[]}"#, r#"{"inputs":[]}|"#, None),
            (r#"{"id":""}"#, r#"{"id":""}|"#, None),
            (r#"{"id":"a/b"}"#, r#"{"id":"a/b"}|"#, None),
            (r#"{"id":"\u0041"}"#, r#"{"id":"\u0041"}|"#, None),
            (r#"{"id":"é"}"#, r#"{"id":"é"}|"#, None),
            (r#"{"id":7}"#, r#"{"id":7}|"#, None),
            (r#"{"id":"a","id":"a"}"#, r#"{"id":"a","id":"a"}|"#, None),
            (r#"{"id":"a"} x"#, r#"{"id":"a"} x|"#, None),
            (r#"[{"id":"a"}]"#, r#"[{"id":"a"}]|"#, None),
        ] {
            assert_eq!(split(body), (around.to_owned(), id.map(str::to_owned)), "{body}");
        }
    }

    fn grpc(id: &str) -> Bytes {
        let output = pb::model_infer_response::InferOutputTensor { name: "y".into(), ..Default::default() };
        let answer = pb::ModelInferResponse {
            model_name: "m".into(),
            id: id.into(),
            outputs: vec![output],
            raw_output_contents: vec![Bytes::from(vec![7; 300])],
            ..Default::default()
        };
        let message = answer.encode_to_vec();
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat().into()
    }

    #[test]
    fn an_answer_with_another_id_is_what_the_server_would_have_said() {
        let json = |id: &str| Bytes::from(format!(r#"{{"model_name":"m","id":"{id}","outputs":[]}}rest"#));
        let long = "x".repeat(200);
        for id in ["b", "another", &long] {
            let length = Some(json("a").len() - 4);
            let place = place(Protocol::V2Binary, &json("a"), length, b"a").unwrap().unwrap();
            let told = replaced(Protocol::V2Binary, &json("a"), (&place, length), id.as_bytes());
            assert_eq!(told, (json(id), Some(json(id).len() - 4)));
            let place = super::place(Protocol::Grpc, &grpc("a"), None, b"a").unwrap().unwrap();
            assert_eq!(replaced(Protocol::Grpc, &grpc("a"), (&place, None), id.as_bytes()), (grpc(id), None));
        }
    }

    #[test]
    fn an_answer_with_an_id_of_its_own_is_no_other_requests() {
        for (body, expected) in [
            (r#"{"outputs":[]}"#, Ok(None)),
            (r#"{"id":"mine"}"#, Ok(Some(7..11))),
            (r#"{"id":"Mine"}"#, Err(Unlike)),
            (r#"{"id":null}"#, Err(Unlike)),
            (r#"{"id":"mine","id":"mine"}"#, Err(Unlike)),
            ("<html>", Err(Unlike)),
        ] {
            assert_eq!(place(Protocol::V2Json, body.as_bytes(), None, b"mine"), expected, "{body}");
        }
        assert_eq!(place(Protocol::V2Json, b"{}", Some(3), b"mine"), Err(Unlike), "a length past the end");
        assert_eq!(place(Protocol::Grpc, &grpc(""), None, b"mine"), Ok(None));
        assert_eq!(place(Protocol::Grpc, &grpc("other"), None, b"mine"), Err(Unlike));
        let mut compressed = grpc("mine").to_vec();
        compressed[0] = 1;
        assert_eq!(place(Protocol::Grpc, &compressed, None, b"mine"), Err(Unlike));
    }

    #[test]
    fn a_grpc_request_is_split_around_its_id() {
        let request = |id: &str| {
            let message = pb::ModelInferRequest { model_name: "m".into(), id: id.into(), ..Default::default() };
            let message = message.encode_to_vec();
            Bytes::from([&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat())
        };
        let around = |body: &Bytes| {
            let split = Split::of(Protocol::Grpc, body, None);
            ([&body[split.before], &body[split.after]].concat(), split.id)
        };
        let (a, id) = around(&request("a"));
        assert_eq!(id.as_deref(), Some(&b"a"[..]));
        assert_eq!(around(&request("another-one")).0, a);
        assert_eq!(around(&request("")).1, None);
    }
}
