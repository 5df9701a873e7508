//! Names of headers that more than one stage reads or writes. One that a single module knows stays there.

use http::HeaderName;

/// The time until the caller's deadline, in milliseconds.
pub(crate) const WEIR_TIMEOUT: HeaderName = HeaderName::from_static("weir-timeout-ms");
/// The same, as Envoy tells it.
pub(crate) const ENVOY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// The same, in gRPC's form.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// In the binary tensor extension: how long the JSON at the front of the body is.
pub(crate) const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
