//! The machine against its promises one by one, then against a model that keeps everything and computes from scratch.

use proptest::prelude::*;

use super::{machine::UNWANTED, *};

const POLICY: Policy = Policy {
    failure_threshold: 5,
    window: Duration::from_secs(10),
    success_rate: 0.8,
    open_for: Duration::from_secs(30),
    max_open_for: Duration::from_secs(30),
    half_open_requests: 3,
    success_threshold: 3,
};

const SECOND: Duration = Duration::from_secs(1);

/// The pause after an early probe.
const PAUSE: Duration = Duration::from_secs(2);

struct Bench {
    machine: Machine,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { machine: Machine::new(POLICY), now: Instant::now() }
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn admit(&mut self) -> Result<Admitted, Refused> {
        self.machine.admit(self.now)
    }

    fn admit_early(&mut self) -> Result<Admitted, Refused> {
        self.machine.admit_early(PAUSE, self.now)
    }

    fn call(&mut self, outcome: Outcome) -> &mut Self {
        let call = self.admit().expect("the test expects the call to be admitted");
        self.machine.record(call, outcome, self.now);
        self
    }

    fn calls(&mut self, count: usize, outcome: Outcome) -> &mut Self {
        (0..count).for_each(|_| drop(self.call(outcome)));
        self
    }

    fn state(&self) -> State {
        self.machine.state()
    }
}

fn drop<T>(_: T) {}

fn open() -> Bench {
    let mut bench = Bench::new();
    bench.calls(5, Outcome::Failure);
    assert_eq!(bench.state(), State::Open);
    bench
}

fn half_open() -> Bench {
    let mut bench = open();
    bench.pass(POLICY.open_for).call(Outcome::Neutral);
    assert_eq!(bench.state(), State::HalfOpen);
    bench
}

#[test]
fn five_failures_trip_and_four_do_not() {
    let mut bench = Bench::new();
    assert_eq!(bench.calls(4, Outcome::Failure).state(), State::Closed);
    assert_eq!(bench.call(Outcome::Failure).state(), State::Open);
}

#[test]
fn a_success_between_starts_the_count_again() {
    let mut bench = Bench::new();
    bench.calls(4, Outcome::Failure).call(Outcome::Success).calls(4, Outcome::Failure);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn failures_spread_over_more_than_the_window_do_not_trip() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        assert_eq!(bench.call(Outcome::Failure).pass(SECOND * 26 / 10).state(), State::Closed);
    }
}

#[test]
fn five_failures_in_exactly_the_window_trip() {
    let mut bench = Bench::new();
    bench.call(Outcome::Failure).pass(SECOND * 10).calls(4, Outcome::Failure);
    assert_eq!(bench.state(), State::Open);
}

#[test]
fn a_low_success_rate_trips_from_twenty_answers_on() {
    let mut bench = Bench::new();
    // Three in four succeed: 14 of 19 is under 80 % but too few answers to tell.
    for _ in 0..4 {
        bench.calls(3, Outcome::Success).call(Outcome::Failure);
    }
    bench.calls(2, Outcome::Success).call(Outcome::Failure);
    assert_eq!(bench.state(), State::Closed);
    assert_eq!(bench.call(Outcome::Success).state(), State::Open, "15 of 20 is 75 %");
    let cause = Cause::Rate { successes: 15, answers: 20, window: POLICY.window, least: 0.8 };
    assert_eq!(bench.machine.transition(), Transition::Opened { cause, open_for: POLICY.open_for });
}

#[test]
fn eighty_percent_is_good_enough() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        bench.calls(4, Outcome::Success).call(Outcome::Failure);
    }
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn the_rate_is_the_policy_s_and_none_trips_by_nothing() {
    for (success_rate, expected) in [(0.0, State::Closed), (0.5, State::Closed), (0.8, State::Open)] {
        let mut bench = Bench::new();
        bench.machine = Machine::new(Policy { success_rate, ..POLICY });
        for _ in 0..10 {
            bench.call(Outcome::Success).call(Outcome::Failure);
            if bench.state() == State::Open {
                break;
            }
        }
        assert_eq!(bench.state(), expected, "half of 20 against {success_rate}");
    }
}

