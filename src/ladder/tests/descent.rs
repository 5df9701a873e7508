//! Ways down: whatever a model has below it and however its walks go, they end, and only go down.

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Config, Fallback, PredictionCache},
    infer::{Datatype, Output, Rule, decoded::Scalar},
};

const TIMEOUT: Duration = Duration::from_millis(200);

/// What the model named has below it.
#[derive(Clone, Copy, Debug)]
struct Below {
    /// Models, one the fallback of the other.
    simpler: usize,
    rule: bool,
    cache: bool,
    default: bool,
}

/// Models `m0`, which has all that, `m1`…
fn config(below: Below) -> Config {
    let mut config = fixture::config();
    let plain = config.models.remove(LITE as usize);
    config.models = (0..=below.simpler)
        .map(|index| {
            let next = (index < below.simpler).then(|| ModelId(u32::try_from(index + 1).unwrap()));
            let (own, mut model) = (index == 0, plain.clone());
            model.name = format!("m{index}").into();
            model.fallback = Some(Fallback {
                model: next,
                rule: (own && below.rule).then(|| Rule::compile("0.5").unwrap()),
                reserve: 0.3,
                default: if own && (below.default || below.rule) { vec![output()] } else { Vec::new() },
            });
            model.cache = (own && below.cache).then(cache);
            model
        })
        .collect();
    config
}

fn cache() -> PredictionCache {
    PredictionCache { ttl: TIMEOUT, keep_for: TIMEOUT, entity: None, headers: Vec::new() }
}

fn output() -> Output {
    Output::new("y".into(), Datatype::Fp32, smallvec::smallvec![1], [Scalar::Double(0.5)]).unwrap()
}

fn failed(how: u8) -> Result<Answer, Error> {
    let kinds = [Kind::Shed, Kind::DeadlineExceeded, Kind::BackendFailed, Kind::Unavailable];
    match kinds.get(usize::from(how)) {
        Some(kind) => Err(Error::new(*kind, "not this time")),
        None => Ok(Answer { verdict: Verdict::Failed, ..answer(Level::Full) }),
    }
}

/// Lower ways are greater.
fn rank(plan: &Plan) -> (Source, u32) {
    (plan.source, plan.model.0)
}

