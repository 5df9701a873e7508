//! Headers that end here: those that speak of one connection, and those that are told anew on the next.

use http::{HeaderMap, HeaderName, header};
use smallvec::SmallVec;

/// Which way headers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Toward a model.
    Request,
    /// Toward a caller.
    Answer,
}

/// Takes them out, those that `connection` names included. `content-length` stays: whether it is still right is known where
/// the body is.
///
/// One pass over the names there are: looking up each that there could be costs more than the few that there are.
///
/// **Source:** RFC 9110 §7.6.1.
pub(crate) fn strip(headers: &mut HeaderMap, hop: Hop) {
    // Most answers have none, and a list is longer than what they have.
    if !headers.keys().any(|name| ends_here(name, hop)) {
        return;
    }
    let mut gone: SmallVec<[HeaderName; 8]> = headers.keys().filter(|name| ends_here(name, hop)).cloned().collect();
    if gone.contains(&header::CONNECTION) {
        let named = headers.get_all(header::CONNECTION).iter();
        let named = named.flat_map(|value| value.to_str().unwrap_or_default().split(','));
        let named = named.filter_map(|name| name.trim().parse().ok());
        gone.extend(named.filter(|name| !matches!(*name, header::HOST | header::CONTENT_TYPE)));
    }
    for name in gone {
        headers.remove(name);
    }
}

fn ends_here(name: &HeaderName, hop: Hop) -> bool {
    match name.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authentication-info"
        | "te"
        | "transfer-encoding"
        | "upgrade" => true,
        // Meant for the hop that is weir.
        "expect" | "prefer" | "proxy-authorization" | "weir-tier" => hop == Hop::Request,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_connection_names_is_not_forwarded() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("close, x-mine"));
        headers.append(header::CONNECTION, HeaderValue::from_static("x-second"));
        headers.insert("x-mine", HeaderValue::from_static("1"));
        headers.insert("x-second", HeaderValue::from_static("1"));
        headers.insert("x-other", HeaderValue::from_static("1"));
        strip(&mut headers, Hop::Answer);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn what_is_for_weir_goes_no_further() {
        let names = ["expect", "weir-tier", "proxy-authorization", "content-length", "te", "content-type", "accept"];
        for (hop, left) in [(Hop::Request, 3), (Hop::Answer, 6)] {
            let mut headers: HeaderMap =
                names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect();
            strip(&mut headers, hop);
            assert_eq!(headers.len(), left, "{hop:?}");
        }
    }
}
