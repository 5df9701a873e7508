//! What an answer says by its status, HTTP's or gRPC's: the one table of it. What an attempt is counted as (`predict/classify`), what a
//! member is to its ensemble and whether a kept request is asked again all read this, so that none of them takes an answer for
//! something else than the others do.

use http::{HeaderMap, StatusCode};

use super::{Answer, Protocol};

const GRPC_STATUS: &str = "grpc-status";

/// gRPC's UNKNOWN, which stands for every code that is none.
const UNKNOWN: u8 = 2;

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A prediction: 2xx; gRPC 0.
    Outputs,
    /// Something else than an answer, such as a redirect.
    Elsewhere,
    /// Nothing yet: a gRPC stream says it at its end. One that has ended broke off.
    Unsaid,
    /// What is wrong with the request itself, as any server would: 400, 413, 415, 422; gRPC 3, 11.
    Malformed,
    /// Any other 4xx, or 501: the endpoint works, and the blame is the caller's, or that of whoever deployed it.
    Refused,
    /// 408, 425; gRPC 1, 10: no failure, but nothing is said of the request; another may answer it.
    Unjudged,
    /// 429; gRPC 8: busy, not broken.
    Busy,
    /// 503; gRPC 14.
    Unavailable,
    /// 504; gRPC 4: the endpoint's own time ran out, or its server's.
    Late,
    /// 502, 505 and above: asking elsewhere may help.
    ServerError,
    /// 500; gRPC 2, 13, 15, and codes that are none: the endpoint ran and failed.
    ModelError,
}

impl Said {
    /// Reads it off an answer's head and, for gRPC, its trailers.
    pub(crate) fn of(protocol: Protocol, status: StatusCode, head: &HeaderMap, trailers: Option<&HeaderMap>) -> Self {
        if protocol != Protocol::Grpc {
            return Self::over_http(status);
        }
        if status == StatusCode::OK {
            let told = head.get(GRPC_STATUS).or_else(|| trailers?.get(GRPC_STATUS));
            return told.map_or(Self::Unsaid, |code| {
                Self::over_grpc(code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN))
            });
        }
        // What stands between here and the server speaks, and has read no message.
        match Self::over_http(status) {
            Self::Outputs => Self::Elsewhere,
            Self::Malformed => Self::Refused,
            said => said,
        }
    }

    /// **Source:** RFC 9110 §15. Not every 4xx is about the request: a server that has not loaded the model, or wants other
    /// credentials, is the only one to say so.
    const fn over_http(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Outputs,
            400 | 413 | 415 | 422 => Self::Malformed,
            408 | 425 => Self::Unjudged,
            429 => Self::Busy,
            400..=499 | 501 => Self::Refused,
            500 => Self::ModelError,
            503 => Self::Unavailable,
            504 => Self::Late,
            502.. => Self::ServerError,
            _ => Self::Elsewhere,
        }
    }

    /// **Source:** gRPC status codes, <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
    const fn over_grpc(code: u8) -> Self {
        match code {
            0 => Self::Outputs,
            3 | 11 => Self::Malformed,
            1 | 10 => Self::Unjudged,
            4 => Self::Late,
            8 => Self::Busy,
            14 => Self::Unavailable,
            5..=7 | 9 | 12 | 16 => Self::Refused,
            _ => Self::ModelError,
        }
    }

    /// Whether the same request may fare better another time, of an answer that has ended.
    pub(crate) const fn is_passing(self) -> bool {
        match self {
            Self::Outputs | Self::Elsewhere | Self::Malformed | Self::Refused => false,
            Self::Unsaid
            | Self::Unjudged
            | Self::Busy
            | Self::Unavailable
            | Self::Late
            | Self::ServerError
            | Self::ModelError => true,
        }
    }
}

impl Answer {
    /// What it says by its status.
    pub(crate) fn said(&self, protocol: Protocol) -> Said {
        Said::of(protocol, self.status, &self.headers, self.trailers.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn over(protocol: Protocol, status: u16, code: Option<&'static str>) -> Said {
        let headers: HeaderMap =
            code.into_iter().map(|code| (GRPC_STATUS.parse().unwrap(), HeaderValue::from_static(code))).collect();
        let status = StatusCode::from_u16(status).unwrap();
        let said = Said::of(protocol, status, &HeaderMap::new(), Some(&headers));
        assert_eq!(said, Said::of(protocol, status, &headers, None), "in trailers or in the head");
        said
    }

    #[test]
    fn both_protocols_say_the_same_things() {
        for (said, statuses, codes) in [
            (Said::Outputs, &[200, 204][..], &["0"][..]),
            (Said::Malformed, &[400, 413, 415, 422], &["3", "11"]),
            (Said::Unjudged, &[408, 425], &["1", "10"]),
            (Said::Refused, &[401, 403, 404, 409, 499, 501], &["5", "6", "7", "9", "12", "16"]),
            (Said::Busy, &[429], &["8"]),
            (Said::Unavailable, &[503], &["14"]),
            (Said::Late, &[504], &["4"]),
            (Said::ModelError, &[500], &["2", "13", "15", "17", "999", "none", ""]),
            (Said::ServerError, &[502, 505, 599], &[]),
            (Said::Elsewhere, &[301, 304], &[]),
        ] {
            statuses.iter().for_each(|status| assert_eq!(over(Protocol::V1, *status, None), said, "{status}"));
            codes.iter().for_each(|code| assert_eq!(over(Protocol::Grpc, 200, Some(code)), said, "gRPC {code:?}"));
        }
        assert_eq!(over(Protocol::Grpc, 200, None), Said::Unsaid);
        assert_eq!(over(Protocol::V2Json, 200, Some("13")), Said::Outputs, "only gRPC has such a header");
    }

    #[test]
    fn what_is_no_grpc_answer_is_no_word_about_the_message() {
        for (status, said) in [
            (204, Said::Elsewhere),
            (400, Said::Refused),
            (404, Said::Refused),
            (408, Said::Unjudged),
            (429, Said::Busy),
            (500, Said::ModelError),
            (502, Said::ServerError),
            (503, Said::Unavailable),
        ] {
            assert_eq!(over(Protocol::Grpc, status, Some("0")), said, "{status}");
        }
    }
}
