//! Weir's metrics, as somebody who watches it sees them.

use std::time::Duration;

use anyhow::Result;

use crate::caller::Caller;

/// How often a watched thing is looked at: what is reported is at most this late.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// The metrics page.
pub(super) fn page(admin: &mut Caller) -> Result<String> {
    let answer = admin.call(b"GET /metrics HTTP/1.1\r\nhost: bench.local\r\n\r\n")?;
    Ok(String::from_utf8(answer.body)?)
}

/// The value of the series that has all of `labels` (`name="value"`).
pub(super) fn value(page: &str, name: &str, labels: &[String]) -> Option<f64> {
    page.lines().find_map(|line| {
        let (given, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        labels.iter().all(|label| given.split(',').any(|given| given == label)).then(|| value.trim().parse().ok())?
    })
}

/// Whether a breaker is open.
pub(super) fn is_open(page: &str, target: &str) -> bool {
    let labels = [format!("target=\"{target}\""), "state=\"open\"".into()];
    value(page, "weir_breaker_state", &labels) == Some(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_all_of_its_labels() {
        let page =
            "# TYPE a gauge\na{state=\"open\",target=\"p/1\"} 0\na{state=\"open\",target=\"p/12\"} 1\nab{x=\"y\"} 2\n";
        let of = |target: &str| value(page, "a", &["state=\"open\"".into(), format!("target=\"{target}\"")]);
        assert_eq!((of("p/1"), of("p/12"), of("p")), (Some(0.0), Some(1.0), None));
    }
}
