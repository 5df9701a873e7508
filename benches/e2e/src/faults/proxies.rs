//! How Weir and Envoy are told to stand up to faults: the same numbers for both, and what else each one's documentation advises.
//!
//! Times are short because a run is: what is taken out comes back after seconds, not after half a minute. What is not set is
//! each program's own default.

use std::{path::Path, time::Duration};

use anyhow::Result;

use super::fleet::Endpoint;
use crate::{
    peers::{self, Place, Server, Weir},
    process::free_address,
};

/// By when a caller wants its answer, and both proxies' limit for a request.
pub(super) const DEADLINE: Duration = Duration::from_millis(30);

/// Longest time of one attempt.
pub(super) const ATTEMPT_MS: u32 = 12;
/// Attempts after the first.
const RETRIES: u32 = 2;
/// First and longest wait before one.
const WAITS_MS: (u32, u32) = (1, 4);
/// Extra load that retries may cause, in percent.
const BUDGET: u32 = 20;
/// Failures in a row that take an endpoint out.
const FAILURES: u32 = 5;
/// How long it stays out, and how often it is looked at.
const OUT_FOR_S: u32 = 2;
const CHECK_EVERY_S: u32 = 1;

/// What Weir's pool is told beyond the keys that both proxies share: the place for hedges and for the ejection of outliers. A key
/// a line, four spaces before it.
const WEIR_ALONE: &str = "";

/// Weir in front of `fleet`.
pub(super) fn weir(place: Place<'_>, program: &Path, fleet: &[Endpoint<'_>]) -> Result<Weir> {
    let endpoints: Vec<String> = fleet.iter().map(|endpoint| format!("\"http://{}\"", endpoint.address)).collect();
    let config = format!(
        "pools:
  backend:
    endpoints: [{endpoints}]
    attempt_timeout: {ATTEMPT_MS}ms
    retry: {{max_retries: {RETRIES}, initial_delay: {first}ms, max_delay: {longest}ms, budget: {budget}}}
    breaker: {{failure_threshold: {FAILURES}, open_for: {OUT_FOR_S}s}}
    health: {{interval: {CHECK_EVERY_S}s}}
{WEIR_ALONE}models:
  m: {{timeout: {deadline}ms}}
",
        endpoints = endpoints.join(", "),
        first = WAITS_MS.0,
        longest = WAITS_MS.1,
        budget = f64::from(BUDGET) / 100.0,
        deadline = DEADLINE.as_millis(),
    );
    peers::weir_with(place, ("weir", program), &config)
}

/// The same numbers for a store that reads through feature servers: keys of `features`.
pub(super) fn feature_policy() -> String {
    let (first, longest) = WAITS_MS;
    format!(
        "  retry: {{max_retries: {RETRIES}, initial_delay: {first}ms, max_delay: {longest}ms}}
  breaker: {{failure_threshold: {FAILURES}, open_for: {OUT_FOR_S}s}}
"
    )
}

/// Envoy in front of `fleet`.
///
/// - A retry goes to another endpoint (`previous_hosts`).
/// - An attempt that times out is asked elsewhere while the first one may still answer (`hedge_on_per_try_timeout`).
/// - Success rates are compared among three endpoints; Envoy's default asks for five.
/// - A health check that passes does not bring back what was ejected: the slow endpoint passes all of them.
/// - More than a tenth of the endpoints may be ejected: Envoy's default would be none of three.
pub(super) fn envoy(place: Place<'_>, program: &Path, fleet: &[Endpoint<'_>]) -> Result<Server> {
    let address = free_address()?;
    let endpoints: Vec<String> =
        fleet.iter().map(|it| format!("{{endpoint: {{address: {}}}}}", peers::envoy_socket(it.address))).collect();
    let config = format!(
        "static_resources:
  listeners:
  - name: http
    address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{prefix: /}}
                route:
                  cluster: backend
                  timeout: 0.{deadline:03}s
                  {retries}
                  hedge_policy: {{hedge_on_per_try_timeout: true}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: backend
    type: STATIC
    connect_timeout: 1s
    lb_policy: LEAST_REQUEST
    {outliers}
    circuit_breakers:
      thresholds: [{{retry_budget: {{budget_percent: {{value: {BUDGET}}}, min_retry_concurrency: 3}}}}]
    health_checks:
    - {{timeout: 1s, interval: {CHECK_EVERY_S}s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{path: /v2/health/ready}}}}
    load_assignment:
      cluster_name: backend
      endpoints: [{{lb_endpoints: [{endpoints}]}}]
",
        listen = peers::envoy_socket(address),
        deadline = DEADLINE.as_millis(),
        retries = envoy_retries(),
        outliers = envoy_outliers(),
        endpoints = endpoints.join(", "),
    );
    let path = place.write("envoy.yaml", &config)?;
    let arguments = ["-c", &path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
    place.start("envoy", program, &arguments.map(String::from), address)
}

fn envoy_retries() -> String {
    let (first, longest) = WAITS_MS;
    format!(
        "retry_policy:
                    retry_on: gateway-error,reset,connect-failure,refused-stream
                    num_retries: {RETRIES}
                    per_try_timeout: 0.{ATTEMPT_MS:03}s
                    retry_back_off: {{base_interval: 0.{first:03}s, max_interval: 0.{longest:03}s}}
                    retry_host_predicate:
                    - name: envoy.retry_host_predicates.previous_hosts
                      typed_config: {{'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}
                    host_selection_retry_max_attempts: 5"
    )
}

fn envoy_outliers() -> String {
    format!(
        "outlier_detection:
      consecutive_5xx: {FAILURES}
      consecutive_gateway_failure: {FAILURES}
      enforcing_consecutive_gateway_failure: 100
      interval: {CHECK_EVERY_S}s
      base_ejection_time: {OUT_FOR_S}s
      max_ejection_time: {OUT_FOR_S}s
      max_ejection_time_jitter: 0s
      max_ejection_percent: 67
      success_rate_minimum_hosts: 3
      success_rate_request_volume: 100
      successful_active_health_check_uneject_host: false"
    )
}
