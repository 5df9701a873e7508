//! The feature servers' part as Markdown: the table, the ratios that have targets, those that were missed in bold.

use std::{fmt::Write, iter::zip};

use super::{MANY, Seen, Setup, data::SIZES, full::Full, servers::L1_MIB};
use crate::{
    Flags,
    report::{occasion, versions},
    rounds::{Phase, median},
};

/// Names of the setups, which targets look up.
pub(super) const FLOOR: &str = "raw HMGETs";
pub(super) const FEAST_1: &str = "Feast, 1 worker";
pub(super) const FEAST_4: &str = "Feast, 4 workers";
pub(super) const WEIR_REDIS: &str = "Weir from Redis";
pub(super) const WEIR_L1: &str = "Weir from L1";
pub(super) const BEFORE_REDIS: &str = "before, from Redis";
pub(super) const BEFORE_L1: &str = "before, from L1";

/// MiB that Weir may take with a full L1.
const RESIDENT: f64 = 160.0;

/// What is said about a run beside its numbers.
pub(super) struct Circumstances<'a> {
    pub(super) flags: &'a Flags,
    /// Share of the machine's processor time that others took during the run.
    pub(super) others: f64,
    pub(super) full: Option<Full>,
}

/// The whole report.
pub(super) fn markdown(setups: &[Setup], about: &Circumstances<'_>) -> String {
    let Flags { programs, rounds, longest, .. } = about.flags;
    let mut text = format!(
        "{}`make bench`: {rounds} rounds, runs of {longest:?} (c = {MANY}) and {:?} (c = 1).\n{}.\n\n",
        occasion(about.others),
        *longest / 2,
        versions(programs).join(", "),
    );
    text.push_str(&failures(setups));
    text.push_str(&table(setups));
    text.push_str(&targets(setups));
    text.push_str(&memory(setups, about.full));
    text
}

fn failures(setups: &[Setup]) -> String {
    let mut text = String::new();
    for setup in setups {
        if let Some(failure) = &setup.failure {
            let _ = writeln!(text, "**{} failed**: {}\n", setup.name, failure.replace(['\n', '|'], " "));
        }
    }
    if setups.iter().all(|setup| setup.name != WEIR_REDIS) {
        text.push_str("**Weir was not measured.**\n\n");
    }
    text
}

fn table(setups: &[Setup]) -> String {
    let heads = [
        "Entities × features".into(),
        "Reader".into(),
        format!("CPU µs/request, c = {MANY}"),
        "CPU µs/request, c = 1".into(),
        format!("Redis CPU µs/request, c = {MANY}"),
        format!("requests/s, c = {MANY}"),
        "requests/s, c = 1".into(),
        format!("p50 / p99 ms, c = {MANY}"),
        "p50 / p99 ms, c = 1".into(),
    ];
    let mut text = format!("| {} |\n{}|\n", heads.join(" | "), "|---".repeat(heads.len()));
    for (index, size) in SIZES.iter().enumerate() {
        let measured = |setup: &&Setup| setup.works() && !setup.seen[index].many.is_empty();
        for setup in setups.iter().filter(measured) {
            let _ = writeln!(text, "| {} | {} | {} |", size.name(), setup.name, cells(&setup.seen[index]).join(" | "));
        }
    }
    text.push('\n');
    text
}

fn cells(seen: &Seen) -> [String; 7] {
    let of = |phases: &[Phase], part: fn(&Phase) -> f64| median(phases.iter().map(part));
    let latency = |phases: &[Phase]| {
        let millis = [of(phases, |phase| phase.p50), of(phases, |phase| phase.p99)].map(|micros| digits(micros / 1e3));
        millis.join(" / ")
    };
    [
        spread(&seen.many, |phase| phase.cpu, digits),
        spread(&seen.one, |phase| phase.cpu, digits),
        digits(of(&seen.many, |phase| phase.backend_cpu)),
        spread(&seen.many, |phase| phase.rate, whole),
        spread(&seen.one, |phase| phase.rate, whole),
        latency(&seen.many),
        latency(&seen.one),
    ]
}

