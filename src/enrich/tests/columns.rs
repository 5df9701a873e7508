//! Columns of the request in a matrix: which fit, and what is said of those that do not.

use super::*;

#[test]
fn wide_request_columns_and_parameters_move_into_the_matrix() {
    let view = stats(&[
        ("f", FeatureType::Float, Value::Float(0.1)),
        ("l", FeatureType::Int32List, Value::Int32List([8, 9].into())),
    ]);
    let inputs = Inputs::Matrix {
        name: "x\"".into(),
        datatype: Datatype::Fp32,
        columns: vec![
            Column::Feature { join: 0, select: 1 },
            Column::Request("wide".into()),
            Column::Request("p".into()),
            Column::Feature { join: 0, select: 0 },
        ],
    };
    let sample = Sample::new(&view, model(&view, "fraud", Some(inputs)), vec![None, None]);
    let body = r#"{"parameters":{"p":true},"inputs":[{"name":"user_id","shape":[2,1],"datatype":"INT64","data":[[7],[8]]},{"name":"wide","shape":[2,2],"datatype":"FP64","data":[[1,2],[3,4.5]]}]}"#;
    let expected = r#"{"parameters":{},"inputs":[{"name":"x\"","datatype":"FP32","shape":[2,6],"data":[8.0,9.0,1.0,2.0,1.0,0.1,8.0,9.0,3.0,4.5,1.0,0.1]}]}"#;
    assert_eq!(spliced(&sample, Protocol::V2Json, body).unwrap(), expected);
    let body = r#"{"instances":[{"user_id":7,"wide":[1,2]},{"user_id":8,"wide":[3,4.5]}],"parameters":{"p":true}}"#;
    let expected = r#"{"instances":[[8.0,9.0,1.0,2.0,1.0,0.1],[8.0,9.0,3.0,4.5,1.0,0.1]],"parameters":{}}"#;
    assert_eq!(spliced(&sample, Protocol::V1, body).unwrap(), expected);
}

