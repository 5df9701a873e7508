//! Every protocol's answers to the byte, read back, against serde_json and prost, and answers that no model should give.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::{
    infer::{
        Protocol,
        decoded::proto::{InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse, RequestedOutput},
    },
    ingress::decode::decode,
};

fn output(name: &str, datatype: Datatype, shape: &[i64], elements: &[Scalar<'_>]) -> Output {
    Output::new(name.into(), datatype, shape.into(), elements.iter().cloned()).unwrap()
}

fn score() -> Output {
    output("score", Datatype::Fp32, &[1], &[Scalar::Double(0.5)])
}

fn label() -> Output {
    output("label", Datatype::Bytes, &[1], &[Scalar::Text("a \"b\"".into())])
}

fn numbers(name: &str, shape: &[i64], numbers: impl IntoIterator<Item = i64>) -> Output {
    Output::new(name.into(), Datatype::Int64, shape.into(), numbers.into_iter().map(Scalar::Int)).unwrap()
}

fn said(protocol: Protocol, outputs: &[Output], asked: &RequestedOutputs) -> Result<Written, String> {
    write(protocol, outputs, &Head { model: "fraud", version: None, asked }).map_err(|error| error.to_string())
}

fn text(protocol: Protocol, outputs: &[Output]) -> String {
    let written = said(protocol, outputs, &RequestedOutputs::default()).unwrap();
    assert_eq!((written.json_length, written.content_type), (None, "application/json"));
    String::from_utf8(written.body.to_vec()).unwrap()
}

fn asked(protocol: Protocol, body: &[u8]) -> RequestedOutputs {
    RequestedOutputs::of(&decode(protocol, Bytes::copy_from_slice(body), None).unwrap())
}

fn refused(protocol: Protocol, body: &[u8], json_length: Option<usize>) -> String {
    let error = read(protocol, &Bytes::copy_from_slice(body), json_length).expect_err("a bad answer");
    assert_eq!(error.kind(), Kind::BackendFailed);
    error.to_string().strip_prefix("the model's answer cannot be read: ").expect("whose fault it is").to_owned()
}

fn bad_json(protocol: Protocol, body: &str) -> String {
    refused(protocol, body.as_bytes(), None)
}

#[test]
fn elements_are_converted_exactly_or_refused() {
    let new = |datatype, shape: &[i64], elements: &[Scalar<'static>]| {
        Output::new("score".into(), datatype, shape.into(), elements.iter().cloned())
    };
    let most = [Scalar::Number("18446744073709551615")];
    assert_eq!(new(Datatype::Uint64, &[1], &most).unwrap().elements().next(), Some(Scalar::Uint(u64::MAX)));
    let cases = [
        (
            new(Datatype::Int64, &[1], &most),
            "tensor \"score\": element 0: 18446744073709551615 is out of range for INT64",
        ),
        (
            new(Datatype::Int8, &[2], &[Scalar::Int(1), Scalar::Double(0.5)]),
            "tensor \"score\": element 1: 0.5 is not a whole number; INT8 takes whole numbers",
        ),
        (
            new(Datatype::Fp32, &[2], &[Scalar::Double(0.5)]),
            "tensor \"score\": shape [2] × FP32 takes 2 elements, its data has 1",
        ),
        (new(Datatype::Fp32, &[-1], &[]), "tensor \"score\": shape [-1] has a negative dimension"),
    ];
    for (made, told) in cases {
        assert_eq!(made.unwrap_err(), told);
    }
}

#[test]
fn a_row_s_output_is_repeated_and_any_other_left_alone() {
    let shape_and_length = |output: Output| (output.shape.to_vec(), output.elements().count());
    assert_eq!(score().batched(3).unwrap(), output("score", Datatype::Fp32, &[3], &[const { Scalar::Float(0.5) }; 3]));
    let scalar = output("score", Datatype::Fp32, &[], &[Scalar::Float(0.5)]);
    assert_eq!(scalar.batched(1).unwrap(), score());
    assert_eq!(scalar.batched(0).unwrap().shape(), [0]);
    let words = output("words", Datatype::Bytes, &[1, 2], &[Scalar::Text("a".into()), Scalar::Bytes(b"\xff")]);
    let twice = words.batched(2).unwrap();
    assert_eq!(twice.elements().skip(2).collect::<Vec<_>>(), [Scalar::Bytes(b"a"), Scalar::Bytes(b"\xff")]);
    assert_eq!(shape_and_length(twice), (vec![2, 2], 4));
    let other = numbers("classes", &[3], [7, 8, 9]);
    assert_eq!(other.batched(5).unwrap(), other);
    let none = numbers("none", &[0, 2], []);
    assert_eq!(none.batched(5).unwrap(), none);
}

#[test]
fn cheap_rows_do_not_make_an_endless_answer() {
    let long = numbers("long", &[1, 1024], 0..1024);
    assert_eq!(long.batched(8192).unwrap().shape(), [8192, 1024]);
    for rows in [8193, usize::MAX] {
        let error = long.batched(rows).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("is over 67108864 bytes"), "{error}");
    }
}

