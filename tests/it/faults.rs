//! Every way in which a model can fail, over every protocol, against `tests/data/faults.txt`: what the caller is told, how
//! often the model was asked, and that the caller is always told in time.
//!
//! Deadlines are far away where an answer must not wait for them, so that no busy machine makes one late. How late an answer may be
//! exactly is for benchmarks; here it is the deadline and [`SLACK`].

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use ::weir::proto::inference as pb;
use prost::Message;
use tokio::time::Instant;

use crate::support::{
    Weir,
    faulty_model::{Blackhole, FaultyModel},
    grpc::{SERVICE, framed, raw_input},
    measured,
    metrics::Metrics,
    process::{free_port, loopback, wait_until},
};

pub(crate) mod answers;

const PROTOCOLS: [&str; 4] = ["v1", "v2 json", "v2 binary", "grpc"];
/// Nobody waits for this one: who is told early is told in half of it.
const FAR: Duration = Duration::from_secs(20);
/// A third of this one is waited for where nothing is known of what answers take.
const COLD: Duration = Duration::from_secs(6);
/// Everybody waits for this one.
const NEAR: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(3);
/// Cells that run at the same time.
const AT_ONCE: usize = 24;
/// A body of which no copy is kept.
const TOO_LONG_TO_KEEP: usize = 100_000;

/// A row of the table.
#[derive(Debug)]
struct Row {
    fault: &'static str,
    protocol: &'static str,
    /// Status, or code over gRPC; `cut`: what follows the head broke off.
    answer: &'static str,
    level: &'static str,
    attempts: Count,
    arrivals: Count,
    /// When the caller is told: well before the deadline, or by it.
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Early,
    ByTheDeadline,
}

#[derive(Debug)]
struct Count(RangeInclusive<usize>);

/// What a row came to.
#[derive(Debug, Default)]
struct Seen {
    answers: BTreeSet<String>,
    levels: BTreeSet<String>,
    late: Option<Duration>,
}

/// A row at work: its pool and what is counted there.
struct Cell {
    row: Row,
    endpoints: Vec<String>,
    faulty: Vec<FaultyModel>,
    _others: (Vec<FaultyModel>, Vec<Blackhole>),
}

fn table() -> Vec<Row> {
    let lines = include_str!("../data/faults.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(Row::parse).collect()
}

impl Row {
    fn parse(line: &'static str) -> Self {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [fault, protocol, answer, level, attempts, arrivals, told] = *fields else {
            panic!("a row is fault | protocol | answer | level | attempts | arrivals | told: {line}")
        };
        let told = match told {
            "early" => Told::Early,
            "by the deadline" => Told::ByTheDeadline,
            _ => panic!("an answer comes early or by the deadline: {line}"),
        };
        assert!(PROTOCOLS.contains(&protocol), "no protocol: {line}");
        let (attempts, arrivals) = (Count::parse(attempts), Count::parse(arrivals));
        Self { fault, protocol, answer, level, attempts, arrivals, told }
    }

    /// How many endpoints have the fault, of how many, and which fault that is.
    fn scene(&self) -> (usize, usize, &'static str) {
        let fault = self.fault.trim_end_matches(", long request");
        match fault.split_once(": ") {
            Some(("one of three" | "one of three, nothing known", fault)) => (1, 3, fault),
            Some(("all three", fault)) => (3, 3, fault),
            _ => (1, 1, fault),
        }
    }

    fn requests(&self) -> usize {
        match self.scene() {
            (1, 3, _) => 30,
            (_, _, "flapping") => 4,
            (_, _, "longer than declared") => 2,
            _ => 1,
        }
    }

    /// Whether nothing is known of what answers take: each request is the first of a model of its own.
    fn is_cold(&self) -> bool {
        self.fault.starts_with("one of three, nothing known: ")
    }

    /// The names of the models that its requests are for.
    fn models(&self, name: &str) -> Vec<String> {
        if self.is_cold() {
            (0..self.requests()).map(|at| format!("{name}-{at}")).collect()
        } else {
            vec![name.to_owned(); self.requests()]
        }
    }

    fn timeout(&self) -> Duration {
        match self.told {
            Told::Early if self.is_cold() => COLD,
            Told::Early => FAR,
            Told::ByTheDeadline => NEAR,
        }
    }

    /// How late its answers may be.
    fn latest(&self) -> Duration {
        match self.told {
            Told::Early if self.is_cold() => COLD,
            Told::Early => FAR / 2,
            Told::ByTheDeadline => NEAR + SLACK,
        }
    }

    /// What the pool needs so that the answer comes early.
    fn keys(&self) -> &'static str {
        match (self.scene().2, self.told) {
            // Else two attempts that cannot connect take the deadline between them, and which ends first is anybody's guess.
            ("blackhole", Told::ByTheDeadline) => ", connect_timeout: 10s",
            (_, Told::ByTheDeadline) => "",
            _ if self.is_cold() => "",
            ("blackhole", _) => ", connect_timeout: 100ms",
            ("hang" | "hang after the head" | "trickled head" | "trickled body", _) => ", attempt_timeout: 300ms",
            _ => "",
        }
    }

    /// Whether requests never get so far that they could be counted.
    fn counts_connections(&self) -> bool {
        let fault = self.scene().2;
        fault.ends_with("at accept") || (fault == "garbage" && self.protocol == "grpc")
    }

    fn path(&self, model: &str) -> String {
        match self.protocol {
            "v1" => format!("/v1/models/{model}:predict"),
            _ => format!("/v2/models/{model}/infer"),
        }
    }

    fn padding(&self) -> usize {
        if self.fault.ends_with("long request") { TOO_LONG_TO_KEEP } else { 4 }
    }
}

