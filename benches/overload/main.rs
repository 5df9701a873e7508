//! What admission does under overload: a discrete-event simulation of a model server that gets slower the more it is asked, with the
//! gateway's own mechanisms in front of it, offered half to ten times what it can do.
//!
//! Deterministic: one seed, no clock. What counts is goodput, answers within their deadline, as a share of what the server can
//! do. `cargo bench --features bench --bench overload` prints the tables of `docs/benchmarks.md`.

#![expect(clippy::print_stdout, reason = "its tables are what it is for")]

mod backend;
mod gateway;
mod run;
mod throttle;

use gateway::{Order, Over, Policy};
use run::{Load, Outcome, run};
use weir::resilience::bulkhead::Share;

/// Requests that the server can run at full speed.
const SERVERS: u32 = 16;

/// The same of a large one.
const MANY: u32 = 256;

/// Seconds of work of a mean request: capacity is 800 a second.
const WORK: f64 = 0.02;

/// The same of a request of the flood.
const FLOOD_WORK: f64 = 0.2;

/// Seconds of each run.
const LENGTH: f64 = 60.0;

/// Times the capacity.
const LOADS: [f64; 7] = [0.5, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0];

fn main() {
    one_tier("The server as it was sized", 1.0);
    one_tier("The server loses half of itself, and nobody tells the gateway", 0.5);
    two_tiers();
    cold_start();
}

fn load(times: f64, left: f64) -> Load {
    let servers = f64::from(SERVERS);
    let rate = times * servers / WORK * left;
    Load { servers, work: vec![WORK], rates: vec![rate], deadlines: vec![0.1, 0.2, 0.4], left, length: LENGTH }
}

fn policies() -> Vec<Policy> {
    let right = || Policy::slots("slots = what it can run", SERVERS);
    let many = || Policy::slots("slots = 4 ×", 4 * SERVERS);
    let aware = |name, policy: Policy| Policy { name, deadline_aware: true, ..policy };
    vec![
        Policy::slots("nothing", 1_000_000),
        right(),
        aware("… + deadline", right()),
        Policy { order: Order::EarliestDeadline, ..aware("… + deadline, earliest first", right()) },
        Policy { gradient: Some(Over::Waits), ..aware("… + deadline + Gradient2", right()) },
        Policy { throttle: true, ..aware("… + deadline + throttle", right()) },
        many(),
        aware("… 4 × + deadline", many()),
        Policy { order: Order::EarliestDeadline, ..aware("… 4 × + deadline, earliest first", many()) },
        Policy { gradient: Some(Over::Waits), ..aware("… 4 × + deadline + Gradient2", many()) },
        Policy { gradient: Some(Over::Refused), ..aware("… 4 × + deadline + Gradient2 that refuses", many()) },
        Policy { throttle: true, ..aware("… 4 × + deadline + throttle", many()) },
        Policy { gradient: Some(Over::Waits), ..Policy::slots("Gradient2 alone", 1_000_000) },
        Policy { throttle: true, ..Policy::slots("throttle alone", 1_000_000) },
    ]
}

fn one_tier(title: &str, left: f64) {
    println!("\n{title}: goodput, % of its capacity\n");
    header();
    for policy in policies() {
        let cells = LOADS.map(|times| {
            let capacity = f64::from(SERVERS) / WORK * left;
            let outcome = &run(&load(times, left), &policy)[0];
            let length = if left < 1.0 { LENGTH / 2.0 } else { LENGTH };
            format!("{:.0}", 100.0 * f64::from(outcome.good) / (capacity * length))
        });
        row(policy.name, &cells);
    }
}

/// A server that runs many at once, from when the gateway starts: Gradient2 begins at 20.
fn cold_start() {
    let policy = Policy { deadline_aware: true, ..Policy::slots("slots = what it can run", MANY) };
    let gradient = Policy { name: "… + Gradient2 that refuses", gradient: Some(Over::Refused), ..policy.clone() };
    println!("\nThe first ten seconds before a server that runs {MANY} at once: goodput, % of its capacity\n");
    header();
    for policy in [policy, gradient] {
        let cells = LOADS.map(|times| {
            let capacity = f64::from(MANY) / WORK;
            let load =
                Load { servers: f64::from(MANY), rates: vec![times * capacity], length: 10.0, ..load(times, 1.0) };
            format!("{:.0}", 10.0 * f64::from(run(&load, &policy)[0].good) / capacity)
        });
        row(policy.name, &cells);
    }
}

/// A high tier at 45 % of the capacity beside a flood of best effort whose requests are ten times as long.
fn two_tiers() {
    let shares = vec![Share { reserved: 8, max: 12 }, Share { reserved: 4, max: 8 }];
    let base = Policy { shares, shared: 4, deadline_aware: true, ..Policy::slots("reserved and shared slots", 0) };
    let edf = Policy { name: "… earliest deadline first", order: Order::EarliestDeadline, ..base.clone() };
    let bound = Policy { name: "… + a mean wait of 20 ms ends borrowing", overload: Some(0.02), ..base.clone() };
    let shares = vec![Share { reserved: 0, max: SERVERS }; 2];
    let shared = Policy { name: "all slots shared", shares, shared: SERVERS, ..base.clone() };
    println!("\nA high tier at 45 % of the capacity beside a flood of requests ten times as long\n");
    println!("high: answered %, p99 ms; flood: goodput, % of the capacity\n");
    header();
    for policy in [shared, base, edf, bound] {
        let cells = LOADS.map(|times| tiers_cell(&mut run(&beside_a_flood(times), &policy)));
        row(policy.name, &cells);
    }
}

fn beside_a_flood(times: f64) -> Load {
    let servers = f64::from(SERVERS);
    let work = vec![WORK, FLOOD_WORK];
    let rates = vec![0.45 * servers / WORK, times * servers / FLOOD_WORK];
    Load { servers, work, rates, deadlines: vec![0.5, 1.0], left: 1.0, length: LENGTH }
}

fn tiers_cell(outcomes: &mut [Outcome]) -> String {
    let answered = 100.0 * f64::from(outcomes[0].good) / f64::from(outcomes[0].offered);
    let flood = 100.0 * f64::from(outcomes[1].good) * FLOOD_WORK / (f64::from(SERVERS) * LENGTH);
    format!("{answered:.1}, {:.0}; {flood:.0}", 1e3 * outcomes[0].p99())
}

fn header() {
    let loads = LOADS.map(|times| format!("{times} ×"));
    println!("| offered | {} |\n|---|{}", loads.join(" | "), "---|".repeat(LOADS.len()));
}

fn row(name: &str, cells: &[String]) {
    println!("| {name} | {} |", cells.join(" | "));
}