#[test]
fn v1_says_a_prediction_a_row() {
    let cases: &[(&[Output], &str)] = &[
        (&[score()], r#"{"predictions":[0.5]}"#),
        (&[score().batched(2).unwrap()], r#"{"predictions":[0.5,0.5]}"#),
        (&[score().batched(0).unwrap()], r#"{"predictions":[]}"#),
        (&[numbers("a", &[2, 1], 1..3)], r#"{"predictions":[[1],[2]]}"#),
        (&[numbers("a", &[2, 2, 2], 1..9)], r#"{"predictions":[[[1,2],[3,4]],[[5,6],[7,8]]]}"#),
        (&[numbers("a", &[2, 0], 0..0)], r#"{"predictions":[[],[]]}"#),
        (&[numbers("a", &[], 7..8)], r#"{"predictions":[7]}"#),
        (
            &[numbers("a", &[2, 2], 1..5), label().batched(2).unwrap()],
            r#"{"predictions":[{"a":[1,2],"label":"a \"b\""},{"a":[3,4],"label":"a \"b\""}]}"#,
        ),
        (&[], r#"{"predictions":[]}"#),
    ];
    for (outputs, body) in cases {
        assert_eq!(text(Protocol::V1, outputs), *body);
    }
    let unequal = [numbers("a", &[2], 1..3), numbers("b", &[3], 1..4)];
    assert_eq!(
        said(Protocol::V1, &unequal, &RequestedOutputs::default()).unwrap_err(),
        "output \"a\" has 2 rows, output \"b\" has 3; a V1 answer has one prediction a row, with a value of every output"
    );
}

#[test]
fn v2_says_model_version_id_and_outputs() {
    assert_eq!(
        text(Protocol::V2Json, &[score(), label()]),
        r#"{"model_name":"fraud","outputs":[{"name":"score","datatype":"FP32","shape":[1],"data":[0.5]},{"name":"label","datatype":"BYTES","shape":[1],"data":["a \"b\""]}]}"#
    );
    let asked = asked(Protocol::V2Json, r#"{"id":"\u00e9\"7","inputs":[]}"#.as_bytes());
    let head = Head { model: "m\"", version: Some("3"), asked: &asked };
    let written = write(Protocol::V2Json, &[numbers("a", &[2, 2], 1..5)], &head).unwrap();
    assert_eq!(
        written.body,
        r#"{"model_name":"m\"","model_version":"3","id":"é\"7","outputs":[{"name":"a","datatype":"INT64","shape":[2,2],"data":[1,2,3,4]}]}"#
    );
}

#[test]
fn v2_sends_binary_data_where_the_request_asks_for_it() {
    let all = asked(Protocol::V2Json, br#"{"parameters":{"binary_data_output":true}}"#);
    let written = said(Protocol::V2Binary, &[score(), label()], &all).unwrap();
    let json = r#"{"model_name":"fraud","outputs":[{"name":"score","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},{"name":"label","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":9}}]}"#;
    let body = [json.as_bytes(), &0.5f32.to_le_bytes(), b"\x05\0\0\0a \"b\""].concat();
    let expected =
        Written { body: body.into(), json_length: Some(json.len()), content_type: "application/octet-stream" };
    assert_eq!(written, expected);

    let mixed = asked(
        Protocol::V2Json,
        br#"{"parameters":{"binary_data_output":true},"outputs":[{"name":"score"},{"name":"label","parameters":{"binary_data":false}}]}"#,
    );
    let written = said(Protocol::V2Binary, &[score(), label()], &mixed).unwrap();
    let json = r#"{"model_name":"fraud","outputs":[{"name":"score","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},{"name":"label","datatype":"BYTES","shape":[1],"data":["a \"b\""]}]}"#;
    assert_eq!(written.body, [json.as_bytes(), &0.5f32.to_le_bytes()].concat());
    // Whether the inputs were binary says nothing about the outputs.
    assert_eq!(
        said(Protocol::V2Binary, &[score()], &RequestedOutputs::default()),
        said(Protocol::V2Json, &[score()], &binary_outputs(false))
    );
}

fn binary_outputs(binary: bool) -> RequestedOutputs {
    asked(Protocol::V2Json, format!("{{\"parameters\":{{\"binary_data_output\":{binary}}}}}").as_bytes())
}

#[test]
fn grpc_says_the_same_in_one_frame() {
    let request = ModelInferRequest { id: "7".into(), ..ModelInferRequest::default() };
    let asked = asked(Protocol::Grpc, &request.encode_to_vec());
    let head = Head { model: "fraud", version: Some("3"), asked: &asked };
    let written = write(Protocol::Grpc, &[numbers("a", &[2, 1], 1..3), label()], &head).unwrap();
    assert_eq!((written.json_length, written.content_type), (None, "application/grpc"));
    let (frame, message) = written.body.split_at(5);
    assert_eq!(frame, [&[0][..], &(message.len() as u32).to_be_bytes()].concat());
    let tensor = |name: &str, datatype: &str, shape: &[i64]| InferTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.into(),
        ..InferTensor::default()
    };
    let expected = ModelInferResponse {
        model_name: "fraud".into(),
        model_version: "3".into(),
        id: "7".into(),
        outputs: vec![tensor("a", "INT64", &[2, 1]), tensor("label", "BYTES", &[1])],
        raw_output_contents: vec![[1i64.to_le_bytes(), 2i64.to_le_bytes()].concat(), b"\x05\0\0\0a \"b\"".to_vec()],
    };
    assert_eq!(ModelInferResponse::decode(message).unwrap(), expected);
}

#[test]
fn what_json_cannot_say_is_told() {
    let not_a_number = output("score", Datatype::Fp32, &[1], &[Scalar::Float(f32::NAN)]);
    let no_text = output("label", Datatype::Bytes, &[1], &[Scalar::Bytes(b"\xff")]);
    for protocol in [Protocol::V1, Protocol::V2Json] {
        let told = said(protocol, std::slice::from_ref(&not_a_number), &RequestedOutputs::default()).unwrap_err();
        assert_eq!(told, "output \"score\": NaN cannot be sent as FP32 in this protocol; allowed: finite numbers");
        let told = said(protocol, std::slice::from_ref(&no_text), &RequestedOutputs::default()).unwrap_err();
        assert_eq!(told, "output \"label\": bytes that are not UTF-8 cannot be sent in JSON; V2 binary and gRPC can");
    }
    assert!(said(Protocol::Grpc, &[not_a_number, no_text], &RequestedOutputs::default()).is_ok());
}

#[test]
fn the_outputs_asked_for_are_answered_where_all_are_known() {
    let outputs = [score(), label()];
    let names = |asked: &RequestedOutputs| -> Vec<String> {
        asked.select(&outputs).unwrap().iter().map(|output| output.name().to_owned()).collect()
    };
    let json = |outputs: &str| asked(Protocol::V2Json, format!("{{\"outputs\":{outputs}}}").as_bytes());
    let grpc = |wanted: &[&str]| {
        let outputs = wanted.iter().map(|&name| RequestedOutput { name: name.into() }).collect();
        asked(Protocol::Grpc, &ModelInferRequest { outputs, ..ModelInferRequest::default() }.encode_to_vec())
    };
    for asked in [json(r#"[{"name":"label"}]"#), grpc(&["label"])] {
        assert_eq!(names(&asked), ["label"]);
    }
    for asked in [json(r#"[{"name":"label"},{"name":"score"}]"#), grpc(&["label", "score"])] {
        assert_eq!(names(&asked), ["label", "score"]);
    }
    let all =
        ["null", "[]", r#"[{"name":"label"},{"name":"other"}]"#, r#"["label"]"#, r#"[{"name":7}]"#, "{}"].map(json);
    for asked in all.into_iter().chain([grpc(&[]), grpc(&["label", "other"]), RequestedOutputs::default()]) {
        assert_eq!(names(&asked), ["score", "label"], "{asked:?}");
    }
}

#[test]
fn nobody_takes_old_shared_memory_for_an_answer() {
    let json =
        br#"{"outputs":[{"name":"score","parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}}]}"#;
    let mut message = Vec::new();
    crate::infer::decoded::wire::put_bytes(&mut message, 6, b"\x0a\x05score\x12\x16\x0a\x14shared_memory_region");
    for asked in [asked(Protocol::V2Json, json), asked(Protocol::Grpc, &message)] {
        let error = asked.select(&[score()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(error.to_string(), "output \"score\" is asked for in shared memory, which only the model can write");
    }
}

#[test]
fn v1_answers_are_read_whatever_they_predict() {
    let one = |body: &str| match read(Protocol::V1, &Bytes::copy_from_slice(body.as_bytes()), None).unwrap().as_slice()
    {
        [one] => one.clone(),
        several => panic!("{several:?}"),
    };
    let double = |shape: &[i64], values: &[f64]| {
        let scalars: Vec<_> = values.iter().map(|&value| Scalar::Double(value)).collect();
        output("predictions", Datatype::Fp64, shape, &scalars)
    };
    assert_eq!(one(r#"{"model": 1, "predictions": [ 0.25, 1 ] }"#), double(&[2], &[0.25, 1.0]));
    assert_eq!(one(r#"{"predictions":[[0.25,1],[2,3.5]]}"#), double(&[2, 2], &[0.25, 1.0, 2.0, 3.5]));
    assert_eq!(one(r#"{"predictions":[[[1],[2]],[[3],[4]]]}"#), numbers("predictions", &[2, 2, 1], 1..5));
    assert_eq!(one(r#"{"predictions":[]}"#), double(&[0], &[]));
    assert_eq!(one(r#"{"predictions":[18446744073709551615]}"#).datatype(), Datatype::Uint64);
    assert_eq!(one(r#"{"predictions":[18446744073709551615,-1]}"#).datatype(), Datatype::Fp64);
    assert_eq!(one(r#"{"predictions":[true]}"#), output("predictions", Datatype::Bool, &[1], &[Scalar::Bool(true)]));
    assert_eq!(
        one(r#"{"predictions":["\u00e9"]}"#),
        output("predictions", Datatype::Bytes, &[1], &[Scalar::Text("é".into())])
    );
    let objects = r#"{"predictions":[{"a":1,"b":["x"]},{"b":["y"],"\u0061":2}]}"#;
    let words = [Scalar::Text("x".into()), Scalar::Text("y".into())];
    assert_eq!(
        read(Protocol::V1, &objects.into(), None).unwrap(),
        [numbers("a", &[2], 1..3), output("b", Datatype::Bytes, &[2, 1], &words)]
    );
}

#[test]
fn bad_v1_answers_are_told() {
    for (body, told) in [
        ("", "malformed JSON at line 1 column 1 (byte 0): the text ends too soon"),
        ("[]", "it is no JSON object"),
        (r#"{"error":"x"}"#, "\"predictions\" is missing"),
        (r#"{"predictions":{"a":[1]}}"#, "\"predictions\" must be an array"),
        (r#"{"predictions":[],"predictions":[]}"#, "duplicate key \"predictions\""),
        (r#"{"predictions":[null]}"#, "\"predictions\", row 0: null where a number, a boolean or a string is expected"),
        (
            r#"{"predictions":[[{}]]}"#,
            "\"predictions\", row 0: an array or object where a number, a boolean or a string is expected",
        ),
        (r#"{"predictions":[1,"x"]}"#, "\"predictions\" mixes numbers, booleans and strings"),
        (r#"{"predictions":[[1],[1,2]]}"#, "\"predictions\", row 1: it is not nested as row 0 is"),
        (r#"{"predictions":[[],5]}"#, "\"predictions\", row 1: it is not nested as row 0 is"),
        (
            r#"{"predictions":[5,[]]}"#,
            "\"predictions\", row 1: an array or object where a number, a boolean or a string is expected",
        ),
        (r#"{"predictions":[{"a":1},2]}"#, "prediction 1 is no object, as others are"),
        (r#"{"predictions":[2,{"a":1}]}"#, "prediction 0 is no object, as others are"),
        (r#"{"predictions":[{"a":1},{"a":1,"b":2}]}"#, "prediction 1 has not the keys that prediction 0 has"),
        (r#"{"predictions":[{"a":1,"b":1},{"a":1,"a":2}]}"#, "prediction 1 has not the keys that prediction 0 has"),
        (r#"{"predictions":[{"a":1,"a":1}]}"#, "duplicate key of a prediction \"a\""),
        (r#"{"predictions":[1e999]}"#, "tensor \"predictions\": element 0: 1e999 is out of range for FP64"),
    ] {
        assert_eq!(bad_json(Protocol::V1, body), told, "{body}");
    }
}

#[test]
fn v2_answers_are_read_in_every_form() {
    let body = json!({"model_name": "m", "id": null, "parameters": {"x": 1}, "outputs": [
        {"name": "a", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [3, 4]], "parameters": null},
        {"shape": [1], "data": ["a \"b\""], "datatype": "BYTES", "name": "label"},
    ]});
    let expected = [numbers("a", &[2, 2], 1..5), label()];
    for protocol in [Protocol::V2Json, Protocol::V2Binary] {
        assert_eq!(read(protocol, &body.to_string().into(), None).unwrap(), expected);
    }
    let json = r#"{"outputs":[{"name":"a","datatype":"INT64","shape":[1],"data":[1]},{"name":"score","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}"#;
    let mixed = [json.as_bytes(), &0.5f32.to_le_bytes()].concat();
    assert_eq!(read(Protocol::V2Json, &mixed.into(), Some(json.len())).unwrap(), [numbers("a", &[1], 1..2), score()]);
}

#[test]
fn bad_v2_answers_are_told() {
    let tensor = |rest: &str| format!(r#"{{"outputs":[{{"name":"a","datatype":"INT8",{rest}}}]}}"#);
    for (body, told) in [
        ("{}".into(), "\"outputs\" is missing"),
        (r#"{"outputs":7}"#.into(), "\"outputs\" must be an array"),
        (r#"{"outputs":[{"name":"a"}]}"#.into(), "outputs[0]: datatype is missing"),
        (tensor(r#""shape":[1],"data":[1,2]"#), "tensor \"a\": shape [1] × INT8 takes 1 elements, its data has 2"),
        (tensor(r#""shape":[1],"data":[128]"#), "tensor \"a\": element 0: 128 is out of range for INT8"),
        (
            tensor(r#""shape":[1],"data":[null]"#),
            "tensor \"a\": element 0: null cannot be INT8; allowed: a number, a bool or a timestamp",
        ),
        (tensor(r#""shape":[1]"#), "tensor \"a\": data is missing"),
        (
            tensor(r#""shape":[1],"parameters":{"shared_memory_region":"r"}"#),
            "tensor \"a\": its data is in shared memory",
        ),
        (
            tensor(r#""shape":[1],"parameters":{"binary_data_size":1}"#),
            "tensor \"a\": binary_data_size needs the header inference-header-content-length",
        ),
        (
            r#"{"outputs":[{"name":"a","datatype":"INT8","shape":[0],"data":[]},{"name":"a","datatype":"INT8","shape":[0],"data":[]}]}"#.into(),
            "duplicate tensor name \"a\"",
        ),
    ] {
        assert_eq!(bad_json(Protocol::V2Json, &body), told, "{body}");
    }
    let body = b"{\"outputs\":[]}x";
    assert_eq!(
        refused(Protocol::V2Binary, body, Some(14)),
        "the JSON and its outputs' binary_data_size add up to 14 bytes, the body has 15"
    );
    assert_eq!(
        refused(Protocol::V2Binary, body, Some(16)),
        "inference-header-content-length is 16, the body has 15 bytes"
    );
}

fn framed(message: &ModelInferResponse) -> Bytes {
    crate::infer::decoded::frame::frame(&message.encode_to_vec())
}

fn typed(datatype: &str, contents: InferTensorContents) -> ModelInferResponse {
    let tensor = InferTensor {
        name: "a".into(),
        datatype: datatype.into(),
        shape: vec![2],
        contents: Some(contents),
        ..InferTensor::default()
    };
    ModelInferResponse { outputs: vec![tensor], ..ModelInferResponse::default() }
}

#[test]
fn grpc_answers_are_read_with_raw_and_typed_contents() {
    let contents = InferTensorContents { int64_contents: vec![1, 2], ..InferTensorContents::default() };
    let mut message = typed("INT64", contents.clone());
    let expected = [numbers("a", &[2], 1..3)];
    assert_eq!(read(Protocol::Grpc, &framed(&message), None).unwrap(), expected);
    message.outputs[0].contents = None;
    message.raw_output_contents = vec![[1i64.to_le_bytes(), 2i64.to_le_bytes()].concat()];
    assert_eq!(read(Protocol::Grpc, &framed(&message), None).unwrap(), expected);

    message.outputs[0].contents = Some(contents.clone());
    let told = |message: &ModelInferResponse| refused(Protocol::Grpc, &framed(message), None);
    assert_eq!(told(&message), "tensor \"a\": contents and raw_output_contents exclude each other");
    message.raw_output_contents.push(Vec::new());
    assert_eq!(told(&message), "raw_output_contents has 2 entries for 1 outputs");
    assert_eq!(told(&typed("FP64", contents)), "tensor \"a\": shape [2] × FP64 takes 2 elements, its data has 0");
    let short = InferTensorContents { int_contents: vec![1, 300], ..InferTensorContents::default() };
    assert_eq!(told(&typed("INT8", short)), "tensor \"a\": element 1: 300 is out of range for INT8");
    assert_eq!(
        refused(Protocol::Grpc, b"\x01\0\0\0\0", None),
        "invalid gRPC message: marked as compressed, without a grpc-encoding"
    );
}

/// Outputs that every protocol but V1 can say, with elements made of `seeds`.
fn any_outputs() -> impl Strategy<Value = Vec<Output>> {
    let one = (proptest::sample::select(Datatype::ALL), vec(0i64..4, 0..4), vec(any::<u64>(), 1..8));
    vec(one, 0..4).prop_map(|tensors| {
        let made = tensors.into_iter().enumerate();
        made.map(|(index, (datatype, shape, seeds))| {
            let count = shape.iter().product::<i64>() as usize;
            let texts: Vec<String> = seeds.iter().map(|seed| format!("\u{1}é\"{seed}")).collect();
            let element = |at: usize| element(datatype, seeds[at % seeds.len()], &texts[at % seeds.len()]);
            let shape = Shape::from_slice(&shape);
            Output::new(format!("o\"{index}").into(), datatype, shape, (0..count).map(element)).unwrap()
        })
        .collect()
    })
}

fn element(datatype: Datatype, seed: u64, text: &str) -> Scalar<'_> {
    let finite = |value: f64, other: f64| if value.is_finite() { value } else { other };
    let size = datatype.size().unwrap_or(8) as u32 * 8;
    match datatype {
        Datatype::Bool => Scalar::Bool(seed & 1 == 1),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => Scalar::Uint(seed >> (64 - size)),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 | Datatype::Int64 => Scalar::Int(seed as i64 >> (64 - size)),
        Datatype::Fp64 => Scalar::Double(finite(f64::from_bits(seed), -0.0)),
        Datatype::Fp32 | Datatype::Bf16 => {
            Scalar::Float(finite(f64::from(f32::from_bits(seed as u32 & 0xff7f_ffff)), 0.1) as f32)
        }
        Datatype::Fp16 => Scalar::Float((seed as i16) as f32 / 7.0),
        Datatype::Bytes => Scalar::Text(text.into()),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(outputs in any_outputs(), binary in any::<bool>()) {
        let asked = binary_outputs(binary);
        for protocol in [Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc] {
            let written = said(protocol, &outputs, &asked).unwrap();
            prop_assert_eq!(&read(protocol, &written.body, written.json_length).unwrap(), &outputs);
            if protocol != Protocol::Grpc {
                let json = &written.body[..written.json_length.unwrap_or(written.body.len())];
                let parsed: serde_json::Value = serde_json::from_slice(json).unwrap();
                prop_assert_eq!(parsed["outputs"].as_array().unwrap().len(), outputs.len());
            }
        }
    }

    /// V1 keeps values, not datatypes: written once more, what was read says the same.
    #[test]
    fn what_v1_says_is_read(rows in 0i64..4, outputs in any_outputs()) {
        let outputs: Vec<Output> = outputs.into_iter().filter(|output| output.shape.first() == Some(&rows)).collect();
        let written = said(Protocol::V1, &outputs, &RequestedOutputs::default()).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&written.body).unwrap();
        let read = read(Protocol::V1, &written.body, None).unwrap();
        if rows > 0 && !outputs.is_empty() {
            let shapes = |outputs: &[Output]| outputs.iter().map(|output| output.shape.clone()).collect::<Vec<_>>();
            prop_assert_eq!(shapes(&read).len(), shapes(&outputs).len());
        }
        let again = said(Protocol::V1, &read, &RequestedOutputs::default()).unwrap();
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&again.body).unwrap(), told);
    }

    #[test]
    fn nothing_makes_a_reader_panic(
        body in prop_oneof![
            vec(any::<u8>(), 0..64),
            "\\{\"(predictions|outputs)\":\\[(\\{\"a\":|\\[|\\]|\\}|,|1|2.5|\"x\"|null|true){0,12}\\]\\}".prop_map(String::into_bytes),
        ],
        length in proptest::option::of(0usize..64),
    ) {
        let body = Bytes::from(body);
        for protocol in [Protocol::V1, Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc] {
            if let Ok(outputs) = read(protocol, &body, length) {
                for output in outputs {
                    prop_assert_eq!(output.elements().count() as i64, output.shape.iter().product::<i64>());
                }
            }
        }
    }
}
