//! What is counted of a pool as a whole: its endpoints and how they are found, ejections, panic, failover.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// Why an endpoint was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ejection {
    /// Almost all of its answers were failures.
    Failures,
    /// Its success rate was far below the others'.
    SuccessRate,
    /// Its answers took far longer than the others'.
    Latency,
}

/// What a look for endpoints came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// The same ones as before.
    Unchanged,
    /// Others.
    Changed,
    /// Nothing: what was found last is kept.
    Failed,
}

impl Ejection {
    const ALL: [Self; 3] = [Self::Failures, Self::SuccessRate, Self::Latency];

    /// The label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
        }
    }
}

impl Refresh {
    const ALL: [Self; 3] = [Self::Unchanged, Self::Changed, Self::Failed];

    const fn label(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Failed => "failed",
        }
    }
}

/// One pool's handles.
pub struct BalanceHandles {
    endpoints: Gauge,
    panicking: Gauge,
    failed_over: Gauge,
    ejections: [Counter; 3],
    refreshes: [Counter; 3],
}

impl BalanceHandles {
    /// Handles for the pool of that name.
    #[must_use]
    pub fn new(pool: &str) -> Self {
        let level = |name| gauge!(name, "pool" => pool.to_owned());
        let ejections =
            |why: Ejection| counter!(names::ENDPOINT_EJECTIONS, "pool" => pool.to_owned(), "reason" => why.label());
        let refreshes = |outcome: Refresh| counter!(names::DISCOVERY_REFRESHES, "pool" => pool.to_owned(), "outcome" => outcome.label());
        let handles = Self {
            endpoints: level(names::ENDPOINTS),
            panicking: level(names::POOL_PANIC),
            failed_over: level(names::POOL_FAILED_OVER),
            ejections: Ejection::ALL.map(ejections),
            refreshes: Refresh::ALL.map(refreshes),
        };
        handles.panicking(false);
        handles.failed_over(false);
        handles
    }

    /// Sets how many endpoints there are.
    pub fn endpoints(&self, count: usize) {
        self.endpoints.set(count as f64);
    }

    /// Sets whether all endpoints are asked because few are healthy.
    pub fn panicking(&self, panicking: bool) {
        self.panicking.set(u32::from(panicking));
    }

    /// Sets whether another pool stands in.
    pub fn failed_over(&self, over: bool) {
        self.failed_over.set(u32::from(over));
    }

    /// Counts an endpoint that was left out.
    pub fn ejection(&self, why: Ejection) {
        self.ejections[why as usize].increment(1);
    }

    /// Counts a look for endpoints.
    pub fn refresh(&self, outcome: Refresh) {
        self.refreshes[outcome as usize].increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn each_counts_under_its_own_label() {
        let (handles, scrape) = scratch(|| BalanceHandles::new("gpu"));
        Ejection::ALL.iter().for_each(|why| handles.ejection(*why));
        Refresh::ALL.iter().for_each(|outcome| handles.refresh(*outcome));
        handles.endpoints(3);
        handles.failed_over(true);
        let text = scrape.render();
        for line in [
            "weir_endpoint_ejections_total{pool=\"gpu\",reason=\"failures\"} 1\n",
            "weir_endpoint_ejections_total{pool=\"gpu\",reason=\"success_rate\"} 1\n",
            "weir_endpoint_ejections_total{pool=\"gpu\",reason=\"latency\"} 1\n",
            "weir_discovery_refreshes_total{pool=\"gpu\",outcome=\"unchanged\"} 1\n",
            "weir_discovery_refreshes_total{pool=\"gpu\",outcome=\"changed\"} 1\n",
            "weir_discovery_refreshes_total{pool=\"gpu\",outcome=\"failed\"} 1\n",
            "weir_endpoints{pool=\"gpu\"} 3\n",
            "weir_pool_panic{pool=\"gpu\"} 0\n",
            "weir_pool_failed_over{pool=\"gpu\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
