//! Frames, names read from fronts, and messages in every order and form, against prost.

use std::{collections::BTreeMap, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    infer::{
        EntityType, EntityValue, Kind,
        decoded::{
            EntityColumn, Scalar,
            proto::{Choice, InferParameter, InferTensor, InferTensorContents, ModelInferRequest},
        },
    },
    ingress::decode::tests::read_all,
};

fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferTensor {
    InferTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..InferTensor::default() }
}

fn request(inputs: Vec<InferTensor>, raw: Vec<Vec<u8>>) -> ModelInferRequest {
    ModelInferRequest { model_name: "m".into(), inputs, raw_input_contents: raw, ..ModelInferRequest::default() }
}

fn refused(message: &[u8]) -> String {
    let error = decode(Bytes::copy_from_slice(message)).expect_err("a bad message");
    assert_eq!(error.kind(), Kind::InvalidRequest);
    error.to_string()
}

fn record(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, bytes);
    out
}

#[test]
fn frames() {
    let framed = frame(b"abc");
    assert_eq!(&framed[..], b"\0\0\0\0\x03abc");
    assert_eq!(unframe(framed, None, 3).unwrap(), "abc");
    assert_eq!(unframe(frame(b""), Some("snappy"), 0).unwrap(), "", "only a compressed message needs its encoding");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&[7; 1000]).unwrap();
    let mut zipped = frame(&encoder.finish().unwrap()).to_vec();
    zipped[0] = 1;
    let zipped = Bytes::from(zipped);
    assert_eq!(unframe(zipped.clone(), Some("gzip"), 1000).unwrap(), vec![7; 1000]);
    let told = |body: &Bytes, encoding, limit| {
        let error = unframe(body.clone(), encoding, limit).unwrap_err();
        (error.kind(), error.to_string())
    };
    let cases = [
        (told(&zipped, Some("gzip"), 999), Kind::TooLarge, "the decompressed body is over the limit of 999 bytes"),
        (
            told(&zipped, Some("br"), 1000),
            Kind::Unimplemented,
            "grpc-encoding \"br\" cannot be read; allowed: identity, gzip",
        ),
        (
            told(&zipped, None, 1000),
            Kind::InvalidRequest,
            "invalid gRPC message: marked as compressed, without a grpc-encoding",
        ),
        (told(&frame(b"abcd"), None, 3), Kind::TooLarge, "the message has 4 bytes, over the limit of 3"),
        (
            told(&Bytes::from_static(b"\0\0\0\0\x02a"), None, 9),
            Kind::InvalidRequest,
            "invalid gRPC message: the frame says 2 bytes, 1 follow; allowed: exactly one message",
        ),
        (
            told(&Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"), None, 9),
            Kind::InvalidRequest,
            "invalid gRPC message: the frame says 0 bytes, 5 follow; allowed: exactly one message",
        ),
        (
            told(&Bytes::from_static(b"\0\0"), None, 9),
            Kind::InvalidRequest,
            "invalid gRPC message: 2 bytes, a frame begins with 5",
        ),
        (
            told(&Bytes::from_static(b"\x02\0\0\0\0"), None, 9),
            Kind::InvalidRequest,
            "invalid gRPC message: the frame's flag is 2; allowed: 0, 1",
        ),
    ];
    for ((kind, words), expected_kind, expected) in cases {
        assert_eq!((kind, words.as_str()), (expected_kind, expected));
    }
}

#[test]
fn the_model_is_read_from_any_front() {
    let asked = |name, version| Some(ModelRef { name, version });
    let message = ModelInferRequest {
        model_name: "fraud".into(),
        model_version: "2".into(),
        id: "x".into(),
        ..ModelInferRequest::default()
    }
    .encode_to_vec();
    assert_eq!(model_of(&message, message.len()).unwrap(), asked("fraud", Some("2")));
    let long = message.len() + 1000;
    assert_eq!(model_of(&message[..6], long).unwrap(), None, "inside the name");
    assert_eq!(model_of(&message[..7], long).unwrap(), None, "a version may follow");
    assert_eq!(model_of(&message[..8], long).unwrap(), None, "inside the version");
    assert_eq!(model_of(&message[..10], long).unwrap(), asked("fraud", Some("2")));

    let bare = [record(1, b"fraud"), record(5, &[0x0a, 1, b'a'])].concat();
    assert_eq!(model_of(&bare[..8], bare.len()).unwrap(), asked("fraud", None), "a later field has begun");
    let reversed = [record(2, b"3"), record(5, b""), record(1, b"fraud")].concat();
    assert_eq!(model_of(&reversed[..5], reversed.len()).unwrap(), None);
    assert_eq!(model_of(&reversed, reversed.len()).unwrap(), asked("fraud", Some("3")));
    let twice = [record(1, b"a"), record(5, b""), record(1, b"b")].concat();
    assert_eq!(model_of(&twice, twice.len()).unwrap(), asked("b", None), "the last one counts");

    let told = |message: &[u8]| model_of(message, message.len()).unwrap_err().to_string();
    assert_eq!(told(b""), "model_name is missing");
    assert_eq!(told(&record(1, b"")), "model_name is missing");
    assert_eq!(told(&record(1, b"a\xff")), "invalid gRPC message at byte 3: model_name is not valid UTF-8");
    assert_eq!(told(&[0x08, 1]), "invalid gRPC message at byte 0: a field has the wrong wire type");
    assert_eq!(told(&record(1, b"abc")[..4]), "invalid gRPC message at byte 1: the message ends inside a field");
}

