//! The ladder's part as Markdown: what each phase was answered with, how soon all was well, what it costs, and the aims with met or
//! missed.

use std::{fmt::Write, time::Duration};

use super::{
    Results,
    cost::Cost,
    outage::{self, Answers, MODELS, Outage, PHASES, TOTAL},
    recovery::{BOUND, Fault, Recovery, Traffic},
    world::{DEADLINE, EXIT_AFTER, OPEN_FOR},
};
use crate::{
    Flags,
    faults::report::{latency, percent, seconds},
    report::{Aim, aims_table, opening, spread},
    rounds::MANY,
};

/// The least share answered in time at level 3 or better, and at level 2 or better where features and fallback are there.
const ANSWERED: f64 = 0.999;
const BETTER: f64 = 0.99;
/// The most that the ways down may cost, in µs a request.
const COST: f64 = 1.0;

/// The whole report; `others` is the share of the machine's processor time that others took.
pub(super) fn markdown(results: &Results, flags: &Flags, others: f64) -> String {
    let mut text = opening("ladder", flags, others, &results.failures);
    results.outage.iter().for_each(|seen| text.push_str(&outage(seen)));
    results.recoveries.iter().for_each(|seen| text.push_str(&recoveries(seen)));
    results.cost.iter().for_each(|seen| text.push_str(&cost(seen)));
    text.push_str(&aims_table(&aims(results)));
    text
}

fn outage(seen: &Outage) -> String {
    let mut text = format!(
        "Outage: {:?} of {:.0} requests/s, to be answered within {DEADLINE:?}, half of them of a model with a simpler model, a rule and \
         default outputs below it, half of one without the rule. Breakers stay open for {OPEN_FOR:?}; in the row of the whole minute, in which \
         everything fails, all times are the defaults.\n\n\
         | Model's pool | Redis | Simpler model's pool | Requests | Answered in time | p50 / p99 ms | Latest ms | With a rule: at level 0 / 1 / 2 / 3 | Without: at level 0 / 1 / 2 / 3 | Not in time |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        seen.phase * PHASES.len() as u32,
        outage::RATE * MODELS.len() as f64,
    );
    for (phase, answers) in PHASES.iter().zip(&seen.answers) {
        let states = [phase.pool, phase.store, phase.simpler].map(|state| state.name());
        let _ = writeln!(text, "| {} | {} |", states.join(" | "), answered(answers));
    }
    let states = [TOTAL.pool, TOTAL.store, TOTAL.simpler].map(|state| state.name()).join(" | ");
    let _ = writeln!(text, "| the whole minute: {states} | {} |", answered(&seen.total));
    let _ = writeln!(text, "| control: up | up | up | {} |\n", answered(&seen.control));
    text
}

fn answered(answers: &Answers) -> String {
    let Answers { tally, levels } = answers;
    let [with, without] = levels.map(|levels| levels[..4].iter().map(u64::to_string).collect::<Vec<_>>().join(" / "));
    format!(
        "{} | {} | {} | {:.1} | {with} | {without} | {}",
        tally.asked,
        percent(tally.share()),
        latency(tally),
        tally.slowest(),
        tally.losses(),
    )
}

fn recoveries(all: &[Recovery]) -> String {
    let mut text = format!(
        "Recovery, from the moment that the fault is lifted; breakers stay open for {OPEN_FOR:?}, a level outlives its reason by \
         {EXIT_AFTER:?}. Without callers, one asks once the breakers let somebody by.\n\n\
         | What failed | How | Callers meanwhile | Stood at level | Stands at level 0 after | First full answer after |\n\
         |---|---|---|---|---|---|\n"
    );
    let limit = format!("{:?}", BOUND + Duration::from_secs(1));
    for seen in all {
        let (what, state) = match seen.fault {
            Fault::Pool(state) => ("model's pool", state),
            Fault::Store(state) => ("Redis", state),
        };
        let traffic = match seen.traffic {
            Traffic::With => "yes",
            Traffic::Without => "none",
        };
        let (standing, full) = (seconds(seen.standing, &limit), seconds(seen.full, &limit));
        let _ = writeln!(text, "| {what} | {} | {traffic} | {} | {standing} | {full} |", state.name(), seen.stood);
    }
    text.push('\n');
    text
}

