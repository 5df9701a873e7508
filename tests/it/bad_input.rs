//! Bad input gets a clear error and nothing else breaks: the connection goes on, or is closed in words.

use std::io::Write;

use ::weir::proto::inference as pb;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use serde_json::json;

use crate::{
    support::{
        Weir,
        grpc::{Grpc, SERVICE},
        http1::Http1,
        vectors,
    },
    world::{
        BEFORE_TRITON, FRAUD_DETECTOR, FRAUD_PATH, STORE, first_number, fraud_config, fraud_over_grpc, fraud_request,
        near, score,
    },
};

const V1_PATH: &str = "/v1/models/fraud-kserve:predict";

/// The next request on the same connection is answered as if nothing had happened.
#[track_caller]
fn still_usable(connection: &mut Http1) {
    let answer = connection.post(FRAUD_PATH, fraud_request(1001, "m-2", 250.0)).expect(200);
    near(first_number(&answer.json()), score(250.0, 7.0, 1.5, 0.125));
}

/// Sends a bad request; fails unless it is refused so, and the connection stays usable.
#[track_caller]
fn refused(connection: &mut Http1, path: &str, body: impl AsRef<[u8]>, status: u16, fragments: &[&str]) {
    let answer = connection.post(path, body).expect(status);
    let error = answer.error();
    for fragment in fragments {
        assert!(error.contains(fragment), "{error:?} does not say {fragment:?}");
    }
    assert!(answer.header("x-request-id").is_some(), "{:?}", answer.headers);
    still_usable(connection);
}

/// A V2 request made of these tensors.
fn tensors(inputs: &serde_json::Value) -> String {
    json!({"inputs": inputs}).to_string()
}

#[test]
fn malformed_json_says_where() {
    let mut connection = FRAUD_DETECTOR.connect();
    refused(&mut connection, FRAUD_PATH, "{\"inputs\": [\n  oops]}", 400, &["line 2", "column 3", "byte 15"]);
    refused(&mut connection, FRAUD_PATH, "", 400, &["JSON"]);
    refused(&mut connection, FRAUD_PATH, "{\"inputs\": []} trailing", 400, &["line 1"]);
    refused(&mut connection, FRAUD_PATH, "[1]", 400, &["object"]);
    refused(&mut connection, FRAUD_PATH, "[".repeat(200_000), 400, &[]);
    refused(&mut connection, V1_PATH, "{\"instances\": [{\"user_id\": 1,}]}", 400, &["line 1", "byte 29"]);
    refused(&mut connection, V1_PATH, "{\"inputs\": []}", 400, &["instances"]);
}

#[test]
fn shape_and_datatype_must_give_the_datas_length() {
    let mut connection = FRAUD_DETECTOR.connect();
    let user = |tensor: serde_json::Value| {
        tensors(&json!([
            tensor,
            {"name": "merchant_id", "datatype": "BYTES", "shape": [1], "data": ["m-1"]},
            {"name": "amount", "datatype": "FP64", "shape": [1], "data": [1]},
        ]))
    };
    let body = user(json!({"name": "user_id", "datatype": "INT64", "shape": [2], "data": [1001]}));
    refused(&mut connection, FRAUD_PATH, body, 400, &["user_id", "[2]", "INT64", "2", "1"]);
    let body = user(json!({"name": "user_id", "datatype": "INT64", "shape": [-1], "data": [1001]}));
    refused(&mut connection, FRAUD_PATH, body, 400, &["user_id", "negative"]);
    let body = user(json!({"name": "user_id", "datatype": "INT64", "shape": [i64::MAX, 8], "data": [1001]}));
    refused(&mut connection, FRAUD_PATH, body, 400, &["user_id"]);
    let body = user(json!({"name": "user_id", "datatype": "INT65", "shape": [1], "data": [1001]}));
    refused(&mut connection, FRAUD_PATH, body, 400, &["user_id", "INT65", "allowed", "INT64"]);
    let body = user(json!({"name": "user_id", "datatype": "INT64", "shape": "x", "data": [1001]}));
    refused(&mut connection, FRAUD_PATH, body, 400, &["shape"]);
    let body = user(json!({"name": "user_id", "datatype": "INT64", "shape": [1]}));
    refused(&mut connection, FRAUD_PATH, body, 400, &["user_id", "data"]);
}