#[test]
fn bad_messages() {
    let int = |shape: &[i64]| tensor("a", "INT64", shape);
    let contents = |values: &[i64]| Some(InferTensorContents { int64_contents: values.to_vec(), ..Default::default() });
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![0x0b], "invalid gRPC message at byte 0: an unknown wire type"),
        (vec![0x00], "invalid gRPC message at byte 0: a field number out of range"),
        (vec![0xff; 11], "invalid gRPC message at byte 0: a varint longer than 64 bits"),
        (vec![0x2a, 5, 1], "invalid gRPC message at byte 1: the message ends inside a field"),
        (record(3, b"\xff"), "invalid gRPC message at byte 2: id is not valid UTF-8"),
        (record(5, b""), "inputs[0]: name is missing"),
        (record(5, &record(1, b"a")), "inputs[0]: datatype is missing"),
        (
            request(vec![tensor("a", "INT", &[1])], vec![]).encode_to_vec(),
            "tensor \"a\": unknown datatype \"INT\"; allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BF16, BYTES",
        ),
        (
            request(vec![int(&[1])], vec![]).encode_to_vec(),
            "tensor \"a\": shape [1] × INT64 takes 1 elements, its data has 0",
        ),
        (
            request(vec![InferTensor { contents: contents(&[1, 2]), ..int(&[3]) }], vec![]).encode_to_vec(),
            "tensor \"a\": shape [3] × INT64 takes 3 elements, its data has 2",
        ),
        (
            request(vec![int(&[2])], vec![vec![0; 8]]).encode_to_vec(),
            "tensor \"a\": shape [2] × INT64 takes 16 bytes, its data has 8",
        ),
        (
            request(vec![int(&[-1])], vec![vec![0; 8]]).encode_to_vec(),
            "tensor \"a\": shape [-1] has a negative dimension",
        ),
        (
            request(vec![int(&[1 << 60])], vec![vec![0; 8]]).encode_to_vec(),
            "tensor \"a\": shape [1152921504606846976] × INT64 takes 9223372036854775808 bytes, its data has 8",
        ),
        (
            request(vec![int(&[1]), tensor("b", "INT64", &[1])], vec![vec![0; 8]]).encode_to_vec(),
            "raw_input_contents has 1 entries for 2 inputs",
        ),
        (
            request(vec![InferTensor { contents: contents(&[1]), ..int(&[1]) }], vec![vec![0; 8]]).encode_to_vec(),
            "tensor \"a\": contents and raw_input_contents exclude each other",
        ),
        (
            request(vec![int(&[1]), int(&[1])], vec![vec![0; 8], vec![0; 8]]).encode_to_vec(),
            "duplicate tensor name \"a\"",
        ),
        (
            request(vec![tensor("h", "FP16", &[1])], vec![]).encode_to_vec(),
            "tensor \"h\": shape [1] × FP16 takes 1 elements, its data has 0",
        ),
    ];
    for (message, told) in cases {
        assert_eq!(refused(&message), told);
    }
    let packed = [record(1, b"f"), record(2, b"FP32"), record(5, &record(6, &[0, 0, 0]))].concat();
    assert_eq!(refused(&record(5, &packed)), "tensor \"f\": its contents are malformed");
}

