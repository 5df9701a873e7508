//! Of many requests that differ in one thing, none gets another's answer.

use super::*;

/// One request, as a model tells it from another.
#[derive(Clone, Debug, PartialEq)]
struct Variation {
    shape: Vec<i64>,
    datatype: &'static str,
    parameter: &'static str,
    outputs: &'static [&'static str],
    feature: Option<i64>,
    first: i32,
    path: &'static str,
    tenant: &'static str,
}

impl Variation {
    fn any(random: &mut SmallRng) -> Self {
        fn one<T: Clone>(random: &mut SmallRng, of: &[T]) -> T {
            of[random.random_range(0..of.len())].clone()
        }
        Self {
            shape: one(random, &[vec![6], vec![1, 6], vec![2, 3], vec![3, 2]]),
            datatype: one(random, &["INT32", "UINT32", "FP32"]),
            parameter: one(random, &["", "a", "b"]),
            outputs: one(random, &[&[][..], &["y"], &["z"], &["y", "z"], &["z", "y"]]),
            feature: one(random, &[None, Some(0), Some(1), Some(70)]),
            first: one(random, &[1, 2]),
            path: one(random, &["/v2/models/fraud/infer", "/v2/models/fraud/versions/2/infer"]),
            tenant: one(random, &["", "t"]),
        }
    }

    /// The same but for one thing.
    fn neighbour(&self, random: &mut SmallRng) -> Self {
        let other = Self::any(random);
        let mut neighbour = self.clone();
        match random.next_u32() % 8 {
            0 => neighbour.shape = other.shape,
            1 => neighbour.datatype = other.datatype,
            2 => neighbour.parameter = other.parameter,
            3 => neighbour.outputs = other.outputs,
            4 => neighbour.feature = other.feature,
            5 => neighbour.first = other.first,
            6 => neighbour.path = other.path,
            _ => neighbour.tenant = other.tenant,
        }
        neighbour
    }

    fn request(&self, protocol: Protocol, id: &str) -> InferRequest {
        let (body, json_length) = match protocol {
            Protocol::V1 => (self.v1(), None),
            Protocol::V2Json => (self.v2(id, false), None),
            Protocol::V2Binary => {
                let json = self.v2(id, true);
                ([json.as_slice(), &self.raw()].concat(), Some(json.len()))
            }
            Protocol::Grpc => (self.grpc(id), None),
        };
        let decoded = decode(protocol, body.into(), json_length).unwrap();
        let mut request = fixture::request(FRAUD.0, 0, Duration::from_secs(5));
        request.path = self.path.parse().unwrap();
        Arc::make_mut(&mut request.headers).insert("x-tenant", HeaderValue::from_static(self.tenant));
        InferRequest { protocol, json_length, payload: Payload::Decoded(Arc::new(decoded)), ..request }
    }

    fn raw(&self) -> Vec<u8> {
        (0..6).flat_map(|index| (self.first + index).to_le_bytes()).collect()
    }

    /// V1 has no tensors' shapes and types and no list of outputs: they are parameters.
    fn v1(&self) -> Vec<u8> {
        let told = format!("{:?} {} {:?}", self.shape, self.datatype, self.outputs);
        let told = serde_json::json!({
            "instances": [{"user_id": 7, "amount": f64::from(self.first)}],
            "parameters": {"p": self.parameter, "x": told},
        });
        told.to_string().into()
    }