#[test]
fn bad_request_columns() {
    let view = stats(&[("f", FeatureType::Float, Value::Float(0.0))]);
    let of = |datatype| Sample::new(&view, model(&view, "fraud", Some(matrix(datatype, &["amount"], 1))), vec![None]);
    let tensor = |members: &str| {
        let user = r#"{"name":"user_id","shape":[1],"datatype":"INT64","data":[7]}"#;
        format!(r#"{{"inputs":[{user},{{"name":"amount",{members}}}]}}"#)
    };
    let cases = [
        (
            Datatype::Fp32,
            ONE_USER.to_owned(),
            "missing column \"amount\": the model's matrix is built from it; allowed: an input tensor, or a request parameter",
        ),
        (
            Datatype::Fp32,
            tensor(r#""shape":[2],"datatype":"FP32","data":[1,2]"#),
            "unequal rows: column \"amount\" has 2, the request's entities have 1",
        ),
        (
            Datatype::Fp32,
            tensor(r#""shape":[1,1,1],"datatype":"FP32","data":[1]"#),
            "column \"amount\": shape [1, 1, 1]; allowed: [n] or [n, k]",
        ),
        (
            Datatype::Fp32,
            tensor(r#""shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}"#),
            "column \"amount\": its data is in shared memory; allowed: in the request",
        ),
        (
            Datatype::Fp32,
            tensor(r#""shape":[1],"datatype":"BYTES","data":["1"]"#),
            "column \"amount\", row 0: \"1\" cannot be FP32; allowed: a number, a bool or a timestamp",
        ),
        (
            Datatype::Fp32,
            tensor(r#""shape":[1],"datatype":"FP32","data":[null]"#),
            "column \"amount\", row 0: null cannot be FP32; allowed: a number, a bool or a timestamp",
        ),
        (
            Datatype::Fp32,
            tensor(r#""shape":[1],"datatype":"FP64","data":[1e39]"#),
            "column \"amount\", row 0: 1e39 is out of range for FP32",
        ),
        (
            Datatype::Int8,
            tensor(r#""shape":[1],"datatype":"FP64","data":[1.25]"#),
            "column \"amount\", row 0: 1.25 is not a whole number; INT8 takes whole numbers",
        ),
        (
            Datatype::Fp32,
            tensor(
                r#""shape":[1],"datatype":"FP32","data":[1]},{"name":"input-0","shape":[0],"datatype":"BOOL","data":[]"#,
            ),
            "duplicate tensor name \"input-0\": a joined tensor has that name, the request must not",
        ),
    ];
    for (datatype, body, told) in cases {
        assert_eq!(
            spliced(&of(datatype), Protocol::V2Json, &body),
            Err((Kind::InvalidRequest, told.to_owned())),
            "{body}"
        );
    }
    let cases = [
        (
            r#"{"instances":[{"user_id":7}]}"#,
            "missing column \"amount\": the model's matrix is built from it; allowed: a key of every instance, or a request parameter",
        ),
        (
            r#"{"instances":[[7]],"parameters":{"user_id":7,"amount":1}}"#,
            "instance 0 is not an object: features can only be joined to objects",
        ),
        (r#"{"instances":[{"user_id":7,"amount":1,"amount":2}]}"#, "instance 0: duplicate key \"amount\""),
    ];
    for (body, told) in cases {
        let found = spliced(&of(Datatype::Fp32), Protocol::V1, body);
        assert_eq!(found, Err((Kind::InvalidRequest, told.to_owned())), "{body}");
    }
}

#[test]
fn later_v1_instances_are_held_to_the_first() {
    let view = stats(&[("f", FeatureType::Float, Value::Float(0.0))]);
    let sample =
        Sample::new(&view, model(&view, "fraud", Some(matrix(Datatype::Fp32, &["amount"], 1))), vec![None, None]);
    let cases = [
        (
            r#"{"instances":[{"user_id":7,"amount":1},{"user_id":7}]}"#,
            "missing column \"amount\" in instance 1: the model's matrix is built from it",
        ),
        (
            r#"{"instances":[{"user_id":7,"amount":[1,2]},{"user_id":7,"amount":3}]}"#,
            "column \"amount\": row 1 has 1 elements, row 0 has 2",
        ),
    ];
    for (body, told) in cases {
        assert_eq!(spliced(&sample, Protocol::V1, body), Err((Kind::InvalidRequest, told.to_owned())));
    }
    let sample = Sample::new(&view, model(&view, "fraud", Some(columns(&[], &view))), vec![None]);
    for (body, told) in [
        (
            r#"{"instances":[7],"parameters":{"user_id":7}}"#,
            "instance 0 is not an object: features can only be joined to objects",
        ),
        (
            r#"{"instances":[{"user_id":7,"f":1}]}"#,
            "duplicate tensor name \"f\": a joined tensor has that name, the request must not",
        ),
    ] {
        assert_eq!(spliced(&sample, Protocol::V1, body), Err((Kind::InvalidRequest, told.to_owned())));
    }
    let body = ONE_USER.replace("]}]}", r#"]},{"name":"f","shape":[0],"datatype":"BOOL","data":[]}]}"#);
    let told = "duplicate tensor name \"f\": a joined tensor has that name, the request must not";
    assert_eq!(spliced(&sample, Protocol::V2Json, &body), Err((Kind::InvalidRequest, told.to_owned())));
}

#[test]
fn named_columns_go_under_their_own_names() {
    let view = stats(&[("f", FeatureType::Int32, Value::Int32(3)), ("g", FeatureType::Int32, Value::Int32(4))]);
    let named = |name: &str, select| NamedColumn { name: name.into(), column: Column::Feature { join: 0, select } };
    let inputs = Inputs::Columns { columns: vec![named("second", 1), named("first", 0)] };
    let sample = Sample::new(&view, model(&view, "fraud", Some(inputs)), vec![None]);
    let found = spliced(&sample, Protocol::V2Json, ONE_USER).unwrap();
    assert_eq!(
        found,
        r#"{"inputs":[{"name":"second","datatype":"INT32","shape":[1],"data":[4]},{"name":"first","datatype":"INT32","shape":[1],"data":[3]}]}"#
    );
}
