//! The prediction cache's part: Weir's hits beside a bare hyper server that answers the same bytes.
//!
//! The floor is the model server itself, asked straight: one thread of hyper that reads a body and answers a fixed one. Weir answers the
//! same requests from its cache and asks it nothing: before and after, every request has to be a hit, answered with the model's own words.

use std::{fmt::Write as _, net::SocketAddr, num::NonZeroU64};

use anyhow::{Context, Result, ensure};

use crate::{
    Flags, Folder, begun,
    caller::Caller,
    cpu, feast,
    peers::{self, Place, Site},
    processes, report,
    rounds::{self, MANY, Schedule, Setup, median},
    verify,
};

/// The flags that this part has beside those that all have.
pub(crate) const FLAGS: &[&str] = &["--weir", "--redis"];

const FLOOR: &str = "bare hyper server";
const HIT: &str = "Weir, a hit";

/// Of the floor's requests a second, what a hit is to reach.
const TARGET: f64 = 0.8;

/// Different requests, each kept.
const REQUESTS: i64 = 100;

pub(crate) fn run(flags: &Flags) -> Result<()> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let weir = flags.programs.weir.as_ref().context("--weir is needed")?;
    let folder = Folder::make()?;
    let place = Place(&folder.0);
    let backend = peers::backend(place)?;
    let site = Site { place, backend: backend.address };
    let requests = || (0..REQUESTS).map(|row| verify::inference(&body(row))).collect::<Vec<_>>();
    let mut setups =
        vec![Setup::new(FLOOR, None, requests()), begun(HIT, peers::weir_keeping(site, weir), requests())];
    check(&mut setups, false);

    let schedule = flags.schedule();
    let before = cpu::Machine::now(&processes(&setups, &backend))?;
    rounds::closed(&mut setups, &backend, schedule);
    let others = before.others(cpu::Machine::now(&processes(&setups, &backend))?);

    check(&mut setups, true);
    let text = markdown(&setups, schedule, others);
    println!("{text}");
    let failed: Vec<&str> = setups.iter().filter(|setup| !setup.works()).map(|setup| setup.name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
    flags.write.as_ref().map_or(Ok(()), |document| report::splice(document, "predictions", &text))
}

/// A request with an id, for one row of ten features.
fn body(row: i64) -> String {
    let data: Vec<String> = (0..feast::FEATURES).map(|index| feast::value(1001 + row, index).to_string()).collect();
    let (width, data) = (feast::FEATURES, data.join(","));
    format!(
        r#"{{"id":"bench-{row}","inputs":[{{"name":"input-0","datatype":"FP32","shape":[1,{width}],"data":[{data}]}}]}}"#
    )
}

/// Asks Weir everything; `kept`: all of it was asked before.
fn check(setups: &mut [Setup], kept: bool) {
    for setup in setups.iter_mut().filter(|setup| setup.works()) {
        let Some(server) = &setup.server else { continue };
        // The first time fills it, the second is what is measured.
        let checked = (0..2).try_for_each(|time| every_request(server.address, &setup.requests, kept || time == 1));
        if let Err(error) = checked {
            setup.fail(&error);
        }
    }
}

fn every_request(server: SocketAddr, requests: &[Vec<u8>], kept: bool) -> Result<()> {
    let mut caller = Caller::connect(server)?;
    for request in requests {
        let answer = caller.call(request)?;
        verify::ensure_is_the_models(&answer)?;
        let status = answer.header("cache-status").unwrap_or("absent");
        ensure!(!kept || status == "weir-prediction; hit", "cache-status is {status}, not a hit");
    }
    Ok(())
}

fn markdown(setups: &[Setup], schedule: Schedule, others: f64) -> String {
    let Schedule { rounds, one, many, .. } = schedule;
    let mut text = report::occasion(others);
    let _ = writeln!(text, "`make bench`: {rounds} rounds, runs of {many:?} (c = {MANY}) and {one:?} (c = 1).\n");
    let _ = writeln!(text, "| | req/s, c = {MANY} | req/s, c = 1 | CPU µs/request, c = {MANY} | p50 / p99 µs, c = {MANY} |");
    let _ = writeln!(text, "|---|---|---|---|---|");
    for setup in setups {
        if let Some(failure) = &setup.failure {
            let _ = writeln!(text, "| {} | failed: {} |", setup.name, failure.replace(['\n', '|'], " "));
            continue;
        }
        let of = |phases: &[rounds::Phase], number: fn(&rounds::Phase) -> f64| median(phases.iter().map(number));
        let _ = writeln!(
            text,
            "| {} | {:.1} k | {:.1} k | {:.1} | {:.0} / {:.0} |",
            setup.name,
            of(&setup.many, |phase| phase.rate) / 1e3,
            of(&setup.one, |phase| phase.rate) / 1e3,
            of(&setup.many, |phase| phase.cpu),
            of(&setup.many, |phase| phase.p50),
            of(&setup.many, |phase| phase.p99),
        );
    }
    text.push_str(&target(setups));
    text
}

/// The median over the rounds of both in the same round.
fn target(setups: &[Setup]) -> String {
    let pairs = setups.iter().filter(|setup| setup.works()).map(|setup| &setup.many).collect::<Vec<_>>();
    let (seen, verdict) = match pairs.as_slice() {
        [floor, hit] if !hit.is_empty() => {
            let seen = median(hit.iter().zip(*floor).map(|(hit, floor)| hit.rate / floor.rate));
            (format!("{seen:.2} ×"), if seen >= TARGET { "met" } else { "**missed**" })
        }
        _ => ("–".into(), "not measured"),
    };
    format!(
        "\n| Target (req/s, c = {MANY}, within a round) | Seen | |\n|---|---|---|\n| A hit ≥ {TARGET} × a bare hyper server with the same bytes | {seen} | {verdict} |\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Phase;

    fn setup(name: &'static str, rates: &[f64]) -> Setup {
        let mut setup = Setup::new(name, None, Vec::new());
        let phase = |&rate: &f64| Phase { rate, p50: 1.0, p99: 1.0, cpu: 1.0, backend_cpu: 1.0, load_cpu: 1.0 };
        setup.many = rates.iter().map(phase).collect();
        setup
    }

    #[test]
    fn a_missed_target_says_so() {
        let text = |hits: &[f64]| target(&[setup(FLOOR, &[100.0, 50.0]), setup(HIT, hits)]);
        assert!(text(&[90.0, 45.0]).contains("0.90 × | met"));
        assert!(text(&[70.0, 35.0]).contains("0.70 × | **missed**"));
        assert!(text(&[]).contains("not measured"));
    }
}
