//! The result as Markdown: where and how it was measured, the table, the targets with met or missed.
//!
//! It rounds and arranges; it leaves out nothing that failed. [`splice`] puts it between two markers of a document.

use std::{fmt::Write, fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{
    Flags,
    peers::Programs,
    rounds::{MANY, Phase, Schedule, Setup, median},
};

/// Names of the setups, which targets look up.
pub(crate) const DIRECT: &str = "straight to the model";
pub(crate) const BARE: &str = "bare hyper";
pub(crate) const NGINX: &str = "nginx";
pub(crate) const ENVOY: &str = "Envoy";
pub(crate) const WEIR: &str = "Weir";
pub(crate) const JOINED: &str = "Weir, joined";

/// What is said about a run beside its numbers.
pub(crate) struct Circumstances<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) schedule: Schedule,
    /// Arrivals a second of the open loop.
    pub(crate) rate: f64,
    /// Share of the machine's processor time that others took during the run.
    pub(crate) others: f64,
}

/// The whole report.
pub(crate) fn markdown(setups: &[Setup], about: &Circumstances<'_>) -> String {
    let mut text = circumstances(about);
    text.push_str(&table(setups, about));
    text.push_str(&own_cost(setups));
    text.push_str(&targets(setups));
    text
}

/// Replaces what is between the markers of `part` in a document.
pub(crate) fn splice(path: &Path, part: &str, report: &str) -> Result<()> {
    let document = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let new = spliced(&document, part, report).with_context(|| format!("{} has no part {part}", path.display()))?;
    fs::write(path, new)?;
    Ok(())
}

fn spliced(document: &str, part: &str, report: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {part}:begin -->"), format!("<!-- {part}:end -->"));
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{report}{end}{after}"))
}

/// The first line: when, on what, and how quiet it was.
pub(crate) fn occasion(others: f64) -> String {
    format!(
        "{date}, {machine}; others used {others:.0} % of its processor time meanwhile{noise}.\n",
        date = line_of("date", &["-u", "+%Y-%m-%d"]),
        machine = machine(),
        others = others * 100.0,
        noise = if others > 0.05 { ": a noisy run" } else { "" },
    )
}

fn circumstances(about: &Circumstances<'_>) -> String {
    let Schedule { rounds, one, many, open } = about.schedule;
    format!(
        "{}`make bench`: {rounds} rounds, runs of {many:?} (c = {MANY}), {one:?} (c = 1) and {open:?} (open loop).\n\
         hyper {}, {}.\n\n",
        occasion(about.others),
        locked("hyper").unwrap_or("?"),
        versions(about.programs).join(", "),
    )
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release: Vec<&str> = release.trim().split('.').take(2).collect();
    format!("{cores} cores, {}, Linux {}", model.unwrap_or("unknown processor"), release.join("."))
}

/// How the report of a part begins: when, by which command, with what, and what could not be run.
pub(crate) fn opening(part: &str, flags: &Flags, others: f64, failures: &[String]) -> String {
    let Flags { rounds, longest, programs, .. } = flags;
    let mut text = format!(
        "{}`benches/run.sh {part}`: {rounds} rounds, phases of {longest:?}.\n{}.\n\n",
        occasion(others),
        versions(programs).join(", "),
    );
    for failure in failures {
        let _ = writeln!(text, "**Failed**: {}\n", failure.replace(['\n', '|'], " "));
    }
    text
}

/// The programs with their versions, in their own words.
pub(crate) fn versions(programs: &Programs) -> Vec<String> {
    let mut versions = Vec::new();
    if let Some(python) = &programs.feast {
        let script =
            "import importlib.metadata as m, platform as p; print(m.version('feast'), 'on Python', p.python_version())";
        versions.push(format!("Feast {}", line_of(python, &["-c", script])));
    }
    if let Some(nginx) = &programs.nginx {
        versions.push(line_of(nginx, &["-v"]).trim_start_matches("nginx version: ").replace('/', " "));
    }
    if let Some(envoy) = &programs.envoy {
        // `PATH  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
        let line = line_of(envoy, &["--version"]);
        let version = line.split_once("version: ").and_then(|(_, build)| build.split('/').nth(1));
        versions.push(format!("Envoy {}", version.unwrap_or("?")));
    }
    if let Some(weir) = &programs.weir {
        versions.push(line_of(weir, &["--version"]));
    }
    if let Some(redis) = &programs.redis {
        let line = line_of(redis, &["--version"]);
        let version = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="));
        versions.push(format!("Redis {}", version.unwrap_or("?")));
    }
    versions
}

/// The version of a package in this program's own lock file.
fn locked(package: &str) -> Option<&'static str> {
    let (_, after) = include_str!("../Cargo.lock").split_once(&format!("name = \"{package}\"\nversion = \""))?;
    after.split('"').next()
}

/// The first non-empty line that a program prints, on either stream.
fn line_of(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return "?".into() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("?").to_owned()
}

fn table(setups: &[Setup], about: &Circumstances<'_>) -> String {
    let rate = format!("{:.1} k/s", about.rate / 1e3);
    let heads = [
        format!("CPU µs/request, c = {MANY}"),
        "CPU µs/request, c = 1".into(),
        format!("req/s, c = {MANY}"),
        "req/s, c = 1".into(),
        format!("p50 / p99 µs, c = {MANY}"),
        "p50 / p99 µs, c = 1".into(),
        format!("p50 / p99 µs at {rate}"),
        "RSS MiB".into(),
    ];
    let mut text = format!("| | {} |\n|---{}|\n", heads.join(" | "), "|---".repeat(heads.len()));
    for setup in setups {
        let _ = writeln!(text, "| {} | {} |", setup.name, cells(setup).join(" | "));
    }
    text.push('\n');
    text
}