fn below() -> impl Strategy<Value = Below> {
    (0..4usize, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(simpler, rule, cache, default)| Below {
        simpler,
        rule,
        cache,
        default,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_descent_ends_and_only_goes_down(
        below in below(), drill in 0..5usize, walks in prop::collection::vec((0..5u8, 0..120u64), 9),
    ) {
        let (ladder, mut now) = (Ladder::new(&config(below)), Instant::now());
        let request = fixture::request(0, 1, TIMEOUT);
        ladder.drill(ModelId(0), Level::ALL[drill], Duration::from_secs(60), now);
        // A drill that leaves nothing says so.
        let Ok(mut plan) = ladder.plan(&request, now) else {
            prop_assert!(drill >= Level::DefaultResponse as usize);
            return Ok(());
        };
        let (mut steps, mut first, highest) = (0, None, plan.answered_at());
        for (how, took) in walks {
            prop_assert!(plan.features_by.instant() <= plan.model_by.instant(), "{:?}", plan);
            prop_assert!(plan.model_by.instant() <= plan.deadline.instant(), "{:?}", plan);
            now += Duration::from_millis(took);
            let next = match ladder.settle(&plan, failed(how), &mut first, now) {
                Settled::Next(next) => next,
                Settled::Answer(answer) => {
                    // Where nothing below answered, the first walk's own words do.
                    prop_assert!(answer.level >= highest);
                    return Ok(());
                }
                Settled::Error(_) => return Ok(()),
            };
            prop_assert!(rank(&next) > rank(&plan), "{:?} after {:?}", next, plan);
            prop_assert!(next.level >= plan.level && next.level >= Level::SimplifiedModel);
            prop_assert_eq!(next.deadline, plan.deadline);
            prop_assert!(next.source != Source::Model || now < next.deadline.instant(), "no model is asked too late");
            prop_assert!(next.cause.is_some());
            steps += 1;
            prop_assert!(steps <= below.simpler + 3, "a way for each, and no more");
            plan = next;
        }
        prop_assert!(false, "it does not end");
    }

    /// Nothing that answers well is gone on from, nor what the caller did wrong.
    #[test]
    fn what_is_settled_stays_so(below in below(), wrong in any::<bool>()) {
        let (ladder, now) = (Ladder::new(&config(below)), Instant::now());
        let plan = ladder.plan(&fixture::request(0, 1, TIMEOUT), now).unwrap();
        let outcome = if wrong { Err(Error::invalid("rows")) } else { Ok(answer(Level::Full)) };
        prop_assert!(!matches!(ladder.settle(&plan, outcome, &mut None, now), Settled::Next(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_reserve_is_kept_where_a_model_needs_it() {
    let none = Below { simpler: 0, rule: false, cache: false, default: false };
    for (below, kept) in [
        (none, 0),
        (Below { default: true, ..none }, 20),
        (Below { simpler: 1, ..none }, 60),
        (Below { simpler: 2, rule: true, ..none }, 60),
    ] {
        let (ladder, now) = (Ladder::new(&config(below)), Instant::now());
        let plan = ladder.plan(&fixture::request(0, 1, TIMEOUT), now).unwrap();
        let left = plan.deadline.instant() - plan.model_by.instant();
        assert_eq!(left, Duration::from_millis(kept), "{below:?}");
    }
    // Of what is left at each step.
    let ladder = Ladder::new(&config(Below { simpler: 2, ..none }));
    let now = Instant::now();
    let plan = ladder.plan(&fixture::request(0, 1, TIMEOUT), now).unwrap();
    let later = now + Duration::from_millis(100);
    let Settled::Next(next) = ladder.settle(&plan, failed(1), &mut None, later) else { panic!("a model is left") };
    assert_eq!((next.model, next.queue), (ModelId(1), Queue::Skips));
    assert_eq!(next.deadline.instant() - next.model_by.instant(), Duration::from_millis(30));
}

#[test]
fn after_the_deadline_only_what_asks_nobody_answers() {
    let ladder = Ladder::new(&config(Below { simpler: 2, rule: false, cache: false, default: true }));
    let now = Instant::now();
    let plan = ladder.plan(&fixture::request(0, 1, TIMEOUT), now).unwrap();
    let Settled::Next(next) = ladder.settle(&plan, failed(1), &mut None, now + 2 * TIMEOUT) else {
        panic!("the default is left")
    };
    assert_eq!((next.source, next.level, next.cause), (Source::Default, Level::DefaultResponse, Some(Cause::Timeout)));
}

#[test]
fn the_first_cause_is_the_one_that_is_told() {
    let ladder = Ladder::new(&config(Below { simpler: 1, rule: false, cache: false, default: true }));
    let now = Instant::now();
    let plan = ladder.plan(&fixture::request(0, 1, TIMEOUT), now).unwrap();
    let Settled::Next(lite) = ladder.settle(&plan, failed(2), &mut None, now) else { panic!("a model is left") };
    let Settled::Answer(told) = ladder.settle(&lite, Ok(answer(Level::Full)), &mut None, now) else {
        panic!("it answered")
    };
    let used = Degradation::Model { used: "m1".into(), cause: Cause::Failed };
    assert_eq!((told.level, told.degraded), (Level::SimplifiedModel, vec![used]));
    let Settled::Next(default) = ladder.settle(&lite, failed(0), &mut None, now) else { panic!("the default is left") };
    assert_eq!((default.source, default.cause), (Source::Default, Some(Cause::Failed)));
}

#[test]
fn observing_goes_nowhere() {
    let mut config = config(Below { simpler: 1, rule: true, cache: false, default: true });
    config.ladder.mode = LadderMode::Observe;
    let (ladder, now) = (Ladder::new(&config), Instant::now());
    let plan = ladder.plan(&fixture::request(0, 1, TIMEOUT), now).unwrap();
    assert!(!ladder.has_ways_down(&plan, Method::Predict));
    assert_eq!(plan.model_by, plan.deadline, "and keeps nothing for it");
    let settled = ladder.settle(&plan, failed(2), &mut None, now);
    assert!(matches!(&settled, Settled::Error(error) if error.kind() == Kind::BackendFailed), "{settled:?}");
}
