//! Who may see and touch more than probes and metrics: whoever is on this machine, or knows the token.
//!
//! A page in a browser on this machine is not whoever is on this machine: a loopback peer is only trusted where the request
//! names this host and, if a page sent it, the page came from here (DNS rebinding, cross-site requests).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::Next,
    response::Response,
};
use subtle::ConstantTimeEq;

use super::{Sources, refuse};

/// Refuses everybody else with 403.
pub(super) async fn operators_only(State(sources): State<Arc<Sources>>, request: Request, next: Next) -> Response {
    let config = (sources.config)();
    let token = config.listen.admin_token.as_ref().map(|token| token.0.as_str());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    if bears(request.headers(), token) || peer.is_some_and(|peer| is_local(peer, request.headers())) {
        return next.run(request).await;
    }
    refuse(
        StatusCode::FORBIDDEN,
        "not allowed from here; allowed: requests from this machine to a loopback address, or with `authorization: Bearer <listen.admin_token>`",
    )
}

/// Whether the request carries the token. Takes as long for a nearly right one as for a wrong one.
fn bears(headers: &HeaderMap, token: Option<&str>) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
    match (given, token) {
        (Some((scheme, given)), Some(token)) => {
            scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes()))
        }
        _ => false,
    }
}

fn is_local(peer: IpAddr, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let origin = headers.get(header::ORIGIN).map(|origin| origin.as_bytes());
    let from_here = origin.is_none_or(|origin| origin.strip_prefix(b"http://") == host);
    peer.to_canonical().is_loopback() && from_here && host.is_none_or(names_loopback)
}

fn names_loopback(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_exact_token_opens() {
        for (given, open) in [
            ("Bearer secret", true),
            ("bearer secret", true),
            ("Bearer secre", false),
            ("Bearer secrets", false),
            ("Bearer ", false),
            ("Basic secret", false),
            ("", false),
            ("é", false),
        ] {
            assert_eq!(bears(&headers(&[(header::AUTHORIZATION, given)]), Some("secret")), open, "{given:?}");
            assert!(!bears(&headers(&[(header::AUTHORIZATION, given)]), None), "no token configured: {given:?}");
        }
        assert!(!bears(&HeaderMap::new(), Some("secret")));
    }

    #[test]
    fn local_is_a_loopback_peer_that_asks_for_this_host() {
        for (peer, host, origin, local) in [
            ("127.0.0.1", "127.0.0.1:9090", None, true),
            ("127.0.0.1", "localhost:9090", None, true),
            ("::1", "[::1]:9090", None, true),
            ("::ffff:127.0.0.1", "localhost", None, true),
            ("10.0.0.7", "localhost", None, false),
            ("127.0.0.1", "evil.example:9090", None, false),
            ("127.0.0.1", "localhost.evil.example", None, false),
            ("127.0.0.1", "localhost:9090", Some("http://localhost:9090"), true),
            ("127.0.0.1", "localhost:9090", Some("http://localhost:3000"), false),
            ("127.0.0.1", "localhost:9090", Some("https://evil.example"), false),
            ("127.0.0.1", "localhost:9090", Some("null"), false),
        ] {
            let mut sent = headers(&[(header::HOST, host)]);
            if let Some(origin) = origin {
                sent.insert(header::ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(is_local(peer.parse().unwrap(), &sent), local, "{peer} {host} {origin:?}");
        }
    }
}
