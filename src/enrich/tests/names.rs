//! A model that its pool knows under another name: requests and answers are renamed on the way.

use super::*;

#[test]
fn a_grpc_request_is_renamed_however_it_is_held() {
    let view = stats(&[("f", FeatureType::Float, Value::Float(1.5))]);
    let joined = Sample::new(&view, model(&view, "fraud-v7", Some(columns(&[], &view))), vec![None]);
    let message = grpc_user("fraud").encode_to_vec();
    let (body, _) = joined.body(Protocol::Grpc, decode(Protocol::Grpc, message.clone().into(), None).unwrap()).unwrap();
    let found = ModelInferRequest::decode(&body[5..]).unwrap();
    assert_eq!((found.model_name.as_str(), found.inputs.len()), ("fraud-v7", 1));

    let retained = |payload: Bytes| {
        let request = request(Protocol::Grpc, None, Payload::Retained(payload));
        match joined.enricher.enrich(Box::new(request), &joined.features, &plan()).map(|enriched| enriched.body) {
            Ok(Body::Whole(bytes)) => Ok(ModelInferRequest::decode(&bytes[5..]).unwrap()),
            Ok(Body::Stream { .. }) => panic!("held bodies are not streamed"),
            Err(error) => Err(error.to_string()),
        }
    };
    let expected = grpc_user("fraud-v7");
    assert_eq!(retained(frame(&message)), Ok(expected.clone()));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&message).unwrap();
    let mut zipped = frame(&encoder.finish().unwrap()).to_vec();
    zipped[0] = 1;
    assert_eq!(retained(zipped.clone().into()), Ok(expected.clone()));
    let one = "invalid gRPC message: allowed: exactly one message in its frame";
    assert_eq!(retained([frame(&message), frame(&message)].concat().into()), Err(one.to_owned()));

    let framed = frame(&message);
    for read in [12, 20, framed.len()] {
        let head = rename::front(&framed.slice(..read), (1, "fraud-v7")).unwrap();
        let whole = [&head[..], &framed[read..]].concat();
        assert_eq!(u32::from_be_bytes(whole[1..5].try_into().unwrap()) as usize, whole.len() - 5);
        assert_eq!(ModelInferRequest::decode(&whole[5..]).unwrap(), expected);
    }
    // Calls about the repository name that first; it stays.
    let repository = [&b"\x0a\x03hub"[..], b"\x12\x05fraud"].concat();
    let mut load = request(Protocol::Grpc, None, Payload::Retained(frame(&repository)));
    load.path = "/inference.GRPCInferenceService/RepositoryModelLoad".parse().unwrap();
    let sent = joined.enricher.enrich(Box::new(load), &joined.features, &plan()).unwrap().body;
    let Body::Whole(sent) = sent else { panic!("held bodies are not streamed") };
    assert_eq!(&sent[5..], b"\x12\x08fraud-v7\x0a\x03hub");

    assert_eq!(rename::front(&zipped.into(), (1, "m")).unwrap_err().kind(), Kind::Unimplemented);
    assert_eq!(rename::front(&framed.slice(..8), (1, "m")).unwrap_err().to_string(), "model_name is missing");
}

#[test]
fn bodies_of_other_protocols_pass_untouched_under_another_name() {
    let view = stats(&[]);
    let sample = Sample::new(&view, model(&view, "fraud-v7", None), vec![]);
    let body = Bytes::from_static(b"not even JSON");
    let request = request(Protocol::V2Binary, Some(3), Payload::Retained(body.clone()));
    let enriched = sample.enricher.enrich(Box::new(request), &sample.features, &plan()).unwrap();
    assert!(matches!(enriched.body, Body::Whole(bytes) if bytes.as_ptr() == body.as_ptr()));
    assert_eq!(enriched.json_length, Some(3));
}

#[test]
fn answers_get_the_callers_name_back() {
    let answer = |protocol, body: &[u8], length| {
        let (bytes, length) = rename::answer(protocol, Bytes::copy_from_slice(body), "up", "down\"", length);
        (bytes.to_vec(), length)
    };
    let json = br#"{"id":"1", "model_name" : "u\u0070", "outputs":[{"model_name":"up"}]}"#;
    let renamed = br#"{"id":"1", "model_name" : "down\"", "outputs":[{"model_name":"up"}]}"#;
    assert_eq!(answer(Protocol::V2Json, json, None), (renamed.to_vec(), None));
    let (binary, expected) = ([&json[..], b"\xff\0"].concat(), [&renamed[..], b"\xff\0"].concat());
    assert_eq!(answer(Protocol::V2Binary, &binary, Some(json.len())), (expected, Some(renamed.len())));
    // Metadata.
    let about = (br#"{"name":"up","inputs":[{"name":"up"}]}"#, br#"{"name":"down\"","inputs":[{"name":"up"}]}"#);
    assert_eq!(answer(Protocol::V2Json, about.0, None), (about.1.to_vec(), None));
    for untouched in [&br#"{"model_name":"other"}"#[..], br#"{"model_name":7}"#, b"{", b"[]", b""] {
        assert_eq!(answer(Protocol::V2Json, untouched, None), (untouched.to_vec(), None));
        assert_eq!(answer(Protocol::V2Binary, untouched, Some(9)), (untouched.to_vec(), Some(9)));
        assert_eq!(answer(Protocol::Grpc, untouched, None), (untouched.to_vec(), None));
    }
    assert_eq!(answer(Protocol::V1, json, None), (json.to_vec(), None));

    let message = ModelInferResponse {
        model_name: "up".into(),
        id: "1".into(),
        raw_output_contents: vec![vec![1]],
        ..Default::default()
    };
    let (bytes, _) = answer(Protocol::Grpc, &frame(&message.encode_to_vec()), None);
    assert_eq!(bytes[1..5], ((bytes.len() - 5) as u32).to_be_bytes());
    let expected = ModelInferResponse { model_name: "down\"".into(), ..message };
    assert_eq!(ModelInferResponse::decode(&bytes[5..]).unwrap(), expected);
}

#[test]
fn a_fallback_is_asked_under_its_own_name() {
    let view = stats(&[]);
    let mut lite = model(&view, "lite", None);
    lite.name = "lite".into();
    let enricher = super::super::Enricher::compile(&[model(&view, "fraud", None), lite], &[view], 1 << 20);
    let mut plan = plan();
    plan.model = crate::infer::ModelId(1);
    let request = request(Protocol::Grpc, None, Payload::Retained(frame(&grpc_user("fraud").encode_to_vec())));
    let enriched = enricher.enrich(Box::new(request), &Default::default(), &plan).unwrap();
    let Body::Whole(bytes) = enriched.body else { panic!("held") };
    assert_eq!(ModelInferRequest::decode(&bytes[5..]).unwrap(), grpc_user("lite"));
}