    fn v2(&self, id: &str, binary: bool) -> Vec<u8> {
        let mut x = serde_json::json!({"name": "x", "shape": self.shape, "datatype": self.datatype});
        if binary {
            x["parameters"] = serde_json::json!({"binary_data_size": 24});
        } else {
            x["data"] = (0..6).map(|index| self.first + index).collect();
        }
        let mut told = serde_json::json!({"inputs": [
            {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [7]},
            {"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.5]},
            x,
        ]});
        if !id.is_empty() {
            told["id"] = id.into();
        }
        if !self.parameter.is_empty() {
            told["parameters"] = serde_json::json!({"p": self.parameter});
        }
        if !self.outputs.is_empty() {
            told["outputs"] = self.outputs.iter().map(|name| serde_json::json!({"name": name})).collect();
        }
        told.to_string().into()
    }

    fn grpc(&self, id: &str) -> Vec<u8> {
        use pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
        let input = |name: &str, datatype: &str, shape: &[i64]| InferInputTensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            ..Default::default()
        };
        let output = |name: &&str| InferRequestedOutputTensor { name: (*name).into(), ..Default::default() };
        let choice = pb::infer_parameter::ParameterChoice::StringParam(self.parameter.into());
        let parameter = pb::InferParameter { parameter_choice: Some(choice) };
        let request = pb::ModelInferRequest {
            model_name: "fraud".into(),
            id: id.into(),
            parameters: [("p".to_owned(), parameter)].into(),
            inputs: vec![
                input("user_id", "INT64", &[1]),
                input("amount", "FP64", &[1]),
                input("x", self.datatype, &self.shape),
            ],
            outputs: self.outputs.iter().map(output).collect(),
            raw_input_contents: vec![
                Bytes::copy_from_slice(&7i64.to_le_bytes()),
                Bytes::copy_from_slice(&1.5f64.to_le_bytes()),
                self.raw().into(),
            ],
            ..Default::default()
        };
        request.encode_to_vec()
    }

    /// What the model says: everything that it was asked, and the id.
    fn answer(&self, protocol: Protocol, id: &str) -> Answer {
        let told = format!("{self:?}");
        let json = |binary: usize| {
            let output = serde_json::json!({"name": told, "parameters": {"binary_data_size": binary}});
            let mut said = serde_json::json!({"model_name": "fraud", "outputs": [output]});
            if !id.is_empty() {
                said["id"] = id.into();
            }
            said.to_string()
        };
        match protocol {
            Protocol::V1 => answer(serde_json::json!({"predictions": [told]}).to_string()),
            Protocol::V2Json => answer(json(0)),
            Protocol::V2Binary => {
                let mut answer = answer(format!("{}\x01\x02", json(2)));
                answer.headers.insert(JSON_LENGTH, HeaderValue::from(json(2).len()));
                answer
            }
            Protocol::Grpc => {
                let response = pb::ModelInferResponse {
                    model_name: "fraud".into(),
                    id: id.into(),
                    raw_output_contents: vec![told.into()],
                    ..Default::default()
                };
                let message = response.encode_to_vec();
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
                Answer { trailers: Some(trailers), ..answer([&[0][..], &length, &message].concat()) }
            }
        }
    }
}

#[tokio::test]
async fn of_100_000_requests_that_differ_in_one_thing_none_gets_anothers_answer() {
    const EACH: usize = 25_000;
    let bench = Bench::new();
    let mut random = SmallRng::seed_from_u64(4);
    for protocol in [Protocol::V1, Protocol::V2Json, Protocol::V2Binary, Protocol::Grpc] {
        let (mut hits, mut last) = (0, Variation::any(&mut random));
        for number in 0..EACH {
            last = if number % 2 == 0 { Variation::any(&mut random) } else { last.neighbour(&mut random) };
            let id = if number % 5 == 0 { String::new() } else { format!("r-{}", random.random_range(0..2000)) };
            let question = bench.question(last.request(protocol, &id), last.feature);
            let expected = last.answer(protocol, if protocol == Protocol::V1 { "" } else { &id });
            match bench.predictions.look(&question) {
                Look::Told(told) => {
                    hits += 1;
                    assert_eq!(told.body, whole(&expected), "{protocol:?} {last:?} {id:?}");
                    assert_eq!(told.headers, expected.headers, "{last:?}");
                    assert_eq!(told.trailers, expected.trailers);
                }
                Look::Miss(lead) => bench.predictions.keep(lead, &question, &Ok(expected), &OtherKeys::default()),
                Look::Asked(_) => panic!("nobody asks"),
            }
        }
        assert!(hits > EACH / 3, "{protocol:?}: only {hits} hits of what is there again and again");
    }
}

#[tokio::test]
async fn a_grpc_answer_is_kept_only_where_it_says_ok() {
    let bench = Bench::new();
    let variation = Variation::any(&mut SmallRng::seed_from_u64(1));
    let ask = || bench.question(variation.request(Protocol::Grpc, "a"), None);
    for status in ["5", "0"] {
        let mut said = variation.answer(Protocol::Grpc, "a");
        said.trailers.as_mut().unwrap().insert("grpc-status", HeaderValue::from_static(status));
        bench.keep(&ask(), said);
        assert_eq!(bench.look(&ask()).is_some(), status == "0");
    }
}
