//! The faults' part as Markdown: what each phase lost and cost, and the aims with met or missed.
//!
//! A share is never rounded up, so that nothing reads 100 % that lost a request.

use std::{fmt::Write, time::Duration};

use super::{
    Results, Struck,
    churn::{self, Churn},
    cluster::{self, ClusterFailover},
    failover::{self, Failover, Kind, Loss},
    flood::{self, Flood},
    proxies::DEADLINE,
    tally::Tally,
    trial::{self, Fault},
};
use crate::{
    Flags,
    report::{Aim, aims_table, opening},
};

/// Names of the proxies.
pub(super) const ENVOY: &str = "Envoy";
pub(super) const WEIR: &str = "Weir";

/// The least share of requests that must be answered in time under churn, and the most extra load.
const CHURN_SHARE: f64 = 0.999;
const CHURN_LOAD: f64 = 1.2;
/// In how long what failed has its share back. It is to be so from the closing of its breaker on, and is counted from its return,
/// which comes before that.
const BACK: Duration = Duration::from_secs(5);
/// How much more than the control's the high tier's p99 may change under a flood.
const FLOOD_CHANGE: f64 = 1.2;

/// The whole report; `others` is the share of the machine's processor time that others took.
pub(super) fn markdown(results: &Results, flags: &Flags, others: f64) -> String {
    let mut text = opening("faults", flags, others, &results.failures);
    text.push_str(&struck(&results.struck));
    results.churn.iter().for_each(|seen| text.push_str(&churned(seen)));
    text.push_str(&failovers(&results.failovers, results.cluster.as_ref()));
    results.flood.iter().for_each(|floods| text.push_str(&flooded(floods)));
    text.push_str(&aims(results));
    text
}

/// In percent, to three digits behind the point, cut off.
pub(super) fn percent(share: f64) -> String {
    format!("{:.3} %", (share * 1e5).floor() / 1e3)
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::BrownOut => "brown-out",
        Fault::Crash => "crash",
    }
}

pub(super) fn latency(tally: &Tally) -> String {
    format!("{:.1} / {:.1}", tally.quantile(0.5), tally.quantile(0.99))
}

fn struck(all: &[Struck]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "One of three endpoints: {:?} → {:?} (brown-out), `kill -9` (crash). {:.0} requests/s, to be answered within {DEADLINE:?}; beside \
         them {:.0}/s straight to a healthy endpoint.\n\n\
         | Fault | Proxy | Phase | Requests | Answered in time | Arrivals ÷ requests | p50 / p99 ms | Not in time | Straight: in time | Straight: p50 / p99 ms |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        trial::TAKES,
        trial::SLOW,
        trial::RATE,
        trial::CONTROL_RATE,
    );
    for Struck { fault, proxy, through, straight } in all {
        for (index, phase) in ["before", "during", "after"].into_iter().enumerate() {
            let (tally, control) = (&through.0[index], &straight.0[index]);
            let _ = writeln!(
                text,
                "| {} | {proxy} | {phase} | {} | {} | {:.3} | {} | {} | {} | {} |",
                name(*fault),
                tally.asked,
                percent(tally.share()),
                tally.load(),
                latency(tally),
                tally.losses(),
                percent(control.share()),
                latency(control),
            );
        }
    }
    text.push('\n');
    text
}

fn churned(seen: &Churn) -> String {
    let mut text = format!(
        "Churn: {} × `kill -9` among {} endpoints, and their returns, in {:?} of {:.0} requests/s; one is always alive.\n\n\
         | | Requests | Answered in time | Arrivals ÷ requests | p50 / p99 ms | Slowest ms | Later than {:?} | Not in time |\n\
         |---|---|---|---|---|---|---|---|\n",
        seen.deaths,
        trial::ENDPOINTS,
        seen.length,
        churn::RATE,
        DEADLINE + churn::GRACE,
    );
    for (setup, tally) in [("through Weir", &seen.through), ("straight to one that never dies", &seen.straight)] {
        let _ = writeln!(
            text,
            "| {setup} | {} | {} | {:.3} | {} | {:.1} | {} | {} |",
            tally.asked,
            percent(tally.share()),
            tally.load(),
            latency(tally),
            tally.slowest(),
            tally.slower_than(DEADLINE + churn::GRACE),
            tally.losses(),
        );
    }
    text.push('\n');
    text
}

pub(super) fn seconds(time: Option<Duration>, limit: &str) -> String {
    time.map_or_else(|| format!("not within {limit}"), |time| format!("{:.2} s", time.as_secs_f64()))
}

