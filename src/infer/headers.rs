//! Names of headers that more than one stage reads or writes. One that a single module knows stays there.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The time until the caller's deadline, in milliseconds.
pub(crate) const WEIR_TIMEOUT: HeaderName = HeaderName::from_static("weir-timeout-ms");
/// The same, as Envoy tells it.
pub(crate) const ENVOY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// The same, in gRPC's form.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The level that answered.
pub(crate) const LEVEL: HeaderName = HeaderName::from_static("weir-level");
/// What each cache did.
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// What that says of a prediction that was kept.
pub(crate) const PREDICTION_HIT: &str = "weir-prediction; hit";
/// In the binary tensor extension: how long the JSON at the front of the body is.
pub(crate) const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// With more headers than this, hashing a name costs less than comparing it with each.
const FEW: usize = 12;

/// The first value of that name. For headers that most requests do not have: to see that none of a handful of names is it
/// takes a third of what it takes to hash one.
pub(crate) fn find<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    headers.iter().find_map(|(other, value)| (other == name).then_some(value))
}

/// What `retry-after` says, in seconds or as a date. A date is one of the endpoint's clock, which `date` tells: whose clock is wrong
/// means the same. `wall`: the time of day, where it does not.
///
/// **Source:** RFC 9110 §10.2.3.
pub(crate) fn retry_after(headers: &HeaderMap, wall: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let date = |text| httpdate::parse_http_date(text).ok();
    let asked = text(header::RETRY_AFTER)?;
    if !asked.is_empty() && asked.bytes().all(|digit| digit.is_ascii_digit()) {
        // A number that is too great for this is no less of a number.
        return Some(Duration::from_secs(asked.parse().unwrap_or(u64::MAX)));
    }
    let now = text(header::DATE).and_then(date).unwrap_or_else(wall);
    // What is over asks for nothing.
    Some(date(asked)?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_headers_are_searched_too() {
        let name = |index: usize| HeaderName::try_from(format!("x-{index}")).unwrap();
        for count in [0, 1, FEW, FEW + 1, 3 * FEW] {
            let headers: HeaderMap = (0..count).map(|index| (name(index), HeaderValue::from(index))).collect();
            for index in 0..=count {
                assert_eq!(find(&headers, &name(index)), headers.get(name(index)), "{index} of {count}");
            }
        }
    }
}
