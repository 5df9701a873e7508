//! What a request's headers say about how it is to be handled: id, deadline, tier, caching.
//!
//! They are read once, in one pass: a request has a handful of headers, few of them for Weir, and hashing the name of each that
//! there could be costs several times as much.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::{
    config::{Config, Model},
    infer::{
        Caching, Deadline, Error, RequestId, TierId,
        headers::{ENVOY_TIMEOUT, WEIR_TIMEOUT},
    },
};

/// Longest id that is taken from a caller; a longer one is replaced.
const LONGEST_ID: usize = 128;

/// What a request's headers tell Weir; of one told twice, the first, but of `cache-control` and `prefer` all.
#[derive(Default)]
pub(super) struct CallerHeaders {
    /// The `x-request-id`, whatever it is.
    pub(super) id: Option<HeaderValue>,
    /// What few requests tell, aside: the rest is moved with the request several times.
    rare: Option<Box<Rare>>,
    /// Whether the body is gRPC's.
    pub(super) grpc: bool,
    /// Whether caches may answer, and have the answer: the least of what all `cache-control` headers allow.
    pub(super) caching: Caching,
}

#[derive(Default)]
struct Rare {
    timeout: Option<HeaderValue>,
    envoy_timeout: Option<HeaderValue>,
    grpc_timeout: Option<HeaderValue>,
    tier: Option<HeaderValue>,
    json_length: Option<HeaderValue>,
    idempotency_key: Option<HeaderValue>,
    /// Whether the caller would come back for its answer.
    respond_async: bool,
}

impl CallerHeaders {
    /// Reads the headers.
    pub(super) fn by(headers: &HeaderMap) -> Self {
        let mut told = Self::default();
        let mut content_type = None;
        for (name, value) in headers {
            let place = match name.as_str() {
                "content-type" => {
                    content_type.get_or_insert(value);
                    continue;
                }
                "cache-control" => {
                    told.caching = told.caching.max(caching(value));
                    continue;
                }
                "x-request-id" => &mut told.id,
                "weir-timeout-ms" => &mut told.rare().timeout,
                "x-envoy-expected-rq-timeout-ms" => &mut told.rare().envoy_timeout,
                "grpc-timeout" => &mut told.rare().grpc_timeout,
                "weir-tier" => &mut told.rare().tier,
                "inference-header-content-length" => &mut told.rare().json_length,
                "idempotency-key" => &mut told.rare().idempotency_key,
                "prefer" => {
                    told.rare().respond_async |= respond_async(value);
                    continue;
                }
                _ => continue,
            };
            place.get_or_insert_with(|| value.clone());
        }
        told.grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        told
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// How long the JSON at the front of a body with binary tensors is said to be.
    pub(super) fn json_length(&self) -> Option<&HeaderValue> {
        self.rare.as_ref()?.json_length.as_ref()
    }

    /// Whether the caller would come back for its answer, where there is none now.
    pub(super) fn prefers_async(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.respond_async)
    }

    /// What the caller calls its request, however often it sends it.
    pub(super) fn idempotency_key(&self) -> Option<&HeaderValue> {
        self.rare.as_ref()?.idempotency_key.as_ref()
    }

    /// The caller's `x-request-id`, or a new one.
    pub(super) fn request_id(&self) -> RequestId {
        id_or_new(self.id.as_ref())
    }

    /// The earliest of the model's timeout and those the caller sent.
    ///
    /// # Errors
    ///
    /// A timeout that is no positive whole number (or, for gRPC, not digits and a unit).
    pub(super) fn deadline(&self, longest: Duration, now: Instant) -> Result<Deadline, Error> {
        let mut timeout = longest;
        let Some(rare) = &self.rare else { return Ok(Deadline::after(now, timeout)) };
        for (name, value) in [(WEIR_TIMEOUT, &rare.timeout), (ENVOY_TIMEOUT, &rare.envoy_timeout)] {
            if let Some(value) = value {
                timeout = timeout.min(millis(&name, value)?);
            }
        }
        if let Some(value) = &rare.grpc_timeout {
            timeout = timeout.min(grpc_timeout(value)?);
        }
        Ok(if timeout < longest { Deadline::asked(now, timeout) } else { Deadline::after(now, timeout) })
    }