/// Half of the calls are given up: it is slow. All are: it hangs.
#[test]
fn silences_count_in_a_row_and_not_in_the_rate() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        bench.call(Outcome::Success).call(Outcome::Silence);
    }
    assert_eq!(bench.state(), State::Closed);
    assert_eq!(bench.calls(3, Outcome::Silence).state(), State::Closed);
    assert_eq!(bench.call(Outcome::Silence).state(), State::Open, "five without an answer between them");
    bench.pass(POLICY.open_for).call(Outcome::Silence);
    assert_eq!(bench.state(), State::Open, "nor is it a probe's success");
}

/// Callers that wait for too little say little each.
#[test]
fn impatience_counts_in_a_row_that_lasts() {
    let mut bench = Bench::new();
    assert_eq!(bench.calls(500, Outcome::Impatience).state(), State::Closed);
    bench.pass(SECOND).call(Outcome::Success).calls(500, Outcome::Impatience);
    bench.pass(SECOND - Duration::from_millis(1));
    assert_eq!(bench.call(Outcome::Impatience).state(), State::Closed, "it answered less than a second ago");
    assert_eq!(bench.pass(Duration::from_millis(1)).call(Outcome::Impatience).state(), State::Open);
    bench.pass(POLICY.open_for).call(Outcome::Impatience);
    assert_eq!(bench.state(), State::HalfOpen, "the next is the probe");
    bench.calls(3, Outcome::Impatience).call(Outcome::Success);
    assert_eq!(bench.calls(4, Outcome::Impatience).state(), State::HalfOpen);
    assert_eq!(bench.call(Outcome::Impatience).state(), State::Open, "it answers none of them");
}

/// The last target that there is may stand still for a moment.
#[test]
fn timeouts_of_the_last_count_in_a_row_that_lasts_and_in_the_rate() {
    let mut bench = Bench::new();
    assert_eq!(bench.calls(19, Outcome::TimeoutOfLast).state(), State::Closed);
    assert_eq!(bench.call(Outcome::TimeoutOfLast).state(), State::Open, "none of 20 was answered");
    bench.pass(POLICY.open_for).call(Outcome::TimeoutOfLast);
    assert_eq!(bench.state(), State::Open, "nor its probe");
    let mut bench = Bench::new();
    assert_eq!(bench.calls(4, Outcome::TimeoutOfLast).pass(SECOND).state(), State::Closed);
    assert_eq!(bench.call(Outcome::TimeoutOfLast).state(), State::Open);
}

#[test]
fn few_that_are_impatient_open_nothing() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        assert_eq!(bench.pass(SECOND * 3).call(Outcome::Impatience).state(), State::Closed, "four in ten seconds");
    }
}

#[test]
fn what_left_the_window_no_longer_counts_for_the_rate() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.call(Outcome::Success).calls(3, Outcome::Failure);
    }
    assert_eq!(bench.state(), State::Closed, "16 answers");
    bench.pass(SECOND * 10).calls(16, Outcome::Success).calls(4, Outcome::Failure);
    assert_eq!(bench.state(), State::Closed, "16 of 20, and the old ones are gone");
}

#[test]
fn neutral_answers_count_for_nothing() {
    let mut bench = Bench::new();
    bench.calls(4, Outcome::Failure).calls(100, Outcome::Neutral).call(Outcome::Failure);
    assert_eq!(bench.state(), State::Open, "they are no successes");
}

#[test]
fn open_refuses_until_its_time_and_says_when() {
    let mut bench = open();
    let until = bench.now + POLICY.open_for;
    assert_eq!(bench.admit(), Err(Refused { until: Some(until) }));
    assert_eq!(bench.pass(POLICY.open_for - Duration::from_nanos(1)).admit(), Err(Refused { until: Some(until) }));
    assert!(bench.pass(Duration::from_nanos(1)).admit().is_ok_and(|call| call.call == Call::Probe));
}