impl Count {
    fn parse(text: &str) -> Self {
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number: {text}"));
        Self(match text.split_once("..") {
            Some((least, most)) => number(least)..=number(most),
            None => number(text)..=number(text),
        })
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (least, most) if least == most => write!(f, "{least}"),
            (least, most) => write!(f, "{least}..{most}"),
        }
    }
}

impl Cell {
    fn new(row: Row) -> Self {
        let (bad, all, fault) = row.scene();
        let (mut faulty, mut good, mut holes, mut endpoints) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bad {
            endpoints.push(match fault {
                "refused" => loopback(free_port()),
                "blackhole" => {
                    holes.push(Blackhole::open());
                    holes[holes.len() - 1].address()
                }
                _ => {
                    let model = answers::model(fault, row.protocol);
                    faulty.push(model.unwrap_or_else(|| panic!("no such fault: {row:?}")));
                    faulty[faulty.len() - 1].address()
                }
            });
        }
        for _ in bad..all {
            good.push(answers::good(row.protocol));
            endpoints.push(good[good.len() - 1].address());
        }
        let mut endpoint = |address| match row.protocol {
            // Another listener answers the health check, so that it is not counted.
            "grpc" => {
                good.push(answers::good("v1"));
                format!("{{http: \"http://{}\", grpc: \"http://{address}\"}}", good[good.len() - 1].address())
            }
            _ => format!("\"http://{address}\""),
        };
        let endpoints = endpoints.into_iter().map(&mut endpoint).collect();
        Self { row, endpoints, faulty, _others: (good, holes) }
    }

    fn pool(&self, name: &str) -> String {
        format!(
            "  {name}: {{endpoints: [{}], health: {{interval: 1h}}, breaker: {{failure_threshold: 1000}}, \
             retry: {{max_retries: 2, initial_delay: 1ms, max_delay: 4ms, budget: 1.0}}{}}}\n",
            self.endpoints.join(", "),
            self.row.keys()
        )
    }

    fn arrivals(&self) -> usize {
        let connections = self.row.counts_connections();
        let count = |model: &FaultyModel| if connections { model.connections() } else { model.requests() };
        self.faulty.iter().map(count).sum()
    }

    fn run(&self, weir: &Weir, model: &str) -> Seen {
        let mut seen = Seen::default();
        for model in &self.row.models(model) {
            let began = Instant::now();
            let (answer, level) =
                if self.row.protocol == "grpc" { self.call(weir, model) } else { self.post(weir, model) };
            let took = began.elapsed();
            seen.answers.insert(answer);
            seen.levels.insert(level.unwrap_or_else(|| "none".into()));
            seen.late = seen.late.max(Some(took).filter(|took| *took >= self.row.latest()));
        }
        seen
    }

    fn post(&self, weir: &Weir, model: &str) -> (String, Option<String>) {
        let padding = "1".repeat(self.row.padding());
        let json = match self.row.protocol {
            "v1" => format!("{{\"instances\": [[{padding}]]}}"),
            "v2 json" => {
                format!("{{\"inputs\": [{{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[{padding}]}}]}}")
            }
            _ => format!(
                "{{\"inputs\": [{{\"name\":\"x\",\"datatype\":\"UINT8\",\"shape\":[{0}],\"parameters\":\
                 {{\"binary_data_size\":{0}}}}}]}}",
                padding.len()
            ),
        };
        let length = json.len().to_string();
        let (fields, tail): (&[_], &str) = match self.row.protocol {
            "v2 binary" => (
                &[("content-type", "application/octet-stream"), ("inference-header-content-length", length.as_str())],
                &padding,
            ),
            _ => (&[("content-type", "application/json")], ""),
        };
        let body = [json.as_bytes(), tail.as_bytes()].concat();
        let mut connection = weir.connect();
        connection.send("POST", &self.row.path(model), fields, &body);
        let (answer, cut) = match connection.receive_as_far_as_it_comes() {
            Ok(answer) => (answer, ""),
            Err(answer) => (answer, " cut"),
        };
        (format!("{}{cut}", answer.status), answer.header("weir-level"))
    }

