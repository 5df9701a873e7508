//! What a plan says, and what an outcome becomes.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::*;
use crate::{
    fixture,
    infer::{AnswerBody, Stale},
    resilience::ratio::Excess,
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
    Answer { level, ..Answer::whole(StatusCode::OK, HeaderMap::new(), Bytes::new()) }
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
    let named = |plan| plan;
    let of_lite = |plan| Plan { model: ModelId(LITE), cause: Some(Cause::Drill), ..plan };
    let of_one = |plan| Plan { members: Members::One(0), ..plan };
    let of_rule = |plan| Plan { source: Source::Rule, ..plan };
    let answerers: [fn(Plan) -> Plan; 4] = [named, of_lite, of_one, of_rule];
    for (planned, needed, by_named, by_less) in [
        (Level::Full, Level::Full, Level::Full, Level::Full),
        (Level::Full, Level::ReducedFeatures, Level::ReducedFeatures, Level::ReducedFeatures),
        (Level::SimplifiedModel, Level::Full, Level::Full, Level::SimplifiedModel),
        (Level::SimplifiedModel, Level::ReducedFeatures, Level::ReducedFeatures, Level::SimplifiedModel),
        (Level::ReducedFeatures, Level::SimplifiedModel, Level::SimplifiedModel, Level::SimplifiedModel),
    ] {
        for (number, answerer) in answerers.iter().enumerate() {
            let settled = ladder().conclude(&answerer(plan(planned)), Ok(answer(needed))).unwrap();
            let expected = if number == 0 { by_named } else { by_less };
            assert_eq!(settled.level, expected, "{planned} {needed} {number}");
        }
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
    let source = |now| match ladder.settle(&plan, Err(Error::new(Kind::DeadlineExceeded, "late")), &mut None, now) {
        Settled::Next(next) => (next.source, next.model == id),
        settled => panic!("{settled:?}"),
    };
    assert_eq!(source(plan.model_by.instant()), (Source::Model, false), "the time of the fallback begins");
    assert_eq!(source(plan.deadline.instant()), (Source::Default, true));
}

/// A model with everything below it, one with only a cache, and two of low priority on one pool.
const BELOW: &str = "
pools: {a: {endpoints: [\"http://h:1\"]}, b: {endpoints: [\"http://h:2\"]}}
tiers: {high: , low: {low_priority: true}}
ladder: {enter_after: 1s, exit_after: 10s}
models:
  m:
    tier: high
    pool: a
    timeout: 200ms
    fallback: {model: lite, rule: \"true ? 0.9 : 0.1\", default: {outputs: [{name: s, datatype: FP32, shape: [1], data: [0.5]}]}}
  lite: {tier: high, pool: b}
  kept: {tier: high, pool: a, cache: {ttl: 1s, keep_for: 1h}}
  bulk: {tier: low, pool: a, fallback: {model: small}}
  small: {tier: low, pool: a, fallback: {model: other}}
  other: {tier: low, pool: b}
";

/// Its ladder, and the plan for a model.
fn below(model: &str) -> (Ladder, InferRequest) {
    let config = Config::parse(BELOW, "test").unwrap();
    let id = config.model_id(model).unwrap();
    let request = InferRequest {
        model: id,
        tier: config.model(id).tier,
        deadline: Deadline::after(Instant::now(), Duration::from_millis(200)),
        ..request(0, Method::Predict)
    };
    (Ladder::new(&config), request)
}

fn failed(text: &'static str) -> Answer {
    Answer {
        verdict: Verdict::Failed,
        body: AnswerBody::Whole(Bytes::from_static(text.as_bytes())),
        ..answer(Level::Full)
    }
}

/// Walks down with one outcome after the other, and says what became of the last and how the plans were.
fn descended(model: &str, outcomes: Vec<Result<Answer, Error>>) -> (Settled, Vec<Plan>) {
    let (ladder, request) = below(model);
    let now = Instant::now();
    let (mut first, mut plans) = (None, vec![ladder.plan(&request, now).unwrap()]);
    for outcome in outcomes {
        match ladder.settle(plans.last().unwrap(), outcome, &mut first, now) {
            Settled::Next(next) => plans.push(next),
            settled => return (settled, plans),
        }
    }
    panic!("not at an end: {plans:?}")
}

#[tokio::test(start_paused = true)]
async fn where_nothing_below_answers_the_caller_hears_of_the_model_it_named() {
    let gone = || Error::new(Kind::Unavailable, "no prediction is kept");
    let (settled, _) = descended("kept", vec![Ok(failed("its own words")), Err(gone())]);
    let Settled::Answer(Answer { body: AnswerBody::Whole(body), level, .. }) = settled else { panic!("{settled:?}") };
    assert_eq!((&*body, level), (&b"its own words"[..], Level::Full));

    let late = || Error::new(Kind::DeadlineExceeded, "the model was late");
    let (settled, _) = descended("kept", vec![Err(late()), Err(gone())]);
    assert!(matches!(&settled, Settled::Error(error) if error.kind() == Kind::DeadlineExceeded), "{settled:?}");

    // Its fallback's tier is full, or its fallback wants what the caller did not give: neither is the caller's to hear.
    for error in [Error::new(Kind::Shed, "tier low is full"), Error::invalid("lite wants a user_id")] {
        let outcomes =
            vec![Err(late()), Err(error), Err(Error::invalid("no such input")), Err(Error::invalid("no rows"))];
        let (settled, plans) = descended("m", outcomes);
        assert!(matches!(&settled, Settled::Error(error) if error.kind() == Kind::DeadlineExceeded), "{settled:?}");
        let sources: Vec<_> = plans.iter().map(|plan| plan.source).collect();
        assert_eq!(sources, [Source::Model, Source::Model, Source::Rule, Source::Default]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_the_callers_fault_ends_the_first_walk() {
    let (settled, plans) = descended("m", vec![Err(Error::invalid("no such input"))]);
    assert!(matches!(&settled, Settled::Error(error) if error.kind() == Kind::InvalidRequest), "{settled:?}");
    assert_eq!(plans.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_that_is_still_coming_keeps_no_slot_while_others_are_asked() {
    let held = Arc::new(());
    let guard = Arc::clone(&held);
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(
        http_body_util::Full::new(Bytes::from_static(b"long")),
        move |never: std::convert::Infallible| {
            let _guard = &guard;
            match never {}
        },
    ));
    let (ladder, request) = below("kept");
    let (now, mut first) = (Instant::now(), None);
    let plan = ladder.plan(&request, now).unwrap();
    let answer = Answer { body: AnswerBody::Stream(body), ..failed("") };
    assert!(matches!(ladder.settle(&plan, Ok(answer), &mut first, now), Settled::Next(_)));
    assert_eq!(Arc::strong_count(&held), 1);
    let nothing = Err(Error::new(Kind::Unavailable, "no prediction is kept"));
    let settled = ladder.settle(&plan_of(&plan, Source::Cached), nothing, &mut first, now);
    assert!(matches!(&settled, Settled::Error(error) if error.kind() == Kind::BackendFailed), "{settled:?}");
}

fn plan_of(plan: &Plan, source: Source) -> Plan {
    Plan { source, ..plan.clone() }
}

#[tokio::test(start_paused = true)]
async fn a_rule_below_other_walks_has_time_of_its_own_for_features() {
    let (ladder, request) = below("m");
    let (began, mut first) = (Instant::now(), None);
    let mut plan = ladder.plan(&request, began).unwrap();
    let late = began + Duration::from_millis(180);
    while plan.source == Source::Model {
        let settled = ladder.settle(&plan, Err(Error::new(Kind::DeadlineExceeded, "late")), &mut first, late);
        let Settled::Next(next) = settled else { panic!("{settled:?}") };
        plan = next;
    }
    assert_eq!((plan.source, plan.features_by), (Source::Rule, Deadline::after(late, Duration::from_millis(10))));
}

/// Looks at so many of tenths of seconds.
fn look(ladder: &Ladder, facts: &Facts, (from, tenths): (Instant, u32)) -> Instant {
    let at = |tenth| from + Duration::from_millis(100) * tenth;
    (0..tenths).for_each(|tenth| ladder.look(facts, at(tenth)));
    at(tenths)
}

fn facts(gpu: f64, timeouts: Excess) -> Facts {
    Facts { models: vec![ModelFacts { timeouts, gpu_memory: Some(gpu) }; 6], ..Facts::default() }
}

#[tokio::test(start_paused = true)]
async fn another_snapshot_shows_models_where_they_stand() {
    let config = Config::parse(BELOW, "test").unwrap();
    let (_, scrape) = crate::telemetry::scratch(|| {
        let ladder = Ladder::new(&config);
        ladder.drill(config.model_id("m").unwrap(), Level::SimplifiedModel, Duration::from_secs(60), Instant::now());
        ladder.next(&config)
    });
    assert!(scrape.render().contains("weir_ladder_level{model=\"m\"} 2\n"), "{}", scrape.render());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_a_drill_lasts_as_long_as_the_drill() {
    let (ladder, request) = below("m");
    let (now, day) = (Instant::now(), Duration::from_secs(86_400));
    ladder.drill(request.model, Level::Reject, day, now);
    let refused = |now| ladder.plan(&request, now).unwrap_err();
    assert_eq!(refused(now).retry_after(), Some(day));
    assert_eq!(refused(now + day / 2).retry_after(), Some(day / 2));
    assert_eq!(refused(now + day).retry_after(), Some(Duration::from_secs(1)), "its end was not looked at yet");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_cause_that_it_acts_on() {
    let config = BELOW.replace("bulk: {tier: low, pool: a, fallback: {model: small}}", "bulk: {tier: low, pool: a}");
    let ladder = Ladder::new(&Config::parse(&config, "test").unwrap());
    let (_, request) = below("bulk");
    let now = look(&ladder, &facts(0.99, Excess::Proven), (Instant::now(), 20));
    let refused = ladder.plan(&request, now).unwrap_err();
    assert!(refused.to_string().contains("gpu_memory"), "{refused}");
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(10)));
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_makes_room_on_the_same_gpus_is_not_asked_instead() {
    let (ladder, request) = below("bulk");
    let now = look(&ladder, &facts(0.99, Excess::None), (Instant::now(), 20));
    let plan = ladder.plan(&request, now).unwrap();
    assert_eq!((plan.model, plan.pool, plan.cause), (ModelId(5), PoolId(1), Some(Cause::GpuMemory)), "not `small`");
}

#[tokio::test(start_paused = true)]
async fn gpus_that_were_full_get_their_work_back_bit_by_bit() {
    let (ladder, request) = below("bulk");
    let in_full = |now| (0..100).filter(|_| ladder.plan(&request, now).unwrap().level == Level::Full).count();
    let mut now = look(&ladder, &facts(0.99, Excess::None), (Instant::now(), 20));
    assert_eq!(in_full(now), 0);
    // Empty for want of work: after ten seconds it begins to come back, and takes ten more.
    now = look(&ladder, &facts(0.1, Excess::None), (now, 100));
    assert_eq!(in_full(now), 0);
    now = look(&ladder, &facts(0.1, Excess::None), (now, 51));
    assert!((40..=60).contains(&in_full(now)), "{}", in_full(now));
    now = look(&ladder, &facts(0.1, Excess::None), (now, 60));
    assert_eq!(in_full(now), 100);
}