#[test]
fn unknown_models_and_paths() {
    let mut connection = FRAUD_DETECTOR.connect();
    refused(&mut connection, "/v2/models/nope/infer", fraud_request(1, "m", 1.0), 404, &["nope"]);
    refused(&mut connection, "/v1/models/nope:predict", "{\"instances\": []}", 404, &["nope"]);
    refused(&mut connection, "/v2/models/fraud-detector/infr", "{}", 404, &[]);
    let explain = V1_PATH.replace(":predict", ":explain");
    refused(&mut connection, &explain, "{\"instances\": []}", 501, &["models.fraud-kserve.explainer"]);
    for path in ["fraud-detector/../../repository/models/x/load", "fraud-detector/%2e%2e/x", "a%2Fb/infer", "%ff/infer"]
    {
        refused(&mut connection, &format!("/v2/models/{path}"), "{}", 400, &["path"]);
    }
    let mut grpc = FRAUD_DETECTOR.connect_grpc();
    let answer = grpc.infer(&pb::ModelInferRequest { model_name: "nope".into(), ..Default::default() });
    assert_eq!(answer.status(), 5);
    assert!(answer.text().contains("nope"), "{}", answer.text());
    // A name as long as a message is not told back.
    let answer = grpc.infer(&pb::ModelInferRequest { model_name: "n".repeat(1 << 20), ..Default::default() });
    assert_eq!(answer.status(), 5);
    assert!(answer.text().len() < 1000, "{}", answer.text().len());
    assert_eq!(grpc.call_raw("/nowhere/Method", b"", &[]).status(), 12);
}