fn failovers(models: &[Failover], cluster: Option<&ClusterFailover>) -> String {
    if models.is_empty() && cluster.is_none() {
        return String::new();
    }
    let mut text = "| Component | Failover type | Detection time | Recovery time | Not answered as before, meanwhile | Back in use after its return |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for seen in models {
        let fault = match seen.loss {
            Loss::Killed => "`kill -9`",
            Loss::Stopped => "SIGSTOP",
        };
        let (lost, asked) = seen.lost;
        let (component, stands_in) = match seen.kind {
            Kind::Endpoint => ("Model endpoint", "the other endpoints of its pool"),
            Kind::FeatureServer => ("Feature server, one of two", "the other one"),
        };
        let _ = writeln!(
            text,
            "| {component}, {fault} | {stands_in} | {} | {} | {lost} of {asked} | {}; {:.0} % in the end |",
            seconds(seen.detected, "4 s"),
            seconds(Some(seen.recovered), ""),
            seconds(seen.returned, "8 s"),
            seen.share * 100.0,
        );
    }
    if let Some(seen) = cluster {
        let (degraded, asked) = seen.degraded;
        let _ = writeln!(
            text,
            "| Redis master, `kill -9` | its replica, by Redis itself (`cluster-node-timeout` {:?}) | Weir {}, Redis {} | Weir {}, Redis {} | {degraded} of {asked} | – |",
            cluster::NODE_TIMEOUT,
            seconds(seen.weir_saw, "30 s"),
            seconds(seen.redis_saw, "30 s"),
            seconds(seen.weir_recovered, "30 s"),
            seconds(seen.redis_recovered, "30 s"),
        );
    }
    let _ = writeln!(
        text,
        "\nAn endpoint or a feature server is back in use once it has {:.0} % of an even share of the requests; what it has in the end is of an even share too.\n",
        failover::SHARE * 100.0
    );
    text
}

fn flooded([through, straight]: &[Flood; 2]) -> String {
    let mut text = format!(
        "Flood: {:.0} requests/s of the best-effort tier, ten times what the models can do ({} at once, {:?} each), beside {:.0}/s of the high tier, to be answered within {:?}.\n\n\
         | The high tier | p50 / p99 ms, quiet | p50 / p99 ms, flooded | p99, times quiet | Answered in time, flooded | The flood: answered | The flood: not | The generator's part of a core |\n\
         |---|---|---|---|---|---|---|---|\n",
        flood::rate(),
        flood::SLOTS,
        flood::TAKES,
        flood::STEADY,
        flood::DEADLINE,
    );
    for (setup, seen) in [("through Weir", through), ("straight to a model, the flood to another", straight)] {
        let _ = writeln!(
            text,
            "| {setup} | {} | {} | {:.2} | {} | {} of {} | {} | {:.2} |",
            latency(&seen.quiet),
            latency(&seen.flooded),
            seen.change(),
            percent(seen.flooded.share()),
            seen.flood.in_time,
            seen.flood.asked,
            seen.flood.losses(),
            seen.generator,
        );
    }
    text.push('\n');
    text
}

fn aims(results: &Results) -> String {
    let mut rows = vec![beside_envoy(&results.struck, Fault::BrownOut), beside_envoy(&results.struck, Fault::Crash)];
    rows.extend(under_churn(results.churn.as_ref()));
    rows.push(back(&results.failovers));
    rows.push(under_flood(results.flood.as_ref()));
    aims_table(&rows)
}

fn beside_envoy(all: &[Struck], fault: Fault) -> Aim {
    let find = |proxy| all.iter().find(|struck| struck.fault == fault && struck.proxy == proxy);
    let seen = find(WEIR).zip(find(ENVOY)).map(|(weir, envoy)| {
        let (weir, envoy) = (weir.through.struck(), envoy.through.struck());
        let told = |tally: &Tally| format!("{} at {:.3}", percent(tally.share()), tally.price());
        // As far as is told: one retry in ten thousand requests is no more load.
        let told_price = |tally: &Tally| (tally.price() * 1000.0).round();
        let met = weir.share() >= envoy.share() && told_price(&weir) <= told_price(&envoy);
        (format!("{} beside {}", told(&weir), told(&envoy)), met)
    });
    let aim = "answered in time no less than Envoy's, at no more arrivals for each such answer";
    (format!("{}, during and after: {aim}", name(fault)), seen)
}

fn under_churn(seen: Option<&Churn>) -> [Aim; 3] {
    let limit = DEADLINE + churn::GRACE;
    let late = seen.map(|seen| {
        let [weir, control] = [&seen.through, &seen.straight].map(|tally| (tally.slower_than(limit), tally.slowest()));
        let told =
            format!("{} later, the last at {:.1} ms; straight {}, {:.1} ms", weir.0, weir.1, control.0, control.1);
        (told, weir.0 == 0)
    });
    let share = seen.map(|seen| (percent(seen.through.share()), seen.through.share() >= CHURN_SHARE));
    let load = seen.map(|seen| (format!("{:.3} ×", seen.through.load()), seen.through.load() <= CHURN_LOAD));
    [
        (format!("churn: no answer later than the deadline + {:?}", churn::GRACE), late),
        (format!("churn: answered in time ≥ {} %", CHURN_SHARE * 100.0), share),
        (format!("churn: arrivals ≤ {CHURN_LOAD} × requests"), load),
    ]
}