#[test]
fn a_spare_call_is_no_probe_while_somebody_else_may_be() {
    let mut bench = open();
    bench.pass(POLICY.open_for);
    for _ in 0..3 {
        bench.pass(UNWANTED - Duration::from_nanos(1));
        assert!(bench.machine.would_admit(bench.now) && !bench.machine.would_admit_spare(bench.now));
        bench.pass(Duration::from_nanos(1));
        assert!(bench.machine.would_admit_spare(bench.now));
        let probe = bench.admit().unwrap();
        bench.pass(UNWANTED);
        assert!(!bench.machine.would_admit_spare(bench.now), "one at a time");
        bench.machine.record(probe, Outcome::Success, bench.now);
        if bench.state() == State::HalfOpen {
            assert!(bench.machine.would_admit(bench.now) && !bench.machine.would_admit_spare(bench.now));
        }
    }
    assert_eq!(bench.state(), State::Closed);
    assert!(bench.machine.would_admit_spare(bench.now));
}

#[test]
fn a_spare_call_that_fails_opens_nothing() {
    let (breaker, now) = (Breaker::new(POLICY, |_| {}), Instant::now());
    (0..100).for_each(|_| breaker.admit_spare(now).unwrap().record(Outcome::Failure, now));
    assert_eq!(breaker.state(), State::Closed);
    (0..5).for_each(|_| breaker.admit(now).unwrap().record(Outcome::Failure, now));
    assert!(!breaker.would_admit_spare(now + POLICY.open_for) && breaker.admit_spare(now + POLICY.open_for).is_err());
    let then = now + POLICY.open_for + UNWANTED;
    let spare = breaker.admit_spare(then).unwrap();
    assert!(spare.is_probe() && spare.is_spare());
    spare.record(Outcome::Failure, then);
    assert_eq!(breaker.state(), State::HalfOpen);
    for _ in 0..3 {
        breaker.admit(then).unwrap().record(Outcome::Success, then);
    }
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn half_open_admits_one_probe_at_a_time() {
    let mut bench = half_open();
    let probe = bench.admit().unwrap();
    assert_eq!(bench.admit(), Err(Refused { until: None }));
    assert!(!bench.machine.would_admit(bench.now));
    bench.machine.record(probe, Outcome::Success, bench.now);
    assert!(bench.admit().is_ok());
}

#[test]
fn three_successes_close_and_two_do_not() {
    let mut bench = half_open();
    assert_eq!(bench.calls(2, Outcome::Success).state(), State::HalfOpen);
    assert_eq!(bench.call(Outcome::Success).state(), State::Closed);
    assert_eq!(bench.calls(4, Outcome::Failure).state(), State::Closed, "the old failures are forgotten");
}

#[test]
fn any_failed_probe_opens_again_for_the_whole_time() {
    let mut bench = half_open();
    bench.calls(2, Outcome::Success).call(Outcome::Failure);
    assert_eq!(bench.admit(), Err(Refused { until: Some(bench.now + POLICY.open_for) }));
    let opened = Transition::Opened { cause: Cause::Probe, open_for: POLICY.open_for };
    assert_eq!(bench.machine.transition(), opened);
}

#[test]
fn a_run_of_failures_is_told_with_how_long_it_took() {
    let mut bench = Bench::new();
    bench.call(Outcome::Failure).pass(SECOND * 11).call(Outcome::Failure).pass(SECOND).calls(4, Outcome::Failure);
    let cause = Cause::Run { failures: 5, within: SECOND };
    assert_eq!(bench.machine.transition(), Transition::Opened { cause, open_for: POLICY.open_for });
}

#[test]
fn a_target_that_fails_its_probes_is_asked_less_and_less_often() {
    let mut bench = Bench::new();
    bench.machine = Machine::new(Policy { max_open_for: 5 * POLICY.open_for, ..POLICY });
    for round in 0..2 {
        bench.calls(5, Outcome::Failure);
        for times in [1, 2, 4, 5, 5] {
            let left = times * POLICY.open_for;
            assert_eq!(bench.machine.time_left(bench.now), left, "round {round}");
            bench.pass(left).call(Outcome::Failure);
        }
        bench.pass(5 * POLICY.open_for).calls(3, Outcome::Success);
        assert_eq!((bench.state(), bench.machine.time_left(bench.now)), (State::Closed, Duration::ZERO));
    }
}

#[test]
fn a_probe_without_an_answer_leaves_its_place_to_another() {
    let mut bench = half_open();
    bench.calls(20, Outcome::Neutral);
    assert_eq!(bench.calls(3, Outcome::Success).state(), State::Closed);
}

#[test]
fn answers_from_before_a_transition_change_nothing() {
    let mut bench = Bench::new();
    let late = bench.admit().unwrap();
    bench.calls(5, Outcome::Failure).pass(POLICY.open_for);
    let probe = bench.admit().unwrap();
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::Neutral] {
        bench.machine.record(late, outcome, bench.now);
        assert_eq!(bench.state(), State::HalfOpen);
        assert_eq!(bench.admit(), Err(Refused { until: None }), "the probe is still out");
    }
    bench.machine.record(probe, Outcome::Failure, bench.now);
    bench.machine.record(probe, Outcome::Success, bench.now);
    assert_eq!(bench.state(), State::Open, "an answer counts once");
}

