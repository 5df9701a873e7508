//! What a plan says, and what an outcome becomes.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::*;
use crate::{
    fixture,
    infer::{AnswerBody, Stale, Timings},
};

mod descent;
mod standings;

const FRAUD: u32 = 0;
const LITE: u32 = 1;

fn ladder() -> Ladder {
    Ladder::new(&fixture::config())
}

fn request(model: u32, method: Method) -> InferRequest {
    InferRequest { method, ..fixture::request(model, 1, Duration::from_millis(200)) }
}

fn plan(level: Level) -> Plan {
    Plan { level, ..ladder().plan(&request(FRAUD, Method::Predict), Instant::now()).unwrap() }
}

fn answer(level: Level) -> Answer {
    Answer {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: AnswerBody::Whole(Bytes::new()),
        trailers: None,
        verdict: Verdict::Good,
        level,
        degraded: Vec::new(),
        caches: Vec::new(),
        timings: Timings::default(),
    }
}

#[test]
fn explanations_go_to_the_explainer_where_there_is_one() {
    for (model, method, pool, attempts) in [
        (FRAUD, Method::Predict, 0, 3),
        (FRAUD, Method::Explain, 1, 1),
        (LITE, Method::Predict, 0, 3),
        (LITE, Method::Explain, 0, 3),
    ] {
        let plan = ladder().plan(&request(model, method), Instant::now()).unwrap();
        assert_eq!((plan.pool, plan.attempts), (PoolId(pool), attempts), "{model} {method:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_keeps_half_of_what_is_left_for_the_model() {
    let request = request(FRAUD, Method::Predict);
    let now = Instant::now() + Duration::from_millis(40);
    let plan = ladder().plan(&request, now).unwrap();
    assert_eq!(plan.deadline, request.deadline);
    assert_eq!(plan.features_by, Deadline::after(now, Duration::from_millis(80)));
    assert_eq!((plan.level, plan.stale), (Level::Full, Stale::Refused));
    assert_eq!((plan.tier, plan.model), (request.tier, request.model));
    assert_eq!(plan.attempt_timeout, Some(Duration::from_millis(80)));
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_leaves_no_time_for_features() {
    let request = request(FRAUD, Method::Predict);
    let now = Instant::now() + Duration::from_secs(1);
    assert_eq!(ladder().plan(&request, now).unwrap().features_by, Deadline::after(now, Duration::ZERO));
}

#[test]
fn only_models_on_their_tiers_pool_burst_and_under_the_burst_pools_policy() {
    let mut config = fixture::config();
    config.capacity.burst_pool = Some(PoolId(1));
    config.tiers[0].pool = Some(PoolId(0));
    let ladder = Ladder::new(&config);
    let plan = |model, method| ladder.plan(&request(model, method), Instant::now()).unwrap();
    assert_eq!(ladder.burst(&plan(FRAUD, Method::Predict)), Some(PoolId(1)));
    assert_eq!(ladder.burst(&plan(FRAUD, Method::Explain)), None, "it runs on its explainer");
    assert_eq!(ladder.burst(&plan(LITE, Method::Predict)), None, "its pool is its own, not its tier's");
    let moved = ladder.moved(&plan(FRAUD, Method::Predict), PoolId(1));
    assert_eq!((moved.pool, moved.attempts, moved.tier), (PoolId(1), 1, TierId(1)));
}

#[test]
fn an_answer_has_the_lowest_level_it_needed() {
    for (planned, needed, settled) in [
        (Level::Full, Level::Full, Level::Full),
        (Level::Full, Level::ReducedFeatures, Level::ReducedFeatures),
        (Level::SimplifiedModel, Level::Full, Level::SimplifiedModel),
        (Level::ReducedFeatures, Level::SimplifiedModel, Level::SimplifiedModel),
    ] {
        let answer = ladder().conclude(&plan(planned), Ok(answer(needed))).unwrap();
        assert_eq!(answer.level, settled, "{planned} {needed}");
    }
}

#[test]
fn an_outage_says_when_to_try_again() {
    let settle = |error| ladder().conclude(&plan(Level::Full), Err(error)).unwrap_err();
    let interval = Some(Duration::from_secs(5));
    assert_eq!(settle(Error::new(Kind::Unavailable, "down")).retry_after(), interval);
    let known = Error::new(Kind::Unavailable, "down").with_retry_after(Duration::from_secs(9));
    assert_eq!(settle(known).retry_after(), Some(Duration::from_secs(9)));
    assert_eq!(settle(Error::new(Kind::BackendFailed, "reset")).retry_after(), None);
}

#[test]
fn past_the_deadline_no_model_is_asked_and_what_asks_none_answers() {
    let config = Config::parse(
        "pools: {a: {endpoints: [\"http://127.0.0.1:9000\"]}}
models:
  lite: {pool: a}
  m: {pool: a, fallback: {model: lite, default: {outputs: [{name: s, datatype: FP32, shape: [1], data: [0.5]}]}}}
",
        "test",
    )
    .unwrap();
    let (ladder, id) = (Ladder::new(&config), config.model_id("m").unwrap());
    let request = InferRequest { model: id, ..request(0, Method::Predict) };
    let plan = ladder.plan(&request, Instant::now()).unwrap();
    let source = |now| match ladder.settle(&plan, Err(Error::new(Kind::DeadlineExceeded, "late")), now) {
        Settled::Next(next) => (next.source, next.model == id),
        settled => panic!("{settled:?}"),
    };
    assert_eq!(source(plan.model_by.instant()), (Source::Model, false), "the time of the fallback begins");
    assert_eq!(source(plan.deadline.instant()), (Source::Default, true));
}