    /// The model's tier, or the lower one the caller asked for. A higher one is not granted, silently: callers share configs.
    ///
    /// # Errors
    ///
    /// A tier that does not exist.
    pub(super) fn tier(&self, config: &Config, model: &Model) -> Result<TierId, Error> {
        let Some(asked) = self.rare.as_ref().and_then(|rare| rare.tier.as_ref()) else {
            return Ok(model.tier);
        };
        let found = config.tiers.iter().position(|tier| tier.name.as_bytes() == asked.as_bytes());
        let Some(index) = found.and_then(|index| u32::try_from(index).ok()) else {
            let names: Vec<&str> = config.tiers.iter().map(|tier| &*tier.name).collect();
            return Err(Error::invalid(format!("header weir-tier: no tier {asked:?}; allowed: {}", names.join(", "))));
        };
        Ok(model.tier.max(TierId(index)))
    }
}

/// The caller's id where it is one, or a new one.
pub(super) fn id_or_new(told: Option<&HeaderValue>) -> RequestId {
    if let Some(id) = told
        && id.len() <= LONGEST_ID
        && !id.is_empty()
        && id.to_str().is_ok()
    {
        return RequestId(id.clone());
    }
    let mut text = [0; 32];
    for (index, byte) in rand::random::<u128>().to_be_bytes().into_iter().enumerate() {
        text[2 * index] = hex_digit(byte >> 4);
        text[2 * index + 1] = hex_digit(byte & 15);
    }
    let id = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text));
    RequestId(id.expect("hex digits are visible ASCII"))
}

/// Without a branch and without a table, so that all of an id's are made at once.
const fn hex_digit(nibble: u8) -> u8 {
    nibble + b'0' + (nibble > 9) as u8 * (b'a' - b'0' - 10)
}

fn millis(name: &HeaderName, value: &HeaderValue) -> Result<Duration, Error> {
    let millis: Option<u64> =
        value.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| {
        Error::invalid(format!("header {name}: {value:?} is no timeout; allowed: whole milliseconds, at least 1"))
    })
}

/// **Source:** gRPC over HTTP/2, "Timeout".
fn grpc_timeout(value: &HeaderValue) -> Result<Duration, Error> {
    let wrong = || {
        Error::invalid(format!(
            "header grpc-timeout: {value:?} is no timeout; allowed: up to 8 digits and one of H, M, S, m, u, n"
        ))
    };
    let text = value.to_str().map_err(|_| wrong())?;
    let digits = text.get(..text.len().saturating_sub(1)).ok_or_else(wrong)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match text.as_bytes().last() {
        Some(b'H') => Ok(Duration::from_secs(number * 3600)),
        Some(b'M') => Ok(Duration::from_secs(number * 60)),
        Some(b'S') => Ok(Duration::from_secs(number)),
        Some(b'm') => Ok(Duration::from_millis(number)),
        Some(b'u') => Ok(Duration::from_micros(number)),
        Some(b'n') => Ok(Duration::from_nanos(number)),
        _ => Err(wrong()),
    }
}

/// What one header allows.
///
/// **Source:** RFC 9111 §5.2, §5.2.1.1, §5.2.1.4, §5.2.1.5.
fn caching(cache_control: &HeaderValue) -> Caching {
    let directives = cache_control.as_bytes().split(|byte| *byte == b',');
    directives.map(allowed).max().unwrap_or_default()
}

/// What a directive allows. One that has an argument too many is taken at its name.
fn allowed(directive: &[u8]) -> Caching {
    let mut parts = directive.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
    let (name, argument) = (parts.next().unwrap_or_default(), parts.next());
    let is = |of: &str| name.eq_ignore_ascii_case(of.as_bytes());
    // A count of seconds, which some write as a string.
    let is_zero = |count: &[u8]| count.contains(&b'0') && count.iter().all(|byte| matches!(byte, b'0' | b'"'));
    match argument {
        _ if is("no-store") => Caching::Forbidden,
        _ if is("no-cache") => Caching::Bypassed,
        Some(argument) if is("max-age") && is_zero(argument) => Caching::Bypassed,
        _ => Caching::Allowed,
    }
}