#[test]
fn a_success_threshold_that_no_probe_count_reaches_means_all_probes() {
    let mut bench = Bench::new();
    bench.machine = Machine::new(Policy { half_open_requests: 1, ..POLICY });
    bench.calls(5, Outcome::Failure).pass(POLICY.open_for).call(Outcome::Success);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn the_shared_breaker_tells_transitions_in_order_and_frees_dropped_probes() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let breaker = Breaker::new(POLICY, {
        let seen = Arc::clone(&seen);
        move |transition| seen.lock().unwrap().push(transition)
    });
    let start = Instant::now();
    for _ in 0..5 {
        breaker.admit(start).ok().unwrap().record(Outcome::Failure, start);
    }
    assert!(!breaker.would_admit(start));
    assert_eq!(breaker.time_left(start + SECOND), POLICY.open_for - SECOND);
    let later = start + POLICY.open_for;
    for _ in 0..3 {
        let probe = breaker.admit(later).ok().unwrap();
        assert!(probe.is_probe());
        assert!(breaker.admit(later).is_err());
    }
    for _ in 0..3 {
        breaker.admit(later).ok().unwrap().record(Outcome::Success, later);
    }
    assert!(breaker.is_closed());
    let opened =
        Transition::Opened { cause: Cause::Run { failures: 5, within: Duration::ZERO }, open_for: POLICY.open_for };
    assert_eq!(*seen.lock().unwrap(), [opened, Transition::HalfOpen, Transition::Closed]);
}

/// Everything that was answered since the breaker closed, and the rules read off the page.
struct Model {
    state: State,
    answers: Vec<(Instant, bool)>,
    until: Option<Instant>,
    probe_out: bool,
    successes: u32,
    epoch: u64,
    /// Probes that failed since it was last closed.
    failed_probes: u32,
}

impl Model {
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.state == State::Open && self.until.is_some_and(|until| now >= until) {
            (self.state, self.successes, self.probe_out) = (State::HalfOpen, 0, false);
            self.epoch += 1;
        }
        let admitted = self.state == State::Closed || self.state == State::HalfOpen && !self.probe_out;
        self.probe_out |= admitted && self.state == State::HalfOpen;
        admitted.then_some(self.epoch)
    }

    fn record(&mut self, epoch: u64, success: Option<bool>, now: Instant) {
        if epoch != self.epoch {
            return;
        }
        self.probe_out = false;
        let Some(success) = success else { return };
        if self.state == State::Closed {
            self.answers.push((now, success));
            let run: Vec<_> = self.answers.iter().rev().take_while(|(_, success)| !success).collect();
            let recent_failures = run.iter().filter(|(at, _)| now - *at <= POLICY.window).count();
            if recent_failures >= 5 {
                self.open(now);
            }
        } else if !success {
            self.failed_probes += 1;
            self.open(now);
        } else {
            self.successes += 1;
            if self.successes == 3 {
                (self.state, self.answers, self.failed_probes) = (State::Closed, Vec::new(), 0);
                self.epoch += 1;
            }
        }
    }

    fn open(&mut self, now: Instant) {
        let open_for = (POLICY.open_for * 2_u32.pow(self.failed_probes.min(10))).min(GROWING.max_open_for);
        (self.state, self.until) = (State::Open, Some(now + open_for));
        self.epoch += 1;
    }
}

