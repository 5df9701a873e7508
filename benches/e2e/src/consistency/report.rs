//! The consistency's part as Markdown: how evenly masters are loaded, how long rows outlive their writes, what `write_through` costs, and
//! the aims with met or missed.

use std::fmt::Write;

use super::{
    Results,
    cost::{Cost, GATEWAYS, PUSHES, Row},
    hot::{FEW, Hot, SHORT, Spread},
    lag::{LIMIT, Lag, STEP, Way},
    skew::{Skew, imbalance},
};
use crate::{
    Flags,
    report::{Aim, aims_table, opening},
    rounds::MANY,
};

/// The most of the mean that the busiest master may have, where hot keys have copies.
const BUSIEST: f64 = 1.3;
/// The least share of the split's requests that never reach Redis, with L1.
const SPARED: f64 = 0.5;
/// The most that finding hot keys may cost.
const DETECTION: f64 = 0.02;

/// The whole report; `others` is the share of the machine's processor time that others took.
pub(super) fn markdown(results: &Results, flags: &Flags, others: f64) -> String {
    let mut text = opening("consistency", flags, others, &results.failures);
    results.hot.iter().for_each(|hot| text.push_str(&masters(hot, flags)));
    results.lags.iter().for_each(|lags| text.push_str(&invalidation(lags)));
    results.cost.iter().for_each(|cost| text.push_str(&write_through(cost)));
    text.push_str(&aims_table(&aims(results.hot.as_ref(), results.lags.as_deref())));
    text
}

fn masters(hot: &Hot, flags: &Flags) -> String {
    let (turns, length) = (flags.rounds * SHORT.0, flags.longest / SHORT.1);
    let mut text = format!(
        "One row a request, from three masters; c = {FEW} without L1; with it c = {MANY}, and {turns} runs of {length:?}.\n\n\
         | Keys asked for | Weir | requests/s | CPU µs/request | Reads of Redis ÷ requests | Masters, % of a core | Busiest ÷ mean, CPU | Busiest ÷ mean, reads |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    for row in &hot.0 {
        let masters = (0..3).map(|master| format!("{:.0}", row.median(|seen| seen.masters[master] * 100.0)));
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.1} | {:.3} | {} | {} | {} |",
            row.skew.name(),
            row.name(),
            row.median(|seen| seen.rate),
            row.median(|seen| seen.cpu),
            row.median(|seen| seen.reads.iter().sum()),
            masters.collect::<Vec<_>>().join(" / "),
            times(row.median(|seen| imbalance(&seen.masters))),
            times(row.median(|seen| imbalance(&seen.reads))),
        );
    }
    text.push('\n');
    text
}

/// Of nothing there is no mean.
fn times(seen: f64) -> String {
    if seen.is_finite() { format!("{seen:.2}") } else { "–".into() }
}

fn invalidation(lags: &[Lag]) -> String {
    let mut text = format!(
        "From a write's acknowledgement to the first answer with the new row, of a gateway that keeps it for an hour and is asked every {STEP:?}.\n\n\
         | Written by | Writes seen | p50 / p99 / most ms | Not within {LIMIT:?} | Answers with the old row |\n|---|---|---|---|---|\n"
    );
    for lag in lags {
        let times = [0.5, 0.99, 1.0].map(|quantile| lag.quantile(quantile).map(|millis| format!("{millis:.2}")));
        let times: Vec<String> = times.into_iter().map(|time| time.unwrap_or_else(|| "–".into())).collect();
        let (seen, times) = (lag.took.len(), times.join(" / "));
        let _ = writeln!(text, "| {} | {seen} | {times} | {} | {} |", lag.way.name(), lag.lost, lag.olds);
    }
    text.push('\n');
    text
}

fn write_through(cost: &Cost) -> String {
    let mut text = format!(
        "{GATEWAYS} gateways. {PUSHES:.0} pushes/s of one row at one of them; reads from the L1 of another one, c = {MANY}.\n\n\
         | Consistency | Push: p50 / p99 ms | Push: CPU µs, all gateways | Read: requests/s | Read: CPU µs/request |\n|---|---|---|---|---|\n"
    );
    for Row { name, pushes, reads } in &cost.0 {
        let _ = writeln!(
            text,
            "| {name} | {:.2} / {:.2} | {:.0} | {:.0} | {:.1} |",
            Row::median(pushes, |run| run.quantile(0.5)),
            Row::median(pushes, |run| run.quantile(0.99)),
            Row::median(pushes, |run| run.cost()),
            Row::median(reads, |run| run.rate()),
            Row::median(reads, |run| run.cost()),
        );
    }
    text.push('\n');
    text
}

