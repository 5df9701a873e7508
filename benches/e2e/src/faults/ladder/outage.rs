//! A minute in which the model's pool fails in one way after another, and for parts of it Redis, the simpler model, and both; and
//! another in which all three fail from its first second to its last, with all times as they are by default.
//!
//! Two models are asked alike. Beside it, the same load on the same Weir while nothing fails.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    super::{
        callers::{Call, End, Stream},
        tally::{Tally, Window},
        trial::{WARM_UP, sleep_until, while_called},
    },
    Bench,
    world::{self, DEADLINE, Pool, State, Store, Times},
};
use crate::{caller::Caller, peers::Weir};

/// Requests a second of each model.
pub(super) const RATE: f64 = 500.0;
/// The models that are asked.
pub(super) const MODELS: [&str; 2] = ["m", "n"];
/// Endpoints of the model's pool, and of the simpler one's.
const ENDPOINTS: [usize; 2] = [3, 2];
/// Levels that an answer can have.
pub(super) const LEVELS: usize = 5;
/// How many phases long the control is.
const CONTROL: u32 = 2;

/// How all is, for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) pool: State,
    pub(super) store: State,
    pub(super) simpler: State,
}

impl Phase {
    const fn new(pool: State, store: State, simpler: State) -> Self {
        Self { pool, store, simpler }
    }

    /// Whether nothing but the model's own pool fails: features and fallback are there.
    pub(super) fn spares_the_rest(self) -> bool {
        self.store == State::Up && self.simpler == State::Up
    }
}

/// The minute.
pub(super) const PHASES: [Phase; 10] = {
    use State::{Errors, Hangs, Killed, Stopped, Up};
    [
        Phase::new(Errors, Up, Up),
        Phase::new(Hangs, Up, Up),
        Phase::new(Stopped, Up, Up),
        Phase::new(Killed, Up, Up),
        Phase::new(Killed, Killed, Up),
        Phase::new(Hangs, Stopped, Up),
        Phase::new(Errors, Up, Killed),
        Phase::new(Stopped, Up, Stopped),
        Phase::new(Killed, Killed, Killed),
        Phase::new(Hangs, Stopped, Hangs),
    ]
};

/// The other minute: nobody answers, and nobody says so. As long as all phases together.
pub(super) const TOTAL: Phase = Phase::new(State::Hangs, State::Stopped, State::Hangs);

/// What a phase's requests came to.
pub(super) struct Answers {
    pub(super) tally: Tally,
    /// By model: answers of each level that came in time.
    pub(super) levels: [[u64; LEVELS]; MODELS.len()],
}

/// What was seen.
pub(super) struct Outage {
    /// How long each phase was.
    pub(super) phase: Duration,
    /// By phase.
    pub(super) answers: Vec<Answers>,
    /// Of the minute of [`TOTAL`].
    pub(super) total: Answers,
    pub(super) control: Answers,
}

impl Answers {
    fn new() -> Self {
        Self { tally: Tally::new(), levels: [[0; LEVELS]; MODELS.len()] }
    }

    pub(super) fn of(calls: &[Vec<Call>], window: Window) -> Self {
        let mut answers = Self::new();
        for (levels, calls) in answers.levels.iter_mut().zip(calls) {
            answers.tally.add(&Tally::of(calls, &[], window, DEADLINE));
            let in_time = |call: &&Call| call.end == End::Status(200) && call.took <= DEADLINE;
            let due = calls.iter().filter(|call| window.has(call.due)).filter(in_time);
            due.filter_map(|call| call.level).for_each(|level| levels[usize::from(level).min(LEVELS - 1)] += 1);
        }
        answers
    }

    /// Of those asked, the share answered in time and at `worst` or better.
    pub(super) fn share_to(&self, worst: usize) -> f64 {
        let enough: u64 = self.levels.iter().flat_map(|levels| &levels[..=worst]).sum();
        enough as f64 / self.tally.asked as f64
    }

    pub(super) fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter().fold(Self::new(), |mut sum, answers| {
            sum.tally.add(&answers.tally);
            let levels = answers.levels.as_flattened();
            sum.levels.as_flattened_mut().iter_mut().zip(levels).for_each(|(sum, more)| *sum += more);
            sum
        })
    }
}

impl Outage {
    /// All phases in one.
    pub(super) fn whole(&self) -> Answers {
        Answers::sum(&self.answers)
    }

    /// Those in which features and fallback were there.
    pub(super) fn spared(&self) -> Answers {
        Answers::sum(PHASES.iter().zip(&self.answers).filter(|(phase, _)| phase.spares_the_rest()).map(|(_, it)| it))
    }
}

/// What the load goes through, and what is behind it.
struct World<'a> {
    pools: [Pool<'a>; 2],
    store: Store<'a>,
    weir: Weir,
}