const GROWING: Policy = Policy { max_open_for: Duration::from_secs(100), ..POLICY };

proptest! {
    /// Up to five calls are out at a time and end in any order. Fewer than 20 answers fall into any window, so that the
    /// run of failures alone decides; the rate has its tests above.
    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec((0..4u8, 0..5usize, 600..9_000u64), 0..300)) {
        let mut now = Instant::now();
        let mut machine = Machine::new(GROWING);
        let mut model = Model {
            state: State::Closed, answers: Vec::new(), until: None, probe_out: false, successes: 0, epoch: 0,
            failed_probes: 0,
        };
        let mut out: Vec<(Admitted, u64)> = Vec::new();
        for (action, pick, wait) in steps {
            now += Duration::from_millis(wait);
            if action == 0 || out.is_empty() {
                let (real, modelled) = (machine.admit(now), model.admit(now));
                prop_assert_eq!(real.is_ok(), modelled.is_some());
                out.extend(real.ok().zip(modelled));
            } else {
                let (call, epoch) = out.swap_remove(pick % out.len());
                let outcome = [Outcome::Success, Outcome::Failure, Outcome::Neutral][usize::from(action - 1)];
                machine.record(call, outcome, now);
                let success = match outcome { Outcome::Success => Some(true), Outcome::Failure | Outcome::Silence | Outcome::TimeoutOfLast => Some(false), Outcome::Impatience | Outcome::Neutral => None };
                model.record(epoch, success, now);
            }
            prop_assert_eq!(machine.state(), model.state);
            let left = model.until.filter(|_| model.state == State::Open).map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            prop_assert_eq!(machine.time_left(now), left);
        }
    }
}

proptest! {
    /// Answers come in bursts on whole seconds, so that the tenths of the window begin where the model's seconds do.
    #[test]
    fn trips_exactly_when_the_run_or_the_rate_says_so(
        answers in prop::collection::vec((prop::bool::weighted(0.15), prop::bool::weighted(0.8)), 0..200),
    ) {
        let mut bench = Bench::new();
        let mut seen: Vec<(Instant, bool)> = Vec::new();
        for (wait, success) in answers {
            let now = bench.pass(SECOND * u32::from(wait)).now;
            seen.push((now, success));
            bench.call(if success { Outcome::Success } else { Outcome::Failure });
            let run = seen.iter().rev().take_while(|(at, success)| !success && now - *at <= POLICY.window).count();
            let window: Vec<_> = seen.iter().filter(|(at, _)| now - *at < POLICY.window).collect();
            let successes = window.iter().filter(|(_, success)| *success).count();
            let trips = run >= 5 || window.len() >= 20 && successes * 5 < window.len() * 4;
            prop_assert_eq!(bench.state() == State::Open, trips);
            if trips { break; }
        }
    }
}

