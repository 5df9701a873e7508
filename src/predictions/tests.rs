//! The stage as the pipeline uses it, on requests as the enricher makes them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, advance};

use super::*;
use crate::{
    config::PredictionCache,
    enrich::Enricher,
    features::FeatureSet,
    fixture,
    infer::{
        AnswerBody, CachedOf, Decoded, Degradation, InferRequest, Kind, Level, Payload, Reason, Timings, Value,
        Verdict, headers::JSON_LENGTH,
    },
    ingress::decode::decode,
    proto::inference as pb,
    telemetry::scratch,
};

/// Joins a feature of a user.
const FRAUD: ModelId = ModelId(0);
/// Joins nothing.
const LITE: ModelId = ModelId(1);

/// The fixture's gateway, with a cache of both models.
struct Bench {
    config: Config,
    enricher: Enricher,
    predictions: Predictions,
}

impl Bench {
    fn new() -> Self {
        let mut config = fixture::config();
        let cache = PredictionCache {
            ttl: Duration::from_secs(30),
            keep_for: Duration::from_secs(3600),
            entity: Some("user_id".into()),
            headers: vec!["x-tenant".parse().unwrap()],
        };
        config.models.iter_mut().for_each(|model| model.cache = Some(cache.clone()));
        let predictions = scratch(|| Predictions::new(&config, Tasks::default(), Instant::now())).0.unwrap();
        Self { enricher: Enricher::new(&config), config, predictions }
    }

    fn plan(&self, model: ModelId) -> Plan {
        let deadline = crate::infer::Deadline::after(Instant::now(), Duration::from_secs(5));
        let of = self.config.model(model);
        Plan::full(model, of.pool, of.tier, deadline)
    }

    /// What the model sees of a request, with that value of its user's feature.
    fn enriched(&self, request: InferRequest, feature: Option<i64>) -> Enriched {
        let (plan, view) = (self.plan(request.model), &self.config.features.views[0]);
        let features = match request.model {
            FRAUD => FeatureSet::sample(Arc::clone(view), &[0], vec![feature.map(|value| vec![Value::Int64(value)])]),
            _ => FeatureSet::default(),
        };
        self.enricher.enrich(Box::new(request), &features, &plan).unwrap()
    }

    fn question(&self, request: InferRequest, feature: Option<i64>) -> Question {
        let plan = self.plan(request.model);
        self.predictions.question(&self.enriched(request, feature), &plan).unwrap()
    }

    fn ask(&self, body: &str) -> Question {
        self.question(json(LITE, body), None)
    }

    fn look(&self, question: &Question) -> Option<Bytes> {
        match self.predictions.look(question) {
            Look::Told(told) => Some(told.body),
            Look::Miss(_) => None,
            Look::Asked(_) => panic!("nobody asks"),
        }
    }

    fn keep(&self, question: &Question, answer: Answer) {
        self.predictions.keep(Lead(None), question, &Ok(answer), &OtherKeys::default());
    }

    fn other_keys(&self, request: &InferRequest) -> OtherKeys {
        self.predictions.other_keys(request.model, request, &decoded(request))
    }

    fn entity(&self, request: &InferRequest) -> Option<Key> {
        self.other_keys(request).iter().next()
    }
}

fn json(model: ModelId, body: &str) -> InferRequest {
    let payload = Payload::Retained(Bytes::copy_from_slice(body.as_bytes()));
    InferRequest { payload, ..fixture::request(model.0, 1, Duration::from_secs(5)) }
}

fn decoded(request: &InferRequest) -> Decoded {
    let Payload::Retained(body) = &request.payload else { panic!("decoded before") };
    decode(request.protocol, body.clone(), request.json_length).unwrap()
}

/// What a model says that has nothing to say.
const SAID: &str = r#"{"outputs":[]}"#;

fn answer(body: impl Into<Bytes>) -> Answer {
    Answer {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: AnswerBody::Whole(body.into()),
        trailers: None,
        verdict: Verdict::Good,
        level: Level::Full,
        degraded: Vec::new(),
        caches: Vec::new(),
        timings: Timings::default(),
    }
}

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

