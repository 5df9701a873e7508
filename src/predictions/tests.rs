//! The stage as the pipeline uses it, on requests as the enricher makes them.

mod entities;
mod variations;
mod verbatim;

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
        AnswerBody, CachedOf, Decoded, Degradation, InferRequest, Kind, Level, Payload, Reason, Value, Verdict,
        headers::JSON_LENGTH,
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
    Answer::whole(StatusCode::OK, HeaderMap::new(), body.into())
}

fn whole(answer: &Answer) -> &Bytes {
    let AnswerBody::Whole(body) = &answer.body else { panic!("a stream") };
    body
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
