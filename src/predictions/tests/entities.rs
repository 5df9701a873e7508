//! What stands in: the last prediction about the same entities.

use super::*;

#[tokio::test]
async fn the_last_prediction_about_the_same_entities_stands_in() {
    let bench = Bench::new();
    let body = |id: &str, users: &str, shape: u32, amount: f64, outputs: &str| {
        format!(
            r#"{{{id}"inputs":[{{"name":"user_id","shape":[{shape}],"datatype":"INT64","data":[{users}]}},{{"name":"amount","shape":[1],"datatype":"FP64","data":[{amount}]}}]{outputs}}}"#
        )
    };
    let asked = json(LITE, &body(r#""id":"a","#, "1, 2", 2, 0.5, ""));
    let entity = bench.other_keys(&asked);
    assert_eq!(entity.iter().count(), 1);
    let question = bench.question(asked, None);
    bench.predictions.keep(Lead(None), &question, &Ok(answer(r#"{"id":"a","outputs":[]}"#)), &entity);
    let kept = async |body: &str| {
        let request = json(LITE, body);
        let enriched = bench.enriched(json(LITE, body), None);
        let decoded = decoded(&request);
        bench.predictions.kept(&request, (Some(&enriched), Some(&decoded)), &[], &bench.plan(LITE)).await
    };
    let stand_in = kept(&body(r#""id":"b","#, "1,2", 2, 9.75, "")).await.unwrap();
    assert_eq!((&stand_in.told.body[..], stand_in.of), (&br#"{"id":"b","outputs":[]}"#[..], CachedOf::Entity));
    for (number, other) in [
        body(r#""id":"b","#, "2, 1", 2, 0.5, ""),
        body(r#""id":"b","#, "1", 1, 0.5, ""),
        body(r#""id":"b","#, "1, 2, 3", 3, 0.5, ""),
        body("", "1, 2", 2, 0.75, ""),
        body(r#""id":"b","#, "1, 2", 2, 0.75, r#","outputs":[{"name":"y"}]"#),
        body(r#""id":"b","#, "1, 2", 2, 0.75, r#","parameters":{"binary_data_output":true}"#),
        r#"{"id":"b","inputs":[]}"#.to_owned(),
    ]
    .iter()
    .enumerate()
    {
        assert!(kept(other).await.is_none(), "case {number}");
    }
    bench.predictions.drop_model(LITE);
    assert!(kept(&body(r#""id":"b","#, "1,2", 2, 9.75, "")).await.is_none(), "of the model before");
}

/// A feature that cannot be read makes a request another one to the model; what it was answered when it could be read stands in.
#[tokio::test]
async fn a_request_whose_features_cannot_be_read_is_known_as_it_came() {
    let bench = Bench::new();
    let asked = |id: &str, user: i64| {
        let request = json(
            FRAUD,
            &format!(
                r#"{{"id":"{id}","inputs":[{{"name":"user_id","shape":[1],"datatype":"INT64","data":[{user}]}},{{"name":"amount","shape":[1],"datatype":"FP64","data":[1.5]}}]}}"#
            ),
        );
        let decoded = decoded(&request);
        InferRequest { payload: Payload::Decoded(Arc::new(decoded)), ..request }
    };
    let read = |request: &InferRequest| match &request.payload {
        Payload::Decoded(decoded) => Arc::clone(decoded),
        _ => panic!("it was read"),
    };
    let first = asked("a", 7);
    let keys = bench.predictions.other_keys(FRAUD, &first, &read(&first));
    assert!(keys.as_it_came.is_some() && keys.entities.is_some());
    let keys = OtherKeys { entities: None, ..keys };
    // Not its default, which is what the model sees where it cannot be read.
    let question = bench.question(first, Some(9));
    bench.predictions.keep(Lead(None), &question, &Ok(answer(r#"{"id":"a","outputs":[],"y":1}"#)), &keys);

    let kept = async |user: i64, feature: Option<i64>, degraded: &[Degradation]| {
        let request = asked("b", user);
        let enriched = bench.enriched(asked("b", user), feature);
        let bodies = (Some(&enriched), Some(&*read(&request)));
        bench.predictions.kept(&request, bodies, degraded, &bench.plan(FRAUD)).await
    };
    let of = |reason| [Degradation::Default { view: "user_stats".into(), reason }];
    let unread = of(Reason::Unavailable);
    let stand_in = kept(7, None, &unread).await.unwrap();
    assert_eq!((&stand_in.told.body[..], stand_in.of), (&br#"{"id":"b","outputs":[],"y":1}"#[..], CachedOf::Request));
    assert!(kept(8, None, &unread).await.is_none(), "another request");
    assert!(kept(7, Some(8), &[]).await.is_none(), "the store says something else now");
    assert!(kept(7, None, &of(Reason::NotFound)).await.is_none(), "the store says that there is none");
    bench.predictions.drop_model(FRAUD);
    assert!(kept(7, None, &unread).await.is_none(), "of the model before");
}

#[tokio::test]
async fn entities_are_read_wherever_a_request_carries_them() {
    let bench = Bench::new();
    let v1 = |body: &str| bench.entity(&InferRequest { protocol: Protocol::V1, ..json(LITE, body) });
    let one = v1(r#"{"instances":[{"user_id":1,"x":2}]}"#);
    assert!(one.is_some());
    assert_eq!(one, v1(r#"{"instances":[{"x":3,"user_id":1}]}"#));
    assert_ne!(one, v1(r#"{"instances":[{"user_id":2,"x":2}]}"#));
    assert_ne!(one, v1(r#"{"instances":[{"user_id":1},{"user_id":1}]}"#));
    assert!(v1(r#"{"instances":[{"user_id":1},{"x":1}]}"#).is_none());
    assert!(v1(r#"{"instances":[]}"#).is_none());
    let parameter = bench.entity(&json(LITE, r#"{"inputs":[],"parameters":{"user_id":7}}"#));
    assert!(parameter.is_some());
    assert_ne!(parameter, bench.entity(&json(LITE, r#"{"inputs":[],"parameters":{"user_id":8}}"#)));
}

/// A stand-in may be about other inputs, and is of the same version, for the same parameters and outputs.
#[tokio::test]
async fn what_is_asked_about_entities_is_part_of_their_key() {
    let bench = Bench::new();
    let of = |protocol, body: Vec<u8>, json_length| {
        let payload = Payload::Retained(body.into());
        bench.entity(&InferRequest { protocol, json_length, payload, ..json(LITE, "") }).unwrap()
    };
    let v1 = |more: &str| of(Protocol::V1, format!(r#"{{"instances":[{{"user_id":1}}]{more}}}"#).into(), None);
    let v2 = |binary: bool, more: &str| {
        let body = format!(r#"{{"inputs":[{{"name":"user_id","shape":[1],"datatype":"INT64","data":[1]}}]{more}}}"#)
            .into_bytes();
        let (protocol, length) = if binary { (Protocol::V2Binary, Some(body.len())) } else { (Protocol::V2Json, None) };
        of(protocol, body, length)
    };
    let asks = [
        "",
        r#","parameters":{"threshold":9}"#,
        r#","parameters":{"threshold":8}"#,
        r#","parameters":{"other":9}"#,
        r#","parameters":{"threshold":9,"other":9}"#,
        r#","outputs":[{"name":"y"}]"#,
        r#","signature_name":"other""#,
        r#","id":7"#,
        r#","id":8"#,
    ];
    let grpc = [
        grpc_of_user("", &[], ""),
        grpc_of_user("1", &[], ""),
        grpc_of_user("2", &[], ""),
        grpc_of_user("", &[("threshold", 9)], ""),
        grpc_of_user("", &[("threshold", 8)], ""),
        grpc_of_user("", &[("other", 9)], ""),
        grpc_of_user("", &[], "a"),
        grpc_of_user("", &[], "a/b"),
        grpc_of_user("", &[], "c/d"),
    ];
    let keys = [
        asks.map(v1).to_vec(),
        asks.map(|more| v2(false, more)).to_vec(),
        asks.map(|more| v2(true, more)).to_vec(),
        grpc.map(|message| of(Protocol::Grpc, message, None)).to_vec(),
    ]
    .concat();
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(keys.iter().position(|other| other == key), Some(index));
    }
    let (one, other) = (r#""threshold":9"#, r#""other":9"#);
    let both = |first, second| v2(false, &format!(r#","parameters":{{{first},{second}}}"#));
    assert_eq!(both(one, other), both(other, one), "in whatever order");
    let ids = ["a", "another"].map(|id| of(Protocol::Grpc, grpc_of_user("1", &[("threshold", 9)], id), None));
    assert_eq!(ids[0], ids[1], "an id is everybody's own");
}

fn grpc_of_user(version: &str, parameters: &[(&str, i64)], id: &str) -> Vec<u8> {
    let parameter = |(name, value): &(&str, i64)| {
        let choice = pb::infer_parameter::ParameterChoice::Int64Param(*value);
        ((*name).to_owned(), pb::InferParameter { parameter_choice: Some(choice) })
    };
    let request = pb::ModelInferRequest {
        model_name: "lite".into(),
        model_version: version.into(),
        id: id.into(),
        parameters: parameters.iter().map(parameter).collect(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "user_id".into(),
            datatype: "INT64".into(),
            shape: vec![1],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::copy_from_slice(&7i64.to_le_bytes())],
        ..Default::default()
    };
    request.encode_to_vec()
}
