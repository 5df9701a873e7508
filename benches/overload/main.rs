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

/// Seconds of work of a mean request: capacity is 800 a second.
const WORK: f64 = 0.02;

/// Times the capacity.
const LOADS: [f64; 7] = [0.5, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0];

fn main() {
    one_tier("The server as it was sized", 1.0);
    one_tier("The server loses half of itself, and nobody tells the gateway", 0.5);
    two_tiers();
}

fn load(rates: Vec<f64>, left: f64) -> Load {
    Load { servers: f64::from(SERVERS), work: WORK, rates, deadlines: vec![0.1, 0.2, 0.4], left, length: 60.0 }
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
            let outcome = &run(&load(vec![times * capacity], left), &policy)[0];
            let length = if left < 1.0 { 30.0 } else { 60.0 };
            format!("{:.0}", 100.0 * f64::from(outcome.good) / (capacity * length))
        });
        row(policy.name, &cells);
    }
}

/// A steady high tier, 40 % of the capacity in bursts of chance, beside a flood of best effort.
fn two_tiers() {
    let tiers = vec![Share { reserved: 8, max: 12 }, Share { reserved: 4, max: 8 }];
    let base = Policy { shares: tiers, shared: 4, deadline_aware: true, ..Policy::slots("tiers", 0) };
    let edf = Policy { name: "tiers, earliest first", order: Order::EarliestDeadline, ..base.clone() };
    let overload = Policy { name: "tiers + 20 ms bound", overload: Some(0.02), ..base.clone() };
    let shares = vec![Share { reserved: 0, max: SERVERS }; 2];
    let flat = Policy { name: "no reservation", shares, shared: SERVERS, ..base.clone() };
    println!(
        "\nHigh tier at 45 % of the capacity beside a flood: answered %, p99 ms of high; goodput % of capacity of best effort\n"
    );
    header();
    for policy in [flat, base, edf, overload] {
        let cells = LOADS.map(|times| {
            let capacity = f64::from(SERVERS) / WORK;
            let mut outcomes = run(&load(vec![0.45 * capacity, times * capacity], 1.0), &policy);
            tiers_cell(&mut outcomes, capacity)
        });
        row(policy.name, &cells);
    }
}

fn tiers_cell(outcomes: &mut [Outcome], capacity: f64) -> String {
    let answered = 100.0 * f64::from(outcomes[0].good) / f64::from(outcomes[0].offered);
    let best_effort = 100.0 * f64::from(outcomes[1].good) / (capacity * 60.0);
    format!("{answered:.1}, {:.0}; {best_effort:.0}", 1e3 * outcomes[0].p99())
}

fn header() {
    let loads = LOADS.map(|times| format!("{times} ×"));
    println!("| offered | {} |\n|---|{}", loads.join(" | "), "---|".repeat(LOADS.len()));
}

fn row(name: &str, cells: &[String]) {
    println!("| {name} | {} |", cells.join(" | "));
}
