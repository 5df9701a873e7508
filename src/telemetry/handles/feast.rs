//! What the feature server's API counts.

use std::{sync::OnceLock, time::Duration};

use http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};

use crate::telemetry::names;

/// A path of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/get-online-features`
    GetOnlineFeatures,
    /// `/push`
    Push,
    /// `/write-to-online-store`
    WriteToOnlineStore,
    /// `/health`
    Health,
    /// `/materialize`
    Materialize,
    /// `/materialize-incremental`
    MaterializeIncremental,
}

impl Endpoint {
    const ALL: [Self; 6] = [
        Self::GetOnlineFeatures,
        Self::Push,
        Self::WriteToOnlineStore,
        Self::Health,
        Self::Materialize,
        Self::MaterializeIncremental,
    ];

    /// The path, which is also the label's value.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::GetOnlineFeatures => "/get-online-features",
            Self::Push => "/push",
            Self::WriteToOnlineStore => "/write-to-online-store",
            Self::Health => "/health",
            Self::Materialize => "/materialize",
            Self::MaterializeIncremental => "/materialize-incremental",
        }
    }
}

/// Statuses whose counters are kept once they were used; another one costs a lookup.
const COMMON: [u16; 11] = [200, 400, 404, 405, 413, 422, 499, 500, 501, 503, 504];

/// The handles of every endpoint.
#[derive(Debug)]
pub struct FeastHandles([EndpointHandles; Endpoint::ALL.len()]);

#[derive(Debug)]
struct EndpointHandles {
    path: &'static str,
    requests: [OnceLock<Counter>; COMMON.len()],
    duration: Histogram,
}

impl Default for FeastHandles {
    fn default() -> Self {
        Self(Endpoint::ALL.map(|endpoint| EndpointHandles {
            path: endpoint.path(),
            requests: Default::default(),
            duration: histogram!(names::FEATURE_REQUEST_DURATION, "endpoint" => endpoint.path()),
        }))
    }
}

impl FeastHandles {
    /// Counts a request that ended with `status` after `took`.
    pub fn request(&self, endpoint: Endpoint, status: StatusCode, took: Duration) {
        let handles = &self.0[endpoint as usize];
        match COMMON.iter().position(|common| *common == status.as_u16()) {
            Some(common) => handles.requests[common].get_or_init(|| handles.counter(status)).increment(1),
            None => handles.counter(status).increment(1),
        }
        handles.duration.record(took);
    }
}

impl EndpointHandles {
    fn counter(&self, status: StatusCode) -> Counter {
        counter!(names::FEATURE_REQUESTS, "endpoint" => self.path, "status" => status.as_u16().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn requests_are_counted_by_endpoint_and_status() {
        let ((), scrape) = scratch(|| {
            let handles = FeastHandles::default();
            handles.request(Endpoint::GetOnlineFeatures, StatusCode::OK, Duration::from_millis(3));
            handles.request(Endpoint::Push, StatusCode::IM_A_TEAPOT, Duration::ZERO);
        });
        let text = scrape.render();
        for expected in [
            r#"weir_feature_requests_total{endpoint="/get-online-features",status="200"} 1"#,
            r#"weir_feature_requests_total{endpoint="/push",status="418"} 1"#,
            r#"weir_feature_request_duration_seconds_sum{endpoint="/get-online-features"} 0.003"#,
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\nin\n{text}");
        }
        for (position, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, position);
        }
    }
}
