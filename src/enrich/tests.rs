//! What the grid does not cover: conversions into a matrix, what is kept byte for byte, what cannot be sent, renaming.

mod columns;
mod names;

use std::{io::Write as _, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use prost::Message as _;

use super::{
    Body, rename,
    sample::{Declared, Sample, columns, matrix, model, plan, request, view},
    value::each,
};
use crate::{
    config::{Column, Inputs, NamedColumn, View},
    infer::{
        Datatype, EntityType, FeatureType, Kind, Payload, Protocol, Value,
        decoded::{
            Scalar,
            cell::{Cell, Misfit, cell},
            proto::{Choice, InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse},
        },
    },
    ingress::{decode::decode, grpc::frame},
};

/// A view `user_stats` over `user_id` with these features.
fn stats(features: &[Declared<'_>]) -> Arc<View> {
    view(("user_id", EntityType::Int64), features)
}

/// The body a model receives, as text.
fn spliced(sample: &Sample, protocol: Protocol, body: &str) -> Result<String, (Kind, String)> {
    let decoded = decode(protocol, Bytes::copy_from_slice(body.as_bytes()), None).unwrap();
    match sample.body(protocol, decoded) {
        Ok((bytes, _)) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
        Err(error) => Err((error.kind(), error.to_string())),
    }
}

fn one(kind: FeatureType, value: Value, inputs: fn(&View) -> Inputs) -> Sample {
    let view = stats(&[("f", kind, value.clone())]);
    let inputs = inputs(&view);
    Sample::new(&view, model(&view, "fraud", Some(inputs)), vec![Some(vec![value])])
}

const ONE_USER: &str = r#"{"inputs":[{"name":"user_id","shape":[1],"datatype":"INT64","data":[7]}]}"#;

#[test]
fn everything_else_is_kept_byte_for_byte() {
    let view = stats(&[("f", FeatureType::Double, Value::Double(0.5))]);
    let sample = Sample::new(&view, model(&view, "fraud", Some(columns(&[], &view))), vec![None]);
    let body = r#" { "x" : [1e5, {"y":"\u00e9"}] ,
 "parameters" : { "a":1 , "user_id" : 7,"b" : {} },
 "inputs": [ {"name" : "first", "shape":[1, 2],"datatype":"FP32","data":[[1.50, 2e0]]} ,
  {"name":"last","shape":[0],"datatype":"BYTES","data":[],"parameters":{"k":null}}],"outputs" : [ ] , "id":"\"" }
"#;
    let expected = r#" { "x" : [1e5, {"y":"\u00e9"}] ,
 "parameters" : {"a":1,"b" : {}},
 "inputs": [{"name" : "first", "shape":[1, 2],"datatype":"FP32","data":[[1.50, 2e0]]},{"name":"last","shape":[0],"datatype":"BYTES","data":[],"parameters":{"k":null}},{"name":"f","datatype":"FP64","shape":[1],"data":[0.5]}],"outputs" : [ ] , "id":"\"" }
"#;
    assert_eq!(spliced(&sample, Protocol::V2Json, body).unwrap(), expected);
    // The same, with the parameters behind the inputs.
    let behind = r#"{"inputs": [], "parameters": {"user_id": 7}}"#;
    let expected = r#"{"inputs": [{"name":"f","datatype":"FP64","shape":[1],"data":[0.5]}], "parameters": {}}"#;
    assert_eq!(spliced(&sample, Protocol::V2Json, behind).unwrap(), expected);
    let without = r#"{"parameters": {"user_id": 7}}"#;
    let expected = r#"{"inputs":[{"name":"f","datatype":"FP64","shape":[1],"data":[0.5]}],"parameters": {}}"#;
    assert_eq!(spliced(&sample, Protocol::V2Json, without).unwrap(), expected);
    let instances = r#"{"a": 1, "instances": [ {"x" : 1.50 , "user_id":7} ], "parameters": {"user_id": 8}}"#;
    let expected = r#"{"a": 1, "instances": [{"x" : 1.50,"f":0.5}], "parameters": {"user_id": 8}}"#;
    assert_eq!(
        spliced(&sample, Protocol::V1, instances).unwrap(),
        expected,
        "the instances carry it, not the parameters"
    );
}