    fn call(&self, weir: &Weir, model: &str) -> (String, Option<String>) {
        let request = pb::ModelInferRequest {
            model_name: model.into(),
            inputs: vec![raw_input("x", "UINT8", &[i64::try_from(self.row.padding()).expect("small")])],
            raw_input_contents: vec![vec![b'1'; self.row.padding()].into()],
            ..Default::default()
        };
        let (path, fields) =
            (format!("{SERVICE}/ModelInfer"), [("content-type", "application/grpc"), ("te", "trailers")]);
        let body = framed(&request.encode_to_vec());
        match weir.connect_grpc().send_as_far_as_it_comes("POST", &path, &fields, body) {
            Ok(answer) => (answer.status().to_string(), answer.metadata("weir-level")),
            Err(headers) => {
                let level = headers.get("weir-level").map(|level| level.to_str().expect("ASCII").to_owned());
                ("cut".into(), level)
            }
        }
    }

    /// What was seen, as the row would say it; `true`: as it says it.
    fn compare(&self, seen: &Seen, attempts: usize) -> (String, bool) {
        let row = &self.row;
        let least = || self.arrivals() >= *row.arrivals.0.start();
        // What was sent may still be on its way.
        let arrived = catch_unwind(AssertUnwindSafe(|| wait_until("arrivals", Duration::from_secs(5), least))).is_ok();
        let arrivals = self.arrivals();
        let join = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
        let (answers, levels) = (join(&seen.answers), join(&seen.levels));
        let mut found = format!("{answers} | {levels} | {attempts} | {arrivals}");
        if let Some(late) = seen.late {
            write!(found, " | late: {late:?}").expect("a string takes anything");
        }
        let is_right = (&*answers, &*levels) == (row.answer, row.level)
            && row.attempts.0.contains(&attempts)
            && arrived
            && row.arrivals.0.contains(&arrivals)
            && seen.late.is_none();
        (found, is_right)
    }
}

fn config(cells: &[Cell]) -> String {
    let (mut pools, mut models) = (String::new(), String::new());
    for (index, cell) in cells.iter().enumerate() {
        pools += &cell.pool(&format!("p{index}"));
        let timeout = cell.row.timeout().as_millis();
        let mut names = cell.row.models(&format!("m{index}"));
        names.dedup();
        for name in names {
            writeln!(models, "  {name}: {{pool: p{index}, timeout: {timeout}ms}}").expect("a string takes anything");
        }
    }
    format!("pools:\n{pools}models:\n{models}")
}

/// Runs the cells, some at a time.
fn run(cells: &[Cell], weir: &Weir) -> Vec<Seen> {
    let (next, seen) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(cell) = cells.get(index) else { return };
                    let ran = catch_unwind(AssertUnwindSafe(|| cell.run(weir, &format!("m{index}"))));
                    seen.lock().expect("no holder panics").push((index, ran.unwrap_or_default()));
                }
            });
        }
    });
    let mut seen = seen.into_inner().expect("no holder panics");
    seen.sort_by_key(|(index, _)| *index);
    seen.into_iter().map(|(_, seen)| seen).collect()
}

#[test]
fn every_fault_over_every_protocol() {
    let cells: Vec<Cell> = table().into_iter().map(Cell::new).collect();
    let weir = Weir::unready(&config(&cells), &[]);
    let seen = run(&cells, &weir);
    let metrics = weir.metrics();
    let (mut same, mut wrong) = (Vec::<(String, Vec<&str>)>::new(), String::new());
    for (index, (cell, seen)) in cells.iter().zip(&seen).enumerate() {
        let attempts = attempts(&metrics, &format!("p{index}"));
        let (found, is_right) = cell.compare(seen, attempts);
        let Row { fault, protocol, answer, level, attempts, arrivals, .. } = &cell.row;
        match same.last_mut().filter(|(seen, _)| *seen == format!("{fault} | {found}")) {
            Some((_, protocols)) => protocols.push(protocol),
            None => same.push((format!("{fault} | {found}"), vec![protocol])),
        }
        if !is_right {
            writeln!(
                wrong,
                "{fault} | {protocol} | {found}\n    expected {answer} | {level} | {attempts} | {arrivals}"
            )
            .expect("a string takes anything");
        }
    }
    let lines = same.into_iter().map(|(seen, protocols)| format!("\n  {seen} | {}", protocols.join(", ")));
    let lines: String = lines.collect();
    measured(format_args!("{} cells: fault | answer | level | attempts | arrivals | protocols{lines}", cells.len()));
    assert!(wrong.is_empty(), "fault | protocol | answer | level | attempts | arrivals\n{wrong}");
    assert_eq!(metrics.count("weir_breaker_transitions_total", &[]), 0.0, "no cell is about breakers");
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
fn attempts(metrics: &Metrics, pool: &str) -> usize {
    metrics.count("weir_attempts_total", &[("pool", pool)]) as usize
}

#[test]
fn the_table_has_every_fault_in_every_protocol_that_knows_it() {
    let rows = table();
    let names: BTreeSet<_> = rows.iter().map(|row| (row.fault, row.told == Told::Early, row.protocol)).collect();
    assert_eq!(names.len(), rows.len(), "a row is there twice");
    for row in &rows {
        for protocol in PROTOCOLS {
            let known = matches!(row.scene().2, "refused" | "blackhole") || answers::knows(row.scene().2, protocol);
            let told = row.told == Told::Early;
            assert_eq!(names.contains(&(row.fault, told, protocol)), known, "{} | {protocol}", row.fault);
        }
    }
}
