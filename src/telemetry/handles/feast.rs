//! What the feature server's API counts.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::admission::Aliases;
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
pub struct FeastHandles {
    endpoints: [EndpointHandles; Endpoint::ALL.len()],
    rate: Option<Rate>,
}

/// How many requests a second there are, followed over [`WINDOW`].
#[derive(Debug)]
struct Rate {
    gauge: Gauge,
    /// Since the last look.
    requests: AtomicU64,
    /// As of the last look.
    a_second: Mutex<f64>,
}

/// What happened this long ago counts a third of what happens now.
const WINDOW: Duration = Duration::from_secs(10);

impl Rate {
    fn new() -> Self {
        Self { gauge: gauge!(names::FEATURE_RATE_ALIAS), requests: AtomicU64::new(0), a_second: Mutex::default() }
    }

    /// Takes up what came within the last `span`.
    fn follow(&self, span: Duration) {
        if span.is_zero() {
            return;
        }
        let now = self.requests.swap(0, Relaxed) as f64 / span.as_secs_f64();
        let kept = (-span.as_secs_f64() / WINDOW.as_secs_f64()).exp();
        let mut a_second = self.a_second.lock().unwrap_or_else(PoisonError::into_inner);
        *a_second = kept * *a_second + (1.0 - kept) * now;
        self.gauge.set(*a_second);
    }
}

#[derive(Debug)]
struct EndpointHandles {
    path: &'static str,
    requests: [OnceLock<Counter>; COMMON.len()],
    duration: Histogram,
}

impl FeastHandles {
    /// The handles; with aliases also the name that others have for the rate of requests.
    #[must_use]
    pub fn new(aliases: Aliases) -> Self {
        let endpoints = Endpoint::ALL.map(|endpoint| EndpointHandles {
            path: endpoint.path(),
            requests: Default::default(),
            duration: histogram!(names::FEATURE_REQUEST_DURATION, "endpoint" => endpoint.path()),
        });
        Self { endpoints, rate: (aliases == Aliases::On).then(Rate::new) }
    }

    /// Keeps the rate current; to be called every now and then, `span` after the last time.
    pub fn follow(&self, span: Duration) {
        if let Some(rate) = &self.rate {
            rate.follow(span);
        }
    }

    /// Counts a request that ended with `status` after `took`.
    pub fn request(&self, endpoint: Endpoint, status: StatusCode, took: Duration) {
        if let Some(rate) = self.rate.as_ref().filter(|_| endpoint != Endpoint::Health) {
            rate.requests.fetch_add(1, Relaxed);
        }
        let handles = &self.endpoints[endpoint as usize];
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
            let handles = FeastHandles::new(Aliases::Off);
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
        assert!(!text.contains("feast_requests_per_second"), "{text}");
        for (position, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, position);
        }
    }

    #[test]
    fn the_rate_follows_the_requests() {
        let (handles, scrape) = scratch(|| FeastHandles::new(Aliases::On));
        let rate = || -> f64 {
            let text = scrape.render();
            let line = text.lines().find_map(|line| line.strip_prefix("feast_requests_per_second "));
            line.expect("it is exported").parse().expect("a number")
        };
        let seconds = |seconds: u64, requests: u64| {
            for _ in 0..seconds {
                (0..requests).for_each(|_| handles.request(Endpoint::Push, StatusCode::OK, Duration::ZERO));
                handles.request(Endpoint::Health, StatusCode::OK, Duration::ZERO);
                handles.follow(Duration::from_secs(1));
            }
        };
        seconds(10, 100);
        assert!((63.0..64.0).contains(&rate()), "{}", rate());
        seconds(90, 100);
        assert!((rate() - 100.0).abs() < 0.1, "{}", rate());
        // A look that came late divides by the time there was.
        (0..300).for_each(|_| handles.request(Endpoint::Push, StatusCode::OK, Duration::ZERO));
        handles.follow(Duration::from_secs(3));
        assert!((rate() - 100.0).abs() < 0.1, "{}", rate());
        seconds(100, 0);
        assert!(rate() < 0.1, "{}", rate());
    }
}