fn back(failovers: &[Failover]) -> Aim {
    let latest = failovers.iter().map(|seen| seen.returned.unwrap_or(Duration::MAX)).max();
    let seen = latest.map(|latest| {
        let told = Some(latest).filter(|latest| *latest < Duration::MAX);
        (format!("{} after its return", seconds(told, "8 s")), latest <= BACK)
    });
    (format!("share back within {} s of its breaker's closing, an endpoint and a feature server", BACK.as_secs()), seen)
}

fn under_flood(floods: Option<&[Flood; 2]>) -> Aim {
    let seen = floods.map(|[through, straight]| {
        let beyond = through.change() / straight.change();
        (format!("{beyond:.2} ×"), beyond <= FLOOD_CHANGE)
    });
    (format!("flood: the high tier's p99 changes ≤ {FLOOD_CHANGE} × as much as straight"), seen)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{
        super::{
            callers::{Call, End},
            tally::Window,
            trial::Phases,
        },
        *,
    };

    /// A thousand requests of which so many were lost, and so many arrivals.
    fn tally(lost: usize, arrivals: usize) -> Tally {
        let from = Instant::now();
        let call = |index| Call {
            due: from,
            took: Duration::from_millis(if index < lost { 41 } else { 2 }),
            level: None,
            end: if index < lost { End::Status(504) } else { End::Status(200) },
        };
        let calls: Vec<Call> = (0..1000).map(call).collect();
        Tally::of(&calls, &vec![from; arrivals], Window { from, to: from + DEADLINE }, DEADLINE)
    }

    fn struck_by(proxy: &'static str, lost: usize, arrivals: usize) -> Struck {
        let phases = || Phases(std::array::from_fn(|_| tally(lost, arrivals)));
        Struck { fault: Fault::Crash, proxy, through: phases(), straight: phases() }
    }

    #[test]
    fn an_aim_needs_both_the_share_and_its_price() {
        let verdict = |weir: (usize, usize)| {
            let all = [struck_by(WEIR, weir.0, weir.1), struck_by(ENVOY, 2, 1010)];
            beside_envoy(&all, Fault::Crash).1.expect("both were measured").1
        };
        assert_eq!([(2, 1010), (1, 1000), (3, 1000), (0, 1020)].map(verdict), [true, true, false, false]);
        assert!(beside_envoy(&[struck_by(WEIR, 0, 1000)], Fault::Crash).1.is_none());
    }

    #[test]
    fn the_last_that_comes_back_decides() {
        let seen = |returned| Failover {
            kind: Kind::Endpoint,
            loss: Loss::Killed,
            detected: None,
            recovered: Duration::ZERO,
            lost: (0, 1),
            returned,
            share: 1.0,
        };
        let verdict = |all: &[Option<u64>]| {
            let all: Vec<_> = all.iter().map(|millis| seen(millis.map(Duration::from_millis))).collect();
            back(&all).1
        };
        assert_eq!(verdict(&[]), None, "it was not measured");
        assert_eq!(verdict(&[Some(500), Some(1320)]), Some(("1.32 s after its return".to_owned(), true)));
        assert_eq!(verdict(&[Some(500), Some(5010)]), Some(("5.01 s after its return".to_owned(), false)));
        assert_eq!(verdict(&[None, Some(500)]), Some(("not within 8 s after its return".to_owned(), false)));
    }

    #[test]
    fn a_share_is_never_rounded_up() {
        assert_eq!(percent(0.999_999), "99.999 %");
        assert_eq!(percent(1.0), "100.000 %");
    }

    #[test]
    fn churn_has_three_verdicts_and_shows_its_losses() {
        let seen = Churn { length: DEADLINE, deaths: 7, through: tally(2, 1201), straight: tally(0, 1000) };
        let verdicts = under_churn(Some(&seen)).map(|(_, seen)| seen.expect("it was measured").1);
        assert_eq!(verdicts, [false, false, false]);
        let text = churned(&seen);
        assert!(text.contains("| through Weir | 1000 | 99.800 % | 1.201 |") && text.contains("2 × 504"), "{text}");
        let seen = Churn { through: tally(0, 1000), ..seen };
        assert!(under_churn(Some(&seen)).iter().all(|(_, seen)| seen.as_ref().is_some_and(|seen| seen.1)));
    }
}