#[test]
fn entities_must_be_there_and_of_their_type() {
    let mut connection = FRAUD_DETECTOR.connect();
    let merchant = json!({"name": "merchant_id", "datatype": "BYTES", "shape": [1], "data": ["m-1"]});
    let amount = json!({"name": "amount", "datatype": "FP64", "shape": [1], "data": [1]});
    let body = tensors(&json!([merchant, amount]));
    refused(&mut connection, FRAUD_PATH, body, 400, &["missing entity", "user_id"]);
    for user in [
        json!({"name": "user_id", "datatype": "FP32", "shape": [1], "data": [1.5]}),
        json!({"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["not a number"]}),
        json!({"name": "user_id", "datatype": "UINT64", "shape": [1], "data": [u64::MAX]}),
    ] {
        refused(&mut connection, FRAUD_PATH, tensors(&json!([user, merchant, amount])), 400, &["user_id", "INT64"]);
    }
    let user = json!({"name": "user_id", "datatype": "INT64", "shape": [1, 1, 1], "data": [1]});
    let body = tensors(&json!([user, merchant, amount]));
    refused(&mut connection, FRAUD_PATH, body, 400, &["user_id", "[1, 1, 1]", "[n]"]);
    for instance in [
        json!({"merchant_id": "m-1", "amount": 1}),
        json!({"user_id": null, "merchant_id": "m-1", "amount": 1}),
        json!({"user_id": [1], "merchant_id": "m-1", "amount": 1}),
        json!({"user_id": 1.5, "merchant_id": "m-1", "amount": 1}),
    ] {
        refused(&mut connection, V1_PATH, json!({"instances": [instance]}).to_string(), 400, &["user_id"]);
    }
    refused(
        &mut connection,
        V1_PATH,
        json!({"instances": [[1, 2, 3]]}).to_string(),
        400,
        &["user_id", "key of every instance"],
    );
}

#[test]
fn rows_must_be_equally_many() {
    let mut connection = FRAUD_DETECTOR.connect();
    let body = tensors(&json!([
        {"name": "user_id", "datatype": "INT64", "shape": [2], "data": [1001, 1002]},
        {"name": "merchant_id", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]},
        {"name": "amount", "datatype": "FP64", "shape": [2], "data": [1, 2]},
    ]));
    refused(&mut connection, FRAUD_PATH, body, 400, &["2", "3"]);
}

#[test]
fn tensor_names_must_differ() {
    let mut connection = FRAUD_DETECTOR.connect();
    let user = json!({"name": "user_id", "datatype": "INT64", "shape": [1], "data": [1001]});
    refused(&mut connection, FRAUD_PATH, tensors(&json!([user, user])), 400, &["duplicate", "user_id"]);
    // The joined tensor's name is taken.
    let taken = json!({"name": "input-0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]});
    let merchant = json!({"name": "merchant_id", "datatype": "BYTES", "shape": [1], "data": ["m-1"]});
    let amount = json!({"name": "amount", "datatype": "FP64", "shape": [1], "data": [1]});
    let body = tensors(&json!([user, merchant, amount, taken]));
    refused(&mut connection, FRAUD_PATH, body, 400, &["duplicate", "input-0"]);
}

#[test]
fn a_body_over_the_limit_is_413() {
    let config = fraud_config(&format!("redis: [{}]", STORE.0.url()), "");
    let listen = "listen: {http: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", max_body: 64KiB}\n";
    let weir = Weir::start(&format!("{listen}{config}"));
    for path in [FRAUD_PATH, "/v2/models/fraud/infer", V1_PATH] {
        // A length that is over the limit is refused before the body is sent.
        let mut connection = weir.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 70000\r\n\r\n"
        );
        connection.send_raw(head.as_bytes());
        let answer = connection.receive().expect(413);
        assert!(answer.error().contains("65536") || answer.error().contains("64"), "{}", answer.error());
        // One that is not announced is refused when it gets there.
        let mut connection = weir.connect();
        connection.send("POST", path, &[("transfer-encoding", "chunked")], b"");
        let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
        (0..5).for_each(|_| connection.send_raw(&chunk));
        connection.receive().expect(413);
        still_usable(&mut weir.connect());
    }
    let mut grpc = weir.connect_grpc();
    let big = pb::ModelInferRequest { model_name: "fraud".into(), id: "x".repeat(70_000), ..Default::default() };
    assert_eq!(grpc.infer(&big).status(), 8);
}

#[test]
fn a_caller_that_sends_on_reads_its_413_all_the_same() {
    const LIMIT: usize = 4 << 20;
    let config = fraud_config(&format!("redis: [{}]", STORE.0.url()), "");
    let listen = "listen: {http: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", max_body: 4MiB}\n";
    let weir = Weir::start(&format!("{listen}{config}"));
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    // Read whole, passed on as it comes, and the feature server's.
    for path in [FRAUD_PATH, V1_PATH, "/v2/models/fraud/infer", "/get-online-features"] {
        let mut connection = weir.connect();
        let headers = [("content-type", "application/json"), ("transfer-encoding", "chunked")];
        connection.send("POST", path, &headers, b"");
        // Fails where the connection is reset.
        (0..2 * LIMIT / 0x10000).for_each(|_| connection.send_raw(&chunk));
        connection.send_raw(b"0\r\n\r\n");
        let answer = connection.receive().expect(413);
        assert!(answer.text().contains("listen.max_body"), "{path}: {}", answer.text());
        // The same of a length that was announced.
        let mut connection = weir.connect();
        let length = (2 * LIMIT).to_string();
        let headers = [("content-type", "application/json"), ("content-length", &*length)];
        connection.send("POST", path, &headers, &vec![b' '; 2 * LIMIT]);
        let answer = connection.receive().expect(413);
        assert!(answer.text().contains("listen.max_body"), "{path}: {}", answer.text());
        assert!(connection.closed());
    }
    still_usable(&mut weir.connect());
}

