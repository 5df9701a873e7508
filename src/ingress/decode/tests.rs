//! Every bad body and its words, bodies that must decode whatever they look like, and no panic on anything.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::*;
use crate::infer::{
    EntityType, EntityValue,
    decoded::{Data, EntityColumn, Layout},
};

fn refused(protocol: Protocol, body: &[u8]) -> String {
    let error = decode(protocol, Bytes::copy_from_slice(body), None).expect_err("a bad body");
    assert_eq!(error.kind(), Kind::InvalidRequest);
    error.to_string()
}

fn v2(body: &str) -> Decoded {
    decode(Protocol::V2Json, Bytes::copy_from_slice(body.as_bytes()), None).unwrap()
}

#[test]
fn malformed_json_is_told_with_line_column_and_byte() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "line 1 column 1 (byte 0): the text ends too soon"),
        (b"{", "line 1 column 2 (byte 1): expected a key in double quotes"),
        (b"{\"a\" 1}", "line 1 column 6 (byte 5): expected ':'"),
        (b"{\n \"a\": }", "line 2 column 7 (byte 8): expected a value"),
        (b"{\"a\": 1,}", "line 1 column 9 (byte 8): expected a key in double quotes"),
        (b"{\"a\": 1 \"b\": 2}", "line 1 column 9 (byte 8): expected ',' or '}'"),
        (b"{\"a\": [1 2]}", "line 1 column 10 (byte 9): expected ',' or ']'"),
        (b"{\"a\": 1} x", "line 1 column 10 (byte 9): something follows the JSON value"),
        (b"{\"a\": 01}", "line 1 column 8 (byte 7): a number may not begin with 0"),
        (b"{\"a\": 1.}", "line 1 column 9 (byte 8): expected a digit"),
        (b"{\"a\": -}", "line 1 column 8 (byte 7): expected a digit"),
        (b"{\"a\": 1e+}", "line 1 column 10 (byte 9): expected a digit"),
        (b"{\"a\": +1}", "line 1 column 7 (byte 6): expected a value"),
        (b"{\"a\": tru}", "line 1 column 7 (byte 6): expected a value"),
        (b"{\"a\": NaN}", "line 1 column 7 (byte 6): NaN is not JSON; allowed: finite numbers"),
        (b"{\"a\": [\nInfinity]}", "line 2 column 1 (byte 8): Infinity is not JSON; allowed: finite numbers"),
        (b"{\"a\": [1,-Infinity]}", "line 1 column 10 (byte 9): -Infinity is not JSON; allowed: finite numbers"),
        (b"{\"a\": \"\x01\"}", "line 1 column 8 (byte 7): a control character in a string must be escaped"),
        (b"{\"a\": \"\\x\"}", "line 1 column 9 (byte 8): unknown escape in a string"),
        (b"{\"a\": \"\\u12G4\"}", "line 1 column 12 (byte 11): expected four hexadecimal digits after \\u"),
        (b"{\"a\": \"abc", "line 1 column 11 (byte 10): the text ends inside a string"),
        (b"{\"a\": \"\xff\"}", "line 1 column 8 (byte 7): not valid UTF-8"),
        (b"{'a': 1}", "line 1 column 2 (byte 1): expected a key in double quotes"),
    ];
    for (body, told) in cases {
        for protocol in [Protocol::V1, Protocol::V2Json] {
            assert_eq!(refused(protocol, body), format!("malformed JSON at {told}"), "{}", body.escape_ascii());
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = |brackets: usize| format!("{{\"a\": {}{}}}", "[".repeat(brackets), "]".repeat(brackets));
    assert!(refused(Protocol::V2Json, deep(100_000).as_bytes()).contains("nested more than 128 deep"));
    assert!(
        refused(Protocol::V1, format!("{{\"instances\": [{}", "{\"a\":".repeat(100_000)).as_bytes())
            .contains("128 deep")
    );
    v2(&deep(128));
}

#[test]
fn bad_v1_bodies() {
    let cases = [
        ("[]", "the body must be a JSON object"),
        ("{}", "\"instances\" is missing; allowed: {\"instances\": […]}"),
        (r#"{"instances": {}}"#, "\"instances\" must be an array"),
        (
            r#"{"inputs": {"a": [1]}}"#,
            "\"inputs\" (TensorFlow's columnar format) cannot be joined; allowed: {\"instances\": […]}",
        ),
        (r#"{"instances": [], "instances": []}"#, "duplicate key at the top level \"instances\""),
        (r#"{"instances": [], "x": 1, "\u0078": 2}"#, "duplicate key at the top level \"x\""),
        (r#"{"instances": [], "parameters": {"a": 1, "a": 2}}"#, "duplicate parameter \"a\""),
    ];
    for (body, told) in cases {
        assert_eq!(refused(Protocol::V1, body.as_bytes()), told, "{body}");
    }
}

#[test]
fn bad_v2_bodies() {
    let tensor = |members: &str| format!("{{\"inputs\": [{{{members}}}]}}");
    let cases = [
        ("[]".to_owned(), "the body must be a JSON object"),
        (r#"{"inputs": {}}"#.into(), "\"inputs\" must be an array of tensors"),
        (r#"{"inputs": [1]}"#.into(), "inputs[0] must be an object"),
        (r#"{"parameters": []}"#.into(), "\"parameters\" must be an object"),
        (r#"{"id": 1, "id": 2}"#.into(), "duplicate key at the top level \"id\""),
        (tensor(r#""shape": [1], "datatype": "INT64", "data": [1]"#), "inputs[0]: name is missing"),
        (tensor(r#""name": "a", "datatype": "INT64", "data": [1]"#), "inputs[0]: shape is missing"),
        (tensor(r#""name": "a", "shape": [1], "data": [1]"#), "inputs[0]: datatype is missing"),
        (tensor(r#""name": "a", "shape": [1], "datatype": "INT64""#), "tensor \"a\": data is missing"),
        (tensor(r#""name": 7"#), "a tensor's name must be a string"),
        (tensor(r#""name": "a", "name": "b""#), "inputs[0]: duplicate key \"name\""),
        (tensor(r#""name": "a", "shape": [1], "datatype": "INT64", "data": 1"#), "inputs[0].data must be an array"),
        (
            tensor(r#""name": "a", "shape": [1.5], "datatype": "INT64", "data": [1]"#),
            "inputs[0].shape must be an array of whole numbers",
        ),
        (
            tensor(r#""name": "a", "shape": 1, "datatype": "INT64", "data": [1]"#),
            "inputs[0].shape must be an array of whole numbers",
        ),
        (
            tensor(r#""name": "a", "shape": [1], "datatype": "INT", "data": [1]"#),
            "tensor \"a\": unknown datatype \"INT\"; allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BF16, BYTES",
        ),
        (
            tensor(r#""name": "a", "shape": [2, -1], "datatype": "INT64", "data": [1]"#),
            "tensor \"a\": shape [2, -1] has a negative dimension",
        ),
        (
            tensor(r#""name": "a", "shape": [4294967296, 4294967296], "datatype": "INT64", "data": [1]"#),
            "tensor \"a\": shape [4294967296, 4294967296] has more elements than can be",
        ),
        (
            tensor(r#""name": "a", "shape": [2, 3], "datatype": "FP32", "data": [[1, 2, 3], [4, 5]]"#),
            "tensor \"a\": shape [2, 3] × FP32 takes 6 elements, its data has 5",
        ),
        (
            tensor(r#""name": "a", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}"#),
            "tensor \"a\": binary_data_size needs the header inference-header-content-length",
        ),
        (
            r#"{"inputs": [{"name": "a", "shape": [1], "datatype": "INT64", "data": [1]}, {"name": "\u0061", "shape": [1], "datatype": "INT64", "data": [1]}]}"#.into(),
            "duplicate tensor name \"a\"",
        ),
        (tensor(r#""name": "\ud800""#), "malformed JSON at line 1 column 23 (byte 22): a lone surrogate in a string"),
    ];
    for (body, told) in cases {
        assert_eq!(refused(Protocol::V2Json, body.as_bytes()), told, "{body}");
    }
}

#[test]
fn messages_do_not_grow_with_what_they_refuse() {
    let long = "x".repeat(1 << 20);
    let input = |name: &str, datatype: &str, shape: &str| {
        format!(r#"{{"inputs": [{{"name": "{name}", "shape": {shape}, "datatype": "{datatype}", "data": []}}]}}"#)
    };
    let bodies = [
        input(&long, "INT64", "[1]"),
        input("a", &long, "[1]"),
        input("a", "INT64", &format!("[{}1]", "1,".repeat(1 << 20))),
        format!(r#"{{"{long}": 1, "{long}": 2}}"#),
    ];
    for body in bodies {
        let told = refused(Protocol::V2Json, body.as_bytes());
        assert!(told.len() < 300, "{} bytes", told.len());
    }
    let entity = v2(&format!(r#"{{"parameters": {{"u": {}}}}}"#, "9".repeat(1 << 20)));
    assert!(entity.entities("u", EntityType::Int64).unwrap_err().to_string().len() < 300);
}

#[test]
fn many_names_are_hashed_and_a_duplicate_is_still_found() {
    let tensor = |index: usize| format!(r#"{{"name": "t{index}", "shape": [0], "datatype": "INT64", "data": []}}"#);
    let tensors = |last: usize| (0..40).chain([last]).map(tensor).collect::<Vec<_>>().join(",");
    assert_eq!(v2(&format!("{{\"inputs\": [{}]}}", tensors(40))).tensors.len(), 41);
    let body = format!("{{\"inputs\": [{}]}}", tensors(17));
    assert_eq!(refused(Protocol::V2Json, body.as_bytes()), "duplicate tensor name \"t17\"");
}

#[test]
fn bad_binary_bodies() {
    let input = |name: &str, datatype: &str, size: &str| {
        format!(
            r#"{{"name": "{name}", "shape": [2], "datatype": "{datatype}", "parameters": {{"binary_data_size": {size}}}}}"#
        )
    };
    let int = |size: &str| format!("{{\"inputs\": [{}]}}", input("a", "INT32", size));
    let bytes = format!("{{\"inputs\": [{}]}}", input("a", "BYTES", "9"));
    let cases: Vec<(String, &[u8], &str)> = vec![
        (int("4"), b"1234", "tensor \"a\": shape [2] × INT32 takes 8 bytes, its data has 4"),
        (int("8"), b"1234567", "tensor \"a\": binary_data_size is 8, the body has 7 bytes left"),
        (
            int("18446744073709551615"),
            b"1234567",
            "tensor \"a\": binary_data_size is 18446744073709551615, the body has 7 bytes left",
        ),
        (int("-8"), b"12345678", "inputs[0].parameters.binary_data_size must be a whole number of bytes"),
        (int("\"8\""), b"12345678", "inputs[0].parameters.binary_data_size must be a whole number of bytes"),
        (int("8, \"binary_data_size\": 8"), b"12345678", "inputs[0]: duplicate parameter \"binary_data_size\""),
        (
            bytes.clone(),
            b"\x01\0\0\0a\x01\0\0\0",
            "tensor \"a\": its BYTES data ends inside element 1 (4 bytes of length, then the element)",
        ),
        (bytes.clone(), b"\x05\0\0\0abcde", "tensor \"a\": shape [2] × BYTES takes 2 elements, its data has 1"),
        (
            bytes,
            b"\xff\xff\xff\xffabcde",
            "tensor \"a\": its BYTES data ends inside element 0 (4 bytes of length, then the element)",
        ),
    ];
    for (json, data, told) in cases {
        let length = json.len();
        let body: Vec<u8> = json.bytes().chain(data.iter().copied()).collect();
        let error = decode(Protocol::V2Binary, body.into(), Some(length)).expect_err(told);
        assert_eq!(error.to_string(), told);
    }
    let body = Bytes::from(int("8") + "12345678!");
    let error = decode(Protocol::V2Binary, body.clone(), Some(body.len() - 9)).unwrap_err().to_string();
    assert_eq!(error, "the JSON and its inputs' binary_data_size add up to 109 bytes, the body has 110");
    let error = decode(Protocol::V2Binary, body.clone(), Some(1000)).unwrap_err().to_string();
    assert_eq!(error, "inference-header-content-length is 1000, the body has 110 bytes");
    let error = decode(Protocol::V2Binary, body.clone(), None).unwrap_err().to_string();
    assert_eq!(error, "a binary body needs the header inference-header-content-length");
    let error = decode(Protocol::V2Binary, body.clone(), Some(body.len() - 8)).unwrap_err().to_string();
    assert!(error.contains("something follows the JSON value"), "{error}");
    let both = r#"{"inputs": [{"name": "a", "shape": [1], "datatype": "INT64", "data": [1], "parameters": {"binary_data_size": 0}}]}"#;
    let error = decode(Protocol::V2Binary, both.into(), Some(both.len())).unwrap_err().to_string();
    assert_eq!(error, "tensor \"a\": data and binary_data_size exclude each other");
}

#[test]
fn rows_are_equal_or_refused() {
    let body = r#"{"inputs": [
        {"name": "a", "shape": [2], "datatype": "INT64", "data": [1, 2]},
        {"name": "b", "shape": [3, 1], "datatype": "INT64", "data": [1, 2, 3]},
        {"name": "c", "shape": [], "datatype": "INT64", "data": [1]}]}"#;
    let decoded = v2(body);
    assert_eq!(decoded.rows(&["b", "p"]).unwrap(), 3);
    assert_eq!(decoded.rows(&["p"]).unwrap(), 2, "the first tensor's, where only parameters are joined");
    assert_eq!(decoded.rows(&["c"]).unwrap(), 1);
    let error = decoded.rows(&["a", "b"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "unequal rows: tensor \"a\" has 2, tensor \"b\" has 3; tensors that are joined or become columns have the same first dimension"
    );
    assert_eq!(v2("{}").rows(&["p"]).unwrap(), 1);
}

#[test]
fn a_tensor_of_nothing_does_not_say_how_many_rows_there_are() {
    let tensor = |shape: &str| {
        v2(&format!(r#"{{"inputs": [{{"name": "a", "shape": {shape}, "datatype": "FP32", "data": []}}]}}"#))
    };
    for shape in ["[4000000000, 0]", "[9223372036854775807, 0]", "[1, 0]"] {
        let error = tensor(shape).rows(&["p"]).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidRequest);
        assert_eq!(
            error.to_string(),
            format!(
                "tensor \"a\": shape {shape} has no elements, so its first dimension cannot say how many rows the request has"
            )
        );
    }
    assert_eq!(tensor("[0, 4]").rows(&["p"]).unwrap(), 0);
    assert_eq!(tensor("[0]").rows(&["a"]).unwrap(), 0);
}

#[test]
fn entities_are_read_exactly_or_refused() {
    let tensor = |shape: &str, datatype: &str, data: &str| {
        v2(&format!(
            r#"{{"inputs": [{{"name": "user_id", "shape": {shape}, "datatype": "{datatype}", "data": {data}}}]}}"#
        ))
    };
    let told = |decoded: Decoded, kind| decoded.entities("user_id", kind).expect_err("a bad entity").to_string();
    use EntityType::{Int32, Int64, String as Str, UnixTimestamp};
    let integers = "an integer from -9223372036854775808 to 9223372036854775807";
    let cases = [
        (tensor("[1]", "INT64", "[1.5]"), Int64, format!("row 0: 1.5 cannot be a INT64 key; allowed: {integers}")),
        (tensor("[2]", "INT64", "[1, 1.0]"), Int64, format!("row 1: 1.0 cannot be a INT64 key; allowed: {integers}")),
        (tensor("[1]", "INT64", "[true]"), Int64, format!("row 0: true cannot be a INT64 key; allowed: {integers}")),
        (tensor("[1]", "INT64", "[null]"), Int64, format!("row 0: null cannot be a INT64 key; allowed: {integers}")),
        (tensor("[1]", "INT64", "[\"7\"]"), Int64, format!("row 0: \"7\" cannot be a INT64 key; allowed: {integers}")),
        (
            tensor("[1]", "INT64", "[{}]"),
            Int64,
            format!("row 0: an array or object cannot be a INT64 key; allowed: {integers}"),
        ),
        (tensor("[1]", "INT64", "[1e3]"), Int64, format!("row 0: 1e3 cannot be a INT64 key; allowed: {integers}")),
        (
            tensor("[1]", "UINT64", "[9223372036854775808]"),
            Int64,
            format!("row 0: 9223372036854775808 does not fit INT64; allowed: {integers}"),
        ),
        (
            tensor("[1]", "INT64", "[2147483648]"),
            Int32,
            "row 0: 2147483648 does not fit INT32; allowed: an integer from -2147483648 to 2147483647".into(),
        ),
    ];
    for (decoded, kind, expected) in cases {
        assert_eq!(told(decoded, kind), format!("entity \"user_id\", {expected}"));
    }
    let cases = [
        (tensor("[1, 2]", "INT64", "[1, 2]"), Int64, "shape [1, 2]; allowed: [n] or [n, 1]"),
        (tensor("[]", "INT64", "[1]"), Int64, "shape []; allowed: [n] or [n, 1]"),
        (
            tensor("[1]", "FP32", "[1]"),
            Int64,
            "a FP32 tensor cannot name a INT64 key; allowed: INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64",
        ),
        (tensor("[1]", "INT64", "[1]"), Str, "a INT64 tensor cannot name a STRING key; allowed: BYTES"),
        (
            v2(
                r#"{"inputs": [{"name": "user_id", "shape": [1], "datatype": "INT64", "parameters": {"shared_memory_region": "r"}}]}"#,
            ),
            UnixTimestamp,
            "its data is in shared memory; allowed: in the request",
        ),
    ];
    for (decoded, kind, expected) in cases {
        assert_eq!(told(decoded, kind), format!("entity \"user_id\": {expected}"));
    }
    let parameter = v2(r#"{"parameters": {"user_id": 1.5}}"#);
    assert_eq!(
        told(parameter, Int64),
        format!("entity \"user_id\" (request parameter): 1.5 cannot be a INT64 key; allowed: {integers}")
    );
    assert_eq!(
        told(v2("{}"), Int64),
        "missing entity \"user_id\": the request must carry it as an input tensor of shape [n] or [n, 1], or a request parameter"
    );
    let mut body = br#"{"inputs": [{"name": "user_id", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}]}"#.to_vec();
    let length = body.len();
    body.extend_from_slice(b"\x01\0\0\0\xff");
    let decoded = decode(Protocol::V2Binary, body.into(), Some(length)).unwrap();
    assert_eq!(
        decoded.entities("user_id", Str).unwrap_err().to_string(),
        "entity \"user_id\", row 0: not valid UTF-8; a STRING key is text"
    );
    assert_eq!(
        decoded.entities("user_id", EntityType::Bytes).unwrap(),
        EntityColumn::Rows(vec![EntityValue::Bytes(vec![0xff])])
    );
}

#[test]
fn v1_entities_come_from_every_instance_or_from_parameters() {
    let v1 = |body: &str| decode(Protocol::V1, Bytes::copy_from_slice(body.as_bytes()), None).unwrap();
    let decoded = v1(r#"{"instances": [{"u": 1}, {"u": 2, "x": [1]}], "parameters": {"m": "a\"b"}}"#);
    assert_eq!(decoded.rows(&["u", "m"]).unwrap(), 2);
    let rows = decoded.entities("u", EntityType::UnixTimestamp).unwrap();
    assert_eq!(rows, EntityColumn::Rows(vec![EntityValue::UnixTimestamp(1), EntityValue::UnixTimestamp(2)]));
    let same = decoded.entities("m", EntityType::String).unwrap();
    assert_eq!(same, EntityColumn::Same(EntityValue::String("a\"b".into())));
    let told = |body, kind| v1(body).entities("u", kind).unwrap_err().to_string();
    assert_eq!(
        told(r#"{"instances": [{"u": 1}, {"v": 2}]}"#, EntityType::Int64),
        "missing entity \"u\" in instance 1: every instance must have that key where the first has it"
    );
    assert_eq!(
        told(r#"{"instances": [[1, 2]]}"#, EntityType::Int64),
        "missing entity \"u\": the request must carry it as a key of every instance, or a member of \"parameters\""
    );
    assert_eq!(
        told(r#"{"instances": [{"u": [1]}]}"#, EntityType::String),
        "entity \"u\", row 0: an array or object cannot be a STRING key; allowed: a string"
    );
    assert_eq!(told(r#"{"instances": [{"u": 1, "u": 2}]}"#, EntityType::Int64), "instance 0: duplicate key \"u\"");
    assert_eq!(v1(r#"{"instances": []}"#).entities("u", EntityType::Int64).unwrap(), EntityColumn::Rows(vec![]));
}

#[test]
fn what_is_not_joined_keeps_its_place() {
    assert!(v2(r#"{"parameters": null}"#).parameters.is_empty());
    let decoded = v2(
        r#" {"inputs": [{"name": "a", "shape": [1], "datatype": "FP16", "parameters": {"shared_memory_region": "r"}}], "x": [[]]} "#,
    );
    assert!(matches!(decoded.tensors[0].data, Data::Elsewhere));
    let scalars = decode(Protocol::V1, Bytes::from_static(br#"{"instances": [1, "a", null, [1], {}]}"#), None).unwrap();
    let Layout::V1 { instances, .. } = &scalars.layout else { panic!("a V1 layout") };
    assert_eq!(instances.rows.iter().map(|row| row.is_some()).collect::<Vec<_>>(), [false, false, false, false, true]);
}

#[test]
fn gzip_is_bounded() {
    let zip = |plain: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        Bytes::from(encoder.finish().unwrap())
    };
    assert_eq!(gunzip(zip(b"abc"), 3).unwrap(), "abc");
    let bomb = zip(&vec![0; 10 << 20]);
    assert!(bomb.len() < 20_000);
    let error = gunzip(bomb, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
    assert_eq!(error.to_string(), "the decompressed body is over the limit of 1048576 bytes");
    assert_eq!(gunzip(zip(b""), u64::MAX).unwrap(), "");
    for bad in [&b""[..], b"abc", &zip(b"abc")[..15]] {
        let error = gunzip(Bytes::copy_from_slice(bad), 100).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::InvalidRequest, "the body is not valid gzip"));
    }
}

proptest! {
    /// Decoders agree with `serde_json` about what JSON is (depth and numbers out of a double's range apart).
    #[test]
    fn json_is_what_serde_json_says(text in r#"[\[\]{}:,"\\ \ntfn0-9eE+.au\u{e9}-]{0,24}"#) {
        let body = format!("{{\"instances\":[],\"a\":{text}}}");
        let ours = decode(Protocol::V1, body.clone().into(), None);
        let theirs = serde_json::from_str::<std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>>(&body);
        let duplicate = ours.as_ref().is_err_and(|error| error.to_string().starts_with("duplicate"));
        prop_assert!(duplicate || ours.is_ok() == theirs.is_ok(), "{:?} {:?}", ours.err(), theirs.err());
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0usize..220) {
        for protocol in [Protocol::V1, Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc] {
            read_all(protocol, bytes.clone().into(), Some(length));
        }
        let _refused = gunzip(bytes.into(), 1000);
    }

    /// Bodies that begin well reach deeper than noise does.
    #[test]
    fn nothing_panics_on_damaged_bodies(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
        let good = br#"{"id":"\u00e9","parameters":{"m":"x"},"inputs":[{"name":"user_id","shape":[2,1],"datatype":"INT64","data":[[1],[2]]}],"instances":[{"user_id":1},[2]]}"#;
        let mut body = good.to_vec();
        body[at % good.len()] = byte;
        body.truncate(good.len() - cut % good.len());
        for protocol in [Protocol::V1, Protocol::V2Json] {
            read_all(protocol, body.clone().into(), None);
        }
        read_all(Protocol::V2Binary, body.clone().into(), Some(body.len()));
    }

    #[test]
    fn integers_survive(users in proptest::collection::vec(any::<i64>(), 0..20)) {
        let body = format!(r#"{{"inputs": [{{"name": "u", "shape": [{}], "datatype": "INT64", "data": {users:?}}}]}}"#, users.len());
        let column = v2(&body).entities("u", EntityType::Int64).unwrap();
        prop_assert_eq!(column, EntityColumn::Rows(users.into_iter().map(EntityValue::Int64).collect()));
    }

    #[test]
    fn texts_survive(texts in proptest::collection::vec(any::<String>(), 0..10)) {
        let body = serde_json::json!({"inputs": [{"name": "u", "shape": [texts.len()], "datatype": "BYTES", "data": texts}]}).to_string();
        let column = v2(&body).entities("u", EntityType::String).unwrap();
        prop_assert_eq!(column, EntityColumn::Rows(texts.into_iter().map(EntityValue::String).collect()));
    }
}

/// Decodes and, where that works, reads everything.
pub(crate) fn read_all(protocol: Protocol, body: Bytes, json_length: Option<usize>) {
    if let Ok(decoded) = decode(protocol, body, json_length) {
        let _rows = decoded.rows(&["user_id", "m"]);
        for kind in [EntityType::Int32, EntityType::String, EntityType::Bytes] {
            let _column = decoded.entities("user_id", kind);
            let _same = decoded.entities("m", kind);
        }
        for tensor in &decoded.tensors {
            let _count = tensor.elements(&decoded.body).count();
        }
    }
}

#[test]
fn a_request_s_id_is_known_and_can_be_left_out() {
    let told = |decoded: &Decoded| {
        let records = decoded.id.records.iter().map(|span| span.of(&decoded.body).to_vec()).collect::<Vec<_>>();
        (decoded.id.value.map(|id| id.get(&decoded.body).into_owned()), records)
    };
    for (body, value, member) in [
        (r#"{ "id" : "a\u00e9", "inputs": []}"#, Some("aé"), Some(r#""id" : "a\u00e9""#)),
        (r#"{"id":""}"#, Some(""), Some(r#""id":"""#)),
        (r#"{"id":7}"#, None, Some(r#""id":7"#)),
        (r#"{"id":null}"#, None, Some(r#""id":null"#)),
        (r#"{"inputs":[]}"#, None, None),
    ] {
        let records: Vec<_> = member.map(|member| member.as_bytes().to_vec()).into_iter().collect();
        assert_eq!(told(&v2(body)), (value.map(str::to_owned), records), "{body}");
    }
    assert_eq!(refused(Protocol::V2Json, br#"{"id":"a","id":"b"}"#), "duplicate key at the top level \"id\"");

    // Of a singular field the last counts; all of its records go.
    let message = Bytes::from_static(b"\x1a\x01a\x0a\x01m\x1a\x02bc");
    let decoded = decode(Protocol::Grpc, message, None).unwrap();
    assert_eq!(told(&decoded), (Some("bc".into()), vec![b"\x1a\x01a".to_vec(), b"\x1a\x02bc".to_vec()]));
    let decoded = decode(Protocol::Grpc, Bytes::from_static(b"\x1a\x00"), None).unwrap();
    assert_eq!(told(&decoded), (None, vec![b"\x1a\x00".to_vec()]));
    assert_eq!(told(&decode(Protocol::V1, Bytes::from_static(b"{\"instances\":[]}"), None).unwrap()), (None, vec![]));
}
