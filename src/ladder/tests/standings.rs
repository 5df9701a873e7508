//! Where models stand: when triggers and drills begin and end, and what they change in a plan.

use proptest::prelude::*;

use super::*;
use crate::{
    config::{self, Config},
    resilience::ratio::Excess,
    telemetry::{Scrape, scratch},
};

const STEP: Duration = Duration::from_millis(100);

/// Whose GPU memory is at that, and nothing else the matter.
fn quiet() -> Facts {
    let model = ModelFacts { timeouts: Excess::None, gpu_memory: Some(0.5) };
    Facts { features_slow: false, features_unavailable: false, models: vec![model; 2] }
}

fn slow() -> Facts {
    Facts { features_slow: true, ..quiet() }
}

fn unavailable() -> Facts {
    Facts { features_unavailable: true, ..quiet() }
}

fn full_gpus() -> Facts {
    Facts { models: vec![ModelFacts { gpu_memory: Some(0.91), ..ModelFacts::default() }; 2], ..quiet() }
}

fn timeouts(timeouts: Excess) -> Facts {
    Facts { models: vec![ModelFacts { timeouts, ..ModelFacts::default() }; 2], ..quiet() }
}

/// Everything is low priority.
fn config() -> Config {
    let mut config = fixture::config();
    config.models.iter_mut().for_each(|model| model.low_priority = true);
    config
}

/// A ladder that is looked at as the gateway does.
struct Looked {
    ladder: Ladder,
    now: Instant,
}

impl Looked {
    fn new(config: &Config) -> Self {
        Self { ladder: Ladder::new(config), now: Instant::now() }
    }

    fn for_secs(&mut self, secs: u64, facts: &Facts) -> &mut Self {
        for _ in 0..secs * 10 {
            self.now += STEP;
            self.ladder.look(facts, self.now);
        }
        self
    }

    fn at(&self, model: u32) -> (Level, Vec<&'static str>) {
        let state = self.ladder.state(ModelId(model), self.now);
        (state.level, state.causes)
    }

    fn drill(&self, level: Level, secs: u64) {
        self.ladder.drill(ModelId(FRAUD), level, Duration::from_secs(secs), self.now);
    }

    fn plan(&self, method: Method) -> Result<Plan, Error> {
        let deadline = Deadline::after(self.now, Duration::from_millis(200));
        self.ladder.plan(&InferRequest { deadline, ..request(FRAUD, method) }, self.now)
    }
}

const FULL: (Level, Vec<&str>) = (Level::Full, Vec::new());

#[test]
fn each_trigger_enters_after_a_second_and_leaves_after_ten() {
    for (facts, level, cause, leaves) in [
        (slow(), Level::ReducedFeatures, "features_slow", 10),
        (unavailable(), Level::SimplifiedModel, "features_unavailable", 10),
        (full_gpus(), Level::SimplifiedModel, "gpu_memory", 10),
        (timeouts(Excess::Proven), Level::SimplifiedModel, "timeouts", 10),
    ] {
        let mut looked = Looked::new(&config());
        assert_eq!(looked.for_secs(1, &facts).at(FRAUD), FULL, "{cause}");
        assert_eq!(looked.for_secs(1, &facts).at(FRAUD), (level, vec![cause]));
        assert_eq!(looked.for_secs(leaves, &quiet()).at(FRAUD), (level, vec![cause]), "not yet");
        assert_eq!(looked.for_secs(2, &quiet()).at(FRAUD), FULL, "{cause}");
    }
}

/// The level is over with its trigger; each request is told what it gets.
#[test]
fn requests_come_back_to_gpus_that_were_full_bit_by_bit_at_level_0() {
    let mut config = config();
    config.models[FRAUD as usize].fallback =
        Some(config::Fallback { model: Some(ModelId(LITE)), rule: None, reserve: 0.3, default: Vec::new() });
    config.models[LITE as usize].low_priority = false;
    let mut looked = Looked::new(&config);
    let readmitted = |looked: &Looked| looked.ladder.state(ModelId(FRAUD), looked.now).readmitted;
    assert_eq!(readmitted(&looked), None);
    looked.for_secs(2, &full_gpus());
    assert_eq!(readmitted(&looked), Some(0.0));
    looked.for_secs(11, &quiet());
    assert_eq!((looked.at(FRAUD), readmitted(&looked)), (FULL, Some(0.1)));
    looked.for_secs(5, &quiet());
    let share = readmitted(&looked).unwrap();
    assert!((0.4..0.7).contains(&share), "{share}");
    // Of explanations as many as of predictions.
    let (mut full, mut lower, mut explained) = (0, 0, 0);
    for _ in 0..40 {
        let plan = looked.plan(Method::Predict).unwrap();
        match (plan.model, plan.level, plan.cause) {
            (ModelId(FRAUD), Level::Full, None) => full += 1,
            (ModelId(LITE), Level::SimplifiedModel, Some(Cause::GpuMemory)) => lower += 1,
            plan => panic!("{plan:?}"),
        }
        match looked.plan(Method::Explain) {
            Ok(_) => explained += 1,
            Err(refused) => assert_eq!(
                refused.to_string(),
                "model \"fraud\" is not explained at level 2 (simplified_model: gpu_memory); its requests come back bit by bit"
            ),
        }
    }
    assert_eq!(full + lower, 40);
    assert!((12..=28).contains(&full) && (12..=28).contains(&explained), "{full} {explained} of 40");
    looked.for_secs(10, &quiet());
    assert_eq!((looked.at(FRAUD), readmitted(&looked)), (FULL, None));
    assert_eq!(looked.plan(Method::Predict).unwrap().model, ModelId(FRAUD));
}