#[test]
fn binary_sizes_must_add_up() {
    let mut connection = FRAUD_DETECTOR.connect();
    let tensor = |size: usize| {
        json!({"inputs": [
            {"name": "user_id", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": size}},
            {"name": "merchant_id", "datatype": "BYTES", "shape": [1], "data": ["m-1"]},
            {"name": "amount", "datatype": "FP64", "shape": [1], "data": [1]},
        ]})
        .to_string()
    };
    let mut send = |head: &str, data: &[u8], length: &str, fragments: &[&str]| {
        let headers = [("content-type", "application/octet-stream"), ("inference-header-content-length", length)];
        let answer = connection.request("POST", FRAUD_PATH, &headers, &[head.as_bytes(), data].concat()).expect(400);
        for fragment in fragments {
            assert!(answer.error().contains(fragment), "{:?} does not say {fragment:?}", answer.error());
        }
        still_usable(&mut connection);
    };
    let head = tensor(8);
    let length = head.len().to_string();
    send(&head, &[0; 4], &length, &["user_id"]);
    let [announced, sent] = [8, 12].map(|data| (head.len() + data).to_string());
    send(&head, &[0; 12], &length, &[&announced, &sent]);
    send(&tensor(4), &[0; 4], &tensor(4).len().to_string(), &["user_id", "8", "4"]);
    send(&head, &[0; 8], &(head.len() + 100).to_string(), &["inference-header-content-length"]);
    send(&head, &[0; 8], &(head.len() - 5).to_string(), &["JSON"]);
    send(&head, &[0; 8], "many", &["inference-header-content-length"]);
    send(&head, &[0; 8], "-1", &["inference-header-content-length"]);
}

#[test]
fn invalid_grpc_messages() {
    let path = format!("{SERVICE}/ModelInfer");
    let mut grpc = FRAUD_DETECTOR.connect_grpc();
    let good = fraud_over_grpc(1001, "m-2", 250.0).encode_to_vec();
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    for (message, fragments) in [
        (vec![0x0a, 0xff, 0xff], vec!["invalid gRPC message"]),
        // Tensors without a model's name.
        (vec![0x2a, 0x00], vec!["model_name"]),
        // The name ends in the middle of a character.
        (vec![0x0a, 0x02, 0xc3, 0x28], vec!["UTF-8"]),
        ([good.as_slice(), &[0x2a, 0x7f]].concat(), vec!["invalid gRPC message"]),
    ] {
        let answer = grpc.call_raw(&path, &message, &[]);
        assert_eq!(answer.status(), 3, "{}", answer.text());
        fragments.iter().for_each(|said| assert!(answer.text().contains(said), "{}: {said}", answer.text()));
        assert_eq!(grpc.infer(&fraud_over_grpc(1001, "m-2", 250.0)).status(), 0, "the connection goes on");
    }
    // Frames that promise more than comes, that are not frames, or that are two.
    let frame = |flag: u8, length: u32, data: &[u8]| [&[flag], length.to_be_bytes().as_slice(), data].concat();
    for body in [frame(0, 1000, &good), frame(7, 4, b"abcd"), vec![0, 0], Vec::new()] {
        let answer = grpc.send("POST", &path, &headers, body);
        assert_eq!(answer.status(), 3, "{}", answer.text());
        assert_eq!(grpc.infer(&fraud_over_grpc(1001, "m-2", 250.0)).status(), 0, "the connection goes on");
    }
    let mut unequal = fraud_over_grpc(1001, "m-2", 250.0);
    unequal.raw_input_contents.pop();
    let answer = grpc.infer(&unequal);
    assert_eq!(answer.status(), 3);
    assert!(answer.text().contains("raw_input_contents"), "{}", answer.text());
    let mut short = fraud_over_grpc(1001, "m-2", 250.0);
    short.raw_input_contents[0] = Bytes::from_static(b"\x01");
    let answer = grpc.infer(&short);
    assert_eq!(answer.status(), 3);
    assert!(answer.text().contains("user_id"), "{}", answer.text());
}

#[test]
fn text_must_be_utf8() {
    let mut connection = FRAUD_DETECTOR.connect();
    let body = [b"{\"inputs\": [{\"name\": \"user_id\xff\"".as_slice(), b"}]}"].concat();
    refused(&mut connection, FRAUD_PATH, body, 400, &["UTF-8"]);
    let request = pb::ModelInferRequest {
        raw_input_contents: vec![
            Bytes::copy_from_slice(&1001_i64.to_le_bytes()),
            Bytes::from(vectors::bytes_element(b"\xff\xfe")),
            Bytes::copy_from_slice(&1.0_f64.to_le_bytes()),
        ],
        ..fraud_over_grpc(1001, "m-2", 250.0)
    };
    let answer = FRAUD_DETECTOR.connect_grpc().infer(&request);
    assert_eq!(answer.status(), 3);
    assert!(answer.text().contains("merchant_id") && answer.text().contains("UTF-8"), "{}", answer.text());
}

#[test]
fn nan_and_infinity_are_no_json() {
    let mut connection = FRAUD_DETECTOR.connect();
    for word in ["NaN", "Infinity", "-Infinity"] {
        let body = fraud_request(1001, "m-2", 0.0).replace("0.0", word);
        assert!(body.contains(word));
        refused(&mut connection, FRAUD_PATH, body, 400, &["line 1"]);
    }
    // In raw tensors they are numbers like others: the model decides.
    let mut request = fraud_over_grpc(1001, "m-2", 250.0);
    request.raw_input_contents[2] = Bytes::copy_from_slice(&f64::NAN.to_le_bytes());
    let message: pb::ModelInferResponse = FRAUD_DETECTOR.connect_grpc().infer(&request).decode();
    let raw: [u8; 4] = message.raw_output_contents[0][..].try_into().expect("one FP32");
    assert!(f32::from_le_bytes(raw).is_nan());
}

#[test]
fn gzip_that_is_none() {
    let mut connection = FRAUD_DETECTOR.connect();
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let answer = connection.request("POST", FRAUD_PATH, &headers, b"not gzip").expect(400);
    assert!(answer.error().contains("gzip"), "{}", answer.error());
    still_usable(&mut connection);
    // Small outside, over the limit inside.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let spaces = [b' '; 1 << 20];
    (0..65).for_each(|_| bomb.write_all(&spaces).expect("memory"));
    let bomb = bomb.finish().expect("memory");
    connection.request("POST", FRAUD_PATH, &headers, &bomb).expect(413);
    still_usable(&mut connection);
    let headers = [("content-type", "application/json"), ("content-encoding", "snappy")];
    let answer = connection.request("POST", FRAUD_PATH, &headers, b"x");
    assert!(matches!(answer.status, 400 | 415), "{}", answer.status);
    still_usable(&mut connection);
}

#[test]
fn what_is_not_http() {
    for bytes in [
        "GET /v2 HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /v2\r\n\r\n",
        "\u{1}\u{2}\u{3}\u{4}\r\n\r\n",
        "POST /v2/models/fraud/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "POST /v2/models/fraud/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
    ] {
        let mut connection = FRAUD_DETECTOR.connect();
        connection.send_raw(bytes.as_bytes());
        assert!(connection.closed(), "{bytes:?} left the connection open");
    }
    still_usable(&mut FRAUD_DETECTOR.connect());
}

#[test]
fn a_body_that_never_ends_does_not_poison_the_next_request() {
    // An error before the body was read: what is left of it is not taken for the next request's head.
    let mut connection = FRAUD_DETECTOR.connect();
    let body = fraud_request(1001, "m-2", 1.0);
    let head = format!(
        "POST /v2/models/nope/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.send_raw(head.as_bytes());
    connection.receive().expect(404);
    connection.send_raw(body.as_bytes());
    let request = format!("{}{}", "POST /v2/models/nope/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n", "{}");
    // Either the connection goes on in step, or it is closed: never an answer to half a body.
    let alive = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        connection.send_raw(request.as_bytes());
        connection.receive().status
    }));
    assert!(matches!(alive, Ok(404) | Err(_)), "{alive:?}");
    // A client that goes away in the middle of its body takes nothing with it.
    let mut connection = FRAUD_DETECTOR.connect();
    connection.send_raw(&head.replace("nope", "fraud-detector").into_bytes());
    connection.send_raw(&body.as_bytes()[..10]);
    connection.finish_sending();
    drop(connection);
    still_usable(&mut FRAUD_DETECTOR.connect());
}