fn aims(hot: Option<&Hot>, lags: Option<&[Lag]>) -> Vec<Aim> {
    let busiest = |skew: Skew, what: &str, seen: Option<f64>| {
        let aim = format!("{}, copies, no L1: the busiest master's {what} ≤ {BUSIEST} × the mean", skew.name());
        (aim, seen.map(|seen| (format!("{seen:.2} ×"), seen <= BUSIEST)))
    };
    let both = |skew: Skew| {
        let (cpu, reads) = (hot.and_then(|hot| hot.imbalance(skew)), hot.and_then(|hot| hot.read_imbalance(skew)));
        [busiest(skew, "CPU", cpu), busiest(skew, "reads", reads)]
    };
    let detection = |skew: Skew| {
        let seen = hot.and_then(|hot| hot.detection(skew));
        let aim = format!(
            "{}, L1, A B B A: CPU of a request with `hot_keys` ≤ {} more than without, in the median",
            skew.name(),
            percent(DETECTION)
        );
        (aim, seen.map(|seen| (spread(seen), seen.median <= DETECTION)))
    };
    let spared = hot.and_then(|hot| hot.spared(Skew::Split)).map(|seen| (percent(seen), seen >= SPARED));
    let strong = lags.and_then(|lags| lags.iter().find(|lag| lag.way == Way::WriteThrough));
    let olds = strong.map(|lag| (format!("{} of {} pushes", lag.olds, lag.took.len() + lag.lost), lag.olds == 0));
    let mut aims: Vec<Aim> = Skew::ALL.into_iter().flat_map(both).collect();
    aims.push((format!("{}, L1: ≥ {} of the requests never reach Redis", Skew::Split.name(), percent(SPARED)), spared));
    aims.extend(Skew::ALL.map(detection));
    aims.push(("`write_through`: no answer with the old row after a push was acknowledged".into(), olds));
    aims
}

/// The median, and how far what was seen lies apart.
fn spread(seen: Spread) -> String {
    let Spread { count, median, quartiles, extremes } = seen;
    let [[low, high], [least, most]] = [quartiles, extremes].map(|pair| pair.map(percent));
    format!("{}; half of {count} within {low} to {high}, all within {least} to {most}", percent(median))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::{
        super::hot::{COPIES, L1_HOT, L1_ONLY, Row, Seen},
        *,
    };

    fn hot(busiest: f64, reads: f64, cpu: f64) -> Hot {
        let seen = |setup| Seen {
            rate: 1.0,
            cpu: if setup == L1_HOT { cpu } else { 10.0 },
            masters: vec![busiest, 1.0, 1.0],
            reads: if setup == COPIES { vec![busiest, 1.0, 1.0] } else { vec![reads; 3] },
        };
        let row = |skew, setup| Row { skew, setup, seen: vec![seen(setup), seen(setup)] };
        Hot(Skew::ALL.into_iter().flat_map(|skew| [COPIES, L1_ONLY, L1_HOT].map(|setup| row(skew, setup))).collect())
    }

    fn lag(olds: u64) -> Lag {
        Lag { way: Way::WriteThrough, took: Histogram::new(3).expect("its bounds are sound"), lost: 0, olds }
    }

    #[test]
    fn a_missed_aim_says_so() {
        let verdicts = |hot: &Hot, olds: u64| {
            let aims =
                aims(Some(hot), Some(&[lag(olds)])).into_iter().map(|(_, seen)| seen.expect("it was measured").1);
            aims.collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&hot(1.0, 0.1, 10.1), 0), [true; 8]);
        assert_eq!(verdicts(&hot(2.0, 0.2, 10.3), 1), [false; 8]);
        assert!(aims(None, None).iter().all(|(_, seen)| seen.is_none()));
        let seen = aims(Some(&hot(1.0, 0.1, 10.1)), None)[6].1.clone().expect("it was measured").0;
        assert_eq!(seen, "1.0 %; half of 1 within 1.0 % to 1.0 %, all within 1.0 % to 1.0 %");
        let flags = Flags::parse(&[], &[], (4, 3.0)).expect("they are flags");
        assert!(masters(&hot(1.0, 0.0, 10.0), &flags).contains("| 1.00 | – |"));
        let text = masters(&hot(2.0, 0.2, 10.3), &flags);
        assert!(text.contains("| Zipf 1.1 | L1 | 1 | 10.0 | 0.600 | 200 / 100 / 100 | 1.50 | 1.00 |"), "{text}");
        assert!(text.contains("with it c = 32, and 64 runs of 250ms"), "{text}");
    }
}