impl<'a> World<'a> {
    fn start(bench: Bench<'a>, times: Times) -> Result<Self> {
        let [primary, simpler] = ENDPOINTS.map(|count| Pool::start(bench.place, count));
        let (pools, store) = ([primary?, simpler?], Store::start(bench)?);
        let weir = world::weir(bench, ("weir-outage", times), [&pools[0], &pools[1]], store.address)?;
        is_well(&weir)?;
        Ok(Self { pools, store, weir })
    }

    fn become_so(&mut self, phase: Phase) -> Result<()> {
        self.pools[0].become_so(phase.pool)?;
        self.store.become_so(phase.store)?;
        self.pools[1].become_so(phase.simpler)
    }

    /// Sends the load while `script` runs, which is told when the first phase begins.
    fn asked(
        &mut self,
        length: Duration,
        script: impl FnOnce(&mut Self, Instant) -> Result<()>,
    ) -> Result<(Vec<Vec<Call>>, Instant)> {
        let to = self.weir.server.address;
        let streams = MODELS.map(|model| Stream { to, rate: RATE, request: world::request(model) });
        let begin = Instant::now() + Duration::from_millis(100);
        let calls = while_called(&streams, begin, WARM_UP + length, || script(self, begin + WARM_UP))?;
        Ok((calls, begin + WARM_UP))
    }
}

/// Runs the minutes, and the control.
pub(super) fn run(bench: Bench<'_>, phase: Duration) -> Result<Outage> {
    let control = phase * CONTROL;
    let (calls, from) = World::start(bench, Times::Short)?.asked(control, |_, _| Ok(()))?;
    let control = Answers::of(&calls, Window { from, to: from + control });
    let starts = |from: Instant| (0..).map(move |index| from + phase * index);
    let minute = phase * PHASES.len() as u32;
    let (calls, from) = World::start(bench, Times::Short)?.asked(minute, |world, from| {
        PHASES.iter().zip(starts(from)).try_for_each(|(phase, start)| {
            sleep_until(start);
            eprintln!("outage: {phase:?}");
            world.become_so(*phase)
        })
    })?;
    let windows = starts(from).map(|from| Window { from, to: from + phase }).take(PHASES.len());
    let answers = windows.map(|window| Answers::of(&calls, window)).collect();
    Ok(Outage { phase, answers, total: total(bench, minute)?, control })
}

/// All of it fails at once and stays so.
fn total(bench: Bench<'_>, length: Duration) -> Result<Answers> {
    let (calls, from) = World::start(bench, Times::Default)?.asked(length, |world, from| {
        sleep_until(from);
        eprintln!("outage, {length:?}: {TOTAL:?}");
        world.become_so(TOTAL)
    })?;
    Ok(Answers::of(&calls, Window { from, to: from + length }))
}

/// Both models must be answered in full before anything happens.
pub(super) fn is_well(weir: &Weir) -> Result<()> {
    let (mut caller, until) = (Caller::connect(weir.server.address)?, Instant::now() + Duration::from_secs(10));
    for model in MODELS {
        loop {
            let answer = caller.call(&world::request(model))?;
            if answer.status == 200 && answer.header("weir-level") == Some("0") {
                break;
            }
            let told = String::from_utf8_lossy(&answer.body);
            ensure!(Instant::now() < until, "model {model} is not well: {} {told}", answer.status);
            sleep_until(Instant::now() + Duration::from_millis(50));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_in_time_have_a_level() {
        let from = Instant::now();
        let call = |level, took, status| Call {
            due: from,
            took: Duration::from_millis(took),
            end: End::Status(status),
            level: Some(level),
        };
        let calls =
            [vec![call(0, 5, 200), call(2, 150, 200), call(3, 201, 200)], vec![call(4, 5, 503), call(3, 5, 200)]];
        let answers = Answers::of(&calls, Window { from, to: from + DEADLINE });
        assert_eq!(answers.levels, [[1, 0, 1, 0, 0], [0, 0, 0, 1, 0]]);
        assert_eq!((answers.tally.asked, answers.share_to(2), answers.share_to(3)), (5, 0.4, 0.6));
        let twice = Answers::sum([&answers, &answers]);
        assert_eq!((twice.tally.asked, twice.levels[0][2], twice.share_to(3)), (10, 2, 0.6));
    }

    #[test]
    fn the_pool_is_never_up_and_everything_else_fails_for_a_part() {
        assert!(PHASES.iter().all(|phase| phase.pool != State::Up));
        assert!(PHASES.iter().any(|phase| phase.store != State::Up && phase.simpler != State::Up));
        assert_eq!(PHASES.iter().filter(|phase| phase.spares_the_rest()).count(), 4);
        assert!([TOTAL.pool, TOTAL.store, TOTAL.simpler].iter().all(|state| *state != State::Up));
    }
}