/// The median, with the least and the most of any round.
fn spread(phases: &[Phase], part: fn(&Phase) -> f64, written: fn(f64) -> String) -> String {
    let seen = phases.iter().map(part);
    let (least, most) = (seen.clone().fold(f64::INFINITY, f64::min), seen.clone().fold(0.0, f64::max));
    format!("{} ({}–{})", written(median(seen)), written(least), written(most))
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A ratio of two setups that has a target.
#[derive(Clone, Copy)]
struct Aim {
    head: &'static str,
    /// The other setup.
    to: &'static str,
    ratio: fn(&Phase, &Phase) -> f64,
    /// The least from Redis and from L1; `None`: it is only told.
    from_redis: Option<f64>,
    from_l1: Option<f64>,
    /// The fewest entities that it is for.
    entities: usize,
}

const fn throughput(weir: &Phase, other: &Phase) -> f64 {
    weir.rate / other.rate
}

const fn saving(weir: &Phase, other: &Phase) -> f64 {
    other.cpu / weir.cpu
}

const AIMS: [Aim; 5] = {
    let rate = Aim {
        head: "requests/s ÷ those of Feast, 1 worker",
        to: FEAST_1,
        ratio: throughput,
        from_redis: Some(20.0),
        from_l1: Some(40.0),
        entities: 1,
    };
    let cpu = Aim {
        head: "CPU of Feast, 1 worker ÷ its own",
        ratio: saving,
        from_redis: Some(30.0),
        from_l1: Some(50.0),
        ..rate
    };
    [
        rate,
        Aim { head: "requests/s ÷ those of Feast, 4 workers", to: FEAST_4, ..rate },
        cpu,
        Aim { head: "CPU of Feast, 4 workers ÷ its own", to: FEAST_4, ..cpu },
        Aim {
            head: "requests/s ÷ the floor's",
            to: FLOOR,
            ratio: throughput,
            from_redis: Some(0.5),
            from_l1: None,
            entities: 50,
        },
    ]
};

fn targets(setups: &[Setup]) -> String {
    let heads: Vec<String> = AIMS.iter().map(|aim| format!("{}{}", aim.head, wanted(aim))).collect();
    let mut text = format!(
        "Ratios within a round, c = {MANY}; **bold** is a target missed.\n\n| | Entities × features | {} | |\n{}|\n",
        heads.join(" | "),
        "|---".repeat(heads.len() + 3),
    );
    for name in [WEIR_REDIS, WEIR_L1] {
        for (index, size) in SIZES.iter().enumerate() {
            let judged = AIMS.iter().map(|aim| {
                let least = if name == WEIR_L1 { aim.from_l1 } else { aim.from_redis };
                judge(paired(setups, (name, aim.to), index, aim.ratio), least.filter(|_| size.entities >= aim.entities))
            });
            let (cells, verdicts): (Vec<String>, Vec<Verdict>) = judged.unzip();
            let verdict = verdicts.into_iter().max().unwrap_or(Verdict::Met);
            let _ = writeln!(text, "| {name} | {} | {} | {} |", size.name(), cells.join(" | "), verdict.words());
        }
    }
    text.push('\n');
    text
}

fn wanted(aim: &Aim) -> String {
    match (aim.from_redis, aim.from_l1) {
        (Some(redis), Some(l1)) => format!(" (≥ {redis}, from L1 {l1})"),
        (Some(redis), None) => format!(" (≥ {redis} from {} entities)", aim.entities),
        _ => String::new(),
    }
}

/// The worst comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Met,
    Unmeasured,
    Missed,
}

impl Verdict {
    const fn words(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Unmeasured => "not measured",
            Self::Missed => "**missed**",
        }
    }
}

fn judge(seen: Option<f64>, least: Option<f64>) -> (String, Verdict) {
    match (seen, least) {
        (None, _) => ("–".into(), Verdict::Unmeasured),
        (Some(seen), Some(least)) if seen < least => (format!("**{}**", short(seen)), Verdict::Missed),
        (Some(seen), _) => (short(seen), Verdict::Met),
    }
}

/// A ratio; cut off and not rounded up, so that one below its target does not read as the target.
fn short(ratio: f64) -> String {
    let scale = if ratio < 10.0 { 100.0 } else { 10.0 };
    let decimals = if ratio < 10.0 { 2 } else { 1 };
    format!("{:.decimals$}", (ratio * scale).floor() / scale)
}

