//! The recorder behind every handle, and what a scrape reads.
//!
//! Counters and gauges are the Prometheus exporter's, histograms are `histogram`'s; one scrape shows both. Gauges that
//! mirror a state which something else keeps (slots in use, hit ratios) are not written on the path: whoever keeps the state
//! registers a hook that writes them just before a scrape. The exporter cannot take a series out of its registry but by an idle
//! timeout for all, which gauges that rightly stay as they are would fall to; so a gauge of something that is gone is set to NaN,
//! and a scrape leaves those out. Serving the text over HTTP is `admin`'s.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Key, KeyName, Metadata, SharedString, Unit, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::{
    histogram::Histograms,
    names::{ALL, BUILD_INFO, Kind},
};

/// Why the recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Handles made from now on count for the one that was there first.
    #[error("a metrics recorder is already installed in this process")]
    AlreadyInstalled,
}

/// Installs the process's recorder, describes every metric and sets `weir_build_info`. Call it before any handle is made.
///
/// # Errors
///
/// [`Error::AlreadyInstalled`] on a second call.
pub fn install() -> Result<Scrape, Error> {
    let (recorder, scrape) = build();
    metrics::set_global_recorder(recorder).map_err(|_| Error::AlreadyInstalled)?;
    describe();
    Ok(scrape)
}

/// A recorder of a test's own, seen by handles made inside `make`.
#[cfg(test)]
pub(crate) fn scratch<T>(make: impl FnOnce() -> T) -> (T, Scrape) {
    let (recorder, scrape) = build();
    let made = metrics::with_local_recorder(&recorder, || {
        describe();
        make()
    });
    (made, scrape)
}

fn build() -> (Recorder, Scrape) {
    let exporter = PrometheusBuilder::new().build_recorder();
    let histograms = Arc::new(Histograms::new());
    let scrape = Scrape(Arc::new(Shared {
        exporter: exporter.handle(),
        histograms: Arc::clone(&histograms),
        before: Mutex::default(),
    }));
    (Recorder { exporter, histograms }, scrape)
}

fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            // Their help is taken from the list when they are rendered.
            Kind::Histogram => {}
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Reads everything that was counted. Cheap to clone.
#[derive(Clone)]
pub struct Scrape(Arc<Shared>);

struct Shared {
    exporter: PrometheusHandle,
    histograms: Arc<Histograms>,
    before: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl Scrape {
    /// Has `hook` called before every scrape, to set gauges from a state kept elsewhere. A hook must not scrape itself.
    pub fn before(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.hooks().push(Box::new(hook));
    }

    /// All metrics in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.hooks().iter().for_each(|hook| hook());
        let mut text = without_hidden(&self.0.exporter.render());
        self.0.histograms.render(&mut text);
        text
    }

    fn hooks(&self) -> std::sync::MutexGuard<'_, Vec<Box<dyn Fn() + Send + Sync>>> {
        self.0.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the gauge out of scrapes until it is set again: what it was about is gone.
pub(super) fn hide(gauge: &Gauge) {
    gauge.set(f64::NAN);
}

fn without_hidden(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| line.starts_with('#') || !line.ends_with(" NaN\n")).collect()
}

/// The exporter with histograms of Weir's own.
struct Recorder {
    exporter: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.exporter.describe_counter(name, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.exporter.describe_gauge(name, unit, help);
    }

    fn describe_histogram(&self, _name: KeyName, _unit: Option<Unit>, _help: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.exporter.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.exporter.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::from_arc(self.histograms.series(key))
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, histogram};

    use super::*;
    use crate::telemetry::names;

    #[test]
    fn a_scrape_shows_counters_gauges_and_histograms_with_help() {
        let ((), scrape) = scratch(|| {
            counter!(names::RETRIES, "pool" => "p").increment(3);
            histogram!(names::ADDED_LATENCY, "model" => "m").record(0.000_02);
        });
        let text = scrape.render();
        for expected in [
            concat!("weir_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "weir_retries_total{pool=\"p\"} 3",
            "# HELP weir_retries_total Attempts after the first, by pool.",
            "weir_added_latency_seconds_bucket{model=\"m\",le=\"0.00002\"} 1",
            "# TYPE weir_added_latency_seconds histogram",
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\nin\n{text}");
        }
    }

    #[test]
    fn a_gauge_of_something_that_is_gone_is_not_shown_until_it_is_back() {
        let (gauges, scrape) = scratch(|| ["a", "b"].map(|pool| gauge!(names::ENDPOINTS, "pool" => pool)));
        gauges.iter().for_each(|gauge| gauge.set(2));
        hide(&gauges[0]);
        let text = scrape.render();
        assert!(!text.contains("pool=\"a\"") && text.contains("weir_endpoints{pool=\"b\"} 2\n"), "{text}");
        gauges[0].set(1);
        assert!(scrape.render().contains("weir_endpoints{pool=\"a\"} 1\n"));
    }

    #[test]
    fn hooks_run_before_each_scrape() {
        let (slots, scrape) = scratch(|| gauge!(names::TIER_SLOTS_IN_USE, "tier" => "high"));
        scrape.before(move || slots.increment(1.0));
        let _first = scrape.render();
        assert!(scrape.render().contains("weir_tier_slots_in_use{tier=\"high\"} 2"));
    }
}
