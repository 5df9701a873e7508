//! The moment against its promises one by one, then against a model that keeps every answer.

use loom::sync::{Arc, atomic::AtomicU64 as Modelled};
use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const P95: After = After::Quantile(0.95);

/// A percentile is told up to a sixteenth too late, and a microsecond.
fn near(told: Duration, exact: Duration) -> bool {
    told > exact && told <= exact + exact / 16 + Duration::from_micros(1)
}

#[test]
fn nothing_is_known_before_there_are_enough_answers() {
    for (quantile, enough) in [(0.5, 20), (0.95, 20), (0.99, 100), (0.999, 1000)] {
        let now = Instant::now();
        let moment = Moment::new(After::Quantile(quantile), now);
        for _ in 1..enough {
            moment.record(10 * MS, now);
            assert_eq!(moment.delay(now), None, "p{}", 100.0 * quantile);
        }
        moment.record(10 * MS, now);
        assert!(near(moment.delay(now).unwrap(), 10 * MS), "p{}", 100.0 * quantile);
    }
}

#[test]
fn it_is_the_percentile_of_the_last_whole_window() {
    let origin = Instant::now();
    let moment = Moment::new(P95, origin);
    (0..20).for_each(|_| moment.record(10 * MS, origin));
    // Closed at once, being the first; the next has ten seconds.
    (1..=95).for_each(|_| moment.record(20 * MS, origin));
    (1..=4).for_each(|_| moment.record(900 * MS, origin));
    assert!(near(moment.delay(origin).unwrap(), 10 * MS));
    moment.record(900 * MS, origin + WINDOW);
    assert!(near(moment.delay(origin + WINDOW).unwrap(), 20 * MS), "95 of 100 are that fast");
}

#[test]
fn it_is_never_before_a_millisecond() {
    let now = Instant::now();
    let moment = Moment::new(P95, now);
    (0..20).for_each(|_| moment.record(Duration::ZERO, now));
    assert_eq!(moment.delay(now), Some(EARLIEST));
    assert_eq!(Moment::new(After::Fixed(Duration::ZERO), now).delay(now), Some(EARLIEST));
    assert_eq!(Moment::new(After::Fixed(5 * MS), now).delay(now), Some(5 * MS));
}

#[test]
fn what_nobody_feeds_is_forgotten() {
    let origin = Instant::now();
    let moment = Moment::new(P95, origin);
    (0..20).for_each(|_| moment.record(10 * MS, origin));
    assert!(moment.delay(origin + LONGEST - MS).is_some());
    assert_eq!(moment.delay(origin + LONGEST), None);
}

#[test]
fn every_time_has_a_counter_and_counters_are_in_order() {
    for micros in (0..2_000).chain([65_535, 1 << 20, (1 << 27) - 1]) {
        let bound = upper(bucket(Duration::from_micros(micros)));
        assert!(bound > micros && bound <= micros + micros / 16 + 1, "{micros} {bound}");
    }
    assert_eq!(bucket(Duration::from_secs(1_000_000)), BUCKETS - 1);
    assert!((1..BUCKETS).all(|index| upper(index) > upper(index - 1)));
}

#[test]
fn neither_counting_nor_closing_a_window_allocates() {
    let origin = Instant::now();
    let moment = Moment::new(P95, origin);
    let counted = allocation_counter::measure(|| {
        (0..100).for_each(|second| moment.record(10 * MS, origin + second * Duration::from_secs(1)));
        assert!(moment.delay(origin + 99 * Duration::from_secs(1)).is_some());
    });
    assert_eq!(counted.count_total, 0);
}

#[test]
fn threads_lose_no_answer() {
    let now = Instant::now();
    let moment = Moment::new(P95, now);
    (0..20).for_each(|_| moment.record(MS, now));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| moment.record(MS, now)));
        }
    });
    assert_eq!(Word::load(&moment.count), 4_000);
}

/// A moment for models: loom walks each of its counters, so it has three. It was fed `answers`.
fn modelled(answers: u32, origin: Instant) -> Arc<Moment<Modelled>> {
    let moment = Moment::with(P95, origin, 3);
    (0..answers).for_each(|_| moment.record(Duration::ZERO, origin));
    Arc::new(moment)
}

fn counted(moment: &Moment<Modelled>) -> u64 {
    moment.buckets.iter().map(Word::load).sum()
}

/// Both answers find the window ready to be closed, at the same microsecond as it began.
#[test]
fn loom_one_closes_a_window_and_no_answer_is_lost() {
    loom::model(|| {
        let origin = Instant::now();
        let moment = modelled(18, origin);
        let other = {
            let moment = moment.clone();
            loom::thread::spawn(move || moment.record(Duration::from_micros(2), origin))
        };
        moment.record(Duration::from_micros(2), origin);
        other.join().unwrap();
        let (windows, left) = (Word::load(&moment.began), Word::load(&moment.count));
        assert_eq!((windows, left), (1, counted(&moment)), "closed once, and what it did not take is still counted");
        // Where one is counted and not in its counter yet, the window has one too few to tell a percentile.
        let known = moment.percentile(origin);
        assert!(
            matches!((left, known), (0, Some(known)) if known == Duration::from_micros(3))
                || (left, known) == (1, None)
        );
    });
}

/// Someone asks while a window is closed that had too few answers, and the one before is about to be forgotten.
#[test]
fn loom_nobody_reads_what_is_not_known() {
    loom::model(|| {
        let origin = Instant::now();
        let moment = modelled(20, origin);
        let later = origin + LONGEST;
        let closer = {
            let moment = moment.clone();
            loom::thread::spawn(move || moment.record(Duration::from_micros(2), later))
        };
        let known = moment.percentile(later - TICK);
        assert!(known.is_none_or(|known| known == Duration::from_micros(1)), "{known:?}");
        closer.join().unwrap();
        assert_eq!((moment.percentile(later), moment.percentile(later - TICK)), (None, None));
    });
}

/// Every answer since the window opened.
#[derive(Default)]
struct Model {
    began: u64,
    window: Vec<u64>,
    known: Option<(u64, u64)>,
}

impl Model {
    fn knows(&self, at: u64) -> Option<u64> {
        self.known.filter(|(closed, _)| at - closed < 60).map(|(_, micros)| micros)
    }

    fn record(&mut self, micros: u64, at: u64) {
        self.window.push(micros);
        let enough = self.window.len() >= 20;
        if enough && (at - self.began >= 10 || self.knows(at).is_none()) || at - self.began >= 60 {
            self.window.sort_unstable();
            let rank = (0.95 * self.window.len() as f64).ceil() as usize;
            self.known = enough.then(|| (at, self.window[rank - 1]));
            (self.began, self.window) = (at, Vec::new());
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_the_model(
        steps in prop::collection::vec((prop_oneof![9 => Just(0), 1 => 0..40u64], 1_000..200_000u64), 0..600),
    ) {
        let origin = Instant::now();
        let moment = Moment::new(P95, origin);
        let (mut at, mut model) = (0, Model::default());
        for (wait, micros) in steps {
            at += wait;
            let now = origin + Duration::from_secs(at);
            moment.record(Duration::from_micros(micros), now);
            model.record(micros, at);
            match (moment.delay(now), model.knows(at)) {
                (Some(told), Some(exact)) => prop_assert!(near(told, Duration::from_micros(exact)), "{told:?} {exact}"),
                (told, exact) => prop_assert!(told.is_none() && exact.is_none(), "{told:?} {exact:?}"),
            }
        }
    }
}
