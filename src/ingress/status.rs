//! The one table from an error's kind to what the caller is told: HTTP status, gRPC code and level, side by side.

use http::StatusCode;

use crate::infer::{
    Kind,
    Level::{self, Full, Reject},
};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    /// The HTTP status.
    pub(crate) http: StatusCode,
    /// The gRPC code. **Source:** <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
    pub(crate) grpc: u8,
    /// [`Reject`] where the request could have been answered and nothing could be given; [`Full`] where it asked for what nobody
    /// could have answered, so that nothing was degraded.
    pub(crate) level: Level,
}

/// The row of `kind`.
pub(crate) const fn of(kind: Kind) -> Status {
    let (http, grpc, level) = match kind {
        Kind::InvalidRequest => (StatusCode::BAD_REQUEST, 3, Full),
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 8, Full),
        Kind::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, 4, Full),
        Kind::NotFound => (StatusCode::NOT_FOUND, 5, Full),
        Kind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, 12, Full),
        Kind::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, 3, Full),
        Kind::Unauthenticated => (StatusCode::UNAUTHORIZED, 16, Full),
        Kind::NotAllowed => (StatusCode::FORBIDDEN, 7, Full),
        Kind::Shed => (StatusCode::TOO_MANY_REQUESTS, 8, Reject),
        Kind::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, 4, Reject),
        Kind::BackendFailed => (StatusCode::BAD_GATEWAY, 14, Reject),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, 14, Reject),
        Kind::Unimplemented => (StatusCode::NOT_IMPLEMENTED, 12, Full),
        // Nobody reads it; logs and metrics say 499.
        Kind::Cancelled => (CLIENT_CLOSED_REQUEST, 1, Full),
        // **Source:** draft-ietf-httpapi-idempotency-key-header, "Error Handling".
        Kind::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, 3, Full),
        Kind::SpoolFull => (StatusCode::INSUFFICIENT_STORAGE, 8, Reject),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, 13, Reject),
    };
    Status { http, grpc, level }
}

/// The gRPC code of an HTTP answer that carries none.
///
/// **Source:** <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
pub(crate) const fn grpc_of_http(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The HTTP status that a gRPC code corresponds to.
///
/// **Source:** <https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>.
pub(crate) const fn http_of_grpc(code: u8) -> StatusCode {
    match code {
        0 => StatusCode::OK,
        1 => CLIENT_CLOSED_REQUEST,
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// nginx's 499: the caller went away.
pub(crate) const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};