#[test]
fn a_model_without_joins_gets_the_body_as_it_came() {
    let view = stats(&[]);
    let sample = Sample::new(&view, model(&view, "fraud", None), vec![]);
    let body = r#" {"inputs" : [ ] } "#;
    assert_eq!(spliced(&sample, Protocol::V2Json, body).unwrap(), body);
    let message = ModelInferRequest { model_name: "fraud".into(), ..Default::default() }.encode_to_vec();
    let decoded = decode(Protocol::Grpc, message.clone().into(), None).unwrap();
    assert_eq!(sample.body(Protocol::Grpc, decoded).unwrap().0, frame(&message));
}

#[test]
fn listed_entities_stay() {
    let view = stats(&[("f", FeatureType::Bool, Value::Bool(true))]);
    let sample = Sample::new(&view, model(&view, "fraud", Some(columns(&["user_id"], &view))), vec![None]);
    let found = spliced(&sample, Protocol::V2Json, ONE_USER).unwrap();
    let tensor = r#"{"name":"user_id","shape":[1],"datatype":"INT64","data":[7]}"#;
    assert_eq!(found, format!(r#"{{"inputs":[{tensor},{{"name":"f","datatype":"BOOL","shape":[1],"data":[true]}}]}}"#));
    let sample = Sample::new(&view, model(&view, "fraud", Some(matrix(Datatype::Int64, &["user_id"], 1))), vec![None]);
    let found = spliced(&sample, Protocol::V2Json, ONE_USER).unwrap();
    assert_eq!(found, r#"{"inputs":[{"name":"input-0","datatype":"INT64","shape":[1,2],"data":[7,1]}]}"#);
    let instances = r#"{"instances":[{"user_id":7,"other":1}]}"#;
    assert_eq!(spliced(&sample, Protocol::V1, instances).unwrap(), r#"{"instances":[[7,1]]}"#);
}

#[test]
fn values_that_json_cannot_say_are_refused_and_binary_passes_them() {
    let cases = [
        (
            FeatureType::Double,
            Value::Double(f64::NAN),
            "NaN cannot be sent as FP64 in this protocol; allowed: finite numbers",
        ),
        (
            FeatureType::Float,
            Value::Float(f32::NEG_INFINITY),
            "-inf cannot be sent as FP32 in this protocol; allowed: finite numbers",
        ),
        (
            FeatureType::Bytes,
            Value::Bytes(Bytes::from_static(b"\xff")),
            "bytes that are not UTF-8 cannot be sent in JSON; V2 binary and gRPC can",
        ),
        (
            FeatureType::BytesList,
            Value::BytesList([Bytes::new(), Bytes::from_static(b"\xff")].into()),
            "bytes that are not UTF-8 cannot be sent in JSON; V2 binary and gRPC can",
        ),
    ];
    for (kind, value, told) in cases {
        let sample = one(kind, value, |view| columns(&[], view));
        let told = Err((Kind::BackendFailed, format!("user_stats:f, row 0: {told}")));
        assert_eq!(spliced(&sample, Protocol::V2Json, ONE_USER), told);
        assert_eq!(spliced(&sample, Protocol::V1, r#"{"instances":[{"user_id":7}]}"#), told);
        let decoded =
            decode(Protocol::V2Binary, Bytes::from_static(ONE_USER.as_bytes()), Some(ONE_USER.len())).unwrap();
        sample.body(Protocol::V2Binary, decoded).unwrap();
    }
}

#[test]
fn lists_must_be_equally_long() {
    let list = |values: &[f32]| Value::FloatList(values.into());
    let view = stats(&[("l", FeatureType::FloatList, list(&[]))]);
    let of = |inputs, rows: Vec<Option<Vec<Value>>>| Sample::new(&view, model(&view, "fraud", Some(inputs)), rows);
    let body = ONE_USER.replace("[1]", "[2]").replace("[7]", "[7,8]");
    let instances = r#"{"instances":[{"user_id":7},{"user_id":8}]}"#;
    let told = "user_stats:l: row 1 has 1 elements, row 0 has 2; the rows of a list feature must be equally long, also a missing row's default";
    for inputs in [columns(&[], &view), matrix(Datatype::Fp32, &[], 1)] {
        let ragged = of(inputs.clone(), vec![Some(vec![list(&[1.0, 2.0])]), Some(vec![list(&[3.0])])]);
        assert_eq!(spliced(&ragged, Protocol::V2Json, &body), Err((Kind::BackendFailed, told.to_owned())));
        assert_eq!(spliced(&ragged, Protocol::V1, instances), Err((Kind::BackendFailed, told.to_owned())));
    }
    let unknown = of(columns(&[], &view), vec![None, Some(vec![list(&[1.0, 2.0])])]);
    let found = spliced(&unknown, Protocol::V2Json, &body).unwrap();
    assert_eq!(found, r#"{"inputs":[{"name":"l","datatype":"FP32","shape":[2,2],"data":[0.0,0.0,1.0,2.0]}]}"#);
    let found = spliced(&unknown, Protocol::V1, instances).unwrap();
    assert_eq!(found, r#"{"instances":[{"l":[0.0,0.0]},{"l":[1.0,2.0]}]}"#);
    let stored = of(columns(&[], &view), vec![Some(vec![list(&[])]), Some(vec![list(&[1.0])])]);
    let told = "user_stats:l: row 1 has 1 elements, row 0 has 0; the rows of a list feature must be equally long, also a missing row's default";
    assert_eq!(spliced(&stored, Protocol::V2Json, &body), Err((Kind::BackendFailed, told.to_owned())));
    let missing = of(columns(&[], &view), vec![None, None]);
    let found = spliced(&missing, Protocol::V2Json, &body).unwrap();
    assert_eq!(found, r#"{"inputs":[{"name":"l","datatype":"FP32","shape":[2,0],"data":[]}]}"#);
    let single = of(columns(&[], &view), vec![Some(vec![Value::Float(1.0)]), Some(vec![Value::Float(1.0)])]);
    let told = "user_stats:l, row 0: a single value is stored where a list is declared";
    assert_eq!(spliced(&single, Protocol::V2Json, &body), Err((Kind::BackendFailed, told.to_owned())));
}

#[test]
fn features_that_no_matrix_of_the_datatype_holds() {
    let cases = [
        (
            Datatype::Fp32,
            FeatureType::String,
            Value::String("1".into()),
            "\"1\" cannot be FP32; allowed: a number, a bool or a timestamp",
        ),
        (Datatype::Bytes, FeatureType::Int64, Value::Int64(1), "1 cannot be BYTES; allowed: a string or bytes"),
        (
            Datatype::Int32,
            FeatureType::Double,
            Value::Double(0.5),
            "0.5 is not a whole number; INT32 takes whole numbers",
        ),
        (Datatype::Int32, FeatureType::Int64, Value::Int64(1 << 31), "2147483648 is out of range for INT32"),
        (Datatype::Fp32, FeatureType::Double, Value::Double(1e39), "1e39 is out of range for FP32"),
        (
            Datatype::Fp32,
            FeatureType::Int64,
            Value::Opaque(Bytes::new()),
            "an array or object cannot be FP32; allowed: a number, a bool or a timestamp",
        ),
    ];
    for (datatype, kind, value, told) in cases {
        let view = stats(&[("f", kind, value.clone())]);
        let sample = Sample::new(&view, model(&view, "fraud", Some(matrix(datatype, &[], 1))), vec![Some(vec![value])]);
        let told = format!("user_stats:f, row 0: {told}");
        assert_eq!(spliced(&sample, Protocol::V2Json, ONE_USER), Err((Kind::BackendFailed, told)));
    }
}

#[test]
fn conversions() {
    use Cell::{Double, Int, Single, Uint};
    let number = |text: &'static str| Scalar::Number(text);
    let cases = [
        (Scalar::Int(i64::MIN), Datatype::Int64, Ok(Int(i64::MIN))),
        (Scalar::Int(i64::MAX), Datatype::Fp32, Ok(Single(9.223_372e18))),
        (Scalar::Int(i64::MIN), Datatype::Fp64, Ok(Double(-9.223_372_036_854_776e18))),
        (Scalar::Uint(u64::MAX), Datatype::Uint64, Ok(Uint(u64::MAX))),
        (Scalar::Uint(u64::MAX), Datatype::Int64, Err(Misfit::Range)),
        (Scalar::Int(-1), Datatype::Uint8, Err(Misfit::Range)),
        (Scalar::Int(128), Datatype::Int8, Err(Misfit::Range)),
        (Scalar::Int(-128), Datatype::Int8, Ok(Int(-128))),
        (Scalar::Int(256), Datatype::Uint8, Err(Misfit::Range)),
        (Scalar::Int(65535), Datatype::Uint16, Ok(Uint(65535))),
        (Scalar::Int(40000), Datatype::Int16, Err(Misfit::Range)),
        (Scalar::Int(1 << 32), Datatype::Uint32, Err(Misfit::Range)),
        (Scalar::Bool(true), Datatype::Fp32, Ok(Single(1.0))),
        (Scalar::Bool(true), Datatype::Int8, Ok(Int(1))),
        (Scalar::Bool(false), Datatype::Bool, Ok(Cell::Bool(false))),
        (Scalar::Int(1), Datatype::Bool, Ok(Cell::Bool(true))),
        (Scalar::Double(0.0), Datatype::Bool, Ok(Cell::Bool(false))),
        (Scalar::Int(2), Datatype::Bool, Err(Misfit::Range)),
        (Scalar::Double(0.1), Datatype::Fp32, Ok(Single(0.1))),
        (Scalar::Float(0.1), Datatype::Fp64, Ok(Double(0.100_000_001_490_116_12))),
        (Scalar::Double(f64::INFINITY), Datatype::Fp32, Ok(Single(f32::INFINITY))),
        (Scalar::Double(f64::INFINITY), Datatype::Int64, Err(Misfit::NotFinite)),
        (Scalar::Double(-3.0), Datatype::Int8, Ok(Int(-3))),
        (Scalar::Double(1e19), Datatype::Uint64, Ok(Uint(10_000_000_000_000_000_000))),
        (Scalar::Double(1e20), Datatype::Uint64, Err(Misfit::Range)),
        (Scalar::Double(9.3e18), Datatype::Int64, Err(Misfit::Range)),
        (Scalar::Float(70000.0), Datatype::Fp16, Err(Misfit::Range)),
        (Scalar::Float(0.1), Datatype::Fp16, Ok(Single(0.099_975_586))),
        (Scalar::Float(0.1), Datatype::Bf16, Ok(Single(0.100_097_656))),
        (number("9223372036854775807"), Datatype::Int64, Ok(Int(i64::MAX))),
        (number("9223372036854775808"), Datatype::Int64, Err(Misfit::Range)),
        (number("18446744073709551615"), Datatype::Uint64, Ok(Uint(u64::MAX))),
        (number("18446744073709551616"), Datatype::Uint64, Err(Misfit::Range)),
        (number("3.0"), Datatype::Int8, Ok(Int(3))),
        (number("1e2"), Datatype::Int8, Ok(Int(100))),
        (number("3.5"), Datatype::Int8, Err(Misfit::Fraction)),
        (number("0.1"), Datatype::Fp32, Ok(Single(0.1))),
        (number("1e400"), Datatype::Fp64, Err(Misfit::Range)),
        (number("1e39"), Datatype::Fp32, Err(Misfit::Range)),
        (number("-0"), Datatype::Fp64, Ok(Double(-0.0))),
        (Scalar::Text("a".into()), Datatype::Bytes, Ok(Cell::Bytes(b"a"))),
        (Scalar::Bytes(b"\xff"), Datatype::Bytes, Ok(Cell::Bytes(b"\xff"))),
        (Scalar::Int(1), Datatype::Bytes, Err(Misfit::Type)),
        (Scalar::Null, Datatype::Fp32, Err(Misfit::Type)),
        (Scalar::Other, Datatype::Int8, Err(Misfit::Type)),
    ];
    for (scalar, datatype, expected) in cases {
        assert_eq!(cell(&scalar, datatype), expected, "{scalar} as {datatype}");
    }
    let mut timestamps = Vec::new();
    let list = Value::UnixTimestampList([i64::MIN, 5].into());
    each::<()>(&list, |scalar| {
        timestamps.push(scalar);
        Ok(())
    })
    .unwrap();
    assert_eq!(timestamps, [Scalar::Int(i64::MIN), Scalar::Int(5)]);
}

#[test]
fn binary_requests_keep_json_tensors_and_chunks() {
    let view = stats(&[("f", FeatureType::String, Value::String("é".into()))]);
    let sample = Sample::new(&view, model(&view, "fraud", Some(columns(&[], &view))), vec![None]);
    let json = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},{"name":"user_id","shape":[1],"datatype":"INT16","parameters":{"binary_data_size":2}},{"name":"j","shape":[1],"datatype":"FP32","data":[1.0]},{"name":"b","shape":[1],"datatype":"BOOL","parameters":{"binary_data_size":1}}]}"#;
    let body = Bytes::from([json.as_bytes(), b"AA\x07\x00B"].concat());
    let decoded = decode(Protocol::V2Binary, body, Some(json.len())).unwrap();
    let (body, length) = sample.body(Protocol::V2Binary, decoded).unwrap();
    let expected = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},{"name":"j","shape":[1],"datatype":"FP32","data":[1.0]},{"name":"b","shape":[1],"datatype":"BOOL","parameters":{"binary_data_size":1}},{"name":"f","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}]}"#;
    assert_eq!(std::str::from_utf8(&body[..length.unwrap()]).unwrap(), expected);
    assert_eq!(&body[length.unwrap()..], b"AAB\x02\0\0\0\xc3\xa9");
}

fn grpc_user(name: &str) -> ModelInferRequest {
    let contents = InferTensorContents { int64_contents: vec![7], ..Default::default() };
    let input = InferTensor {
        name: "user_id".into(),
        datatype: "INT64".into(),
        shape: vec![1],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: name.into(), inputs: vec![input], ..Default::default() }
}

#[test]
fn half_floats_have_no_contents_in_grpc() {
    let view = stats(&[("f", FeatureType::Float, Value::Float(1.5))]);
    let sample = Sample::new(&view, model(&view, "fraud", Some(matrix(Datatype::Fp16, &[], 1))), vec![None]);
    let decoded = decode(Protocol::Grpc, grpc_user("fraud").encode_to_vec().into(), None).unwrap();
    let error = sample.body(Protocol::Grpc, decoded).unwrap_err();
    let told = "user_stats:f, row 0: FP16 has no field in gRPC's typed contents; raw_input_contents can carry it";
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::BackendFailed, told));
    assert_eq!(
        spliced(&sample, Protocol::V2Json, ONE_USER).unwrap(),
        r#"{"inputs":[{"name":"input-0","datatype":"FP16","shape":[1,1],"data":[1.5]}]}"#
    );
    // A request without data gets it raw.
    let parameters = [("user_id".to_owned(), Choice::Int64(7).into())].into();
    let message = ModelInferRequest { parameters, ..Default::default() }.encode_to_vec();
    let decoded = decode(Protocol::Grpc, message.into(), None).unwrap();
    let (body, _) = sample.body(Protocol::Grpc, decoded).unwrap();
    let found = ModelInferRequest::decode(&body[5..]).unwrap();
    assert_eq!(found.raw_input_contents, [[0x00, 0x3e]]);
    assert!(found.parameters.is_empty());
}

proptest! {
    /// Whatever a float is, JSON carries it exactly.
    #[test]
    fn floats_survive_json(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
        let sample = one(FeatureType::Double, Value::Double(value), |view| columns(&[], view));
        let found = spliced(&sample, Protocol::V2Json, ONE_USER).unwrap();
        let text = found.rsplit_once("\"data\":[").unwrap().1.trim_end_matches(['}', ']']);
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
    }

    /// Whatever a text is, JSON carries it exactly.
    #[test]
    fn texts_survive_json(text in any::<String>()) {
        let sample = one(FeatureType::String, Value::String(text.as_str().into()), |view| columns(&[], view));
        let found = spliced(&sample, Protocol::V2Json, ONE_USER).unwrap();
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        prop_assert_eq!(found["inputs"][0]["data"][0].as_str().unwrap(), text);
    }

    /// Whatever is accepted is spliced into JSON again, or refused in words.
    #[test]
    fn what_is_spliced_is_json(at in 0usize..400, byte in any::<u8>(), v1 in any::<bool>(), wide in any::<bool>()) {
        let view = stats(&[("f", FeatureType::Float, Value::Float(1.5)), ("s", FeatureType::Int32List, Value::Int32List([1].into()))]);
        let inputs = if wide { matrix(Datatype::Fp64, &["amount"], 2) } else { columns(&["amount"], &view) };
        let sample = Sample::new(&view, model(&view, "fraud", Some(inputs)), vec![None, None]);
        let (protocol, good) = if v1 {
            (Protocol::V1, &br#"{"instances":[{"user_id":1,"amount":1.5},{"user_id":2,"amount":2,"x":{}}],"parameters":{"m":"x","user_id":7}}"#[..])
        } else {
            (Protocol::V2Json, &br#"{"id":"\u00e9","parameters":{"user_id":3,"amount":4},"inputs":[{"name":"user_id","shape":[2,1],"datatype":"INT64","data":[[1],[2]]},{"name":"amount","shape":[2],"datatype":"FP32","data":[1.5,2]}]}"#[..])
        };
        let mut body = good.to_vec();
        body[at % good.len()] = byte;
        if let Ok(decoded) = decode(protocol, body.into(), None)
            && decoded.rows(&["user_id"]).is_ok_and(|rows| rows == 2)
            && let Ok((bytes, _)) = sample.body(protocol, decoded)
        {
            let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
            prop_assert!(parsed.is_ok(), "{}", bytes.escape_ascii());
        }
    }

    /// Whatever is accepted is spliced into a binary body whose sizes add up again, or refused in words.
    #[test]
    fn what_is_spliced_adds_up(at in 0usize..400, byte in any::<u8>(), wide in any::<bool>()) {
        let view = stats(&[("f", FeatureType::String, Value::String("x".into()))]);
        let inputs = if wide { matrix(Datatype::Bytes, &["b"], 1) } else { columns(&[], &view) };
        let sample = Sample::new(&view, model(&view, "fraud", Some(inputs)), vec![None]);
        let mut body = br#"{"inputs":[{"name":"user_id","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":1}},{"name":"b","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}},{"name":"j","shape":[1],"datatype":"BOOL","data":[true]}]}"#.to_vec();
        let length = body.len();
        body.extend_from_slice(b"\x07\x01\0\0\0a");
        let whole = body.len();
        body[at % whole] = byte;
        if let Ok(decoded) = decode(Protocol::V2Binary, body.into(), Some(length))
            && let Ok((bytes, length)) = sample.body(Protocol::V2Binary, decoded)
        {
            prop_assert!(decode(Protocol::V2Binary, bytes, length).is_ok());
        }
    }

    /// Whatever is accepted is spliced into a message again, or refused in words.
    #[test]
    fn what_is_spliced_is_protobuf(at in 0usize..400, byte in any::<u8>(), raw in any::<bool>()) {
        let view = stats(&[("f", FeatureType::Float, Value::Float(1.5))]);
        let sample = Sample::new(&view, model(&view, "up", Some(matrix(Datatype::Fp32, &["user_id"], 1))), vec![None]);
        let mut message = grpc_user("fraud");
        message.parameters.insert("user_id".into(), Choice::Int64(8).into());
        if raw {
            message.inputs[0].contents = None;
            message.raw_input_contents.push(vec![7, 0, 0, 0, 0, 0, 0, 0]);
        }
        let mut body = message.encode_to_vec();
        let length = body.len();
        body[at % length] = byte;
        // Prost also refuses what is not UTF-8 in fields that nobody here reads.
        if ModelInferRequest::decode(&body[..]).is_ok()
            && let Ok(decoded) = decode(Protocol::Grpc, body.into(), None)
            && let Ok((bytes, _)) = sample.body(Protocol::Grpc, decoded)
        {
            prop_assert!(ModelInferRequest::decode(&bytes[5..]).is_ok());
        }
    }

    /// Any bytes at all: an answer is renamed or passed on, a request is renamed or refused.
    #[test]
    fn renaming_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), length in 0usize..120) {
        let body = Bytes::from(bytes);
        for protocol in [Protocol::V1, Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc] {
            let _answer = rename::answer(protocol, body.clone(), "a", "b", Some(length));
        }
        let _front = rename::front(&body, (1, "b"));
        let _request = rename::request(&body, (2, "b"), 1000);
    }
}