#[test]
fn whom_a_trigger_does_not_concern_stays() {
    let mut looked = Looked::new(&fixture::config());
    for facts in [slow(), unavailable(), full_gpus()] {
        assert_eq!(looked.for_secs(5, &facts).at(LITE), FULL, "it joins nothing, and goes first");
    }
    let unknown = Facts { models: vec![ModelFacts::default(); 2], ..quiet() };
    assert_eq!(Looked::new(&config()).for_secs(5, &unknown).at(FRAUD), FULL, "what is not known is no reason");
}

#[test]
fn few_timeouts_prove_nothing_but_keep_what_was_proven() {
    let mut looked = Looked::new(&config());
    assert_eq!(looked.for_secs(60, &timeouts(Excess::OfFew)).at(FRAUD), FULL);
    looked.for_secs(2, &timeouts(Excess::Proven));
    // A probe a second, of which one in eight times out.
    for _ in 0..8 {
        looked.for_secs(1, &timeouts(Excess::OfFew)).for_secs(7, &timeouts(Excess::None));
        assert_eq!(looked.at(FRAUD), (Level::SimplifiedModel, vec!["timeouts"]));
    }
    assert_eq!(looked.for_secs(4, &quiet()).at(FRAUD), FULL, "without traffic as well");
}

#[test]
fn the_worst_counts_and_the_others_go_on() {
    let mut looked = Looked::new(&config());
    looked.for_secs(2, &Facts { features_slow: true, ..full_gpus() });
    assert_eq!(looked.at(FRAUD), (Level::SimplifiedModel, vec!["features_slow", "gpu_memory"]));
    looked.for_secs(12, &slow());
    assert_eq!(looked.at(FRAUD), (Level::ReducedFeatures, vec!["features_slow"]));
}

#[test]
fn a_drill_ends_with_its_time_or_with_level_0() {
    let mut looked = Looked::new(&config());
    looked.drill(Level::DefaultResponse, 5);
    assert_eq!(looked.at(FRAUD), (Level::DefaultResponse, vec!["drill"]));
    assert_eq!(looked.at(LITE), FULL);
    assert_eq!(looked.for_secs(4, &quiet()).at(FRAUD).0, Level::DefaultResponse);
    assert_eq!(looked.for_secs(2, &quiet()).at(FRAUD), FULL);
    for (level, secs) in [(Level::Full, 60), (Level::Reject, 0)] {
        looked.drill(Level::Reject, 60);
        assert_eq!(looked.at(FRAUD).0, Level::Reject);
        looked.drill(level, secs);
        assert_eq!(looked.at(FRAUD), FULL, "at once");
    }
    // A trigger outlives it.
    looked.for_secs(2, &slow());
    looked.drill(Level::DefaultResponse, 3);
    assert_eq!(looked.at(FRAUD), (Level::DefaultResponse, vec!["features_slow", "drill"]));
    assert_eq!(looked.for_secs(4, &slow()).at(FRAUD), (Level::ReducedFeatures, vec!["features_slow"]));
}

#[test]
fn observing_tells_and_lowers_nothing_but_by_drill() {
    let mut config = config();
    config.ladder.mode = LadderMode::Observe;
    let mut looked = Looked::new(&config);
    looked.for_secs(2, &full_gpus());
    assert_eq!(looked.at(FRAUD), (Level::SimplifiedModel, vec!["gpu_memory"]));
    assert!(!looked.ladder.state(ModelId(FRAUD), looked.now).acts);
    assert_eq!(looked.plan(Method::Predict).unwrap().level, Level::Full);
    looked.drill(Level::Reject, 60);
    assert_eq!(looked.plan(Method::Predict).unwrap_err().kind(), Kind::Unavailable);
}