fn cost(seen: &Cost) -> String {
    let mut text = format!("Nothing fails:\n\n| Below the model | CPU µs/request, c = {MANY} |\n|---|---|\n");
    for (name, phases) in &seen.0 {
        let _ = writeln!(text, "| {name} | {} |", spread(phases));
    }
    text.push('\n');
    text
}

fn aims(results: &Results) -> Vec<Aim> {
    let outage = results.outage.as_ref();
    let whole = outage.map(|seen| share(&seen.whole(), 3, ANSWERED));
    let total = outage.map(|seen| share(&seen.total, 3, ANSWERED));
    let spared = outage.map(|seen| share(&seen.spared(), 2, BETTER));
    let recovered = results.recoveries.as_ref().map(|all| {
        let in_time = all.iter().filter(|seen| seen.is_in_time()).count();
        (format!("{in_time} of {}", all.len()), in_time == all.len())
    });
    let extra = results.cost.as_ref().map(|seen| (format!("{:+.2} µs", seen.extra()), seen.extra() <= COST));
    vec![
        (format!("outage: answered in time at level 3 or better ≥ {} %", ANSWERED * 100.0), whole),
        (
            format!(
                "outage of everything for a whole minute, default times: in time at level 3 or better ≥ {} %",
                ANSWERED * 100.0
            ),
            total,
        ),
        (
            format!(
                "outage, while features and simpler model are up: in time at level 2 or better ≥ {} %",
                BETTER * 100.0
            ),
            spared,
        ),
        (
            format!("recovery: at level 0, and answered in full, within open_for + exit_after + 2s = {BOUND:?}"),
            recovered,
        ),
        (format!("cost: the ways down cost ≤ {COST} µs a request (the median of the rounds' differences)"), extra),
    ]
}

fn share(answers: &Answers, worst: usize, least: f64) -> (String, bool) {
    let share = answers.share_to(worst);
    (percent(share), share >= least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        faults::{
            callers::{Call, End},
            tally::Window,
        },
        rounds::Phase,
    };

    /// So many requests of each model, all answered at one level.
    fn answers(level: u8, requests: usize) -> Answers {
        let from = std::time::Instant::now();
        let call = Call { due: from, took: Duration::from_millis(3), end: End::Status(200), level: Some(level) };
        Answers::of(&[vec![call; requests], vec![call; requests]], Window { from, to: from + DEADLINE })
    }

    fn phase(cpu: f64) -> Phase {
        Phase { rate: 1.0, p50: 1.0, p99: 1.0, cpu, backend_cpu: 1.0, load_cpu: 1.0 }
    }

    fn results(spared: u8, extra: f64) -> Results {
        let of_phase = |phase: &outage::Phase| answers(if phase.spares_the_rest() { spared } else { 3 }, 50);
        Results {
            outage: Some(Outage {
                phase: Duration::from_secs(6),
                answers: PHASES.iter().map(of_phase).collect(),
                total: answers(3.max(spared), 50),
                control: answers(0, 50),
            }),
            recoveries: None,
            cost: Some(Cost([("without", vec![phase(20.0)]), ("with", vec![phase(20.0 + extra)])])),
            failures: Vec::new(),
        }
    }

    #[test]
    fn defaults_for_all_do_not_pass() {
        let verdicts =
            |results: &Results| aims(results).into_iter().map(|(_, seen)| seen.map(|seen| seen.1)).collect::<Vec<_>>();
        assert_eq!(verdicts(&results(2, 0.5)), [Some(true), Some(true), Some(true), None, Some(true)]);
        assert_eq!(verdicts(&results(3, 1.5)), [Some(true), Some(true), Some(false), None, Some(false)]);
        assert_eq!(verdicts(&results(4, 1.5)), [Some(false), Some(false), Some(false), None, Some(false)]);
    }

    #[test]
    fn each_phase_has_its_row() {
        let text = outage(&results(2, 0.5).outage.expect("it was measured"));
        assert!(text.contains("| 500 | up | up | 100 | 100.000 % |"), "{text}");
        assert!(text.contains("| hangs | SIGSTOP | hangs | 100 | 100.000 %"), "{text}");
        assert!(text.contains("0 / 0 / 50 / 0 | 0 / 0 / 50 / 0 | – |"), "{text}");
        assert!(text.contains("| the whole minute: hangs | SIGSTOP | hangs | 100 | 100.000 %"), "{text}");
        assert_eq!(text.matches("\n| ").count(), PHASES.len() + 3);
    }
}