#[test]
fn bad_input_on_a_streamed_model_is_the_models_business() {
    // Nothing is decoded that need not be: the model's own refusal comes back, and the connection goes on.
    let mut connection = BEFORE_TRITON.connect();
    let answer = connection.post("/v2/models/fraud/infer", "{\"inputs\": [");
    assert!(answer.status >= 400, "{}", answer.status);
    let body = json!({"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]});
    connection.post("/v2/models/fraud/infer", body.to_string()).expect(200);
}

#[test]
fn a_slow_head_is_not_waited_for_forever() {
    let listen =
        "listen: {http: \"127.0.0.1:0\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", idle_timeout: 200ms}\n";
    let config = fraud_config(&format!("redis: [{}]", STORE.0.url()), "");
    let weir = Weir::start(&format!("{listen}{config}"));
    let mut connection = weir.connect();
    connection.send_raw(b"POST /v2/models/fraud/infer HTTP/1.1\r\nhost: ");
    assert!(connection.closed());
    // One that sends nothing at all, on the gRPC port.
    let mut idle = Http1::connect(weir.grpc());
    idle.send_raw(b"PRI * HT");
    assert!(idle.closed());
    drop(Grpc::connect(weir.grpc()));
    assert_eq!(weir.connect_grpc().infer(&fraud_over_grpc(1001, "m-2", 250.0)).status(), 0);
}
