//! Scrapes and matches metrics: a name, some labels, and a condition on the sum of the series that have them.

use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use super::{http1, process::await_some};

/// One scrape.
pub(crate) struct Metrics {
    text: String,
    series: Vec<Series>,
}

struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Scrapes `/metrics`.
    #[track_caller]
    pub(crate) fn scrape(admin: SocketAddr) -> Self {
        Self::parse(http1::get(admin, "/metrics").expect(200).text())
    }

    /// Parses the text format.
    #[track_caller]
    pub(crate) fn parse(text: String) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(parse_line).collect();
        Self { text, series }
    }

    /// The text as scraped.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The families' names, from their `# TYPE` lines.
    pub(crate) fn families(&self) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
    }

    /// The sum of the series of that name that have these labels; `None` if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matches = |series: &&Series| {
            let has = |(key, value): &(&str, &str)| series.labels.get(*key).is_some_and(|found| found == value);
            series.name == name && labels.iter().all(has)
        };
        let mut found = self.series.iter().filter(matches).peekable();
        found.peek()?;
        Some(found.map(|series| series.value).sum())
    }

    /// The same, zero if there is none.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sum(name, labels).unwrap_or(0.0)
    }

    /// What is exported under that name, for a failing test's message.
    pub(crate) fn lines_of(&self, name: &str) -> String {
        let lines: Vec<_> = self.text.lines().filter(|line| line.starts_with(name)).collect();
        lines.join("\n")
    }
}

/// Scrapes until the sum satisfies `condition`; the sum.
#[track_caller]
pub(crate) fn await_metric(
    admin: SocketAddr,
    name: &str,
    labels: &[(&str, &str)],
    condition: impl Fn(f64) -> bool,
) -> f64 {
    await_some(&format!("{name}{labels:?}"), Duration::from_secs(20), || {
        Metrics::scrape(admin).sum(name, labels).filter(|value| condition(*value))
    })
}

/// What `promtool check metrics` has to say about a scrape; empty when it is content.
pub(crate) fn promtool(text: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is installed");
    child.stdin.take().expect("stdin was piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if output.status.success() || !said.is_empty() { said } else { format!("promtool: {}", output.status) }
}

#[track_caller]
fn parse_line(line: &str) -> Series {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a value: {line:?}"));
    let (name, labels) = match head.split_once('{') {
        Some((name, rest)) => (name, parse_labels(rest.trim_end_matches('}'))),
        None => (head, BTreeMap::new()),
    };
    Series { name: name.into(), labels, value }
}

/// Labels as Weir writes them: values come from the config or an enum and hold no quotes.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(key, value)| (key.trim().into(), value.trim_end_matches('"').into())).collect()
}