#[test]
fn what_a_level_changes_follows_its_trigger() {
    let plan = |facts: &Facts| Looked::new(&config()).for_secs(2, facts).plan(Method::Predict);
    let (level_1, level_2) = (plan(&slow()).unwrap(), plan(&unavailable()).unwrap());
    assert_eq!((level_1.stale, level_1.optional, level_1.source), (Stale::Allowed, Optional::Skipped, Source::Model));
    assert_eq!((level_2.stale, level_2.optional, level_2.model), (Stale::Allowed, Optional::Joined, ModelId(FRAUD)));
    let refused = plan(&full_gpus()).unwrap_err();
    assert_eq!((refused.kind(), refused.retry_after()), (Kind::Unavailable, Some(Duration::from_secs(10))));
    let asked = plan(&timeouts(Excess::Proven)).unwrap();
    assert_eq!((asked.model, asked.level), (ModelId(FRAUD), Level::Full), "nothing simpler there, it is asked");
}

#[test]
fn explanations_stop_at_level_2_whatever_took_the_model_there() {
    for facts in [unavailable(), full_gpus(), timeouts(Excess::Proven)] {
        let mut looked = Looked::new(&config());
        let refused = looked.for_secs(2, &facts).plan(Method::Explain).unwrap_err();
        assert!(refused.to_string().contains("is not explained at level 2"), "{refused}");
    }
    assert!(Looked::new(&config()).for_secs(2, &slow()).plan(Method::Explain).is_ok());
    let looked = Looked::new(&config());
    looked.drill(Level::SimplifiedModel, 60);
    assert!(looked.plan(Method::Explain).is_err() && looked.plan(Method::Other).is_ok());
}

#[test]
fn the_next_snapshot_stands_where_this_one_does() {
    let config = config();
    let mut looked = Looked::new(&config);
    looked.for_secs(2, &slow());
    looked.ladder = looked.ladder.next(&config);
    assert_eq!(looked.at(FRAUD), (Level::ReducedFeatures, vec!["features_slow"]));
}

/// The four signals, each alone.
fn signals() -> [(&'static str, Facts); 4] {
    [
        ("features_slow", slow()),
        ("features_unavailable", unavailable()),
        ("gpu_memory", full_gpus()),
        ("timeouts", timeouts(Excess::Proven)),
    ]
}

/// How often the model moved, to whatever level.
fn transitions(scrape: &Scrape) -> u32 {
    let text = scrape.render();
    let of_model = text.lines().filter(|line| line.starts_with("weir_ladder_transitions_total{model=\"fraud\""));
    of_model.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum()
}

/// Looks at spells of a signal, active and quiet in turn, in tenths of seconds; the transitions, and the level at the end.
fn after(facts: &Facts, spells: &[(u32, u32)]) -> (u32, Level) {
    let (mut looked, scrape) = scratch(|| Looked::new(&config()));
    for (active, quiet_for) in spells {
        for (spell, facts) in [(active, facts), (quiet_for, &quiet())] {
            (0..*spell).for_each(|_| {
                looked.now += STEP;
                looked.ladder.look(facts, looked.now);
            });
        }
    }
    (transitions(&scrape), looked.at(FRAUD).0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// At the default times, 1 s and 10 s.
    #[test]
    fn a_signal_of_short_spells_moves_nobody(spells in prop::collection::vec((1..=10u32, 1..200u32), 1..60)) {
        for (name, facts) in signals() {
            prop_assert_eq!(after(&facts, &spells), (0, Level::Full), "{}", name);
        }
    }

    #[test]
    fn a_signal_that_is_never_quiet_for_long_moves_a_model_once(spells in prop::collection::vec((1..40u32, 1..=100u32), 1..60)) {
        for (name, facts) in signals() {
            let (moves, level) = after(&facts, &spells);
            let entered = spells.iter().any(|(active, _)| *active > 10);
            prop_assert_eq!((moves, level > Level::Full), (u32::from(entered), entered), "{}", name);
        }
    }

    /// However it flaps: a move down takes a second of the signal, one up ten of its absence.
    #[test]
    fn no_signal_moves_a_model_more_often_than_its_times_allow(spells in prop::collection::vec((1..60u32, 1..300u32), 1..60)) {
        for (name, facts) in signals() {
            let (moves, level) = after(&facts, &spells);
            let tenths: u32 = spells.iter().map(|(active, quiet)| active + quiet).sum();
            prop_assert!(moves <= 2 * (tenths / 110 + 1), "{} moves in {} s of {}", moves, tenths / 10, name);
            prop_assert_eq!(moves % 2 == 1, level > Level::Full, "{}", name);
        }
    }
}