/// **Source:** RFC 7240 §2 and §4.1.
fn respond_async(prefer: &HeaderValue) -> bool {
    let mut preferences = prefer.to_str().unwrap_or_default().split(',');
    preferences.any(|preference| {
        let token = preference.split(';').next().unwrap_or_default().trim();
        token.eq_ignore_ascii_case("respond-async")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_come_back_says_so() {
        for (prefer, expected) in [
            ("respond-async", true),
            ("wait=10, Respond-Async; x=1", true),
            ("respond-asynchronously", false),
            ("return=minimal", false),
        ] {
            assert_eq!(CallerHeaders::by(&headers(&[("prefer", prefer)])).prefers_async(), expected, "{prefer}");
        }
        assert!(!CallerHeaders::default().prefers_async());
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_least_that_a_caller_allows_caches_counts() {
        use Caching::{Allowed, Bypassed, Forbidden};
        for (values, expected) in [
            (&[][..], Allowed),
            (&["no-cache"], Bypassed),
            (&["No-Cache"], Bypassed),
            (&["NO-CACHE"], Bypassed),
            (&["no-cache=\"x\""], Bypassed),
            (&["max-age=0"], Bypassed),
            (&["Max-Age = \"00\""], Bypassed),
            (&["max-age=10", "max-stale"], Allowed),
            (&["max-age", "max-age=\"\"", ""], Allowed),
            (&["only-if-cached, no-cached"], Allowed),
            (&["max-stale=5", "no-transform, no-cache"], Bypassed),
            (&["no-store"], Forbidden),
            (&["No-Store", "no-cache"], Forbidden),
            (&["no-cache ,\tno-store"], Forbidden),
        ] {
            let all: Vec<_> = values.iter().map(|value| ("cache-control", *value)).collect();
            assert_eq!(CallerHeaders::by(&headers(&all)).caching, expected, "{values:?}");
        }
        let beside = HeaderValue::from_bytes(b"x=\xff, no-store").unwrap();
        assert_eq!(caching(&beside), Forbidden, "beside what is no text");
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_timeout_wins() {
        let now = Instant::now();
        for (pairs, expected) in [
            (&[][..], 200),
            (&[("weir-timeout-ms", "50")], 50),
            (&[("weir-timeout-ms", "500")], 200),
            (&[("weir-timeout-ms", "50"), ("grpc-timeout", "20m"), ("x-envoy-expected-rq-timeout-ms", "30")], 20),
            (&[("grpc-timeout", "1S")], 200),
        ] {
            let deadline = CallerHeaders::by(&headers(pairs)).deadline(Duration::from_millis(200), now).expect("valid");
            assert_eq!(deadline.remaining(now), Duration::from_millis(expected), "{pairs:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_that_is_none_is_refused() {
        for pair in [
            ("weir-timeout-ms", "0"),
            ("weir-timeout-ms", "-1"),
            ("weir-timeout-ms", "soon"),
            ("grpc-timeout", ""),
            ("grpc-timeout", "m"),
            ("grpc-timeout", "123456789m"),
            ("grpc-timeout", "5x"),
            ("grpc-timeout", "+5m"),
        ] {
            let error = CallerHeaders::by(&headers(&[pair]))
                .deadline(Duration::from_secs(1), Instant::now())
                .expect_err(pair.1);
            assert!(error.to_string().contains(pair.0), "{error}");
        }
    }

    #[test]
    fn a_tier_can_be_lowered_and_not_raised() {
        let config = crate::fixture::config();
        let (high, standard) = (&config.models[0], &config.models[1]);
        let tier =
            |asked: &'static str, model| CallerHeaders::by(&headers(&[("weir-tier", asked)])).tier(&config, model);
        for (asked, model, granted) in [("high", high, 0), ("standard", high, 1), ("high", standard, 1)] {
            assert_eq!(tier(asked, model).expect("it exists"), TierId(granted), "{asked}");
        }
        let error = tier("gold", high).expect_err("no such tier").to_string();
        assert_eq!(error, "header weir-tier: no tier \"gold\"; allowed: high, standard");
    }

    #[test]
    fn an_id_is_kept_or_made() {
        assert_eq!(CallerHeaders::by(&headers(&[("x-request-id", "abc")])).request_id().0, "abc");
        assert_eq!(CallerHeaders::default().request_id().0.len(), 32);
        assert_ne!(CallerHeaders::default().request_id().0, CallerHeaders::default().request_id().0);
    }
}