#[test]
fn parameters_become_entities() {
    let cases = [
        (Choice::Int64(-7), EntityType::Int64, Ok(EntityValue::Int64(-7))),
        (Choice::Uint64(7), EntityType::UnixTimestamp, Ok(EntityValue::UnixTimestamp(7))),
        (Choice::String("a".into()), EntityType::String, Ok(EntityValue::String("a".into()))),
        (Choice::String("a".into()), EntityType::Bytes, Ok(EntityValue::Bytes(b"a".to_vec()))),
        (Choice::Bool(true), EntityType::Int64, Err("true cannot be a INT64 key")),
        (Choice::Double(1.0), EntityType::Int64, Err("1.0 cannot be a INT64 key")),
        (Choice::Uint64(u64::MAX), EntityType::Int64, Err("18446744073709551615 does not fit INT64")),
    ];
    for (choice, kind, expected) in cases {
        let parameters = BTreeMap::from([("u".to_owned(), InferParameter::from(choice))]);
        let message = ModelInferRequest { parameters, ..ModelInferRequest::default() };
        let decoded = decode(message.encode_to_vec().into()).unwrap();
        match (decoded.entities("u", kind), expected) {
            (Ok(EntityColumn::Same(found)), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn unpacked_and_split_contents_are_one_list() {
    // Field 3 of contents as a varint, then packed, in two `contents` records: parsers merge them.
    let first = record(5, &[0x18, 1]);
    let second = record(5, &record(3, &[2, 3]));
    let input = [record(1, b"u"), record(2, b"INT64"), vec![0x18, 3], first, second].concat();
    let message = record(5, &input);
    let prost = ModelInferRequest::decode(&message[..]).unwrap();
    assert_eq!(prost.inputs[0].contents.as_ref().unwrap().int64_contents, [1, 2, 3]);
    let decoded = decode(message.into()).unwrap();
    let expected = [1, 2, 3].map(EntityValue::Int64).to_vec();
    assert_eq!(decoded.entities("u", EntityType::Int64).unwrap(), EntityColumn::Rows(expected));
}

#[test]
fn shared_memory_takes_no_raw_entry() {
    let mut shared = tensor("s", "FP32", &[4]);
    shared.parameters.insert("shared_memory_region".into(), Choice::String("r".into()).into());
    let message = request(vec![shared.clone(), tensor("u", "INT64", &[1])], vec![7i64.to_le_bytes().to_vec()]);
    let decoded = decode(message.encode_to_vec().into()).unwrap();
    assert_eq!(decoded.entities("u", EntityType::Int64).unwrap(), EntityColumn::Rows(vec![EntityValue::Int64(7)]));
    let alone = decode(request(vec![shared], vec![]).encode_to_vec().into()).unwrap();
    assert!(matches!(alone.layout, Layout::Grpc { form: Form::Raw, .. }));
}

proptest! {
    #[test]
    fn contents_read_as_prost_wrote_them(
        bools in proptest::collection::vec(any::<bool>(), 1..9),
        ints in proptest::collection::vec(any::<i32>(), 1..9),
        longs in proptest::collection::vec(any::<u64>(), 1..9),
        floats in proptest::collection::vec(any::<f32>(), 1..9),
        texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5), 1..9),
    ) {
        let sized = |name: &str, datatype: &str, length: usize, contents| InferTensor {
            contents: Some(contents),
            ..tensor(name, datatype, &[length as i64])
        };
        let empty = InferTensorContents::default;
        let message = request(vec![
            sized("b", "BOOL", bools.len(), InferTensorContents { bool_contents: bools.clone(), ..empty() }),
            sized("i", "INT32", ints.len(), InferTensorContents { int_contents: ints.clone(), ..empty() }),
            sized("l", "UINT64", longs.len(), InferTensorContents { uint64_contents: longs.clone(), ..empty() }),
            sized("f", "FP32", floats.len(), InferTensorContents { fp32_contents: floats.clone(), ..empty() }),
            sized("t", "BYTES", texts.len(), InferTensorContents { bytes_contents: texts.clone(), ..empty() }),
        ], vec![]);
        let decoded = decode(message.encode_to_vec().into()).unwrap();
        let read = |name: &str| decoded.tensor(name).unwrap().elements(&decoded.body).collect::<Vec<_>>();
        prop_assert_eq!(read("b"), bools.into_iter().map(Scalar::Bool).collect::<Vec<_>>());
        prop_assert_eq!(read("i"), ints.into_iter().map(|v| Scalar::Int(v.into())).collect::<Vec<_>>());
        prop_assert_eq!(read("l"), longs.into_iter().map(Scalar::Uint).collect::<Vec<_>>());
        prop_assert_eq!(read("f"), floats.into_iter().map(Scalar::Float).collect::<Vec<_>>());
        prop_assert_eq!(read("t"), texts.iter().map(|v| Scalar::Bytes(v)).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_panics_on_damaged_messages(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200, head in 0usize..200) {
        let mut shared = tensor("user_id", "INT64", &[2, 1]);
        shared.contents = Some(InferTensorContents { int64_contents: vec![1, -2], ..Default::default() });
        let parameters = BTreeMap::from([("m".to_owned(), InferParameter::from(Choice::String("x".into())))]);
        let good = ModelInferRequest { parameters, ..request(vec![shared], vec![]) }.encode_to_vec();
        let mut body = good.clone();
        body[at % good.len()] = byte;
        body.truncate(good.len() - cut % good.len());
        let _asked = model_of(&body[..head % (body.len() + 1)], body.len());
        let _message = unframe(body.clone().into(), Some("gzip"), 100);
        read_all(Protocol::Grpc, body.into(), None);
    }
}
