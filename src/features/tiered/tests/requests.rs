//! What a model's request brings: nothing to join, a body to decode, more rows than allowed.

use super::*;

fn request(model: u32) -> (InferRequest, Plan) {
    let deadline = Deadline::after(Instant::now(), LONG);
    let request = InferRequest {
        id: RequestId(http::HeaderValue::from_static("r")),
        worker: WorkerId(0),
        protocol: Protocol::V2Json,
        method: Method::Predict,
        verb: http::Method::POST,
        path: http::uri::PathAndQuery::from_static("/"),
        model: ModelId(model),
        version: None,
        tier: TierId(0),
        deadline,
        caching: Caching::Allowed,
        headers: Arc::default(),
        json_length: None,
        payload: Payload::Retained(bytes::Bytes::from_static(b"{}")),
        as_came: None,
    };
    let plan = Plan::full(ModelId(model), PoolId(0), TierId(0), deadline);
    (request, plan)
}

#[tokio::test]
async fn a_model_that_joins_nothing_costs_nothing_and_others_need_a_decoded_body() {
    let v = view("v").build();
    let store = open(from_ref(&v), L2Config::Embedded { path: None, ttl: LONG }, None).await;
    let (undecoded, plan) = request(2);
    let set = assert_send(store.fetch(&undecoded, &plan)).await.unwrap();
    assert!(set.rows().is_none());
    assert_eq!((set.level(), set.caches()), (Level::Full, &[][..]));
    // The plan may ask another model than the one named.
    let error = store.fetch(&undecoded, &request(0).1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

/// A V2 body whose one tensor has `rows` rows, with the user in a parameter.
fn rows_of_one_user(rows: i64) -> Payload {
    let body = br#"{"user": 1}"#;
    let text = |start, end| Text { span: Span::new(start, end), escaped: false };
    let tensor = Tensor {
        span: Span::default(),
        name: text(0, 0),
        datatype: Datatype::Uint8,
        shape: [rows].into_iter().collect(),
        data: Data::Elsewhere,
    };
    let parameter = Parameter { key: text(2, 6), span: Span::new(1, 10), value: Span::new(9, 10) };
    Payload::Decoded(Arc::new(Decoded {
        protocol: Protocol::V2Json,
        body: body.as_slice().into(),
        tensors: vec![tensor],
        parameters: vec![parameter],
        id: decoded::Id::default(),
        outputs: None,
        layout: decoded::Layout::V2 {
            json: body.len(),
            inputs: Span::default(),
            present: Present::Yes,
            parameters: Some(Span::new(0, body.len())),
        },
    }))
}

#[tokio::test]
async fn a_request_of_more_rows_than_allowed_is_refused_before_room_is_made() {
    let v = view("v").build();
    let store = open(from_ref(&v), L2Config::Embedded { path: None, ttl: LONG }, None).await;
    let (mut request, plan) = request(0);
    request.payload = rows_of_one_user(4);
    assert_eq!(store.fetch(&request, &plan).await.unwrap().rows(), Some(4));
    request.payload = rows_of_one_user(i64::MAX);
    let error = store.fetch(&request, &plan).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidRequest);
    assert_eq!(
        error.to_string(),
        "too many rows: the request has 9223372036854775807; allowed: at most 4 (listen.max_rows) for a model that joins features"
    );
}