/// The median over the rounds of `ratio` of two setups' runs at one size in the same round.
fn paired(setups: &[Setup], names: (&str, &str), size: usize, ratio: fn(&Phase, &Phase) -> f64) -> Option<f64> {
    let find = |name: &str| setups.iter().find(|setup| setup.name == name && setup.works());
    let (left, right) = (find(names.0)?, find(names.1)?);
    let seen = median(zip(&left.seen[size].many, &right.seen[size].many).map(|(left, right)| ratio(left, right)));
    seen.is_finite().then_some(seen)
}

fn memory(setups: &[Setup], full: Option<Full>) -> String {
    let resident: Vec<String> = setups
        .iter()
        .filter(|setup| setup.works() && setup.server().is_some())
        .map(|setup| format!("{} {:.0}", setup.name, setup.resident))
        .collect();
    let mut text = format!("Resident MiB after the last run: {}.\n\n", resident.join(", "));
    let (seen, verdict) = match full {
        None => ("–".into(), "not measured"),
        Some(Full { rows, held, resident }) => (
            format!("{resident:.0} MiB, holding {held:.0} MiB: {:.0} k rows of 10 features", rows / 1e3),
            if resident <= RESIDENT { "met" } else { "**missed**" },
        ),
    };
    text.push_str("| Target | Seen | |\n|---|---|---|\n");
    let _ = writeln!(text, "| resident with a full L1 of {L1_MIB} MiB ≤ {RESIDENT} MiB | {seen} | {verdict} |");
    text
}

#[cfg(test)]
mod tests {
    use super::{super::Reader, *};

    fn setup(name: &'static str, seen: &[(f64, f64)]) -> Setup {
        let mut setup = Setup::begun(name, Ok(Reader::Missing));
        for size in &mut setup.seen {
            let phase = |&(rate, cpu)| Phase { rate, p50: 1.0, p99: 2.0, cpu, backend_cpu: 1.0, load_cpu: 1.0 };
            size.many = seen.iter().map(phase).collect();
            size.one.clone_from(&size.many);
        }
        setup
    }

    #[test]
    fn each_target_is_judged_within_its_round_and_a_missed_one_is_bold() {
        let setups = [
            setup(FLOOR, &[(10_000.0, 5.0), (20_000.0, 5.0)]),
            setup(FEAST_1, &[(100.0, 900.0), (200.0, 900.0)]),
            setup(FEAST_4, &[(250.0, 900.0), (500.0, 900.0)]),
            setup(WEIR_REDIS, &[(4000.0, 10.0), (8000.0, 10.0)]),
        ];
        let text = targets(&setups);
        let small = "| Weir from Redis | 1 × 10 | 40.0 | **16.0** | 90.0 | 90.0 | 0.40 | **missed** |";
        let large = "| Weir from Redis | 50 × 10 | 40.0 | **16.0** | 90.0 | 90.0 | **0.40** | **missed** |";
        let absent = "| Weir from L1 | 1 × 10 | – | – | – | – | – | not measured |";
        for line in [small, large, absent] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(table(&setups).contains("| 50 × 200 | Feast, 1 worker | 900 (900–900) |"));
    }

    #[test]
    fn what_failed_or_was_left_out_is_said() {
        let mut failed = setup(FEAST_1, &[(1.0, 1.0)]);
        failed.fail(&anyhow::anyhow!("no\nanswer"));
        let text = failures(&[failed]);
        assert!(text.contains("**Feast, 1 worker failed**: no answer"), "{text}");
        assert!(text.contains("Weir was not measured"), "{text}");
    }

    #[test]
    fn a_ratio_is_never_rounded_up_to_its_target() {
        assert_eq!(judge(Some(19.99), Some(20.0)), ("**19.9**".into(), Verdict::Missed));
        assert_eq!(judge(Some(0.4999), Some(0.5)), ("**0.49**".into(), Verdict::Missed));
        assert_eq!(judge(Some(20.0), Some(20.0)), ("20.0".into(), Verdict::Met));
    }

    #[test]
    fn a_full_l1_has_a_limit() {
        let full = |resident| Full { rows: 120_000.0, held: 99.0, resident };
        assert!(
            memory(&[], Some(full(161.0))).contains("161 MiB, holding 99 MiB: 120 k rows of 10 features | **missed**")
        );
        assert!(memory(&[], Some(full(160.0))).contains("| met |"));
        assert!(memory(&[], None).contains("| – | not measured |"));
    }
}
