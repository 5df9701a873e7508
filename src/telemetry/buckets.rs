//! The bucket bounds of every histogram: one place to see what a quantile can tell.
//!
//! Every histogram in `names` has an entry here, which a test keeps true. Bounds never depend on the config, so that
//! series of two gateways add up.

use super::names;

/// No histogram has more bounds than this: a shard's counters are one fixed array (`+Inf` takes the last place).
pub(super) const MOST: usize = 31;

/// Whole requests and waits: from 50 µs, where a cached answer ends, to 10 s, twice the default deadline.
const LATENCY: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.015,
    0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0,
];

/// What Weir adds and its stages: the same, with a finer foot, where most of them end.
const STAGE: &[f64] = &[
    0.000_005, 0.000_01, 0.000_015, 0.000_02, 0.000_03, 0.000_05, 0.000_075, 0.000_1, 0.000_15, 0.000_2, 0.000_3,
    0.000_5, 0.000_75, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// From a write to what it makes of caches: from a message's way within a cluster to a topic that is minutes behind.
const DELAY: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 900.0, 3_600.0,
];

/// Ages of events: seconds to a month.
pub(super) const AGE: &[f64] = &[
    1.0,
    5.0,
    15.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1_800.0,
    3_600.0,
    7_200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    604_800.0,
    2_592_000.0,
];

/// The bounds of the histogram called `name`, rising; `None` where the list does not have it.
pub(super) fn bounds(name: &str) -> Option<&'static [f64]> {
    match name {
        names::REQUEST_DURATION
        | names::FEATURE_REQUEST_DURATION
        | names::FEATURE_LOOKUP_DURATION
        | names::PUSH_ACKNOWLEDGEMENT => Some(LATENCY),
        names::STAGE_DURATION | names::ADDED_LATENCY => Some(STAGE),
        names::FEATURE_AGE => Some(AGE),
        names::INVALIDATION_DELAY => Some(DELAY),
        _ => None,
    }
}

/// The bounds of a histogram that the list does not have.
pub(super) const fn fallback() -> &'static [f64] {
    LATENCY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::names::{ALL, Kind};

    #[test]
    fn every_histogram_has_bounds_and_nothing_else_has() {
        for metric in ALL {
            assert_eq!(bounds(metric.name).is_some(), metric.kind == Kind::Histogram, "{}", metric.name);
        }
    }

    #[test]
    fn bounds_rise_and_fit() {
        for bounds in [LATENCY, STAGE, DELAY, AGE] {
            assert!(bounds.len() <= MOST);
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