fn whole(answer: &Answer) -> &Bytes {
    let AnswerBody::Whole(body) = &answer.body else { panic!("a stream") };
    body
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

#[tokio::test(start_paused = true)]
async fn a_prediction_answers_for_its_ttl_and_stands_in_for_longer() {
    let bench = Bench::new();
    let question = bench.ask(r#"{"inputs":[]}"#);
    bench.keep(&question, answer(SAID));
    advance(Duration::from_millis(29_999)).await;
    assert_eq!(bench.look(&question).as_deref(), Some(SAID.as_bytes()));
    advance(Duration::from_millis(1)).await;
    assert_eq!(bench.look(&question), None);
    let kept = async || {
        let request = json(LITE, r#"{"inputs":[]}"#);
        let enriched = bench.enriched(request.again().map(|again| *again).unwrap(), None);
        bench.predictions.kept(&request, (Some(&enriched), None), &[], &bench.plan(LITE)).await
    };
    advance(Duration::from_secs(3569)).await;
    let stand_in = kept().await.unwrap();
    assert_eq!((stand_in.age, stand_in.of), (Duration::from_secs(3599), CachedOf::Request));
    advance(Duration::from_secs(1)).await;
    assert!(kept().await.is_none());
    assert_eq!(bench.predictions.memory.entries(), 1);
    bench.predictions.maintain(Instant::now());
    assert_eq!(bench.predictions.memory.entries(), 0, "and leaves");
}

#[tokio::test]
async fn a_promotion_stops_old_predictions_at_once() {
    let bench = Bench::new();
    let (lite, fraud) = (bench.ask("{}"), bench.question(json(FRAUD, "{}"), None).key);
    bench.keep(&lite, answer(SAID));
    bench.predictions.drop_model(FRAUD);
    assert!(bench.look(&lite).is_some(), "another model's");
    assert_ne!(bench.question(json(FRAUD, "{}"), None).key, fraud);
    bench.predictions.drop_model(LITE);
    let after = bench.ask("{}");
    assert_eq!(bench.look(&after), None);
    // One that was asked before and is answered after is the old model's.
    bench.keep(&lite, answer(SAID));
    assert_eq!(bench.look(&after), None);
}

#[tokio::test]
async fn no_cache_asks_the_model_and_renews_what_is_kept() {
    let bench = Bench::new();
    let question = bench.ask("{}");
    bench.keep(&question, answer(r#"{"outputs":[],"x":"old"}"#));
    let mut again = bench.ask("{}");
    again.caching = Caching::Bypassed;
    assert_eq!(again.missed().outcome, CacheOutcome::Bypass);
    let Look::Miss(lead) = bench.predictions.look(&again) else { panic!("looked up") };
    bench.predictions.keep(lead, &again, &Ok(answer(SAID)), &OtherKeys::default());
    assert_eq!(bench.look(&question).as_deref(), Some(SAID.as_bytes()));
    for caching in [Caching::Bypassed, Caching::Forbidden] {
        let request = InferRequest { caching, ..json(LITE, "{}") };
        let enriched = bench.enriched(json(LITE, "{}"), None);
        assert!(bench.predictions.kept(&request, (Some(&enriched), None), &[], &bench.plan(LITE)).await.is_none());
    }
}

#[tokio::test]
async fn what_is_answered_to_no_store_is_given_to_nobody_else() {
    let bench = Bench::new();
    let private = || bench.question(InferRequest { caching: Caching::Forbidden, ..json(LITE, "{}") }, None);
    let Look::Miss(lead) = bench.predictions.look(&private()) else { panic!("nothing is kept") };
    let Look::Miss(other) = bench.predictions.look(&bench.ask("{}")) else { panic!("nobody waits for it") };
    drop(other);
    bench.predictions.keep(lead, &private(), &Ok(answer(format!("{SAID} "))), &OtherKeys::default());
    assert!(bench.look(&bench.ask("{}")).is_none());
    bench.keep(&bench.ask("{}"), answer(SAID));
    assert!(bench.look(&private()).is_none());
    bench.keep(&private(), answer(format!("{SAID} ")));
    assert_eq!(bench.look(&bench.ask("{}")).unwrap(), SAID);
}

#[tokio::test]
async fn what_is_no_full_prediction_or_may_not_be_kept_is_not() {
    let with = |name: &'static str, value: &'static str| {
        let mut answer = answer(SAID);
        answer.headers.insert(name, HeaderValue::from_static(value));
        answer
    };
    let of_rows = |reason| Degradation::Default { view: "v".into(), reason };
    let stale = Degradation::Stale { view: "v".into(), age: Duration::ZERO };
    let cases = [
        (answer(SAID), true),
        (Answer { degraded: vec![of_rows(Reason::NotFound)], ..answer(SAID) }, true),
        (with("cache-control", "max-age=60"), true),
        (with("cache-control", "max-age=0"), false),
        (with("cache-control", "max-age=60, s-maxage=0"), false),
        (with("cache-control", "S-MaxAge=60, max-age=0"), true),
        (with("vary", "Accept-Encoding, x-tenant"), true),
        (with("vary", "x-shadow"), false),
        (with("vary", "*"), false),
        (with("cache-control", "max-age=60, No-Store"), false),
        (with("cache-control", "private=\"x\""), false),
        (with("set-cookie", "a=b"), false),
        (Answer { status: StatusCode::ACCEPTED, ..answer(SAID) }, false),
        (Answer { verdict: Verdict::Failed, ..answer(SAID) }, false),
        (Answer { level: Level::ReducedFeatures, ..answer(SAID) }, false),
        (Answer { degraded: vec![of_rows(Reason::Unavailable)], ..answer(SAID) }, false),
        (Answer { degraded: vec![stale], ..answer(SAID) }, false),
        // 200 is said by what is no model, too, and by one that fails in the middle of its answer.
        (answer("xyz"), false),
        (answer(&SAID[..SAID.len() - 1]), false),
        (answer(r#"{"error":"out of memory"}"#), false),
    ];
    for (number, (answer, kept)) in cases.into_iter().enumerate() {
        let bench = Bench::new();
        let question = bench.ask("{}");
        bench.keep(&question, answer);
        assert_eq!(bench.look(&question).is_some(), kept, "case {number}");
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

#[tokio::test]
async fn streams_and_parts_of_ensembles_are_not_asked_about() {
    let bench = Bench::new();
    let question = |change: fn(&mut InferRequest, &mut Plan)| {
        let (mut request, mut plan) = (json(LITE, "{}"), bench.plan(LITE));
        change(&mut request, &mut plan);
        let enriched = bench.enriched(request, None);
        bench.predictions.question(&enriched, &plan).is_some()
    };
    assert!(question(|_, _| {}));
    assert!(!question(|request, _| request.method = Method::Stream));
    assert!(!question(|request, _| request.method = Method::Explain));
    assert!(!question(|_, plan| plan.members = Members::One(0)));
    assert!(!Predictions::new(&fixture::config(), Tasks::default(), Instant::now()).unwrap().are_kept(LITE));
}

#[tokio::test]
async fn who_comes_while_the_model_is_asked_waits_for_that() {
    let bench = Bench::new();
    let first = bench.ask(r#"{"id":"a"}"#);
    let Look::Miss(lead) = bench.predictions.look(&first) else { panic!("nothing is kept") };
    let second = bench.ask(r#"{"id":"other"}"#);
    let Look::Asked(asked) = bench.predictions.look(&second) else { panic!("somebody asks") };
    let until = Instant::now() + Duration::from_secs(60);
    let (waited, ()) = tokio::join!(bench.predictions.wait(asked, &second, until), async {
        bench.predictions.keep(lead, &first, &Ok(answer(r#"{"id":"a","outputs":[]}"#)), &OtherKeys::default());
    });
    let Some(Waited::Told(told)) = waited else { panic!("{waited:?}") };
    assert_eq!(&told.body[..], br#"{"id":"other","outputs":[]}"#);
    // Of another tier nobody waits.
    let mut third = bench.ask(r#"{"x":1}"#);
    let Look::Miss(_lead) = bench.predictions.look(&third) else { panic!("nothing is kept") };
    third.tier = TierId(0);
    assert!(matches!(bench.predictions.look(&third), Look::Miss(_)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_failed_by_no_leader() {
    let bench = Bench::new();
    let ask = || bench.ask("{}");
    let until = Instant::now() + Duration::from_secs(1);
    let failed = || Err(Error::new(Kind::BackendFailed, "reset"));
    let lead = || match bench.predictions.look(&ask()) {
        Look::Miss(lead) => lead,
        other => panic!("{other:?}"),
    };
    let waiter = || match bench.predictions.look(&ask()) {
        Look::Asked(asked) => asked,
        other => panic!("{other:?}"),
    };
    let (leads, waits) = (lead(), waiter());
    drop(leads);
    assert!(matches!(bench.predictions.wait(waits, &ask(), until).await, Some(Waited::Gone)));
    let (leads, waits) = (lead(), waiter());
    bench.predictions.keep(leads, &ask(), &failed(), &OtherKeys::default());
    assert!(matches!(bench.predictions.wait(waits, &ask(), until).await, Some(Waited::Gone)));
    let (leads, waits) = (lead(), waiter());
    let unfit = Answer { level: Level::ReducedFeatures, ..answer("{}") };
    bench.predictions.keep(leads, &ask(), &Ok(unfit), &OtherKeys::default());
    assert!(matches!(bench.predictions.wait(waits, &ask(), until).await, Some(Waited::Alone(_))));
    let (_leads, waits) = (lead(), waiter());
    assert!(bench.predictions.wait(waits, &ask(), until).await.is_none(), "its own deadline");
}

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

#[tokio::test]
async fn memory_is_bounded() {
    let mut config = fixture::config();
    config.predictions.capacity = 1 << 20;
    let memory = Memory::new(config.predictions.capacity, Instant::now());
    let bench = Bench::new();
    for number in 0..3000 {
        let question = bench.ask(&format!(r#"{{"x":{number}}}"#));
        let (_, kept) = bench.predictions.kept_of(&question, &answer(format!("{SAID:1000}"))).unwrap();
        memory.put(&question.key, kept, Instant::now() + Duration::from_secs(60), |_| true);
    }
    assert!(memory.bytes() <= 1 << 20, "{}", memory.bytes());
    assert!(memory.entries() > 400, "{}", memory.entries());
}

/// What makes one request another as it comes, also to nobody but who strips its headers.
const REQUEST: (&str, &str, &[(&str, &str)], Option<usize>) =
    ("/v2/models/lite/infer", r#"{"id":"a","x":1}"#, &[], None);

fn came(
    bench: &Bench,
    model: ModelId,
    (path, body, headers, json_length): (&str, &str, &[(&str, &str)], Option<usize>),
) -> Option<Verbatim> {
    let name = |name: &str| name.parse::<http::HeaderName>().unwrap();
    let headers = headers.iter().map(|(of, value)| (name(of), value.parse().unwrap())).collect();
    let protocol = if json_length.is_some() { Protocol::V2Binary } else { Protocol::V2Json };
    bench.predictions.verbatim(&Came { model, protocol, path, headers: &headers, json_length, body: body.as_bytes() })
}

/// Puts the answer to that request to its front, as the pipeline does.
async fn told_twice(bench: &Bench) -> Verbatim {
    let came = came(bench, LITE, REQUEST).unwrap();
    let asked = || bench.question(InferRequest { as_came: Some(came.kept()), ..json(LITE, REQUEST.1) }, None);
    bench.keep(&asked(), answer(r#"{"id":"a","outputs":[],"y":1}"#));
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none(), "what was asked once takes no room");
    assert_eq!(bench.look(&asked()).unwrap(), r#"{"id":"a","outputs":[],"y":1}"#);
    came
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_get_the_same_answer_at_once_and_others_never() {
    let bench = Bench::new();
    let same = told_twice(&bench).await;
    assert_eq!(
        bench.predictions.told_before(LITE, &same, Instant::now()).unwrap().body,
        r#"{"id":"a","outputs":[],"y":1}"#
    );
    let (path, body, _, _) = REQUEST;
    let auth = ("authorization", "x");
    for other in [
        ("/v2/models/lite/infer?q", body, &[][..], None),
        (path, r#"{"id":"b","x":1}"#, &[], None),
        (path, r#"{"id":"a","x":1} "#, &[], None),
        (path, body, &[("accept", "a/b")], None),
        (path, body, &[("x-tenant", "t")], None),
        (path, body, &[auth], None),
        (path, body, &[("connection", "authorization"), auth], None),
        (path, body, &[("connection", "close")], None),
        (path, body, &[], Some(16)),
    ] {
        let other_came = came(&bench, LITE, other).unwrap();
        assert!(bench.predictions.told_before(LITE, &other_came, Instant::now()).is_none(), "{other:?}");
    }
    // Nor what says less of who asks.
    let named = came(&bench, LITE, (path, body, &[("connection", "authorization"), auth], None)).unwrap();
    assert_ne!(format!("{named:?}"), format!("{:?}", came(&bench, LITE, (path, body, &[auth], None)).unwrap()));
    assert!(came(&bench, LITE, (path, &"x".repeat(20_000), &[], None)).is_none(), "too long");
    assert!(came(&bench, FRAUD, REQUEST).is_none(), "what it is sent depends on features");
}

#[tokio::test(start_paused = true)]
async fn what_no_cache_renewed_is_told_to_the_same_bytes_too() {
    let bench = Bench::new();
    let came = told_twice(&bench).await;
    advance(Duration::from_secs(1)).await;
    let bypass = InferRequest { caching: Caching::Bypassed, ..json(LITE, REQUEST.1) };
    bench.keep(&bench.question(bypass, None), answer(r#"{"id":"a","outputs":[],"y":2}"#));
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none());
    let again = bench.question(InferRequest { as_came: Some(came.kept()), ..json(LITE, REQUEST.1) }, None);
    assert_eq!(bench.look(&again).unwrap(), r#"{"id":"a","outputs":[],"y":2}"#);
    assert_eq!(
        bench.predictions.told_before(LITE, &came, Instant::now()).unwrap().body,
        r#"{"id":"a","outputs":[],"y":2}"#
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_known_by_its_bytes_lasts_no_longer_than_its_prediction() {
    let bench = Bench::new();
    let came = told_twice(&bench).await;
    bench.predictions.drop_model(LITE);
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none(), "a promotion ends it");
    let came = told_twice(&bench).await;
    advance(Duration::from_secs(29)).await;
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_some());
    advance(Duration::from_secs(1)).await;
    assert!(bench.predictions.told_before(LITE, &came, Instant::now()).is_none(), "its ttl does");
    advance(Duration::from_secs(60)).await;
    bench.predictions.maintain(Instant::now());
    assert_eq!(bench.predictions.front.bytes(), 0, "and it leaves");
}