fn cells(setup: &Setup) -> Vec<String> {
    if let Some(failure) = &setup.failure {
        return vec![format!("failed: {}", failure.replace(['\n', '|'], " "))];
    }
    let proxy = setup.server.is_some();
    let cpu = |phases: &[Phase]| if proxy { spread(phases) } else { "–".into() };
    vec![
        cpu(&setup.many),
        cpu(&setup.one),
        thousands(&setup.many),
        thousands(&setup.one),
        latency(&setup.many),
        latency(&setup.one),
        latency(&setup.open),
        if proxy { format!("{:.0}", setup.resident) } else { "–".into() },
    ]
}

fn thousands(phases: &[Phase]) -> String {
    format!("{:.1} k", median(phases.iter().map(|phase| phase.rate)) / 1e3)
}

fn latency(phases: &[Phase]) -> String {
    let p50 = median(phases.iter().map(|phase| phase.p50));
    let p99 = median(phases.iter().map(|phase| phase.p99));
    format!("{p50:.0} / {p99:.0}")
}

/// The median of the processor time, with the least and the most of any round.
pub(crate) fn spread(phases: &[Phase]) -> String {
    let least = phases.iter().map(|phase| phase.cpu).fold(f64::INFINITY, f64::min);
    let most = phases.iter().map(|phase| phase.cpu).fold(0.0, f64::max);
    format!("{:.1} ({least:.1}–{most:.1})", median(phases.iter().map(|phase| phase.cpu)))
}

/// An aim, what was seen, and whether that is enough; `None`: not measured.
pub(crate) type Aim = (String, Option<(String, bool)>);

/// Every aim with its verdict.
pub(crate) fn aims_table(rows: &[Aim]) -> String {
    let mut text = "| Target | Seen | |\n|---|---|---|\n".to_owned();
    for (aim, seen) in rows {
        let (seen, verdict) = match seen {
            Some((seen, met)) => (seen.as_str(), if *met { "met" } else { "**missed**" }),
            None => ("–", "not measured"),
        };
        let _ = writeln!(text, "| {aim} | {seen} | {verdict} |");
    }
    text
}

fn own_cost(setups: &[Setup]) -> String {
    let Some(direct) = setups.iter().find(|setup| setup.name == DIRECT && setup.works()) else { return String::new() };
    format!(
        "Beside the proxy, a request straight to the model costs {:.1} µs in the model server and {:.1} µs in the load \
         generator (c = {MANY}).\n\n",
        median(direct.many.iter().map(|phase| phase.backend_cpu)),
        median(direct.many.iter().map(|phase| phase.load_cpu)),
    )
}

fn targets(setups: &[Setup]) -> String {
    let mut text = format!("| Target (CPU per request, c = {MANY}, within a round) | Seen | |\n|---|---|---|\n");
    let difference = paired(setups, WEIR, BARE, |weir, bare| weir - bare);
    let ratio = paired(setups, WEIR, ENVOY, |weir, envoy| weir / envoy);
    let joined = paired(setups, JOINED, ENVOY, |joined, envoy| joined / envoy);
    let rows = [
        ("Weir ≤ bare hyper + 6 µs", difference.map(|seen| (format!("+ {seen:.1} µs"), seen <= 6.0))),
        ("Weir ≤ 0.8 × Envoy", ratio.map(|seen| (format!("{seen:.2} ×"), seen <= 0.8))),
        (
            "Weir joining 1 entity × 10 features from L1 ≤ Envoy passing through",
            joined.map(|seen| (format!("{seen:.2} ×"), seen <= 1.0)),
        ),
    ];
    for (target, seen) in rows {
        let (seen, verdict) = match seen {
            Some((seen, met)) => (seen, if met { "met" } else { "**missed**" }),
            None => ("–".into(), "not measured"),
        };
        let _ = writeln!(text, "| {target} | {seen} | {verdict} |");
    }
    text
}

/// The median over the rounds of `compare` of two setups' processor times in the same round.
fn paired(setups: &[Setup], left: &str, right: &str, compare: fn(f64, f64) -> f64) -> Option<f64> {
    let find = |name: &str| setups.iter().find(|setup| setup.name == name && setup.works());
    let (left, right) = (find(left)?, find(right)?);
    let pairs = left.many.iter().zip(&right.many);
    let seen = median(pairs.map(|(left, right)| compare(left.cpu, right.cpu)));
    seen.is_finite().then_some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(name: &'static str, cpu: &[f64]) -> Setup {
        let mut setup = Setup::new(name, None, Vec::new());
        setup.many = cpu
            .iter()
            .map(|&cpu| Phase { rate: 1.0, p50: 1.0, p99: 1.0, cpu, backend_cpu: 1.0, load_cpu: 1.0 })
            .collect();
        setup
    }

    #[test]
    fn only_the_marked_part_changes() {
        let document = "<!-- a:begin -->\n<!-- a:end -->\n<!-- b:begin -->\nold\n<!-- b:end -->\nb\n";
        assert_eq!(spliced(document, "b", "new\n").unwrap(), document.replace("old", "new"));
        assert!(spliced(document, "c", "new").is_none());
    }

    #[test]
    fn a_missed_target_says_so() {
        let setups = [setup(BARE, &[10.0, 20.0]), setup(ENVOY, &[30.0, 60.0]), setup(WEIR, &[18.0, 28.0])];
        let text = targets(&setups);
        assert!(text.contains("+ 8.0 µs | **missed**"), "{text}");
        assert!(text.contains("0.53 × | met"), "{text}");
        assert!(text.contains("not measured"), "{text}");
    }
}