#[test]
fn a_probe_that_may_take_for_ever_holds_up_no_other_and_still_counts() {
    let (policy, now) = (Policy { open_for: Duration::ZERO, success_threshold: 2, ..POLICY }, Instant::now());
    let breaker = Breaker::new(policy, |_| {});
    (0..5).for_each(|_| breaker.admit(now).unwrap().record(Outcome::Failure, now));
    let mut stream = breaker.admit(now).unwrap();
    assert!(breaker.admit(now).is_err(), "one probe at a time");
    stream.yield_place();
    breaker.admit(now).unwrap().record(Outcome::Success, now);
    assert_eq!(breaker.state(), State::HalfOpen);
    stream.record(Outcome::Success, now);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn no_more_streams_probe_than_may_and_none_frees_another_ones_place() {
    let (policy, now) = (Policy { open_for: Duration::ZERO, ..POLICY }, Instant::now());
    let breaker = Breaker::new(policy, |_| {});
    (0..5).for_each(|_| breaker.admit(now).unwrap().record(Outcome::Failure, now));
    let stream = || {
        let mut permit = breaker.admit(now).unwrap();
        permit.yield_place();
        permit
    };
    let (first, second) = (stream(), stream());
    let probe = breaker.admit(now).unwrap();
    second.record(Outcome::Success, now);
    assert!(breaker.admit(now).is_err(), "the probe is still out");
    probe.record(Outcome::Neutral, now);
    let (_third, _last) = (stream(), stream());
    assert!(breaker.admit(now).is_err(), "three are out");
    first.record(Outcome::Neutral, now);
    assert!(breaker.admit(now).is_err(), "the last one keeps its place");
    assert_eq!(breaker.state(), State::HalfOpen);
}

#[test]
fn an_early_probe_that_succeeds_was_the_first_one() {
    let mut bench = open();
    assert!(bench.admit_early().is_err(), "what just failed is left alone for a second");
    let early = bench.pass(SECOND).admit_early().unwrap();
    assert!(bench.admit().is_err() && bench.admit_early().is_err(), "one at a time, and nobody else");
    let now = bench.now;
    bench.machine.record(early, Outcome::Success, now);
    assert_eq!(bench.state(), State::HalfOpen);
    assert_eq!(bench.call(Outcome::Success).state(), State::HalfOpen);
    assert_eq!(bench.call(Outcome::Success).state(), State::Closed);
}

#[test]
fn an_early_probe_that_brings_nothing_moves_nothing() {
    for outcome in [Outcome::Failure, Outcome::Neutral] {
        let mut bench = open();
        let (epoch, until) = (bench.machine.epoch, bench.machine.until());
        let early = bench.pass(SECOND).admit_early().unwrap();
        let now = bench.now;
        bench.machine.record(early, outcome, now);
        assert_eq!((bench.machine.epoch, bench.machine.until(), bench.state()), (epoch, until, State::Open));
        assert!(bench.pass(PAUSE - SECOND / 10).admit_early().is_err(), "{outcome:?}: not within the pause");
        assert!(bench.pass(SECOND / 10).admit_early().is_ok(), "{outcome:?}");
    }
}

#[test]
fn an_early_probe_from_before_the_first_probe_changes_nothing() {
    for outcome in [Outcome::Success, Outcome::Failure] {
        let mut bench = open();
        let early = bench.pass(SECOND).admit_early().unwrap();
        bench.pass(POLICY.open_for).call(Outcome::Success);
        let now = bench.now;
        bench.machine.record(early, outcome, now);
        assert_eq!(bench.state(), State::HalfOpen);
        assert_eq!(
            bench.calls(2, Outcome::Success).state(),
            State::Closed,
            "three probes closed it, and none was undone"
        );
    }
}

#[test]
fn one_success_that_is_enough_closes_early() {
    let now = Instant::now();
    let breaker = Breaker::new(Policy { success_threshold: 1, ..POLICY }, |_| {});
    (0..5).for_each(|_| breaker.admit(now).unwrap().record(Outcome::Failure, now));
    let later = now + SECOND;
    assert_eq!(breaker.early_from(), Some(later));
    let early = breaker.admit_early(PAUSE, later).unwrap();
    assert!(early.is_probe());
    std::mem::drop(early);
    assert_eq!((breaker.state(), breaker.early_from()), (State::Open, Some(later + PAUSE)), "dropped, it is neutral");
    breaker.admit_early(PAUSE, later + PAUSE).unwrap().record(Outcome::Success, later + PAUSE);
    assert_eq!((breaker.state(), breaker.early_from()), (State::Closed, None));
}
